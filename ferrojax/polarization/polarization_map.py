"""PolarizationMap: what is known of every cell."""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from ferrojax.columns import Calibration, Columns
from ferrojax.crystal.roles import SITES_OF_B
from ferrojax.polarization.born import polarization_covariance

COLUMN_FIT = "column fit"
"""Method in the provenance of a map that columns alone made."""
DRIFT = "drift of the scan"
"""Name in the provenance of a map whose positions are without it."""


class PolarizationMap(eqx.Module):
    """Displacement and polarization, cell by cell; grid [i_y, i_x] runs along the two lattice vectors.

    position, position_px: (n_y, n_x, 2) (x, y), centroid of the A neighbours, Å calibrated and px.
    displacement: (n_y, n_x, 2) Å, B against that centroid, image axes (+y down), nothing subtracted; of several B
        columns in a cell the mean. Other sublattices than B and A where the provenance says so ("displacement").
    covariance: (n_y, n_x, 2, 2) Å². valid: (n_y, n_x); everything else is NaN where it is False.
    polarization: (n_y, n_x, 2) C/m², in-plane, oxygen inferred through the soft mode; None if unknown.
    response: (2, 2) C/m² per Å that made it. response_error: its relative uncertainty, None if unknown.
    provenance: (key, value) pairs; "response" says whether it is "born" or "mode-effective".
    first_cell: (2,) lattice index (x, y) of grid cell [0, 0], as in `Columns.lattice_index`; None if unknown.
    notes: what a reader must know before believing the map, a sentence each; empty where nothing stands out.
    structural_covariance: (n_y, n_x, 2, 2) Å², the part of `covariance` that more dose would leave: how far the
        simulated response itself is off (phonons, columns that move together). None where nothing was simulated.
    common_covariance: (2, 2) Å², beside `covariance`, of an error that all cells share, e.g. of the specimen's tilt:
        differences between domains do not hold it. None where nothing is known of it.
    """

    position: Float[Array, "ny nx 2"]
    position_px: Float[Array, "ny nx 2"]
    displacement: Float[Array, "ny nx 2"]
    covariance: Float[Array, "ny nx 2 2"]
    valid: Bool[Array, "ny nx"]
    polarization: Float[Array, "ny nx 2"] | None
    response: Float[Array, "2 2"] | None
    calibration: Calibration
    columns: Columns
    provenance: tuple[tuple[str, str], ...] = eqx.field(static=True)
    first_cell: tuple[int, int] | None = eqx.field(static=True, default=None)
    response_error: float | None = eqx.field(static=True, default=None)
    notes: tuple[str, ...] = eqx.field(static=True, default=())
    structural_covariance: Float[Array, "ny nx 2 2"] | None = None
    common_covariance: Float[Array, "2 2"] | None = None

    @property
    def displacement_of(self) -> tuple[str, str]:
        """What moves, and against the centroid of what: ("B", "A") unless the map was asked for others."""
        moving, around = dict(self.provenance).get("displacement", SITES_OF_B).split(":")
        return moving, around

    def polarization_covariance(self, relative_uncertainty: float | None = None) -> Float[Array, "ny nx 2 2"] | None:
        """Covariance of the polarization in (C/m²)²; None where there is no polarization.

        relative_uncertainty: standard error of Born charges and soft mode together, as a share of the response; by
        default `response_error`, 0 where that is unknown. It is common to all cells, so it does not average out.
        """
        if self.response is None:
            return None
        share = (self.response_error or 0.0) if relative_uncertainty is None else relative_uncertainty
        return polarization_covariance(self.response, self.displacement, self.covariance, share)


def valid_indices(pmap: PolarizationMap) -> tuple[np.ndarray, np.ndarray]:
    """(i_y, i_x) of the valid cells, in the order of `cell_frames`."""
    rows, cols = np.nonzero(np.asarray(pmap.valid))
    return rows, cols
