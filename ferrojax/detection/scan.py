"""Scan: where the probe stands."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.checks import any_traced, check_numbers, whole_pair
from ferrojax.errors import InputError, is_traced
from ferrojax.image import FINEST

FARTHEST = 1e5
"""Å; a corner farther off is in another unit (pm)."""


class Scan(eqx.Module):
    """Probe positions on a grid. start, end: (x, y) corners in Å, end exclusive; shape: (rows, cols).

    Pixel = (end − start)/shape; the position of pixel (row, col) is start + (col, row)·pixel. Corners may be traced.
    """

    start: Float[Array, "2"]
    end: Float[Array, "2"]
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(self, start: Any, end: Any, shape: tuple[int, int]):
        self.shape = whole_pair("scan shape", shape, "give (rows, cols) of at least (1, 1)")
        for field, corner in (("start", start), ("end", end)):
            remedy = "give the corner's (x, y) in Å: 0.4 nm is 4"
            check_numbers(field, corner, remedy, unit="Å", shape=(2,), low=-FARTHEST, high=FARTHEST)
        real = jnp.result_type(float)
        with jax.ensure_compile_time_eval():  # so that a plan can read it under jit too
            self.start, self.end = jnp.asarray(start, real), jnp.asarray(end, real)
        if not any_traced((start, end)):
            self._check_steps()

    @staticmethod
    def grid(start: Any, end: Any, shape: tuple[int, int]) -> "Scan":
        """The scan of `shape` (rows, cols) from corner `start` to corner `end`, (x, y) in Å, end exclusive."""
        return Scan(start, end, shape)

    def _check_steps(self) -> None:
        extent = np.asarray(self.end, float) - np.asarray(self.start, float)
        for axis, span, count in zip("xy", extent, self.shape[::-1], strict=True):
            shown = f"{span:g} Å along {axis} for {count} positions"
            if span == 0 and count > 1:
                raise InputError("scan", shown, "puts them all on one place", "move `end`, or ask for one row or col")
            if span < 0 and min(self.shape) > 1:  # an image would be mirrored, its centre of mass would not
                raise InputError("scan", shown, "runs backwards", "swap start and end, and flip what comes out")
            if 0 < abs(span) < FINEST * count:
                raise InputError("scan", shown, f"steps are below {FINEST:g} Å", "give start and end in Å")

    @property
    def position(self) -> Float[Array, "rows cols 2"]:
        """(rows, cols, 2) Å as (x, y)."""
        rows, cols = self.shape
        step = (self.end - self.start) / jnp.asarray([cols, rows])
        index = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), -1)
        return self.start + step * index

    @property
    def sampling(self) -> tuple[float, float] | tuple[Float[Array, ""], Float[Array, ""]]:
        """Å per pixel (y, x), as scalars of JAX where a corner is traced; a line scan of zero height takes the step
        along the line for both, a single position 1."""
        traced = is_traced(self.start) or is_traced(self.end)
        start, end = (c if traced else np.asarray(c, float) for c in (self.start, self.end))
        x, y = abs(end - start) / np.array(self.shape[::-1])
        if traced:
            y, x = (jnp.where(a > 0, a, jnp.where(b > 0, b, 1.0)) for a, b in ((y, x), (x, y)))
            return y, x
        return float(y or x or 1.0), float(x or y or 1.0)
