"""A trained network as a predictor for `map_polarization`."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ferrojax.dataset.patches import extract_patches, whole_patches
from ferrojax.image import Image
from ferrojax.models import DisplacementNet
from ferrojax.polarization import CellFrames
from ferrojax.training import UNIT, half_turn_average


class NetworkPredictor:
    """Predicts displacements from patches, averaged over the half turn, with calibrated covariances.

    spread_scale: factor on the predicted standard deviations (`training.spread_scale`). name: for provenance.
    """

    def __init__(self, model: DisplacementNet, spread_scale: float, name: str):
        self.model, self.spread_scale, self.name = model, spread_scale, name

    def predict_patches(self, patches: Float[np.ndarray, "n p p"]) -> tuple[Array, Array]:
        """Displacement (n, 2) Å and covariance (n, 2, 2) Å² in the crystal's axes."""
        graph, state = nnx.split(self.model)
        forward = jax.jit(lambda state, p: half_turn_average(nnx.merge(graph, state), p))
        mean, covariance = forward(state, jnp.asarray(patches))
        return UNIT * mean, (UNIT * self.spread_scale) ** 2 * covariance

    def predict(self, image: Image, cells: CellFrames) -> tuple[Array, Array]:
        """Displacement (n, 2) Å and covariance (n, 2, 2) Å² in the image's calibrated frame; NaN at the image's rim."""
        displacement, covariance = self.predict_patches(extract_patches(image, cells.centre_px, cells.frame))
        whole = jnp.asarray(whole_patches(image, cells.centre_px, cells.frame))
        displacement = jnp.where(whole[:, None], displacement, jnp.nan)
        r = cells.rotation
        return displacement @ r.T, r @ covariance @ r.T
