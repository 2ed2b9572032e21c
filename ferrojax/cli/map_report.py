"""What `ferrojax map` says of a map: its report and its summary."""

from dataclasses import asdict

import numpy as np

from ferrojax.cli.info import versions
from ferrojax.cli.mapped import Mapped, MapSettings
from ferrojax.crystal.zone import projected_motif
from ferrojax.image import Image
from ferrojax.polarization import PolarizationMap
from ferrojax.polarization.notes import UNLIKE_CONTRAST, contrast
from ferrojax.refinement import ScanRecording
from ferrojax.report import (
    MapReport,
    analysis_checks,
    analysis_sections,
    analysis_summary,
    calibration_facts,
    map_facts,
    map_statistics,
    microscope_section,
    response_sentence,
)


def map_report(mapped: Mapped, settings: MapSettings) -> MapReport:
    """The report of one map."""
    pmap, name = mapped.pmap, mapped.crystal.name
    zone = dict(pmap.provenance)["zone"]
    numbers = dict(map_facts(pmap))
    moving, around = pmap.displacement_of
    lead = (
        f"Displacement of the {moving} columns of {name} against their {around} neighbours, seen along [{zone}], by "
        f"{'column fitting' if mapped.recording is None else 'reading through the microscope found in the image'}: "
        f"{numbers['cells mapped']} cells, mean {numbers['mean displacement (x, y)']} (x right, y down)."
    )
    implied = numbers.get("mean polarization implied (x, y)")
    if implied is not None:
        proviso = "If mis-tilt and overlapping columns add nothing to it, this" if mapped.recording is None else "This"
        lead += f" {proviso} implies a polarization of {implied}."
    seen = seen_contrast(mapped, settings)
    if seen is not None and abs(np.log(seen[0] / seen[1])) > UNLIKE_CONTRAST:
        lead += (
            f" Beware: A columns are {seen[0]:.2g} times as bright as B, where Z^1.7 alone makes it {seen[1]:.2g}; "
            "thickness and overlap can do that, and so can another crystal on the same lattice."
        )
    affine = np.asarray(pmap.calibration.affine)
    image = Image(mapped.image.data, (affine[1, 1], affine[0, 0]), name=mapped.image.name)
    return MapReport(
        title=f"{mapped.image.name}: {name} [{zone}]",
        lead=lead,
        image=mapped.image,
        maps={"Column fit": pmap} if mapped.columns is None else {"Microscope": pmap, "Column fit": mapped.columns},
        columns=pmap.columns,
        facts=[*summed_up(mapped), *asdict(settings).items(), *sources(mapped), *versions().items()],
        notes=notes(mapped, settings),
        sections=[
            *([] if mapped.recording is None else [microscope_section(mapped.recording, pmap)]),
            *analysis_sections(image, pmap, mapped.analysis),
        ],
        checks=analysis_checks(image, pmap, mapped.analysis),
    )


def notes(mapped: Mapped, settings: MapSettings) -> list[str]:
    """What a reader must know before believing the map."""
    frames = () if mapped.frames is None else mapped.frames.notes
    return [
        response_sentence(mapped.pmap),
        contrast_sentence(mapped, settings),
        "The error of the mean is a block bootstrap's over neighbouring cells; it knows of scatter, not of a bias. "
        + (
            "Nothing is subtracted: sample mis-tilt and overlapping oxygen columns shift the map as a whole."
            if mapped.recording is None
            else "Mis-tilt and oxygen are in the model; how well they are known is the error that all cells share."
        ),
        "The affine calibration takes the crystal's mean strain for distortion of the scan.",
        *mapped.pmap.notes,
        *frames,
        *(f"Crystal: {remark}." for remark in mapped.remarks),
    ]


def contrast_sentence(mapped: Mapped, settings: MapSettings) -> str:
    """The mode, and how bright A is against B beside what the crystal would make it."""
    mode, seen = mapped.analysis.found.mode, seen_contrast(mapped, settings)
    line = f"Contrast: {mode}, {'as given' if settings.mode else 'told from the image'}."
    if seen is None:
        return line
    return f"{line} A columns are {seen[0]:.2g} times as bright as B; Z^1.7 alone would make it {seen[1]:.2g}."


def seen_contrast(mapped: Mapped, settings: MapSettings) -> tuple[float, float] | None:
    """Brightness of A over B, measured and by Z^1.7, in a dark field that shows both."""
    if mapped.analysis.found.mode != "HAADF":
        return None
    return contrast(mapped.pmap.columns, projected_motif(mapped.crystal, settings.zone))


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
        "notes": list(pmap.notes),
        "remarks": mapped.remarks,
        "recording": None if mapped.recording is None else recording_summary(mapped.recording, pmap),
        "scan_jumps_px": [{"line": line, "by": by} for line, by in mapped.analysis.found.jumps],
        "frames_averaged": None if frames is None else int(frames.accepted.sum()),
        "frames_drift_px": None if frames is None else frames.drift,
        "versions": versions(),
    }


def recording_summary(recording: ScanRecording, pmap: PolarizationMap) -> dict[str, object]:
    """Parameters with their errors, and the error that all cells share (pm, pm²)."""
    common = pmap.common_covariance
    return {
        "value": recording.value,
        "error": recording.error,
        "known_beforehand": recording.prior_error,
        "identified": recording.identified,
        "misfit": recording.misfit,
        "common_covariance_pm2": None if common is None else 1e4 * np.asarray(common, float),
        "notes": list(recording.notes),
    }
