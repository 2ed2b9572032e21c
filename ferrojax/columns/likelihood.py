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

from ferrojax.columns.fisher import gradient, normal_blocks, position_covariance, solve
from ferrojax.columns.model import ImageModel, Parameters
from ferrojax.columns.noise import FittedNoise, Noise, estimate_noise

_FIRST = ((1e-2, 3e-2), (0.3, 1e-3))
"""Spread of the shapes and damping of the first rounds."""
_DAMPING = 1e-5
_STEPS = 3
_MOVE = 0.5  # widths that a column may move in one step


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
        precision = jnp.asarray([spread**-2, *[(spread / 3) ** -2] * 2], data.dtype)
        prior = (jnp.asarray(_typical(p, shapes)), precision)
        return _climb(model, data, seen, p, noise, prior, (jnp.asarray(damping, data.dtype), jnp.asarray(steps)))

    for spread, damping in (*_FIRST, *[(shapes.spread, _DAMPING)] * (rounds - len(_FIRST))):
        p = p if tie is None else tie(p)
        p, image, _ = climb(p, spread, damping, _STEPS)
        if known is None:
            noise = estimate_noise(data - image, image, seen)
    p = p if tie is None else tie(p)
    p, image, covariance = climb(p, shapes.spread, _DAMPING, 0)
    return Fit(p, image, covariance, noise, seen)


def _typical(p: Parameters, shapes: ShapePrior) -> np.ndarray:
    """(n, 3) median shape of the trusted columns of a column's group."""
    shape = np.asarray(p.shape)
    found = shape.copy()
    for g in np.unique(shapes.group):
        mine = shapes.group == g
        if (mine & shapes.trusted).any():
            found[mine] = np.median(shape[mine & shapes.trusted], 0)
    return found


@eqx.filter_jit
def _climb(model, data, seen, p: Parameters, noise: Noise, prior, plan) -> tuple[Parameters, Array, Array]:
    """`steps` steps with one Fisher matrix, the image and, after no step at all, the covariance: one program for both,
    because compiling it takes longer than most images."""
    (mean, precision), (damping, steps) = prior, plan
    precision = jnp.broadcast_to(precision, p.shape.shape)
    image = model(p)
    normal = normal_blocks(model, p, seen / noise.variance(image), precision)

    def step(_, state):
        p, image = state
        columns, ground = gradient(model, p, seen * (data - image) / noise.variance(image))
        columns = columns.at[:, 3:].add(-precision * (p.shape - mean) * model.free[:, None])
        change, ground = solve(normal, columns, ground, damping)
        limit = _MOVE * jnp.exp(p.shape[:, :1])
        p = Parameters(
            p.position + jnp.clip(change[:, :2], -limit, limit),
            p.amplitude + change[:, 2],
            p.shape + jnp.clip(change[:, 3:], -0.2, 0.2),
            p.ground + ground,
        )
        return p, model(p)

    none = jnp.zeros((len(p.position), 2, 2), data.dtype)
    covariance = jax.lax.cond(steps == 0, position_covariance, lambda _: none, normal)
    return *jax.lax.fori_loop(0, steps, step, (p, image)), covariance
