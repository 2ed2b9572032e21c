"""The picture of a report: the image, then a row of panels for every map of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ferrojax.image import Image
from ferrojax.report import panels
from ferrojax.report.colour import round_up
from ferrojax.report.content import MapReport, Panel

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "ferrojax",
    "text.parse_math": False,  # names of files may hold a $
}
WIDTH, ROW = 17.0, 5.1  # inches


def arrows(report: MapReport) -> str:
    """What the arrows of the maps are."""
    moving, around = next(iter(report.maps.values())).displacement_of
    return f"Arrows: displacement of {moving} against the centroid of its {around} neighbours, not polarization."


@contextmanager
def figure_style() -> Iterator[None]:
    with mpl.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        yield


def polarization_figure(report: MapReport) -> Figure:
    """Image with fitted columns, close-up and magnitudes; arrows, σ and displacement plane per map; the checks.

    Three panels a row; where the image is flat, those on its area take a row each.
    """
    groups = [image_panels(report), *map_panels(report).values()]
    if report.checks:
        groups.append(tuple(report.checks))
    flat = flatness(report)
    rows, heights = _rows(groups, flat)
    with figure_style():
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.7), layout="constrained", facecolor="white")
        figure.suptitle(report.title, fontsize=16, fontweight="bold")
        figure.supxlabel(arrows(report), fontsize=11, color="0.25")
        grid = figure.add_gridspec(len(rows), 3, height_ratios=heights)
        for number, row in enumerate(rows):
            for column, panel in enumerate(row):
                whole = flat >= panels.FLAT and panel.on_image
                ax = figure.add_subplot(grid[number, :] if whole else grid[number, column])
                ax.set_title(panel.title)
                panel.draw(ax)
        figure.canvas.draw()  # lays the figure out while its style holds
    return figure


def _rows(groups: list[tuple[Panel, ...]], flat: float) -> tuple[list[tuple[Panel, ...]], list[float]]:
    """Panels row by row, and the rows' heights in inches."""
    if flat < panels.FLAT:
        return groups, [ROW] * len(groups)
    every = [panel for group in groups for panel in group]
    wide = [panel for panel in every if panel.on_image]
    small = [panel for panel in every if not panel.on_image]
    rows = [(panel,) for panel in wide] + [tuple(small[k : k + 3]) for k in range(0, len(small), 3)]
    return rows, [0.8 * WIDTH / flat + 1.2] * len(wide) + [ROW] * (len(rows) - len(wide))


def flatness(report: MapReport) -> float:
    """Width over height of the image in Å."""
    rows, cols = report.image.data.shape
    step = np.asarray(calibrated(report).sampling, float)
    return float(cols * step[1] / (rows * step[0]))


def panel_figure(panel: Panel, width: float = 5.4, flat: float = 1.0) -> Figure:
    """One panel alone, `width` inches wide; its title and caption belong to the page. flat: of the image."""
    with figure_style():
        height = 0.9 * width if flat < panels.FLAT else 0.8 * width / flat + 1.2
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        panel.draw(figure.subplots())
        figure.canvas.draw()
    return figure


def image_panels(report: MapReport) -> tuple[Panel, ...]:
    """The image with every column, a close-up, and how large the displacements are."""
    points = column_points(report)
    most = max((len(at) for at in points.values()), default=200)
    window = panels.middle_window(report.image.data.shape, most)
    image = calibrated(report)
    return (
        Panel(
            "Image and fitted columns", "Every accepted column, by site.",
            lambda ax: panels.draw_columns(ax, image, points, None), on_image=True,
        ),
        Panel(
            "Close-up", "Fitted positions on the pixels around the middle of the image.",
            lambda ax: panels.draw_columns(ax, image, points, window),
        ),
        Panel(
            "Size of the displacement", "Where a histogram peaks near its own σ, noise alone explains it.",
            lambda ax: panels.draw_magnitudes(ax, report.maps),
        ),
    )  # fmt: skip


def map_panels(report: MapReport) -> dict[str, tuple[Panel, ...]]:
    """Arrows, σ and displacement plane of every map, on common scales so that maps can be compared."""
    maps = report.maps.values()
    shifts = np.concatenate([np.linalg.norm(panels.displacement_pm(pmap), axis=-1) for pmap in maps])
    sigmas = np.concatenate([panels.sigma_pm(pmap)[np.asarray(pmap.valid)] for pmap in maps])
    full = round_up(float(np.percentile(shifts, 80)))
    limits = (0.0, round_up(float(np.percentile(sigmas, 97))))
    return {
        name: (
            Panel(
                f"{name}: displacement", f"{arrows(report)} Full colour and the arrow of the key: {full:g} pm.",
                lambda ax, pmap=pmap: panels.draw_arrows(ax, pmap, full), on_image=True,
            ),
            Panel(
                f"{name}: uncertainty", "One standard error of the displacement, per axis.",
                lambda ax, pmap=pmap: panels.draw_sigma(ax, pmap, limits), on_image=True,
            ),
            Panel(
                f"{name}: displacement plane", "One point a cell; a cloud as wide as the ellipse is noise.",
                lambda ax, pmap=pmap: panels.draw_plane(ax, pmap, full),
            ),
        )
        for name, pmap in report.maps.items()
    }  # fmt: skip


def column_points(report: MapReport) -> dict[str, np.ndarray]:
    """(n, 2) pixels (x, y) of the accepted columns, by site label."""
    columns = report.columns or next(iter(report.maps.values())).columns
    if columns is None:
        return {}
    accepted = np.asarray(columns.accepted)
    labels, at = np.asarray(columns.label)[accepted], np.asarray(columns.position_px)[accepted]
    return {site or "column": at[labels == site] for site in sorted(set(labels.tolist()))}


def calibrated(report: MapReport) -> Image:
    """The image with the pixel size that the lattice gave, for its scale bar and aspect."""
    calibration = next(iter(report.maps.values())).calibration
    if calibration is None:
        return report.image
    affine = np.asarray(calibration.affine)
    return Image(report.image.data, (affine[1, 1], affine[0, 0]), name=report.image.name)
