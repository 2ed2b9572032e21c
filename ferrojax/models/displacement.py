"""A small convolutional regression network: patch in, displacement and its covariance out."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

MIN_SCALE = 0.05
"""Smallest standard deviation that the head can state, in label units."""


class DisplacementNet(nnx.Module):
    """Patch (p, p) -> mean displacement and covariance, in the label's units.

    The mean is a linear map of the patch, which is nearly optimal for small shifts, plus what a network with two
    strided convolutions adds to it. The covariance comes from the same features through a Cholesky factor.
    """

    def __init__(self, patch: int, width: int = 64, *, rngs: nnx.Rngs):
        side = (patch + 3) // 4  # two strides of two, each rounding up
        self.linear = nnx.Linear(patch * patch, 2, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.first = nnx.Conv(1, 16, (5, 5), strides=2, rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.hidden = nnx.Linear(32 * side * side, width, rngs=rngs)
        self.mean = nnx.Linear(width, 2, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.spread = nnx.Linear(width, 3, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def features(self, patches: Float[Array, "n p p"]) -> Float[Array, "n width"]:
        """What the heads see."""
        x = nnx.gelu(self.first(patches[..., None]))
        x = nnx.gelu(self.second(x))
        return nnx.gelu(self.hidden(x.reshape(len(x), -1)))

    def __call__(self, patches: Float[Array, "n p p"]) -> tuple[Float[Array, "n 2"], Float[Array, "n 2 2"]]:
        """Mean (n, 2) and lower Cholesky factor (n, 2, 2) of the covariance."""
        features = self.features(patches)
        mean = self.linear(patches.reshape(len(patches), -1)) + self.mean(features)
        raw = self.spread(features)
        diagonal = MIN_SCALE + nnx.softplus(raw[:, :2])
        zero = jnp.zeros_like(raw[:, 2])
        factor = jnp.stack([diagonal[:, 0], zero, raw[:, 2], diagonal[:, 1]], -1).reshape(-1, 2, 2)
        return mean, factor
