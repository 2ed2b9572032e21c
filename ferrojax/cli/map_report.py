"""What `ferrojax map` says of a map: its report and its summary."""

from dataclasses import asdict

import numpy as np

from ferrojax.cli.info import versions
from ferrojax.cli.mapped import Mapped, MapSettings
from ferrojax.columns.contrast import expected_contrast, measured_contrast
from ferrojax.columns.remainder import DOUBTFUL
from ferrojax.crystal.zone import projected_motif
from ferrojax.image import Image
from ferrojax.polarization import displacement_statistics
from ferrojax.report import (
    MapReport,
    analysis_checks,
    analysis_sections,
    analysis_summary,
    calibration_facts,
    map_facts,
    map_statistics,
    response_sentence,
)

SIGNIFICANT = 3.0
"""Standard errors."""
FAST_DRIFT = 0.3
"""Lattice periods a frame."""
FAR_CONTRAST = 1.2
"""Log ratio: between what thickness and overlap do to real images (up to 1.0) and another crystal."""
LARGEST_POLARIZATION = 1.6
"""C/m²; the largest spontaneous ones known are near 1.5 (super-tetragonal BiFeO3)."""
LYING_SAMPLING = 2.0
"""%, recorded pixel sizes off by more are pointed out at the top of the report."""


def map_report(mapped: Mapped, settings: MapSettings) -> MapReport:
    """The report of one classical map."""
    pmap, name = mapped.pmap, mapped.crystal.name
    zone = dict(pmap.provenance)["zone"]
    numbers = dict(map_facts(pmap))
    lead = (
        f"Displacement of the B columns of {name} against their A neighbours, seen along [{zone}], by column fitting: "
        f"{numbers['cells mapped']} cells, mean {numbers['mean displacement (x, y)']} (x right, y down)."
    )
    implied = numbers.get("mean polarization implied (x, y)")
    if implied is not None:
        lead += f" If mis-tilt and overlapping columns add nothing to it, this implies a polarization of {implied}."
    affine = np.asarray(pmap.calibration.affine)
    image = Image(mapped.image.data, (affine[1, 1], affine[0, 0]), name=mapped.image.name)
    return MapReport(
        title=f"{mapped.image.name}: {name} [{zone}]",
        lead=lead,
        image=mapped.image,
        maps={"Column fit": pmap},
        columns=pmap.columns,
        facts=[*summed_up(mapped), *asdict(settings).items(), *sources(mapped), *versions().items()],
        notes=notes(mapped, settings),
        sections=analysis_sections(image, pmap, mapped.analysis),
        checks=analysis_checks(image, pmap, mapped.analysis),
    )


def notes(mapped: Mapped, settings: MapSettings) -> list[str]:
    """What a reader must know before believing the map."""
    found, calibration = mapped.analysis.found, mapped.pmap.calibration
    told = "as given" if settings.mode else "told from the image"
    lines = [
        response_sentence(mapped.pmap),
        f"Contrast: {found.mode}, {told}.",
        "The error of the mean is a block bootstrap's over neighbouring cells; it knows of scatter, not of a bias. "
        "Nothing is subtracted: sample mis-tilt and overlapping oxygen columns shift the map as a whole.",
        "The affine calibration takes the crystal's mean strain for distortion of the scan.",
    ]
    scale, skew = float(calibration.sampling_error), float(calibration.anisotropy)
    if max(abs(scale), abs(skew)) > LYING_SAMPLING:
        lines.append(
            f"The recorded pixel size does not fit the crystal: recorded lengths are {scale:+.1f} % off, and "
            f"{skew:+.1f} % longer along x than along y. Lengths here are those of the crystal."
        )
    if settings.oxygen:
        lines.append("Oxygen under B is drawn where the soft mode puts it: right only for a sample that follows it.")
    lines += contrast_note(mapped, settings) + impossible_note(mapped)
    if found.spikes:
        lines.append(f"Single pixels far outside everything else, hot or dead, do not count: {found.spikes}.")
    if found.other_periods > DOUBTFUL:
        lines.append(
            f"What the fit leaves over has periods, {100 * found.other_periods:.0f} % of the lattice's amplitude, that "
            "are not the lattice's: a second one in the beam's path, or strong bending."
        )
    for line, (x, y) in found.jumps:
        lines.append(
            f"From line {line:.0f} on the lattice is displaced by ({x:+.1f}, {y:+.1f}) px: the scan jumped, or a fault "
            "of the crystal runs along it. Cells across it are not mapped."
        )
    undecided = [f"Undecided: {line}" for line in found.ambiguity]
    return [*lines, *bias_note(mapped), *undecided, *frame_notes(mapped), *(f"Crystal: {r}." for r in mapped.remarks)]


def contrast_note(mapped: Mapped, settings: MapSettings) -> list[str]:
    """How bright A is against B, and how bright the crystal would make it."""
    expected = expected_contrast(projected_motif(mapped.crystal, settings.zone))
    if mapped.analysis.found.mode != "HAADF" or not expected:
        return []
    measured = measured_contrast(mapped.pmap.columns)
    line = (
        f"A columns are {np.exp(measured):.2g} times as bright as B; Z^1.7 alone would make it {np.exp(expected):.2g}."
    )
    far = abs(measured - expected) > FAR_CONTRAST
    return [line + (" That is far apart: is the crystal right?" if far else "")]


def impossible_note(mapped: Mapped) -> list[str]:
    """That many cells are more polar than any crystal."""
    if mapped.pmap.polarization is None:
        return []
    size = np.linalg.norm(np.asarray(mapped.pmap.polarization)[np.asarray(mapped.pmap.valid)], axis=-1)
    many = float(np.mean(size > LARGEST_POLARIZATION))
    if many < 0.02:
        return []
    return [
        f"{100 * many:.0f} % of the cells are more polar than {LARGEST_POLARIZATION} C/m², as no known crystal is: "
        "mis-tilt, overlapping columns, noise or a wrong crystal make up much of these displacements."
    ]


def bias_note(mapped: Mapped) -> list[str]:
    """What a significant mean displacement means where the crystal is not known to be polar."""
    if mapped.crystal.soft_mode is not None or mapped.crystal.mode_charge is not None:
        return []
    found = displacement_statistics(mapped.pmap)
    mean, error = np.asarray(found["mean"]), np.maximum(found["mean_error"], 1e-9)
    if float(np.linalg.norm(mean / error)) < SIGNIFICANT:
        return []
    return [
        f"If the crystal is not polar, its mean displacement of {np.linalg.norm(mean):.1f} pm is a bias of the "
        "recording, such as mis-tilt; a polar crystal recorded alike would show it, too."
    ]


def frame_notes(mapped: Mapped) -> list[str]:
    """How many frames of a series were averaged."""
    if mapped.frames is None:
        return []
    reasons = [reason for reason in mapped.frames.rejection_reason if reason]
    kept, total = int(mapped.frames.accepted.sum()), len(mapped.frames.accepted)
    left_out = f" Left out: {', '.join(f'{reasons.count(r)} {r}' for r in sorted(set(reasons)))}." if reasons else ""
    x, y = mapped.frames.drift
    notes = [
        f"The image is the average of {kept} of {total} frames, aligned rigidly.{left_out} They drift by ({x:.1f}, "
        f"{y:.1f}) px a frame."
    ]
    share = mapped.frames.largest_step / float(mapped.frames.period)
    if share > FAST_DRIFT:
        notes.append(
            f"Frames move by up to {share:.2f} of a lattice period from one to the next. A lattice that moves by half "
            "a period or more looks as if it moved the other way: if it drifted faster, say so with --drift."
        )
    return notes


def summed_up(mapped: Mapped) -> list[tuple[str, str]]:
    """Calibration and result in words."""
    columns = mapped.pmap.columns
    refused = int((~columns.accepted).sum()) + len(mapped.analysis.found.stray)
    counted = ("columns", f"{int(columns.accepted.sum())} accepted, {refused} refused")
    return [*calibration_facts(mapped.pmap.calibration), *map_facts(mapped.pmap), counted]


def sources(mapped: Mapped) -> list[tuple[str, str]]:
    """Where the numbers of the crystal come from."""
    return [(f"source, {name.replace('_', ' ')}", text) for name, text in mapped.crystal.sources]


def map_summary(mapped: Mapped, settings: MapSettings) -> dict[str, object]:
    """summary.json, but for the time that it took."""
    pmap, frames = mapped.pmap, mapped.frames
    response = {"kind": dict(pmap.provenance).get("response"), "relative_error": pmap.response_error}
    return {
        **asdict(settings),
        **map_statistics(pmap),
        "response": response,
        "calibration": pmap.calibration.summary(),
        **analysis_summary(pmap, mapped.analysis),
        "remarks": mapped.remarks,
        "scan_jumps_px": [{"line": line, "by": by} for line, by in mapped.analysis.found.jumps],
        "frames_averaged": None if frames is None else int(frames.accepted.sum()),
        "frames_drift_px": None if frames is None else frames.drift,
        "versions": versions(),
    }
