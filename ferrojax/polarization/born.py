"""Polarization from displacements: Born effective charges times atom shifts."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.constants import POLARIZATION_UNIT
from ferrojax.crystal.crystal import Crystal
from ferrojax.errors import InputError, is_traced
from ferrojax.polarization.structure import (
    CORNERS,
    LIGANDS,
    AnyArray,
    PerovskiteCells,
    cell_vectors,
    corner_bonds,
    ligand_bonds,
)

NEUTRAL = 1e-3
"""e; a cell whose shared charges sum to more has a polarization that depends on the origin."""


def born_polarization(crystal: Crystal, shift: Float[Array, "*batch sites 3"]) -> Float[Array, "*batch 3"]:
    """P = e/V Σ_i Z*_i u_i in C/m² from the shift of every site (Å, Cartesian axes of the cell).

    Zero for a rigid shift, because the charges are neutral. Source: R. Resta, Rev. Mod. Phys. 66, 899 (1994).
    """
    if crystal.born_charge is None:
        raise InputError("crystal", crystal.name, "has no Born charges", "report displacements only")
    volume = jnp.abs(jnp.linalg.det(crystal.cell))
    return POLARIZATION_UNIT / volume * jnp.einsum("sij,...sj->...i", crystal.born_charge, shift)


def polarization_from_displacement(
    crystal: Crystal, displacement: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 3"]:
    """P (C/m²) when B is displaced by `displacement` (Å) against A and the other sites follow the soft mode.

    Only the part that B shows is measured; the oxygen part is inferred from the crystal's soft mode.
    """
    if crystal.soft_mode is None:
        raise InputError("crystal", crystal.name, "has no soft mode", "report displacements only")
    return born_polarization(crystal, jnp.einsum("sij,...j->...si", crystal.soft_mode, displacement))


def plane_response(
    crystal: Crystal, axes: Float[np.ndarray, "2 3"], rotation: Float[Array, "2 2"]
) -> Float[Array, "2 2"] | None:
    """C/m² per Å: in-plane P = response @ in-plane displacement, in image axes; None without mode or charges.

    axes: the projection's x and y in the crystal.
    rotation: image vector = rotation @ projected crystal vector.
    """
    if crystal.soft_mode is None or crystal.born_charge is None:
        return None
    plane = jnp.asarray(axes, crystal.cell.dtype)
    columns = polarization_from_displacement(crystal, plane) @ plane.T  # row i: response to unit vector i
    return rotation @ columns.T @ rotation.T


@jax.jit
def polarization_covariance(
    response: Float[AnyArray, "d d"],
    displacement: Float[AnyArray, "*batch d"],
    covariance: Float[AnyArray, "*batch d d"],
    relative_uncertainty: float | Float[AnyArray, ""] = 0.0,
) -> Float[Array, "*batch d d"]:
    """cov(P) = R C Rᵀ + s² P Pᵀ in (C/m²)², where P = R d (C/m² per Å times Å).

    relative_uncertainty: s, standard error of the response as a share of it (Born charges and soft mode). It is
    common to all cells: it widens every cell's error and does not average out over a map.
    """
    response = jnp.asarray(response)
    polarization = displacement @ response.T
    carried = jnp.einsum("ij,...jk,lk->...il", response, covariance, response)
    return carried + relative_uncertainty**2 * polarization[..., :, None] * polarization[..., None, :]


def atom_charges(crystal: Crystal, cells: PerovskiteCells, atoms: int) -> Float[np.ndarray, "atoms 3 3"]:
    """Born charges (e) of every atom of a structure, from the crystal's tensors turned into the structure's axes.

    Oxygen's tensor follows its B–O bond. Atoms of no cell get 0.
    Errors: InputError for a crystal without charges, or with other sites than A, B and three O.
    """
    if crystal.born_charge is None:
        raise InputError("crystal", crystal.name, "has no Born charges", "give the charges of the atoms")
    if sorted(crystal.label) != ["A", "B", "O", "O", "O"]:
        raise InputError("crystal", crystal.name, "is no perovskite of five atoms", "give the charges of the atoms")
    tensor = np.einsum("ki,skl,lj->sij", cells.axes, np.asarray(crystal.born_charge, float), cells.axes)
    fraction = np.asarray(crystal.position, float)
    b_site = crystal.label.index("B")
    charge = np.zeros((atoms, 3, 3))
    charge[cells.b] = tensor[b_site]
    charge[cells.a] = tensor[crystal.label.index("A")]
    for site in (i for i, name in enumerate(crystal.label) if name == "O"):
        offset = fraction[site] - fraction[b_site]
        bond = int(np.abs(offset - np.round(offset)).argmax())
        charge[cells.o[:, 2 * bond : 2 * bond + 2]] = tensor[site]
    return charge


def cell_polarization(
    position: Float[AnyArray, "atoms 3"],
    cell: Float[AnyArray, "3 3"],
    cells: PerovskiteCells,
    charge: Float[AnyArray, " atoms"] | Float[AnyArray, "atoms 3 3"],
    volume: float | Float[AnyArray, ""] | Float[AnyArray, " n"] | None = None,
) -> Float[Array, "n 3"]:
    """P = e/V Σ w Z* (r − r_B) of every B-centred cell in C/m²: B, eight A shared by 8, six O shared by 2.

    charge: Born charges of all atoms (e), numbers or tensors. volume: Å³ a cell; by default the mean of the
    complete cells' own A₈ volumes (`local_volume`, which may also be given). Incomplete cells are NaN.
    Errors: InputError where the charges of a cell do not cancel.
    Source: B. Meyer, D. Vanderbilt, Phys. Rev. B 65, 104111 (2002).
    """
    charge = jnp.asarray(charge)
    tensor = charge if charge.ndim == 3 else charge[:, None, None] * jnp.eye(3, dtype=charge.dtype)
    _check_neutral(tensor, cells)
    if volume is None:
        volume = jnp.nanmean(local_volume(position, cell, cells))
    corner = jnp.einsum("ncij,ncj->ni", tensor[cells.a], corner_bonds(position, cell, cells)) / CORNERS
    ligand = jnp.einsum("ncij,ncj->ni", tensor[cells.o], ligand_bonds(position, cell, cells)) / 2
    moment = jnp.where(cells.complete[:, None], corner + ligand, jnp.nan)
    return POLARIZATION_UNIT * moment / jnp.broadcast_to(jnp.asarray(volume), (len(cells.b),))[:, None]


def local_volume(
    position: Float[AnyArray, "atoms 3"], cell: Float[AnyArray, "3 3"], cells: PerovskiteCells
) -> Float[Array, " n"]:
    """Volume of every cell in Å³, spanned by its local lattice vectors; incomplete cells are NaN."""
    return jnp.abs(jnp.linalg.det(cell_vectors(position, cell, cells)))


def _check_neutral(tensor: Float[Array, "atoms 3 3"], cells: PerovskiteCells) -> None:
    if is_traced(tensor):
        return
    charge = np.asarray(tensor, float)
    rest = charge[cells.b] + charge[cells.a].mean(1) + LIGANDS / 2 * charge[cells.o].mean(1)
    worst = np.abs(rest[cells.complete]).max(initial=0.0)
    if worst > NEUTRAL:
        raise InputError(
            "charge",
            f"{worst:.4f} e left over in a cell",
            "must cancel in every cell",
            "share the rest among the atoms",
        )
