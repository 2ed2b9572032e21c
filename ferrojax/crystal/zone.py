"""The projection of a crystal along a zone axis: its plane lattice, columns and coordination."""

import itertools
import math
from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from ferrojax.crystal.crystal import Crystal
from ferrojax.errors import InputError

Z_CONTRAST_EXPONENT = 1.7
SAME_COLUMN = 0.3
"""Å; atoms that project closer than this share a column."""
_REMEDY = "give three small integers such as (0, 0, 1) or (1, 1, 0)"


class Motif(eqx.Module):
    """What a crystal looks like along a zone axis; in NumPy, because it plans the work and is never traced.

    lattice: (2, 2) Å, rows are the reduced primitive vectors in the projection's own axes, right-handed.
    axes: (2, 3), the projection's x and y as unit vectors in the crystal's Cartesian axes; x × y is the beam.
    position: (n, 2) fractional in `lattice`. label: "A" for a column with an A site, else "B", else "O".
    strength: (n,) HAADF brightness of a column, Σ Z^1.7 per Å of depth.
    shell_index, shell_weight: (k, 2) and (k,), the A columns round the B column of cell (0, 0): lattice index
    and share of B's coordination shell, which is found in three dimensions. Empty where no B column is free
    of A.
    """

    lattice: Float[np.ndarray, "2 2"]
    axes: Float[np.ndarray, "2 3"]
    position: Float[np.ndarray, "columns 2"]
    strength: Float[np.ndarray, " columns"]
    shell_index: Int[np.ndarray, "shell 2"]
    shell_weight: Float[np.ndarray, " shell"]
    label: tuple[str, ...] = eqx.field(static=True)
    zone: tuple[int, int, int] = eqx.field(static=True)

    @property
    def offset(self) -> Float[np.ndarray, "columns 2"]:
        """(n, 2) Å, where the columns of cell (0, 0) are."""
        return self.position @ self.lattice

    def sites(self, label: str) -> list[int]:
        """Columns with that label."""
        return [i for i, name in enumerate(self.label) if name == label]


def checked_zone(zone: Sequence[int]) -> tuple[int, int, int]:
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


def projected_motif(crystal: Crystal, zone: Sequence[int] = (0, 0, 1)) -> Motif:
    """Project a crystal along a zone axis, given as direct-lattice indices of its cell.

    Errors: InputError for a zone that is not three small integers, not all zero.
    """
    uvw = checked_zone(zone)
    cell = np.asarray(crystal.cell, float)
    beam = np.array(uvw) @ cell
    first, second = _plane_basis(cell, uvw)
    normal = beam / np.linalg.norm(beam)
    flat = (np.array([first, second]) @ cell) @ (np.eye(3) - np.outer(normal, normal))
    x_axis = flat[0] / np.linalg.norm(flat[0])
    axes = np.stack([x_axis, np.cross(normal, x_axis)])
    lattice = flat @ axes.T
    fractional = np.asarray(crystal.position, float)
    plane = fractional @ cell @ axes.T @ np.linalg.inv(lattice)
    members = _columns(plane, lattice)
    labels = [_column_label([crystal.label[i] for i in group]) for group in members]
    order = sorted(range(len(members)), key=lambda k: "ABO".index(labels[k]))
    anchor = [_anchor(members[k], crystal.label, labels[k]) for k in order]
    position = np.mod(plane[anchor] + 1e-6, 1.0) - 1e-6
    number = np.asarray(crystal.number, float)
    strength = np.array([(number[members[k]] ** Z_CONTRAST_EXPONENT).sum() for k in order]) / np.linalg.norm(beam)
    label = tuple(labels[k] for k in order)
    shell = _coordination(crystal, lattice, axes, position=position, label=label)
    return Motif(lattice, axes, position, strength, *shell, label=label, zone=uvw)


def _plane_basis(cell: np.ndarray, uvw: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Integer cell vectors whose projections are the reduced primitive basis of the plane lattice."""
    beam = np.array(uvw) @ cell
    normal = beam / np.linalg.norm(beam)
    reach = range(-max(map(abs, uvw)) - 1, max(map(abs, uvw)) + 2)
    indices = np.array(list(itertools.product(reach, repeat=3)))
    flat = indices @ cell @ (np.eye(3) - np.outer(normal, normal))
    length = np.linalg.norm(flat, axis=1).round(4)
    # Among equal lengths the shortest and most positive index vector, so that [001] gives x = [100].
    order = np.lexsort([*(-indices.T[::-1]), np.abs(indices).sum(1), length])
    order = order[length[order] > 1e-3]
    first = indices[order[0]]
    area = abs(np.linalg.det(cell)) / np.linalg.norm(beam)
    for k in order:
        signed = float(np.cross(flat[order[0]], flat[k]) @ normal)
        if abs(signed / area - 1) < 1e-3:
            return first, indices[k]
    raise InputError("zone axis", uvw, "has no plane lattice in this cell", _REMEDY)


def _columns(plane: np.ndarray, lattice: np.ndarray) -> list[list[int]]:
    """Group the sites that project onto each other."""
    groups: list[list[int]] = []
    for i, here in enumerate(plane):
        for group in groups:
            gap = here - plane[group[0]]
            if np.linalg.norm((gap - np.round(gap)) @ lattice) < SAME_COLUMN:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _column_label(labels: list[str]) -> str:
    return min(labels, key="ABO".index)


def _anchor(group: list[int], site_labels: tuple[str, ...], label: str) -> int:
    """The site that gives its position to the column."""
    return next(i for i in group if site_labels[i] == label)


def _coordination(crystal: Crystal, lattice, axes, *, position, label) -> tuple[np.ndarray, np.ndarray]:
    """Lattice indices and weights of the A columns in B's three-dimensional coordination shell."""
    empty = np.zeros((0, 2), int), np.zeros(0)
    cell = np.asarray(crystal.cell, float)
    if label.count("A") != 1 or label.count("B") != 1:
        return empty
    fractional = np.asarray(crystal.position, float)
    b_site = fractional[crystal.label.index("B")]
    shifts = np.array(list(itertools.product(range(-2, 3), repeat=3)))
    a_sites = [fractional[i] for i, name in enumerate(crystal.label) if name == "A"]
    bonds = np.concatenate([a + shifts - b_site for a in a_sites]) @ cell
    distance = np.linalg.norm(bonds, axis=1)
    bonds = bonds[distance < 1.2 * distance.min()]
    a_column, b_column = position[label.index("A")], position[label.index("B")]
    index = np.round(bonds @ axes.T @ np.linalg.inv(lattice) + b_column - a_column).astype(int)
    unique, count = np.unique(index, axis=0, return_counts=True)
    return unique, count / count.sum()
