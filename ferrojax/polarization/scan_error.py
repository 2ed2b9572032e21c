"""What the scan adds to the displacement of a cell: what the cells on its lines share."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ferrojax.columns import Columns
from ferrojax.columns.distortion.jitter import JitterStrength, displacement_jitter
from ferrojax.columns.distortion.lines import (
    across_lines,
    beyond,
    independent_lines,
    moved,
    on_grid,
    shared_variance,
    without_superstructure,
)

_CELLS = 3
"""Cells on either side, across the lines, whose median is the polarization there: it follows walls."""
_LEFT = 0.89
"""Of the variance of cells on independent lines that share A columns with the next: left by taking that median away."""
_SAMPLE = 1000
"""Cells that tell what jitter makes of one; on a lattice they are alike."""


class CellColumns(NamedTuple):
    """Lattice index (n, 2) of cells, rows in Columns of B (n,) and of the A around it (n, k), and their weight (k,)."""

    index: np.ndarray
    b: np.ndarray
    a: np.ndarray
    weight: np.ndarray


def line_covariance(
    displacement: Float[np.ndarray, "n 2"], cells: CellColumns, columns: Columns
) -> Float[np.ndarray, "2 2"]:
    """Covariance (2, 2) Å² that the scan lines add to every displacement (Å): jitter, flicker, hum.

    Lines move B against A, and all cells of a line alike, so that the errors of a cell's columns do not add as
    independent ones do. Jitter that shows inside the columns counts as it is; beyond it counts what the cells of a line
    share, unless the displacement varies slowly across the lines, steps at a wall or repeats in the crystal. Layers of
    the crystal along the scan lines that repeat after no small number of cells cannot be told from it.
    """
    assert columns.calibration is not None
    if columns.lines is None:
        return np.zeros((2, 2))
    affine, lattice_px = (np.asarray(getattr(columns.calibration, n), float) for n in ("affine", "lattice_px"))
    y = np.asarray(columns.position_px, float)[:, 1]
    jitter = JitterStrength(np.asarray(columns.lines.jitter_px, float), np.asarray(columns.lines.correlation, float))
    site = np.asarray(columns.site)
    of_a, of_b = (float(columns.lines.height_px[site[rows.flat[0]]]) for rows in (cells.a, cells.b))
    some = slice(None, None, max(1, len(cells.b) // _SAMPLE))
    inside = displacement_jitter(jitter, (y[cells.b[some]], of_b), (y[cells.a[some]], of_a), cells.weight)
    known = affine @ np.diag(inside.mean(0)) @ affine.T
    centre = np.asarray(columns.position_px, float)[cells.b]
    found = cells_share(displacement, centre, cells.index, lattice_px)
    lines = independent_lines(centre[:, 1], lattice_px)
    return known + np.diag(beyond(found, np.diagonal(known), lines))


def cells_share(
    displacement: Float[np.ndarray, "n 2"],
    centre_px: Float[np.ndarray, "n 2"],
    index: Int[np.ndarray, "n 2"],
    lattice_px: Float[np.ndarray, "2 2"],
) -> Float[np.ndarray, " 2"]:
    """Variance (2,), in the unit of the displacement squared, that cells have in common with those on their scan lines.

    centre_px: px (x, y). index: lattice index of the cells.
    """
    grid = on_grid(index, np.concatenate([displacement, centre_px], 1).astype(float))
    value, place = without_superstructure(grid[..., :2]), grid[..., 2:]
    step = across_lines(lattice_px)
    beside = np.array([moved(value, (k * step[0], k * step[1])) for k in range(-_CELLS, _CELLS + 1)])
    known = np.isfinite(value).all(-1) & (np.isfinite(beside).all(-1).sum(0) > _CELLS)
    middle = np.full_like(value, np.nan)
    middle[known] = np.nanmedian(beside[:, known], 0)
    period = float(np.sqrt(abs(np.linalg.det(lattice_px))))
    return shared_variance(value - middle, place, period).variance / _LEFT
