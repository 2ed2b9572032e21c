"""Polarization from displacements: Born effective charges times atom shifts."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.constants import POLARIZATION_UNIT
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.polar import polarization_response
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
from ferrojax.products import exact

NEUTRAL = 1e-3
"""e; a cell whose shared charges sum to more has a polarization that depends on the origin."""


@exact
def born_polarization(crystal: Crystal, shift: Float[Array, "*batch sites 3"]) -> Float[Array, "*batch 3"]:
    """P = e/V Σ_i Z*_i u_i in C/m² from the shift of every site (Å, Cartesian axes of the cell).

    Zero for a rigid shift, because the charges are neutral. Source: R. Resta, Rev. Mod. Phys. 66, 899 (1994).
    """
    if crystal.born_charge is None:
        raise InputError("crystal", crystal.name, "has no Born charges", "report displacements only")
    volume = jnp.abs(jnp.linalg.det(crystal.cell))
    return POLARIZATION_UNIT / volume * jnp.einsum("s,sij,...sj->...i", crystal.occupancy, crystal.born_charge, shift)


@exact
def polarization_from_displacement(
    crystal: Crystal, displacement: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 3"]:
    """P (C/m²) when B is displaced by `displacement` (Å) against A and the other sites follow the soft mode.

    Only the part that B shows is measured; the oxygen part is inferred, from Born charges and the soft mode or
    from the crystal's mode-effective charge: `polarization_response` says which, and how sure it is.
    """
    return displacement @ polarization_response(crystal).tensor.T


@exact
def plane_response(
    crystal: Crystal, axes: Float[np.ndarray, "2 3"], rotation: Float[Array, "2 2"]
) -> Float[Array, "2 2"] | None:
    """C/m² per Å: in-plane P = response @ in-plane displacement, in image axes; None where no charges are known.

    axes: the projection's x and y in the crystal.
    rotation: image vector = rotation @ projected crystal vector.
    """
    if crystal.mode_charge is None and (crystal.soft_mode is None or crystal.born_charge is None):
        return None
    plane = jnp.asarray(axes, crystal.cell.dtype)
    columns = polarization_from_displacement(crystal, plane) @ plane.T  # row i: response to unit vector i
    return rotation @ columns.T @ rotation.T


@jax.jit
@exact
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

    Oxygen's tensor follows its B–O bond; species that share a site count by their occupancy. Atoms of no cell get 0.
    Errors: InputError for a crystal without charges, or with other sites than A, B and three O.
    """
    if crystal.born_charge is None:
        raise InputError("crystal", crystal.name, "has no Born charges", "give the charges of the atoms")
    if not is_perovskite(crystal):
        raise InputError("crystal", crystal.name, "is no perovskite of five sites", "give the charges of the atoms")
    share = np.asarray(crystal.occupancy, float)[:, None, None]
    tensor = np.einsum("ki,skl,lj->sij", cells.axes, share * np.asarray(crystal.born_charge, float), cells.axes)
    label = np.array(crystal.label)
    offset = np.asarray(crystal.position, float) - np.asarray(crystal.position, float)[crystal.label.index("B")]
    bond = np.abs(offset - np.round(offset)).argmax(1)
    charge = np.zeros((atoms, 3, 3))
    charge[cells.b] = tensor[label == "B"].sum(0)
    charge[cells.a] = tensor[label == "A"].sum(0)
    for axis in range(3):
        charge[cells.o[:, 2 * axis : 2 * axis + 2]] = tensor[(label == "O") & (bond == axis)].sum(0)
    return charge


def is_perovskite(crystal: Crystal) -> bool:
    """Whether the cell has one A, one B and three O sites, each of one species or shared."""
    at = np.mod(np.asarray(crystal.position, float) + 1e-4, 1.0).round(3)
    _, first = np.unique(at, axis=0, return_index=True)
    return sorted(crystal.label[i] for i in first) == ["A", "B", "O", "O", "O"]


@exact
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
