"""Atoms: the specimen that the electrons pass through, and supercells with a displacement field."""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ferrojax.crystal.checks import check_inside, check_overlap, check_values
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.elements import SYMBOLS, atomic_number
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


def element_rms(number: np.ndarray, thermal_rms: float | Mapping[str, float]) -> np.ndarray:
    """Thermal rms (Å per axis) of every atom from one value or from one an element."""
    if not isinstance(thermal_rms, Mapping):
        return np.full(len(number), float(thermal_rms))
    symbols = [SYMBOLS[z] for z in number]
    missing = sorted(set(symbols) - set(thermal_rms))
    if missing:
        raise InputError("thermal_rms", dict(thermal_rms), f"lacks {', '.join(missing)}", "give every element")
    return np.array([float(thermal_rms[s]) for s in symbols])


def ase_sites(atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position (Å), atomic number and occupancy of an ASE Atoms, with one atom per species of a shared site."""
    position, number = atoms.get_positions(), atoms.get_atomic_numbers()
    table = atoms.info.get("occupancy")
    if not table or "spacegroup_kinds" not in atoms.arrays:
        return position, number, np.ones(len(number))
    rows = []
    for i, kind in enumerate(atoms.arrays["spacegroup_kinds"]):
        species = table.get(str(kind), table.get(kind, {atoms.symbols[i]: 1.0}))
        rows += [(i, atomic_number(symbol), float(share)) for symbol, share in species.items()]
    index, numbers, shares = zip(*rows, strict=True)
    return position[list(index)], np.array(numbers), np.array(shares)


def displaced_supercell(
    crystal: Crystal, field: Float[np.ndarray, "ny nx 3"], depth: int, mode_scale: float = 1.0
) -> Atoms:
    """Repeat an orthogonal cell and displace it along its soft mode.

    field: (ny, nx, 3) Å, displacement of the B site of every column of cells against A; constant along the beam.
    depth: cells along the beam. mode_scale: multiplies the oxygen part of the mode (its O/B ratio is uncertain).
    An atom between two cells takes the mean of their displacements; the field is periodic. The first atomic
    plane lies a quarter of a cell below the entrance, so that slices of half a cell hold one plane each.
    """
    if crystal.soft_mode is None and np.abs(field).max() > 0:
        raise InputError("crystal", crystal.name, "has no soft mode to displace along", "use a polar crystal")
    cell = np.diag(np.asarray(crystal.cell, float))
    if np.abs(np.asarray(crystal.cell, float) - np.diag(cell)).max() > 1e-6:
        raise InputError("crystal", crystal.name, "has no orthogonal cell", "use ferrojax.oriented_supercell")
    ny, nx, _ = field.shape
    fractional = np.asarray(crystal.position, float)
    mode = np.zeros((len(fractional), 3, 3)) if crystal.soft_mode is None else np.asarray(crystal.soft_mode, float)
    oxygen = np.array([label == "O" for label in crystal.label])
    mode = np.where(oxygen[:, None, None], mode_scale * mode, mode)
    b_site = fractional[crystal.label.index("B")]
    iz, iy, ix = np.meshgrid(np.arange(depth), np.arange(ny), np.arange(nx), indexing="ij")
    cells = np.stack([ix, iy, iz], -1).reshape(-1, 1, 3)
    ideal = cells + fractional[None]
    local = _periodic_bilinear(field, ideal[..., :2] - b_site[:2])
    shift = np.einsum("sij,csj->csi", mode, local)
    position = ideal * cell + shift + np.array([0, 0, cell[2] / 4])
    n = len(cells)
    return Atoms(
        position.reshape(-1, 3),
        np.tile(crystal.number, n),
        (nx * cell[0], ny * cell[1], depth * cell[2]),
        np.tile(np.asarray(crystal.thermal_rms), n),
        np.tile(np.asarray(crystal.occupancy), n),
    )


def _periodic_bilinear(field: np.ndarray, at: np.ndarray) -> np.ndarray:
    """field (ny, nx, c) at fractional cell coordinates `at` (..., 2) as (x, y), periodic."""
    ny, nx, _ = field.shape
    low = np.floor(at + 1e-9).astype(int)
    w = np.clip(at - low, 0, 1)[..., None]
    x0, y0 = low[..., 0] % nx, low[..., 1] % ny
    x1, y1 = (x0 + 1) % nx, (y0 + 1) % ny
    top = field[y0, x0] * (1 - w[..., 0, :]) + field[y0, x1] * w[..., 0, :]
    bottom = field[y1, x0] * (1 - w[..., 0, :]) + field[y1, x1] * w[..., 0, :]
    return top * (1 - w[..., 1, :]) + bottom * w[..., 1, :]
