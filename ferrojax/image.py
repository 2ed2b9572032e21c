"""Data with calibration, nothing else."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.checks import check_numbers, real_numbers
from ferrojax.errors import InputError

FINEST = 1e-4
"""Å per pixel; a finer step is in another unit (m, µm)."""
FAINTEST = 1e-7
"""Largest value below which an image cannot be analysed: products of its squares would leave single precision."""
LEAST_CONTRAST, ROUNDING = 1e-4, 1e-12
"""Range of the values over the largest: below the first single precision holds less than 1700 steps of it, below the
second it is rounding of a constant."""


class Image(eqx.Module):
    """A scanned image, or a stack of them.

    data: (..., rows, cols), leading axes such as thickness first; any intensity unit and byte order; integers and half
    precision become single precision.
    sampling: (2,) Å per pixel as (y, x); one value stands for both.
    standard_error: like data, where it is known (frozen phonons), else None.
    name: where it comes from, for messages and reports.
    thickness: Å of specimen behind every simulated image, that of the leading axis where there are several; None: not
    known.
    Errors: InputError for masked or complex values, and for a contrast that single precision would lose on its offset.
    """

    data: Float[Array, "*stack rows cols"]
    sampling: Float[Array, "2"]
    standard_error: Float[Array, "*stack rows cols"] | None
    name: str = eqx.field(static=True)
    thickness: tuple[float, ...] | None = eqx.field(static=True)

    def __init__(self, data: Any, sampling: Any, standard_error: Any = None, name="image", thickness: Any = None):
        self.thickness = None if thickness is None else tuple(float(t) for t in thickness)
        self.data = _intensities("image", data, ("rows", "cols"))
        self.sampling = _steps("sampling", sampling, "Å", self.data.dtype, FINEST)
        self.standard_error = None if standard_error is None else _errors(standard_error, self.data.shape)
        self.name = name


class DiffractionScan(eqx.Module):
    """Diffraction patterns of every scan position (4D-STEM), or a stack of such scans.

    data: (..., rows, cols, ky, kx), the zero beam in the centre of the (ky, kx) array, between pixels where a count
    is even; any intensity unit per pixel.
    sampling: (2,) Å per scan step as (y, x). angular_sampling: (2,) mrad per pixel as (y, x). One value: both.
    standard_error: like data, where it is known, else None.
    name: where it comes from, for messages and reports.
    thickness: Å of specimen behind every simulated scan, that of the leading axis where there are several.
    """

    data: Float[Array, "*stack rows cols ky kx"]
    sampling: Float[Array, "2"]
    angular_sampling: Float[Array, "2"]
    standard_error: Float[Array, "*stack rows cols ky kx"] | None
    name: str = eqx.field(static=True)
    thickness: tuple[float, ...] | None = eqx.field(static=True)

    def __init__(
        self, data: Any, sampling: Any, angular_sampling: Any, standard_error: Any = None, name: str = "scan",
        thickness: Any = None,
    ):  # fmt: skip
        self.thickness = None if thickness is None else tuple(float(t) for t in thickness)
        self.data = _intensities("diffraction scan", data, ("rows", "cols", "ky", "kx"))
        self.sampling = _steps("sampling", sampling, "Å", self.data.dtype, FINEST)
        self.angular_sampling = _steps("angular_sampling", angular_sampling, "mrad", self.data.dtype)
        self.standard_error = None if standard_error is None else _errors(standard_error, self.data.shape)
        self.name = name

    @property
    def angle(self) -> tuple[Float[Array, " ky"], Float[Array, " kx"]]:
        """mrad of the pixels' centres along y and x."""
        ky, kx = ((np.arange(n) - (n - 1) / 2) for n in self.data.shape[-2:])
        return self.angular_sampling[0] * ky, self.angular_sampling[1] * kx

    def centre_of_mass(self) -> Image:
        """Deflection in mrad, (*stack, 2, rows, cols), x first: first moments of the whole array over its sum."""
        y, x = self.angle
        total = self.data.sum((-2, -1))
        moments = [(self.data.sum(-2) * x).sum(-1), (self.data.sum(-1) * y).sum(-1)]
        return Image(jnp.stack(moments, -3) / total[..., None, :, :], self.sampling, None, self.name, self.thickness)


def _intensities(field: str, data: Any, axes: tuple[str, ...]) -> Array:
    """Real numbers in single precision or better, with these last axes and at least one pixel."""
    array = _real(field, data)
    if array.ndim < len(axes):
        count = {2: "two", 4: "four"}[len(axes)]
        problem = f"needs {count} axes ({', '.join(axes)})"
        raise InputError(field, array.shape, problem, f"pass a {len(axes)}-D array")
    if 0 in array.shape:
        raise InputError(field, array.shape, "holds no pixel", "check how it was cut or read")
    return array


def _errors(value: Any, shape: tuple[int, ...]) -> Array:
    array = _real("standard_error", value)
    if array.shape != shape:
        problem = f"needs the shape of the data, {shape}"
        raise InputError("standard_error", array.shape, problem, "give one standard error per value, or None")
    return array


def _real(field: str, data: Any) -> Array:
    if isinstance(data, np.ma.MaskedArray):
        if np.ma.is_masked(data):
            shown = f"{np.ma.count_masked(data)} masked values"
            raise InputError(field, shown, "would lose its mask", "cut the masked part off, or pass data.filled(...)")
        data = data.data
    array = real_numbers(field, data, "pass intensities: the abs() of a wave, a mask as .astype(float)")
    if isinstance(array, np.ndarray):
        native = np.float64 if array.dtype == np.longdouble else array.dtype.newbyteorder("=")
        array = _held(field, array.astype(native, copy=False))
    array = jnp.asarray(array)
    single = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize >= 4
    return array if single else array.astype(jnp.float32)


def _held(field: str, array: np.ndarray) -> np.ndarray:
    """The array, if the precision that JAX computes in holds its contrast; a small contrast on an offset is lost."""
    dtype = jnp.result_type(float)
    if array.dtype.itemsize <= 2 or jnp.finfo(dtype).bits >= 64 or not np.isfinite(array).any():
        return array
    low, high = float(np.nanmin(array)), float(np.nanmax(array))
    largest = max(abs(low), abs(high))
    if np.isfinite(largest) and largest > float(jnp.finfo(dtype).max):
        raise InputError(field, f"values up to {largest:g}", "is beyond single precision", "divide it by its maximum")
    if array.dtype != np.float32 and ROUNDING * largest < high - low < LEAST_CONTRAST * largest:
        shown = f"{high - low:.3g} on {largest:.6g}"
        problem = "varies by too little on its offset for single precision"
        raise InputError(field, shown, problem, "subtract the offset: data - data.min()")
    return array


def _steps(field: str, value: Any, unit: str, dtype: Any, finest: float = 0.0) -> Array:
    remedy = f"give (y, x) in {unit} per pixel, e.g. (0.2, 0.2)"
    given = real_numbers(field, value, remedy)
    shape = (2,) if given.ndim else ()
    check_numbers(field, value, remedy, unit=f"{unit} per pixel", shape=shape, above=0.0, low=finest)
    return jnp.broadcast_to(jnp.asarray(given, dtype), (2,))
