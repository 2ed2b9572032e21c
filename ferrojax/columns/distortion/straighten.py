"""Columns without the slow drift of the scan: where they would lie had the specimen stood still."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ferrojax.columns.calibration import calibrate
from ferrojax.columns.columns import SITES, Columns
from ferrojax.columns.distortion.scan import ScanDrift, corrected_positions
from ferrojax.columns.indexing.template import anchor
from ferrojax.crystal.zone import Motif
from ferrojax.errors import InputError


def straightened(columns: Columns, drift: ScanDrift, motif: Motif) -> Columns:
    """The columns with the drift taken out of `position` (Å) and of the calibration.

    `position_px` stays where the image shows them. Covariances stay, too: what remains unknown of a slow drift moves
    the columns of a cell together. A strain gradient across the lines goes with the drift (`drift.caveat`).
    Errors: InputError for columns without a lattice.
    """
    if columns.calibration is None:
        raise InputError("columns", "no lattice index", "are not on a lattice", "find them with a crystal")
    still = np.asarray(corrected_positions(columns.position_px, drift.shift), float)
    chosen = columns.accepted & (np.asarray(columns.site) == SITES.index(motif.label[anchor(motif)]))
    sampling = np.asarray(columns.calibration.recorded_sampling, float)
    found = calibrate(still[chosen], np.asarray(columns.lattice_index)[chosen], motif, sampling, anchor(motif))
    position = jnp.asarray(still @ np.asarray(found.affine, float).T, columns.position.dtype)
    return eqx.tree_at(lambda c: (c.position, c.calibration), columns, (position, found))
