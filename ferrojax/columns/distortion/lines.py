"""What values on a lattice share because they were recorded on the same scan lines."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_STEPS = ((1, 0), (0, 1), (1, 1), (1, -1))
_SAME = 0.05
"""Periods of the lattice between lines that count as the same: a third of a column's radius."""
APART = 2.5
"""Periods along the lines from which on two places have nothing but the lines in common."""
_FAR = (2.0, 3.0, 4.0, 5.0, 6.0)
"""Periods between lines that should have nothing in common: what their products show is chance or structure."""
_CLEAR, _MOSTLY = 3.0, 0.25
"""Standard errors from which on values share something; share of their variance that needs no comparison of lines."""
_CHANCE = 2.0
_INDEPENDENT = 0.5
"""Lines a period, as the scatter of that variance over images shows."""
_MOST = 4000
"""Values at most; more tell nothing new of the lines of one image."""
_OUTLIER = 4.0
_PARTS = (2, 3, 4)
"""Cells of a superstructure."""
_STANDS_OUT = 12.0
"""Times the waves beside it."""
_NORMAL = 1.4826
_BEND = 1.5
"""Variance of a value less the mean of two others, in units of its own."""


class Shared(NamedTuple):
    """variance (k,): what values of a line share, zero where it is within what chance, or lines far from each other,
    show. error (k,): that limit, infinite for too few. mean_product (k,): the same as it was measured."""

    variance: np.ndarray
    error: np.ndarray
    mean_product: np.ndarray


def on_grid(index: Int[np.ndarray, "n 2"], value: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "ny nx k"]:
    """Values at lattice indices (x, y) as a grid [y, x], NaN where there is none."""
    at = index - index.min(0)
    width, height = at.max(0) + 1
    grid = np.full((height, width, value.shape[1]), np.nan)
    grid[at[:, 1], at[:, 0]] = value
    return grid


def across_lines(lattice_px: Float[np.ndarray, "2 2"]) -> tuple[int, int]:
    """Step on the lattice (x, y) that crosses the scan lines most steeply."""
    steep = [abs(v[1]) / np.hypot(*v) for v in np.array(_STEPS) @ np.asarray(lattice_px, float)]
    return _STEPS[int(np.argmax(np.round(steep, 6)))]


def moved(field: Float[np.ndarray, "ny nx k"], step: tuple[int, int]) -> Float[np.ndarray, "ny nx k"]:
    """The field at lattice index + step (x, y), NaN beyond it."""
    (dx, dy), (ny, nx) = step, field.shape[:2]
    out = np.full_like(field, np.nan)
    if abs(dx) < nx and abs(dy) < ny:
        to = slice(max(-dy, 0), ny - max(dy, 0)), slice(max(-dx, 0), nx - max(dx, 0))
        of = slice(max(dy, 0), ny - max(-dy, 0)), slice(max(dx, 0), nx - max(-dx, 0))
        out[to] = field[of]
    return out


def without_superstructure(field: Float[np.ndarray, "ny nx k"]) -> Float[np.ndarray, "ny nx k"]:
    """A field on the lattice (NaN where unknown) without its mean and what repeats after two, three or four cells.

    Waves are taken out where they stand out from those beside them, which jitter makes as well, and are no nearer to
    another period, so that a hum of the scan, which has a period of its own, stays.
    """
    rest = np.full_like(field, np.nan)
    y, x = np.nonzero(np.isfinite(field).all(-1))
    place = np.stack([x, y], -1)
    if not len(place):
        return rest
    span = np.array([np.ptp(x), np.ptp(y)]) + 1.0
    for k in range(field.shape[-1]):
        value = field[y, x, k] - field[y, x, k].mean()
        waves = [np.ones(len(place))]
        for q in _waves():
            if _repeats(value, place, q, span):
                waves += [np.cos(2 * np.pi * place @ q), np.sin(2 * np.pi * place @ q)]
        design = np.stack(waves, -1)
        rest[y, x, k] = value - design @ np.linalg.lstsq(design, value, rcond=None)[0]
    return rest


def _waves() -> Iterator[np.ndarray]:
    """Waves (cycles a cell along x and y) that repeat after so many cells: one of each and its mirror image."""
    seen = {(0.0, 0.0)}
    for part in _PARTS:
        for a, b in itertools.product(range(part), repeat=2):
            if (a / part, b / part) not in seen:
                seen |= {(a / part, b / part), (-a % part / part, -b % part / part)}
                yield np.array([a, b]) / part


def _repeats(value: np.ndarray, place: np.ndarray, wave: np.ndarray, span: np.ndarray) -> bool:
    """Whether a wave (cycles a cell) stands out from those beside it, and no other is nearer to the peak."""

    def power(offset) -> float:
        phase = np.exp(-2j * np.pi * place @ (wave + np.asarray(offset) / span))
        return float(np.abs(phase @ value) ** 2)

    own = power((0, 0))
    beside = max(np.median([power(np.multiply(k, o)) for k in (-3, -2, 2, 3)]) for o in ((1, 0), (0, 1)))
    slopes = [abs(power(np.multiply(0.35, o)) - power(np.multiply(-0.35, o))) for o in ((1, 0), (0, 1))]
    return bool(own > _STANDS_OUT * beside and max(slopes) < 0.3 * own)


def shared_variance(
    field: Float[np.ndarray, "ny nx k"], place_px: Float[np.ndarray, "ny nx 2"], period: float, apart: float = APART
) -> Shared:
    """Variance that values of zero mean share with others of their scan line.

    field, place_px: values and where they are, px (x, y), NaN where unknown. period: px of the lattice. It is the mean
    product of two values on the same line, more than `apart` periods from each other: what is the value's own, or what
    a few neighbours share, does not enter.
    """
    known = np.isfinite(field).all(-1) & np.isfinite(place_px).all(-1)
    value, place = field[known], place_px[known]
    if len(value) > _MOST:
        some = np.random.default_rng(0).choice(len(value), _MOST, replace=False)
        value, place = value[some], place[some]
    none = np.zeros(field.shape[-1])
    if len(value) < 12:
        return Shared(none, none + np.inf, none)
    limit = _OUTLIER * _NORMAL * np.median(np.abs(value), 0)
    value = np.where(limit > 0, np.clip(value, -limit, limit), value)
    same, count = _mean_products(value, place, 0.0, (period, apart))
    if count < 12:
        return Shared(none, none + np.inf, none)
    total = (value**2).mean(0)
    error = total / np.sqrt(count)
    far = [
        product
        for product, many in (_mean_products(value, place, f, (period, apart)) for f in _FAR)
        if many > count / 4
    ]
    other = np.sqrt(np.mean(np.square(far), 0)) if far else none
    clear = (same > _CLEAR * error) & ((same > _CLEAR * other) | (same > _MOSTLY * total))
    return Shared(np.where(clear, same, 0.0), np.maximum(error, other), same)


def _mean_products(
    value: np.ndarray, place: np.ndarray, lines: float, units: tuple[float, float]
) -> tuple[np.ndarray, int]:
    """Mean product (k,) of values that are so many periods apart across the lines, and number of pairs.

    units: px of a period, and how many periods apart along the lines at least.
    """
    period, apart = units
    line = place[:, 1] / period
    order = np.argsort(line)
    first, end = (np.searchsorted(line[order], line + lines + side) for side in (-_SAME, _SAME))
    count = end - first
    one = np.repeat(np.arange(len(line)), count)
    other = order[np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)]
    kept = np.abs(place[one, 0] - place[other, 0]) > apart * period
    one, other = one[kept], other[kept]
    many = len(one) if lines else len(one) // 2  # on the same line every pair comes twice
    return (value[one] * value[other]).sum(0) / max(len(one), 1), many


def independent_lines(line: Float[np.ndarray, " n"], lattice_px: Float[np.ndarray, "2 2"]) -> float:
    """Number of independent values that the lines (px) of columns or cells can have, to judge a variance by."""
    period = float(np.sqrt(abs(np.linalg.det(np.asarray(lattice_px, float)))))
    return max(_INDEPENDENT * float(np.ptp(line)) / period, 2.0)


def beyond(
    found: Float[np.ndarray, "*n 2"], known: Float[np.ndarray, "*n 2"], lines: float
) -> Float[np.ndarray, "*n 2"]:
    """Variance that values of so many independent lines share beyond what is known; zero where that may be chance."""
    clear = found > known * (1 + _CHANCE * np.sqrt(2 / lines))
    return np.where(clear, np.maximum(found * (1 + 1 / lines) - known, 0.0), 0.0)  # a variance of few is too small


def line_scatter(
    position: Float[np.ndarray, "n 2"],
    position_px: Float[np.ndarray, "n 2"],
    index: Int[np.ndarray, "n 2"],
    kind: Int[np.ndarray, " n"],
    lattice_px: Float[np.ndarray, "2 2"],
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """Variance (2,) along x and y that columns share with others of their scan line, and that of the anchor's own.

    position: Å or any unit, and px (x, y). kind: (n,) column of the motif, −1 for the anchor. Every column is taken
    against its neighbours on other lines, so that strain and slow drift cancel; what repeats in the crystal, such as a
    superstructure, and what is a column's own, such as disorder, is no part of what the lines share. What an anchor
    column has of its own is its noise and the crystal's disorder together.
    """
    period = float(np.sqrt(abs(np.linalg.det(lattice_px))))
    step = across_lines(lattice_px)
    share, weight, own = np.zeros(2), np.zeros(2), np.zeros(2)
    for k in np.unique(kind):
        chosen = kind == k
        grid = on_grid(index[chosen], np.concatenate([position, position_px], 1)[chosen])
        bend = grid - (moved(grid, step) + moved(grid, (-step[0], -step[1]))) / 2
        bend = without_superstructure(bend[..., :2])
        found = shared_variance(bend, grid[..., 2:], period)
        if np.isfinite(found.error).all():
            certain = 1 / np.maximum(found.error, 1e-30) ** 2
            share, weight = share + certain * found.variance, weight + certain
        if k < 0:
            total = (_NORMAL * np.nanmedian(np.abs(bend), (0, 1))) ** 2 if np.isfinite(bend).any() else np.zeros(2)
            own = np.maximum(total - np.maximum(found.mean_product, 0.0), 0.0) / _BEND
    return share / np.maximum(weight, 1e-300) / _BEND, own
