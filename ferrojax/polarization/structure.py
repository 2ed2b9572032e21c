"""The cells of a perovskite in three dimensions: which A and O atoms surround each B atom, found once in NumPy."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ferrojax.errors import InputError
from ferrojax.products import exact

AnyArray = Array | np.ndarray
REACH = 7.5
"""Å; beyond the second A shell of any perovskite, so that a shell with a gap is seen to have one."""
CORNERS, LIGANDS = 8, 6
_SHELL = 1.35
"""A shell ends at this multiple of its median distance; the next one starts at 1.9 (A) or 2.2 (O)."""


class PerovskiteCells(eqx.Module):
    """Neighbours of every B atom of a periodic structure; a plan, in NumPy and never traced.

    b: (n,) atom of the cell's centre. a, o: (n, 8) and (n, 6) atoms of its corners and its octahedron.
    a_image, o_image: (n, k, 3), lattice vectors of the box to add, so that
        bond = position[a] − position[b] + a_image @ cell.
    Corners run over (±, ±, ±) of the axes, last axis fastest, minus first; the octahedron is −, + of each axis.
    neighbour, neighbour_image: (n, 3) row of the next cell along each axis and its image, −1 where there is none.
    complete: (n,) whether all 14 neighbours are there, once each.
    axes: (3, 3), rows are the unit vectors of the pseudo-cubic axes.
    """

    b: Int[np.ndarray, " n"]
    a: Int[np.ndarray, "n 8"]
    a_image: Int[np.ndarray, "n 8 3"]
    o: Int[np.ndarray, "n 6"]
    o_image: Int[np.ndarray, "n 6 3"]
    neighbour: Int[np.ndarray, "n 3"]
    neighbour_image: Int[np.ndarray, "n 3 3"]
    complete: Bool[np.ndarray, " n"]
    axes: Float[np.ndarray, "3 3"]


class _Shell(NamedTuple):
    """Candidates round every centre, nearest first: (n, k) atom, (n, k, 3) image and bond, (n, k) distance."""

    atom: np.ndarray
    image: np.ndarray
    bond: np.ndarray
    distance: np.ndarray


def perovskite_cells(
    position: Float[AnyArray, "atoms 3"],
    cell: Float[AnyArray, "3 3"],
    label: Sequence[str],
    axes: Float[AnyArray, "3 3"] | None = None,
) -> PerovskiteCells:
    """Find the cells of a periodic structure of perovskite, in the order of its B atoms.

    position: Å. cell: rows are the box vectors, Å. label: "A", "B" or "O" of every atom.
    axes: rows are the pseudo-cubic axes; by default those along which the B atoms repeat.
    Errors: InputError for labels that do not fit, and where nothing looks like a perovskite.
    """
    position, cell = np.asarray(position, float), np.asarray(cell, float)
    names = np.asarray(label)
    if names.shape != (len(position),) or not set("ABO") <= set(names.tolist()):
        raise InputError("label", sorted(set(names.tolist())), "needs one A, B or O an atom", "label every atom")
    b, a, o = (np.nonzero(names == site)[0] for site in "BAO")
    around_b = _shell(position, cell, b, b, LIGANDS)
    given = _repeat_directions(around_b) if axes is None else np.asarray(axes, float)
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    corner, corners_whole = _placed(_shell(position, cell, b, a, CORNERS), _corner_of(unit), CORNERS)
    ligand, ligands_whole = _placed(_shell(position, cell, b, o, LIGANDS), _ligand_of(unit), LIGANDS)
    step, _ = _placed(around_b, _ligand_of(unit), LIGANDS)
    found = _next_cells(around_b, unit)
    row = np.full(len(position), -1)
    row[b] = np.arange(len(b))
    forward = np.arange(1, LIGANDS, 2)
    return PerovskiteCells(
        b=b,
        a=corner.atom,
        a_image=corner.image,
        o=ligand.atom,
        o_image=ligand.image,
        neighbour=np.where(found, row[step.atom[:, forward]], -1),
        neighbour_image=step.image[:, forward],
        complete=corners_whole & ligands_whole,
        axes=unit,
    )


def _shell(position: np.ndarray, cell: np.ndarray, centre: np.ndarray, others: np.ndarray, count: int) -> _Shell:
    """The `count` + 1 nearest of `others` round every centre, periodic images (also of itself) included."""
    from scipy.spatial import KDTree

    fraction = position @ np.linalg.inv(cell)
    whole = np.floor(fraction).astype(int)
    inside = fraction - whole
    margin = REACH * np.linalg.norm(np.linalg.inv(cell), axis=0)
    reach = [range(-n, n + 1) for n in np.ceil(margin).astype(int)]
    shifts = np.array(list(itertools.product(*reach)))
    images = inside[others][None] + shifts[:, None]
    near = ((images > -margin) & (images < 1 + margin)).all(-1)
    shift_row, other_row = np.nonzero(near)
    points = images[near] @ cell
    start = inside[centre] @ cell
    k = min(count + 2, len(points))
    distance, found = map(np.asarray, KDTree(points).query(start, k=k))
    if k < count + 1 or not np.isfinite(distance).all():
        raise InputError("structure", f"{len(others)} atoms", "has too few neighbours", "give a periodic perovskite")
    # An atom is not its own neighbour; where the kinds differ the last candidate is dropped instead.
    own = np.argmax(distance < 1e-6, 1)
    drop = np.where((distance < 1e-6).any(1), own, k - 1)
    keep = np.arange(k)[None] != drop[:, None]
    found, distance = found[keep].reshape(len(centre), k - 1), distance[keep].reshape(len(centre), k - 1)
    atom = others[other_row[found]]
    image = shifts[shift_row[found]] - whole[atom] + whole[centre][:, None]
    return _Shell(atom, image, points[found] - start[:, None], distance)


def distinct_atoms(
    position: Float[AnyArray, "atoms 3"], cell: Float[AnyArray, "3 3"], tolerance: float = 0.3
) -> Int[np.ndarray, " kept"]:
    """Rows of the atoms that stay when copies within `tolerance` Å (periodic images too) are dropped, first kept.

    Files that were cut and joined hold atoms of the seam twice.
    """
    from scipy.spatial import KDTree

    fraction = np.asarray(position, float) @ np.linalg.inv(np.asarray(cell, float))
    inside = fraction - np.floor(fraction)
    margin = 2 * tolerance * np.linalg.norm(np.linalg.inv(np.asarray(cell, float)), axis=0)
    shifts = np.array(list(itertools.product((0, 1, -1), repeat=3)))
    images = inside[None] + shifts[:, None]
    near = ((images > -margin) & (images < 1 + margin)).all(-1)
    _, atom = np.nonzero(near)  # the atoms themselves come first, in order
    pairs = KDTree(images[near] @ cell).query_pairs(tolerance, output_type="ndarray")
    copies = np.sort(atom[pairs].reshape(-1, 2), axis=1)
    return np.setdiff1d(np.arange(len(inside)), copies[copies[:, 0] < copies[:, 1], 1])


def _repeat_directions(shell: _Shell) -> np.ndarray:
    """Pseudo-cubic axes from the vectors between neighbouring B atoms, ordered and signed like x, y, z."""
    near = shell.distance < 1.25 * np.median(shell.distance[:, 0])
    bonds = shell.bond[near]
    axes: list[np.ndarray] = []
    for _ in range(3):
        if not len(bonds):
            raise InputError("structure", f"{len(axes)} axes", "does not repeat like a perovskite", "give axes")
        cosine = bonds @ bonds[0] / np.linalg.norm(bonds, axis=1) / np.linalg.norm(bonds[0])
        mine = np.abs(cosine) > 0.8
        mean = (np.sign(cosine[mine])[:, None] * bonds[mine]).mean(0)
        axes.append(mean / np.linalg.norm(mean))
        bonds = bonds[~mine]
    found = np.array(axes)
    order = max(itertools.permutations(range(3)), key=lambda p: np.abs(found[list(p)].diagonal()).sum())
    found = found[list(order)]
    return found * np.where(found.diagonal() < 0, -1.0, 1.0)[:, None]


def _corner_of(axes: np.ndarray):
    """Bond minus the shell's centre -> corner number 0 to 7."""
    inverse = np.linalg.inv(axes)

    def place(bond: np.ndarray) -> np.ndarray:
        return ((bond - bond.mean(1, keepdims=True)) @ inverse > 0) @ np.array([4, 2, 1])

    return place


def _ligand_of(axes: np.ndarray):
    """Bond -> 0 to 5 for −, + of each axis."""
    inverse = np.linalg.inv(axes)

    def place(bond: np.ndarray) -> np.ndarray:
        along = bond @ inverse
        axis = np.abs(along).argmax(-1)
        return 2 * axis + (np.take_along_axis(along, axis[..., None], -1)[..., 0] > 0)

    return place


def _placed(shell: _Shell, place, count: int) -> tuple[_Shell, np.ndarray]:
    """The `count` nearest in the order of their places, and whether every place is taken exactly once."""
    nearest = _Shell(*(each[:, :count] for each in shell))
    where = place(nearest.bond)
    order = np.argsort(where, axis=1, kind="stable")
    limit = _SHELL * np.median(nearest.distance)
    whole = (np.sort(where, 1) == np.arange(count)).all(1) & (nearest.distance < limit).all(1)
    if shell.distance.shape[1] > count:
        whole &= shell.distance[:, count] > limit
    taken = [np.take_along_axis(v, order.reshape(order.shape + (1,) * (v.ndim - 2)), 1) for v in nearest]
    return _Shell(*taken), whole


def _next_cells(shell: _Shell, axes: np.ndarray) -> np.ndarray:
    """(n, 3) whether the neighbour in the + place of each axis is really one cell further along it."""
    placed, _ = _placed(shell, _ligand_of(axes), LIGANDS)
    forward = np.arange(1, LIGANDS, 2)
    bond, distance = placed.bond[:, forward], placed.distance[:, forward]
    straight = np.einsum("nki,ki->nk", bond, axes) > 0.9 * distance
    return straight & (distance < _SHELL * np.median(placed.distance))


@jax.jit
@exact
def _bonds(
    position: Float[AnyArray, "atoms 3"],
    cell: Float[AnyArray, "3 3"],
    centre: Int[AnyArray, " n"],
    neighbour: Int[AnyArray, "n k"],
    image: Int[AnyArray, "n k 3"],
) -> Float[Array, "n k 3"]:
    position, cell = jnp.asarray(position), jnp.asarray(cell)
    return position[neighbour] - position[centre][:, None] + image @ cell


@exact
def corner_bonds(
    position: Float[AnyArray, "atoms 3"], cell: Float[AnyArray, "3 3"], cells: PerovskiteCells
) -> Float[Array, "n 8 3"]:
    """Å from every B atom to the A atoms of its corners; NaN nowhere, mask with `cells.complete`."""
    return _bonds(position, cell, cells.b, cells.a, cells.a_image)


@exact
def ligand_bonds(
    position: Float[AnyArray, "atoms 3"], cell: Float[AnyArray, "3 3"], cells: PerovskiteCells
) -> Float[Array, "n 6 3"]:
    """Å from every B atom to its oxygens, −, + of each axis."""
    return _bonds(position, cell, cells.b, cells.o, cells.o_image)


CORNER_SIGN = np.array(list(itertools.product((-1, 1), repeat=3)))
"""(8, 3), the corners of `PerovskiteCells`."""


@exact
def cell_vectors(
    position: Float[AnyArray, "atoms 3"], cell: Float[AnyArray, "3 3"], cells: PerovskiteCells
) -> Float[Array, "n 3 3"]:
    """Local lattice vectors (rows, Å) of every cell: the mean of the four A–A edges along each axis.

    Incomplete cells are NaN.
    """
    vectors = jnp.einsum("ck,nci->nki", CORNER_SIGN / 4, corner_bonds(position, cell, cells))
    return jnp.where(cells.complete[:, None, None], vectors, jnp.nan)


@exact
def cell_displacement(
    position: Float[AnyArray, "atoms 3"], cell: Float[AnyArray, "3 3"], cells: PerovskiteCells
) -> Float[Array, "n 3"]:
    """Displacement (Å) of every B atom against the centroid of its eight A neighbours; incomplete cells are NaN."""
    return jnp.where(cells.complete[:, None], -corner_bonds(position, cell, cells).mean(1), jnp.nan)
