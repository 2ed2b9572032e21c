"""Error bars of fitted columns: noise, its correlation, and what scanning adds."""

import numpy as np
from jaxtyping import Float, Int

from ferrojax.columns.fit import FittedColumns

_PARAMETERS = 6  # of a column; its shape is mostly the sublattice's
_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1))


def noise_statistics(fit: FittedColumns, group: Int[np.ndarray, " n"], usable: np.ndarray) -> tuple[np.ndarray, float]:
    """Variance of the noise a column (n,) and its correlation area in px (1 for white noise).

    The mean residual of a sublattice is model misfit, the same for all, and moves no column: it is taken out.
    The area is the sum of the autocorrelation up to the radius where it has fallen below 5 %.
    """
    weight = np.asarray(fit.weight, np.float64)
    residual = np.asarray(fit.residual, np.float64)
    for g in range(group.max() + 1):
        chosen = (group == g) & usable
        if chosen.sum() > 20:
            residual = residual - np.where((group == g)[:, None, None], residual[chosen].mean(0), 0.0)
    total = weight.sum((1, 2))
    area = _correlation_area(np.sqrt(weight[usable]) * residual[usable], np.sqrt(weight[usable]))
    # A fit takes up one independent patch of noise a parameter, however many pixels the patch has.
    own = (weight * residual**2).sum((1, 2)) / np.maximum(total - _PARAMETERS * area, 0.2 * total + 1e-6)
    variance = own.copy()
    for g in range(group.max() + 1):
        chosen = (group == g) & usable
        if chosen.any():  # a window holds few independent pixels: lean on the sublattice
            variance[group == g] = 0.5 * (own[group == g] + np.median(own[chosen]))
    return variance, area


def _correlation_area(residual: np.ndarray, mask: np.ndarray) -> float:
    if not len(residual):
        return 1.0
    size = residual.shape[-1]
    power = (np.abs(np.fft.rfft2(residual, (2 * size, 2 * size))) ** 2).mean(0)
    overlap = (np.abs(np.fft.rfft2(mask, (2 * size, 2 * size))) ** 2).mean(0)
    raw, norm = np.fft.irfft2(power), np.fft.irfft2(overlap)
    lag = np.fft.fftfreq(2 * size, 1 / (2 * size))
    distance = np.hypot(lag[:, None], lag[None, :])
    correlation = np.where(norm > 0.1 * norm[0, 0], raw / np.maximum(norm, 1e-12), 0.0)
    correlation = correlation / max(correlation[0, 0], 1e-30)
    reach = size // 2
    ring = np.array([correlation[(distance >= r - 0.5) & (distance < r + 0.5)].mean() for r in range(reach + 1)])
    below = np.nonzero(ring < 0.05)[0]
    end = int(below[0]) if len(below) else reach
    return float(max(correlation[distance < end - 0.5 + 1e-9].sum() if end > 1 else 1.0, 1.0))


def scan_scatter(
    position: Float[np.ndarray, "n 2"], covariance: Float[np.ndarray, "n 2 2"], index: Int[np.ndarray, "n 2"]
) -> Float[np.ndarray, " 2"]:
    """Variance (2,) along x and y that columns of one sublattice have beyond their own covariance.

    Each column against the mean of its four neighbours on the lattice: strain and slow drift cancel; scan
    jitter and flyback errors, which no fit to one column can see, stay. Zero where fewer than 12 columns have
    all four.
    """
    row = {(int(i), int(j)): k for k, (i, j) in enumerate(index)}
    whole = [(k, [row.get((i + a, j + b)) for a, b in _AROUND]) for (i, j), k in row.items()]
    whole = [(k, around) for k, around in whole if None not in around]
    if len(whole) < 12:
        return np.zeros(2)
    own, near = np.array([k for k, _ in whole]), np.array([around for _, around in whole])
    bend = position[own] - position[near].mean(1)
    seen = (1.4826 * np.median(np.abs(bend - np.median(bend, 0)), 0)) ** 2
    variance = covariance[:, [0, 1], [0, 1]]
    expected = np.median(variance[own] + variance[near].sum(1) / 16, 0)
    return np.maximum(seen - expected, 0.0) / (1 + 1 / 4)
