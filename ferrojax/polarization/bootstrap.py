"""Standard error of a map's mean when neighbouring cells correlate: the block bootstrap."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ferrojax.columns.distortion.lines import APART, shared_variance
from ferrojax.errors import InputError
from ferrojax.polarization.structure import AnyArray

RESAMPLES = 1000
MIN_BLOCK = 2
"""Cells that touch share A columns, so blocks of a single cell are always too small."""


_MORE = 1.2
"""Times the error from square blocks: less is chance."""
_PERIOD = 1.0
"""Cells between the lines of cells of a grid."""


class BlockMean(NamedTuple):
    """Mean of the valid cells and its standard error, (k,) each; side of the blocks in cells; n cells.

    along: "scan lines", or "rows", "columns" or "diagonals" of the grid, where cells that are far apart along them err
    together, so that whole lines are the blocks and the error is larger than that of square ones; else "".
    """

    mean: np.ndarray
    standard_error: np.ndarray
    block: int
    n: int
    along: str = ""


def block_bootstrap(
    field: Float[AnyArray, "ny nx k"],
    valid: Bool[AnyArray, "ny nx"],
    block: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    *,
    place_px: Float[AnyArray, "ny nx 2"] | None = None,
) -> BlockMean:
    """Mean over the valid cells and its standard error from resampled blocks of cells.

    block: side in cells of square blocks; by default `block_side`, and whole lines of cells where those far apart along
    them have an error in common, as line jitter gives it. place_px: px (x, y), where the cells are in the image: then
    the scan lines are looked at as well as the rows and columns of the grid. Blocks overlap and wrap round the map's
    edges; each resample holds as many blocks as cover the map, and its mean is a ratio, so gaps in the map are allowed.
    The error knows of scatter and its correlation up to a block's size, not of a bias or a gradient common to the map.
    Errors: InputError without valid cells, or for a block that does not fit twice into the map.
    Source: H. R. Künsch, Ann. Statist. 17, 1217 (1989).
    """
    field, valid = np.asarray(field, float), np.asarray(valid)
    n = int(valid.sum())
    if n == 0:
        raise InputError("valid", "no cell", "has no mean", "map an image with complete cells")
    mean = field[valid].mean(0)
    residual = np.where(valid[..., None], field - mean, 0.0)
    side = block_side(residual, valid) if block is None else block
    if side < 1 or (block is not None and 2 * side > max(valid.shape)):
        raise InputError("block", block, f"must fit twice into a map of {valid.shape} cells", "give a smaller block")
    error, along = _resampled(residual, valid, side, resamples, seed), ""
    where = None if place_px is None else np.asarray(place_px, float)
    for name, line, share in [] if block is not None else _lines_that_share(residual, valid, where, side):
        of_lines = _error_of_lines(residual[valid], line, resamples, seed)
        more = share & (of_lines > _MORE * error)
        error, along = np.where(more, of_lines, error), along or (name if more.any() else "")
    return BlockMean(mean, error, side, n, along)


def _resampled(residual: np.ndarray, valid: np.ndarray, side: int, resamples: int, seed: int) -> np.ndarray:
    """(k,) standard deviation of the mean of square blocks."""
    sums, counts = _block_sums(residual, side), _block_sums(valid[..., None].astype(float), side)[:, 0]
    draws = np.random.default_rng(seed).integers(len(sums), size=(resamples, max(1, math.ceil(valid.size / side**2))))
    total = counts[draws].sum(1)
    kept = total > 0
    means = sums[draws[kept]].sum(1) / total[kept, None]
    return means.std(0, ddof=1)


def _lines_that_share(
    residual: np.ndarray, valid: np.ndarray, place_px: np.ndarray | None, side: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Kinds of lines whose cells share an error: name, line of every valid cell (n,), and in which components (k,)."""
    y, x = (np.array(v, float) for v in np.indices(valid.shape))
    kinds = [("rows", np.stack([x, y], -1), _PERIOD), ("columns", np.stack([y, x], -1), _PERIOD)]
    if place_px is None:
        slant = np.stack([x - y, x + y], -1) / np.sqrt(2.0)  # along a diagonal cells lie √2 apart
        kinds += [("diagonals", slant, _PERIOD), ("diagonals", slant[..., ::-1], _PERIOD)]
    else:
        spacing = _spacing(place_px)
        if spacing > 0:
            kinds.insert(0, ("scan lines", place_px, spacing))
    known = np.where(valid[..., None], residual, np.nan)
    for name, place, period in kinds:
        share = shared_variance(known, np.where(valid[..., None], place, np.nan), period, max(APART, side)).variance
        if (share > 0).any():
            line = np.round((place[valid][:, 1] - place[valid][:, 1].min()) / period).astype(int)
            yield name, line, share > 0


def _spacing(place_px: np.ndarray) -> float:
    """px between neighbouring cells, from the area that a cell takes; 0 where no cell has neighbours both ways."""
    along, down = (np.diff(place_px, axis=k).reshape(-1, 2) for k in (1, 0))
    along, down = (v[np.isfinite(v).all(1)] for v in (along, down))
    if not (len(along) and len(down)):
        return 0.0
    one, other = np.median(along, 0), np.median(down, 0)
    return float(np.sqrt(abs(one[0] * other[1] - one[1] * other[0])))


def _error_of_lines(residual: np.ndarray, line: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(k,) standard error of the mean from resampled runs of whole lines; residual: (n, k) of cells on those lines.

    At least that of independent lines: neighbours that share columns err alike, and where so few lines look as if they
    erred against each other, that is chance.
    """
    count = np.bincount(line).astype(float)
    sums = np.stack([np.bincount(line, values) for values in residual.T], -1)
    valid = count[:, None] > 0
    means = np.where(valid, sums / np.maximum(count, 1)[:, None], 0.0)
    side = block_side(means[:, None], valid)
    around = (np.arange(len(count))[:, None] + np.arange(side)) % len(count)
    runs, many = sums[around].sum(1), count[around].sum(1)
    draws = np.random.default_rng(seed).integers(len(runs), size=(resamples, max(1, math.ceil(len(count) / side))))
    total = many[draws].sum(1)
    kept = total > 0
    found = (runs[draws[kept]].sum(1) / total[kept, None]).std(0, ddof=1)
    found = found / np.sqrt(max(1 - side / len(count), 0.25))  # the mean is the lines' own, and these are few
    share = count / count.sum()
    apart = np.sqrt((share[:, None] ** 2 * means**2).sum(0) / max(1 - (share**2).sum(), 0.5))
    return np.maximum(found, apart)


def block_side(residual: Float[np.ndarray, "ny nx k"], valid: Bool[np.ndarray, "ny nx"]) -> int:
    """Side of the blocks in cells: wide enough for the correlation, never more than a third of the map.

    Twice the distance at which the autocorrelation has fallen into its own noise, plus one, and at least the
    fourth root of the number of cells, because an unseen tail of the correlation matters more in larger maps.
    """
    rows, cols = valid.shape
    shape = (2 * rows, 2 * cols)
    power = (np.abs(np.fft.rfft2(residual, shape, axes=(0, 1))) ** 2).sum(-1)
    pairs = np.fft.irfft2(np.abs(np.fft.rfft2(valid.astype(float), shape)) ** 2, shape)
    product = np.fft.irfft2(power, shape)
    lag = np.hypot(np.fft.fftfreq(shape[0], 1 / shape[0])[:, None], np.fft.fftfreq(shape[1], 1 / shape[1])[None])
    reach = max(1, max(rows, cols) // 3)
    distance = 0
    for radius in range(1, reach + 1):
        ring = (lag >= radius - 0.5) & (lag < radius + 0.5) & (pairs > 0.5)
        if not ring.any() or product[0, 0] <= 0:
            break
        value = product[ring].sum() / pairs[ring].sum() / (product[0, 0] / valid.sum())
        if value < 2 / math.sqrt(pairs[ring].sum() / 2):
            break
        distance = radius
    side = max(MIN_BLOCK, 2 * distance + 1, math.ceil(valid.sum() ** 0.25))
    return max(1, min(side, max(valid.shape) // 3))


def _block_sums(values: np.ndarray, side: int) -> np.ndarray:
    """(ny nx, k) sums over the block that starts at every cell, wrapping; a block is no larger than the map."""
    rows, cols = (min(side, n) for n in values.shape[:2])
    wide = np.pad(values, [(1, rows - 1), (1, cols - 1), (0, 0)], mode="wrap")
    wide[0], wide[:, 0] = 0.0, 0.0
    total = wide.cumsum(0).cumsum(1)
    block = total[rows:, cols:] - total[:-rows, cols:] - total[rows:, :-cols] + total[:-rows, :-cols]
    return block.reshape(-1, values.shape[-1])
