"""The projection of a crystal along a zone axis: its plane lattice, columns and coordination."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.lattice import images_within, plane_basis, primitive_cell
from ferrojax.crystal.roles import SITES_OF_B, Roles, displacement_roles, usual_displacement
from ferrojax.errors import InputError

Z_CONTRAST_EXPONENT = 1.7
SHELL_REACH = 16.0
"""Å; how far the neighbours of a site are looked for, twice the widest cage of any cell."""
_REPEATS, _AS_BRIGHT = 0.05, 0.02
"""Å, and share of the brightness, within which columns are each other's translation."""
_TURNED = (0.9, 1.4)
"""Å; how far oxygen columns may be from each other that octahedra turned to either side put about one place, the first
that keeps different ones apart: 12° of rotation need 0.85 Å, 16° 1.15 Å."""
_REMEDY = "give three small integers such as (0, 0, 1) or (1, 1, 0)"


class Shell(eqx.Module):
    """The columns round a column of cell (0, 0), from its sites' coordination shell in three dimensions.

    column: (k,) which column of the motif. index: (k, 2) lattice index of that column's cell. weight: (k,) share
    of the shell, sums to 1. All empty for a column whose displacement is not meant.
    """

    column: Int[np.ndarray, " shell"]
    index: Int[np.ndarray, "shell 2"]
    weight: Float[np.ndarray, " shell"]


class Motif(eqx.Module):
    """What a crystal looks like along a zone axis; in NumPy, because it plans the work and is never traced.

    lattice: (2, 2) Å, rows are the reduced primitive vectors in the projection's own axes, right-handed.
    axes: (2, 3), the projection's x and y as unit vectors in the crystal's Cartesian axes; x × y is the beam.
    position: (n, 2) fractional in `lattice`, where the sites that give the column its label are.
    label: "A" for a column with an A site, else "B", else "O". A, B and O columns come in this order.
    strength: (n,) HAADF brightness of a column, Σ occupancy · Z^1.7 per Å of depth.
    depth: Å along the beam after which the columns repeat. members: the crystal's sites in each column.
    displacement: whose against whose, such as "B:A". shells: one a column, the neighbours of those that move.
    alike: how many columns of the crystal's primitive cell every column stands for; more than one where A and B columns
    repeat in a smaller cell than the crystal does, as where octahedra are turned to either side.
    """

    lattice: Float[np.ndarray, "2 2"]
    axes: Float[np.ndarray, "2 3"]
    position: Float[np.ndarray, "columns 2"]
    strength: Float[np.ndarray, " columns"]
    shells: tuple[Shell, ...]
    label: tuple[str, ...] = eqx.field(static=True)
    members: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    depth: float = eqx.field(static=True)
    zone: tuple[int, int, int] = eqx.field(static=True)
    displacement: str = eqx.field(static=True, default=SITES_OF_B)
    alike: int = eqx.field(static=True, default=1)

    @property
    def offset(self) -> Float[np.ndarray, "columns 2"]:
        """(n, 2) Å, where the columns of cell (0, 0) are."""
        return self.position @ self.lattice

    @property
    def moving(self) -> tuple[int, ...]:
        """The columns whose displacement is meant; a cell's is their mean."""
        return tuple(i for i, shell in enumerate(self.shells) if len(shell.weight))

    @property
    def shell(self) -> Shell:
        """The neighbours of all columns that move, together: the centroid that their mean displacement is against."""
        parts = [self.shells[i] for i in self.moving]
        if not parts:
            return _EMPTY
        at = np.concatenate([np.column_stack([part.column, part.index]) for part in parts])
        unique, inverse = np.unique(at, axis=0, return_inverse=True)
        weight = np.bincount(inverse.ravel(), np.concatenate([part.weight for part in parts])) / len(parts)
        return Shell(unique[:, 0], unique[:, 1:], weight)

    @property
    def ideal_displacement(self) -> Float[np.ndarray, "columns 2"]:
        """(n, 2) Å, each column that moves against the centroid of its shell in this very cell; NaN for the others.

        Zero in a non-polar perovskite; in a polar or distorted reference cell it is part of every displacement.
        """
        found = np.full((len(self.label), 2), np.nan)
        for i, shell in enumerate(self.shells):
            if len(shell.weight):
                around = self.position[shell.column] + shell.index
                found[i] = (self.position[i] - shell.weight @ around) @ self.lattice
        return found

    def sites(self, label: str) -> list[int]:
        """Columns with that label."""
        return [i for i, name in enumerate(self.label) if name == label]


_EMPTY = Shell(np.zeros(0, int), np.zeros((0, 2), int), np.zeros(0))


def checked_zone(zone) -> tuple[int, int, int]:
    """The zone axis as three coprime integers, or an InputError."""
    try:
        values = [float(v) for v in zone]
    except (TypeError, ValueError):
        raise InputError("zone axis", zone, "needs three integers", _REMEDY) from None
    if len(values) != 3 or not all(v.is_integer() for v in values):
        raise InputError("zone axis", tuple(zone), "needs three integers", _REMEDY)
    u, v, w = (int(v) for v in values)
    divisor = math.gcd(u, v, w)
    if divisor == 0:
        raise InputError("zone axis", (u, v, w), "has no direction", _REMEDY)
    if max(abs(u), abs(v), abs(w)) > 5 * divisor:
        raise InputError("zone axis", (u, v, w), "has an index above 5: its columns overlap", _REMEDY)
    return u // divisor, v // divisor, w // divisor


def projected_motif(
    crystal: Crystal, zone: Any = (0, 0, 1), resolution: float = 0.6, displacement: str | None = None
) -> Motif:
    """Project a crystal along a zone axis, given as direct-lattice indices [uvw] of its cell.

    The plane lattice is that of the primitive cell, so that a centred cell or a supercell gives no column twice. Where
    the A and B columns repeat in a smaller cell with one of each, it is that of these, and oxygen stands at its mean
    place, unless the displacement tells such columns apart.
    Three indices of a hexagonal cell: [11-20] is [110], [1-100] is [1-10].
    resolution: Å; sites that project closer than this to the heaviest-labelled site of a column (A, then B, then O)
    belong to that column, because no image shows them apart.
    displacement: whose against whose centroid (`displacement_roles`): "B:A", "Fe:Bi"; None: B against A, cations
    against anions where the crystal has no B.
    Errors: InputError for a zone that is not three small integers, not all zero, and for a displacement of what the
    crystal does not have.
    """
    uvw = checked_zone(zone)
    displacement = usual_displacement(crystal) if displacement is None else "".join(str(displacement).split())
    roles = displacement_roles(crystal, displacement)
    cell = np.asarray(crystal.cell, float)
    fractional = np.asarray(crystal.position, float)
    basis, kept = primitive_cell(cell, fractional, site_kinds(crystal))
    primitive = basis @ cell
    beam = np.round(np.array(uvw) @ np.linalg.inv(basis)).astype(int)
    beam = beam // math.gcd(*(int(v) for v in beam))
    along = beam @ primitive
    normal = along / np.linalg.norm(along)
    flat = plane_basis(primitive, beam, basis) @ primitive @ (np.eye(3) - np.outer(normal, normal))
    depth = float(np.linalg.norm(along))
    weight = np.asarray(crystal.occupancy, float) * np.asarray(crystal.number, float) ** Z_CONTRAST_EXPONENT / depth
    sites = (crystal, kept, fractional @ cell, weight)
    view = _seen(flat, normal, sites, (resolution, resolution))
    meant = [(bool(roles.moving[group].any()), bool(roles.around[group].any())) for group in view.members]
    kinds = [(name, *own) for name, own in zip(view.label, meant, strict=True)]
    smaller, alike = _smaller_lattice(view.lattice, view.position, kinds, view.strength), 1
    if smaller is not view.lattice:
        alike = round(float(np.linalg.det(view.lattice) / np.linalg.det(smaller)))
        tried = (_seen(smaller @ view.axes, normal, sites, (resolution, reach)) for reach in _TURNED)
        # Every column has to hold its sites `alike` times, or some oxygen has no mean place.
        whole = (found for found in tried if all(len(group) % alike == 0 for group in found.members))
        fewer = next((found for found in whole if max(map(found.label.count, "AB")) == 1), None)
        view, alike = (view, 1) if fewer is None else (fewer._replace(strength=fewer.strength / alike), alike)
    members, label = view.members, view.label
    to_plane = view.axes.T @ np.linalg.inv(view.lattice)
    plane = fractional @ cell @ to_plane
    naming = np.zeros(len(plane), bool)  # others stand in a column that is not theirs
    naming[[i for group in members for i in group if crystal.label[i] == crystal.label[group[0]]]] = True
    roles = Roles(roles.moving & naming, roles.around & naming)
    for group in members:  # a column does not move against itself
        if roles.moving[group].any() and roles.around[group].any():
            roles.moving[group] = False
    at = fractional @ np.linalg.inv(basis)
    shells = _shells(at, plane, roles, (members, view.position), (primitive, to_plane))
    groups = tuple(tuple(group) for group in members)
    return Motif(
        view.lattice,
        view.axes,
        view.position,
        view.strength,
        shells,
        label=label,
        members=groups,
        depth=depth,
        zone=uvw,
        displacement=displacement,
        alike=alike,
    )


def site_kinds(crystal: Crystal) -> list[tuple]:
    """What must agree for two sites to be the same under a translation of the crystal."""
    mode = np.zeros((len(crystal.number), 9)) if crystal.soft_mode is None else np.asarray(crystal.soft_mode)
    rows = [tuple(row) for row in mode.reshape(-1, 9).round(3) + 0.0]
    occupancy = np.asarray(crystal.occupancy).round(4).tolist()
    return list(zip(crystal.number, crystal.label, occupancy, rows, strict=True))


class _View(NamedTuple):
    """The columns seen along the beam: lattice (2, 2) Å in axes (2, 3), and of every column its sites, label, place
    (fractional) and strength."""

    lattice: np.ndarray
    axes: np.ndarray
    members: list[list[int]]
    label: tuple[str, ...]
    position: np.ndarray
    strength: np.ndarray


def _seen(flat: np.ndarray, normal: np.ndarray, sites: tuple, reach: tuple[float, float]) -> _View:
    """The columns on a plane lattice, flat (2, 3) Å. sites: crystal, those kept, all places (Å), strength per Å of
    depth. reach: as in `_columns`."""
    crystal, kept, place, weight = sites
    x_axis = flat[0] / np.linalg.norm(flat[0])
    axes = np.stack([x_axis, np.cross(normal, x_axis)])
    lattice = flat @ axes.T
    plane = place @ axes.T @ np.linalg.inv(lattice)
    members = _columns(plane, lattice, crystal.label, kept, reach)
    position = np.array([_centre(plane, group, crystal) for group in members])
    position = np.mod(position + 1e-6, 1.0) - 1e-6
    strength = np.array([weight[group].sum() for group in members])
    return _View(lattice, axes, members, tuple(crystal.label[group[0]] for group in members), position, strength)


def _smaller_lattice(
    lattice: Float[np.ndarray, "2 2"], position: np.ndarray, kinds: Sequence[tuple], strength: np.ndarray
) -> Float[np.ndarray, "2 2"]:
    """The lattice in which the A and B columns repeat, its shortest vectors; `lattice` itself where it is that.

    kinds: label of every column, and what else has to agree under a translation.
    """
    heavy = [i for i, kind in enumerate(kinds) if kind[0] in "AB"]
    like = [i for i in heavy if kinds[i] == kinds[heavy[0]]] if heavy else []
    steps = []
    for other in like:
        step = position[other] - position[heavy[0]]
        gap = position[heavy][:, None] + step - position[heavy]
        distance = np.linalg.norm((gap - np.round(gap)) @ lattice, axis=-1)
        match = distance.argmin(1)
        same = all(kinds[i] == kinds[heavy[k]] for i, k in zip(heavy, match, strict=True))
        bright = np.abs(strength[heavy] - strength[heavy][match]) < _AS_BRIGHT * strength[heavy]
        if same and bright.all() and distance.min(1).max() < _REPEATS:
            steps.append(step)
    order = len(steps)
    whole = np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3)])
    snapped = [np.round(step * order) / order for step in steps]  # a group of that order has no other steps
    if order < 2 or max(np.linalg.norm((a - b) @ lattice) for a, b in zip(snapped, steps, strict=True)) > _REPEATS:
        return lattice
    every = np.concatenate([whole + step for step in snapped]) @ lattice
    every = every[np.linalg.norm(every, axis=1) > _REPEATS]
    every = every[np.lexsort([-every[:, 1].round(3), -every[:, 0].round(3), np.linalg.norm(every, axis=1).round(3)])]
    area = every[0, 0] * every[:, 1] - every[0, 1] * every[:, 0]
    second = np.flatnonzero(np.abs(area * order / np.linalg.det(lattice) - 1) < 1e-3)
    found = np.array([every[0], every[second[0]]]) if len(second) else lattice
    # Steps that are no group, such as those of a small modulation, leave some between the lattice's points.
    fraction = np.array(snapped) @ lattice @ np.linalg.inv(found)
    return found if np.abs(fraction - np.round(fraction)).max() < 1e-3 else lattice


def _columns(
    plane: np.ndarray, lattice: np.ndarray, labels: Sequence[str], kept: np.ndarray, reach: tuple[float, float]
):
    """Group the sites that project onto each other, A first, then B; each joins the nearest column within reach (Å, of
    another label and of the same)."""
    order = sorted((int(i) for i in kept), key=lambda i: ("ABO".index(labels[i]), i))
    groups: list[list[int]] = []
    for i in order:
        gaps = plane[i] - plane[[group[0] for group in groups]].reshape(-1, 2)
        distance = np.linalg.norm((gaps - np.round(gaps)) @ lattice, axis=1)
        own = np.array([labels[group[0]] == labels[i] for group in groups], bool)
        near = distance / np.where(own, reach[1], reach[0])
        if groups and near.min() < 1:
            groups[int(near.argmin())].append(i)
        else:
            groups.append([i])
    return groups


def _centre(plane: np.ndarray, group: list[int], crystal: Crystal) -> np.ndarray:
    """Mean plane coordinate of the sites that give a column its label, weighted by occupancy."""
    naming = [i for i in group if crystal.label[i] == crystal.label[group[0]]]
    gap = plane[naming] - plane[group[0]]
    return plane[group[0]] + np.average(gap - np.round(gap), axis=0, weights=np.asarray(crystal.occupancy)[naming])


def _shells(
    at: np.ndarray,
    plane: np.ndarray,
    roles: Roles,
    columns: tuple[list[list[int]], np.ndarray],
    frames: tuple[np.ndarray, np.ndarray],
) -> tuple[Shell, ...]:
    """The columns in the three-dimensional coordination shells of the sites of every column that moves.

    at, plane: every site in units of the primitive cell (n, 3) and of the plane lattice (n, 2). columns: their
    sites and plane positions. frames: the primitive cell (3, 3) Å, and from Cartesian axes to the plane lattice.
    """
    from scipy.spatial import KDTree

    (members, position), (primitive, to_plane) = columns, frames
    home = {i: k for k, group in enumerate(members) for i in group if roles.around[i]}
    if not home:
        return (_EMPTY,) * len(members)
    places = _distinct(sorted(home), at)
    column_of = np.array([home[int(i)] for i in places])
    wrapped = np.mod(at, 1.0)
    image, images = images_within(primitive, wrapped[places], SHELL_REACH)
    tree = KDTree(images)
    found = []
    for column, group in enumerate(members):
        rows = [np.zeros((0, 3), int)]
        for b in (i for i in group if roles.moving[i]):
            here = wrapped[b] @ primitive
            distance, near = map(np.atleast_1d, tree.query(here, k=min(64, len(images))))
            near = near[: _first_shell(distance)]
            own = plane[b] - position[column]
            end = position[column] + own - np.round(own) + (images[near] - here) @ to_plane
            around = column_of[image[near]]
            rows.append(np.column_stack([around, np.round(end - position[around])]).astype(int))
        unique, count = np.unique(np.concatenate(rows), axis=0, return_counts=True)
        found.append(Shell(unique[:, 0], unique[:, 1:], count / max(count.sum(), 1)))
    return tuple(found)


def _distinct(sites: list[int], at: np.ndarray) -> np.ndarray:
    """The sites without those that share the place of an earlier one, such as two elements at random on it."""
    from scipy.spatial import KDTree

    wrapped = np.mod(np.mod(at[sites], 1.0), 1.0)  # twice: the first may round up to 1
    pairs = np.asarray(KDTree(wrapped, boxsize=1.0).query_pairs(1e-3, output_type="ndarray"))
    later = set(pairs.max(1, initial=0).tolist())
    return np.array([site for k, site in enumerate(sites) if k not in later])


def _first_shell(distance: np.ndarray) -> int:
    """How many of the sorted distances come before the widest relative gap, within twice the shortest."""
    inside = min(int((distance <= 2 * distance[0]).sum()), len(distance) - 1)
    return int((distance[1 : inside + 1] / distance[:inside]).argmax()) + 1
