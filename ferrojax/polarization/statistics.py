"""Mean, spread and errors of the displacements of a map."""

from typing import TypedDict

import numpy as np
from jaxtyping import Float

from ferrojax.polarization.bootstrap import block_bootstrap
from ferrojax.polarization.polarization_map import COLUMN_FIT, PolarizationMap, valid_indices


class DisplacementStatistics(TypedDict):
    """(2,) pm (x, y): mean, robust spread (1.4826 MAD), median standard error of a cell, and of the mean.

    mean_error is the mean's, from blocks of `block` × `block` cells, because cells that touch share columns and
    drift moves many together; where cells far apart in one direction err together, `along` says in which ("scan lines",
    "rows", "columns" or "diagonals" of cells, else ""), and whole lines of them are the blocks. What all cells share,
    the error of the recording or of oxygen drawn under B, is in it. n cells.
    """

    mean: np.ndarray
    spread: np.ndarray
    standard_error: np.ndarray
    mean_error: np.ndarray
    block: int
    along: str
    n: int


def _shared_error(pmap: PolarizationMap) -> Float[np.ndarray, " 2"]:
    """(2,) pm, error that all cells share: of the recording they were read through, or of oxygen drawn under B."""
    if pmap.common_covariance is not None:
        return 100 * np.sqrt(np.diag(np.asarray(pmap.common_covariance, float)))
    columns, known = pmap.columns, dict(pmap.provenance)
    if columns.oxygen_error is None or "displacement" in known or known.get("method") != COLUMN_FIT:
        return np.zeros(2)
    drawn = np.asarray(columns.oxygen_error, float)[columns.accepted]
    moved = drawn[(drawn != 0).any(1)]
    return 100 * np.abs(moved.mean(0)) if len(moved) else np.zeros(2)


def displacement_statistics(pmap: PolarizationMap, block: int | None = None) -> DisplacementStatistics:
    """Mean, spread and errors of the displacement over the valid cells.

    block: side in cells of the bootstrap's blocks; by default chosen from the map's own correlation. Where that
    is a third of the map, the correlation does not end within it, and mean_error is a lower limit.
    """
    at = valid_indices(pmap)
    field = 100 * np.asarray(pmap.displacement, float)
    displacement = field[at]
    variance = 1e4 * np.asarray(pmap.covariance, float)[at][:, [0, 1], [0, 1]]
    spread = 1.4826 * np.median(np.abs(displacement - np.median(displacement, 0)), 0)
    mean = block_bootstrap(field, np.asarray(pmap.valid), block, place_px=np.asarray(pmap.position_px, float))
    return {
        "mean": displacement.mean(0),
        "spread": spread,
        "standard_error": np.sqrt(np.median(variance, 0)),
        "mean_error": np.hypot(mean.standard_error, _shared_error(pmap)),
        "block": mean.block,
        "along": mean.along,
        "n": len(displacement),
    }
