"""Slow scan drift from columns that are indexed, its correction, and where the scatter of displacements comes from."""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.spatial import KDTree

from ferrojax.columns.columns import Columns
from ferrojax.columns.distortion.column_model import ColumnShape, column_model
from ferrojax.columns.distortion.jitter import LineJitter, displacement_jitter, estimate_jitter, line_weights
from ferrojax.columns.distortion.smoothing import LineValues, likeliest, smoothed
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.products import exact

CAVEAT = (
    "Drift is what all columns of a scan line share. A real strain gradient across the lines does the same and cannot "
    "be told from it; uniform strain, rotation and shear of the lattice are taken for the lattice's own."
)
MIN_COLUMNS = 30
_HUBER = 2.0
_SWEEPS = 8
_REACH = 3.0  # rms radii of a column over which lines count
_TAPS = 6  # points of the interpolating polynomial


class ScanDrift(eqx.Module):
    """How far columns appear from a regular lattice, line by line: drift of the specimen against the scan.

    shift: (rows, 2) px (x, y), the smooth part; subtract it from positions on that line. shift_error: (rows, 2) px.
    line_scatter, line_scatter_error: (2,) px, rms of what the columns of a line share beyond the smooth part (line
        jitter averaged over a column's height), from the likelihood.
    column_scatter: (2,) px, robust rms of what is left to the single column, its counting noise included.
    disagreement: (2,) px, rms difference of the drift that the left and the right half of the lines show alone, over
        two: large against shift_error where strain, not drift, moves the columns.
    caveat: what no single image can separate.
    """

    shift: Float[Array, "rows 2"]
    shift_error: Float[Array, "rows 2"]
    line_scatter: Float[Array, "2"]
    line_scatter_error: Float[Array, "2"]
    column_scatter: Float[Array, "2"]
    disagreement: Float[Array, "2"]
    caveat: str = eqx.field(static=True)

    def levels(self, pm_per_px: float) -> dict[str, list[float]]:
        """pm (x, y), rms: drift removed, its error that remains, line and column scatter, disagreement."""
        values = {
            "drift_removed": jnp.sqrt((self.shift**2).mean(0)),
            "drift_error": jnp.sqrt((self.shift_error**2).mean(0)),
            "line_scatter": self.line_scatter,
            "line_scatter_error": self.line_scatter_error,
            "column_scatter": self.column_scatter,
            "disagreement": self.disagreement,
        }
        return {key: (pm_per_px * np.asarray(value, float)).tolist() for key, value in values.items()}


class VarianceSplit(NamedTuple):
    """Variance of displacements (2,) Å² (x, y): robust total, what counting and scanning explain, and the rest.

    total_error: (2,), one standard error of the total for independent displacements. Neighbouring cells that share
    columns are not independent: then it is too small.
    """

    total: np.ndarray
    counting: np.ndarray
    scan: np.ndarray
    rest: np.ndarray
    total_error: np.ndarray

    def spreads(self) -> dict[str, list[float]]:
        """pm (x, y): the square root of every part."""
        parts = {name: getattr(self, name) for name in ("total", "counting", "scan", "rest")}
        return {name: (100 * np.sqrt(value)).tolist() for name, value in parts.items()}


class ScanDistortion(NamedTuple):
    """Drift and line jitter of one image; `estimate_drift` and `estimate_jitter` say what they are."""

    drift: ScanDrift
    jitter: LineJitter


class _Component(NamedTuple):
    """The drift along one axis: see ScanDrift."""

    shift: np.ndarray
    shift_error: np.ndarray
    line_scatter: float
    line_scatter_error: float
    column_scatter: float
    disagreement: float


def scan_distortion(
    image: Image, columns: Columns, trusted: Bool[np.ndarray, "rows cols"] | None = None
) -> ScanDistortion:
    """Drift and line jitter of an image from its indexed columns.

    The model for the jitter is made of round Gaussians, one width a sublattice, on a smooth ground, and of what they
    all leave over (`common_misfit`). The jitter sets how much of what the columns of a line share is not drift.
    trusted: pixels that hold a measurement (None: all).
    Errors: InputError as `estimate_drift`, and for columns that carry no lattice index.
    """
    if columns.calibration is None:
        raise InputError("columns", "no lattice index", "are not on a lattice", "find them with a crystal")
    affine = np.asarray(columns.calibration.affine, float)
    to_px, scale = np.linalg.inv(affine), float(np.sqrt(np.linalg.det(affine)))
    kept, site = columns.accepted, np.asarray(columns.site)
    width = np.zeros(len(site))
    for name in np.unique(site):
        chosen = kept & (site == name)
        width[site == name] = np.median(np.asarray(columns.width, float)[chosen if chosen.any() else site == name])
    width = width / scale
    amplitude = np.asarray(columns.intensity, float) / (2 * np.pi * width**2)
    shape = ColumnShape(columns.position_px, jnp.asarray(amplitude), jnp.asarray(width))
    data = np.asarray(image.data, float)
    position = np.asarray(columns.position_px, float)
    model = column_model(data, shape, site, trusted)
    covariance = np.einsum("ij,njk,lk->nil", to_px, np.asarray(columns.covariance, float)[kept], to_px)
    lattice = (position[kept], covariance, np.asarray(columns.lattice_index)[kept], site[kept], data.shape[0])
    first = estimate_drift(*lattice)
    jitter = estimate_jitter(data, model, shape, drift=np.asarray(first.shift, float), trusted=trusted)
    at = position[kept][:, 1]
    alone = displacement_jitter(jitter, (at, float(np.median(width))), (at[:, None], 1.0), np.zeros(1))
    known = [float(np.sqrt(v)) or None for v in alone.mean(0)]  # no jitter seen: the columns have to tell
    return ScanDistortion(estimate_drift(*lattice, known), jitter)


def estimate_drift(
    position_px: Float[np.ndarray, "n 2"],
    covariance_px: Float[np.ndarray, "n 2 2"],
    lattice_index: Int[np.ndarray, "n 2"],
    group: Int[np.ndarray, " n"],
    rows: int,
    line_scatter: Sequence[float | None] = (None, None),
) -> ScanDrift:
    """Slow drift of a scan from columns that share a lattice; rows: lines of the image.

    group: (n,) which lattice a column belongs to (its place in the cell); each has an origin of its own, all share
    the two lattice vectors. The deviations from that lattice are averaged over lines a quarter of a column distance
    high, and smoothed by an integrated random walk (a Kalman smoother in matrix form) whose strength, and the
    scatter that the columns of a line share, have the highest marginal likelihood. line_scatter: px (x, y), that
    scatter where it is known, from `displacement_jitter` of single columns: a few rows of columns along the lines
    cannot tell it from drift.
    Errors: InputError for fewer than 30 columns or fewer than 8 groups of lines with columns.
    """
    if len(position_px) < MIN_COLUMNS:
        shown = f"{len(position_px)} columns"
        raise InputError("columns", shown, "are too few to follow the drift", f"give {MIN_COLUMNS} or more")
    deviation = lattice_deviation(position_px, lattice_index, group)
    gap = float(np.median(KDTree(position_px).query(position_px, k=2)[0][:, 1]))
    count = max(int(np.ceil(4 * rows / max(gap, 1.0))), 1)
    line = np.clip((position_px[:, 1] + 0.5) / rows * count, 0, count - 1).astype(int)
    if len(np.unique(line)) < 8:
        raise InputError("columns", f"{len(np.unique(line))} lines", "span too few lines", "give a larger image")
    left = position_px[:, 0] < np.median(position_px[:, 0])
    lines = (line, count, rows)
    parts = [_component(deviation[:, i], covariance_px[:, i, i], left, lines, line_scatter[i]) for i in (0, 1)]
    kind = jnp.result_type(float)
    values = {name: jnp.asarray(np.stack([getattr(p, name) for p in parts], -1), kind) for name in _Component._fields}
    return ScanDrift(**values, caveat=CAVEAT)


def lattice_deviation(
    position_px: Float[np.ndarray, "n 2"], lattice_index: Int[np.ndarray, "n 2"], group: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n 2"]:
    """(n, 2) px from the lattice that fits all columns best (least squares, outliers held down)."""
    names, member = np.unique(group, return_inverse=True)
    design = np.concatenate([np.eye(len(names))[member], lattice_index - lattice_index.mean(0)], 1).astype(float)
    deviation, weight = np.zeros_like(position_px, float), np.ones(len(position_px))
    for _ in range(_SWEEPS):
        root = np.sqrt(weight)[:, None]
        fit, *_ = np.linalg.lstsq(design * root, position_px * root, rcond=None)
        deviation = position_px - design @ fit
        size = np.linalg.norm(deviation, axis=1)
        weight = np.minimum(1.0, _HUBER * np.median(size) / np.maximum(size, 1e-12))
    return deviation


def _component(
    deviation: np.ndarray,
    variance: np.ndarray,
    left: np.ndarray,
    lines: tuple[np.ndarray, int, int],
    scatter: float | None,
) -> _Component:
    """One axis; lines: group of lines of every column (n,), number of groups, lines of the image."""
    line, count, rows = lines
    spread = _spread_within(deviation, line, count)
    variance = variance + max(spread - float(np.median(variance)), 0.0)
    whole = _line_means(deviation, variance, line, count)
    strength = likeliest(whole, scatter)
    mean, error = smoothed(whole, strength)
    halves = [
        smoothed(_line_means(deviation[side], variance[side], line[side], count), strength)[0] for side in (left, ~left)
    ]
    centre = (np.arange(count) + 0.5) * rows / count - 0.5
    apart = halves[0] - halves[1]
    apart = apart - np.polynomial.Polynomial.fit(centre, apart, 1)(centre)  # a rotation between them is no drift
    return _Component(
        shift=np.interp(np.arange(rows), centre, mean),
        shift_error=np.interp(np.arange(rows), centre, error),
        line_scatter=strength.scatter,
        line_scatter_error=strength.scatter_error,
        column_scatter=float(np.sqrt(spread)),
        disagreement=float(np.sqrt(np.mean(apart**2)) / 2),
    )


def _spread_within(deviation: np.ndarray, line: np.ndarray, count: int) -> float:
    """Robust variance of the deviations within their groups of lines."""
    many = np.bincount(line, minlength=count)
    middle = np.zeros(count)
    for members in np.split(np.argsort(line, kind="stable"), np.cumsum(many)[:-1]):
        if len(members):
            middle[line[members[0]]] = np.median(deviation[members])
    usable = many[line] >= 4 if (many >= 4).any() else many[line] >= 1
    rest = (deviation - middle[line])[usable]
    freedom = max(float(np.mean(1 - 1 / many[line][usable])), 0.5)
    return float((1.4826 * np.median(np.abs(rest))) ** 2 / freedom)


def _line_means(deviation: np.ndarray, variance: np.ndarray, line: np.ndarray, count: int) -> LineValues:
    """Weighted means of groups of lines, outliers held down."""
    value, weight, trust = np.zeros(count), np.zeros(count), np.ones(len(line))
    for _ in range(3):
        share = trust / variance
        weight = np.bincount(line, share, count)
        value = np.bincount(line, share * deviation, count) / np.maximum(weight, 1e-300)
        size = np.abs(deviation - value[line]) / np.sqrt(variance)
        trust = np.minimum(1.0, _HUBER / np.maximum(size, 1e-12))
    return LineValues(value, weight)


@exact
def corrected_positions(
    position_px: Float[Array, "n 2"], shift: Float[Array, "rows 2"], width_px: Float[Array, " n"] | None = None
) -> Float[Array, "n 2"]:
    """Positions (x, y) px without the shift of the lines; differentiable in the shift.

    Without a width the line that a column lies on counts (slow drift); with its rms radius in px all lines that it
    crosses do, by their weight in its fit (line jitter). Lines beyond the image repeat its edge.
    """
    if width_px is None:
        line = jnp.arange(shift.shape[0])
        moved = [jnp.interp(position_px[:, 1], line, shift[:, i]) for i in (0, 1)]
        return position_px - jnp.stack(moved, -1)
    half = int(np.ceil(_REACH * float(np.max(np.asarray(width_px)))))
    lines = np.round(np.asarray(position_px)[:, 1, None]) + np.arange(-half, half + 1)
    weight = line_weights(np.asarray(position_px)[:, 1], np.asarray(width_px), lines)
    of_lines = shift[np.clip(lines.astype(int), 0, shift.shape[0] - 1)]
    return position_px - jnp.einsum("cnm,nmc->nc", jnp.asarray(weight, shift.dtype), of_lines)


def resampled_lines(data: Float[Array, "rows cols"], shift: Float[Array, "rows 2"]) -> Float[Array, "rows cols"]:
    """The image with every line moved back by its shift (x, y) px: differentiable, six-point polynomials.

    Along x each line moves on its own; along y the lines are where they were recorded less their shift, which must
    vary by much less than a line from one to the next. Pixels beyond the edge repeat the edge.
    """
    rows, cols = data.shape
    straight = jax.vmap(_interpolated)(data, jnp.arange(cols) + shift[:, :1])
    line = jnp.arange(rows)
    # Line r was recorded at r − shift: the row to take is where that equals the row wanted (two fixed-point steps).
    at = line + shift[:, 1]
    at = line + jnp.interp(at, line, shift[:, 1])
    return jax.vmap(_interpolated, (1, None), 1)(straight, at)


def _interpolated(values: Float[Array, " n"], at: Float[Array, " m"]) -> Float[Array, " m"]:
    """Lagrange's polynomial through the six nearest of equally spaced values."""
    first = jax.lax.stop_gradient(jnp.floor(at)) - (_TAPS // 2 - 1)
    nodes = np.arange(_TAPS)
    offset = (at - first)[:, None] - nodes  # distance to every node
    others = np.array([[k for k in nodes if k != i] for i in nodes])
    scale = np.array([np.prod(i - others[i]) for i in nodes])
    weight = jnp.prod(offset[:, others], -1) / scale
    index = jnp.clip(first.astype(int)[:, None] + nodes, 0, len(values) - 1)
    return (weight * values[index]).sum(-1)


def variance_split(
    displacement: Float[np.ndarray, "n 2"],
    covariance: Float[np.ndarray, "n 2 2"],
    scan_variance: Float[np.ndarray, "n 2"] | Float[np.ndarray, " 2"],
) -> VarianceSplit:
    """Split the scatter of displacements that should all be the same, such as those of a non-polar crystal.

    displacement: Å about any mean. covariance: Å² from counting alone. scan_variance: Å² that line jitter adds to
    each displacement (`displacement_jitter`), or to all. The total is the square of 1.4826 MAD; the other two are
    medians; the rest is what they leave, zero where they claim more than there is.
    """
    middle = np.median(displacement, axis=0)
    total = (1.4826 * np.median(np.abs(displacement - middle), axis=0)) ** 2
    counting = np.median(covariance[:, [0, 1], [0, 1]], axis=0)
    scan = np.median(np.broadcast_to(scan_variance, displacement.shape), axis=0)
    # sd(MAD scale)/scale = 1.166/√n for normal values, twice that for the variance
    error = 2 * 1.166 * total / np.sqrt(len(displacement))
    return VarianceSplit(total, counting, scan, np.maximum(total - counting - scan, 0.0), error)
