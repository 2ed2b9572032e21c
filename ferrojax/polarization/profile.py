"""The profile of a polarization across a wall: a tanh fitted to cells at their distance."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NARROW = 0.5
"""Wall widths below this many cell spacings look the same on a lattice of cells."""


class Profile(NamedTuple):
    """width: 2ξ in Å, and its standard error (infinite where the cells do not fix it). centre: Å. resolved: whether
    the width is one that the cells can tell. scatter: rms of the cells about the profile, the field's unit.
    """

    width: float
    error: float
    centre: float
    resolved: bool
    scatter: float


def fit_profile(distance: Float[np.ndarray, " n"], value: Float[np.ndarray, " n"], spacing: float) -> Profile:
    """Least squares of level + half · tanh((s − centre)/ξ); the wall's width is 2ξ.

    distance: Å from the wall. value: field's component along the change. spacing: Å between cells.
    Where several widths fit alike the narrowest is not evidence: `resolved` is False.
    """
    from scipy.optimize import least_squares

    if len(distance) < 6:
        return Profile(float("nan"), float("inf"), float("nan"), False, float("nan"))
    half = max(float(np.ptp(value)) / 2, 1e-12)

    def residual(p: np.ndarray) -> np.ndarray:
        return p[0] + p[1] * np.tanh((distance - p[2]) / np.exp(p[3])) - value / half

    low, high = np.log(0.02 * spacing), np.log(20 * spacing)
    bounds = ([-3, 0, -2 * spacing, low], [3, 3, 2 * spacing, high])
    starts = [np.array([0.0, 0.9, 0.0, np.log(w * spacing)]) for w in (0.3, 1.0, 2.5)]
    fits = [least_squares(residual, start, bounds=bounds) for start in starts]
    best = min(fits, key=lambda fit: fit.cost)
    width = 2 * float(np.exp(best.x[3]))
    normal = best.jac.T @ best.jac
    scale = np.sqrt(np.maximum(normal.diagonal(), 1e-300))
    variance = 2 * best.cost / max(len(distance) - 4, 1)
    centre, scatter = float(best.x[2]), half * float(np.sqrt(variance))
    if normal[3, 3] < 1e-12 or np.linalg.cond(normal / np.outer(scale, scale)) > 1e8:
        return Profile(width, float("inf"), centre, False, scatter)
    error = width * float(np.sqrt(variance * np.linalg.inv(normal)[3, 3]))
    return Profile(width, error, centre, bool(width > NARROW * spacing and error < 0.5 * width), scatter)
