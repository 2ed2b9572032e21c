"""What is missing, what lies beyond the last cells of a lattice, and what belongs to none."""

import numpy as np
from scipy.spatial import KDTree

from ferrojax.columns.columns import ACCEPTED, FAINT, SEAM
from ferrojax.columns.indexing.index import Cells, nearest
from ferrojax.columns.indexing.place import Drawn, View, inside, pick, snapped

_FAINT, _FAINT_UNSEEN, _SHOWN = 0.3, 0.4, 0.4
"""Shares of a sublattice's usual contrast: no column at a maximum, no column without one, a column at the rim."""
_CORNER = 1.5
"""Longest lattice vectors from the last columns to one at the rim: a cell's diagonal, and a little."""
_ALIKE = 0.5
"""Log of the contrast of a column beside the last cells against its sublattice's."""


def faint_marked(drawn: Drawn, view: View) -> Drawn:
    """Columns that are not there, marked: far below their sublattice, and not because noise makes it patchy."""
    present = presence(view, drawn)
    faint = (drawn.rejection == ACCEPTED) & (present < np.where(drawn.at_peak, _FAINT, _FAINT_UNSEEN))
    for k in np.unique(drawn.column):
        mine = drawn.column == k
        faint[mine] &= present[mine] < 1 - 4 * 1.48 * np.median(np.abs(present[mine] - 1))
    return drawn._replace(rejection=np.where(faint, FAINT, drawn.rejection))


def presence(view: View, drawn: Drawn) -> np.ndarray:
    """(n,) contrast of a column above the ground, in units of its sublattice's nearby; 1 outside the image."""
    height = pick(view.even, drawn.position, np.nan) - view.ground
    present = np.ones(len(height))
    for k in np.unique(drawn.column):
        mine = np.nonzero((drawn.column == k) & np.isfinite(height))[0]
        if len(mine) > 9:
            _, near = nearest(drawn.position[mine], drawn.position[mine], 9)
            present[mine] = height[mine] / np.maximum(np.median(height[mine][near], 1), 1e-9)
    return present


def beside_regions(outer: Drawn, beyond: Cells, many: int, cells: Cells) -> Drawn:
    """Border columns that reach towards another region are not to be trusted across the seam."""
    rejection = outer.rejection.copy()
    region = np.repeat(beyond.region, many)
    for r in np.unique(cells.region):
        mine, others = np.nonzero(region == r)[0], cells.region != r
        if others.any() and len(mine):
            reach = 1.2 * float(np.linalg.norm(cells.lattice[others].mean(0), axis=1).max())
            away, _ = nearest(cells.position[others], outer.position[mine])
            rejection[mine[away < reach]] = SEAM
    return outer._replace(rejection=rejection)


def kept_outside(outer: Drawn, drawn: Drawn, view: View) -> Drawn:
    """Of the columns that the border cells expect: what lies off the image, and what shows on it."""
    placed = snapped(outer, view.peaks, 0.3 * view.gap)
    on = inside(outer.position, view.even.shape) & pick(view.trusted, outer.position, False)
    margin = 1.5 * view.gap
    size = np.array(view.even.shape[::-1]) - 1
    near = ((outer.position >= -margin) & (outer.position <= size + margin)).all(1)
    blank = inside(outer.position, view.even.shape) & ~on
    near &= ~blank | (nearest(drawn.position, outer.position)[0] < margin)
    shown, perhaps = _shown(outer, placed, drawn, view)
    doubtful = on & perhaps & ~shown & (placed.rejection == ACCEPTED)
    placed = placed._replace(rejection=np.where(doubtful, FAINT, placed.rejection))
    outer = placed.chosen(np.where(on, shown | perhaps, near))
    known = {(int(c), int(i), int(j)) for c, (i, j) in zip(drawn.column, drawn.index, strict=True)}
    names = [(int(c), int(i), int(j)) for c, (i, j) in zip(outer.column, outer.index, strict=True)]
    new = np.array([name not in known for name in names], bool).reshape(-1)
    outer = outer.chosen(new & (nearest(drawn.position, outer.position)[0] > 0.5 * view.gap))
    if not len(outer.column):
        return outer
    pairs = KDTree(outer.position).query_pairs(0.5 * view.gap, output_type="ndarray")
    single = np.ones(len(outer.column), bool)
    single[pairs[:, 1]] = False
    outer = outer.chosen(single)
    names = np.column_stack([outer.column, outer.index])
    return outer.chosen(np.sort(np.unique(names, axis=0, return_index=True)[1]))


def _shown(outer: Drawn, placed: Drawn, drawn: Drawn, view: View) -> tuple[np.ndarray, np.ndarray]:
    """(n,) whether a column beyond the last cells is there: at the image's rim, where no cell is seen whole, any
    contrast will do; elsewhere a maximum close to the expected place, as bright as its sublattice nearby. And (n,)
    whether the fit is to tell: beside the last cells at the rim, where a column far off its place may be missed."""
    size = np.array(view.even.shape[::-1]) - 1
    rim = (np.minimum(outer.position, size - outer.position) < view.reach).any(1)
    ground = view.ground
    height = pick(view.even, placed.position, ground) - ground
    usual = np.full(len(height), np.inf)
    for k in np.unique(outer.column):
        mine, others = outer.column == k, drawn.position[drawn.column == k]
        if len(others) > 4:
            value = pick(view.even, others, 0.0) - ground
            usual[mine] = np.median(value[nearest(others, outer.position[mine], 5)[1]], 1)
    away = nearest(drawn.position, outer.position, 2)[0]
    shown = (height > _SHOWN * usual) & rim & (away[:, 0] < _CORNER * view.reach)
    perhaps = rim & (away[:, 0] < 1.3 * view.gap)
    sure = placed.at_peak & (np.linalg.norm(placed.position - outer.position, axis=1) < 0.15 * view.gap)
    alike = np.abs(np.log(np.maximum(height, 1e-9) / np.maximum(usual, 1e-9))) < _ALIKE
    return shown | (sure & alike & (away[:, 1] < 1.3 * view.gap)), perhaps


def strays(both: Drawn, view: View) -> np.ndarray:
    """(m, 2) working px, maxima as strong as a column and away from all seeds."""
    usual = [np.median(pick(view.even, both.position[both.column == k], 0.0)) for k in np.unique(both.column)]
    strong = view.peaks[view.height > max(0.5 * max(usual), min(usual))]
    return strong[nearest(both.position, strong)[0] > 0.7 * view.gap] if len(strong) else strong
