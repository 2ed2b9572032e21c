"""Where the columns of indexed cells are in an image, and which of them show."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ferrojax.columns.indexing.index import Cells, moved, nearest
from ferrojax.columns.indexing.pixels import find_peaks
from ferrojax.columns.indexing.template import anchor
from ferrojax.crystal.zone import Motif

_NOISY, _OUTLIER = 0.4, 0.65  # scatter of a sublattice's maxima (rms) and of one of them, in units of the reach
_STEADY = 0.25  # scatter of the anchors' maxima up to which they place their cells better than the whole cell does
_REACH = 0.3  # how far a maximum may be from where its column is expected, in nearest distances


class View(NamedTuple):
    """An image with columns bright and contrast evened: even (rows, cols), trusted (rows, cols), its maxima (n, 2)
    with their heights (n,), and px of the nearest distance between columns and of the longest lattice vector."""

    even: np.ndarray
    trusted: np.ndarray
    peaks: np.ndarray
    height: np.ndarray
    gap: float
    reach: float

    @property
    def ground(self) -> float:
        """What is between columns."""
        return float(np.percentile(self.even[self.trusted], 3))


class Drawn(NamedTuple):
    """Motif column (n,), cell (n, 2), position (n, 2) working px, rejection (n,), whether a maximum is there (n,)."""

    column: np.ndarray
    index: np.ndarray
    position: np.ndarray
    rejection: np.ndarray
    at_peak: np.ndarray

    def chosen(self, rows: np.ndarray) -> "Drawn":
        """The columns of these rows (integers or a mask)."""
        return Drawn(*(a[rows] for a in self))


def drawn_columns(cells: Cells, motif: Motif, visible: list[int], rejection: np.ndarray) -> Drawn:
    """Where the columns of cells should be, by each cell's own lattice."""
    offset = motif.position[visible] - motif.position[anchor(motif)]
    position = cells.position[:, None] + np.einsum("ki,nij->nkj", offset, cells.lattice)
    many, n = len(visible), len(cells.index)
    column, index = np.tile(np.array(visible), n), np.repeat(cells.index, many, 0)
    return Drawn(column, index, position.reshape(-1, 2), rejection.repeat(many), np.zeros(n * many, bool))


def snapped(drawn: Drawn, peaks: np.ndarray, reach: float) -> Drawn:
    """Start from the intensity maximum near the expected place, where there is one; no maximum serves two."""
    if not len(peaks) or not len(drawn.position):
        return drawn
    miss, near = nearest(peaks, drawn.position)
    order = np.argsort(miss, kind="stable")
    first = order[np.unique(near[order], return_index=True)[1]]
    first = first[miss[first] < reach]
    position, at_peak = drawn.position.copy(), drawn.at_peak.copy()
    position[first], at_peak[first] = peaks[near[first]], True
    return drawn._replace(position=position, at_peak=at_peak)


def pick(image: np.ndarray, position: np.ndarray, beyond: float) -> np.ndarray:
    """(n,) pixels of an image at positions (n, 2), `beyond` outside it."""
    column, row = np.round(position).astype(int).T
    on = (row >= 0) & (column >= 0) & (row < image.shape[0]) & (column < image.shape[1])
    return np.where(on, image[np.where(on, row, 0), np.where(on, column, 0)], beyond)


def inside(position: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(n,) bool, positions (n, 2) px that lie on an image of that shape."""
    return np.all((position >= 0) & (position <= np.array(shape[::-1]) - 1), axis=1)


def resolved(even: np.ndarray, cells: Cells, motif: Motif) -> np.ndarray:
    """(columns,) whether a column shows in the mean of all cells: a maximum, or a shoulder that bends down all ways."""
    spokes = np.array([(1, 0), (0, 1), (0.7, 0.7), (0.7, -0.7)])
    shifts = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    around = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ motif.lattice
    few = cells.chosen(np.linspace(0, len(cells.index) - 1, min(len(cells.index), 2000)).astype(int))
    result = np.zeros(len(motif.label), bool)
    for k in range(len(motif.label)):
        distance = np.linalg.norm(motif.offset[k] - motif.offset[:, None] - around, axis=-1)
        closest = max(float(distance[distance > 1e-3].min()), 0.8)
        middle = motif.offset[k] - motif.offset[anchor(motif)] + 0.15 * closest * shifts
        points = middle[:, None, None] + 0.3 * closest * np.array([-1, 0, 1])[:, None] * spokes[None, :, None]
        step = points.reshape(-1, 2) @ np.linalg.inv(motif.lattice)
        at = few.position[:, None] + np.einsum("ki,nij->nkj", step, few.lattice)
        value = ndimage.map_coordinates(even, at.reshape(-1, 2).T[::-1], order=1, mode="nearest")
        value = value.reshape(len(few.index), len(shifts), len(spokes), 3)
        bend = value[..., 0] - 2 * value[..., 1] + value[..., 2]
        clear = bend.mean(0) < -4 * bend.std(0) / np.sqrt(len(bend))
        result[k] = bool(clear.all(1).any())
    return result


def clearer(cells: Cells, motif: Motif, images: tuple[np.ndarray, ...], gap: float) -> tuple[Cells, np.ndarray]:
    """Cells moved onto the maxima of their anchor columns, and the image of those given whose maxima scatter less.

    The rest of a cell may be displaced against its anchor. Noise asks for a softer image. gap: px between cations.
    """
    best: tuple[float, Cells, np.ndarray] | None = None
    for image in images:
        drawn = drawn_columns(cells, motif, [anchor(motif)], np.zeros(len(cells.index), int))
        found = snapped(drawn, find_peaks(image, max(0.3 * gap, 1.0), -np.inf)[0], _REACH * gap)
        gone = np.linalg.norm(found.position - drawn.position, axis=1)
        scatter = float(np.sqrt((np.where(found.at_peak, gone, _REACH * gap) ** 2).mean()))
        if best is None or scatter < 0.8 * best[0]:
            at = found.position if scatter < _STEADY * _REACH * gap else cells.position
            best = scatter, moved(cells, at), image
    assert best is not None
    return best[1:]


def settled(drawn: Drawn, outer: Drawn, view: View) -> tuple[Drawn, Drawn]:
    """Columns on their maxima; those without one, and those of the border cells, follow the ones around.

    So do all of a sublattice whose maxima scatter about their neighbours' so much that noise must have made them.
    """
    reach = _REACH * view.gap
    found = snapped(drawn, view.peaks, reach)
    inner, beyond = found.position.copy(), outer.position.copy()
    for k in np.unique(drawn.column):
        mine = np.nonzero((drawn.column == k) & found.at_peak)[0]
        if len(mine) < 9:
            continue
        known, gap = drawn.position[mine], found.position[mine] - drawn.position[mine]
        around = nearest(known, known, 9)[1]
        apart = np.linalg.norm(gap - np.median(gap[around], 1), axis=1)
        rest = (drawn.column == k) & ~found.at_peak
        rest[mine[apart > max(_OUTLIER * reach, 5 * float(np.median(apart)))]] = True
        if np.sqrt((apart**2).mean()) > _NOISY * reach:
            rest = drawn.column == k
        for part, place, chosen in ((drawn, inner, rest), (outer, beyond, outer.column == k)):
            _, near = nearest(known, part.position[chosen], 9)
            place[chosen] = part.position[chosen] + np.median(gap[near], 1)
    return found._replace(position=inner), outer._replace(position=beyond)
