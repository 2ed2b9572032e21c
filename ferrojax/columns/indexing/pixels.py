"""Pixels made ready for finding columns: a working grid, an even ground, and what cannot be trusted."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import fft, ndimage

_LOCAL = 1.5
"""Periods over which contrast is evened out."""


class Working(NamedTuple):
    """An image on the grid where columns are sought.

    data, trusted: (rows, cols) in float32, and False where a pixel holds no measurement.
    step: px of the image per working px; image px = step * working px + shift.
    """

    data: Float[np.ndarray, "rows cols"]
    trusted: Bool[np.ndarray, "rows cols"]
    step: float
    shift: float

    def to_image(self, position: np.ndarray) -> np.ndarray:
        """Working px (n, 2) to image px."""
        return position * self.step + self.shift


def working_grid(
    data: Float[np.ndarray, "rows cols"], trusted: Bool[np.ndarray, "rows cols"], sampling: float, target: float
) -> Working:
    """Average or interpolate an image to about `target` Å per px; trusted: pixels that hold a measurement; sampling:
    Å per px."""
    down = int(target / sampling)
    if down > 1:
        rows, cols = (n // down * down for n in data.shape)
        blocks = (rows // down, down, cols // down, down)
        mean = data[:rows, :cols].reshape(blocks).mean((1, 3))
        whole = np.all(trusted[:rows, :cols].reshape(blocks), axis=(1, 3))
        return Working(mean.astype(np.float32), whole, float(down), 0.5 * (down - 1))
    up = int(np.ceil(sampling / (1.5 * target)))
    if up > 1:
        shape = tuple((n - 1) * up + 1 for n in data.shape)
        fine = ndimage.affine_transform(data, np.full(2, 1 / up), output_shape=shape, order=3, mode="nearest")
        near = ndimage.affine_transform(trusted, np.full(2, 1 / up), output_shape=shape, order=0, mode="nearest")
        return Working(fine.astype(np.float32), near.astype(bool), 1 / up, 0.0)
    return Working(data.astype(np.float32), trusted, 1.0, 0.0)


def flatten(data, px_per_angstrom: float, period: float, blur: float = 0.3, trusted=None) -> np.ndarray:
    """Smooth over a fraction of a column and take away the slow background; period and blur in Å.

    Pixels that are not trusted, and those outside the image, have no say; they come out as 0.
    """
    narrow = max(blur * px_per_angstrom, 0.6)
    wide = max(0.7 * period * px_per_angstrom, 3 * narrow)
    known = np.ones(data.shape, np.float32) if trusted is None else trusted.astype(np.float32)
    level = np.float32(np.median(data if trusted is None else data[trusted]))
    centred = (np.asarray(data, np.float32) - level) * known
    smooth = blurred([centred, known], [narrow, wide])
    (sharp, slow), (cover, ground) = smooth
    return (sharp / np.maximum(cover, 0.05) - slow / np.maximum(ground, 0.05)) * known


def evened(flat: np.ndarray, px_per_angstrom: float, period: float, trusted: np.ndarray) -> np.ndarray:
    """Local contrast brought to 1, where it is at least a quarter of what is usual."""
    ((power,), (cover,)) = blurred([flat**2, trusted.astype(np.float32)], [_LOCAL * period * px_per_angstrom])
    local = np.sqrt(np.maximum(power / np.maximum(cover, 0.05), 0.0))
    usual = float(np.median(local[trusted]))
    return flat / np.maximum(local, 0.25 * usual + 1e-30)


def blurred(images: list[np.ndarray], sigmas: list[float]) -> list[list[np.ndarray]]:
    """Every image under every Gaussian (σ in px), nothing outside the image; one transform each way."""
    rows, cols = images[0].shape
    margin = int(np.ceil(3 * max(sigmas)))
    shape = [fft.next_fast_len(n + margin, real=True) for n in (rows, cols)]
    fy, fx = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None]
    square = (-2 * np.pi**2 * (fy**2 + fx**2)).astype(np.float32)
    out = []
    for image in images:
        spectrum = np.asarray(fft.rfft2(image.astype(np.float32), shape))
        out.append([np.asarray(fft.irfft2(spectrum * np.exp(square * s**2), shape))[:rows, :cols] for s in sigmas])
    return out


def find_peaks(flat: Float[np.ndarray, "rows cols"], distance: float, least: float = 0.0):
    """Local maxima (n, 2) px (x, y) at sub-pixel positions, and their heights (n,).

    distance: px, the least between two of them; least: the least height.
    """
    reach = max(int(distance), 1)
    top = (flat == ndimage.maximum_filter(flat, 2 * reach + 1)) & (flat > least)
    top[[0, -1]] = False
    top[:, [0, -1]] = False
    r, c = np.nonzero(top)
    height = flat[r, c]

    def vertex(before, after):
        bend = before - 2 * height + after
        return np.clip(0.5 * (before - after) / np.where(bend < 0, bend, -np.inf), -0.5, 0.5)

    dx = vertex(flat[r, c - 1], flat[r, c + 1])
    dy = vertex(flat[r - 1, c], flat[r + 1, c])
    return np.stack([c + dx, r + dy], 1).astype(float), height
