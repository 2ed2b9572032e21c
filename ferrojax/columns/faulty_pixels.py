"""Pixels that do not show the specimen: cut-off intensities, hot and dead pixels, bars, padding and lost lines."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from ferrojax.errors import InputError

_NO_CONTRAST = 1e-3
"""Share of the image's spread below which a square has no contrast."""
_SQUARE = (3, 30)
"""px, sides of such a square: one of a column's size, but at a low dose a smaller one can be empty by chance."""
_RUN = 3.0
"""Sides of a square: the shortest run of equal pixels along a line that may be a lost one."""
_CHANCE = 1e-9
"""That a run of equal pixels, as frequent as they are in the image, is none."""
_LARGEST = 60
"""px: where a larger square may be empty by chance, none tells anything."""
_SPARSE = 0.5
"""Share of equal neighbours from which an image is so dark that text and holes cannot be told from counts."""
_FILLED_IN = 0.98
"""Share of equal neighbours from which a square is filled in and not merely dark."""
_FILLED, _CLEAN = 0.25, 0.97
"""Share of a line's pixels that are flat: in a bar with text at the image's rim, and in the margin that ends it."""


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


def unmeasured_pixels(data: Float[np.ndarray, "rows cols"], width: float) -> Bool[np.ndarray, "rows cols"]:
    """Where an image is filled in: a data bar and what is written on it, padding, vacuum without a count, lost lines.

    What is flat over squares of `width` px (about the distance between columns), long runs of equal pixels along a
    row or a column, and lines that repeat the one before; and what such places enclose.
    Errors: InputError where nothing is left.
    """
    found = _unmeasured(data, width)
    if found.all():
        problem = "is flat, or every line of it repeats the next: it shows no lattice"
        raise InputError("image", f"{data.shape[0]} × {data.shape[1]} px", problem, "check how it was read")
    return found


def _unmeasured(data: np.ndarray, width: float) -> np.ndarray:
    low, high = np.percentile(data[::3, ::3], [1, 99])
    least = _NO_CONTRAST * float(high - low)
    side = int(np.clip(width, *_SQUARE))
    if not _perhaps(data, side, least):
        return np.zeros(data.shape, bool)
    often = _often(data, side, least)
    rare = np.log(_CHANCE / data.size) / np.log(often)
    side, run = max(side, int(np.ceil(np.sqrt(2 * rare)))), max(int(_RUN * side), int(np.ceil(rare)))
    flat = np.zeros(data.shape, bool) if side > _LARGEST else _flat(data, (side, side), least)
    flat |= _lost_lines(data, run, least) | _lost_lines(data.T, run, least).T
    if not flat.any() or often > _SPARSE:
        return flat
    closed = np.pad(flat, side, mode="edge")
    for axis in (0, 1):  # text between flat places
        closed = _everywhere(_anywhere(closed, side, axis), side, axis)
    flat |= closed[side:-side, side:-side]
    rows, cols = (_bar(f, _still(d, f, least)) for d, f in ((data, flat), (data.T, flat.T)))
    return flat | rows[:, None] | cols[None, :]


def _perhaps(data: np.ndarray, side: int, least: float) -> bool:
    """A quick look: whether any square, line or part of one is flat, or a line the same as the next."""
    half = max(int(_RUN * side) // 2, 2)
    for shape in ((side, side), (1, half), (half, 1)):
        rows, cols = (max(n // s, 1) for n, s in zip(data.shape, shape, strict=True))
        tall, long = (min(s, n) for s, n in zip(shape, data.shape, strict=True))
        block = data[: rows * tall, : cols * long].reshape(rows, tall, cols, long)
        if (block.max((1, 3)) - block.min((1, 3)) <= least).any():
            return True
    return any((np.abs(np.diff(d, axis=0)) <= least).all(1).any() for d in (data[:, ::16], data[::16].T))


def _often(data: np.ndarray, side: int, least: float) -> float:
    """How often a pixel equals the next one where that is most frequent by chance: in the dark of a low dose."""
    equal = np.abs(np.diff(data, axis=1)) <= least
    rows, cols = (max(n // side, 1) for n in equal.shape)
    tall, long = min(side, equal.shape[0]), min(side, equal.shape[1])
    part = equal[: rows * tall, : cols * long].reshape(rows, tall, cols, long).mean((1, 3))
    part = part[part < _FILLED_IN]
    return float(np.clip(np.percentile(part, 75) if part.size else 0.0, 1e-3, 1 - 1e-6))


def _still(data: np.ndarray, flat: np.ndarray, least: float) -> np.ndarray:
    """Pixels that are flat or like one beside them, so that text does not hide the margin of its bar."""
    equal = np.abs(np.diff(data, axis=1)) <= least
    still = flat.copy()
    still[:, 1:] |= equal
    still[:, :-1] |= equal
    return still


def _flat(data: np.ndarray, size: tuple[int, int], least: float) -> np.ndarray:
    """Pixels of rectangles of that size in which neighbours, and the ends, differ by no more than `least`."""
    tall, wide = size
    if tall > data.shape[0] or wide > data.shape[1]:
        return np.zeros(data.shape, bool)

    flat = _steady(data, wide, least)
    if tall > 1:
        flat = _everywhere(flat, tall, 0) & _steady(data.T, tall, least).T[:, : flat.shape[1]]
    return _anywhere(_anywhere(flat, tall, 0), wide, 1)


def _steady(data: np.ndarray, many: int, least: float) -> np.ndarray:
    """Starts of runs of `many` pixels along rows in which neighbours, and both ends, are alike."""
    alike = _everywhere(np.abs(np.diff(data, axis=1)) <= least, many - 1, 1)
    return alike & (np.abs(data[:, many - 1 :] - data[:, : data.shape[1] - many + 1]) <= least)


def _everywhere(flags: np.ndarray, many: int, axis: int) -> np.ndarray:
    """Whether all of `many` flags in a row along an axis are set, for every start: shorter by many − 1."""
    flags = np.moveaxis(flags, axis, 0)
    known = 1
    while known < many:
        step = min(known, many - known)
        flags = flags[: len(flags) - step] & flags[step:]
        known += step
    return np.moveaxis(flags, 0, axis)


def _anywhere(starts: np.ndarray, many: int, axis: int) -> np.ndarray:
    """What runs of `many` from these starts cover: longer by many − 1."""
    pad = [(0, 0)] * starts.ndim
    pad[axis] = (many - 1, many - 1)
    return ~_everywhere(~np.pad(starts, pad), many, axis)


def _lost_lines(data: np.ndarray, run: int, least: float) -> np.ndarray:
    """Rows, or parts of them `run` px long, that hold one value, and rows that repeat the one before."""
    if run >= data.shape[1]:
        return np.zeros(data.shape, bool)
    found = _flat(data, (1, run), least)
    found[1:][(np.abs(np.diff(data, axis=0)) <= least).all(1)] = True
    return found


def _bar(flat: np.ndarray, still: np.ndarray) -> np.ndarray:
    """(rows,) bool, rows at the rim that a bar takes up, text and all: up to a row that is flat from end to end."""
    filled, clean = flat.mean(1) > _FILLED, still.mean(1) > _CLEAN
    inside = np.zeros(len(filled), bool)
    if (filled | clean).all():  # padding at the sides, and no row without it to end a bar
        return inside
    for order in (slice(None), slice(None, None, -1)):
        belongs = (filled | clean)[order]
        many = int(np.argmin(belongs))
        last = np.nonzero(clean[order][:many])[0]
        if len(last):
            inside[order][: last[-1] + 1] = True
    return inside


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
