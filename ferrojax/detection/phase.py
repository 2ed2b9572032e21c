"""Phase contrast from deflections: DPC, and its integration to iCoM and iDPC images."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.checks import check_numbers
from ferrojax.detection.detectors import SegmentedDetector
from ferrojax.errors import InputError, is_traced
from ferrojax.image import Image
from ferrojax.products import EXACT

BOUNDARIES = ("periodic", "mirror")
LONGEST = 1.0
"""Å, of a wave: electrons of 10 keV have 0.12."""


def differential_phase_contrast(segmented: Image, detector: SegmentedDetector, semiangle: Any) -> Image:
    """Deflection of the beam in mrad, (*stack, 2, rows, cols), x first, from the sectors of a SegmentedDetector.

    segmented: (*stack, segments, rows, cols). semiangle: mrad of the illumination. Taken as a uniform disc of that
    radius shifted as a whole, whose rim lies on the detector: exact to first order for a field that varies little
    across the probe. A sector of middle u gains 2 sin(π/segments)/(π semiangle)·u per mrad of shift, hence
    shift = π·semiangle·(1 − (inner/semiangle)²)/(segments·sin(π/segments)) · Σ u·signal / Σ signal.
    """
    if not isinstance(detector, SegmentedDetector):
        raise InputError(
            "detector", type(detector).__name__, "has no sectors", "pass the SegmentedDetector that recorded"
        )
    _check_image("segmented", segmented)
    n = detector.segments
    if n < 4:
        raise InputError("segments", n, "too few for differential phase contrast", "use 4 or more")
    shape = segmented.data.shape
    if len(shape) < 3 or shape[-3] != n:
        raise InputError("image", shape, f"needs {n} sectors before its (rows, cols)", "pass what the detector gave")
    rim = (detector.inner + detector.edge / 2, detector.outer - detector.edge / 2)
    semiangle = _on_the_detector(semiangle, rim)
    direction = jnp.asarray(np.stack([np.cos(detector.azimuth), np.sin(detector.azimuth)]), segmented.data.dtype)
    balance = jnp.einsum("cs,...syx->...cyx", direction, segmented.data, precision=EXACT) / segmented.data.sum(
        -3, keepdims=True
    )
    scale = jnp.pi * semiangle * (1 - (detector.inner / semiangle) ** 2) / (n * np.sin(np.pi / n))
    return Image(scale * balance, segmented.sampling, None, f"{segmented.name} DPC", segmented.thickness)


def integrated_centre_of_mass(
    deflection: Image, wavelength: Any, *, boundary: str = "periodic", high_pass: Any = 0.0
) -> Image:
    """iCoM phase in rad, (*stack, rows, cols), zero mean, from a CentreOfMass image (of a DPC image: iDPC).

    deflection: (*stack, 2, rows, cols) mrad, x first; wavelength: Å; boundary, high_pass: as `integrate_gradient`.
    For a phase object and a detector that collects everything this is the object's phase averaged over the probe's
    intensity (Lazić, Bosch & Lazar 2016), and positive at atoms.
    """
    _check_image("deflection", deflection)
    shape = deflection.data.shape
    if len(shape) < 3 or shape[-3] != 2:
        raise InputError("image", shape, "needs the (x, y) deflections before its (rows, cols)", "use CentreOfMass")
    remedy = "give Å, e.g. probe.wavelength, no energy"
    check_numbers("wavelength", wavelength, remedy, unit="Å", above=0.0, high=LONGEST)
    gradient = deflection.data * (2e-3 * jnp.pi / wavelength)
    phase = integrate_gradient(gradient, deflection.sampling, boundary=boundary, high_pass=high_pass)
    return Image(phase, deflection.sampling, None, f"integrated {deflection.name}", deflection.thickness)


def _check_image(field: str, image: Any) -> None:
    if not isinstance(image, Image):
        remedy = "pass the Image that the detector gave, or fj.Image(data, sampling)"
        raise InputError(field, type(image).__name__, "is no Image", remedy)


def integrate_gradient(
    gradient: Float[Array, "*stack 2 rows cols"], sampling: Any, *, boundary: str = "periodic", high_pass: Any = 0.0
) -> Float[Array, "*stack rows cols"]:
    """The zero-mean image whose gradient is nearest to the given one (least squares, by Fourier transform).

    gradient: per Å along (x, y). sampling: Å per pixel (y, x). boundary: "periodic", for a scan that spans a periodic
    box, or "mirror", which continues the image by its reflections. high_pass: frequency q in 1/Å below which the
    image is damped, by k²/(k² + q²).
    """
    if boundary not in BOUNDARIES:
        raise InputError("boundary", boundary, "unknown", f"choose from {', '.join(BOUNDARIES)}")
    if gradient.ndim < 3 or gradient.shape[-3] != 2:
        raise InputError(
            "gradient", gradient.shape, "needs (x, y) before its (rows, cols)", "pass (..., 2, rows, cols)"
        )
    check_numbers("high_pass", high_pass, "give a frequency in 1/Å, or 0: 0.5/nm is 0.05", unit="1/Å", low=0.0)
    check_numbers("sampling", sampling, "give (y, x) in Å per pixel", unit="Å per pixel", shape=(2,), above=0.0)
    rows, cols = gradient.shape[-2:]
    gx, gy = gradient[..., 0, :, :], gradient[..., 1, :, :]
    if boundary == "mirror":
        gx = _reflect(_reflect(gx, -1, -1), -2, 1)
        gy = _reflect(_reflect(gy, -2, -1), -1, 1)
    ky = _derivative_frequency(gx.shape[-2], gx.dtype)[:, None] / sampling[0]
    kx = _derivative_frequency(gx.shape[-1], gx.dtype)[: gx.shape[-1] // 2 + 1] / sampling[1]
    square = kx**2 + ky**2 + high_pass**2
    along = -1j * (kx * jnp.fft.rfft2(gx) + ky * jnp.fft.rfft2(gy)) / (2 * jnp.pi)
    spectrum = jnp.where(square > 0, along / jnp.where(square > 0, square, 1), 0)
    return jnp.fft.irfft2(spectrum, s=gx.shape[-2:])[..., :rows, :cols]


def _on_the_detector(semiangle: Any, rim: tuple[float, float]) -> Any:
    """The semi-angle (mrad), refused where the disc's rim is not on the detector; as the program runs if traced."""
    check_numbers("semiangle", semiangle, "give mrad: 0.0214 rad is 21.4", unit="mrad", above=0.0)
    problem = f"the rim of the disc must lie on the detector, {rim[0]:g}–{rim[1]:g} mrad"
    remedy = "choose inner < semiangle < outer"
    if is_traced(semiangle):
        known = jax.lax.stop_gradient(semiangle)
        return eqx.error_if(semiangle, ~((known > rim[0]) & (known < rim[1])), f"semiangle: {problem}; {remedy}")
    if not rim[0] < float(semiangle) < rim[1]:
        raise InputError("semiangle", float(semiangle), problem, remedy)
    return semiangle


def _reflect(values, axis: int, sign: int):
    return jnp.concatenate([values, sign * jnp.flip(values, axis)], axis)


def _derivative_frequency(n: int, dtype) -> Float[Array, " n"]:
    """FFT frequencies per pixel, with 0 at the Nyquist frequency, where a real image's derivative vanishes."""
    k = np.fft.fftfreq(n)
    return jnp.asarray(np.where(k == -0.5, 0.0, k), dtype)
