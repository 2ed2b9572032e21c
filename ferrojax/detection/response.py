"""Response: what a detector does to a diffraction pattern, as a linear map."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Response(eqx.Module):
    """A linear map from diffraction patterns to the channels of one detector.

    Patterns are |FFT|² in FFT order on the grid that the response was made for, as fractions of the incident beam.
    Linear, so averages over phonons, focal spread and source may be taken of its output.
    """

    @abc.abstractmethod
    def __call__(self, pattern: Float[Array, "batch rows cols"]) -> Float[Array, "batch *channels"]: ...


class WeightedSum(Response):
    """One weighted sum over the pattern per channel. weights: (*channels, rows, cols), FFT order."""

    weights: Float[Array, "*channels rows cols"]

    def __call__(self, pattern: Float[Array, "batch rows cols"]) -> Float[Array, "batch *channels"]:
        exact = jax.lax.Precision.HIGHEST  # GPUs would round the factors to 10 bits
        return jnp.tensordot(pattern, self.weights, axes=((-2, -1), (-2, -1)), precision=exact)


class Rebinning(Response):
    """Sums over a rectangular raster: row @ pattern @ colᵀ. row: (ky, rows), col: (kx, cols)."""

    row: Float[Array, "ky rows"]
    col: Float[Array, "kx cols"]

    def __call__(self, pattern: Float[Array, "batch rows cols"]) -> Float[Array, "batch ky kx"]:
        return jnp.einsum("iy,byx,jx->bij", self.row, pattern, self.col, precision=jax.lax.Precision.HIGHEST)
