"""Pixels that show the detector instead of the specimen: cut-off intensities, hot and dead pixels."""

import numpy as np


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
