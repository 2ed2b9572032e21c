"""From fitted columns to `Columns`: which are refused and why, and error bars in Å."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from ferrojax.columns.columns import ACCEPTED, EDGE, FAINT, MOVED, POOR, WIDTH, Calibration, Columns
from ferrojax.columns.fitting.fit import FittedColumns
from ferrojax.columns.indexing.seeds import Seeds, inside
from ferrojax.columns.uncertainty import Lattice, line_error, misfit, residual_windows

_MOVED = 0.35
_EDGE = 0.5
"""Of the nearest distance between columns: how far a column may be from its seed, how near to the image's edge."""
_CUT = 0.15
"""Of a column's surroundings (a Gaussian 1.5 times as wide): more without a measurement, and it is cut."""
_SHOWN = 0.6
"""Of its kind's usual amplitude: a column that was taken for missing is there after all."""


def rejections(fit: FittedColumns, seeds: Seeds, data: Float[np.ndarray, "rows cols"]) -> Int[np.ndarray, " n"]:
    """(n,) index into REJECTIONS."""
    kind = np.maximum(seeds.column, 0)
    gap = seeds.gap * seeds.scale
    residual = relative_residual(fit, data)
    rejection = np.full(len(kind), ACCEPTED)
    shown = np.zeros(len(kind), bool)
    for k in range(kind.max() + 1):
        mine = kind == k
        if not mine.any():
            continue
        amplitude, width = np.median(fit.amplitude[mine]), np.median(fit.shape[mine, 0])
        rejection[mine & (residual > 5 * np.median(residual[mine]) + 0.02)] = POOR
        rejection[mine & (np.abs(fit.shape[:, 0] - width) > np.log(1.6))] = WIDTH
        rejection[mine & (fit.amplitude < 0.15 * amplitude)] = FAINT
        shown |= mine & (fit.amplitude > _SHOWN * amplitude)
    rejection[~np.isfinite(fit.covariance).all((1, 2))] = POOR
    rejection[np.linalg.norm(fit.position - seeds.position, axis=1) > _MOVED * gap] = MOVED
    rejection[~inside(fit.position, data.shape)] = EDGE
    rejection[at_edge(fit.position, data.shape, gap) | cut(fit.position, seeds.blank, fit.width)] = EDGE
    # A column far off its place may stand on its neighbour's flank, no maximum of its own: the fit tells.
    missed = (seeds.rejection == FAINT) & shown
    return np.where((seeds.rejection != ACCEPTED) & ~missed, seeds.rejection, rejection)


def at_edge(position: Float[np.ndarray, "n 2"], shape: tuple[int, ...], gap: float) -> np.ndarray:
    """(n,) positions nearer to the image's edge, or farther out, than half the nearest distance between columns, px."""
    return np.minimum(position, np.array(shape[::-1]) - 1 - position).min(1) < _EDGE * gap


def cut(
    position: Float[np.ndarray, "n 2"], blank: Bool[np.ndarray, "rows cols"], width: Float[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """(n,) columns of which pixels without a measurement take away a part; a single lost line does not."""
    if not blank.any():
        return np.zeros(len(position), bool)
    missing = ndimage.gaussian_filter(blank.astype(np.float32), 1.5 * float(np.median(width)), truncate=3.0)
    column, row = np.clip(np.round(position).astype(int), 0, np.array(blank.shape[::-1]) - 1).T
    return missing[row, column] > _CUT


def relative_residual(fit: FittedColumns, data: Float[np.ndarray, "rows cols"]) -> np.ndarray:
    """(n,) root mean square of data − model round a column, in units of its amplitude."""
    value, weight = residual_windows((data - fit.image) * fit.seen, fit.seen, fit.position, fit.width)
    square = (weight * value**2).sum((1, 2))
    return np.sqrt(square / np.maximum(weight.sum((1, 2)), 1e-9)) / np.maximum(np.abs(fit.amplitude), 1e-12)


def assemble(
    data: Float[np.ndarray, "rows cols"],
    fit: FittedColumns,
    seeds: Seeds,
    verdict: tuple[np.ndarray, np.ndarray],
    calibration: Calibration | None,
    unsure: Float[np.ndarray, "n 2"] | None = None,
) -> Columns:
    """Columns in Å, calibrated, or recorded Å without a calibration.

    verdict: rejection (n,) and which columns make up the lattice (n,). unsure: px, see `Columns.oxygen_error`.
    """
    rejection, anchored = verdict
    affine = np.linalg.inv(seeds.frame) if calibration is None else np.asarray(calibration.affine, float)
    factor = misfit(data, fit, np.maximum(seeds.column, 0), rejection == ACCEPTED)
    with np.errstate(invalid="ignore"):  # refused columns that the fit could not place have no finite error
        covariance = affine @ (fit.covariance * factor[:, None, None]) @ affine.T
    lines = None
    if calibration is not None and anchored.any():
        usable = (rejection == ACCEPTED) & (seeds.column >= 0)
        lattice = Lattice(seeds.index, seeds.column, seeds.site, usable, int(seeds.column[anchored][0]))
        lines = line_error(data, fit, lattice, covariance, calibration, ~seeds.blank)
        covariance = covariance + np.diag(np.asarray(lines.variance, float))
    by_oxygen = None if unsure is None else unsure @ affine.T
    if by_oxygen is not None:
        covariance = covariance + by_oxygen[:, :, None] * by_oxygen[:, None, :]
    kind = jnp.result_type(float)
    return Columns(
        position=jnp.asarray(fit.position @ affine.T, kind),
        position_px=jnp.asarray(fit.position, kind),
        covariance=jnp.asarray(covariance, kind),
        intensity=jnp.asarray(2 * np.pi * fit.amplitude * fit.width**2, kind),
        width=jnp.asarray(fit.width * np.sqrt(np.linalg.det(affine)), kind),
        residual=jnp.asarray(relative_residual(fit, data), kind),
        site=jnp.asarray(seeds.site),
        lattice_index=jnp.asarray(seeds.index),
        rejection=jnp.asarray(rejection),
        calibration=calibration,
        lines=lines,
        oxygen_error=None if by_oxygen is None else jnp.asarray(by_oxygen, kind),
        column=None if calibration is None else jnp.asarray(seeds.column),
        noise=fit.noise.standardised(0.0, float(seeds.polarity)),
        dark=seeds.polarity < 0,
        image_shape=(int(data.shape[0]), int(data.shape[1])),
    )
