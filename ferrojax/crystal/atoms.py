"""Atoms: the specimen that the electrons pass through, and supercells with a displacement field."""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.elements import SYMBOLS
from ferrojax.errors import InputError, is_traced


class Atoms(eqx.Module):
    """A specimen in a periodic orthogonal box; the beam runs along +z and enters at z = 0.

    position: (n, 3) Å (x, y, z). thermal_rms: (n,) or (n, 3) Å per axis. occupancy: (n,) in [0, 1].
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
        self.thermal_rms = jnp.broadcast_to(rms, (n,)) if rms.ndim < 2 else rms
        self.occupancy = jnp.broadcast_to(jnp.asarray(occupancy, dtype=self.position.dtype), (n,))
        self._check()

    def _check(self):
        if len(self.box) != 3 or min(self.box) <= 0:
            raise InputError("box", self.box, "needs three positive lengths in Å", "pass (Lx, Ly, Lz)")
        n = len(self.number)
        if n == 0 or self.position.shape != (n, 3):
            raise InputError(
                "position",
                self.position.shape,
                f"needs shape ({max(n, 1)}, 3), one row an atom",
                "pass (x, y, z) in Å",
            )
        for z in set(self.number):
            if not 0 < z < len(SYMBOLS):
                raise InputError("number", z, "is no atomic number", f"use 1 to {len(SYMBOLS) - 1}")
        for name in ("position", "thermal_rms", "occupancy"):
            value = getattr(self, name)
            if is_traced(value):
                continue
            value = np.asarray(value)
            if not np.isfinite(value).all():
                raise InputError(name, "NaN or infinity", "must be finite", "check the structure file")
            if name == "thermal_rms" and (value < 0).any():
                raise InputError(name, value.min(), "must not be negative", "rms displacement per axis in Å")

    @staticmethod
    def from_ase(atoms, thermal_rms: float | Mapping[str, float] = 0.0) -> "Atoms":
        """From an ASE Atoms with an orthogonal cell; thermal_rms in Å per axis, one value or one an element."""
        cell = np.asarray(atoms.cell.array, float)
        if np.abs(cell - np.diag(np.diag(cell))).max() > 1e-6 * np.abs(cell).max():
            raise InputError("cell", cell.tolist(), "is not orthogonal", "orthogonalise the supercell first")
        symbols = atoms.get_chemical_symbols()
        if isinstance(thermal_rms, Mapping):
            missing = sorted(set(symbols) - set(thermal_rms))
            if missing:
                raise InputError("thermal_rms", dict(thermal_rms), f"lacks {', '.join(missing)}", "give every element")
            rms = np.array([thermal_rms[s] for s in symbols])
        else:
            rms = np.full(len(symbols), float(thermal_rms))
        return Atoms(atoms.get_positions(), atoms.get_atomic_numbers(), np.diag(cell), rms)


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
