"""The mean cell of an image: its Fourier coefficients on the crystal's lattice, with errors from the cells' scatter."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float, Int
from scipy.ndimage import map_coordinates

from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.polarization import CellFrames

POINTS = 24
"""Samples along each side of a cell, 0.17 Å apart in one of 4 Å."""
FEWEST = 9
"""Cells whose scatter says how well their mean is known."""


class MeanCell(NamedTuple):
    """value: (n,) Fourier coefficients about the centroid of the A neighbours, the image's unit; half of the plane of
    q. error: (n, 2) standard error of their real and imaginary parts, what cells differ by included. q: (n, 2) in steps
    of 1/cell. cells: how many were averaged."""

    value: Complex[np.ndarray, " n"]
    error: Float[np.ndarray, "n 2"]
    q: Int[np.ndarray, "n 2"]
    cells: int


def mean_cell(
    image: Image,
    cells: CellFrames,
    cell: tuple[float, float],
    farthest: float,
    keep: Bool[np.ndarray, " n"] | None = None,
) -> MeanCell:
    """The mean of an image's cells, each about the centroid of its own A columns.

    cell: Å (x, y) along the crystal's axes. farthest: 1/Å, coefficients up to there. keep: (n,) cells to average.
    Errors: InputError for fewer than nine cells that lie on the image as a whole.
    """
    values = cell_coefficients(image, cells, cell, farthest)
    if keep is not None:
        values = values[:, keep]
    known = np.isfinite(values).all(0)
    values = values[:, known]
    count = values.shape[1]
    if count < FEWEST:
        raise InputError("image", count, f"cells lie on it as a whole, of {FEWEST} at least", "give a larger field")
    error = np.stack([np.std(part(values), 1, ddof=1) for part in (np.real, np.imag)], -1) / np.sqrt(count)
    return MeanCell(values.mean(1), error, harmonics(cell, farthest), count)


def harmonics(cell: tuple[float, float], farthest: float) -> Int[np.ndarray, "n 2"]:
    """(n, 2) of one half of the reciprocal lattice up to `farthest` (1/Å), the origin first."""
    most = [min(int(farthest * side), POINTS // 2 - 1) for side in cell]
    every = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in most], indexing="ij"), -1).reshape(-1, 2)
    half = (every[:, 1] > 0) | ((every[:, 1] == 0) & (every[:, 0] >= 0))
    length = np.hypot(*(every / np.array(cell)).T)
    kept = every[half & (length <= farthest + 1e-9)]
    return kept[np.argsort(np.hypot(*(kept / np.array(cell)).T), kind="stable")]


def cell_coefficients(
    image: Image, cells: CellFrames, cell: tuple[float, float], farthest: float
) -> Complex[np.ndarray, "q n"]:
    """(q, n) coefficients of every cell by itself, as `harmonics` lists them; NaN where it reaches beyond the image."""
    side = [(np.arange(POINTS) + 0.5) / POINTS * length - length / 2 for length in cell]
    offset = np.stack(np.meshgrid(*side), -1).reshape(-1, 2)
    at = np.asarray(cells.centre_px, float)[:, None] + offset @ np.asarray(cells.frame, float).T
    values = map_coordinates(np.asarray(image.data, float), [at[..., 1], at[..., 0]], order=5, mode="mirror")
    inside = ((at >= 0) & (at <= np.array(image.data.shape[::-1]) - 1)).all((1, 2))
    q = harmonics(cell, farthest)
    wave = np.exp(-2j * np.pi * (offset / np.array(cell)) @ q.T) / len(offset)
    return np.where(inside, (np.asarray(values) @ wave).T, np.nan)
