"""Give every column its place on the lattice, growing from the most reliable cell to its neighbours."""

import heapq

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.feature import peak_local_max

from ferrojax.crystal.zone import Motif

_STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1))
_BLUR = 0.3  # Å


def flatten(data: Float[np.ndarray, "rows cols"], px_per_angstrom: float, period: float) -> np.ndarray:
    """Smooth over a fraction of a column and take away the slow background; period in Å."""
    blur = max(_BLUR * px_per_angstrom, 0.6)
    slow = max(0.7 * period * px_per_angstrom, 3 * blur)
    return ndimage.gaussian_filter(data, blur) - ndimage.gaussian_filter(data, slow)


def find_peaks(flat: Float[np.ndarray, "rows cols"], distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Local maxima (n, 2) px (x, y) at sub-pixel positions, and their heights (n,).

    distance: px, the least between two of them.
    """
    peaks = peak_local_max(flat, min_distance=max(int(distance), 1), exclude_border=False, threshold_abs=0.0)
    inside = (peaks > 0).all(1) & (peaks < np.array(flat.shape) - 1).all(1)
    peaks = peaks[inside]
    r, c = peaks.T
    height = flat[r, c]

    def vertex(before, after):
        bend = before - 2 * height + after
        return np.clip(0.5 * (before - after) / np.where(bend < 0, bend, -np.inf), -0.5, 0.5)

    dx = vertex(flat[r, c - 1], flat[r, c + 1])
    dy = vertex(flat[r - 1, c], flat[r + 1, c])
    return np.stack([c + dx, r + dy], 1), height


def grow_lattice(
    peaks: Float[np.ndarray, "n 2"],
    start: Float[np.ndarray, "2"],
    lattice: Float[np.ndarray, "2 2"],
    tolerance: float,
) -> dict[tuple[int, int], np.ndarray]:
    """Index peaks on the lattice (rows in px) from `start`, which gets (0, 0).

    A peak is accepted where a neighbour that is already known expects it, within `tolerance` (px); the best
    agreement goes first, and steps follow the local lattice, so slow distortion is followed.
    """
    tree = KDTree(peaks)
    known: dict[tuple[int, int], np.ndarray] = {}
    taken: set[int] = set()
    miss, seed = tree.query(start)
    heap: list[tuple[float, tuple[int, int], int]] = [(float(miss), (0, 0), int(seed))]
    while heap:
        _, cell, peak = heapq.heappop(heap)
        if cell in known or peak in taken:
            continue
        known[cell] = peaks[peak]
        taken.add(peak)
        for step in _STEPS:
            target = (cell[0] + step[0], cell[1] + step[1])
            if target in known:
                continue
            expected = peaks[peak] + _local_step(known, cell, step, lattice)
            miss, near = tree.query(expected)
            if miss < tolerance:
                heapq.heappush(heap, (float(miss), target, int(near)))
    return known


def _local_step(known: dict, cell: tuple[int, int], step: tuple[int, int], lattice: np.ndarray) -> np.ndarray:
    """The lattice vector along `step`, half from known neighbours, half from the global lattice."""
    ideal = np.array(step) @ lattice
    seen = []
    for dx, dy in ((0, 0), *_STEPS):
        a = (cell[0] + dx - step[0], cell[1] + dy - step[1])
        b = (cell[0] + dx, cell[1] + dy)
        if a in known and b in known:
            seen.append(known[b] - known[a])
    return 0.5 * (ideal + np.mean(seen, 0)) if seen else ideal


def fit_lattice(
    index: Int[np.ndarray, "n 2"], position: Float[np.ndarray, "n 2"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin (2,), lattice rows (2, 2) and residual (n, 2), least squares without the worst outliers."""
    design = np.column_stack([np.ones(len(index)), index])
    keep = np.ones(len(index), bool)
    solution = np.zeros((3, 2))
    for _ in range(3):
        solution = np.linalg.lstsq(design[keep], position[keep], rcond=None)[0]
        distance = np.linalg.norm(position - design @ solution, axis=1)
        keep = distance <= max(4 * float(np.median(distance)), 1e-9)
    return solution[0], solution[1:], position - design @ solution


def site_seeds(
    known: dict[tuple[int, int], np.ndarray],
    motif: Motif,
    site: int,
    lattice: Float[np.ndarray, "2 2"],
    outer: Float[np.ndarray, "2 2"],
) -> tuple[np.ndarray, np.ndarray]:
    """Where a column of the motif is expected, from the known A columns round it: two or more, one for A itself.

    outer: lowest and highest (x, y) px to return. Returns lattice index (n, 2) and position (n, 2) px.
    """
    a_site = motif.label.index("A")
    gap = motif.position[site] - motif.position[a_site]
    reach = np.array([(i, j) for i in range(-1, 3) for j in range(-1, 3)])
    distance = np.linalg.norm((reach - gap) @ motif.lattice, axis=1)
    around = reach[distance < 1.05 * np.sort(distance)[min(3, len(distance) - 1)]]
    expected: dict[tuple[int, int], list[np.ndarray]] = {}
    for (i, j), position in known.items():
        for di, dj in around:
            expected.setdefault((i - int(di), j - int(dj)), []).append(position + (gap - (di, dj)) @ lattice)
    needed = 1 if site == a_site else 2
    cells = [c for c, seen in expected.items() if len(seen) >= needed]
    if not cells:
        return np.zeros((0, 2), int), np.zeros((0, 2))
    position = np.array([np.mean(expected[c], 0) for c in cells])
    inside = ((position >= outer[0]) & (position <= outer[1])).all(1)
    return np.array(cells)[inside], position[inside]
