"""Data with calibration, nothing else."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.errors import InputError


class Image(eqx.Module):
    """A scanned image, or a stack of them.

    data: (..., rows, cols), leading axes such as thickness first; any intensity unit.
    sampling: (2,) Å per pixel as (y, x).
    standard_error: like data, where it is known (frozen phonons), else None.
    name: where it comes from, for messages and reports.
    """

    data: Float[Array, "*stack rows cols"]
    sampling: Float[Array, "2"]
    standard_error: Float[Array, "*stack rows cols"] | None
    name: str = eqx.field(static=True)

    def __init__(self, data, sampling, standard_error=None, name: str = "image"):
        self.data = jnp.asarray(data)
        if not jnp.issubdtype(self.data.dtype, jnp.floating):
            self.data = self.data.astype(jnp.float32)
        if self.data.ndim < 2:
            raise InputError("image", self.data.shape, "needs two axes (rows, cols)", "pass a 2-D array")
        step = np.asarray(sampling, dtype=float) if not isinstance(sampling, Array) else sampling
        if step.shape != (2,):
            raise InputError("sampling", sampling, "needs two values (y, x) in Å per pixel", "e.g. (0.2, 0.2)")
        if isinstance(step, np.ndarray) and not (np.isfinite(step).all() and (step > 0).all()):
            raise InputError("sampling", sampling, "must be positive, in Å per pixel", "e.g. (0.2, 0.2)")
        self.sampling = jnp.asarray(step, dtype=self.data.dtype)
        self.standard_error = None if standard_error is None else jnp.asarray(standard_error)
        self.name = name
