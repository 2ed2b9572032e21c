"""The panels of a polarization figure; each draws one thing into one Axes."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.patches import Ellipse
from matplotlib_scalebar.scalebar import ScaleBar

from ferrojax.image import Image
from ferrojax.polarization import PolarizationMap, displacement_statistics
from ferrojax.report.colour import direction_colours, draw_wheel

Window = tuple[float, float, float, float]
PM = 100.0  # pm per Å
FLAT = 2.2
"""Width over height from which panels on the image get a row of their own."""
SITE_COLOUR = {"A": "#ffb000", "B": "#00d0ff", "O": "#ff5a7a"}
CELL_TINT = 0.55  # a cell is a paler, its arrow a darker shade of the direction's colour
ARROW_SHADE = 0.72
ZOOM_CELLS = 7
MAP_COLOUR = ("#3b4a8c", "#c4572b", "#2f8f6b", "#8a6fb0")


def displacement_pm(pmap: PolarizationMap) -> np.ndarray:
    """(n, 2) pm, valid cells only."""
    return PM * np.asarray(pmap.displacement)[np.asarray(pmap.valid)]


def sigma_pm(pmap: PolarizationMap) -> np.ndarray:
    """(ny, nx) pm: root mean square of the two axes' standard errors, NaN where invalid."""
    variance = np.trace(np.asarray(pmap.covariance), axis1=-2, axis2=-1) / 2
    return PM * np.sqrt(np.where(np.asarray(pmap.valid), variance, np.nan))


def draw_columns(ax: Axes, image: Image, points: Mapping[str, np.ndarray], window: Window | None) -> None:
    """The image with its fitted columns, (n, 2) pixels (x, y) by site; window is (x0, x1, y0, y1) pixels."""
    show_image(ax, image, window)
    for site, at in points.items():
        colour = SITE_COLOUR.get(site, "white")
        if window is None:
            ax.plot(*at.T, ".", color=colour, markersize=3.4, markeredgewidth=0, label=site)
        else:
            ax.plot(*at.T, "o", mfc="none", mec=colour, markersize=9, markeredgewidth=1.6, label=site)
    ax.legend(loc="upper right", fontsize=9, framealpha=0.85, markerscale=3 if window is None else 0.7)


def middle_window(shape: tuple[int, ...], cells: int) -> Window:
    """(x0, x1, y0, y1) pixels around the middle of an image of so many cells: a few cells wide at any magnification."""
    rows, cols = shape
    half = min(ZOOM_CELLS / 2 * np.sqrt(rows * cols / max(cells, 1)), rows / 2, cols / 2)
    x, y = cols / 2, rows / 2
    return x - half, x + half, y - half, y + half


def show_image(ax: Axes, image: Image, window: Window | None) -> None:
    """The image, or a window (x0, x1, y0, y1) px of it, with its scale bar."""
    data = np.asarray(image.data)
    low, high = np.nanpercentile(data, (0.5, 99.7))
    smooth = "nearest" if window is None else "bicubic"
    ax.imshow(data, cmap="gray", vmin=low, vmax=high, interpolation=smooth)
    rows, cols = data.shape
    x0, x1, y0, y1 = (-0.5, cols - 0.5, -0.5, rows - 0.5) if window is None else window
    ax.set(xlim=(x0, x1), ylim=(y1, y0), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_aspect(float(image.sampling[0] / image.sampling[1]))
    add_scale_bar(ax, float(image.sampling[1]) / 10)


def draw_arrows(ax: Axes, pmap: PolarizationMap, full: float) -> None:
    """Displacement of B against its A neighbours: cells and arrows coloured by direction; `full` in pm."""
    valid = np.asarray(pmap.valid)
    at = np.asarray(pmap.position)
    shift = PM * np.asarray(pmap.displacement)
    colour = direction_colours(shift[valid], full)
    cells = PolyCollection(list(outlines(at)[valid]), facecolors=1 - CELL_TINT * (1 - colour), linewidths=0)
    ax.add_collection(cells)
    step = _lattice(at)
    length = 1.2 * np.sqrt(abs(np.linalg.det(step)))  # an arrow of full length spans a little over a cell
    arrows = ax.quiver(
        *at[valid].T, *shift[valid].T, angles="xy", scale_units="xy", scale=full / length, pivot="mid",
        color=ARROW_SHADE * direction_colours(shift[valid], 0.0), width=0.005, headwidth=3.6, headlength=4,
        headaxislength=3.5, minlength=0.3,
    )  # fmt: skip
    frame_cells(ax, at)
    add_scale_bar(ax, 0.1)
    size = 0.17 / max(1.0, _flatness(ax) / FLAT)
    height = min(1.0, size * max(1.0, _flatness(ax)))
    ax.quiverkey(arrows, 1.02 + size / 2, 0.97 - 1.6 * height, full, f"{full:g} pm", labelpos="S", coordinates="axes")
    draw_wheel(ax.inset_axes((1.02, 0.97 - height, size, height)))


def _flatness(ax: Axes) -> float:
    """Width over height of what the axes show."""
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    aspect = ax.get_aspect()
    return abs((x1 - x0) / (y1 - y0)) / (1.0 if isinstance(aspect, str) else aspect)


def draw_sigma(ax: Axes, pmap: PolarizationMap, limits: tuple[float, float]) -> None:
    """Standard error of the displacement, per axis, in pm, with its colour bar."""
    draw_cells(ax, pmap, sigma_pm(pmap), "σ per axis (pm)", limits, "cmc.batlow")


def draw_cells(
    ax: Axes, pmap: PolarizationMap, value: np.ndarray, label: str, limits: tuple[float, float], colours: str
) -> None:
    """One value (ny, nx) a cell as colour, with its bar; cells that are NaN stay blank."""
    at = np.asarray(pmap.position)
    known = np.isfinite(value) & np.asarray(pmap.valid)
    cells = PolyCollection(list(outlines(at)[known]), array=value[known], cmap=colours, linewidths=0)
    cells.set_clim(*limits)
    ax.add_collection(cells)
    frame_cells(ax, at)
    add_scale_bar(ax, 0.1)
    below, above = (bool((value[known] < limits[0]).any()), bool((value[known] > limits[1]).any()))
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    add_colour_bar(ax, cells, label, ends[below, above])


def add_colour_bar(ax: Axes, drawn: ScalarMappable, label: str, extend: str) -> None:
    """A bar as high as the axes' box beside it, or below it where that is flat."""
    flat = _flatness(ax)
    if flat < FLAT:
        bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((1.03, 0.04, 0.04, 0.92)), extend=extend)
    else:
        place = ax.inset_axes((0.3, -0.035 * flat, 0.4, 0.012 * flat))
        bar = ax.figure.colorbar(drawn, cax=place, extend=extend, orientation="horizontal")
    bar.set_label(label)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def draw_plane(ax: Axes, pmap: PolarizationMap, full: float) -> None:
    """Every cell in the displacement plane, the mean with its standard error, and the median 1σ ellipse."""
    shift = displacement_pm(pmap)
    ax.axhline(0, color="0.75", lw=0.8, zorder=0)
    ax.axvline(0, color="0.75", lw=0.8, zorder=0)
    ax.scatter(*shift.T, s=13, c=direction_colours(shift, full), edgecolors="0.35", linewidths=0.25)
    found = displacement_statistics(pmap)
    mean, error = np.asarray(found["mean"]), np.asarray(found["mean_error"])
    label = f"mean ({mean[0]:+.1f}, {mean[1]:+.1f}) ± ({error[0]:.1f}, {error[1]:.1f}) pm"
    ax.plot(*mean, "P", color="black", markersize=10, markeredgecolor="white", label=label)
    covariance = np.median(PM**2 * np.asarray(pmap.covariance)[np.asarray(pmap.valid)], axis=0)
    values, vectors = np.linalg.eigh(covariance)
    tilt = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    width, height = 2 * np.sqrt(np.clip(values[::-1], 0, None))
    style = {"fill": False, "edgecolor": "black", "linestyle": "--", "linewidth": 1.2}
    ax.add_patch(Ellipse((mean[0], mean[1]), width, height, angle=tilt, label="median 1σ of a cell", **style))
    reach = max(1.5 * full, 1.1 * float(np.percentile(np.abs(shift), 99)))
    ax.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal", box_aspect=1)
    ax.set(xlabel="Δx (pm)", ylabel="Δy (pm), down as in the image")
    ax.legend(loc="lower left", framealpha=0.85, edgecolor="none", fontsize=8.5)


def draw_magnitudes(ax: Axes, maps: Mapping[str, PolarizationMap]) -> None:
    """Histogram of |displacement| of every map, with the median σ as a dashed line in its colour."""
    sizes = {name: np.linalg.norm(displacement_pm(pmap), axis=-1) for name, pmap in maps.items()}
    bins = np.linspace(0, max(float(np.percentile(size, 99.5)) for size in sizes.values()), 36).tolist()
    for colour, (name, pmap) in zip(MAP_COLOUR * len(maps), maps.items(), strict=False):
        ax.hist(sizes[name], bins=bins, color=colour, alpha=0.28)
        ax.hist(sizes[name], bins=bins, color=colour, histtype="step", lw=1.6, label=name)
        ax.axvline(float(np.nanmedian(sigma_pm(pmap))), color=colour, ls="--", lw=1.3)
    ax.plot([], [], color="0.3", ls="--", lw=1.3, label="median σ per axis")
    named = {pmap.displacement_of for pmap in maps.values()}
    what = " of {} against {}".format(*named.pop()) if len(named) == 1 else ""
    ax.set(xlabel=f"|displacement{what}| (pm)", ylabel="cells", box_aspect=1, xlim=(0, None))
    ax.legend(frameon=False, fontsize=9)


def _lattice(at: np.ndarray) -> np.ndarray:
    """(2, 2) Å: mean step (x, y) to the next column and to the next row of cells."""
    return np.stack([np.nanmedian(np.diff(at, axis=axis).reshape(-1, 2), axis=0) for axis in (1, 0)])


def outlines(at: np.ndarray) -> np.ndarray:
    """(ny, nx, 4, 2): the corners of every cell."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    return at[..., None, :] + corners @ _lattice(at)


def frame_cells(ax: Axes, at: np.ndarray) -> None:
    """Axes in Å about the cells, y down, without ticks."""
    low, high = np.nanmin(at, axis=(0, 1)), np.nanmax(at, axis=(0, 1))
    margin = 0.03 * float(max(high - low)) + 2
    bar = 0.07 * float(high[1] - low[1])  # room for the scale bar below the cells
    ax.set(xlim=(low[0] - margin, high[0] + margin), ylim=(high[1] + margin + bar, low[1] - margin))
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)


def add_scale_bar(ax: Axes, nm_per_unit: float) -> None:
    """A scale bar in the lower left corner."""
    bar = ScaleBar(
        nm_per_unit, "nm", length_fraction=0.25, location="lower left", box_alpha=0.8, frameon=True,
        font_properties={"size": 9}, border_pad=0.5, rotation="horizontal-only",
    )  # fmt: skip
    ax.add_artist(bar)
