"""Gaussian columns fitted to an image, all of them together, with the covariance of every position."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial import KDTree

X, Y, AMPLITUDE, LOG_WIDTH, E1, E2, LEVEL = range(7)
_SHAPE = np.array([LOG_WIDTH, E1, E2])
NEIGHBOURS = 10
_SHAPE_SPREAD = (1e-3, 0.3, 0.1, 0.1, 0.1)
"""How far log width and ellipticity may stray from the sublattice's median, sweep by sweep."""
_ITERATIONS = 4
_BATCH = 64


class FitPlan(eqx.Module):
    """What decides the shapes of a fit: window half-width and soft radius, px."""

    half: int = eqx.field(static=True)
    radius: float


class _Window(eqx.Module):
    """Pixels round a column and their weights, (m, m); x and y in px from the middle pixel."""

    value: Float[Array, "m m"]
    weight: Float[Array, "m m"]
    x: Float[Array, "m m"]
    y: Float[Array, "m m"]


class FittedColumns(eqx.Module):
    """parameters: (n, 7) in px and image units; covariance: (n, 2, 2) px² for white noise of unit variance;
    residual: (n, m, m) data − fit; weight: (n, m, m)."""

    parameters: Float[Array, "*n 7"]
    covariance: Float[Array, "*n 2 2"]
    residual: Float[Array, "*n m m"]
    weight: Float[Array, "*n m m"]


def gaussian_column(p: Float[Array, "7"], x: Array, y: Array) -> Array:
    """Elliptical Gaussian without its background; x, y in px from the same origin as p's."""
    dx, dy = x - p[X], y - p[Y]
    scale = jnp.exp(-p[LOG_WIDTH])
    u = scale * ((1 + p[E1]) * dx + p[E2] * dy)
    v = scale * (p[E2] * dx + (1 - p[E1]) * dy)
    return p[AMPLITUDE] * jnp.exp(-0.5 * (u**2 + v**2))


def fit_columns(
    data: Float[np.ndarray, "rows cols"],
    start: Float[np.ndarray, "n 2"],
    group: Int[np.ndarray, " n"],
    plan: FitPlan,
    width: float,
) -> FittedColumns:
    """Fit every column of an image, neighbours included.

    start: (n, 2) px (x, y).
    group: (n,) sublattice; columns of one share a prior on their shape (10 % in width).
    width: px, first guess of the Gaussian's rms radius.
    Each sweep refits every column with its NEIGHBOURS' current fits subtracted, so the sweeps converge on the
    simultaneous least-squares solution. Columns that start outside the image stay where they are, with the looks
    of their sublattice: their tails reach in. A window's background is a plane: its level is free, its slope is that of
    the levels of the columns around, because a slope of its own would mimic a shift.
    """
    n = len(start)
    level = float(np.median(data))
    scale = float(np.percentile(data, 99.5)) - level or 1.0
    padded = np.pad((data - level) / scale, plan.half).astype(np.float32)
    inside = np.pad(np.ones_like(data), plan.half).astype(np.float32)
    count = -(-n // _BATCH) * _BATCH  # few distinct shapes, so few compilations
    fill = np.concatenate([np.arange(n), np.zeros(count - n, int)])
    corner = np.round(start).astype(np.int32)[fill]
    corner = np.clip(corner, 0, np.array(data.shape[::-1]) - 1)
    parameters = np.zeros((count, 7), np.float32)
    parameters[:, :2] = start[fill]
    parameters[:, AMPLITUDE] = 0.5
    parameters[:, LOG_WIDTH] = np.log(width)
    near = _neighbours(start, missing=count)[fill]
    seen = ((start >= 0) & (start <= np.array(data.shape[::-1]) - 1)).all(1)
    at = (jnp.asarray(corner), jnp.asarray(near))
    image = (jnp.asarray(padded), jnp.asarray(inside))
    noise = np.full(count, 1e-2, np.float32)
    result = None
    for spread in _SHAPE_SPREAD:
        members = (parameters[:n][seen & (group == g)] for g in range(group.max() + 1))
        typical = np.stack([np.median(m, 0) for m in members])[group]
        parameters[:n][~seen] = np.where(np.arange(7) < 2, parameters[:n], typical)[~seen]
        prior = (jnp.asarray(typical[fill][:, _SHAPE]), jnp.asarray(noise / spread**2))
        trusted = np.where(seen, parameters[:n, LEVEL], np.nan)
        slope = _ground_slope(trusted, group, corner[:n], near[:n])[fill]
        result = _sweep(image, (jnp.asarray(parameters), jnp.asarray(slope)), at, prior, plan)
        parameters = np.array(result.parameters)
        parameters[:n][~seen, :2] = start[~seen]
        noise = np.asarray(_mean_square(result))
    assert result is not None
    parameters = parameters[:n].copy()
    parameters[:, [AMPLITUDE, LEVEL]] *= scale
    parameters[:, LEVEL] += level
    covariance = result.covariance[:n] * scale**-2
    return FittedColumns(jnp.asarray(parameters), covariance, result.residual[:n] * scale, result.weight[:n])


def _mean_square(fit: FittedColumns) -> Array:
    """(n,) variance of the residual per pixel, degrees of freedom counted."""
    weight = fit.weight.sum((1, 2))
    return (fit.weight * fit.residual**2).sum((1, 2)) / jnp.maximum(weight - 6.0, 0.2 * weight + 1e-6) + 1e-12


def _neighbours(position: np.ndarray, missing: int) -> np.ndarray:
    """(n, NEIGHBOURS) nearest columns; `missing` stands for one that does not exist."""
    _, index = KDTree(position).query(position, k=NEIGHBOURS + 1)
    index = np.asarray(index, np.int32)[:, 1:]
    return np.where(index == len(position), missing, index)


def _ground_slope(level: np.ndarray, group: np.ndarray, middle: np.ndarray, near: np.ndarray) -> np.ndarray:
    """(n, 2) background slope per px, from the levels (NaN if not known) of a column and its neighbours.

    Sublattices keep an offset of their own, because the tails of their columns differ.
    """
    for g in range(group.max() + 1):
        level = np.where(group == g, level - np.nanmedian(level[group == g]), level)
    around = np.concatenate([np.arange(len(level))[:, None], near], 1)
    exists = around < len(level)
    around = np.where(exists, around, 0)
    exists &= np.isfinite(level)[around]
    level = np.nan_to_num(level)
    share = exists / np.maximum(exists.sum(1, keepdims=True), 1)
    offset = middle[around] - (share[..., None] * middle[around]).sum(1, keepdims=True)
    rise = level[around] - (share * level[around]).sum(1, keepdims=True)
    matrix = np.einsum("nk,nki,nkj->nij", share, offset, offset) + 1e-3 * np.eye(2)
    vector = np.einsum("nk,nki,nk->ni", share, offset, rise)
    return np.linalg.solve(matrix, vector[..., None])[..., 0].astype(np.float32)


@jax.jit
def _sweep(image, state, at, shape_prior, plan) -> FittedColumns:
    """One pass over all columns with the neighbours of the pass before.

    image: padded pixels and their mask. state: parameters (n, 7) and background slopes (n, 2).
    at: middle pixel (n, 2) and neighbours (n, NEIGHBOURS); an index of n is a column of no intensity.
    shape_prior: mean (n, 3) and precision (n,).
    """
    parameters, _ = state
    known = jnp.concatenate([parameters, jnp.zeros((1, 7))])

    def one(item):
        (p, slope), (corner, around), (shape, shape_precision) = item
        local = p.at[:2].add(-corner)
        others = known[around].at[:, :2].add(-corner)
        window = _cut(image, corner, local, others, plan)
        window = eqx.tree_at(lambda w: w.value, window, window.value - slope[0] * window.x - slope[1] * window.y)
        mean = jnp.zeros(7).at[_SHAPE].set(shape)
        precision = jnp.zeros(7).at[_SHAPE].set(shape_precision)
        fitted = _levenberg_marquardt(local, window, mean, precision)
        residual, jacobian = _linearised(fitted, window)
        covariance = _position_covariance(jacobian, window.weight, precision)
        return FittedColumns(fitted.at[:2].add(corner), covariance, residual, window.weight)

    return jax.lax.map(one, (state, at, shape_prior), batch_size=_BATCH)


def _cut(image, corner, local, others, plan: FitPlan) -> _Window:
    """The window round a column without its neighbours."""
    size = 2 * plan.half + 1
    value, mask = (jax.lax.dynamic_slice(a, (corner[1], corner[0]), (size, size)) for a in image)
    step = jnp.arange(-plan.half, plan.half + 1, dtype=value.dtype)
    x, y = jnp.meshgrid(step, step, indexing="xy")
    value = value - jax.vmap(gaussian_column, (0, None, None))(others, x, y).sum(0)
    # The soft edge keeps a column that sits between pixels from gaining or losing whole pixels.
    distance = jnp.sqrt((x - local[X]) ** 2 + (y - local[Y]) ** 2)
    weight = mask * jax.nn.sigmoid((plan.radius - distance) / (0.08 * plan.radius))
    return _Window(value, weight, x, y)


def _model(p, window: _Window):
    return gaussian_column(p, window.x, window.y) + p[LEVEL]


def _linearised(p, window: _Window) -> tuple[Array, Array]:
    """Residual (m, m) and Jacobian (m, m, 7) of the model."""
    return window.value - _model(p, window), jax.jacfwd(_model)(p, window)


def _levenberg_marquardt(p, window: _Window, mean, precision) -> Array:
    """A fixed number of damped Gauss–Newton steps on weighted squares plus a Gaussian prior."""

    def cost(q):
        misfit = window.value - _model(q, window)
        return (window.weight * misfit**2).sum() + (precision * (q - mean) ** 2).sum()

    def step(_, state):
        q, damping, best = state
        residual, jacobian = _linearised(q, window)
        gradient = jnp.einsum("ij,ij,ijk->k", window.weight, residual, jacobian) - precision * (q - mean)
        unit, scale = _normal_matrix(jacobian, window.weight, precision)
        trial = q + jnp.linalg.solve(unit + damping * jnp.eye(7), gradient / scale) / scale
        trial = trial.at[:2].set(jnp.clip(trial[:2], q[:2] - 1.5, q[:2] + 1.5))
        width = jnp.clip(trial[LOG_WIDTH], q[LOG_WIDTH] - 0.3, q[LOG_WIDTH] + 0.3)
        trial = trial.at[LOG_WIDTH].set(width)
        value = cost(trial)
        better = value <= best
        q = jnp.where(better, trial, q)
        return q, jnp.where(better, damping * 0.1, damping * 10), jnp.where(better, value, best)

    return jax.lax.fori_loop(0, _ITERATIONS, step, (p, jnp.asarray(1e-3, p.dtype), cost(p)))[0]


def _normal_matrix(jacobian, weight, precision) -> tuple[Array, Array]:
    """Normal matrix with a unit diagonal, and the scale (7,) that was taken out."""
    hessian = jnp.einsum("ij,ijk,ijl->kl", weight, jacobian, jacobian) + jnp.diag(precision)
    scale = jnp.sqrt(jnp.diagonal(hessian)) + 1e-12
    return hessian / scale[:, None] / scale[None, :], scale


def _position_covariance(jacobian, weight, precision) -> Array:
    """(2, 2) px² for white noise of unit variance: the weights are a window, not inverse variances."""
    unit, scale = _normal_matrix(jacobian, weight, precision)
    gain = (jnp.linalg.inv(unit + 1e-7 * jnp.eye(7)) / scale[:, None] / scale[None, :])[:2]
    return gain @ jnp.einsum("ij,ijk,ijl->kl", weight**2, jacobian, jacobian) @ gain.T
