"""Standard error of a map's mean when neighbouring cells correlate: the block bootstrap."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ferrojax.errors import InputError
from ferrojax.polarization.structure import AnyArray

RESAMPLES = 1000
MIN_BLOCK = 2
"""Cells that touch share A columns, so blocks of a single cell are always too small."""


class BlockMean(NamedTuple):
    """Mean of the valid cells and its standard error, (k,) each; side of the blocks in cells; n cells."""

    mean: np.ndarray
    standard_error: np.ndarray
    block: int
    n: int


def block_bootstrap(
    field: Float[AnyArray, "ny nx k"],
    valid: Bool[AnyArray, "ny nx"],
    block: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> BlockMean:
    """Mean over the valid cells and its standard error from resampled square blocks of cells.

    block: side in cells; by default `block_side`. Blocks overlap and wrap round the map's edges; each resample
    holds as many blocks as cover the map, and its mean is a ratio, so gaps in the map are allowed. The error
    knows of scatter and its correlation up to a block's size, not of a bias or a gradient common to the map.
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
    sums, counts = _block_sums(residual, side), _block_sums(valid[..., None].astype(float), side)[:, 0]
    draws = np.random.default_rng(seed).integers(len(sums), size=(resamples, max(1, math.ceil(valid.size / side**2))))
    total = counts[draws].sum(1)
    kept = total > 0
    means = sums[draws[kept]].sum(1) / total[kept, None]
    return BlockMean(mean, means.std(0, ddof=1), side, n)


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
