"""Which cells touch: on the grid of a map, and through the periodic box of a structure."""

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Int

from ferrojax.polarization.structure import PerovskiteCells


class CellGraph(eqx.Module):
    """Pairs of cells that touch; a plan, in NumPy and never traced.

    first, second: (m,) cells, the second one step further along grid direction `axis` (m,).
    image: (m, d), box vectors to add to the second cell's position; zeros on a grid. cells: how many there are.
    """

    first: Int[np.ndarray, " m"]
    second: Int[np.ndarray, " m"]
    axis: Int[np.ndarray, " m"]
    image: Int[np.ndarray, "m d"]
    cells: int = eqx.field(static=True)

    def regions(self, label: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Number of the connected piece of equal labels that each cell belongs to, −1 where the label is negative."""
        same = (label[self.first] == label[self.second]) & (label[self.first] >= 0)
        piece = self.components(same)
        region = np.full(self.cells, -1)
        inside = label >= 0
        region[inside] = np.unique(piece[inside], return_inverse=True)[1]
        return region

    def components(self, kept: Bool[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
        """Number of the connected piece of every cell when only the kept pairs connect."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        links = (np.ones(int(kept.sum()), bool), (self.first[kept], self.second[kept]))
        return connected_components(coo_array(links, shape=(self.cells, self.cells)), directed=False)[1]

    def touching(self, cells: Int[np.ndarray, " k"]) -> Int[np.ndarray, " j"]:
        """Cells outside a set that touch it, once for every shared side."""
        inside = np.zeros(self.cells, bool)
        inside[cells] = True
        out = inside[self.first] & ~inside[self.second]
        back = inside[self.second] & ~inside[self.first]
        return np.concatenate([self.second[out], self.first[back]])


def grid_graph(shape: tuple[int, ...]) -> CellGraph:
    """Neighbours on a (ny, nx) grid; axis 0 is along x (the last index), axis 1 along y."""
    number = np.arange(int(np.prod(shape))).reshape(shape)
    right, down = (number[:, :-1], number[:, 1:]), (number[:-1], number[1:])
    axis = np.repeat([0, 1], [right[0].size, down[0].size])
    first, second = (np.concatenate([a.ravel(), b.ravel()]) for a, b in zip(right, down, strict=True))
    return CellGraph(first, second, axis, np.zeros((len(first), len(shape)), int), number.size)


def structure_graph(cells: PerovskiteCells) -> CellGraph:
    """Neighbours in a structure, along its pseudo-cubic axes and through the box."""
    first, axis = np.nonzero(cells.neighbour >= 0)
    image = cells.neighbour_image[first, axis]
    return CellGraph(first, cells.neighbour[first, axis], axis, image, len(cells.b))
