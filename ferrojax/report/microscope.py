"""What a report says of the microscope that was found in an image."""

import numpy as np
from matplotlib.axes import Axes

from ferrojax.polarization import PolarizationMap
from ferrojax.refinement import UNITS, ScanRecording
from ferrojax.report.content import Panel, Section, Table


def microscope_section(recording: ScanRecording, pmap: PolarizationMap) -> Section:
    """The recording with its errors, the mean cell that it was found in, and what all cells' displacement is worth."""
    value, error, known = recording.value, recording.error, recording.prior_error
    prior = dict(zip(recording.fit.name, recording.fit.prior.tolist(), strict=True))
    told = recording.identified
    rows = [
        [name.replace("_", " "), UNITS.get(name, ""), f"{value[name]:.3g} ± {error[name]:.2g}",
         f"{prior[name]:.3g} ± {known[name]:.2g}", "the image" if told[name] else "what was known"]
        for name in value
    ]  # fmt: skip
    table = Table("The recording", ("parameter", "unit", "found", "known beforehand", "told by"), rows)
    panels = []
    for name, (measured, fitted) in recording.mean_cells().items():
        for title, picture in (("measured", measured), ("fitted", fitted), ("difference", measured - fitted)):
            scale = ", on a tenth of the contrast" if title == "difference" else ""
            words = f"Mean cell of {name}, about the centroid of A, {title}{scale}."
            panels.append(Panel(f"{name}, {title}", words, _drawing(picture, measured, title == "difference")))
    return Section("The microscope", [*_text(recording, pmap), *recording.notes], [table], panels)


def _text(recording: ScanRecording, pmap: PolarizationMap) -> list[str]:
    """How well the mean cell is met, and how far the displacement that all cells share is known."""
    common, good = pmap.common_covariance, np.asarray(pmap.valid)
    text = [
        "Thickness, tilt, optics and source were fitted to the mean cell of the image, together with what all cells "
        f"are displaced by; what is left of it is {np.sqrt(recording.misfit):.2g} times its error."
    ]
    if common is None or not good.any():
        return text
    shared = 100 * np.sqrt(np.diag(np.asarray(common, float)))
    own = 100 * np.sqrt(np.median(np.diagonal(np.asarray(pmap.covariance, float)[good], axis1=1, axis2=2)))
    mean = 100 * np.asarray(pmap.displacement, float)[good].mean(0)
    text.append(
        f"A cell's own error is {own:.1f} pm. All cells share another of ({shared[0]:.1f}, {shared[1]:.1f}) pm, "
        "because tilt and odd aberrations look like a displacement: the mean of "
        f"({mean[0]:.1f}, {mean[1]:.1f}) pm is known no better, while differences between domains do not hold it."
    )
    if (np.abs(mean) < 2 * shared).all():
        text.append("The mean displacement cannot be told from a tilt: it is not identified.")
    return text


def _drawing(picture: np.ndarray, measured: np.ndarray, difference: bool):
    """The difference on a scale of a tenth of the contrast, the same colours on either side of zero."""
    low, high = float(measured.min()), float(measured.max())
    limits = (-0.1 * (high - low), 0.1 * (high - low)) if difference else (low, high)

    def draw(ax: Axes) -> None:
        ax.imshow(picture, cmap="RdBu_r" if difference else "gray", vmin=limits[0], vmax=limits[1])
        ax.set(xticks=[], yticks=[])

    return draw
