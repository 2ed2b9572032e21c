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


def scan_jumps(
    position: Float[np.ndarray, "n 2"], index: Int[np.ndarray, "n 2"], rows: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k 2"]]:
    """Lines (k,) of an image with `rows` lines at which the scan jumps, and by how much: (k, 2) px (x, y).

    position: px (x, y) of columns of one kind that are at the lattice indices `index`. A fault of the crystal that runs
    along the scan lines looks the same. Jumps below 0.06 of the vertical period, and those within two periods of the
    first and last columns, are not found.
    """
    low, high, change, period = _bonds(position, index)
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
    place = []
    for run, by in zip(runs, jump, strict=True):
        margin = int(0.5 * period)
        lines = np.arange(max(run[0] - margin, 0), min(run[-1] + margin, len(line) - 1) + 1)
        place.append(at[0] + _place(lines, by, (low - at[0], high - at[0], change), slow))
    return np.array(place), jump


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
            kinds.append((np.minimum(one[:, 1], other[:, 1]), down * bond))
    if not kinds:
        return np.zeros(0), np.zeros(0), np.zeros((0, 2)), 1.0
    extent = [float(np.median(bond[:, 1])) for _, bond in kinds]
    steep = [kind for kind, e in zip(kinds, extent, strict=True) if e > _STEEP * max(extent)]
    low = np.concatenate([first for first, _ in steep])
    high = np.concatenate([first + np.abs(bond[:, 1]) for first, bond in steep])
    return low, high, np.concatenate([bond - np.median(bond, 0) for _, bond in steep]), max(extent)


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
