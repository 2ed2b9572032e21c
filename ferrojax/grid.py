"""Grid: shape and sampling, frequencies, band limit."""

from typing import Any

import equinox as eqx
import numpy as np

from ferrojax.checks import positive, real_number, whole_pair
from ferrojax.errors import InputError

ANTIALIAS_FRACTION = 2 / 3
"""Part of the Nyquist frequency that conventional multislice keeps."""
ANTIALIAS_TAPER = 0.02
"""Width of the cosine edge inside that limit, as part of the Nyquist frequency (abTEM's value)."""
SHORTEST_STEP = 1e-3
"""Å per pixel; no grid for electrons needs a finer one."""


class Grid(eqx.Module):
    """A periodic real-space grid; all static, because it decides shapes.

    shape: (rows, cols). sampling: Å per pixel as (y, x). offset: (y, x) of the frequencies, as parts of their step;
    waves on such a grid gain that phase from one edge of it to the other.
    Errors: InputError for counts that are not whole, and steps that are not positive lengths of at least 0.1 pm.
    """

    shape: tuple[int, int] = eqx.field(static=True)
    sampling: tuple[float, float] = eqx.field(static=True)
    offset: tuple[float, float] = eqx.field(static=True)

    def __init__(self, shape: Any, sampling: Any, offset: Any = (0.0, 0.0)):
        self.shape = whole_pair("shape", shape, "give (rows, cols)")
        steps = _pair("sampling", sampling, "give Å per pixel as (y, x), e.g. (0.05, 0.05)")
        self.sampling = (positive("sampling", steps[0], _STEP), positive("sampling", steps[1], _STEP))
        if min(self.sampling) < SHORTEST_STEP:
            raise InputError(
                "sampling", sampling, f"is below {SHORTEST_STEP:g} Å: it looks like nm", "give Å per pixel"
            )
        y, x = _pair("offset", offset, "give parts of a frequency step as (y, x)")
        self.offset = (real_number("offset", y, _PARTS), real_number("offset", x, _PARTS))

    @staticmethod
    def for_box(width: float, height: float, sampling: float) -> "Grid":
        """The coarsest FFT-friendly grid of a box (x, y in Å) whose pixels do not exceed `sampling` (Å).

        Errors: InputError for lengths that are not positive.
        """
        width, height = positive("width", width, "Å"), positive("height", height, "Å")
        sampling = positive("sampling", sampling, "a ceiling in Å per pixel, e.g. 0.05")
        nx, ny = friendly(width / sampling), friendly(height / sampling)
        return Grid((ny, nx), (height / ny, width / nx))

    def check_spans(self, width: float, height: float) -> None:
        """Refuse a box (x, y in Å) that this grid does not span."""
        if np.abs(np.array(self.extent) - (height, width)).max() > 1e-3:
            swapped = np.abs(np.array(self.extent) - (width, height)).max() <= 1e-3
            remedy = "swap shape and sampling to (y, x)" if swapped else "use Grid.for_box(width, height, sampling)"
            raise InputError("grid", self.extent, f"does not span the box, {(height, width)} Å (y, x)", remedy)

    @property
    def extent(self) -> tuple[float, float]:
        """(height, width) in Å."""
        return self.shape[0] * self.sampling[0], self.shape[1] * self.sampling[1]

    @property
    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """ky (rows,) and kx (cols,) in 1/Å, in FFT order."""
        y, x = (
            np.fft.fftfreq(n, step) + offset / (n * step)
            for n, step, offset in zip(self.shape, self.sampling, self.offset, strict=True)
        )
        return y, x

    @property
    def k(self) -> np.ndarray:
        """|k| (rows, cols) in 1/Å."""
        ky, kx = self.frequencies
        return np.hypot(ky[:, None], kx[None])

    @property
    def nyquist(self) -> float:
        """The smaller of the two axes' Nyquist frequencies, 1/Å."""
        return 0.5 / max(self.sampling)

    def band_limit(self, fraction: float = ANTIALIAS_FRACTION, taper: float = ANTIALIAS_TAPER) -> np.ndarray:
        """Aperture (rows, cols): 1 inside `fraction` of Nyquist, with a cosine edge of `taper` inside it."""
        k, cutoff, width = self.k, fraction * self.nyquist, taper * self.nyquist
        if width == 0:
            return (k < cutoff).astype(float)
        edge = 0.5 * (1 + np.cos(np.pi * (k - cutoff + width) / width))
        return np.where(k > cutoff, 0.0, np.where(k > cutoff - width, edge, 1.0))


_STEP = "Å per pixel as (y, x), e.g. (0.05, 0.05)"
_PARTS = "give parts of a frequency step as (y, x)"


def _pair(field: str, value: Any, remedy: str) -> tuple[Any, Any]:
    try:
        y, x = value
    except (TypeError, ValueError):
        raise InputError(field, value, "needs two numbers", remedy) from None
    return y, x


def friendly(at_least: float) -> int:
    """The next even number whose only prime factors are 2, 3 and 5."""
    n = max(2, int(np.ceil(at_least - 1e-9)))
    while True:
        rest = n
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        if rest == 1 and n % 2 == 0:
            return n
        n += 1
