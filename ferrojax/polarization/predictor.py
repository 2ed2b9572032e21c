"""What a predictor of displacements is given, and what it answers."""

from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ferrojax.image import Image
from ferrojax.polarization.polarization_map import PolarizationMap, valid_indices


class CellFrames(eqx.Module):
    """The valid cells of a map, as a predictor needs them.

    centre_px: (n, 2) px (x, y), centroid of the A neighbours.
    frame: (2, 2), px offset = frame @ r for r in Å along the crystal's projected axes.
    rotation: (2, 2), calibrated image-frame vector = rotation @ crystal-frame vector.
    classical: (n, 2) Å in the image frame, the column fit's displacement; classical_covariance: (n, 2, 2) Å².
    crystal, zone, mode: of the map, such as "BaTiO3", "0 0 1" and "HAADF"; "" where it does not say.
    """

    centre_px: Float[Array, "n 2"]
    frame: Float[Array, "2 2"]
    rotation: Float[Array, "2 2"]
    classical: Float[Array, "n 2"]
    classical_covariance: Float[Array, "n 2 2"]
    crystal: str = eqx.field(static=True, default="")
    zone: str = eqx.field(static=True, default="")
    mode: str = eqx.field(static=True, default="")


@runtime_checkable
class Predictor(Protocol):
    """Anything that predicts displacements (n, 2) Å and covariances (n, 2, 2) Å² in the image frame."""

    def predict(self, image: Image, cells: CellFrames) -> "Prediction | tuple[Array, Array]": ...


class Prediction(NamedTuple):
    """displacement (n, 2) Å, covariance (n, 2, 2) Å²; structural (n, 2, 2), common (2, 2), notes as in a map."""

    displacement: Array
    covariance: Array
    structural: Array | None = None
    common: Array | None = None
    notes: tuple[str, ...] = ()


def cell_frames(pmap: PolarizationMap) -> CellFrames:
    """The valid cells of a map, in row order."""
    at = valid_indices(pmap)
    calibration, known = pmap.calibration, dict(pmap.provenance)
    return CellFrames(
        centre_px=pmap.position_px[at],
        frame=jnp.linalg.inv(calibration.affine) @ calibration.rotation,
        rotation=calibration.rotation,
        classical=pmap.displacement[at],
        classical_covariance=pmap.covariance[at],
        **{name: known.get(name, "") for name in ("crystal", "zone", "mode")},
    )
