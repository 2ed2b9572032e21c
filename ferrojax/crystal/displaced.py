"""Supercells of an orthogonal cell with a field of displacements."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ferrojax.checks import check_array, real_number, whole_number
from ferrojax.crystal.atoms import Atoms
from ferrojax.crystal.checks import LARGEST_SHIFT, check_kind
from ferrojax.crystal.crystal import Crystal
from ferrojax.errors import InputError


def displaced_supercell(crystal: Any, field, depth, mode_scale: Any = 1.0) -> Atoms:
    """Repeat an orthogonal cell and displace it along its soft mode.

    crystal: a Crystal. field: (ny, nx, 3) Å, displacement of the B site of every column of cells against A; constant
    along the beam.
    depth: cells along the beam. mode_scale: multiplies the oxygen part of the mode (its O/B ratio is uncertain).
    An atom between two cells takes the mean of their displacements; the field is periodic. The first atomic
    plane lies a quarter of a cell below the entrance, so that slices of half a cell hold one plane each.
    Errors: InputError for a crystal without a soft mode, B site or orthogonal cell, a field of another shape, with
    NaN or above 1 Å, and a depth that is no whole number from 1.
    """
    depth = whole_number("depth", depth, "give the cells along the beam, e.g. 25")
    mode_scale = real_number("mode_scale", mode_scale, "give a factor such as 1.0")
    field = checked_field(field)
    check_kind("crystal", crystal, Crystal, 'use ferrojax.material("PbTiO3") or ferrojax.Crystal.from_file')
    if crystal.soft_mode is None and np.abs(field).max() > 0:
        raise InputError("crystal", crystal.name, "has no soft mode to displace along", "use a polar crystal")
    if "B" not in crystal.label:
        raise InputError("crystal", crystal.name, "has no B site to displace", "label one B")
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


def checked_field(field) -> Float[np.ndarray, "ny nx 3"]:
    """A field of displacements (Å) of one vector a cell."""
    check_array("field", field, [(None, None, 3)], "give (ny, nx, 3) in Å as (x, y, z), z along the beam")
    found = np.asarray(field, float)
    if np.abs(found).max() > LARGEST_SHIFT:
        problem = f"displaces by more than {LARGEST_SHIFT:g} Å"
        raise InputError("field", f"{np.abs(found).max():.3g} Å", problem, "give Å, not pm: 15 pm are 0.15")
    return found


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
