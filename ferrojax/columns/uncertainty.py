"""Error bars of fitted columns: noise, its correlation, and what scanning adds."""

import numpy as np
from jaxtyping import Bool, Float, Int

from ferrojax.columns.fitting.fit import FittedColumns

_PARAMETERS = 4
"""Of a column that its own pixels decide; its shape is mostly the sublattice's."""
_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1))
_RADIUS, _WIDE = 2.0, 3.5
"""Widths round a column in which residuals count: for the size of the noise, and for its correlation."""
_CORRELATED = 1.1
"""px, correlation area above which noise is not white."""
_SAMPLE = 1000
"""Columns whose windows tell the correlation of the noise."""


def residual_windows(
    image: Float[np.ndarray, "rows cols"],
    seen: Bool[np.ndarray, "rows cols"],
    position: Float[np.ndarray, "n 2"],
    width: Float[np.ndarray, " n"],
    reach: float = _RADIUS,
) -> tuple[np.ndarray, np.ndarray]:
    """Windows (n, m, m) of an image round the columns, and the pixels that count: seen and within `reach` widths."""
    radius = reach * np.median(width)
    half = int(np.ceil(radius)) + 1
    middle = np.clip(np.round(position).astype(int), 0, np.array(image.shape[::-1]) - 1)
    step = np.arange(-half, half + 1)
    x, y = (middle[:, k, None] + half + step for k in (0, 1))
    value, count = (np.pad(a.astype(np.float32), half)[y[:, :, None], x[:, None, :]] for a in (image, seen))
    offset = middle - position
    far = (step[None, None, :] + offset[:, 0, None, None]) ** 2 + (step[None, :, None] + offset[:, 1, None, None]) ** 2
    return value, count * (far < radius**2)


def misfit(
    data: Float[np.ndarray, "rows cols"], fit: FittedColumns, group: Int[np.ndarray, " n"], usable: np.ndarray
) -> Float[np.ndarray, " n"]:
    """(n,) factor by which a column's covariance grows over that of white noise of the variance in `fit`.

    Variance of the residual in units of the noise's, times the noise's correlation area in px. The mean residual of a
    sublattice is misfit of the model, the same for all, and moves no column: it is taken out. Where the noise was
    given, the factor differs from 1 only where residuals are significantly larger.
    """
    z = (data - fit.image) * fit.seen / np.sqrt(fit.variance)
    value, weight = residual_windows(z, fit.seen, fit.position, fit.width)
    for g in range(group.max() + 1):
        chosen = (group == g) & usable
        if chosen.sum() > 20:
            value[group == g] -= value[chosen].mean(0)
    total = weight.sum((1, 2))
    area = _noise_area(z, fit, group, usable)
    # A fit takes up one independent patch of noise a parameter, however many pixels the patch has.
    freedom = np.maximum(np.minimum(total - _PARAMETERS * area, fit.spare * total), 0.2 * total + 1e-6)
    own = (weight * value**2).sum((1, 2)) / freedom
    factor = own.copy()
    for g in range(group.max() + 1):
        chosen = (group == g) & usable
        if chosen.any():  # a window holds few independent pixels: lean on the sublattice
            typical = np.median(own[chosen])
            factor[group == g] = 0.5 * (own[group == g] + typical)
            if fit.known and area < _CORRELATED and typical < 1 + 3 * np.sqrt(2 / freedom[chosen].sum()):
                calm = own < 1 + 4 * np.sqrt(2 / freedom)
                factor[(group == g) & calm] = 1.0
    return (np.maximum(factor, 1.0) if fit.known else factor) * area


def _noise_area(z: np.ndarray, fit: FittedColumns, group: np.ndarray, usable: np.ndarray) -> float:
    """Correlation area (px) of residuals z round some of the columns, without what is common to a sublattice."""
    rows = np.nonzero(usable)[0]
    rows = rows[:: max(1, len(rows) // _SAMPLE)]
    value, weight = residual_windows(z, fit.seen, fit.position[rows], fit.width[rows], _WIDE)
    for g in np.unique(group[rows]):
        if (group[rows] == g).sum() > 20:
            value[group[rows] == g] -= value[group[rows] == g].mean(0)
    return _correlation_area(weight * value, weight)


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
