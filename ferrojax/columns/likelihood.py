"""Maximum likelihood of all columns of an image together, with the covariance of every position.

Fisher scoring on the whole image: neighbours and background are fitted at once however many columns there are.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ferrojax.columns.fisher import GROUND_PRECISION, gradient, normal_blocks, position_covariance, solve
from ferrojax.columns.model import ImageModel, Parameters
from ferrojax.columns.noise import FittedNoise, Noise, estimate_noise

_FIRST = ((1e-2, 3e-2), (0.3, 1e-3))
"""Spread of the shapes and damping of the first rounds."""
_DAMPING = 1e-5
_STEPS = 3
_MOVE = 0.5
"""Widths that a column may move in one step."""
_LOOSE = 2.0
"""Spread of positions round their start (widths) and of amplitudes round their group's (relative): it matters only to a
column that the pixels hardly show."""


class Fit(NamedTuple):
    """parameters as fitted. image: the model. covariance: (n, 2, 2) px² of the position, for the noise as it was
    given or estimated. noise: which that was. seen: (rows, cols) 1 for pixels that counted."""

    parameters: Parameters
    image: Float[Array, "rows cols"]
    covariance: Float[Array, "n 2 2"]
    noise: Noise
    seen: Float[Array, "rows cols"]


class ShapePrior(NamedTuple):
    """Columns of one group share their shape up to `spread` (log width; ellipticities a third of it).

    group: (n,) int. trusted: (n,) columns whose median is the group's shape.
    """

    group: Int[np.ndarray, " n"]
    trusted: Bool[np.ndarray, " n"]
    spread: float = 0.1


def maximum_likelihood(
    model: ImageModel,
    data: Float[Array, "rows cols"],
    start: Parameters,
    *,
    shapes: ShapePrior,
    noise: Noise | None = None,
    mask: Bool[Array, "rows cols"] | None = None,
    tie: Callable[[Parameters], Parameters] | None = None,
    rounds: int = 3,
) -> Fit:
    """The most likely columns and background.

    start: columns within a width or so. noise: None estimates it from the residuals (level and slope). mask: pixels that
    count. tie: called between the rounds, sets what is not free. rounds: of three steps, 3 or more.
    """
    seen = jnp.ones_like(data) if mask is None else jnp.asarray(mask, data.dtype)
    known = noise
    if noise is None:
        flat = jnp.zeros((), data.dtype)
        noise = FittedNoise(1e-2 * jnp.var(data) + 1e-30, flat, flat)
    p = start

    def climb(p, spread, damping, steps):
        prior = _prior(p, start, shapes, spread)
        return _climb(model, data, seen, p, noise, prior, (jnp.asarray(damping, data.dtype), jnp.asarray(steps)))

    for spread, damping in (*_FIRST, *[(shapes.spread, _DAMPING)] * (rounds - len(_FIRST))):
        p = p if tie is None else tie(p)
        p, image, _ = climb(p, spread, damping, _STEPS)
        if known is None:
            noise = estimate_noise(data - image, image, seen)
    p = p if tie is None else tie(p)
    p, image, covariance = climb(p, shapes.spread, _DAMPING, 0)
    return Fit(p, image, covariance, noise, seen)


def _prior(p: Parameters, start: Parameters, shapes: ShapePrior, spread: float) -> tuple[Array, Array]:
    """Mean and precision (n, 6) of what is known of the columns beforehand."""
    mean = np.column_stack([start.position, p.amplitude, p.shape]).astype(float)
    loose = np.ones((len(mean), 3))
    for g in np.unique(shapes.group):
        mine = shapes.group == g
        if (mine & shapes.trusted).any():
            mean[mine, 2:] = np.median(mean[mine & shapes.trusted, 2:], 0)
            loose[mine] = _LOOSE * np.array([*[np.exp(mean[mine, 3][0])] * 2, np.abs(mean[mine, 2][0]) + 1e-6])
    sd = np.column_stack([loose, np.broadcast_to([spread, spread / 3, spread / 3], (len(mean), 3))])
    return jnp.asarray(mean, start.position.dtype), jnp.asarray(sd**-2.0, start.position.dtype)


@eqx.filter_jit
def _climb(model, data, seen, p: Parameters, noise: Noise, prior, plan) -> tuple[Parameters, Array, Array]:
    """`steps` steps with one Fisher matrix, the image and, after no step at all, the covariance: one program for both,
    because compiling it takes longer than most images."""
    (mean, precision), (damping, steps) = prior, plan
    image = model(p)
    weight = seen / noise.variance(image)
    normal = normal_blocks(model, p, weight, precision)

    def off(p):
        return (jnp.column_stack([p.position, p.amplitude, p.shape]) - mean) * model.free[:, None]

    def cost(p, image):
        prior = (precision * off(p) ** 2).sum() + GROUND_PRECISION * (p.ground**2).sum()
        return (weight * (data - image) ** 2).sum() + prior

    def step(_, state):
        p, image, damping, best = state
        columns, ground = gradient(model, p, seen * (data - image) / noise.variance(image))
        columns, ground = columns - precision * off(p), ground - GROUND_PRECISION * p.ground
        trial = _moved(p, *solve(normal, columns, ground, damping), mean)
        picture = model(trial)
        value = cost(trial, picture)
        # Weights that follow the image make the cost no exact measure: only a clear loss is refused.
        better = value < 1.001 * best
        p, image = jax.tree.map(lambda a, b: jnp.where(better, a, b), (trial, picture), (p, image))
        return p, image, jnp.where(better, damping, 30 * damping + 1e-3), jnp.where(better, value, best)

    none = jnp.zeros((len(p.position), 2, 2), data.dtype)
    covariance = jax.lax.cond(steps == 0, position_covariance, lambda _: none, normal)
    p, image, _, _ = jax.lax.fori_loop(0, steps, step, (p, image, damping, cost(p, image)))
    return p, image, covariance


def _moved(p: Parameters, columns: Float[Array, "n 6"], ground: Float[Array, "ky kx"], mean) -> Parameters:
    """The step, with columns kept from jumping."""
    limit = jnp.column_stack([*[_MOVE * jnp.exp(p.shape[:, 0])] * 2, jnp.abs(mean[:, 2]) + 1e-3, *[jnp.full(len(mean), 0.2)] * 3])
    columns = jnp.clip(columns, -limit, limit)
    return Parameters(
        p.position + columns[:, :2], p.amplitude + columns[:, 2], p.shape + columns[:, 3:], p.ground + ground
    )
