"""Rotation of oxygen octahedra over an image that shows the oxygen columns between the B columns."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ferrojax.columns import Columns
from ferrojax.columns.distortion.lines import moved
from ferrojax.crystal.zone import Motif
from ferrojax.polarization.map import rows_of_cells
from ferrojax.polarization.octahedra import projected_rotation
from ferrojax.polarization.polarization_map import PolarizationMap

_CLEAR = 3.0
"""Standard errors."""
_LEAST = 12
"""Cells."""
_MIDWAY = 1.0
"""Å by which an oxygen may be off the middle between two B columns: 15° of rotation put it 0.5 Å off."""
_APART = ((2, 0), (0, 2), (2, 2), (2, -2))
"""Steps between octahedra that turn alike and have no oxygen in common."""


class OctahedralRotation(NamedTuple):
    """Rotation of the octahedra in projection, clockwise on the screen, degrees.

    angle, error: (ny, nx) of every cell of the map, NaN where an oxygen column is missing. amplitude, amplitude_error:
    of the turns that alternate from cell to cell (or are the same in all), from products of cells that have no column
    in common, so that noise makes none; 0 where it is within three standard errors. alternates: whether neighbours
    along the two lattice vectors turn against each other; None without a significant amplitude.
    """

    angle: Float[np.ndarray, "ny nx"]
    error: Float[np.ndarray, "ny nx"]
    amplitude: float
    amplitude_error: float
    alternates: tuple[bool, bool] | None


def octahedral_rotation_map(pmap: PolarizationMap, motif: Motif) -> OctahedralRotation | None:
    """How the octahedron of every cell is turned in the plane, against the lines that join the B columns.

    None where the motif has several B columns or no oxygen between them, or the columns show it in fewer than 12 cells.
    """
    pairs = _pairs(motif)
    if pairs is None or pmap.first_cell is None or pmap.columns.column is None:
        return None
    ends, steps = pairs
    reference = steps @ motif.lattice
    shape = np.asarray(pmap.valid).shape
    angle, variance = np.full((2, *shape), np.nan)
    row = rows_of_cells(pmap.columns)
    found = {}
    for y, x in np.ndindex(shape):
        i, j = x + pmap.first_cell[0], y + pmap.first_cell[1]
        around = [row.get((column, i + di, j + dj)) for column, di, dj in ends.reshape(-1, 3).tolist()]
        if None not in around:
            found[y, x] = around
    if len(found) < _LEAST:
        return None
    at = tuple(np.array(list(found)).T)
    rows = np.array(list(found.values())).reshape(-1, len(ends), 2)
    columns: Columns = pmap.columns
    image_reference = reference @ np.asarray(pmap.calibration.rotation, float).T
    turned, spread = projected_rotation(
        np.asarray(columns.position)[rows], np.asarray(columns.own_covariance)[rows], image_reference
    )
    angle[at], variance[at] = np.asarray(turned, float), np.asarray(spread, float)
    return OctahedralRotation(angle, np.sqrt(variance), *_alternation(angle, variance, steps))


def _pairs(motif: Motif) -> tuple[Int[np.ndarray, "k 2 3"], Int[np.ndarray, "k 2"]] | None:
    """The two oxygen columns (row of the motif, lattice index) at the ends of every diagonal of the octahedron round
    the B column of cell (0, 0), and the step on the lattice to the B columns that they stand between."""
    b, oxygen = motif.sites("B"), motif.sites("O")
    if len(b) != 1 or not oxygen:
        return None
    here = motif.position[b[0]]
    steps = [np.array(s) for s in itertools.product((-1, 0, 1), repeat=2) if s > (0, 0)]
    ends, directions = [], []
    for step in sorted(steps, key=lambda s: float(np.linalg.norm(s @ motif.lattice))):
        both = [_nearest(motif, oxygen, here + sign * step / 2) for sign in (-1, 1)]
        if all(end is not None for end in both):
            ends.append(both)
            directions.append(step)
    return (np.array(ends[:2]), np.array(directions[:2])) if ends else None


def _nearest(motif: Motif, oxygen: list[int], place: np.ndarray) -> tuple[int, int, int] | None:
    """The oxygen column about a place (fractional), row of the motif and lattice index; None where there is none."""
    best, least = None, _MIDWAY
    for column in oxygen:
        cell = np.round(place - motif.position[column])
        gap = float(np.linalg.norm((motif.position[column] + cell - place) @ motif.lattice))
        if gap < least:
            best, least = (column, int(cell[0]), int(cell[1])), gap
    return best


def _alternation(
    angle: Float[np.ndarray, "ny nx"], variance: Float[np.ndarray, "ny nx"], pairs: Int[np.ndarray, "k 2"]
) -> tuple[float, float, tuple[bool, bool] | None]:
    """Amplitude, its error, and whether neighbours turn against each other."""
    apart = [product for step in _APART if (product := _products(angle, step)).size]
    if not apart:
        return 0.0, float("inf"), None
    every = np.concatenate(apart)
    square, error = float(every.mean()), float(every.std() / np.sqrt(np.isfinite(angle).sum()))
    amplitude = float(np.sqrt(max(square, 0.0)))
    if square < _CLEAR * error:
        return 0.0, float(np.sqrt(max(error, 0.0))), None
    # Neighbours along a diagonal share an oxygen, whose error turns them against each other.
    shared = float(np.nanmedian(variance)) / (2 * len(pairs))
    against = []
    for step in ((1, 0), (0, 1)):
        product = _products(angle, step)
        own = shared if any(tuple(np.abs(pair)) == step for pair in pairs) else 0.0
        against.append(bool(product.mean() + own < 0) if product.size else False)
    return amplitude, error / (2 * amplitude), (against[0], against[1])


def _products(angle: Float[np.ndarray, "ny nx"], step: tuple[int, int]) -> Float[np.ndarray, " n"]:
    """Of cells so many steps (x, y) apart, where both are known."""
    product = (angle * moved(angle[..., None], step)[..., 0]).ravel()
    return product[np.isfinite(product)]
