"""Jumps of the scan: lines from which on everything is displaced, told from the lattice."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

_BONDS = ((1, 0), (0, 1), (1, 1), (1, -1))
_STEEP = 0.5
"""Of the longest vertical extent of these bonds: flatter ones span too few lines."""
_LEAST = 0.06
"""Of the vertical period. Real walls offset the lattice by less."""
_CLEAR = 6.0
"""Robust standard deviations of what lines show otherwise."""
_SPANNING = 5
"""Bonds at least that tell of a line."""
_AROUND, _LINES = 4, 6
"""Periods of lines that the lattice here is told from, more than twice as many as a jump is seen in; that there are."""
_SHARED = 0.5
"""Of a jump: what other columns may do differently there. It moves everything."""
_ORDERS = tuple((m, n) for m in range(1, 7) for n in range(1, 7) if m * n > 1 and (m == n or min(m, n) <= 2))
"""Cells (along each axis) after which an order of the crystal may repeat."""
_OFTEN = 0.1
"""Of the bonds at least that an order puts off their kind."""
_BETTER = 0.9
"""Of what one order leaves, where a longer one is believed instead."""
_NO_BONDS = np.zeros(0), np.zeros(0), np.zeros((0, 2)), 1.0
_REPEATS = 3
"""Times that it has to be seen, so that a median over them knows nothing of a single jump."""
_PERIODIC = 0.5
"""Of what bonds are off their kind at most, where an order explains it; two jumps alike by chance leave more."""


def scan_jumps(
    position: Float[np.ndarray, "n 2"],
    index: Int[np.ndarray, "n 2"],
    column: Int[np.ndarray, " n"],
    leading: int,
    rows: int,
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k 2"]]:
    """Lines (k,) of an image with `rows` lines at which the scan jumps, and by how much: (k, 2) px (x, y).

    position: px (x, y) of columns of the kinds `column` that are at the lattice indices `index`. Jumps are sought in
    the kind `leading`; what the others do not share, or what repeats with the crystal, is no jump. A single fault of
    the crystal that runs along the scan lines looks the same. Jumps below 0.06 of the vertical period, and those within
    two periods of the first and last columns, are not found.
    """
    kinds = {k: _bonds(position[column == k], index[column == k]) for k in np.unique(column)}
    low, high, change, period = kinds.pop(leading, _NO_BONDS)
    none = np.zeros(0), np.zeros((0, 2))
    if not len(low) or not rows > _LINES * period:
        return none
    shown = _by_line(low, high, change, rows)
    known = np.isfinite(shown).all(1)
    if known.sum() < _LINES * period:
        return none
    at = np.nonzero(known)[0]
    line = shown[at[0] : at[-1] + 1]
    line = np.stack([np.interp(np.arange(len(line)), at - at[0], shown[at, k]) for k in (0, 1)], 1)
    apart = line - ndimage.median_filter(line, (int(_AROUND * period), 1), mode="nearest")
    sd = 1.4826 * np.median(np.abs(apart), 0) + 1e-9
    far = (np.abs(apart) > np.maximum(_CLEAR * sd, _LEAST * period)).any(1)
    ends = np.flatnonzero(np.diff(np.concatenate([[False], far, [False]]).astype(int))).reshape(-1, 2)
    runs = [np.arange(*pair) for pair in ends if 0.5 * period < pair[1] - pair[0] < 2 * period]
    if not runs:
        return none
    jump = np.array([np.median(apart[run], 0) for run in runs])
    slow = line - apart
    if kinds:
        spans, ends, changes = (np.concatenate([kind[k] for kind in kinds.values()]) for k in (0, 1, 2))
        other = _by_line(spans, ends, changes, rows)
        other = other[at[0] : at[-1] + 1] - slow
        shared = np.flatnonzero([_agrees(other[run], by) for run, by in zip(runs, jump, strict=True)])
        runs, jump = [runs[k] for k in shared], jump[shared]
    place = []
    for run, by in zip(runs, jump, strict=True):
        margin = int(0.5 * period)
        lines = np.arange(max(run[0] - margin, 0), min(run[-1] + margin, len(line) - 1) + 1)
        place.append(at[0] + _place(lines, by, (low - at[0], high - at[0], change), slow))
    return np.array(place), jump


def _agrees(seen: np.ndarray, jump: np.ndarray) -> bool:
    """Whether columns whose bonds are `seen` (n, 2) off their kind at the lines of a jump make it as well."""
    seen = seen[np.isfinite(seen).all(1)]
    return not len(seen) or float(np.linalg.norm(np.median(seen, 0) - jump)) < _SHARED * float(np.linalg.norm(jump))


def _place(lines: np.ndarray, jump: np.ndarray, bonds: tuple[np.ndarray, ...], slow: np.ndarray) -> float:
    """Of these lines the one that parts the bonds that jump from those that do not."""
    low, high, change = bonds
    near = (high > lines[0]) & (low < lines[-1])
    middle = np.clip((low + high)[near] / 2, 0, len(slow) - 1).astype(int)
    left = change[near] - slow[middle]
    across = (low[near] < lines[:, None]) & (high[near] >= lines[:, None])
    whole, rest = (np.linalg.norm(left - by, axis=1) for by in (0.0, jump))
    cost = np.where(across, rest, whole).sum(1)
    return float(np.mean(lines[cost <= cost.min() + 1e-6 * whole.sum()]))


def without_jumps(
    position: Float[np.ndarray, "n 2"], line: Float[np.ndarray, " k"], jump: Float[np.ndarray, "k 2"]
) -> Float[np.ndarray, "n 2"]:
    """Positions (px) as a scan without these jumps would have them."""
    return position - (position[:, 1, None] > line) @ jump


def beside_jumps(
    position: Float[np.ndarray, "n 2"], line: Float[np.ndarray, " k"], reach: float
) -> Bool[np.ndarray, " n"]:
    """(n,) positions within `reach` px of a jump."""
    return np.asarray((np.abs(position[:, 1, None] - line) < reach).any(1))


def _bonds(position: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """First and last line of every bond between neighbours, how far (n, 2) px it is off its kind, and the largest
    vertical extent of a kind."""
    row = {(int(i), int(j)): k for k, (i, j) in enumerate(index)}
    kinds = []
    for a, b in _BONDS:
        pair = [(k, row.get((i + a, j + b))) for (i, j), k in row.items()]
        pair = np.array([p for p in pair if p[1] is not None], int).reshape(-1, 2)
        if len(pair) >= _SPANNING:
            one, other = position[pair[:, 0]], position[pair[:, 1]]
            bond = other - one
            down = np.sign(np.median(bond[:, 1])) or 1.0
            kinds.append((np.minimum(one[:, 1], other[:, 1]), down * bond, index[pair[:, 0]]))
    if not kinds:
        return _NO_BONDS
    extent = [float(np.median(bond[:, 1])) for _, bond, _ in kinds]
    steep = [kind for kind, e in zip(kinds, extent, strict=True) if e > _STEEP * max(extent)]
    low = np.concatenate([first for first, _, _ in steep])
    high = np.concatenate([first + np.abs(bond[:, 1]) for first, bond, _ in steep])
    return low, high, np.concatenate([_off_kind(bond, at, max(extent)) for _, bond, at in steep]), max(extent)


def _off_kind(bond: np.ndarray, at: np.ndarray, extent: float) -> np.ndarray:
    """(n, 2) how far bonds that begin at the lattice indices `at` (n, 2) are off the median of all, or of those at
    equal places of the order that explains them best."""
    plain = bond - np.median(bond, 0)
    if (np.abs(plain).max(1) > 0.5 * _LEAST * extent).mean() < _OFTEN:
        return plain
    left, least = plain, _PERIODIC * float(np.abs(plain).sum())
    many = np.ptp(at, axis=0) + 1
    for order in _ORDERS:
        if (many < np.where(np.array(order) > 1, _REPEATS * np.array(order), 1)).any():
            continue
        place = np.ravel_multi_index(tuple((at % order).T), order)
        _, place = np.unique(place, return_inverse=True)
        labels = np.arange(place.max() + 1)
        if np.bincount(place).min() < _REPEATS:
            continue
        typical = np.stack([ndimage.median(bond[:, k], place, labels) for k in (0, 1)], 1)
        rest = bond - typical[place]
        if float(np.abs(rest).sum()) < least:
            left, least = rest, float(np.abs(rest).sum()) * _BETTER
    return left


def _by_line(low: np.ndarray, high: np.ndarray, change: np.ndarray, rows: int) -> np.ndarray:
    """(rows, 2) median of what the bonds that span a line are off their kind; NaN where too few do."""
    first = np.clip(np.ceil(low), 0, rows).astype(int)
    count = np.maximum(np.clip(np.ceil(high), 0, rows).astype(int) - first, 0)
    bond = np.repeat(np.arange(len(low)), count)
    line = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[bond]
    labels = np.arange(rows)
    shown = np.stack([ndimage.median(change[bond, k], line, labels) for k in (0, 1)], 1)
    shown[np.bincount(line, minlength=rows)[:rows] < _SPANNING] = np.nan
    return shown
