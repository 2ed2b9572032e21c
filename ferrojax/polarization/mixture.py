"""A mixture of Gaussians on the directions that symmetry allows, for cells that each have their own error."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ITERATIONS = 80
FITTED_CELLS = 4000
"""The few numbers of a mixture are fitted to so many cells of a larger map, drawn with a fixed seed."""
CONVERGED = 1e-6
_FLOOR = 1e-5


class Mixture(NamedTuple):
    """amplitude: common size along the variants; share: (k + 1,), the last the cells about zero; variance: scatter."""

    amplitude: float
    share: np.ndarray
    variance: float


class Cells(NamedTuple):
    """Values (n, d) and covariances (n, d, d) in units of the values' rms, `unit`."""

    value: Float[np.ndarray, "n d"]
    error: Float[np.ndarray, "n d d"]
    unit: float

    @classmethod
    def scaled(cls, value: Float[np.ndarray, "n d"], error: Float[np.ndarray, "n d d"] | None) -> "Cells":
        n, d = value.shape
        unit = float(np.sqrt((value**2).sum(1).mean())) or 1.0
        return cls(value / unit, np.zeros((n, d, d)) if error is None else error / unit**2, unit)

    def sample(self) -> "Cells":
        """As many cells as a mixture is fitted to."""
        if len(self.value) <= FITTED_CELLS:
            return self
        rows = np.random.default_rng(0).choice(len(self.value), FITTED_CELLS, replace=False)
        return Cells(self.value[rows], self.error[rows], self.unit)


def posterior(
    mixture: Mixture, cells: Cells, variants: Float[np.ndarray, "k d"]
) -> tuple[Float[np.ndarray, "n k_and_none"], float]:
    """Probability of every variant and of none for every cell, and the log likelihood of all cells."""
    d = variants.shape[1]
    spread = cells.error + mixture.variance * np.eye(d)
    rest = cells.value[:, None] - _centres(mixture, variants)
    square = np.einsum("nki,nij,nkj->nk", rest, np.linalg.inv(spread), rest, optimize=True)
    level = np.log(mixture.share) - 0.5 * (square + np.linalg.slogdet(spread)[1][:, None] + d * np.log(2 * np.pi))
    top = level.max(1, keepdims=True)
    weight = np.exp(level - top)
    total = weight.sum(1, keepdims=True)
    return weight / total, float((top + np.log(total)).sum())


def fit_mixture(cells: Cells, variants: Float[np.ndarray, "k d"]) -> Mixture:
    """Expectation maximisation with a known error for every cell.

    Source: J. Bovy, D. W. Hogg, S. T. Roweis, Ann. Appl. Stat. 5, 1657 (2011); here the centres are tied to the
    variants, which symmetry makes equally long, and the scatter is isotropic.
    """
    now = _start(cells, variants)
    before = -np.inf
    for _ in range(ITERATIONS):
        weight, likelihood = posterior(now, cells, variants)
        now = _step(now, weight, cells, variants)
        if abs(likelihood - before) < CONVERGED * len(weight):
            break
        before = likelihood
    return now


def information_criterion(mixture: Mixture, cells: Cells, variants: Float[np.ndarray, "k d"]) -> float:
    """Bayesian information criterion of a fit: its shares, its scatter and, with variants, their size."""
    parameters = len(variants) + 1 + (len(variants) > 0)
    return parameters * np.log(max(len(cells.value), 2)) - 2 * posterior(mixture, cells, variants)[1]


def _centres(mixture: Mixture, variants: np.ndarray) -> np.ndarray:
    return np.concatenate([mixture.amplitude * variants, np.zeros((1, variants.shape[1]))])


def _start(cells: Cells, variants: np.ndarray) -> Mixture:
    k = len(variants)
    size, rest = 0.0, cells.value
    if k:
        along = cells.value @ variants.T
        best = along.argmax(1)
        # The upper quartile: cells about zero must not pull the size in.
        size = float(np.quantile(along.max(1) / (variants[best] ** 2).sum(1), 0.75))
        rest = cells.value - size * variants[best]
        rest = np.where((cells.value**2).sum(1, keepdims=True) < 0.25 * size**2, cells.value, rest)
    return Mixture(max(size, 0.05), np.full(k + 1, 1 / (k + 1)), max(float((rest**2).mean()), _FLOOR))


def _step(now: Mixture, weight: np.ndarray, cells: Cells, variants: np.ndarray) -> Mixture:
    k, d = variants.shape
    inverse = np.linalg.inv(cells.error + now.variance * np.eye(d))
    amplitude = now.amplitude
    if k:
        toward = np.einsum("nij,kj->nki", inverse, variants)
        push = np.einsum("nk,nki,ni->", weight[:, :k], toward, cells.value, optimize=True)
        stiff = np.einsum("nk,nki,ki->", weight[:, :k], toward, variants, optimize=True)
        amplitude = max(float(push / stiff), 0.05) if stiff > 1e-9 else amplitude
    rest = cells.value[:, None] - _centres(now._replace(amplitude=amplitude), variants)
    # A cell's share of the scatter is what its own error does not explain, and what stays unknown of it.
    gain = now.variance * inverse
    mean = np.einsum("nij,nkj->nki", gain, rest)
    unknown = now.variance * (d - np.trace(gain, axis1=1, axis2=2))
    variance = (weight * ((mean**2).sum(-1) + unknown[:, None])).sum() / (d * len(weight))
    share = (weight.sum(0) + 1) / (len(weight) + k + 1)
    return Mixture(amplitude, share, max(float(variance), _FLOOR))
