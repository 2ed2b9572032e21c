"""A trained network as a predictor for `map_polarization`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ferrojax.checks import positive
from ferrojax.dataset.patches import extract_patches, whole_patches
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.models import DisplacementNet
from ferrojax.polarization import CellFrames
from ferrojax.training import UNIT, half_turn_average


class MadeFor(NamedTuple):
    """What a network was trained on: name of the crystal, zone axis as a map's provenance writes it, and the mode."""

    crystal: str
    zone: str = "0 0 1"
    mode: str = "HAADF"

    def __str__(self) -> str:
        return f"{self.mode} of {self.crystal} [{self.zone}]"


class NetworkPredictor:
    """Predicts displacements from patches, averaged over the half turn, with calibrated covariances.

    spread_scale: factor on the predicted standard deviations (`training.spread_scale`). name: for provenance.
    made_for: maps of anything else are refused, because a network answers for every patch it is shown.
    """

    def __init__(self, model: DisplacementNet, spread_scale: float, name: str, made_for: MadeFor):
        if not isinstance(model, DisplacementNet):
            raise InputError("model", model, "is no DisplacementNet", "pass what load_model returned")
        if not isinstance(made_for, MadeFor):
            remedy = 'say what it was trained on: MadeFor("BaTiO3", "0 0 1", "HAADF")'
            raise InputError("made_for", made_for, "does not say what the network is for", remedy)
        self.model, self.name, self.made_for = model, name, made_for
        self.spread_scale = positive("spread_scale", spread_scale, "the factor on the standard deviations")

    def predict_patches(self, patches: Float[np.ndarray, "n p p"]) -> tuple[Array, Array]:
        """Displacement (n, 2) Å and covariance (n, 2, 2) Å² in the crystal's axes."""
        graph, state = nnx.split(self.model)
        forward = jax.jit(lambda state, p: half_turn_average(nnx.merge(graph, state), p))
        mean, covariance = forward(state, jnp.asarray(patches))
        return UNIT * mean, (UNIT * self.spread_scale) ** 2 * covariance

    def predict(self, image: Image, cells: CellFrames) -> tuple[Array, Array]:
        """Displacement (n, 2) Å and covariance (n, 2, 2) Å² in the image's calibrated frame; NaN at the image's rim.

        Errors: InputError for cells of another crystal, zone axis or mode than the network was made for.
        """
        self._check(cells)
        displacement, covariance = self.predict_patches(extract_patches(image, cells.centre_px, cells.frame))
        whole = jnp.asarray(whole_patches(image, cells.centre_px, cells.frame))
        displacement = jnp.where(whole[:, None], displacement, jnp.nan)
        r = cells.rotation
        return displacement @ r.T, r @ covariance @ r.T

    def _check(self, cells: CellFrames) -> None:
        shown = MadeFor(cells.crystal, cells.zone, cells.mode)
        # A map from columns that says nothing of its mode or crystal is taken at its caller's word.
        if any(there and there != own for there, own in zip(shown, self.made_for, strict=True)):
            remedy = "map it without a predictor, or train a network on this crystal, zone axis and mode"
            raise InputError("predictor", f"a network made for {self.made_for}", f"cannot map {shown}", remedy)
