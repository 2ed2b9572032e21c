"""The image that columns of one look a sublattice make: what single lines are compared with."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import ndimage
from scipy.spatial import KDTree

from ferrojax.columns.sizes import canvas, counted, is_small, rounded_up
from ferrojax.products import exact

_REACH = 3.0  # rms radii of a column within which its misfit counts
_DRAWN = 4.0  # rms radii within which a column is drawn
_COUNT = 256  # columns are drawn in multiples of so many, so that few programs are compiled
_LEAST_SHARE = 1e-6  # of pixels that hold a measurement, for the ground among them
_GROUND = 2.0  # nearest distances between columns over which the ground is smooth


class ColumnShape(eqx.Module):
    """Round Gaussians: position_px (n, 2) px (x, y), amplitude (n,), width_px (n,) px, rms radius."""

    position_px: Float[Array, "n 2"]
    amplitude: Float[Array, " n"]
    width_px: Float[Array, " n"]


def rendered_columns(columns: ColumnShape, shape: tuple[int, int], half: int) -> Float[Array, "rows cols"]:
    """The image of the columns on a ground of zero; half: px, half-width of each one's window (static)."""
    pad = 2 * half + 1
    step = jnp.arange(-half, half + 1)
    middle = jnp.round(jax.lax.stop_gradient(columns.position_px)).astype(int)
    offset = columns.position_px - middle

    def profile(distance, width):
        return jnp.exp(-0.5 * ((step - distance) / width) ** 2)

    x, y = (jax.vmap(profile)(offset[:, i], columns.width_px) for i in (0, 1))
    patch = columns.amplitude[:, None, None] * y[:, :, None] * x[:, None, :]
    row, col = (jnp.clip(middle[:, i, None] + step, -pad, shape[1 - i] + pad - 1) + pad for i in (1, 0))
    canvas = jnp.zeros((shape[0] + 2 * pad, shape[1] + 2 * pad), patch.dtype)
    canvas = canvas.at[row[:, :, None], col[:, None, :]].add(patch)
    return canvas[pad:-pad, pad:-pad]


@exact
def common_misfit(
    residual: Float[np.ndarray, "rows cols"], columns: ColumnShape, group: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "rows cols"]:
    """What the columns of a group all leave in the residual, as an image to add to the model.

    A model column that is too round, too wide or without tails leaves the same pattern at every column; a line that
    crosses more upper than lower halves would take it for a shift. The mean pattern, in units of the amplitude and
    weighted by it, moves no line on its own, because the columns lie at all heights against the lines or, in rows
    along them, share lines that jitter on their own.
    """
    position = np.asarray(columns.position_px, float)
    amplitude, width = np.asarray(columns.amplitude, float), np.asarray(columns.width_px, float)
    gap = float(np.median(KDTree(position).query(position, k=2)[0][:, 1]))
    half = int(np.ceil(min(_REACH * width.max(), 0.5 * gap)))  # a neighbour has its own
    step = np.arange(-half, half + 1)
    near = step[:, None] ** 2 + step**2 <= half**2
    result = np.zeros((residual.shape[0] + 2 * half, residual.shape[1] + 2 * half))
    middle = np.round(position).astype(int)
    inside = ((middle >= half) & (middle < np.array(residual.shape[::-1]) - half)).all(1)
    for name in np.unique(group[inside]):
        own = np.nonzero(inside & (group == name))[0]
        at = position[own][:, None, None] + np.stack(np.meshgrid(step, step), -1)
        seen = ndimage.map_coordinates(residual, [at[..., 1], at[..., 0]], order=1)
        pattern = near * np.einsum("n,nij->ij", amplitude[own], seen) / (amplitude[own] ** 2).sum()
        for k in np.nonzero(group == name)[0]:
            x, y = middle[k]
            if 0 <= x < residual.shape[1] and 0 <= y < residual.shape[0]:
                moved = ndimage.shift(pattern, (position[k] - middle[k])[::-1], order=1)
                result[y : y + 2 * half + 1, x : x + 2 * half + 1] += amplitude[k] * moved
    return result[half:-half, half:-half]


def column_model(
    data: Float[np.ndarray, "rows cols"],
    columns: ColumnShape,
    group: Int[np.ndarray, " n"],
    trusted: Bool[np.ndarray, "rows cols"] | None = None,
) -> Float[np.ndarray, "rows cols"]:
    """The image of the columns on a smooth ground, with what the columns of a group all leave over.

    trusted: pixels that hold a measurement (None: all); what others hold has no part in it.

    One shape a sublattice is right for lines: shapes fitted column by column would take their jitter up.
    """
    position = np.asarray(columns.position_px, float)
    gap = float(np.median(KDTree(position).query(position, k=2)[0][:, 1]))
    half = int(np.ceil(_DRAWN * float(np.max(np.asarray(columns.width_px)))))
    size = (data.shape[0], data.shape[1])
    half = rounded_up(half) if is_small(size) else half
    fill = counted(len(position), _COUNT) - len(position)  # columns of no intensity
    kind = jnp.result_type(float)
    padded = ColumnShape(
        jnp.asarray(np.pad(position, ((0, fill), (0, 0))), kind),
        jnp.asarray(np.pad(np.asarray(columns.amplitude, float), (0, fill)), kind),
        jnp.asarray(np.pad(np.asarray(columns.width_px, float), (0, fill), constant_values=1.0), kind),
    )
    drawn = np.asarray(_drawn(padded, canvas(size), half), float)[: size[0], : size[1]]
    weight = np.ones(size) if trusted is None else trusted.astype(float)
    ground, share = (ndimage.gaussian_filter(a, _GROUND * gap) for a in (weight * (data - drawn), weight))
    model = drawn + ground / np.maximum(share, _LEAST_SHARE)
    return model + common_misfit(weight * (data - model), columns, group)


_drawn = jax.jit(rendered_columns, static_argnums=(1, 2))
