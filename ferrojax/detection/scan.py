"""Scan: where the probe stands."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.errors import InputError


class Scan(eqx.Module):
    """Probe positions on a grid. start, end: (x, y) corners in Å, end exclusive; shape: (rows, cols)."""

    start: Float[Array, "2"]
    end: Float[Array, "2"]
    shape: tuple[int, int] = eqx.field(static=True)

    @staticmethod
    def grid(start, end, shape: tuple[int, int]) -> "Scan":
        """Pixel = (end − start)/shape; the position of pixel (row, col) is start + (col, row)·pixel."""
        rows, cols = int(shape[0]), int(shape[1])
        if rows < 1 or cols < 1:
            raise InputError("scan shape", shape, "is empty", "give (rows, cols) of at least (1, 1)")
        real = jnp.result_type(float)
        with jax.ensure_compile_time_eval():  # so that a plan can read it under jit too
            return Scan(jnp.asarray(start, real), jnp.asarray(end, real), (rows, cols))

    @property
    def position(self) -> Float[Array, "rows cols 2"]:
        """(rows, cols, 2) Å as (x, y)."""
        rows, cols = self.shape
        step = (self.end - self.start) / jnp.asarray([cols, rows])
        index = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), -1)
        return self.start + step * index

    @property
    def sampling(self) -> tuple[float, float]:
        """Å per pixel (y, x); a line scan of zero height takes the step along the line for both."""
        extent = np.asarray(self.end, float) - np.asarray(self.start, float)
        step = np.abs(extent) / np.array([self.shape[1], self.shape[0]])
        step = np.where(step > 0, step, step.max() or 1.0)
        return float(step[1]), float(step[0])
