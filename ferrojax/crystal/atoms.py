"""Atoms: the specimen that the electrons pass through."""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ferrojax.crystal.checks import check_inside, check_overlap, check_values
from ferrojax.crystal.sites import ase_sites, element_rms
from ferrojax.errors import InputError


class Atoms(eqx.Module):
    """A specimen in a periodic orthogonal box; the beam runs along +z and enters at z = 0.

    position: (n, 3) Å (x, y, z). thermal_rms: (n,) or (n, 3) Å per axis. occupancy: (n,) in [0, 1]; it scales the
    atom's phase, so a shared site is the average of its species (virtual crystal); `draw_occupancy`
    makes one random realisation instead.
    box: (3,) Å, static, because it decides the grid. number: (n,) atomic numbers, static.
    """

    position: Float[Array, "atoms 3"]
    thermal_rms: Float[Array, " atoms"] | Float[Array, "atoms 3"]
    occupancy: Float[Array, " atoms"]
    number: tuple[int, ...] = eqx.field(static=True)
    box: tuple[float, float, float] = eqx.field(static=True)

    def __init__(self, position, number, box, thermal_rms: ArrayLike = 0.0, occupancy: ArrayLike = 1.0):
        self.position = jnp.asarray(position, dtype=jnp.result_type(float))
        self.number = tuple(int(z) for z in np.asarray(number))
        self.box = tuple(float(b) for b in np.asarray(box, float))  # pyright: ignore[reportAttributeAccessIssue]
        n = len(self.number)
        rms = jnp.asarray(thermal_rms, dtype=self.position.dtype)
        share = jnp.asarray(occupancy, dtype=self.position.dtype)
        self._check_shapes(rms, share)
        self.thermal_rms = jnp.broadcast_to(rms, (n,)) if rms.ndim < 2 else rms
        self.occupancy = jnp.broadcast_to(share, (n,))
        check_values(self.position, self.thermal_rms, self.occupancy, self.number)

    def _check_shapes(self, rms, occupancy):
        if len(self.box) != 3 or not (min(self.box) > 0 and np.isfinite(self.box).all()):
            raise InputError("box", self.box, "needs three positive lengths in Å", "pass (Lx, Ly, Lz)")
        n = len(self.number)
        if n == 0 or self.position.shape != (n, 3):
            raise InputError(
                "position",
                self.position.shape,
                f"needs shape ({max(n, 1)}, 3), one row an atom",
                "pass (x, y, z) in Å",
            )
        if rms.shape not in ((), (1,), (n,), (n, 3)):
            raise InputError("thermal_rms", rms.shape, f"needs shape ({n},) or ({n}, 3)", "give Å per axis")
        if occupancy.shape not in ((), (1,), (n,)):
            raise InputError("occupancy", occupancy.shape, f"needs shape ({n},)", "give one value an atom")

    def wrapped(self) -> "Atoms":
        """The same specimen with every atom inside the box in x and y, which are periodic; z is left as it is."""
        sides = jnp.asarray(self.box[:2], self.position.dtype)
        shift = jnp.floor(self.position[:, :2] / sides) * sides
        return eqx.tree_at(lambda a: a.position, self, self.position.at[:, :2].add(-shift))

    def repeated(self, nx: int, ny: int, nz: int) -> "Atoms":
        """The specimen repeated nx × ny × nz times; thermal rms and occupancy go with their atoms."""
        counts = (nx, ny, nz)
        if any(int(count) != count or count < 1 for count in counts):
            raise InputError("repeats", counts, "must be whole numbers from 1", "give (nx, ny, nz)")
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

    @staticmethod
    def from_ase(atoms, thermal_rms: float | Mapping[str, float] = 0.0) -> "Atoms":
        """From an ASE Atoms with an orthogonal cell; thermal_rms in Å per axis, one value or one an element.

        Partly occupied sites, which ASE keeps beside the atoms of a CIF, become one atom per species.
        """
        cell = np.asarray(atoms.cell.array, float)
        if np.abs(cell - np.diag(np.diag(cell))).max() > 1e-6 * np.abs(cell).max():
            remedy = "use ferrojax.oriented_supercell(atoms, zone=(0, 0, 1)), which makes an orthogonal box"
            raise InputError("cell", cell.round(3).tolist(), "is not orthogonal", remedy)
        position, number, occupancy = ase_sites(atoms)
        return Atoms(position, number, np.diag(cell), element_rms(number, thermal_rms), occupancy)


def check_atoms(atoms: Atoms) -> None:
    """Refuse a specimen that cannot be simulated; to be called once before a run.

    Errors: InputError for unknown elements, NaN, negative rms, occupancy outside [0, 1], atoms more than 1 Å outside
    the box in x or y, and atoms closer than 0.3 Å whose occupancies sum to more than 1. Traced values are skipped.
    """
    check_values(atoms.position, atoms.thermal_rms, atoms.occupancy, atoms.number)
    check_inside(atoms.position, atoms.box)
    check_overlap(atoms.position, atoms.occupancy, atoms.box)
