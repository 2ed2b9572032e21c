"""The image model of column fitting: elliptical Gaussians, with a halo, on one smooth background.

A column is drawn in a window of its own and the windows are added up; the background is a tensor product of
B-splines. The image is a pure function of `Parameters`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from scipy.interpolate import BSpline
from scipy.spatial import KDTree

from ferrojax.columns.sizes import canvas, is_small, rounded_up

HALO = 2.0
"""Width of the halo over that of the column."""
_PAIRS = 1.45
"""Of a window's reach: columns nearer than that overlap; beyond, what shapes share is below 0.01 of their own."""
MAX_GROUND = 2000
"""Background coefficients at most: their normal matrix is dense."""


class Parameters(eqx.Module):
    """position: (n, 2) px (x, y). amplitude: (n,) image units. shape: (n, 3) log rms width (px) and two
    ellipticities. ground: (ky, kx) spline coefficients, image units."""

    position: Float[Array, "n 2"]
    amplitude: Float[Array, " n"]
    shape: Float[Array, "n 3"]
    ground: Float[Array, "ky kx"]


class ImageModel(eqx.Module):
    """What is fixed in a fit.

    corner: (n, 2) px (x, y), the first pixel of every column's window. rows, cols: background splines at every
    pixel. free: (n,) columns that are fitted; the others are only drawn. edge: (pairs, 2) columns that overlap.
    halo: None, or (n,) height of a Gaussian HALO times as wide under every column, over the column's own: a probe has
    tails, and thermal diffuse scattering does, and what a heavy column spreads moves a light one beside it.
    base: (n, 2) first background spline (x, y) that a column's window meets, of `splines` an axis.
    size: of the image, or of the canvas that it is in the first corner of, (rows, cols). window: px a side.
    stride: px a side of the squares whose pixels the Fisher matrix takes together.
    """

    corner: Int[Array, "n 2"]
    rows: Float[Array, "rows ky"]
    cols: Float[Array, "cols kx"]
    free: Bool[Array, " n"]
    halo: Float[Array, " n"] | None
    edge: Int[Array, "pairs 2"]
    base: Int[Array, "n 2"]
    size: tuple[int, int] = eqx.field(static=True)
    window: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)
    splines: tuple[int, int] = eqx.field(static=True)

    @property
    def pad(self) -> int:
        """px of margin round the image in which windows may lie."""
        return self.window

    def columns(self, p: Parameters) -> Float[Array, "n window window"]:
        """Every column in its window."""
        x, y = window_pixels(self, p.position.dtype)
        return jax.vmap(column)(p.position, p.amplitude, p.shape, self.halo, x, y)

    def add(self, windows: Float[Array, "n window window"]) -> Float[Array, "rows cols"]:
        """The windows added up to an image; what lies outside it is dropped."""
        pad, (rows, cols) = self.pad, self.size
        whole = jnp.zeros((rows + 2 * pad, cols + 2 * pad), windows.dtype)
        numbers = lax.ScatterDimensionNumbers((1, 2), (), (0, 1))
        whole = lax.scatter_add(whole, self._start, windows, numbers, mode=lax.GatherScatterMode.CLIP)
        return whole[pad : pad + rows, pad : pad + cols]

    def cut(self, image: Float[Array, "rows cols"]) -> Float[Array, "n window window"]:
        """The windows out of an image, zero outside it: the transpose of `add`."""
        whole = jnp.pad(image, self.pad)
        return jax.vmap(lambda at: lax.dynamic_slice(whole, at, (self.window,) * 2))(self._start)

    @property
    def _start(self) -> Int[Array, "n 2"]:
        """(n, 2) row and column of the windows in the padded image."""
        return self.corner[:, ::-1] + self.pad

    def near(self, position: Float[Array, "n 2"], radius: Float[Array, ""]) -> Float[Array, "rows cols"]:
        """1 within `radius` px of a column, 0 beyond, with an edge as soft as a tenth of it: a column that sits between
        pixels must not gain or lose whole ones."""
        x, y = window_pixels(self, position.dtype)
        square = (x - position[:, 0, None])[:, None, :] ** 2 + (y - position[:, 1, None])[:, :, None] ** 2
        cover = jax.nn.sigmoid((radius - jnp.sqrt(square)) / (0.1 * radius))
        whole = jnp.zeros(tuple(n + 2 * self.pad for n in self.size), cover.dtype)
        numbers = lax.ScatterDimensionNumbers((1, 2), (), (0, 1))
        whole = lax.scatter_max(whole, self._start, cover, numbers, mode=lax.GatherScatterMode.CLIP)
        return whole[self.pad : self.pad + self.size[0], self.pad : self.pad + self.size[1]]

    def __call__(self, p: Parameters) -> Float[Array, "rows cols"]:
        """The image."""
        return self.add(self.columns(p)) + self.ground(p.ground)

    def ground(self, coefficients: Float[Array, "ky kx"]) -> Float[Array, "rows cols"]:
        """The background."""
        return self.rows @ coefficients @ self.cols.T


def window_pixels(model: ImageModel, dtype) -> tuple[Array, Array]:
    """x and y (n, window) px of every window's columns and rows of pixels."""
    step = jnp.arange(model.window)
    x, y = (model.corner[:, k, None] + step for k in (0, 1))
    return x.astype(dtype), y.astype(dtype)


def column(position: Float[Array, "2"], amplitude, shape: Float[Array, "3"], halo, x: Array, y: Array) -> Array:
    """A column on pixels x (cols,) and y (rows,); exp(shape[0]) is its rms width (px) where it is round."""
    return amplitude * profile(quadratic(position, shape, x, y), halo)[0]


def quadratic(position: Float[Array, "2"], shape: Float[Array, "3"], x: Array, y: Array) -> Array:
    """Squared distance (rows, cols) in units of the width."""
    dx, dy = x[None, :] - position[0], y[:, None] - position[1]
    a, b, c = curvature(shape)
    return a * dx**2 + 2 * b * dx * dy + c * dy**2


def profile(square: Array, halo) -> tuple[Array, Array]:
    """Height by squared distance, and −2 times its derivative."""
    core = jnp.exp(-0.5 * square)
    if halo is None:
        return core, core
    wide = halo * jnp.exp(-0.5 * square / HALO**2)
    return core + wide, core + wide / HALO**2


def curvature(shape: Float[Array, "3"]) -> tuple[Array, Array, Array]:
    """xx, xy and yy (px⁻²) of the quadratic form of a Gaussian of that shape."""
    k, e1, e2 = jnp.exp(-2 * shape[0]), shape[1], shape[2]
    return k * ((1 + e1) ** 2 + e2**2), 2 * k * e2, k * ((1 - e1) ** 2 + e2**2)


def plan_model(
    position: Float[np.ndarray, "n 2"],
    size: tuple[int, int],
    *,
    width: float,
    reach: float = 4.5,
    knots: float = np.inf,
    free: Bool[np.ndarray, " n"] | None = None,
    shared: bool = False,
) -> ImageModel:
    """Windows, overlaps and background of a fit that starts at `position` (px) in an image of that size.

    width: px, a column's rms. reach: of the windows, in widths; what a Gaussian has beyond it is not drawn (4e-5 of
    its height at 4.5). knots: px between the background's knots (inf: a constant; more where there would be too many).
    shared: whether programs are shared with images of about that size: windows and backgrounds are rounded up (of small
    images, where it is worth it), and the model's image is the whole `canvas`.
    """
    stride = max(1, int(width / 1.5))
    window = round((2 * int(np.ceil(reach * width)) + 1) / stride) * stride
    if shared and is_small(size):
        window = -(-rounded_up(window) // stride) * stride
    bound = np.array(size[::-1]) + window // 2
    corner = np.clip(np.round(position), -(window // 2), bound).astype(np.int32) - window // 2
    free = np.ones(len(position), bool) if free is None else free
    pairs = KDTree(position).query_pairs(min(_PAIRS * reach * width, window), output_type="ndarray").astype(np.int32)
    step = max(knots, float(np.sqrt(size[0] * size[1] / MAX_GROUND)))
    (rows, y_step), (cols, x_step) = (_splines(n, step) for n in size)
    if shared:
        rows, cols = (_widened(m, side) for m, side in zip((rows, cols), canvas(size), strict=True))
    met = [rounded_up(_met(window, s)) if shared else _met(window, s) for s in (x_step, y_step)]
    count = tuple(min(q, m.shape[1]) for q, m in zip(met, (cols, rows), strict=True))
    first = [np.floor(np.maximum(corner[:, k], 0) / s) for k, s in ((0, x_step), (1, y_step))]
    last = [m.shape[1] - c for m, c in zip((cols, rows), count, strict=True)]
    base = np.stack([np.clip(f, 0, end) for f, end in zip(first, last, strict=True)], 1).astype(np.int32)
    real = jnp.result_type(float)
    return ImageModel(
        corner=jnp.asarray(corner),
        rows=jnp.asarray(rows, real),
        cols=jnp.asarray(cols, real),
        free=jnp.asarray(free),
        halo=None,
        edge=jnp.asarray(pairs.reshape(-1, 2)),
        base=jnp.asarray(base),
        size=(len(rows), len(cols)),
        window=window,
        stride=stride,
        splines=(count[0], count[1]),
    )


def _widened(splines: np.ndarray, side: int) -> np.ndarray:
    """As many pixels as the canvas has, and a number of splines that is shared; what is added is zero."""
    pixels, k = splines.shape
    more = 0 if k == 1 else (rounded_up(k, 8) if k < 32 else -(-k // 4) * 4) - k
    return np.pad(splines, ((0, side - pixels), (0, more)))


def _met(window: int, step: float) -> int:
    """Splines that a window can meet along an axis with knots `step` px apart."""
    return 1 if np.isinf(step) else 4 + int(np.ceil(window / step))


def _splines(n: int, knots: float) -> tuple[np.ndarray, float]:
    """Cubic B-splines (n, k) with knots at most `knots` px apart, and the step; a constant where that is beyond n."""
    if knots >= n:
        return np.ones((n, 1)), np.inf
    pieces = int(np.ceil((n - 1) / knots))
    t = np.linspace(0, n - 1, pieces + 1)
    t = np.concatenate([[0.0] * 3, t, [n - 1.0] * 3])
    return BSpline.design_matrix(np.arange(n, dtype=float), t, 3).toarray(), (n - 1) / pieces
