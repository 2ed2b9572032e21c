"""All cells of a lattice in an image: every region that grows, cleaned of what grew into nothing."""

import numpy as np

from ferrojax.columns.indexing.index import Candidates, Cells, filled, grow_cells, nearest, neighbourhood_mean, within
from ferrojax.columns.indexing.orientation import Orientation
from ferrojax.columns.indexing.pixels import find_peaks
from ferrojax.columns.indexing.template import anchor, cell_match
from ferrojax.crystal.zone import Motif

_TOLERANCE = 0.3  # of the nearest distance between cations
_STRETCH = 0.1  # of the shortest lattice vector: large cells stretch by more than columns are apart
_LEAST = 0.35  # of the usual likeness
_REGION = 12  # cells
_STARTS = 12


def find_cells(flat: np.ndarray, trusted: np.ndarray, motif: Motif, orientation: Orientation, gap: float) -> Cells:
    """Grow the lattice from the orientation's origin, then from whatever else looks like the cell.

    flat: columns bright. gap: px, nearest distance between cations. Cells of later regions are indexed on the
    first one's lattice as far as it can be extended; `region` counts the regions.
    """
    likeness, amplitude = cell_match(flat, trusted, motif, orientation.frame, orientation.power)
    position, height = find_peaks(likeness, max(0.3 * gap, 1.0), 0.1)
    column, row = np.round(position).astype(int).T
    strong = amplitude[row, column]
    candidates = Candidates(position, height)
    if not len(position):
        return _none()
    start = orientation.origin + orientation.frame @ motif.offset[anchor(motif)]
    lattice = motif.lattice @ orientation.frame.T
    first = _start(candidates, start, lattice)
    reference = float(np.median(height[nearest(position, position[[first]], min(9, len(position)))[1]]))
    free = height > _LEAST * min(reference, height[first])
    tolerance = max(_TOLERANCE * gap, _STRETCH * float(np.linalg.norm(lattice, axis=1).min()))
    regions: list[Cells] = []
    for number in range(_STARTS):
        cells = grow_cells(candidates, first, lattice, tolerance, free)
        free[cells.candidate] = False
        kept = _cleaned(cells, height, strong)
        if len(kept.index) >= _REGION:
            regions.append(kept._replace(region=np.full(len(kept.index), number)))
            free &= ~within(kept, position)
        first = _next_start(candidates, free, regions, lattice)
        if first < 0:
            break
    if not regions:
        return _none()
    whole = [filled(region) for region in _joined(regions)]
    return Cells(*(np.concatenate(parts) for parts in zip(*whole, strict=True)))


def _none() -> Cells:
    return Cells(np.zeros((0, 2), int), np.zeros((0, 2)), np.zeros((0, 2, 2)), *np.zeros((3, 0)))


def _start(candidates: Candidates, near: np.ndarray, lattice: np.ndarray) -> int:
    """The best candidate among the nine cells round the place that the folded tile gave."""
    steps = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    miss, row = nearest(candidates.position, near + steps @ lattice)
    size = np.sqrt(abs(np.linalg.det(lattice)))
    return int(row[np.argmax(candidates.likeness[row] - miss / size)])


def _next_start(candidates: Candidates, free: np.ndarray, regions: list[Cells], lattice: np.ndarray) -> int:
    """The best candidate that is not on or between cells already known, −1 if there is none."""
    if not regions:
        return -1
    known = np.concatenate([r.position for r in regions])
    away, _ = nearest(known, candidates.position)
    short = np.linalg.norm(lattice, axis=1).min()
    usual = np.median(candidates.likeness[regions[0].candidate])
    open_to = free & (away > 0.8 * short) & (candidates.likeness > 0.6 * usual)
    if open_to.sum() < _REGION:
        return -1
    rows = np.nonzero(open_to)[0]
    # a start needs company: the mean likeness of what lies round it
    _, near = nearest(candidates.position[rows], candidates.position[rows], min(7, len(rows)))
    return int(rows[np.argmax(candidates.likeness[rows][near].mean(1))])


def _cleaned(cells: Cells, likeness: np.ndarray, amplitude: np.ndarray) -> Cells:
    """Without the cells that grew into vacuum, an amorphous edge or another crystal.

    There, neighbourhoods are unlike the motif, weak, scattered or full of holes.
    """
    while len(cells.index):
        seen, strength = likeness[cells.candidate], amplitude[cells.candidate]
        alike, count = neighbourhood_mean(cells, seen)
        strong, _ = neighbourhood_mean(cells, strength)
        good = (alike > 0.55 * np.median(seen)) & (strong > 0.12 * np.median(strength)) & (count >= 6)
        if good.all():
            break
        cells = cells.chosen(good)
    return cells


def _joined(regions: list[Cells]) -> list[Cells]:
    """Regions counted on the first one's lattice, extended from its nearest cell and rounded to whole cells."""
    done = [regions[0]]
    for region in regions[1:]:
        known = Cells(*(np.concatenate(parts) for parts in zip(*done, strict=True)))
        away, near = nearest(known.position, region.position)
        here = int(np.argmin(away))
        base = int(near[here])
        gap = region.position[here] - known.position[base]
        lattice = 0.5 * (region.lattice[here] + known.lattice[base])
        steps = gap @ np.linalg.inv(lattice)
        # a half step is rounded outwards, so that no two cells of different regions get the same index
        whole = (np.sign(steps) * np.ceil(np.abs(steps) - 0.25)).astype(int)
        offset = known.index[base] - region.index[here] + whole
        done.append(region._replace(index=region.index + offset))
    return done
