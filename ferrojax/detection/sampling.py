"""Which positions to compute for a scan, and how its pixels follow from them.

The intensity that a probe of semi-angle α records is band-limited to 2α/λ as a function of its position, whatever the
specimen. A scan of the whole periodic box is therefore computed at that limit and resampled exactly, and the source
size, a convolution over the scan, multiplies the same Fourier series. Elsewhere the pixels asked for are computed,
with a margin around them where a source has to be convolved.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.detection.scan import FARTHEST, Scan
from ferrojax.errors import InputError, is_traced
from ferrojax.optics import Probe
from ferrojax.products import EXACT

OVERSAMPLED, DAMPED = 1.5, 0.01
"""How much denser than the band limit positions are, where a source leaves more than this of the modulation there."""
TRACED_ANGLE = 40.0
"""mrad: a semi-angle that is traced may be as large where a source has to be convolved."""
MARGIN = 1.5
"""Å around a partial scan, beyond 4 times the source's rms: where the band-limited kernel's tail has died out."""


class ScanSampling(eqx.Module):
    """Positions (rows, cols, 2) Å (x, y) to compute, and matrices (out, in) from them to the pixels; None: as they are.

    barred: why a traced source must be zero here; None: it need not. widest: mrad, the semi-angle that they bear where
    it is traced; None: they are for the one that is known.
    """

    position: Float[Array, "rows cols 2"]
    rows: Float[Array, "rows_out rows"] | None
    cols: Float[Array, "cols_out cols"] | None
    barred: str | None = eqx.field(static=True)
    widest: float | None = eqx.field(static=True, default=None)

    def guarded(self) -> "ScanSampling":
        """The same; positions that are traced are checked as the program runs."""
        if not is_traced(self.position):
            return self
        known = jax.lax.stop_gradient(self.position)
        bad = ~(jnp.abs(known) <= 2 * FARTHEST)
        problem = f"scan: its corners must be finite and within {FARTHEST:g} Å"
        return eqx.tree_at(lambda s: s.position, self, eqx.error_if(self.position, bad.any(), problem))

    def resample(self, signal: Float[Array, "rows cols *rest"]) -> Float[Array, "rows_out cols_out *rest"]:
        """From the computed positions to the scan's pixels."""
        if self.rows is not None:
            signal = jnp.tensordot(self.rows, signal, 1, precision=EXACT)
        if self.cols is not None:
            signal = jnp.moveaxis(jnp.tensordot(self.cols, signal, ((1,), (1,)), precision=EXACT), 0, 1)
        return signal


def scan_sampling(scan: Scan, probe: Probe, box: tuple[float, float], exact_positions: bool = False) -> ScanSampling:
    """Plan the positions of a scan; with `exact_positions` (a tilt for each) every pixel is computed as it stands.

    Where a scan is traced, or on part of the box the semi-angle or the source, a traced source may only be zero.
    """
    source = is_traced(probe.source_size) or bool(np.asarray(probe.source_size).any())
    fixed = is_traced(scan.start) or is_traced(scan.end)
    if not (fixed or exact_positions):
        angle = TRACED_ANGLE if is_traced(probe.semiangle) else float(probe.semiangle) + probe.edge / 2
        if not is_traced(probe.semiangle):
            return _planned(scan, probe, box, source, angle)
        if source and _whole(scan, box).all():
            return dataclasses.replace(_planned(scan, probe, box, source, angle), widest=angle)
    what = "a tilt for each position" if exact_positions else "a traced scan or semi-angle"
    if source and not is_traced(probe.source_size):
        raise InputError("source_size", "set", f"cannot be combined with {what}", "blur the signal afterwards")
    return ScanSampling(scan.position, None, None, f"cannot be combined with {what}" if source else None)


def _whole(scan: Scan, box: tuple[float, float]) -> np.ndarray:
    """Along which axes (x, y) a scan spans the periodic box."""
    return np.abs(np.abs(np.asarray(scan.end - scan.start)) - np.asarray(box)) < 1e-3 * np.asarray(box)


def _planned(scan: Scan, probe: Probe, box: tuple[float, float], source: bool, semiangle: float) -> ScanSampling:
    """Where the scan is known: the band limit's positions (semiangle: mrad) of a whole box, else the pixels' own."""
    whole = _whole(scan, box)
    barred = None
    if is_traced(probe.source_size) and not whole.all():
        source, barred = False, "traced, needs a scan of the whole periodic box"
    reach = 2 * semiangle * 1e-3 / probe.wavelength  # 1/Å
    start, end = np.asarray(scan.start, float), np.asarray(scan.end, float)
    axes = [
        _axis(start[i], end[i] - start[i], scan.shape[1 - i], box[i], reach, probe.source_size[i] if source else None)
        for i in (0, 1)
    ]
    (x, cols), (y, rows) = axes
    position = jnp.stack(jnp.meshgrid(jnp.asarray(x), jnp.asarray(y)), -1).astype(scan.start.dtype)
    return ScanSampling(position, rows, cols, barred)


def _axis(start: float, span: float, count: int, period: float, reach: float, source):
    """Positions (Å) along one axis and the matrix to its pixels."""
    step = span / count
    pixel = start + step * np.arange(count)
    nyquist = 2 * int(np.ceil(reach * period)) + 1
    if abs(abs(span) - period) < 1e-3 * period:
        if source is None and count <= nyquist:
            return pixel, None
        at = start + period * np.arange(nyquist) / nyquist
        q = np.arange(-(nyquist // 2), nyquist // 2 + 1) / period
        series = np.cos(2 * np.pi * q[None, None] * (pixel[:, None] - at[None])[..., None])
        weight = jnp.exp(-2 * (jnp.pi * source * q) ** 2) if source is not None else np.ones(nyquist)
        series = jnp.asarray(series, jnp.result_type(float))
        return at, jnp.matmul(series, jnp.asarray(weight, series.dtype), precision=EXACT) / nyquist
    if source is None or float(source) == 0:
        return pixel, None
    return _with_margin(pixel, abs(step), reach, source)


def _with_margin(pixel: np.ndarray, step: float, reach: float, source):
    """A finer, longer row of positions, and the source convolved over it.

    The kernel's spectrum falls smoothly from the signal's band limit to where its repetitions begin, so that it dies
    out within the margin. A wide source does that by itself, and needs no finer positions for it.
    """
    sigma = float(source)
    narrow = np.exp(-2 * (np.pi * sigma * reach) ** 2) > DAMPED
    fine = (0.5 / OVERSAMPLED if narrow else 0.5) / reach
    fine = step / np.ceil(step / fine - 1e-9) if step > 0 else fine
    pad = int(np.ceil((4 * sigma + MARGIN) / fine))
    low, high = pixel.min(), pixel.max()
    at = low + fine * np.arange(-pad, round((high - low) / fine) + pad + 1)
    end = max(reach, min(1 / fine - reach, 2 * reach))
    q, w = np.polynomial.legendre.leggauss(400)
    q, w = (q + 1) / 2 * end, w / 2 * end
    passed = _smooth_step((end - q) / max(end - reach, 1e-9))
    kernel = np.cos(2 * np.pi * (pixel[:, None] - at[None])[..., None] * q)
    kernel = 2 * kernel @ (w * passed * np.exp(-2 * (np.pi * sigma * q) ** 2))
    return at, jnp.asarray(kernel / kernel.sum(1, keepdims=True), jnp.result_type(float))


def _smooth_step(u: np.ndarray) -> np.ndarray:
    """From 0 at u ≤ 0 to 1 at u ≥ 1, with all derivatives."""
    rise, fall = (np.exp(-1 / np.clip(v, 1e-3, 1.0)) * (v > 0) for v in (u, 1 - u))
    return rise / (rise + fall)
