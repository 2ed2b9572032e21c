"""Columns of an image fitted together, starting from seeds."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ferrojax.columns.fitting.likelihood import Fit, maximum_likelihood
from ferrojax.columns.fitting.model import Parameters, plan_model
from ferrojax.columns.fitting.noise import Noise
from ferrojax.columns.fitting.prior import ShapePrior
from ferrojax.columns.fitting.satellites import Satellites
from ferrojax.columns.sizes import counted
from ferrojax.errors import InputError

_COUNT, _PAIRS = 256, 1024
"""Columns and overlaps come in multiples, so that few programs are compiled."""
_IMAGES = ("image", "ground", "variance", "seen", "left")
_REACHING = 3.5
"""Widths outside the image within which a column is fitted too, if not freely."""
_HALO_REACH = 1.33
"""How much farther windows reach where columns have halos."""
_HOLLOW = 0.3
"""How much higher a rim about columns lies than their middle, over the range of both, where they are no columns."""
_LEAST_CORE = 2.0
"""Widths that count round a column in any case."""


class FitSettings(NamedTuple):
    """How columns are fitted.

    knots: px between the knots of the background.
    spread: of the columns' widths round their group's (log), a third of it for ellipticities.
    core: px; pixels farther from every column do not count (None: all do), because there a real image has what the
    model does not draw: wide tails and faint columns.
    halo: whether columns have wide tails, all alike. noise: None estimates it.
    reach: of a column's window, in widths. rounds: of four steps.
    """

    knots: float
    spread: float = 0.1
    core: float | None = None
    halo: bool = False
    noise: Noise | None = None
    reach: float = 4.5
    rounds: int = 4


class FittedColumns(NamedTuple):
    """position (n, 2) px, amplitude (n,) image units, shape (n, 3), covariance (n, 2, 2) px², background (n,) under
    every column; of the whole image (rows, cols): image, the model; variance of the noise; seen, pixels that counted.
    left: share of a pixel's noise that the fit left in its residual. noise: of the image's intensities; known: it was
    given."""

    position: np.ndarray
    amplitude: np.ndarray
    shape: np.ndarray
    covariance: np.ndarray
    background: np.ndarray
    image: np.ndarray
    variance: np.ndarray
    seen: np.ndarray
    left: np.ndarray
    noise: Noise
    known: bool

    def chosen(self, rows: np.ndarray) -> "FittedColumns":
        """The chosen columns (rows: integers or a mask)."""
        names = ("position", "amplitude", "shape", "covariance", "background")
        return self._replace(**{name: getattr(self, name)[rows] for name in names})

    @property
    def width(self) -> np.ndarray:
        """(n,) px, rms radius."""
        return np.exp(self.shape[:, 0])


def fit_columns(
    data: Float[np.ndarray, "rows cols"],
    start: Float[np.ndarray, "n 2"],
    group: Int[np.ndarray, " n"],
    settings: FitSettings,
    mask: Bool[np.ndarray, "rows cols"] | None = None,
    satellites: Satellites | None = None,
) -> FittedColumns:
    """Fit every column of an image, neighbours and background included.

    start: (n, 2) px (x, y), within about a width. group: (n,) columns that look alike. mask: pixels that count.
    Columns at the edge, and those outside the image whose tails reach in, are fitted near where they start and close to
    the looks of their group; those farther off are only drawn. satellites: of the columns in `start`, drawn too.
    """
    if satellites is not None:
        satellites = satellites._replace(first=len(start))
    inside = ((start >= 0) & (start <= np.array(data.shape[::-1]) - 1)).all(1)
    width = guess_width(data, start[inside], group[inside])
    inside &= ((start >= width) & (start <= np.array(data.shape[::-1]) - 1 - width)).all(1)
    model, first, group, inside = _plan(data, (start, satellites), group, inside, width, settings)
    level, scale = float(np.median(data)), float(np.ptp(np.percentile(data, (1, 99.5)))) or 1.0
    real = jnp.result_type(float)
    unit = np.asarray((data - level) / scale, real)
    first = _first_guess(first, unit, inside, group)
    noise = None if settings.noise is None else settings.noise.standardised(level, scale)
    shapes = ShapePrior(group, inside, settings.spread)
    seen = np.ones(data.shape, bool) if mask is None else mask
    beyond = [(0, side - n) for side, n in zip(model.size, data.shape, strict=True)]
    core = None if settings.core is None else max(settings.core, _LEAST_CORE * width)
    fit = maximum_likelihood(
        model,
        jnp.asarray(np.pad(unit, beyond)),
        first,
        shapes=shapes,
        noise=noise,
        mask=jnp.asarray(np.pad(seen, beyond)),
        core=core,
        halo=settings.halo,
        tie=satellites,
        rounds=settings.rounds if satellites is None else 3 * settings.rounds,
    )
    return _in_units(fit, len(start), data.shape, (level, scale), noise is not None)


def _plan(data, seeds, group, inside, width: float, settings: FitSettings):
    """Model, first parameters and groups, with columns of no intensity added up to a round number."""
    start, satellites = seeds
    drawn = np.zeros((0, 2)) if satellites is None else satellites.position(start)
    n = counted(len(start) + len(drawn) + 1, _COUNT) - 1  # the last is a column of no intensity
    fill = n + 1 - len(start) - len(drawn)
    position = np.concatenate([start, drawn, np.full((fill, 2), -100.0 * width)])
    outside = np.maximum(-position, position - (np.array(data.shape[::-1]) - 1)).max(1)
    free = (outside < _REACHING * width) & (np.arange(len(position)) < len(start))
    fill += len(drawn)
    inside = np.concatenate([inside, np.zeros(fill, bool)])
    group = np.concatenate([group, np.full(fill, -1)])
    model = plan_model(
        position,
        data.shape,
        width=width,
        reach=settings.reach * (_HALO_REACH if settings.halo else 1.0),
        knots=settings.knots,
        free=free,
        shared=True,
    )
    edge = np.asarray(model.edge)
    edge = edge[free[edge].all(1)]
    edge = np.concatenate([edge, np.full((counted(len(edge), _PAIRS) - len(edge), 2), n, edge.dtype)])
    model = eqx.tree_at(lambda m: m.edge, model, jnp.asarray(edge))
    real = jnp.result_type(float)
    shape = np.zeros((len(position), 3))
    shape[:, 0] = np.log(width)
    amplitude = np.where(group >= 0, 0.5, 0.0)  # satellites get theirs from their parents
    ground = np.zeros((model.rows.shape[1], model.cols.shape[1]))
    return model, Parameters(*(jnp.asarray(a, real) for a in (position, amplitude, shape, ground))), group, inside


def _first_guess(p: Parameters, data: np.ndarray, inside: np.ndarray, group: np.ndarray) -> Parameters:
    """Heights as the pixels under the columns show them, above a low level for the background."""
    low = float(np.percentile(data[:: max(1, data.shape[0] // 500), :: max(1, data.shape[1] // 500)], 10))
    column, row = np.clip(np.round(np.asarray(p.position)).astype(int), 0, np.array(data.shape[::-1]) - 1).T
    height = np.maximum(data[row, column] - low, 0.05)
    amplitude = np.array(p.amplitude)
    for g in np.unique(group[group >= 0]):
        mine = group == g
        if (mine & inside).any():
            amplitude[mine] = np.where(inside[mine], height[mine], np.median(height[mine & inside]))
    ground = jnp.full_like(p.ground, low)
    return eqx.tree_at(lambda q: (q.amplitude, q.ground), p, (jnp.asarray(amplitude, p.amplitude.dtype), ground))


def _in_units(fit: Fit, n: int, size: tuple[int, int], units: tuple[float, float], known: bool) -> FittedColumns:
    """n: columns that were asked for. size: of the image, which the fit's canvas is larger than."""
    level, scale = units
    fit = fit._replace(**{k: np.asarray(getattr(fit, k))[: size[0], : size[1]] for k in _IMAGES})
    p = fit.parameters
    position = np.asarray(p.position, float)[:n]
    ground = np.asarray(fit.ground, float)
    column, row = np.clip(np.round(position).astype(int), 0, np.array(ground.shape[::-1]) - 1).T
    return FittedColumns(
        position=position,
        amplitude=np.asarray(p.amplitude, float)[:n] * scale,
        shape=np.asarray(p.shape, float)[:n],
        covariance=np.asarray(fit.covariance, float)[:n],
        background=ground[row, column] * scale + level,
        image=np.asarray(fit.image, float) * scale + level,
        variance=np.asarray(fit.variance, float) * scale**2,
        seen=np.asarray(fit.seen) > 0,
        left=np.asarray(fit.left) * max(1 - p.ground.size / max(float(fit.seen.sum()), 1.0), 0.1),
        noise=fit.noise.standardised(-level / scale, 1 / scale),
        known=known,
    )


def guess_width(data: Float[np.ndarray, "rows cols"], position: np.ndarray, group: np.ndarray) -> float:
    """px, rms radius of the brightest group's mean column, from where it has fallen to half its height.

    Errors: InputError where that is a rim about a dark middle, as in the size of a slope.
    """
    gap = _nearest(position)
    half = max(int(np.ceil(0.6 * gap)), 2)
    at = np.round(position).astype(int)
    whole = ((at >= half) & (at < np.array(data.shape[::-1]) - half)).all(1)
    rings = [_profile(data, at[whole & (group == g)], half) for g in np.unique(group[whole])]
    if not rings:
        return float(np.clip(0.2 * gap, 0.8, 0.35 * gap))
    inner = max(2, int(0.4 * gap))  # px, nearer than any neighbour's half of the way
    ring = max(rings, key=lambda r: float(r[0] - r.min()))
    strongest = max(rings, key=lambda r: float(np.ptp(r[:inner])))[:inner]
    hollow = float(strongest.max() - strongest[0]) / max(float(np.ptp(strongest)), 1e-30)
    if hollow > _HOLLOW:
        raise InputError(
            "image",
            f"rims higher than the middle by {hollow:.0%} of their range",
            "shows columns as bright rims about a dark middle, like the magnitude of a DPC or centre-of-mass signal",
            'pass the integrated signal (iDPC) or the divergence (columns bright), with mode="iDPC" (--mode iDPC)',
        )
    height = float(ring[0] - ring.min())
    below = np.nonzero(ring - ring.min() < 0.5 * height)[0]
    if not len(below):
        return float(np.clip(0.2 * gap, 0.8, 0.35 * gap))
    r = int(below[0])
    part = (ring[r - 1] - ring.min() - 0.5 * height) / max(ring[r - 1] - ring[r], 1e-12)
    return float(np.clip((r - 1 + part) / np.sqrt(2 * np.log(2)), 0.8, 0.35 * gap))


def _profile(data: np.ndarray, at: np.ndarray, half: int) -> np.ndarray:
    """(half + 1,) mean of columns over rings a px apart."""
    step = np.arange(-half, half + 1)
    mean = data[(at[:, 1, None] + step)[:, :, None], (at[:, 0, None] + step)[:, None, :]].mean(0)
    radius = np.hypot(step[:, None], step[None])
    return np.array([mean[(radius >= r - 0.5) & (radius < r + 0.5)].mean() for r in range(half + 1)])


def _nearest(position: np.ndarray) -> float:
    """Median distance to the nearest other column, px."""
    from scipy.spatial import KDTree

    return float(np.median(KDTree(position).query(position, k=2)[0][:, 1]))
