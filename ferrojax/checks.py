"""Checks of values as they enter. What JAX is tracing has a shape but no value yet: its value is not checked."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferrojax.errors import InputError, is_traced


def any_traced(value: Any) -> bool:
    """Whether JAX is tracing the value or a part of it."""
    return any(is_traced(leaf) for leaf in jax.tree.leaves(value))


def check_numbers(
    field: str,
    value: Any,
    remedy: str,
    *,
    unit: str = "",
    shape: tuple[int, ...] = (),
    low: float = -np.inf,
    high: float = np.inf,
    above: float = -np.inf,
) -> None:
    """Refuse what is not finite real numbers of this shape with low ≤ value ≤ high and value > above, in `unit`."""
    values = real_numbers(field, value, remedy)
    if values.shape != shape:
        wanted = f"needs {shape[0]} numbers" if shape else "needs one number"
        raise InputError(field, value, f"{wanted}{_in(unit)}", remedy)
    if is_traced(values):
        return
    values = np.asarray(values, float)
    if not np.isfinite(values).all():
        raise InputError(field, value, f"must be finite{_in(unit)}", remedy)
    if (values <= above).any():
        raise InputError(field, value, f"must be {'positive' if above == 0 else f'above {above:g}'}{_in(unit)}", remedy)
    if (values < low).any():
        raise InputError(field, value, f"must be {f'at least {low:g}' if low else 'not negative'}{_in(unit)}", remedy)
    if (values > high).any():
        raise InputError(field, value, f"must be at most {high:g}{_in(unit)}", remedy)


def check_array(field: str, value: Any, shapes: Sequence[tuple[int | None, ...]], remedy: str) -> None:
    """Refuse what is no array of real, finite numbers of one of these shapes; None in a shape fits any count from 1."""
    array = real_numbers(field, value, remedy)
    if not any(_fits(array.shape, shape) for shape in shapes):
        wanted = [str(shape).replace("None", "n") for shape in shapes if shape != (1,)]
        named = " or ".join(w for w in wanted if w != "()") or "()"
        raise InputError(field, array.shape, f"needs shape {named}", remedy)
    if not is_traced(array) and not np.isfinite(np.asarray(array, float)).all():
        raise InputError(field, "NaN or infinity", "must be finite", remedy)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        n == w if w is not None else n > 0 for n, w in zip(shape, wanted, strict=True)
    )


def real_numbers(field: str, value: Any, remedy: str) -> Any:
    """The value as an array of integers or floats, of JAX where it was one or is traced; anything else is refused."""
    try:
        array = jnp.asarray(value) if isinstance(value, jax.Array) or any_traced(value) else np.asarray(value)
    except (TypeError, ValueError, OverflowError):  # rows of unequal length, objects
        raise InputError(field, value, "is no array of numbers", remedy) from None
    if not (jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)):
        shown = f"type {array.dtype}" if isinstance(value, np.ndarray | jax.Array) and array.ndim else value
        raise InputError(field, shown, "must be real numbers", remedy)
    return array


def real_number(field: str, value: Any, remedy: str, **limits: Any) -> float:
    """The value as a float where it is one finite real number within the limits of `check_numbers`."""
    _refuse_traced(field, value, remedy)
    check_numbers(field, value, remedy, **limits)
    return float(value)


def whole_number(field: str, value: Any, remedy: str, *, low: int = 1, high: float = np.inf) -> int:
    """The value as an int where it is an integer (no bool, no float) from `low` to `high`."""
    _refuse_traced(field, value, remedy)
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        span = f"from {low}" if high == np.inf else f"from {low} to {high:g}"
        raise InputError(field, value, f"must be a whole number {span}", remedy)
    return number


def positive(field: str, value: Any, unit: str) -> float:
    """The value as a float where it is one finite number above 0, in `unit`."""
    return real_number(field, value, f"give {unit}", above=0.0)


def generator(seed: Any) -> np.random.Generator:
    """NumPy's generator from a whole number, or from several, such as (seed of a plan, index)."""
    remedy = "give an int, or several, such as (seed, index)"
    if isinstance(seed, tuple | list) and seed:
        return np.random.default_rng([whole_number("seed", part, remedy, low=0) for part in seed])
    return np.random.default_rng(whole_number("seed", seed, remedy, low=0))


def whole_pair(field: str, value: Any, remedy: str) -> tuple[int, int]:
    """Two whole numbers from 1, (rows, cols)."""
    try:
        rows, cols = value
    except (TypeError, ValueError):
        raise InputError(field, value, "needs two whole numbers (rows, cols)", remedy) from None
    return whole_number(field, rows, remedy), whole_number(field, cols, remedy)


def _refuse_traced(field: str, value: Any, remedy: str) -> None:
    if any_traced(value):
        raise InputError(
            field, "a traced value", "decides shapes or tables, so it must be known before tracing", remedy
        )


def _in(unit: str) -> str:
    return f", in {unit}" if unit else ""
