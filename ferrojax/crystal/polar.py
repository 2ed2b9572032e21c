"""Polar crystals: displaced along the soft mode, and how displacement converts to polarization."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.checks import check_array
from ferrojax.constants import POLARIZATION_UNIT
from ferrojax.crystal.checks import LARGEST_SHIFT, check_kind
from ferrojax.crystal.crystal import Crystal
from ferrojax.errors import InputError, is_traced
from ferrojax.products import exact


class PolarizationResponse(eqx.Module):
    """How the displacement of B against A (Å) converts to polarization (C/m²), and what that rests on.

    tensor: (3, 3) C/m² per Å, P = tensor @ d in the crystal's Cartesian axes. relative_error: None if unknown.
    kind: "born", cited Born charges times the soft mode, or "mode-effective", a measured or calculated
    polarization over the displacement that goes with it. source: the citations.
    """

    tensor: Float[Array, "3 3"]
    relative_error: float | None = eqx.field(static=True)
    kind: str = eqx.field(static=True)
    source: str = eqx.field(static=True)


@exact
def polarization_response(crystal: Crystal) -> PolarizationResponse:
    """The conversion from displacement to polarization: by Born charges where they are cited, else mode-effective.

    Born charges need the soft mode, because oxygen moves with B. Errors: InputError where neither is known.
    """
    volume = jnp.abs(jnp.linalg.det(crystal.cell))
    sources = dict(crystal.sources)
    if crystal.born_charge is not None and crystal.soft_mode is not None:
        moment = jnp.einsum("s,sij,sjk->ik", crystal.occupancy, crystal.born_charge, crystal.soft_mode)
        kind, fields = "born", ("born_charges", "soft_mode")
    elif crystal.mode_charge is not None:
        b_sites = jnp.asarray([label == "B" for label in crystal.label])
        moment = crystal.mode_charge * (crystal.occupancy * b_sites).sum()
        kind, fields = "mode-effective", ("mode_charge",)
    else:
        lacks = "soft mode" if crystal.soft_mode is None else "Born charges"
        raise InputError("crystal", crystal.name, f"has no {lacks} and no mode charge", "report displacements only")
    source = " ".join(sources[name] for name in fields if name in sources)
    return PolarizationResponse(POLARIZATION_UNIT / volume * moment, crystal.response_error, kind, source)


@exact
def polar_crystal(crystal: Any, displacement, strain: Any = None) -> Crystal:
    """The crystal with B displaced by `displacement` (Å, Cartesian) against A and the other sites along the mode.

    displacement: (3,) Å.
    strain: (3, 3) of the cell, Cartesian, e.g. diag(0, 0, 0.06) for a tetragonal one; lengths grow by 1 + strain
    before the sites move. Charges and mode stay, because they answer to the displacement from the non-polar cell.
    Differentiable in both. Errors: InputError for a crystal without a soft mode, a displacement above 1 Å and a
    strain above 0.5, which are pm and per cent.
    """
    check_kind("crystal", crystal, Crystal, 'use ferrojax.material("PbTiO3") or ferrojax.Crystal.from_file')
    _check_size("displacement", displacement, (3,), LARGEST_SHIFT, "give (x, y, z) in Å, not pm: 15 pm are 0.15")
    if strain is not None:
        _check_size("strain", strain, (3, 3), 0.5, "give (3, 3) parts of 1, not per cent: diag(0, 0, 0.06)")
    if crystal.soft_mode is None:
        raise InputError("crystal", crystal.name, "has no soft mode to displace along", "use a non-polar cell with one")
    cell = crystal.cell
    if strain is not None:
        cell = cell @ (jnp.eye(3) + jnp.asarray(strain, cell.dtype)).T
    shift = crystal.soft_mode @ jnp.asarray(displacement, cell.dtype)
    position = crystal.position + shift @ jnp.linalg.inv(cell)
    return eqx.tree_at(lambda c: (c.cell, c.position), crystal, (cell, position))


def _check_size(field: str, value, shape: tuple[int, ...], most: float, remedy: str) -> None:
    """Real numbers of a shape, none above `most`."""
    check_array(field, value, [shape], remedy)
    if not is_traced(value) and np.abs(np.asarray(value, float)).max() > most:
        raise InputError(field, np.asarray(value).tolist(), f"is above {most:g}", remedy)
