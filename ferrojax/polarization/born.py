"""Polarization from displacements: Born effective charges times atom shifts."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.constants import POLARIZATION_UNIT
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.polar import polarization_response
from ferrojax.errors import InputError


def born_polarization(crystal: Crystal, shift: Float[Array, "*batch sites 3"]) -> Float[Array, "*batch 3"]:
    """P = e/V Σ_i Z*_i u_i in C/m² from the shift of every site (Å, Cartesian axes of the cell).

    Zero for a rigid shift, because the charges are neutral. Source: R. Resta, Rev. Mod. Phys. 66, 899 (1994).
    """
    if crystal.born_charge is None:
        raise InputError("crystal", crystal.name, "has no Born charges", "report displacements only")
    volume = jnp.abs(jnp.linalg.det(crystal.cell))
    return POLARIZATION_UNIT / volume * jnp.einsum("s,sij,...sj->...i", crystal.occupancy, crystal.born_charge, shift)


def polarization_from_displacement(
    crystal: Crystal, displacement: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 3"]:
    """P (C/m²) when B is displaced by `displacement` (Å) against A and the other sites follow the soft mode.

    Only the part that B shows is measured; the oxygen part is inferred, from Born charges and the soft mode or
    from the crystal's mode-effective charge: `polarization_response` says which, and how sure it is.
    """
    return displacement @ polarization_response(crystal).tensor.T


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
