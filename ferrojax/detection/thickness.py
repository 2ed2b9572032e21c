"""Signals at any thickness, from those at a few exit planes."""

from collections.abc import Sequence
from typing import overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.interpolate import CubicSpline

from ferrojax.errors import InputError, is_traced
from ferrojax.image import Image

FEWEST = 4
"""Exit planes that a cubic needs."""
SLACK = 1e-4
"""Å beyond the outermost planes that rounding may take a thickness."""


@overload
def at_thickness(
    stack: Image, thicknesses: Sequence[float] | np.ndarray, thickness: float | Float[Array, ""]
) -> Image: ...


@overload
def at_thickness(
    stack: Float[Array, "planes *rest"],
    thicknesses: Sequence[float] | np.ndarray,
    thickness: float | Float[Array, ""],
) -> Float[Array, " *rest"]: ...


def at_thickness(
    stack: Image | Float[Array, "planes *rest"],
    thicknesses: Sequence[float] | np.ndarray,
    thickness: float | Float[Array, ""],
) -> Image | Float[Array, " *rest"]:
    """The signal at one thickness by cubic interpolation (not-a-knot spline) between the exit planes of a run.

    stack: Image with the planes as its leading axis, or (planes, ...) of any signal. thicknesses: (planes,) Å, at
    least four, rising, spaced as they like: the depths of the slice edges that were read, which are where
    `simulate` rounds to. Differentiable in `thickness` (Å, may be traced) and in the stack. A standard error is
    interpolated with the same weights, as if it were fully correlated between planes, which is an upper bound.
    Errors: InputError for fewer planes, planes that do not rise, or a thickness outside them (NaN where traced).
    """
    planes = np.asarray(thicknesses, float)
    count = (stack.data if isinstance(stack, Image) else stack).shape[0]
    if planes.shape != (count,) or count < FEWEST:
        problem = f"needs one value for each of the {count} planes, and at least {FEWEST}"
        raise InputError("thicknesses", planes, problem, "simulate with thicknesses=[...] of that length")
    if not (np.isfinite(planes).all() and (np.diff(planes) > 0).all()):
        raise InputError("thicknesses", planes, "must be finite and rise", "give the exit planes in order, in Å")
    if not is_traced(thickness) and not planes[0] - SLACK <= float(thickness) <= planes[-1] + SLACK:
        remedy = f"choose {planes[0]:g} to {planes[-1]:g} Å, or simulate more planes"
        raise InputError("thickness", thickness, "lies outside the exit planes", remedy)
    if isinstance(stack, Image):
        weight = _weights(planes, thickness, stack.data.dtype)
        error = stack.standard_error
        error = None if error is None else jnp.tensordot(jnp.abs(weight), error, 1)
        return Image(jnp.tensordot(weight, stack.data, 1), stack.sampling, error, stack.name)
    return jnp.tensordot(_weights(planes, thickness, stack.dtype), stack, 1)


def _weights(planes: np.ndarray, thickness, dtype) -> Float[Array, " planes"]:
    """Weight of every plane at `thickness`: the splines through the unit vectors, pieces of cubics."""
    pieces = jnp.asarray(CubicSpline(planes, np.eye(len(planes))).c, dtype)  # (4, pieces, planes), highest power first
    thickness = jnp.asarray(thickness, dtype)
    first, last = float(planes[0]), float(planes[-1])
    inside = (thickness >= first - SLACK) & (thickness <= last + SLACK)
    piece = jnp.clip(jnp.searchsorted(jnp.asarray(planes, dtype), thickness, side="right") - 1, 0, len(planes) - 2)
    s = thickness - jnp.asarray(planes, dtype)[piece]
    c = pieces[:, piece]
    return jnp.where(inside, ((c[0] * s + c[1]) * s + c[2]) * s + c[3], jnp.nan)
