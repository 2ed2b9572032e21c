"""Orthogonal supercells of any crystal along any zone axis, with the strain that they need."""

import math
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from ferrojax.checks import check_array, real_number, whole_number
from ferrojax.crystal.atoms import Atoms
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.lattice import lattice_points, plane_vectors, primitive_cell, principal_strain
from ferrojax.crystal.sites import ase_sites, element_rms
from ferrojax.crystal.zone import checked_zone
from ferrojax.errors import InputError

MOST_STRAIN = 0.2
"""Above this a box is another crystal."""
ROUNDING = 1e-6
"""Strain that the rounding of structure files and of float32 makes."""
MOST_ATOMS = 5e7
"""Of a box; more fit into no memory that a simulation would leave."""


class OrientedSupercell(eqx.Module):
    """Atoms in an orthogonal box along a zone axis, and what was done to the crystal to fit it.

    strain: (3, 3), symmetric (Biot), in the box's axes; an atom of the crystal at r (Å) comes to
    (1 + strain) @ rotation @ r, up to a lattice vector. rotation: (3, 3), proper.
    vectors: (3, 3), rows are the box's edges x, y, z in units of the given cell's vectors (before `repeats`).
    """

    atoms: Atoms
    strain: Float[np.ndarray, "3 3"]
    rotation: Float[np.ndarray, "3 3"]
    vectors: Float[np.ndarray, "3 3"]
    zone: tuple[int, int, int] = eqx.field(static=True)
    repeats: tuple[int, int, int] = eqx.field(static=True)

    @property
    def largest_strain(self) -> float:
        """The largest principal strain, as a magnitude."""
        return float(np.abs(np.linalg.eigvalsh(self.strain)).max())


class _Structure(eqx.Module):
    """One unit cell: cell (3, 3) Å, fractional position, number, thermal rms (Å) and occupancy of every site."""

    cell: np.ndarray
    position: np.ndarray
    number: np.ndarray
    thermal_rms: np.ndarray
    occupancy: np.ndarray


def oriented_supercell(
    structure,
    zone: Any = (0, 0, 1),
    *,
    in_plane: Any = None,
    size: Any = None,
    thickness: Any = None,
    repeats: Any = None,
    max_strain: Any = 0.01,
    max_edge: Any = 60.0,
    thermal_rms: Any = None,
) -> OrientedSupercell:
    """The smallest orthogonal box of a crystal with the beam (+z) along the lattice direction `zone`.

    structure: a Crystal or an ASE Atoms with any cell; zone, in_plane: [uvw] of that cell.
    in_plane: its projection lies along +x; without it the shorter edge does.
    size: (x, y) and thickness: Å, reached by repeating the box; or give the repeats (nx, ny, nz).
    max_strain: the largest principal strain allowed. The edges are lattice vectors and keep their lengths, so
    only their angles change: a crystal with orthogonal vectors needs none. max_edge: Å, how far to search.
    thermal_rms: Å per axis, one value or one an element; default: the Crystal's own, 0 for ASE Atoms.
    Errors: InputError where no box within max_edge needs so little strain; it names the least found.
    """
    source = _structure(structure, thermal_rms)
    beam_index = checked_zone(zone)
    kind = list(zip(source.number, source.occupancy, source.thermal_rms, strict=True))
    basis, keep = primitive_cell(source.cell, source.position, kind)
    primitive = basis @ source.cell
    to_primitive = np.linalg.inv(basis)
    beam = np.round(np.array(beam_index) @ to_primitive).astype(int)
    beam = beam // math.gcd(*(int(v) for v in beam))
    wanted = None if in_plane is None else _in_plane(in_plane, beam_index, source.cell)
    edges = _box(primitive, basis, beam, wanted, max_strain=max_strain, max_edge=max_edge)
    lengths = np.linalg.norm(edges @ primitive, axis=1)
    counts = _repeats(lengths, size, thickness, repeats)
    total = float(np.prod(counts, dtype=float)) * len(keep) * abs(np.linalg.det(edges))
    if total > MOST_ATOMS:
        problem = f"makes {total:.2g} atoms, more than {MOST_ATOMS:.0e}"
        raise InputError("supercell", f"{counts} repeats", problem, "give size and thickness in Å: 20 nm is 200")
    rotation, strain = _polar(edges @ primitive, lengths)
    atoms = _fill(source, keep, to_primitive, edges).repeated(*counts)
    return OrientedSupercell(atoms, strain, rotation, edges @ basis, zone=beam_index, repeats=counts)


def _structure(structure, thermal_rms) -> _Structure:
    """A Crystal's or an ASE Atoms' unit cell in NumPy."""
    if isinstance(structure, Crystal):
        number = np.array(structure.number)
        own = np.asarray(structure.thermal_rms, float)
        rms = own if thermal_rms is None else element_rms(number, thermal_rms)
        cell, position = np.asarray(structure.cell, float), np.asarray(structure.position, float)
        occupancy = np.asarray(structure.occupancy, float)
    elif hasattr(structure, "get_scaled_positions"):
        cell = np.asarray(structure.cell.array, float)
        if abs(np.linalg.det(cell)) < 1e-6:
            raise InputError("cell", cell.tolist(), "has no volume", "set a cell on the ASE Atoms")
        cartesian, number, occupancy = ase_sites(structure)
        position = cartesian @ np.linalg.inv(cell)
        rms = element_rms(number, 0.0 if thermal_rms is None else thermal_rms)
    else:
        name = type(structure).__name__
        raise InputError("structure", name, "is no crystal", "pass a ferrojax.Crystal or an ASE Atoms")
    return _Structure(cell, position, number, rms, occupancy)


def _in_plane(in_plane, zone: tuple[int, int, int], cell: np.ndarray) -> np.ndarray:
    """The unit vector across the beam that shall lie along +x, in the crystal's Cartesian axes."""
    beam = np.array(zone) @ cell
    direction = np.array(checked_zone(in_plane)) @ cell
    flat = direction - (direction @ beam) / (beam @ beam) * beam
    if np.linalg.norm(flat) < 1e-3 * np.linalg.norm(direction):
        raise InputError("in_plane", tuple(in_plane), f"is parallel to the zone axis {zone}", "choose another one")
    return flat / np.linalg.norm(flat)


def _box(primitive, basis, beam, wanted, *, max_strain, max_edge) -> np.ndarray:
    """Edges (rows, whole multiples of the primitive vectors) of the smallest box within the strain allowed."""
    if not 0 <= real_number("max_strain", max_strain, "give, e.g., 0.01") <= MOST_STRAIN:
        raise InputError("max_strain", max_strain, f"must lie between 0 and {MOST_STRAIN}", "give, e.g., 0.01")
    if real_number("max_edge", max_edge, "give Å, e.g. 60") <= 0:
        raise InputError("max_edge", max_edge, "must be positive", "give Å, e.g. 60")
    vectors = plane_vectors(primitive, beam, max_edge)
    trial = max_strain + ROUNDING
    while True:
        trio, strain = _candidates(vectors, primitive, beam, wanted, trial)
        if (strain <= trial).any():
            break
        trial *= 2
        if trial > 2 * MOST_STRAIN:
            raise InputError("max_edge", max_edge, "Å is too short for any box along this zone", "raise max_edge")
    cells = np.abs(np.round(np.linalg.det(trio))).astype(int)
    if trial > max_strain + ROUNDING:
        best = np.lexsort([cells, strain.round(5)])[0]
        a, b = np.linalg.norm(trio[best, :2] @ primitive, axis=1)
        raise InputError(
            "max_strain",
            max_strain,
            f"no orthogonal box with edges up to {max_edge:g} Å needs so little; the least is {strain[best]:.4f}, "
            f"with {a:.2f} × {b:.2f} Å",
            "allow that strain or raise max_edge",
        )
    trio, strain, cells = (of[strain <= trial] for of in (trio, strain, cells))
    edge_sum = np.linalg.norm(trio @ primitive, axis=2).sum(1).round(3)
    best = trio[np.lexsort([edge_sum, strain.round(6), cells])[0]]
    return _arranged(best, primitive, basis, wanted)


def _candidates(vectors, primitive, beam, wanted, most: float) -> tuple[np.ndarray, np.ndarray]:
    """All boxes (n, 3, 3) that may need a strain of at most `most`, and the strain of each.

    The cosine of any two edges is at most 1/(1 − strain)² − 1, the reach of the eigenvalues of their overlaps.
    """
    limit = 1 / (1 - min(most, MOST_STRAIN)) ** 2 - 1
    edges, axis = vectors @ primitive, beam @ primitive
    unit, along = edges / np.linalg.norm(edges, axis=1, keepdims=True), axis / np.linalg.norm(axis)
    upright = np.abs(unit @ along) <= limit
    vectors, unit = vectors[upright], unit[upright]
    near = np.abs(unit @ unit.T) <= limit
    if wanted is None:
        near = np.triu(near, 1)
    else:
        across = unit - np.outer(unit @ along, along)
        near &= (np.abs(across @ wanted) > (1 - 1e-9) * np.linalg.norm(across, axis=1))[:, None]
    first, second = np.nonzero(near)
    trio = np.stack([vectors[first], vectors[second], np.broadcast_to(beam, (len(first), 3))], 1)
    return trio, principal_strain(trio @ primitive)


def _arranged(edges: np.ndarray, primitive: np.ndarray, basis: np.ndarray, wanted) -> np.ndarray:
    """The edges across the beam in order and sign: right-handed, x as wanted, else short and of positive indices."""
    first, second, beam = edges
    choices = []
    for x, y in [(first, second), (second, first)]:
        for sign_x in (1, -1):
            for sign_y in (1, -1):
                choice = np.array([sign_x * x, sign_y * y, beam])
                if np.linalg.det(choice @ primitive) > 0:
                    choices.append(choice)

    def order(choice):
        length = np.linalg.norm(choice[0] @ primitive)
        along = 0.0 if wanted is None else -float(choice[0] @ primitive @ wanted) / length
        given = (choice[:2] @ basis).round(6)
        return round(along, 6), round(length, 3), int((given < 0).sum()), tuple(-given.ravel())

    return min(choices, key=order)


def _repeats(lengths, size, thickness, repeats) -> tuple[int, int, int]:
    """How often the box is repeated along x, y and z."""
    if repeats is not None:
        if size is not None or thickness is not None:
            raise InputError("repeats", repeats, "comes with a size or a thickness", "give one or the other")
        check_array("repeats", repeats, [(3,)], "give (nx, ny, nz)")
        nx, ny, nz = (whole_number("repeats", count, "give (nx, ny, nz)") for count in repeats)
        return nx, ny, nz
    target = [0.0, 0.0, 0.0]
    if size is not None:
        check_array("size", size, [(2,)], "give (x, y) in Å")
        target[:2] = (float(side) for side in size)
    if thickness is not None:
        target[2] = real_number("thickness", thickness, "give Å")
    for name, value, given in zip(("size", "size", "thickness"), target, (size, size, thickness), strict=True):
        if given is not None and value <= 0:
            raise InputError(name, given, "must be positive", "give Å")
    counts = [max(1, math.ceil(t / length - 1e-4)) for t, length in zip(target, lengths, strict=True)]
    return counts[0], counts[1], counts[2]


def _polar(edges: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and strain that take the edges (rows, Å) onto the box's axes: F = (1 + strain) rotation."""
    gradient = np.diag(lengths) @ np.linalg.inv(edges.T)
    u, stretch, vt = np.linalg.svd(gradient)
    return u @ vt, u @ np.diag(stretch - 1) @ u.T


def _fill(source: _Structure, keep: np.ndarray, to_primitive: np.ndarray, edges: np.ndarray) -> Atoms:
    """The box's atoms: every kept site at every lattice point inside, wrapped into the box."""
    lengths = np.linalg.norm(edges @ np.linalg.inv(to_primitive) @ source.cell, axis=1)
    points = lattice_points(edges)
    fractional = (points[:, None] + source.position[keep] @ to_primitive) @ np.linalg.inv(edges)
    # A site on the box's edge belongs to its lower side, whatever the rounding.
    fractional = np.mod(fractional + 1e-6, 1.0) - 1e-6
    fractional = np.where(np.abs(fractional) <= 1e-6, 0.0, fractional).reshape(-1, 3)
    number, rms, occupancy = (
        np.tile(of[keep], len(points)) for of in (source.number, source.thermal_rms, source.occupancy)
    )
    return Atoms(fractional * lengths, number, tuple(lengths), rms, occupancy)
