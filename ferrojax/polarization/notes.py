"""What a reader must know before believing a map: of the image and its fit, and of the displacements themselves."""

import numpy as np
from jaxtyping import Float

from ferrojax.columns import SITES, Columns, FoundColumns
from ferrojax.columns.contrast import expected_contrast, measured_contrast
from ferrojax.columns.indexing.template import anchor
from ferrojax.columns.remainder import DOUBTFUL
from ferrojax.crystal.zone import Motif

FAR_CONTRAST = 1.2
"""Log ratio: between what thickness and overlap do to real images (up to 1.0) and another crystal."""
UNLIKE_CONTRAST = 0.4
"""Log ratio that is worth a word in a report's first lines: BaTiO3 in the place of PbTiO3 makes 0.5."""
LARGEST_POLARIZATION = 1.6
"""C/m²; the largest spontaneous ones known are near 1.5 (super-tetragonal BiFeO3)."""
LYING_SAMPLING = 2.0
"""%, recorded pixel sizes off by more are pointed out."""
SIGNIFICANT = 3.0
"""Standard errors."""
_MANY = 0.02
"""Share of cells."""
_HARDLY = 0.25
"""Error bars; noise alone lets oxygen be drawn off B by 0.2 of one."""
_DISORDERED = 1.0
"""Error bars of the anchor's columns by which they scatter beyond them, to be worth a sentence."""


def contrast(columns: Columns, motif: Motif) -> tuple[float, float] | None:
    """How many times as bright as B the A columns are, measured and by Z^1.7 alone; None where one is missing."""
    expected = expected_contrast(motif)
    return (float(np.exp(measured_contrast(columns))), float(np.exp(expected))) if expected else None


def image_notes(found: FoundColumns, motif: Motif, oxygen: bool) -> tuple[str, ...]:
    """What the columns and their fit say, a sentence each, the gravest first."""
    seen, calibration, lines = contrast(found.columns, motif), found.columns.calibration, []
    if found.mode == "HAADF" and seen and abs(np.log(seen[0] / seen[1])) > FAR_CONTRAST:
        lines.append(
            f"A columns are {seen[0]:.2g} times as bright as B; Z^1.7 alone would make it {seen[1]:.2g}. That is far "
            "apart: is the crystal right?"
        )
    lines += [f"Undecided: {line}" for line in found.ambiguity]
    if calibration is not None:
        scale, skew = float(calibration.sampling_error), float(calibration.anisotropy)
        if max(abs(scale), abs(skew)) > LYING_SAMPLING:
            lines.append(
                f"The recorded pixel size does not fit the crystal: recorded lengths are {scale:+.1f} % off, and "
                f"{skew:+.1f} % longer along x than along y. Lengths here are those of the crystal."
            )
    lines += disorder_notes(found.columns, motif)
    if oxygen:
        lines.append(oxygen_note(found.columns))
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
    return tuple(lines)


def oxygen_note(columns: Columns) -> str:
    """What drawn oxygen rests on, and what it may be wrong by."""
    error = columns.oxygen_error
    b = columns.accepted & (np.asarray(columns.site) == SITES.index("B"))
    own = np.zeros((0, 2)) if error is None else np.asarray(error, float)[b]
    size = 100 * float(np.sqrt((own**2).sum(1).mean())) if len(own) else 0.0
    sigma = 100 * float(np.median(np.sqrt(np.asarray(columns.covariance, float)[:, 0, 0])))
    line = (
        "Oxygen under B is drawn where the soft mode puts it: right for a thin sample in focus that follows the mode, "
        "not at domain walls, in tilted or thick samples or out of focus. How bright it is there is unknown by half; "
        f"the error bars hold that, {size:.1f} pm rms, an error that all cells share and that does not average out."
    )
    if size < _HARDLY * sigma:
        line += " Here there is hardly a displacement to draw it along: the option changes nothing that counts."
    return line


def disorder_notes(columns: Columns, motif: Motif) -> tuple[str, ...]:
    """That columns scatter about the smooth lattice by more than their own error bars, which nothing else holds."""
    if columns.lines is None or columns.column is None:
        return ()
    strongest = anchor(motif)
    own = np.asarray(columns.own_covariance, float)[np.asarray(columns.column) == strongest]
    sigma = np.sqrt(np.nanmedian(own[:, [0, 1], [0, 1]], 0))
    disorder = np.asarray(columns.lines.disorder, float)
    if not (disorder > _DISORDERED * sigma).any():
        return ()
    return (
        f"{motif.label[strongest]} columns scatter about the smooth lattice by ({100 * disorder[0]:.1f}, "
        f"{100 * disorder[1]:.1f}) pm (x, y) beyond their error bars: disorder of the crystal, or noise of the scan "
        "that no two columns share. One image cannot tell which; the cells' error bars do not hold it.",
    )


def polarization_notes(polarization: Float[np.ndarray, "n 2"]) -> tuple[str, ...]:
    """That many cells are more polar than any crystal; polarization: C/m², of the valid cells."""
    many = float(np.mean(np.linalg.norm(polarization, axis=-1) > LARGEST_POLARIZATION)) if len(polarization) else 0.0
    if many < _MANY:
        return ()
    return (
        f"{100 * many:.0f} % of the cells are more polar than {LARGEST_POLARIZATION} C/m², as no known crystal is: "
        "mis-tilt, overlapping columns, noise or a wrong crystal make up much of these displacements.",
    )


def bias_notes(mean: Float[np.ndarray, "2"], mean_error: Float[np.ndarray, "2"]) -> tuple[str, ...]:
    """What a significant mean displacement (pm) says of a crystal that is not known to have a polarization."""
    if float(np.linalg.norm(mean / np.maximum(mean_error, 1e-9))) < SIGNIFICANT:
        return ()
    return (
        f"If the crystal is not polar, its mean displacement of {np.linalg.norm(mean):.1f} pm is a bias of the "
        "recording, such as mis-tilt; a polar crystal recorded alike would show it, too.",
    )
