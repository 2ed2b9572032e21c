"""Line jitter: how far every scan line is off, from the residual of a fitted image."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import sparse

from ferrojax.columns.distortion.column_model import ColumnShape
from ferrojax.columns.sizes import canvas
from ferrojax.products import exact

_STENCIL = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12.0  # first derivative, error in the fourth order
_REACH = 3.0  # rms radii of a column over which lines count
_FLOOR = 1e-2  # of the strongest line's weight: weaker lines show no columns
_LEAST_SHARE, _RIDGE = 0.05, 1e-5
_LEAST_VISIBLE = 0.25  # of the variance; shifts of more correlated lines are in the fitted positions, not the residual
_NORMAL = 1.4826
_BLOCK = 32  # px along a line, longer than the noise is correlated
_LAGS, _SEGMENTS = 12, 16
_CORRELATIONS = np.concatenate([[0.0], 1 - np.geomspace(0.9, 0.03, 16)])


class LineJitter(eqx.Module):
    """How far what a line shows lies from where it should, px (x, y).

    shift: (rows, 2), shrunk towards zero where the image says little; subtract it. shift_error: (rows, 2), what
        remains unknown of it. raw, raw_error: (rows, 2), each line on its own against the fitted columns, which have
        taken up the mean shift of their own lines; raw_error from the noise, infinite where no column is.
    rms, rms_error: (2,), of the shifts of single lines. correlation: (2,), of one line's shift with the next one's;
        further lines follow its powers.
    """

    shift: Float[Array, "rows 2"]
    shift_error: Float[Array, "rows 2"]
    raw: Float[Array, "rows 2"]
    raw_error: Float[Array, "rows 2"]
    rms: Float[Array, "2"]
    rms_error: Float[Array, "2"]
    correlation: Float[Array, "2"]

    def levels(self, pm_per_px: float) -> dict[str, list[float]]:
        """pm (x, y), rms: jitter of a line, its error, what a correction removes and what remains."""
        values = {
            "jitter": self.rms,
            "jitter_error": self.rms_error,
            "removed": jnp.sqrt((self.shift**2).mean(0)),
            "remains": jnp.sqrt((self.shift_error**2).mean(0)),
        }
        return {key: (pm_per_px * np.asarray(value, float)).tolist() for key, value in values.items()}


class JitterStrength(NamedTuple):
    """rms: (2,) px (x, y) by which single lines are off. correlation: (2,) of one line's shift with the next one's;
    further lines follow its powers."""

    rms: np.ndarray
    correlation: np.ndarray


class LineFit(eqx.Module):
    """Least-squares shift of every line, px (x, y), (rows, 2): from all of it, and from two halves of interleaved
    blocks that share no noise; error: (rows, 2), infinite where a line shows no columns."""

    offset: Float[Array, "rows 2"]
    error: Float[Array, "rows 2"]
    halves: Float[Array, "2 rows 2"]


class _AxisFit(NamedTuple):
    """A LineFit along one axis: (rows,), (rows,), (2, rows)."""

    offset: np.ndarray
    error: np.ndarray
    halves: np.ndarray


def line_offsets(
    data: Float[Array, "rows cols"],
    model: Float[Array, "rows cols"],
    variance: Float[Array, "rows cols"],
    block: int = _BLOCK,
) -> LineFit:
    """Shift of every line of data against the model by weighted least squares.

    A line shifted by (a, b) shows model − a ∂model/∂x − b ∂model/∂y; both are fitted with the inverse variance
    (intensity² per pixel) as weight, beside a gain and a level of the line's own. The error comes from the scatter
    between blocks of that many px, pooled over the lines, so that noise that is correlated along a line, or of
    another size than the variance says, is counted.
    """
    residual = data - model
    terms = (-_slope(model, 1), -_slope(model, 0), model, jnp.ones_like(model))
    sums = [[_block_sums(a * b / variance, block) for b in (*terms, residual)] for a in terms]
    sums = jnp.stack([jnp.stack(row, -1) for row in sums], -2)  # (rows, blocks, 4, 5)
    found, inverse, seen = _solved(sums.sum(1))
    score = sums[..., 4] - jnp.einsum("rbij,rj->rbi", sums[..., :4], found)
    spread = jnp.einsum("rij,rbj->rbi", inverse, score)[..., :2]
    count = (sums[..., 3, 3] > 0).sum(1)[:, None]  # of blocks that say something
    expected = jnp.where(seen, jnp.diagonal(inverse, axis1=1, axis2=2)[:, :2], 1.0)
    excess = jnp.where(seen, (spread**2).sum(1) / expected, 0.0).sum(0) / jnp.maximum(seen.sum(0), 1)
    error = jnp.where(seen, jnp.sqrt(expected * excess * count / jnp.maximum(count - 1, 1)), jnp.inf)
    halves = jnp.stack([_solved(sums[:, k::2].sum(1))[0][:, :2] for k in (0, 1)])
    return LineFit(jnp.where(seen, found[:, :2], 0.0), error, halves)


_line_offsets = jax.jit(line_offsets)


def _block_sums(values: Float[Array, "rows cols"], block: int) -> Float[Array, "rows blocks"]:
    rows, cols = values.shape
    padded = jnp.pad(values, ((0, 0), (0, -cols % block)))
    return padded.reshape(rows, -1, block).sum(-1)


def _solved(sums: Float[Array, "rows 4 5"]) -> tuple[Array, Array, Array]:
    """Least squares of every line (rows, 4), inverse normal matrices, and whether its shifts (rows, 2) can be told."""
    normal, right = sums[..., :4], sums[..., 4]
    diagonal = jnp.diagonal(normal, axis1=1, axis2=2)
    shown = diagonal > _FLOOR * diagonal.max(0)
    scale = jax.lax.rsqrt(jnp.where(shown, diagonal, 1.0)) * shown
    unit = normal * scale[:, :, None] * scale[:, None, :] + jnp.eye(4) * jnp.where(shown, _RIDGE, 1.0)[:, :, None]
    inverse = jnp.linalg.inv(unit)
    alone = 1 / jnp.diagonal(inverse, axis1=1, axis2=2)  # share of the information that gain and level leave
    inverse = inverse * scale[:, :, None] * scale[:, None, :]
    return jnp.einsum("rij,rj->ri", inverse, right), inverse, (shown & (alone > _LEAST_SHARE))[:, :2]


def _slope(image: Float[Array, "rows cols"], axis: int) -> Float[Array, "rows cols"]:
    """Derivative per px; the edge repeats."""
    n = image.shape[axis]
    parts = (
        weight * jnp.take(image, jnp.clip(jnp.arange(n) + k - 2, 0, n - 1), axis)
        for k, weight in enumerate(_STENCIL)
        if weight
    )
    return sum(parts, jnp.zeros_like(image))


def line_weights(
    y: Float[np.ndarray, "*n"], width: Float[np.ndarray, "*n"], lines: Float[np.ndarray, "*n m"]
) -> Float[np.ndarray, "2 *n m"]:
    """How much each line counts in the least-squares x and y of a Gaussian column; each sums to one.

    y, width: px. Along x the weight of a line is the column's squared profile there, along y its squared slope.
    """
    t = (lines - y[..., None]) / width[..., None]
    square = np.exp(-(t**2))
    both = np.stack([square, t**2 * square])
    return both / np.maximum(both.sum(-1, keepdims=True), 1e-300)


@exact
def estimate_jitter(
    data: Float[np.ndarray, "rows cols"],
    model: Float[np.ndarray, "rows cols"],
    columns: ColumnShape,
    variance: Float[np.ndarray, "rows cols"] | None = None,
    deviation: tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]] | None = None,
    drift: Float[np.ndarray, "rows 2"] | None = None,
    trusted: Bool[np.ndarray, "rows cols"] | None = None,
) -> LineJitter:
    """Shift of every scan line from an image, the model fitted to it and its columns.

    model: the fitted image, background included; shapes fitted column by column would take jitter up, so use one
    shape a sublattice. variance: intensity² per pixel, uniform from the residual where not given.
    deviation: (n, 2) px of the columns from their lattice, drift taken out, and its variance. It adds the
    shift that all lines of a column share, which the residual cannot show; real displacements that the columns of
    a line share are then taken for jitter, so leave it out where those are looked for. drift: px, the smooth shift
    of the lines that is known, as `ScanDrift.shift`: it shears columns, which would look like jitter. trusted: pixels
    that hold a measurement (None: all).
    The shifts have a Gaussian prior, a Markov chain over the lines, whose rms and correlation are found from what
    the two halves of every line share. Real strain does not enter the residual. Along y, columns that are all too
    wide in the model, or lines that are brighter than others, look like shifts where the columns lie in rows along
    the lines: there the shifts along y are no better than the model and the beam current.
    """
    kind = jnp.result_type(float)
    fit = _fitted_lines(data, model, variance, trusted)
    weights = _column_weights(columns, data.shape[0])
    parts = []
    for axis in (0, 1):
        shares = None if deviation is None else (deviation[0][:, axis], deviation[1][:, axis])
        smooth = np.zeros(len(data)) if drift is None else np.asarray(drift, float)[:, axis]
        parts.append(_one_axis(_of_axis(fit, axis), weights[axis], shares, smooth))
    shift, error, rms, rms_error, correlation = (jnp.asarray(np.stack(v, -1), kind) for v in zip(*parts, strict=True))
    return LineJitter(shift, error, fit.offset, fit.error, rms, rms_error, correlation)


@exact
def jitter_along_lines(
    data: Float[np.ndarray, "rows cols"],
    model: Float[np.ndarray, "rows cols"],
    columns: ColumnShape,
    drift: Float[np.ndarray, " rows"],
    trusted: Bool[np.ndarray, "rows cols"] | None = None,
) -> JitterStrength:
    """The strength alone of what `estimate_jitter` finds along x, arguments as there; none along y.

    trusted: pixels that hold a measurement (None: all).

    Along y a line that is brighter than others, and a column that is wider than its model, look like jitter.
    """
    matrix, strength = _column_weights(columns, data.shape[0])[0]
    fit, response, seen = _left_in_residual(
        _of_axis(_fitted_lines(data, model, None, trusted), 0), matrix, strength, drift
    )
    rms, _, correlation = _prior(fit, response, seen)
    return JitterStrength(np.array([rms, 0.0]), np.array([correlation, 0.0]))


def _fitted_lines(
    data: np.ndarray, model: np.ndarray, variance: np.ndarray | None, trusted: np.ndarray | None = None
) -> LineFit:
    trusted = np.ones(data.shape, bool) if trusted is None else trusted
    if variance is None:
        rest = (data - model)[trusted]
        variance = np.full(data.shape, (_NORMAL * np.median(np.abs(rest - np.median(rest)))) ** 2)
    variance = np.where(trusted, variance, np.inf)
    size = (data.shape[0], data.shape[1])
    beyond = [(0, side - n) for side, n in zip(canvas(size), size, strict=True)]
    unseen = np.pad(variance, beyond, constant_values=np.inf)
    padded = (*(np.pad(a, beyond, mode="edge") for a in (data, model)), unseen)
    fit = _line_offsets(*(jnp.asarray(a, jnp.result_type(float)) for a in padded))
    return LineFit(fit.offset[: size[0]], fit.error[: size[0]], fit.halves[:, : size[0]])


def _of_axis(fit: LineFit, axis: int) -> _AxisFit:
    return _AxisFit(*(np.asarray(a[..., axis], float) for a in (fit.offset, fit.error, fit.halves)))


def _column_weights(columns: ColumnShape, rows: int) -> list[tuple[sparse.csr_array, np.ndarray]]:
    """For x and y: weight of every line in every column (n, rows), and the columns' strength (n,)."""
    y, width = np.asarray(columns.position_px[:, 1], float), np.asarray(columns.width_px, float)
    half = int(np.ceil(_REACH * width.max()))
    line = np.round(y)[:, None] + np.arange(-half, half + 1)
    inside = (line >= 0) & (line < rows)
    share = line_weights(y, width, line) * inside
    share = share / np.maximum(share.sum(-1, keepdims=True), 1e-300)
    index = (np.repeat(np.arange(len(y)), line.shape[1]), np.clip(line, 0, rows - 1).astype(int).ravel())
    strength = np.asarray(columns.amplitude, float) ** 2
    matrices = [sparse.csr_array((s.ravel(), index), shape=(len(y), rows)) for s in share]
    return [(matrix, strength) for matrix in matrices]


def _one_axis(
    fit: _AxisFit, weights, deviation, drift: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float, float]:
    """Posterior mean and error (rows,) of the shifts, their rms with its error, and correlation."""
    matrix, strength = weights
    fit, response, seen = _left_in_residual(fit, matrix, strength, drift)
    weight = np.where(seen, 1 / np.where(seen, fit.error, 1.0) ** 2, 0.0)
    rms, rms_error, correlation = _prior(fit, response, seen)
    if rms == 0:
        return np.zeros(len(weight)), np.full(len(weight), rms_error), 0.0, rms_error, 0.0
    precision = (response.T @ sparse.diags_array(weight) @ response).toarray()
    right = response.T @ (weight * fit.offset)
    if deviation is not None:
        value, variance = deviation
        precision += (matrix.T @ sparse.diags_array(1 / variance) @ matrix).toarray()
        right = right + matrix.T @ (value / variance)
    precision += _markov_precision(len(weight), rms, correlation)
    covariance = np.linalg.inv(precision)
    return covariance @ right, np.sqrt(np.diag(covariance)), rms, rms_error, correlation


def _left_in_residual(fit: _AxisFit, matrix, strength, drift: np.ndarray) -> tuple[_AxisFit, Any, np.ndarray]:
    """The fit without the drift, what of the lines' shifts the residual shows (rows, rows), and lines that tell."""
    by_line = matrix.T.multiply(strength).tocsr()  # (rows, n): which columns speak for a line
    total = np.maximum(np.asarray(by_line.sum(1)).ravel(), 1e-300)
    response = (sparse.eye_array(len(drift)) - sparse.diags_array(1 / total) @ by_line @ matrix).tocsr()
    known = response @ drift
    own = fit._replace(offset=fit.offset - known, halves=fit.halves - known)
    return own, response, np.isfinite(fit.error)


def _markov_precision(rows: int, rms: float, correlation: float) -> np.ndarray:
    """Inverse covariance of rms² correlation^|distance|."""
    middle = np.full(rows, 1 + correlation**2)
    middle[[0, -1]] = 1.0
    beside = np.full(rows - 1, -correlation)
    tridiagonal = np.diag(middle) + np.diag(beside, 1) + np.diag(beside, -1)
    return tridiagonal / (rms**2 * (1 - correlation**2))


def _prior(fit: _AxisFit, response, seen: np.ndarray) -> tuple[float, float, float]:
    """rms of the shifts, its error, and their correlation, from what the two halves of the lines share.

    Noise of the halves is independent, so the mean product of one half's offset with the other's, so many lines
    further on, is the covariance of the shifts alone, as it is left after the columns took up their part.
    """
    if seen.sum() < max(_SEGMENTS, len(seen) / 4):
        return 0.0, float("inf"), 0.0
    shared, segments = _shared(fit.halves, seen)
    noise = segments.std(0, ddof=1) / np.sqrt(len(segments)) + 1e-30
    tries = []
    for correlation in _CORRELATIONS:
        left = _left_over(response, correlation)
        if correlation > 0 and left[0] < _LEAST_VISIBLE:
            break
        square = max(float(left @ shared / (left @ left)), 0.0)
        each = segments @ left / (left @ left)
        tries.append(
            (float((((shared - square * left) / noise) ** 2).sum()), correlation, square, _error_of_mean(each))
        )
    enough = min(tries)[0] + 1.0  # no more correlation than the image asks for: much of it would be invisible
    _, correlation, square, scatter = next(found for found in tries if found[0] <= enough)
    if square <= scatter:  # nothing that could be told from zero
        return 0.0, float(np.sqrt(square + scatter)), 0.0
    return float(np.sqrt(square)), float(scatter / (2 * np.sqrt(square))), float(correlation)


def _error_of_mean(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _shared(halves: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lags,) mean product of the halves at every lag, outliers held down; and the same of segments of the scan."""
    both = np.where(seen, halves, np.nan)
    limit = 5 * _NORMAL * np.nanmedian(np.abs(both - np.nanmedian(both)))
    one, other = np.clip(both - np.nanmean(both), -limit, limit)
    rows = len(one)
    lags = range(min(_LAGS, rows // 4))
    products = np.full((len(lags), rows), np.nan)
    for lag in lags:
        ahead = slice(lag, None), slice(None, rows - lag)
        products[lag, : rows - lag] = 0.5 * (one[ahead[0]] * other[ahead[1]] + other[ahead[0]] * one[ahead[1]])
    pieces = np.array([_known_mean(part) for part in np.array_split(products, _SEGMENTS, 1)])
    return _known_mean(products), pieces


def _known_mean(values: np.ndarray) -> np.ndarray:
    """Mean along the last axis of what is no NaN, 0 where all is."""
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(-1) / np.maximum(known.sum(-1), 1)


def _left_over(response, correlation: float) -> np.ndarray:
    """(lags,) covariance of what the residual shows of shifts of unit rms and that correlation, mean over lines."""
    rows = response.shape[0]
    reach = int(min(rows - 1, np.ceil(np.log(1e-3) / np.log(correlation)))) if correlation > 0 else 0
    lags: Any = np.arange(-reach, reach + 1)
    bands = [np.full(rows - abs(lag), correlation ** abs(lag)) for lag in lags]
    seen = (response @ sparse.diags_array(bands, offsets=lags) @ response.T).tocsr()
    return np.array([seen.diagonal(lag).mean() for lag in range(min(_LAGS, rows // 4))])


def displacement_jitter(
    jitter: LineJitter | JitterStrength,
    b: tuple[Float[np.ndarray, " n"], float],
    a: tuple[Float[np.ndarray, "n k"], float],
    weight: Float[np.ndarray, " k"],
) -> Float[np.ndarray, "n 2"]:
    """Variance px² (x, y) that line jitter of that rms and correlation adds to B minus the weighted mean of its A.

    b, a: y positions (px) of the B columns and of their neighbours, and the rms radius (px) of each kind.
    Lines that cross both kinds move both, and cancel by so much.
    """
    half = int(np.ceil(_REACH * max(b[1], a[1]) + np.abs(a[0] - b[0][:, None]).max()))
    step = np.arange(-half, half + 1)
    line = np.round(b[0])[:, None] + step
    own = line_weights(b[0], np.full_like(b[0], b[1]), line)
    near = line_weights(a[0], np.full_like(a[0], a[1]), np.broadcast_to(line[:, None], (*a[0].shape, len(step))))
    net = own - np.einsum("k,cnkm->cnm", weight, near)
    rms, correlation = np.asarray(jitter.rms, float), np.asarray(jitter.correlation, float)
    distance = np.abs(step[:, None] - step)
    alike = np.where(distance == 0, 1.0, correlation[:, None, None] ** distance)
    return (rms[:, None] ** 2 * np.einsum("cnl,clm,cnm->cn", net, alike, net)).T
