"""Losses: supervised on simulation, unsupervised on real patches."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def gaussian_nll(
    mean: Float[Array, "n 2"], factor: Float[Array, "n 2 2"], label: Float[Array, "n 2"]
) -> Float[Array, " n"]:
    """Negative log-likelihood of labels under N(mean, factor·factorᵀ), factor lower triangular."""
    r = label - mean
    z0 = r[:, 0] / factor[:, 0, 0]
    z1 = (r[:, 1] - factor[:, 1, 0] * z0) / factor[:, 1, 1]
    return 0.5 * (z0**2 + z1**2) + jnp.log(factor[:, 0, 0]) + jnp.log(factor[:, 1, 1])


def half_turn(patches: Float[Array, "n p p"]) -> Float[Array, "n p p"]:
    """The patch rotated by 180° about its centre: exact for any even point spread; displacements change sign."""
    return patches[:, ::-1, ::-1]


def even_alignment(source: Float[Array, "n f"], target: Float[Array, "m f"]) -> Float[Array, ""]:
    """Distance of the means and covariances of two feature sets (deep CORAL, Sun & Saenko 2016, with means).

    Pass features averaged over the half turn: they hold no sign of a displacement, so that a net polarization of
    the target cannot be aligned away.
    """
    mean = jnp.mean((source.mean(0) - target.mean(0)) ** 2)

    def covariance(x):
        x = x - x.mean(0)
        return x.T @ x / len(x)

    return mean + jnp.mean((covariance(source) - covariance(target)) ** 2)
