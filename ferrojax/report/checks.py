"""Panels that let a reader doubt a map: what was refused, what the fit left over, how the scan moved."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from ferrojax.columns import FoundColumns, ScanDistortion
from ferrojax.columns.columns import ACCEPTED, OFF_LATTICE, REJECTIONS
from ferrojax.image import Image
from ferrojax.report.panels import MAP_COLOUR, SITE_COLOUR, Window, add_colour_bar, add_scale_bar, show_image

_COLOURS = (
    "#9aa4b2", "#e5c100", "#ff8c1a", "#35c4e8", "#ff3b3b",
    "#b56bff", "#ff5fc4", "#4be36b", "#2f6bff", "#a0522d",
)  # fmt: skip
REASON_COLOUR: dict[str, str] = dict(zip(REJECTIONS[1:], _COLOURS, strict=True))
"""Reason -> colour that stands out on a grey image."""
_REASON_MARK: dict[str, str] = dict(zip(REJECTIONS[1:], "sXD^Pdov<>", strict=True))
_LIMIT = 5.0
"""Standard deviations at which the colours of the residual end."""
_BINS = 161


def draw_refused(ax: Axes, image: Image, found: FoundColumns) -> None:
    """The image, accepted columns as faint dots, every refused one marked and coloured by its reason."""
    columns = found.columns
    at, reason = np.asarray(columns.position_px), np.asarray(columns.rejection)
    show_image(ax, image, None)
    ax.plot(*at[reason == ACCEPTED].T, ".", color="white", alpha=0.35, markersize=1.6, markeredgewidth=0)
    for k, name in enumerate(REJECTIONS):
        chosen = np.concatenate([at[reason == k], found.stray]) if k == OFF_LATTICE else at[reason == k]
        if k == ACCEPTED or not len(chosen):
            continue
        ax.plot(
            *chosen.T, _REASON_MARK[name], color=REASON_COLOUR[name], markersize=5, markeredgecolor="black",
            markeredgewidth=0.3, label=f"{name}: {len(chosen)}",
        )  # fmt: skip
    ax.plot([], [], "o", mfc="white", mec="0.4", markersize=4, label=f"accepted: {int((reason == ACCEPTED).sum())}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3, fontsize=8.5, frameon=False)


def draw_residual(ax: Axes, image: Image, residual: np.ndarray, window: Window | None = None) -> None:
    """Data − model in standard deviations of the noise, with its colour bar; grey where a pixel did not count.

    window: (x0, x1, y0, y1) px; the whole image is averaged over the pixels that fall on one of the drawing.
    """
    ax.set_facecolor("0.7")
    smooth = "auto" if window is None else "nearest"
    drawn = ax.imshow(residual, cmap="cmc.vik", vmin=-_LIMIT, vmax=_LIMIT, interpolation=smooth)
    if window is not None:
        ax.set(xlim=window[:2], ylim=window[:1:-1])
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_aspect(float(image.sampling[0] / image.sampling[1]))
    add_scale_bar(ax, float(image.sampling[1]) / 10)
    add_colour_bar(ax, drawn, "(data − model) / σ of the noise", "both")


def draw_residual_histogram(ax: Axes, residual: np.ndarray) -> None:
    """How often a pixel lies so many standard deviations off the model, beside the normal law."""
    z = residual[np.isfinite(residual)]
    edges = np.linspace(-1.6 * _LIMIT, 1.6 * _LIMIT, _BINS)
    middle = 0.5 * (edges[1:] + edges[:-1])
    count = np.histogram(z, edges)[0] / (max(len(z), 1) * np.diff(edges))
    normal = np.exp(-0.5 * middle**2) / np.sqrt(2 * np.pi)
    ax.step(middle, count, where="mid", color=MAP_COLOUR[0], lw=1.6, label="pixels")
    ax.plot(middle, normal, color=MAP_COLOUR[1], lw=1.4, ls="--", label="normal law")
    floor = 0.5 / (max(len(z), 2) * (edges[1] - edges[0]))
    ax.set(yscale="log", ylim=(max(floor, 1e-7), 1.0), xlim=(edges[0], edges[-1]), box_aspect=1)
    ax.set(xlabel="(data − model) / σ of the noise", ylabel="density")
    ax.legend(frameon=False, fontsize=9)


def draw_misfit(ax: Axes, found: FoundColumns) -> None:
    """Histogram of the columns' own residuals by site, refused ones apart, in per cent of the amplitude."""
    columns = found.columns
    share = 100 * np.asarray(columns.residual, float)
    accepted, label = columns.accepted, np.asarray(columns.label)
    top = float(np.percentile(share, 99.5)) if len(share) else 1.0
    bins = np.linspace(0, max(top, 1e-6), 41).tolist()
    for site in sorted(set(label.tolist())):
        chosen = accepted & (label == site)
        ax.hist(
            np.minimum(share[chosen], top),
            bins=bins,
            histtype="step",
            lw=1.7,
            color=SITE_COLOUR.get(site, "0.3"),
            label=site or "column",
        )
    if (~accepted).any():
        ax.hist(np.minimum(share[~accepted], top), bins=bins, color="0.75", zorder=0, label="refused")
    ax.set(xlabel="rms of data − model round a column (% of its amplitude)", ylabel="columns", box_aspect=1)
    ax.legend(frameon=False, fontsize=9)


def draw_drift(ax: Axes, distortion: ScanDistortion, pm_per_px: float) -> None:
    """How far the lines of the scan appear from a regular lattice, with one standard error."""
    shift, error = (pm_per_px * np.asarray(v, float) for v in (distortion.drift.shift, distortion.drift.shift_error))
    line = np.arange(len(shift))
    for axis, name in enumerate("xy"):
        low, high = shift[:, axis] - error[:, axis], shift[:, axis] + error[:, axis]
        ax.fill_between(line, low, high, color=MAP_COLOUR[axis], alpha=0.22, lw=0)
        ax.plot(line, shift[:, axis], color=MAP_COLOUR[axis], lw=1.6, label=f"along {name}")
    ax.axhline(0, color="0.75", lw=0.8, zorder=0)
    ax.set(xlabel="line of the scan", ylabel="shift (pm)", box_aspect=0.7, xlim=(0, len(shift) - 1))
    ax.legend(frameon=False, fontsize=9)


def reason_rows(count: Mapping[str, int]) -> Sequence[Sequence[object]]:
    """Rows of the table of refused columns: reason, how many, what it means."""
    return [[reason, number, EXPLAINED[reason]] for reason, number in count.items()]


EXPLAINED = {
    "image edge": "So near the edge of the image, or of what it shows clearly, that a part of its profile is missing.",
    "no column": "Less than 15 % as bright as its sublattice: a vacancy, or nothing where the lattice expects it.",
    "moved off its site": "Fitted farther off its lattice place than 0.35 of the nearest distance between columns.",
    "width": "Wider or narrower than its sublattice by a factor of 1.6 or more.",
    "poor fit": "The residual round it is five times that of its sublattice, or the fit gives it no error.",
    "lattice seam": "Between regions whose lattices do not continue each other, so that its index is uncertain.",
    "off the lattice": "A column that is seen but belongs to no site of the lattice: a defect, or another phase.",
    "saturated": "Its brightest pixels are clipped at the largest value of the image, so its centre is not recorded.",
    "unlike the crystal": "A and B are not as bright, one against the other, as the crystal makes them here.",
    "scan jump": "Beside a line from which on the lattice is displaced, so that its neighbours lie wrong.",
}
"""Reason -> what it means, in one line."""
