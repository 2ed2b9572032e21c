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
    thickness: Å of specimen behind every simulated image, that of the leading axis where there are several; None: not
    known.
    """

    data: Float[Array, "*stack rows cols"]
    sampling: Float[Array, "2"]
    standard_error: Float[Array, "*stack rows cols"] | None
    name: str = eqx.field(static=True)
    thickness: tuple[float, ...] | None = eqx.field(static=True)

    def __init__(self, data, sampling, standard_error=None, name: str = "image", thickness=None):
        self.thickness = None if thickness is None else tuple(float(t) for t in thickness)
        self.data = _real(data)
        if self.data.ndim < 2:
            raise InputError("image", self.data.shape, "needs two axes (rows, cols)", "pass a 2-D array")
        self.sampling = _steps("sampling", sampling, "Å", self.data.dtype)
        self.standard_error = None if standard_error is None else jnp.asarray(standard_error)
        self.name = name


class DiffractionScan(eqx.Module):
    """Diffraction patterns of every scan position (4D-STEM), or a stack of such scans.

    data: (..., rows, cols, ky, kx), the zero beam in the centre of the (ky, kx) array, between pixels where a count
    is even; any intensity unit per pixel.
    sampling: (2,) Å per scan step as (y, x). angular_sampling: (2,) mrad per pixel as (y, x).
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

    def __init__(self, data, sampling, angular_sampling, standard_error=None, name: str = "scan", thickness=None):
        self.thickness = None if thickness is None else tuple(float(t) for t in thickness)
        self.data = _real(data)
        if self.data.ndim < 4:
            problem = "needs four axes (rows, cols, ky, kx)"
            raise InputError("diffraction scan", self.data.shape, problem, "pass a 4-D array")
        self.sampling = _steps("sampling", sampling, "Å", self.data.dtype)
        self.angular_sampling = _steps("angular_sampling", angular_sampling, "mrad", self.data.dtype)
        self.standard_error = None if standard_error is None else jnp.asarray(standard_error)
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
        moments = [self.data.sum(-2) @ x, self.data.sum(-1) @ y]
        return Image(jnp.stack(moments, -3) / total[..., None, :, :], self.sampling, None, self.name)


def _real(data) -> Array:
    data = jnp.asarray(data)
    return data if jnp.issubdtype(data.dtype, jnp.floating) else data.astype(jnp.float32)


def _steps(field: str, value, unit: str, dtype) -> Array:
    step = np.asarray(value, dtype=float) if not isinstance(value, Array) else value
    if step.shape != (2,):
        raise InputError(field, value, f"needs two values (y, x) in {unit} per pixel", "e.g. (0.2, 0.2)")
    if isinstance(step, np.ndarray) and not (np.isfinite(step).all() and (step > 0).all()):
        raise InputError(field, value, f"must be positive, in {unit} per pixel", "e.g. (0.2, 0.2)")
    return jnp.asarray(step, dtype=dtype)


def saturated_pixels(data, minimum: bool = False) -> np.ndarray:
    """Where the detector or a file format cut off the intensity: bool like data (..., rows, cols).

    minimum: test the smallest value too; only for images without vacuum, whose equal pixels look the same.
    An extreme value is a cut-off where at least 8 pixels have it and more than twice as many as any of the
    five values next to it: a histogram of counts, Poisson or not, falls off towards its ends, a cut one piles up.
    Unseen: clipping before frames were averaged or the image was filtered. A noise-free image whose brightest part
    is exactly constant is taken for saturated.
    """
    data = np.asarray(data)
    cut = np.zeros(data.shape, bool)
    finite = data[np.isfinite(data)]
    if _piles_up(finite):
        cut |= data == finite.max()
    if minimum and _piles_up(-finite):
        cut |= data == finite.min()
    return cut


def without_spikes(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """data (rows, cols) with hot and dead pixels replaced by the median round them, and where (bool) they were.

    A spike lies farther outside the range of all but a thousandth of the pixels than that range is wide, and stands
    out of its eight neighbours by more than half of it: no column is so narrow, and no count so unlikely.
    """
    from scipy import ndimage

    low, high = np.quantile(data, (0.001, 0.999))
    wide = max(high - low, 1e-12 * max(abs(high), abs(low)))
    out = (data > high + wide) | (data < low - wide)
    if not out.any():
        return data, out
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    around = ndimage.median_filter(data, footprint=ring, mode="mirror")
    out &= np.abs(data - around) > 0.5 * wide
    return np.where(out, around, data), out


def _piles_up(values: np.ndarray) -> bool:
    """Whether the largest of the values is far more frequent than the five next to it."""
    if not values.size or (at_top := int((values == values.max()).sum())) < 8:
        return False
    most = 0
    for _ in range(5):
        values = values[values < values.max()]
        if not values.size:
            break
        most = max(most, int((values == values.max()).sum()))
    return at_top > 2 * most > 0
