"""Displacement of B against the centroid of its A neighbours, with its covariance."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ferrojax.products import exact


@jax.jit
@exact
def displacement_operator(
    a_position: Float[Array, "*batch k 2"],
    a_covariance: Float[Array, "*batch k 2 2"],
    b_position: Float[Array, "*batch 2"],
    b_covariance: Float[Array, "*batch 2 2"],
    weight: Float[Array, " k"],
) -> tuple[Float[Array, "*batch 2"], Float[Array, "*batch 2 2"]]:
    """d = r_B − Σ_k w_k r_A,k and cov(d) = C_B + Σ_k w_k² C_A,k; units of the positions.

    weight: (k,) sums to 1. Errors of different columns are taken as independent inside a cell; neighbouring
    cells share A columns, so their displacements do correlate. Differentiable in everything.
    """
    displacement = b_position - jnp.einsum("k,...ki->...i", weight, a_position)
    covariance = b_covariance + jnp.einsum("k,...kij->...ij", weight**2, a_covariance)
    return displacement, covariance
