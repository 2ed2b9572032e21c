"""Columns of an indexed image laid on the grid of a map, and the local lattice of every cell."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ferrojax.columns import SITES, Columns
from ferrojax.errors import InputError
from ferrojax.polarization.lattice import LocalLattice, local_lattice
from ferrojax.polarization.polarization_map import PolarizationMap
from ferrojax.products import exact


class ColumnGrid(NamedTuple):
    """Columns of one sublattice by lattice index [j, i]: (ny, nx, 2) Å, (ny, nx, 2, 2) Å², (ny, nx); else NaN."""

    position: Float[Array, "ny nx 2"]
    covariance: Float[Array, "ny nx 2 2"]
    valid: Bool[Array, "ny nx"]


def column_grid(
    columns: Columns, site: str, first: tuple[int, int] | None = None, shape: tuple[int, int] | None = None
) -> ColumnGrid:
    """Accepted columns of a sublattice on their lattice index.

    site: "A", "B" or "O"; where a cell has several such columns, the first of the motif.
    first: index (x, y) of grid [0, 0]. shape: (ny, nx). By default all that there are.
    Errors: InputError where no column is labelled so.
    """
    if site not in SITES:
        raise InputError("site", site, "is unknown", f"choose one of {', '.join(SITES)}")
    chosen = np.nonzero((np.asarray(columns.site) == SITES.index(site)) & columns.accepted)[0]
    if not len(chosen):
        raise InputError("site", site, "no accepted column is labelled so", "find columns with a crystal")
    if columns.column is not None:
        of_motif = np.asarray(columns.column)[chosen]
        chosen = chosen[of_motif == of_motif.min()]
    index = np.asarray(columns.lattice_index)[chosen]
    start = index.min(0) if first is None else np.asarray(first)
    size = index.max(0) - start + 1 if shape is None else np.asarray(shape[::-1])
    at = index - start
    inside = ((at >= 0) & (at < size)).all(1)
    where, row = (at[inside, 1], at[inside, 0]), chosen[inside]
    blank = jnp.full((int(size[1]), int(size[0])), jnp.nan, columns.position.dtype)
    return ColumnGrid(
        jnp.tile(blank[..., None], (1, 1, 2)).at[where].set(columns.position[row]),
        jnp.tile(blank[..., None, None], (1, 1, 2, 2)).at[where].set(columns.covariance[row]),
        jnp.zeros(blank.shape, bool).at[where].set(True),
    )


@exact
def map_lattice(pmap: PolarizationMap, site: Literal["A", "B"] = "A") -> LocalLattice:
    """Local lattice vectors of every cell of a map, on the map's grid.

    A: from the four A columns at the corners of the cell. B: central differences between the next B columns.
    The calibration has already laid the mean lattice on the crystal's, so a mean strain is not in it.
    """
    if pmap.first_cell is None:
        raise InputError("pmap", "no lattice index", "cannot be laid on its columns", "make it with map_polarization")
    rows, cols = pmap.valid.shape
    grown = (rows + 1, cols + 1) if site == "A" else (rows, cols)
    grid = column_grid(pmap.columns, site, pmap.first_cell, grown)
    return local_lattice(*grid, stencil="plaquette" if site == "A" else "cross")


@exact
def crystal_lattice(pmap: PolarizationMap) -> Float[Array, "2 2"]:
    """The crystal's projected lattice vectors in image axes, rows, Å: the reference for `strain`."""
    return pmap.calibration.lattice_px @ pmap.calibration.affine.T
