"""Give every cell its place on the lattice, growing from the most reliable cell to its neighbours."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

_EDGES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
_RING = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)])
_AREA = np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3) if (i, j) != (0, 0)])
_LEVELS = (0.3, 0.6, 1.0)
"""Shares of the tolerance, tried in this order: the best agreement goes first."""
_PULL = 4.0
"""Weight of the neighbours' lattice against a cell's own surroundings."""


class Candidates(NamedTuple):
    """Places where a cell may be: position (n, 2) px of its anchor column, likeness (n,) to the motif."""

    position: np.ndarray
    likeness: np.ndarray


class Cells(NamedTuple):
    """Indexed cells: index (n, 2), position (n, 2) px, local lattice rows (n, 2, 2) px, misfit (n,) px against the
    neighbours' expectation, candidate (n,) row in the candidates (−1: expected, not seen), region (n,)."""

    index: np.ndarray
    position: np.ndarray
    lattice: np.ndarray
    misfit: np.ndarray
    candidate: np.ndarray
    region: np.ndarray

    def chosen(self, rows: np.ndarray) -> "Cells":
        """The cells of these rows (integers or a mask)."""
        return Cells(*(a[rows] for a in self))


def nearest(
    known: Float[np.ndarray, "n 2"], position: Float[np.ndarray, "m 2"], count: int = 1, within: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Distance and row of the nearest of `known` to every position, (m,) or (m, count); inf where none is `within`."""
    distance, row = KDTree(known).query(position, k=count, distance_upper_bound=within)
    return np.asarray(distance), np.asarray(row)


class _Board:
    """A dense grid of cells round (0, 0), flat rows; `row` of an index, −1 never occurs because of the margin."""

    def __init__(self, reach: int):
        self.reach, self.width = reach, 2 * reach + 1
        size = self.width**2
        self.known = np.zeros(size, bool)
        self.position = np.zeros((size, 2))
        self.lattice = np.zeros((size, 2, 2))
        self.misfit = np.zeros(size)
        self.candidate = np.full(size, -1)

    def row(self, index: np.ndarray) -> np.ndarray:
        clipped = np.clip(index, -self.reach, self.reach) + self.reach
        return clipped[..., 0] * self.width + clipped[..., 1]

    def index(self, row: np.ndarray) -> np.ndarray:
        return np.stack([row // self.width, row % self.width], -1) - self.reach

    def expected(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position (n, 2) and lattice (n, 2, 2) that the known cells around expect, and how many they are (n,)."""
        near = self.row(index[:, None] + _RING)
        weight = np.where(self.known[near], np.where(np.abs(_RING).sum(1) == 1, 2.0, 1.0), 0.0)
        share = weight / np.maximum(weight.sum(1, keepdims=True), 1e-9)
        lattice = self.lattice[near]
        step = np.einsum("ki,nkij->nkj", -_RING.astype(float), lattice)
        position = np.einsum("nk,nkj->nj", share, self.position[near] + step)
        return position, np.einsum("nk,nkij->nij", share, lattice), (weight > 0).sum(1)

    def measure(self, index: np.ndarray, prior: np.ndarray) -> np.ndarray:
        """(n, 2, 2) lattice rows from the known cells within two steps, leaning on `prior`."""
        near = self.row(index[:, None] + _AREA)
        weight = self.known[near].astype(float)
        gap = self.position[near] - self.position[self.row(index)][:, None]
        step = _AREA.astype(float)
        matrix = np.einsum("nk,ki,kj->nij", weight, step, step) + _PULL * np.eye(2)
        vector = np.einsum("nk,ki,nkj->nij", weight, step, gap) + _PULL * prior
        return np.linalg.solve(matrix, vector)


def grow_cells(
    candidates: Candidates,
    start: int,
    lattice: Float[np.ndarray, "2 2"],
    tolerance: float,
    free: Bool[np.ndarray, " n"],
) -> Cells:
    """Index candidates on the lattice (rows in px) from the one in row `start`, which gets (0, 0).

    A candidate is accepted where the cells round it, each with its own local lattice, expect it within `tolerance`
    (px), so slow distortion is followed; the best agreement goes first, wave by wave. free: candidates to use.
    """
    tree = KDTree(candidates.position)
    extent = np.ptp(candidates.position, axis=0) if len(candidates.position) > 1 else np.zeros(2)
    height = abs(np.linalg.det(lattice)) / np.linalg.norm(lattice, axis=1).max()
    board = _Board(int(np.linalg.norm(extent) / (0.7 * height)) + 6)
    free = free.copy()
    origin = board.row(np.zeros((1, 2), int))
    board.known[origin], board.candidate[origin], free[start] = True, start, False
    board.position[origin], board.lattice[origin] = candidates.position[start], lattice
    frontier = board.row(_EDGES)
    while len(frontier):
        index = board.index(frontier)
        expected, local, _ = board.expected(index)
        miss, near = (np.asarray(a) for a in tree.query(expected, distance_upper_bound=tolerance))
        usable = np.isfinite(miss) & (np.abs(index).max(1) < board.reach - 2)
        usable &= free[np.minimum(near, len(free) - 1)]
        level = next((f for f in _LEVELS if (usable & (miss <= f * tolerance)).any()), None)
        if level is None:
            break
        rows = np.nonzero(usable & (miss <= level * tolerance))[0]
        rows = rows[np.argsort(miss[rows], kind="stable")]
        rows = rows[np.unique(near[rows], return_index=True)[1]]  # one cell a candidate, the closest
        new = frontier[rows]
        board.known[new], board.candidate[new], board.misfit[new] = True, near[rows], miss[rows]
        board.position[new] = candidates.position[near[rows]]
        free[near[rows]] = False
        board.lattice[new] = local[rows]
        board.lattice[new] = board.measure(index[rows], local[rows])
        around = board.row(board.index(new)[:, None] + _EDGES).ravel()
        frontier = np.unique(np.concatenate([frontier, around]))
        frontier = frontier[~board.known[frontier]]
    rows = np.nonzero(board.known)[0]
    index = board.index(rows)
    board.lattice[rows] = board.measure(index, board.lattice[rows])
    none = np.zeros(len(rows), int)
    return Cells(index, board.position[rows], board.lattice[rows], board.misfit[rows], board.candidate[rows], none)


def _board_of(cells: Cells, margin: int) -> _Board:
    board = _Board(int(np.abs(cells.index).max()) + margin + 3)
    rows = board.row(cells.index)
    board.known[rows], board.position[rows], board.lattice[rows] = True, cells.position, cells.lattice
    board.candidate[rows] = cells.candidate
    return board


def moved(cells: Cells, position: np.ndarray) -> Cells:
    """The same cells at better positions (n, 2), region by region with the lattices measured again."""
    cells = cells._replace(position=position)
    lattice = cells.lattice.copy()
    for region in np.unique(cells.region):
        mine = cells.region == region
        part = cells.chosen(mine)
        lattice[mine] = _board_of(part, 2).measure(part.index, part.lattice)
    return cells._replace(lattice=lattice)


def surround(cells: Cells, rings: int) -> Cells:
    """The cells that the outermost ones expect next to them, ring by ring: not seen, so candidate is −1."""
    board = _board_of(cells, rings)
    added = []
    for _ in range(rings):
        known = np.nonzero(board.known)[0]
        new = np.unique(board.row(board.index(known)[:, None] + _RING))
        new = new[~board.known[new]]
        index = board.index(new)
        position, lattice, _ = board.expected(index)
        board.known[new], board.position[new], board.lattice[new] = True, position, lattice
        added.append(new)
    rows = np.concatenate(added)
    region = np.full(len(rows), cells.region[0])
    none = np.full(len(rows), -1)
    return Cells(board.index(rows), board.position[rows], board.lattice[rows], np.zeros(len(rows)), none, region)


def within(cells: Cells, position: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Positions (n, 2) px between known cells: at least three corners of the cell that they lie in are known."""
    board = _board_of(cells, 3)
    _, near = nearest(cells.position, position)
    gap = position - cells.position[near]
    fraction = np.einsum("nj,nji->ni", gap, np.linalg.inv(cells.lattice[near]))
    far = np.abs(fraction).max(1) > 1.5
    low = cells.index[near] + np.floor(np.where(far[:, None], 0.0, fraction)).astype(int)
    corner = board.row(low[:, None] + np.array([(0, 0), (0, 1), (1, 0), (1, 1)]))
    return ~far & (board.known[corner].sum(1) >= 3)


def filled(cells: Cells, least: int = 5) -> Cells:
    """The same cells of one region with the holes among them: unknown cells with `least` of eight neighbours known."""
    for _ in range(2):
        around = surround(cells, 1)
        near = _board_of(cells, 2)
        count = near.known[near.row(around.index[:, None] + _RING)].sum(1)
        cells = Cells(*(np.concatenate(parts) for parts in zip(cells, around.chosen(count >= least), strict=True)))
    return cells


def neighbourhood_mean(cells: Cells, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a value (n,) over the cells within two steps, itself included, and how many of the 25 there are."""
    board = _board_of(cells, 2)
    filled = np.zeros(len(board.known))
    filled[board.row(cells.index)] = value
    near = board.row(cells.index[:, None] + np.concatenate([_AREA, np.zeros((1, 2), int)]))
    count = board.known[near].sum(1)
    return filled[near].sum(1) / count, count


def torn(cells: Cells, tolerance: float) -> Bool[np.ndarray, " n"]:
    """Cells next to a seam: growth paths that disagree left another cell than the lattice's own where a neighbour
    should be. tolerance: px."""
    bad = np.zeros(len(cells.index), bool)
    for step in _EDGES:
        expected = cells.position + np.einsum("i,nij->nj", step.astype(float), cells.lattice)
        miss, near = nearest(cells.position, expected, within=tolerance)
        seen = np.isfinite(miss)
        near = np.where(seen, near, 0)
        other = (cells.index[near] != cells.index + step).any(1) | (cells.region[near] != cells.region)
        bad |= seen & other
        bad[near[seen & other]] = True
    for one, other in _index_neighbours(cells):
        step = (cells.index[other] - cells.index[one]).astype(float)
        gap = cells.position[other] - cells.position[one]
        off = np.linalg.norm(gap - np.einsum("ni,nij->nj", step, cells.lattice[one]), axis=1)
        far = off > tolerance * np.maximum(1.0, np.abs(step).sum(1))
        bad[one[far]] = bad[other[far]] = True
    return bad


def _index_neighbours(cells: Cells):
    """Pairs of rows whose indices differ by at most one each way, region by region: none may stand for another."""
    numbers = np.unique(cells.region)
    trees = {int(r): (np.nonzero(cells.region == r)[0], KDTree(cells.index[cells.region == r])) for r in numbers}
    for r, (rows, tree) in trees.items():
        pairs = tree.query_pairs(1.1, output_type="ndarray")
        yield rows[pairs[:, 0]], rows[pairs[:, 1]]
        for q, (others, _) in trees.items():
            if q > r:
                near = tree.query_ball_point(cells.index[others], 1.5)
                count = np.array([len(n) for n in near], int)
                first = np.concatenate([np.asarray(n, int) for n in near]) if count.any() else np.zeros(0, int)
                yield rows[first], np.repeat(others, count)


def fit_lattice(
    index: Int[np.ndarray, "n 2"], position: Float[np.ndarray, "n 2"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin (2,), lattice rows (2, 2) and residual (n, 2), least squares without the worst outliers."""
    design = np.column_stack([np.ones(len(index)), index])
    keep = np.ones(len(index), bool)
    solution = np.zeros((3, 2))
    for _ in range(3):
        solution = np.linalg.lstsq(design[keep], position[keep], rcond=None)[0]
        distance = np.linalg.norm(position - design @ solution, axis=1)
        keep = distance <= max(4 * float(np.median(distance)), 1e-9)
    return solution[0], solution[1:], position - design @ solution
