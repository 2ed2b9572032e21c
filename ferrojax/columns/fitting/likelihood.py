"""Maximum likelihood of all columns of an image together, with the covariance of every position.

Fisher scoring on the whole image: neighbours and background are fitted at once however many columns there are.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ferrojax.columns.fitting.fisher import (
    GROUND_PRECISION,
    Normal,
    gradient,
    leverage,
    normal_blocks,
    position_covariance,
    solve,
)
from ferrojax.columns.fitting.model import HALO, ImageModel, Parameters, quadratic, window_pixels
from ferrojax.columns.fitting.noise import FittedNoise, Noise, estimate_noise
from ferrojax.columns.fitting.prior import Prior, ShapePrior, known_beforehand
from ferrojax.products import exact

_SPREADS = (1e-2,)
"""Spread of the shapes in the first round: all that is sought then is what a group has in common."""
_HALO_COLUMNS, _MOST_HALO = 20, 0.5
"""Columns that are enough to tell their halo, and the largest halo there is."""
_STRANGE = 3.0
"""Standard deviations beyond which a pixel says nothing about halos."""
_FAITHFUL = 1e-2
"""Of the image's range: columns outside the image keep to what is known beforehand as if the noise were at least that,
because position, width and height of a mere tail cannot be told apart."""
_DAMPING = (1e-2, 1e-6)
"""To begin with, and at least."""
_STEPS = 4
"""A round at most."""
_CONVERGED, _FALLEN = 1e-2, 1e-3
"""A round ends where the columns that are seen whole step by less (mean square, in standard deviations) and the cost
falls by less (relative: the second matters where only misfit is left that columns at the edge make)."""
_SAME_NOISE = 0.07
"""Log of the variance: error bars want the noise, and the first round's residuals still hold more than that."""
_LEFT = 0.15
"""Least share of its noise that a pixel's residual is believed to hold."""
_HALO_SETTLED = 1e-3
_INEXACT = 1e-2
"""Relative residual at which the normal equations of a step are left: the next step sees to the rest."""
_SLOW = 0.05
"""Damping, at least, of columns at the edge and outside."""
_MOVE = 0.5
"""Widths that a column may move in one step."""


class Fit(NamedTuple):
    """parameters as fitted. Images (rows, cols): image, the model; ground, its background; variance of the noise as it
    was given or estimated; seen, 1 for pixels that counted. covariance: (n, 2, 2) px² of the position, for that noise.
    left: share of a pixel's noise that the columns leave in its residual. noise: its variance for any intensity.
    """

    parameters: Parameters
    image: Float[Array, "rows cols"]
    ground: Float[Array, "rows cols"]
    variance: Float[Array, "rows cols"]
    seen: Float[Array, "rows cols"]
    left: Float[Array, "rows cols"]
    covariance: Float[Array, "n 2 2"]
    noise: Noise


class _Scene(eqx.Module):
    """data, and where it counts; core: px round the columns (None: everywhere). trusted: as in `ShapePrior`."""

    data: Float[Array, "rows cols"]
    whole: Float[Array, "rows cols"]
    core: Float[Array, ""] | None
    trusted: Bool[Array, " n"]


class _Round(NamedTuple):
    """Where a round ended. normal: the Fisher matrix of its first step."""

    parameters: Parameters
    image: Float[Array, "rows cols"]
    seen: Float[Array, "rows cols"]
    damping: Float[Array, ""]
    settled: Bool[Array, ""]
    prior: Prior
    normal: Normal


def maximum_likelihood(
    model: ImageModel,
    data: Float[Array, "rows cols"],
    start: Parameters,
    *,
    shapes: ShapePrior,
    noise: Noise | None = None,
    mask: Bool[Array, "rows cols"] | None = None,
    core: float | None = None,
    halo: bool = False,
    tie: Callable[[Parameters], Parameters] | None = None,
    rounds: int = 4,
) -> Fit:
    """The most likely columns and background.

    start: columns within a width or so. noise: None estimates it from the residuals (level and slope).
    mask: pixels that count. core: px; pixels farther from every column do not count (None: all do).
    halo: whether columns have one, all the same. tie: called between the rounds, sets what is not free.
    rounds: of four steps, 2 or more.
    """
    whole = np.ones(data.shape, bool) if mask is None else np.asarray(mask)
    scene = _Scene(
        data,
        jnp.asarray(whole, data.dtype),
        None if core is None else jnp.asarray(core, data.dtype),
        jnp.asarray(shapes.trusted),
    )
    if halo:  # from the first round on, so that the programs of a round are compiled once
        model = eqx.tree_at(lambda m: m.halo, model, jnp.zeros(len(start.position), data.dtype), is_leaf=_is_none)
    weighing = _level_noise(0.1 * np.std(np.asarray(data)[whole]), data.dtype) if noise is None else noise
    p, damping = start, jnp.asarray(_DAMPING[0], data.dtype)
    for turn, spread in enumerate((*_SPREADS, *[shapes.spread] * (rounds - len(_SPREADS)))):
        # What lies outside the image waits until it is known what columns look like.
        drawn = ~shapes.trusted if turn <= 1 else ~np.asarray(model.free)
        p = _adopted(p, shapes, drawn) if turn else p
        p = p if tie is None else tie(p)
        free = np.asarray(model.free) & (shapes.trusted | (turn > 0))
        stage = eqx.tree_at(lambda m: m.free, model, jnp.asarray(free))
        used = weighing
        at = _climb(stage, scene, p, weighing, known_beforehand(p, start, shapes, spread), damping)
        p, image, damping = at.parameters, at.image, at.damping
        settled = bool(at.settled)
        if noise is None:
            weighing, change = _noise_after(stage, data, at, used)
            settled &= float(change) < _SAME_NOISE
        if halo and noise is None:  # bright and dark alike: tails of bright columns decide, not the dark places between
            weighing = _level_noise(np.sqrt(np.mean(np.asarray(weighing.variance(image))[whole])), data.dtype)
        if halo and turn > 0 and shapes.trusted.sum() >= _HALO_COLUMNS:
            model, p, image, step = _with_halo(model, scene, p, image, weighing, at.prior)
            settled &= abs(float(step)) < _HALO_SETTLED
        if turn >= len(_SPREADS) and tie is None and settled:
            break
    ground, variance, covariance, left = _finished(model, p, (image, at.seen), at.normal, (used, weighing))
    return Fit(p, image, ground, variance, at.seen, left, covariance, weighing)


def _is_none(leaf) -> bool:
    return leaf is None


def _level_noise(sd, dtype) -> FittedNoise:
    """The same everywhere."""
    return FittedNoise(*(jnp.asarray(v, dtype) for v in (sd**2 + 1e-30, 0.0, 0.0)))


@eqx.filter_jit
@exact
def _noise_after(
    model: ImageModel, data: Float[Array, "rows cols"], at: _Round, used: Noise
) -> tuple[FittedNoise, Float[Array, ""]]:
    """The noise as a round's residuals show it, and how much (log, mean size) the one that it used is off."""
    left = _left(model, at.parameters, at.seen / used.variance(at.image), at.normal)
    found = estimate_noise(data, at.image, at.seen, left)
    ratio = jnp.log(found.variance(at.image) / used.variance(at.image))
    return found, (at.seen * jnp.abs(ratio)).sum() / at.seen.sum()


@eqx.filter_jit
@exact
def _finished(model: ImageModel, p: Parameters, images, normal: Normal, noises: tuple[Noise, Noise]):
    """Background, variance, covariance, and what of the noise is left in the residuals: the Fisher matrix is for the
    first of the noises, the answer for the other. images: the model, and where pixels counted."""
    image, seen = images
    used, variance = (noise.variance(image) for noise in noises)
    row, col = (jnp.clip(jnp.round(p.position[:, 1 - k]).astype(int), 0, n - 1) for k, n in enumerate(image.shape))
    covariance = position_covariance(normal) * (variance / used)[row, col][:, None, None]
    return model.ground(p.ground), variance, covariance, _left(model, p, seen / used, normal)


def _left(model: ImageModel, p: Parameters, weight: Float[Array, "rows cols"], normal: Normal):
    return jnp.maximum(1 - leverage(model, p, weight, normal), _LEFT)


def _adopted(p: Parameters, shapes: ShapePrior, rows: Bool[np.ndarray, " n"]) -> Parameters:
    """The columns of these rows with the looks of their group."""
    amplitude, shape = np.array(p.amplitude), np.array(p.shape)
    for g in np.unique(shapes.group[rows]):
        known = (shapes.group == g) & shapes.trusted
        if known.any():
            mine = rows & (shapes.group == g)
            amplitude[mine], shape[mine] = np.median(amplitude[known]), np.median(shape[known], 0)
    return eqx.tree_at(lambda q: (q.amplitude, q.shape), p, (jnp.asarray(amplitude), jnp.asarray(shape)))


def _with_halo(model: ImageModel, scene: _Scene, p: Parameters, image, noise: Noise, prior):
    """Model, parameters and image one Gauss–Newton step on in the halo that all columns share, and that step."""
    assert model.halo is not None
    halo, p, image = _halo_step(model, model.halo, scene, p, image, noise, prior)
    return eqx.tree_at(lambda m: m.halo, model, halo), p, image, halo[0] - model.halo[0]


@eqx.filter_jit
@exact
def _halo_step(model: ImageModel, halo: Float[Array, " n"], scene: _Scene, p: Parameters, image, noise: Noise, prior):
    data = scene.data
    weight = scene.whole / noise.variance(image)
    weight = jnp.where(weight * (data - image) ** 2 < _STRANGE**2, weight, 0.0)  # a column that was missed has no say
    normal = normal_blocks(model, p, weight, prior.precision, prior.member)
    x, y = window_pixels(model, p.position.dtype)
    wide = jax.vmap(lambda q, s, x, y: jnp.exp(-0.5 * quadratic(q, s, x, y) / HALO**2))(p.position, p.shape, x, y)
    change = model.add(p.amplitude[:, None, None] * wide)
    slope = gradient(model, p, weight * change)
    follow = solve(normal, *slope, jnp.asarray(1e-6, change.dtype))
    rest = _uphill(model, p, weight * (data - image), prior)
    square = (weight * change**2).sum() - sum((a * b).sum() for a, b in zip(slope, follow, strict=True))
    right = (weight * change * (data - image)).sum() - sum((a * b).sum() for a, b in zip(rest, follow, strict=True))
    step = right / (square + 1e-4 * (weight * change**2).sum())
    step = jnp.clip(halo[0] + step, 0.0, _MOST_HALO) - halo[0]

    def tried(state):
        step, *kept, _, count = state
        there = eqx.tree_at(lambda m: m.halo, model, halo + step)
        moved = _moved(p, -step * follow[0], -step * follow[1], prior.mean)
        image = there(moved)
        better = _cost(model, moved, weight * (data - image) ** 2, prior) < before
        kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), (halo + step, moved, image), tuple(kept))
        return 0.5 * step, *kept, better, count + 1

    before = _cost(model, p, weight * (data - image) ** 2, prior)
    first = (step, halo, p, image, jnp.asarray(False), jnp.asarray(0))
    return jax.lax.while_loop(lambda s: ~s[-2] & (s[-1] < _STEPS), tried, first)[1:4]


@eqx.filter_jit
@exact
def _climb(model: ImageModel, scene: _Scene, p: Parameters, noise: Noise, prior, damping) -> _Round:
    """Steps with one Fisher matrix."""
    data, trusted = scene.data, scene.trusted
    image = model(p)
    seen = scene.whole if scene.core is None else scene.whole * model.near(p.position, scene.core)
    weight = seen / noise.variance(image)
    typical = (scene.whole * noise.variance(image)).sum() / scene.whole.sum()
    outside = jnp.maximum(1.0, _FAITHFUL**2 / typical)
    prior = prior.firmer(jnp.where(trusted, 1.0, outside))
    normal = normal_blocks(model, p, weight, prior.precision, prior.member)
    slow = jnp.where(trusted, 0.0, _SLOW)[:, None]

    def step(state):
        p, image, damping, best, _, count = state
        uphill = _uphill(model, p, seen * (data - image) / noise.variance(image), prior)
        move, ground = solve(normal, *uphill, damping, slow=slow, tolerance=_INEXACT)
        trial = _moved(p, move, ground, prior.mean)
        picture = model(trial)
        value = _cost(model, trial, weight * (data - picture) ** 2, prior)
        # Weights that follow the image make the cost no exact measure: only a clear loss is refused.
        better = value < 1.001 * best
        p, image = jax.tree.map(lambda a, b: jnp.where(better, a, b), (trial, picture), (p, image))
        unit = jnp.minimum(value / seen.sum(), 1.0)  # of the noise assumed, which the first round can but guess
        near = (move * uphill[0] * trusted[:, None]).sum() < _CONVERGED * unit * trusted.sum()
        done = better & near & (best - value < _FALLEN * best)
        damping = jnp.where(better, jnp.maximum(0.05 * damping, _DAMPING[1]), 20 * damping + 1e-4)
        return p, image, damping, jnp.where(better, value, best), done, count + 1

    at = _cost(model, p, weight * (data - image) ** 2, prior)
    first = (p, image, damping, at, jnp.asarray(False), jnp.asarray(0))
    p, image, damping, _, settled, _ = jax.lax.while_loop(lambda s: ~s[-2] & (s[-1] < _STEPS), step, first)
    return _Round(p, image, seen, damping, settled, prior, normal)


def _cost(model: ImageModel, p: Parameters, squares: Float[Array, "rows cols"], prior: Prior) -> Float[Array, ""]:
    """Weighted squares and what the prior adds."""
    off = prior.off(p) * model.free[:, None]
    return squares.sum() + (prior.precision * off**2).sum() + GROUND_PRECISION * (p.ground**2).sum()


def _uphill(model: ImageModel, p: Parameters, weighted: Float[Array, "rows cols"], prior: Prior) -> tuple[Array, Array]:
    """Minus half the gradient of the cost, for weighted residuals."""
    columns, ground = gradient(model, p, weighted)
    return columns - prior.precision * prior.off(p) * model.free[:, None], ground - GROUND_PRECISION * p.ground


def _moved(p: Parameters, columns: Float[Array, "n 6"], ground: Float[Array, "ky kx"], mean) -> Parameters:
    """The step, with columns kept from jumping."""
    limit = jnp.column_stack(
        [*[_MOVE * jnp.exp(p.shape[:, 0])] * 2, jnp.abs(mean[:, 2]) + 1e-3, *[jnp.full(len(mean), 0.2)] * 3]
    )
    columns = jnp.clip(columns, -limit, limit)
    return Parameters(
        p.position + columns[:, :2], p.amplitude + columns[:, 2], p.shape + columns[:, 3:], p.ground + ground
    )
