"""Error bars of fitted columns: noise, its correlation, and what scan lines add."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter1d

from ferrojax.columns.columns import SITES, Calibration, LineError
from ferrojax.columns.distortion.column_model import ColumnShape, column_model
from ferrojax.columns.distortion.jitter import JitterStrength, displacement_jitter, jitter_along_lines
from ferrojax.columns.distortion.lines import beyond, independent_lines, line_scatter
from ferrojax.columns.distortion.scan import lattice_deviation
from ferrojax.columns.fitting.fit import FittedColumns

_PARAMETERS = 4
"""Of a column that its own pixels decide; its shape is mostly the sublattice's."""
_RADIUS, _WIDE, _CROSSED = 2.0, 3.5, 4.0
"""Widths round a column in which residuals count, for the size of the noise and for its correlation; and in which lines
cross it."""
_CORRELATED = 1.1
"""px, correlation area above which noise is not white."""
_RIDGE = 1e-6
"""Of the unit normal matrix of a line, against lines that show nothing."""
_SAMPLE = 1000
"""Columns that tell the correlation of the noise, and what jitter makes of one."""
_MIDDLE = 512
"""px: lines and columns of the image that tell how much the lines jitter."""
_LEAST = 30
"""Columns there at least."""
_SLOW = 3.0
"""Distances between columns over which what the lines share is drift."""


class Lattice(NamedTuple):
    """Where fitted columns are on the lattice: index (n, 2), kind (n,) column of the motif, site (n,) index into SITES,
    which are usable (n,), and the kind that the lattice was calibrated on."""

    index: np.ndarray
    kind: np.ndarray
    site: np.ndarray
    usable: np.ndarray
    anchor: int


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
    given, the factor differs from 1 only where residuals are significantly larger. What single lines show, by jitter or
    flicker, is no noise of the pixels: `line_error` has it.
    """
    z = _without_lines((data - fit.image) * fit.seen / np.sqrt(fit.variance), fit)
    value, weight = residual_windows(z, fit.seen, fit.position, fit.width)
    for g in range(group.max() + 1):
        chosen = (group == g) & usable
        if chosen.sum() > 20:
            value[group == g] -= value[chosen].mean(0)
    total = weight.sum((1, 2))
    area = _noise_area(z, fit, group, usable)
    # A fit takes up one independent patch of noise a parameter, however many pixels the patch has.
    left = residual_windows(fit.left, fit.seen, fit.position, fit.width)[0]
    freedom = np.maximum((weight * left).sum((1, 2)) - _PARAMETERS * (area - 1), 0.2 * total + 1e-6)
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


def _without_lines(z: Float[np.ndarray, "rows cols"], fit: FittedColumns) -> np.ndarray:
    """Residuals z without what a shift along the line, a gain and a level of every line of its own explain."""
    weight = (fit.seen / np.sqrt(fit.variance)).astype(np.float32)
    terms = [np.gradient(fit.image.astype(np.float32), axis=1) * weight, fit.image.astype(np.float32) * weight, weight]
    normal = np.stack([np.stack([np.einsum("rx,rx->r", a, b) for b in terms], -1) for a in terms], -1).astype(float)
    right = np.stack([np.einsum("rx,rx->r", a, z) for a in terms], -1)
    scale = np.sqrt(np.maximum(np.diagonal(normal, axis1=1, axis2=2), 1e-30))
    normal = normal / scale[:, :, None] / scale[:, None, :] + _RIDGE * np.eye(len(terms))
    found = np.linalg.solve(normal, (right / scale)[..., None])[..., 0] / scale
    rest = z - np.einsum("kr,krx->rx", found.T, np.stack(terms))
    many = np.maximum(fit.seen.sum(1), 4 * len(terms))
    return rest * np.sqrt(many / (many - len(terms)))[:, None]


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


def line_error(
    data: Float[np.ndarray, "rows cols"],
    fit: FittedColumns,
    lattice: Lattice,
    covariance: Float[np.ndarray, "n 2 2"],
    calibration: Calibration,
    trusted: Bool[np.ndarray, "rows cols"],
) -> LineError:
    """What the columns of a scan line share; data: with bright columns. covariance: (n, 2, 2) Å² of the fit alone.
    trusted: pixels that hold a measurement.

    Jitter of single lines shows inside the columns, whatever the crystal does. What is slower than a column is high, or
    moves columns along y, shows in their positions only: it has to be common along a line, not periodic in the
    crystal, and beyond chance.
    """
    chosen, affine = np.nonzero(lattice.usable)[0], np.asarray(calibration.affine, float)
    lattice_px = np.asarray(calibration.lattice_px, float)
    place, index, kind = fit.position[chosen], lattice.index[chosen], lattice.kind[chosen]
    shared, own = line_scatter(place @ affine.T, place, index, np.where(kind == lattice.anchor, -1, kind), lattice_px)
    width = _width_of_kind(fit, lattice)
    jitter = _jitter((data, trusted), fit, lattice, width)
    height = _heights(fit, lattice)
    y = place[:: max(1, len(place) // _SAMPLE), 1]
    alone = displacement_jitter(jitter, (y, float(np.median(height[chosen]))), (y[:, None], 1.0), np.zeros(1)).mean(0)
    known = np.diagonal(affine @ np.diag(alone) @ affine.T)
    lines = independent_lines(place[:, 1], lattice_px)
    anchored = chosen[kind == lattice.anchor]
    expected = np.median(covariance[anchored], 0)[[0, 1], [0, 1]] if len(anchored) else np.zeros(2)
    real = jnp.result_type(float)
    return LineError(
        variance=jnp.asarray(known + beyond(shared, known, lines), real),
        jitter_px=jnp.asarray(jitter.rms, real),
        correlation=jnp.asarray(jitter.correlation, real),
        height_px=jnp.asarray(
            [np.median(height[at if at.any() else lattice.usable]) for at in _by_site(lattice)], real
        ),
        disorder=jnp.asarray(np.sqrt(np.maximum(own - expected, 0.0)), real),
    )


def _width_of_kind(fit: FittedColumns, lattice: Lattice) -> Float[np.ndarray, " n"]:
    """(n,) px, the median of the usable columns of the same kind."""
    width = np.full(len(lattice.kind), np.median(fit.width[lattice.usable]))
    for kind in np.unique(lattice.kind[lattice.usable]):
        width[lattice.kind == kind] = np.median(fit.width[lattice.usable & (lattice.kind == kind)])
    return width


def _by_site(lattice: Lattice) -> list[np.ndarray]:
    """(n,) usable columns of every one of SITES."""
    return [lattice.usable & (lattice.site == k) for k in range(len(SITES))]


def _heights(fit: FittedColumns, lattice: Lattice) -> Float[np.ndarray, " n"]:
    """(n,) px, alike for a kind: s where the weight of lines in a column's x is that of exp(−t²/s²).

    A line counts by the sum of (∂M/∂x)² / variance over its pixels that count; s comes from the sum of the squared
    weights, which is what single lines add up to.
    """
    height = _width_of_kind(fit, lattice)
    trust = fit.seen / fit.variance
    for kind in np.unique(lattice.kind[lattice.usable]):
        mine = np.nonzero(lattice.usable & (lattice.kind == kind))[0]
        mine = mine[:: max(1, len(mine) // _SAMPLE)]
        width = float(np.median(fit.width[mine]))
        value, inside = residual_windows(trust, fit.seen, fit.position[mine], fit.width[mine], _CROSSED)
        step = np.arange(value.shape[-1]) - value.shape[-1] // 2
        x, y = (np.round(fit.position[mine, k, None]) + step - fit.position[mine, k, None] for k in (0, 1))
        slope = (x / width * np.exp(-((x / width) ** 2) / 2))[:, None, :] * np.exp(-((y / width) ** 2) / 2)[:, :, None]
        weight = (slope**2 * value * inside).sum(2)
        share = weight / np.maximum(weight.sum(1, keepdims=True), 1e-300)
        height[lattice.kind == kind] = 1 / (np.sqrt(2 * np.pi) * np.median((share**2).sum(1)))
    return height


def _jitter(
    pixels: tuple[np.ndarray, np.ndarray], fit: FittedColumns, lattice: Lattice, width: Float[np.ndarray, " n"]
) -> JitterStrength:
    """Of the lines in the middle of the image; pixels: what they hold, and which of it is measured."""
    data, trusted = pixels
    size = np.minimum(np.array(data.shape[::-1]), _MIDDLE)
    corner = (np.array(data.shape[::-1]) - size) // 2
    part, known = (a[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]] for a in (data, trusted))
    position = fit.position - corner
    near = ((position > -4 * width[:, None]) & (position < size + 4 * width[:, None])).all(1)
    near &= np.isfinite(fit.amplitude) & np.isfinite(fit.width)
    usable = near & lattice.usable
    none = JitterStrength(np.zeros(2), np.zeros(2))
    if usable.sum() < _LEAST:
        return none
    kind = np.maximum(lattice.kind, 0)
    shape = ColumnShape(
        jnp.asarray(position[near]),
        jnp.asarray((fit.amplitude * (fit.width / width) ** 2)[near]),
        jnp.asarray(width[near]),
    )
    off = lattice_deviation(position[usable], lattice.index[usable], kind[usable])[:, 0]
    line = np.clip(np.round(position[usable, 1]), 0, size[1] - 1).astype(int)
    blur = _SLOW * np.sqrt(size.prod() / usable.sum())
    total, count = (
        gaussian_filter1d(np.bincount(line, w, size[1]), blur, mode="constant") for w in (off, np.ones(len(off)))
    )
    model = column_model(part, shape, kind[near], known)
    return jitter_along_lines(part, model, shape, total / np.maximum(count, 1e-9), known)
