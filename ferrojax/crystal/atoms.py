"""Atoms: the specimen that the electrons pass through."""

from os import PathLike
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.checks import check_array, whole_number
from ferrojax.crystal.checks import (
    atomic_numbers,
    box_sides,
    check_inside,
    check_kind,
    check_overlap,
    check_unit,
    check_values,
)
from ferrojax.crystal.sites import ase_sites, element_rms
from ferrojax.errors import InputError, is_traced


class Atoms(eqx.Module):
    """A specimen in a periodic orthogonal box; the beam runs along +z and enters at z = 0.

    position: (n, 3) Å (x, y, z). thermal_rms: (n,) or (n, 3) Å per axis. occupancy: (n,) in [0, 1]; it scales the
    atom's phase, so a shared site is the average of its species (virtual crystal); `draw_occupancy`
    makes one random realisation instead. An atom of occupancy 0 is not there; `present` drops such atoms.
    box: (3,) Å, static, because it decides the grid. number: (n,) atomic numbers, static.
    """

    position: Float[Array, "atoms 3"]
    thermal_rms: Float[Array, " atoms"] | Float[Array, "atoms 3"]
    occupancy: Float[Array, " atoms"]
    number: tuple[int, ...] = eqx.field(static=True)
    box: tuple[float, float, float] = eqx.field(static=True)

    def __init__(self, position, number, box, thermal_rms: Any = 0.0, occupancy: Any = 1.0):
        self.number, self.box = atomic_numbers(number), box_sides(box)
        n, dtype = len(self.number), jnp.result_type(float)
        each = [(), (1,), (n,)]
        check_array("position", position, [(n, 3)], "pass (x, y, z) in Å, one row an atom")
        check_array("thermal_rms", thermal_rms, [*each, (n, 3)], "give Å per axis")
        check_array("occupancy", occupancy, each, "give one share an atom, 0 to 1")
        rms = jnp.asarray(thermal_rms, dtype)
        self.position = jnp.asarray(position, dtype)
        self.thermal_rms = jnp.broadcast_to(rms, (n,)) if rms.ndim < 2 else rms
        self.occupancy = jnp.broadcast_to(jnp.asarray(occupancy, dtype), (n,))
        check_values(self.position, self.thermal_rms, self.occupancy, self.number)

    def wrapped(self) -> "Atoms":
        """The same specimen with every atom inside the box in x and y, which are periodic; z is left as it is."""
        sides = jnp.asarray(self.box[:2], self.position.dtype)
        shift = jnp.floor(self.position[:, :2] / sides) * sides
        return eqx.tree_at(lambda a: a.position, self, self.position.at[:, :2].add(-shift))

    def repeated(self, nx, ny: Any = None, nz: Any = None) -> "Atoms":
        """The specimen repeated nx × ny × nz times; thermal rms and occupancy go with their atoms.

        Errors: InputError for anything but three whole numbers from 1.
        """
        if ny is None or nz is None:
            given = nx if ny is None else (nx, ny)
            remedy = "say how often along each axis, e.g. atoms.repeated(3, 3, 1)"
            raise InputError("repeats", given, "must be three whole numbers", remedy)
        counts = [whole_number("repeats", count, "give (nx, ny, nz), e.g. 3, 3, 1") for count in (nx, ny, nz)]
        grid = np.stack(np.meshgrid(*[np.arange(count) for count in counts], indexing="ij"), -1)
        shift = jnp.asarray(grid.reshape(-1, 1, 3) * np.array(self.box), self.position.dtype)
        copies = len(shift)
        rms = self.thermal_rms
        return Atoms(
            (shift + self.position).reshape(-1, 3),
            np.tile(self.number, copies),
            tuple(length * count for length, count in zip(self.box, counts, strict=True)),
            jnp.tile(rms, copies) if rms.ndim == 1 else jnp.tile(rms, (copies, 1)),
            jnp.tile(self.occupancy, copies),
        )

    def present(self) -> "Atoms":
        """The specimen without atoms of zero occupancy, for codes that cannot carry them; their number is static.

        Errors: InputError where occupancies are traced, or no atom is left.
        """
        if is_traced(self.occupancy):
            raise InputError(
                "occupancy", "traced", "is being traced, so that none is known to be 0", "call it before jit"
            )
        kept = np.flatnonzero(np.asarray(self.occupancy) > 0)
        if kept.size == 0:
            raise InputError("occupancy", 0, "is zero for every atom", "draw another seed, or lower the vacancies")
        number = np.array(self.number)[kept]
        return Atoms(self.position[kept], number, self.box, self.thermal_rms[kept], self.occupancy[kept])

    @staticmethod
    def from_ase(atoms, thermal_rms: Any = 0.0) -> "Atoms":
        """From an ASE Atoms with an orthogonal cell; thermal_rms in Å per axis, one value or {element: value}.

        Partly occupied sites, which ASE keeps beside the atoms of a CIF, become one atom per species.
        Errors: InputError for another object, and for a cell that is not orthogonal.
        """
        if not hasattr(atoms, "get_scaled_positions"):
            remedy = "pass an ase.Atoms; for a ferrojax.Crystal use ferrojax.oriented_supercell(crystal).atoms"
            raise InputError("atoms", type(atoms).__name__, "is no ASE Atoms", remedy)
        box = _sides(np.asarray(atoms.cell.array, float))
        position, number, occupancy = ase_sites(atoms)
        return Atoms(position, number, box, element_rms(number, thermal_rms), occupancy)

    @staticmethod
    def from_file(path: str | PathLike[str], thermal_rms: Any = 0.0, index: int | None = None) -> "Atoms":
        """From a structure file with an orthogonal cell, read and checked as `Crystal.from_file` does it: a CIF in the
        setting of the space group that it names, symmetry expanded, one atom a species of a site.

        thermal_rms: as in `from_ase`. index: which structure of a file that holds several.
        Errors: InputError for what cannot be read or cannot be a solid, and a cell that is not orthogonal.
        """
        from ferrojax.crystal.files import read_structure

        found = read_structure(Path(path), None, index)
        box = _sides(found.cell)
        return Atoms(
            found.position @ found.cell, found.number, box, element_rms(found.number, thermal_rms), found.share
        )


def _sides(cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    """Of an orthogonal cell, Å."""
    if np.abs(cell - np.diag(np.diag(cell))).max() > 1e-6 * np.abs(cell).max():
        remedy = "use ferrojax.oriented_supercell(..., zone=(0, 0, 1)), which makes an orthogonal box"
        raise InputError("cell", cell.round(3).tolist(), "is not orthogonal", remedy)
    return np.diag(cell)


def check_atoms(atoms) -> None:
    """Refuse a specimen that cannot be simulated; to be called once before a run.

    Errors: InputError for what is no Atoms (such as those of ASE), unknown elements, NaN, negative rms, occupancy
    outside [0, 1], lengths that look like nm or pm, atoms more than 1 Å outside the box in x or y, and atoms closer
    than 0.3 Å whose occupancies sum to more than 1. Traced values are skipped; atoms of zero occupancy are not there.
    """
    check_specimen(atoms)
    check_values(atoms.position, atoms.thermal_rms, atoms.occupancy, atoms.number)
    check_unit(atoms.position, atoms.occupancy, atoms.box)
    check_inside(atoms.position, atoms.box)
    check_overlap(atoms.position, atoms.occupancy, atoms.box)


def check_specimen(atoms) -> None:
    """Refuse what is no Atoms, and say how to make some of it."""
    if hasattr(atoms, "get_scaled_positions"):
        remedy = "convert them with ferrojax.Atoms.from_ase(atoms, thermal_rms={...})"
    elif isinstance(getattr(atoms, "atoms", None), Atoms):
        remedy = "pass its .atoms"
    else:
        remedy = "make them of a crystal with ferrojax.oriented_supercell(crystal, zone).atoms"
    check_kind("atoms", atoms, Atoms, remedy)
