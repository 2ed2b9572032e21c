"""From a noise-free periodic image to what a microscope records: scan geometry, jitter, drift, counts."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ferrojax.checks import check_array, check_numbers, whole_number, whole_pair
from ferrojax.errors import InputError, is_traced

MOST_COUNTS = 1e9
"""Of the mean of a pixel: beyond, 32-bit integers overflow."""
UPSAMPLING = 4
"""Band-limited images are refined by this factor before linear interpolation (error below 0.5 %)."""


class ScanGeometry(eqx.Module):
    """How the scan grid lies on the specimen.

    shape: (rows, cols). sampling: (y, x) Å per pixel. rotation: rad, of the crystal's +x axis in the image
    (atan2(+row, +col), so positive turns towards +row). jitter: rms in Å of each line's shift along x.
    drift: (x, y) Å per line. All but shape may be traced.
    Errors: InputError for what is not finite, sampling that is not positive, a negative jitter, degrees.
    """

    shape: tuple[int, int] = eqx.field(static=True)
    sampling: Float[Array, "2"]
    rotation: Float[Array, ""]
    jitter: Float[Array, ""]
    drift: Float[Array, "2"]

    def __init__(self, shape: Any, sampling: Any, rotation: Any = 0.0, jitter: Any = 0.0, drift: Any = (0.0, 0.0)):
        self.shape = whole_pair("shape", shape, "give (rows, cols)")
        check_numbers("sampling", sampling, "give (y, x)", unit="Å per pixel", shape=(2,), above=0.0)
        full_turn = 2 * np.pi + 1e-6
        check_numbers("rotation", rotation, "give rad: 30° is 0.52", unit="rad", low=-full_turn, high=full_turn)
        check_numbers("jitter", jitter, "give the rms shift of a line", unit="Å", low=0.0)
        check_numbers("drift", drift, "give (x, y) per line, 0.01 is much", unit="Å", shape=(2,))
        kind = jnp.result_type(float)
        self.sampling, self.rotation, self.jitter, self.drift = (
            jnp.asarray(value, kind) for value in (sampling, rotation, jitter, drift)
        )


def scan_positions(key: Key[Array, ""], geometry: ScanGeometry) -> Float[Array, "rows cols 2"]:
    """Where on the specimen (x, y Å, crystal axes) each pixel is recorded."""
    _check_key(key)
    rows, cols = geometry.shape
    r, c = jnp.arange(rows), jnp.arange(cols)
    shift = geometry.jitter * jax.random.normal(key, (rows,))
    x = c[None] * geometry.sampling[1] + (shift + r * geometry.drift[0])[:, None]
    y = jnp.broadcast_to((r * (geometry.sampling[0] + geometry.drift[1]))[:, None], x.shape)
    cos, sin = jnp.cos(geometry.rotation), jnp.sin(geometry.rotation)
    return jnp.stack([cos * x + sin * y, -sin * x + cos * y], -1)


def blurred(image: Float[Array, "rows cols"], box, sigma: Float[Array, "2"], factor: int = 1) -> Array:
    """Periodic image convolved with a Gaussian source (rms (x, y) in Å) and refined `factor` times.

    box: (width, height) Å. Pixel (0, 0) stays where it is, so refined pixel (i, j) lies at (i, j) / factor. Exact for a
    band-limited image; what an even count has at its Nyquist frequency is taken as a cosine.
    """
    check_array("image", image, [(None, None)], "give (rows, cols) of one period")
    check_numbers("box", box, "give (width, height) of the period", unit="Å", shape=(2,), above=0.0)
    check_numbers("sigma", sigma, "give the rms of the source (x, y)", unit="Å", shape=(2,), low=0.0)
    factor = whole_number("factor", factor, "give a whole number of fine pixels per pixel, e.g. 4")
    rows, cols = image.shape
    ky, kx = np.fft.fftfreq(rows, box[1] / rows), np.fft.fftfreq(cols, box[0] / cols)
    envelope = jnp.exp(-2 * jnp.pi**2 * ((sigma[1] * ky[:, None]) ** 2 + (sigma[0] * kx[None]) ** 2))
    spectrum = jnp.fft.fft2(image) * envelope
    for axis in (0, 1):
        spectrum = _zero_padded(spectrum, axis, factor)
    return jnp.fft.ifft2(spectrum).real * factor**2


def _zero_padded(spectrum: Array, axis: int, factor: int) -> Array:
    """The spectrum in FFT order, `factor` times as many frequencies along the axis; an even count's Nyquist term is
    shared between +½ and −½, so that the image stays real."""
    if factor == 1:
        return spectrum
    n = spectrum.shape[axis]
    half = n // 2
    if n % 2 == 0:
        nyquist = np.expand_dims(np.arange(n) == half, 1 - axis)
        spectrum = jnp.where(nyquist, spectrum / 2, spectrum)
    low, high = (jax.lax.slice_in_dim(spectrum, *span, axis=axis) for span in ((0, half + 1), (n - half, n)))
    gap = list(spectrum.shape)
    gap[axis] = factor * n - (2 * half + 1)
    return jnp.concatenate([low, jnp.zeros(gap, spectrum.dtype), high], axis)


def record(
    key: Key[Array, ""],
    image: Float[Array, "rows cols"],
    box,
    geometry: ScanGeometry,
    sigma: Float[Array, "2"],
) -> Float[Array, "scan_rows scan_cols"]:
    """Noise-free scan of a periodic image: source size, rotation, jitter and drift."""
    fine = blurred(image, box, sigma, UPSAMPLING)
    position = scan_positions(key, geometry)
    index = jnp.stack([position[..., 1] / box[1] * fine.shape[0], position[..., 0] / box[0] * fine.shape[1]])
    return jax.scipy.ndimage.map_coordinates(fine, list(index), order=1, mode="wrap")


def expose(
    key: Key[Array, ""], image: Float[Array, "rows cols"], dose: float, background: float = 0.0
) -> Float[Array, "rows cols"]:
    """Poisson counts; dose: mean counts per pixel, background: its constant part as a fraction of the mean.

    Errors: InputError for an image without intensity, a dose that is not positive, a background outside 0 to 1.
    """
    _check_key(key)
    check_array("image", image, [(None, None)], "give (rows, cols)")
    check_numbers("dose", dose, "give the mean of a pixel", unit="counts", above=0.0, high=MOST_COUNTS)
    check_numbers("background", background, "give its part of the mean, 0 to 1", low=0.0, high=1.0)
    if not is_traced(image) and float(jnp.mean(image)) <= 0:
        raise InputError("image", "mean not above 0", "has no intensity to count", "give a signal that is not negative")
    signal = (1 - background) * image / image.mean() + background
    return jax.random.poisson(key, dose * jnp.maximum(signal, 0)).astype(image.dtype)


def _check_key(key: Any) -> None:
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0):
        shown = f"{type(key).__name__} {key}" if not isinstance(key, jax.Array) else f"an array of {key.dtype}"
        raise InputError("key", shown, "is no random key of JAX", "give jax.random.key(0)")
