"""Detectors: weights on the diffraction plane."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.errors import InputError
from ferrojax.grid import Grid


class AnnularDetector(eqx.Module):
    """A ring from `inner` to `outer` (mrad; inf: all that is scattered further). edge: width of soft edges, mrad."""

    inner: float = eqx.field(static=True, converter=float)
    outer: float = eqx.field(static=True, converter=float)
    edge: float = eqx.field(static=True, converter=float, default=0.0)

    def __check_init__(self):
        if not 0 <= self.inner < self.outer:
            raise InputError(
                "detector",
                f"{self.inner}–{self.outer} mrad",
                "needs 0 ≤ inner < outer",
                "swap or correct the angles",
            )

    def weights(self, grid: Grid, wavelength: float) -> Float[Array, "rows cols"]:
        """Weight of every diffraction pixel, FFT order."""
        angle = grid.k * wavelength * 1e3
        if self.edge == 0:
            ring = ((angle >= self.inner) & (angle < self.outer)).astype(float)
        else:
            rise = np.clip((angle - self.inner) / self.edge + 0.5, 0, 1) if self.inner > 0 else 1.0
            ring = rise * np.clip((self.outer - angle) / self.edge + 0.5, 0, 1)
        return jnp.asarray(ring, jnp.result_type(float))
