"""Direction as colour: a perceptually uniform cyclic map, paler where the displacement is small."""

import cmcrameri  # noqa: F401  # pyright: ignore[reportUnusedImport] -- registers the "cmc." colour maps
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

PALE = 0.95  # grey of no displacement
STRENGTH = 0.12  # share of the direction's colour that the smallest arrow keeps


def direction_colours(displacement: np.ndarray, full: float) -> np.ndarray:
    """RGB (..., 3) of displacements (..., 2) as image (x, y), y down; `full` is the length with full colour,
    zero gives every direction its full colour.

    Angles are as seen on screen: right is 0, up is a quarter turn, so the angle is atan2(−dy, dx).
    """
    dx, dy = displacement[..., 0], displacement[..., 1]
    angle = np.arctan2(-dy, dx) / (2 * np.pi) % 1.0
    hue = np.asarray(mpl.colormaps["cmc.romaO"](np.nan_to_num(angle)))[..., :3]
    size = np.nan_to_num(np.hypot(dx, dy))[..., None]
    strength = np.clip(size / full, 0, 1) if full > 0 else np.ones_like(size)
    strength = STRENGTH + (1 - STRENGTH) * strength**0.75
    return PALE * (1 - strength) + hue * strength


def draw_wheel(ax: Axes) -> None:
    """The colour wheel: no displacement at its centre, full length at its rim."""
    axis = np.linspace(-1, 1, 301)
    disc = np.stack(np.meshgrid(axis, axis), -1)  # row index grows downwards, as in the image
    radius = np.hypot(disc[..., 0], disc[..., 1])
    alpha = np.clip((1 - radius) * 60, 0, 1)
    pixels = np.dstack([direction_colours(disc, 1.0), alpha])
    ax.imshow(pixels, extent=(-1, 1, 1, -1), interpolation="bilinear")
    ax.set(xlim=(-1.08, 1.08), ylim=(1.08, -1.08), aspect="equal")
    ax.axis("off")


def round_up(value: float) -> float:
    """The next 1, 1.5, 2, 3, 5 or 7 times a power of ten, for a scale that reads well."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    steps = np.array([1, 1.5, 2, 3, 5, 7, 10]) * power
    return float(steps[steps >= value * (1 - 1e-9)][0])
