"""How far a map is from a known truth."""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from ferrojax.polarization import PolarizationMap, valid_indices


class Truth(eqx.Module):
    """Where the cells of an image are, and how far B is displaced in them.

    position_px: (n, 2) px (x, y). displacement: (n, 2) Å, image axes (+y down).
    """

    position_px: Float[np.ndarray, "n 2"]
    displacement: Float[np.ndarray, "n 2"]

    @staticmethod
    def load(path) -> "Truth":
        """From an .npz with these two arrays."""
        with np.load(path) as z:
            return Truth(z["position_px"].astype(float), z["displacement"].astype(float))


def match(pmap: PolarizationMap, truth: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(measured, true, covariance) of the valid cells that lie within a quarter of a cell of a true one; pm, pm²."""
    at = valid_indices(pmap)
    position = np.asarray(pmap.position_px, float)[at]
    distance = np.linalg.norm(position[:, None] - truth.position_px[None], axis=-1)
    nearest = distance.argmin(1)
    spacing = np.median(np.partition(np.linalg.norm(position[:, None] - position[None], axis=-1), 1, axis=1)[:, 1])
    keep = distance.min(1) < spacing / 4
    measured = 100 * np.asarray(pmap.displacement, float)[at][keep]
    covariance = 1e4 * np.asarray(pmap.covariance, float)[at][keep]
    return measured, 100 * truth.displacement[nearest[keep]], covariance


def score(pmap: PolarizationMap, truth: Truth) -> dict[str, float | int | list[float]]:
    """Errors in pm, per component unless it says otherwise.

    rmse: root mean square over cells and both axes. bias: length of the mean error vector, bias_xy: that vector.
    scatter: what is left after the mean error is taken out. slope: regression of measured on true displacement
    about their means. coverage_68, coverage_95: share of true values inside the stated intervals. n: cells.
    """
    measured, true, covariance = match(pmap, truth)
    error = measured - true
    mean = error.mean(0)
    a, b = true - true.mean(0), measured - measured.mean(0)
    sigma = np.sqrt(np.maximum(covariance[:, [0, 1], [0, 1]], 1e-12))
    z = np.abs(error) / sigma
    return {
        "rmse": float(np.sqrt((error**2).mean())),
        "bias": float(np.linalg.norm(mean)),
        "bias_xy": [float(m) for m in mean],
        "scatter": float(np.sqrt(((error - mean) ** 2).mean())),
        "slope": float((a * b).sum() / (a**2).sum()),
        "coverage_68": float((z < 1).mean()),
        "coverage_95": float((z < 1.96).mean()),
        "n": len(error),
    }


def no_signal(truth: Truth) -> dict[str, float | int]:
    """The score of a map that says zero everywhere: any method must beat it."""
    displacement = 100 * truth.displacement
    return {
        "rmse": float(np.sqrt((displacement**2).mean())),
        "bias": float(np.linalg.norm(displacement.mean(0))),
        "n": len(displacement),
    }
