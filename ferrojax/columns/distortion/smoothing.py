"""A smooth function of the scan line from scattered values: an integrated random walk, its strength by likelihood."""

from typing import NamedTuple

import numpy as np
from scipy import linalg

_WALKS = np.geomspace(1e-12, 1e-1, 34)  # variance of the second difference a step, px²
_SCATTERS = np.concatenate([[0.0], np.geomspace(1e-3, 3.0, 36)])  # px
_ORDER = 2


class LineValues(NamedTuple):
    """Values on equal steps along the scan: (n,) px and their inverse variance, zero where nothing was measured."""

    value: np.ndarray
    weight: np.ndarray


class Strength(NamedTuple):
    """walk: px², variance of the second difference a step. scatter, scatter_error: px, rms beyond the smooth part."""

    walk: float
    scatter: float
    scatter_error: float


def likeliest(values: LineValues, scatter: float | None = None) -> Strength:
    """Hyper-parameters of the highest marginal likelihood on a grid, scatter as its mean and spread there.

    scatter: px, where it is known.
    """
    if scatter is not None:
        known = [_log_likelihood(values, q, scatter) for q in _WALKS]
        return Strength(float(_WALKS[int(np.argmax(known))]), scatter, 0.0)
    log_likelihood = np.array([[_log_likelihood(values, q, s) for s in _SCATTERS] for q in _WALKS])
    share = np.exp(log_likelihood - log_likelihood.max())
    walk = _WALKS[np.unravel_index(np.argmax(share), share.shape)[0]]
    # the grid of the scatter is geometric: weigh it as if it were uniform
    share = share.sum(0) * np.gradient(_SCATTERS)
    share /= share.sum()
    mean = float(share @ _SCATTERS)
    return Strength(float(walk), mean, float(np.sqrt(share @ (_SCATTERS - mean) ** 2)))


def smoothed(values: LineValues, strength: Strength) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and standard deviation (n,) px of the smooth part."""
    weight = _with_scatter(values.weight, strength.scatter)
    precision = _banded(weight, strength.walk)
    factor = linalg.cholesky_banded(precision, lower=True)
    mean = linalg.cho_solve_banded((factor, True), weight * values.value)
    variance = np.diag(linalg.cho_solve_banded((factor, True), np.eye(len(mean))))
    return mean, np.sqrt(variance)


def _with_scatter(weight: np.ndarray, scatter: float) -> np.ndarray:
    return weight / (1 + weight * scatter**2)


def _banded(weight: np.ndarray, walk: float) -> np.ndarray:
    """Lower band (3, n) of diag(weight) + DᵀD/walk, D the second difference."""
    n = len(weight)
    kernel = np.array([1.0, -2.0, 1.0])
    band = np.zeros((_ORDER + 1, n))
    for k in range(_ORDER + 1):
        products = kernel[: _ORDER + 1 - k] * kernel[k:]
        for i, product in enumerate(products):
            band[k, i : n - _ORDER + i] += product / walk
    band[0] += weight
    return band


def _log_likelihood(values: LineValues, walk: float, scatter: float) -> float:
    """Up to a constant; the two unpenalised directions (offset and slope) are integrated out."""
    seen = values.weight > 0
    weight = _with_scatter(values.weight, scatter)
    factor = linalg.cholesky_banded(_banded(weight, walk), lower=True)
    right = weight * values.value
    explained = right @ linalg.cho_solve_banded((factor, True), right)
    log_determinant = 2 * np.log(factor[0]).sum()
    free = len(weight) - _ORDER
    fit = (right * values.value).sum() - explained
    return 0.5 * (np.log(weight[seen]).sum() - free * np.log(walk) - log_determinant - fit)
