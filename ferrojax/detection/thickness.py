"""Signals at any thickness, from those at a few exit planes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact
from scipy.interpolate import CubicSpline

from ferrojax.checks import real_numbers
from ferrojax.errors import InputError, is_traced
from ferrojax.image import DiffractionScan, Image

FEWEST = 4
"""Exit planes that a cubic needs."""
FARTHEST_SLICE = 2.1
"""Å between an asked depth and the slice edge that was read, by default slices."""
SLACK = 1e-4
"""Å beyond the outermost planes that rounding may take a thickness."""


@overload
def at_thickness(
    stack: Image, thicknesses: Sequence[float] | np.ndarray | None, thickness: float | Float[Array | np.ndarray, "*map"]
) -> Image: ...


@overload
def at_thickness(
    stack: DiffractionScan,
    thicknesses: Sequence[float] | np.ndarray | None,
    thickness: float | Float[Array | np.ndarray, "*map"],
) -> DiffractionScan: ...


@overload
def at_thickness(
    stack: Inexact[Array, "planes *rest"],
    thicknesses: Sequence[float] | np.ndarray,
    thickness: float | Float[Array | np.ndarray, "*map"],
) -> Inexact[Array, " *rest"]: ...


def at_thickness(
    stack: Image | DiffractionScan | Inexact[Array, "planes *rest"],
    thicknesses: Sequence[float] | np.ndarray | None,
    thickness: float | Float[Array | np.ndarray, "*map"],
) -> Image | DiffractionScan | Inexact[Array, " *rest"]:
    """The signal at one thickness by cubic interpolation (not-a-knot spline) between the exit planes of a run.

    stack: Image or DiffractionScan with the planes as its leading axis, or (planes, ...) of any signal. thicknesses:
    (planes,) Å, at least four, rising, spaced as they like, where the signal was read. What `simulate` gave, and what
    is derived from it, knows that itself, from the slice edges that were really read: pass None, or what was asked for.
    thickness: Å, one value, or (rows, cols), one a pixel of a stack (planes, ..., rows, cols): a wedge.
    Differentiable in `thickness` (may be traced) and in the stack. A standard error is interpolated with the same
    weights, as if it were fully correlated between planes, which is an upper bound.
    Errors: InputError for fewer planes, planes that do not rise, or a thickness outside them (NaN where traced).
    """
    known = isinstance(stack, Image | DiffractionScan)
    data = stack.data if known else _array("stack", stack)
    inner = 2 if isinstance(stack, DiffractionScan) else 0  # a pattern's own axes come after those of a map
    planes = _planes(stack, thicknesses, data.shape[0])
    depth = None
    if not is_traced(thickness):
        asked = np.asarray(real_numbers("thickness", thickness, "give Å, one value or a map"), float)
        if not ((asked >= planes[0] - SLACK) & (asked <= planes[-1] + SLACK)).all():
            worst = asked.ravel()[np.argmax(np.abs(asked - planes.mean()))]
            remedy = f"choose {planes[0]:g} to {planes[-1]:g} Å, or simulate more planes"
            raise InputError("thickness", worst, "lies outside the exit planes", remedy)
        end = data.ndim - inner
        if asked.ndim and asked.shape != data.shape[end - asked.ndim : end]:
            raise InputError(
                "thickness", asked.shape, f"needs one value, or a map of {data.shape[end - 2 : end]}", "in Å"
            )
        depth = None if asked.ndim else (float(asked),)
    weight = _weights(planes, thickness, data.real.dtype)
    weight = weight.reshape(-1, *[1] * (data.ndim - inner - weight.ndim), *weight.shape[1:], *[1] * inner)
    read = (weight * data).sum(0)
    if not known:
        return read
    error = stack.standard_error
    error = None if error is None else (jnp.abs(weight) * error).sum(0)
    return replace(stack, data=read, standard_error=error, thickness=depth)


def _array(field: str, value: Any) -> Array:
    """An array of numbers with an axis of planes."""
    if not isinstance(value, jax.Array | np.ndarray) or value.ndim == 0 or not jnp.issubdtype(value.dtype, jnp.number):
        shown = type(value).__name__
        raise InputError(field, shown, "is no stack of planes", "pass an Image, a DiffractionScan or (planes, ...)")
    return jnp.asarray(value)


def _planes(stack, thicknesses, count: int) -> np.ndarray:
    """Where the planes were read, Å."""
    known = stack.thickness if isinstance(stack, Image | DiffractionScan) else None
    given = known if thicknesses is None else thicknesses
    if given is None:
        raise InputError("thicknesses", None, "must be given for a signal that does not carry them", "give Å")
    if np.shape(given) != (count,) or count < FEWEST:
        problem = f"needs one value for each of the {count} planes, and at least {FEWEST}"
        raise InputError("thicknesses", given, problem, "simulate with thicknesses=[...] of that length")
    planes = np.asarray(given if known is None else known, float)
    step = float(np.diff(planes).min())
    if known is not None and np.abs(np.asarray(given, float) - planes).max() > max(step, FARTHEST_SLICE):
        problem = f"are not near the depths that the stack was read at, {planes.round(2).tolist()} Å"
        raise InputError("thicknesses", list(np.asarray(given, float)), problem, "pass None: the stack knows them")
    if not (np.isfinite(planes).all() and (np.diff(planes) > 0).all()):
        raise InputError("thicknesses", planes, "must be finite and rise", "give the exit planes in order, in Å")
    return planes


def _weights(planes: np.ndarray, thickness, dtype) -> Float[Array, "planes *map"]:
    """Weight of every plane at `thickness`: the splines through the unit vectors, pieces of cubics."""
    pieces = jnp.asarray(CubicSpline(planes, np.eye(len(planes))).c, dtype)  # (4, pieces, planes), highest power first
    thickness = jnp.asarray(thickness, dtype)
    first, last = float(planes[0]), float(planes[-1])
    inside = (thickness >= first - SLACK) & (thickness <= last + SLACK)
    piece = jnp.clip(jnp.searchsorted(jnp.asarray(planes, dtype), thickness, side="right") - 1, 0, len(planes) - 2)
    s = (thickness - jnp.asarray(planes, dtype)[piece])[..., None]
    c = pieces[:, piece]
    weight = jnp.where(inside[..., None], ((c[0] * s + c[1]) * s + c[2]) * s + c[3], jnp.nan)
    return jnp.moveaxis(weight, -1, 0)
