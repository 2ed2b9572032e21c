"""A mixture of Gaussians on the directions that symmetry allows, for cells that each have their own error.

All centres may share an offset: mis-tilt, or a column that overlaps B, moves every cell of an image alike. What
tells domains apart is then the difference of their centres, which an offset leaves as it is.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ITERATIONS = 60
TRIALS = 8
"""Iterations after which only the best of several starts goes on."""
FITTED_CELLS = 2000
"""The few numbers of a mixture are fitted to so many cells of a larger map, drawn with a fixed seed."""
CONVERGED = 1e-5
STARTS = 2
"""Divisions of the cells in two that a fit with an offset is begun from, the likeliest of all that are tried."""
_FLOOR = 1e-5
_SMALLEST = 0.05
"""Smallest amplitude, in units of the values' rms."""


class Mixture(NamedTuple):
    """amplitude: common size along the variants; share: (k + 1,), the last the cells that are not polar; scatter:
    (d, d) covariance of the cells about their centre beyond their errors; offset: (d,) common to all cells.
    """

    amplitude: float
    share: np.ndarray
    scatter: np.ndarray
    offset: np.ndarray


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
    weight, likelihood, _ = _expected(mixture, cells, variants)
    return weight, likelihood


def _expected(
    mixture: Mixture, cells: Cells, variants: np.ndarray
) -> tuple[Float[np.ndarray, "n k_and_none"], float, Float[np.ndarray, "n d d"]]:
    """Probabilities, log likelihood, and the inverse of every cell's error and scatter together."""
    (n, d), centre = cells.value.shape, _centres(mixture, variants)
    inverse, size = _inverted(cells.error + mixture.scatter)
    toward = (inverse @ cells.value[..., None])[..., 0]
    of_centre = inverse.reshape(n, d * d) @ _outer(centre).reshape(-1, d * d).T
    square = (toward * cells.value).sum(1)[:, None] - 2 * toward @ centre.T + of_centre
    level = np.log(mixture.share) - 0.5 * (square + size[:, None] + d * np.log(2 * np.pi))
    top = level.max(1, keepdims=True)
    weight = np.exp(level - top)
    total = weight.sum(1, keepdims=True)
    return weight / total, float((top + np.log(total)).sum()), inverse


def _inverted(matrix: Float[np.ndarray, "n d d"]) -> tuple[Float[np.ndarray, "n d d"], Float[np.ndarray, " n"]]:
    """Inverse and logarithm of the determinant of positive matrices; written out in two dimensions, for speed."""
    if matrix.shape[-1] != 2:
        return np.linalg.inv(matrix), np.linalg.slogdet(matrix)[1]
    (a, b), (c, d) = np.moveaxis(matrix, 0, -1)
    determinant = a * d - b * c
    adjugate = np.stack([np.stack([d, -b], -1), np.stack([-c, a], -1)], -2)
    return adjugate / determinant[:, None, None], np.log(determinant)


def _outer(vector: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d d"]:
    return vector[:, :, None] * vector[:, None, :]


def fit_mixture(
    cells: Cells, variants: Float[np.ndarray, "k d"], *, offset: bool = False, isotropic: bool = False
) -> Mixture:
    """Expectation maximisation with a known error for every cell; offset: whether the centres share a free one.

    isotropic: the same scatter along all axes, for values that have none along some of them, as in a structure; an
    image's is larger along one axis where its scan jitters.

    Source: J. Bovy, D. W. Hogg, S. T. Roweis, Ann. Appl. Stat. 5, 1657 (2011); here the centres are tied to the
    variants, which symmetry makes equally long. The same cells often allow several pairs of variants, each with its
    own offset; of those that fit alike the one with the smallest offset is taken.
    """
    starts = _shifted_starts(cells, variants) if offset else [_start(cells, variants)]
    if len(starts) > 1:
        tried = [_maximised(start, cells, variants, (offset, isotropic), TRIALS) for start in starts]
        starts = [min(tried, key=lambda fit: information_criterion(fit, cells, variants))]
    return _maximised(starts[0], cells, variants, (offset, isotropic), ITERATIONS)


def _maximised(now: Mixture, cells: Cells, variants: np.ndarray, free: tuple[bool, bool], iterations: int) -> Mixture:
    """free: whether there is an offset, and whether the scatter is isotropic."""
    (offset, isotropic), before, d = free, -np.inf, variants.shape[1]
    for _ in range(iterations):
        weight, likelihood, inverse = _expected(now, cells, variants)
        now = _moved(now, weight, inverse, cells, variants, offset)
        now = _spread(now, weight, inverse, cells, variants)
        if isotropic:
            now = now._replace(scatter=np.trace(now.scatter) / d * np.eye(d))
        if abs(likelihood - before) < CONVERGED * len(weight):
            break
        before = likelihood
    return now


def information_criterion(mixture: Mixture, cells: Cells, variants: Float[np.ndarray, "k d"]) -> float:
    """Bayesian information criterion of a fit: its shares and scatter, with variants their size, and its offset.

    The square of the offset, in units of the values' rms, is added: it decides between fits that are as likely.
    """
    k, d = variants.shape
    parameters = k + (k > 0) + d * (d + 1) // 2 + d * bool(mixture.offset.any())
    likelihood = posterior(mixture, cells, variants)[1]
    return parameters * np.log(max(len(cells.value), 2)) - 2 * likelihood + float(mixture.offset @ mixture.offset)


def _centres(mixture: Mixture, variants: np.ndarray) -> np.ndarray:
    centres = np.concatenate([mixture.amplitude * variants, np.zeros((1, variants.shape[1]))])
    return centres + mixture.offset


def _start(cells: Cells, variants: np.ndarray) -> Mixture:
    k, d = variants.shape
    size, rest = 0.0, cells.value
    if k:
        along = cells.value @ variants.T
        best = along.argmax(1)
        # The upper quartile: cells about zero must not pull the size in.
        size = float(np.quantile(along.max(1) / (variants[best] ** 2).sum(1), 0.75))
        rest = cells.value - size * variants[best]
        rest = np.where((cells.value**2).sum(1, keepdims=True) < 0.25 * size**2, cells.value, rest)
    scatter = max(float((rest**2).mean()), _FLOOR) * np.eye(d)
    return Mixture(max(size, _SMALLEST), np.full(k + 1, 1 / (k + 1)), scatter, np.zeros(d))


def _shifted_starts(cells: Cells, variants: np.ndarray) -> list[Mixture]:
    """Starts with an offset: all cells about their mean, and the cells parted in two for pairs of variants."""
    k, d = variants.shape
    middle = cells.value.mean(0)
    centred = _start(cells._replace(value=cells.value - middle), variants)._replace(offset=middle)
    pairs = []
    if len(cells.value) < 2:
        return [centred]
    for i, j in itertools.combinations(range(k), 2):
        step = variants[j] - variants[i]
        length = float(step @ step)
        if length < 1e-6:
            continue
        upper = _parted(cells.value @ step)
        low, high = cells.value[~upper].mean(0), cells.value[upper].mean(0)
        size = max(float((high - low) @ step) / length, _SMALLEST)
        rest = cells.value - np.where(upper[:, None], high, low)
        share = np.where(np.isin(np.arange(k + 1), (i, j)), 0.45, 0.1 / max(k - 1, 1))
        shift = (low + high - size * (variants[i] + variants[j])) / 2
        scatter = float((rest**2).mean()) * np.eye(d) + _FLOOR * np.eye(d)
        pairs.append(Mixture(size, share / share.sum(), scatter, shift))
    pairs.sort(key=lambda start: information_criterion(start, cells, variants))
    return [centred, *pairs[:STARTS]]


def _parted(value: Float[np.ndarray, " n"]) -> np.ndarray:
    """(n,) which cells lie above the threshold that leaves the smallest squares about the means of two parts."""
    order = np.argsort(value, kind="stable")
    total = np.cumsum(value[order])
    n = len(value)
    below = np.arange(1, n)
    between = (total[:-1] - below * total[-1] / n) ** 2 / (below * (n - below)) if n > 1 else np.zeros(0)
    upper = np.zeros(n, bool)
    upper[order[(int(between.argmax()) + 1 if n > 1 else 0) :]] = True
    return upper


def _moved(
    now: Mixture, weight: np.ndarray, inverse: np.ndarray, cells: Cells, variants: np.ndarray, offset: bool
) -> Mixture:
    """With the amplitude and, where it is free, the offset that explain the cells best (weighted least squares)."""
    k, d = variants.shape
    stiff = (weight.T @ inverse.reshape(-1, d * d)).reshape(-1, d, d)
    push = weight.T @ (inverse @ cells.value[..., None])[..., 0]
    toward = np.einsum("ki,kij->kj", variants, stiff[:k])
    along, own, pull = toward.sum(0), float((toward * variants).sum()), float((variants * push[:k]).sum())
    size = now.amplitude
    if not offset:
        return now._replace(amplitude=max(pull / own, _SMALLEST)) if own > 1e-9 else now
    # The size from what a free offset leaves, then the offset that goes with it.
    whole, every = stiff.sum(0), push.sum(0)
    across = np.linalg.solve(whole, along)
    left = own - float(along @ across)
    if left > 1e-9 * max(own, 1.0):
        size = max((pull - float(across @ every)) / left, _SMALLEST)
    return now._replace(amplitude=size, offset=np.linalg.solve(whole, every - size * along))


def _spread(now: Mixture, weight: np.ndarray, inverse: np.ndarray, cells: Cells, variants: np.ndarray) -> Mixture:
    """With the shares of the variants and the scatter that the cells' own errors do not explain."""
    (n, d), centre = cells.value.shape, _centres(now, variants)
    mean = weight @ centre
    within = (weight @ _outer(centre).reshape(-1, d * d)).reshape(n, d, d) - _outer(mean)
    gain = inverse @ now.scatter  # transposed: rows times it are the expected part of the scatter
    expected = gain.mT @ (_outer(cells.value - mean) + within) @ gain
    scatter = expected.mean(0) + now.scatter - now.scatter @ gain.mean(0)
    share = (weight.sum(0) + 1) / (n + weight.shape[1])
    return now._replace(share=share, scatter=(scatter + scatter.T) / 2 + _FLOOR * np.eye(d))
