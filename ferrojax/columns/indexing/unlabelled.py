"""The lattice of an image of an unknown crystal, and its faint columns: where the mean cell has one, all cells may."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import fft, ndimage
from scipy.spatial import KDTree

from ferrojax.columns.indexing.index import Candidates, Cells, filled, grow_cells, nearest, surround, within
from ferrojax.columns.indexing.pixels import find_peaks
from ferrojax.columns.indexing.place import inside, pick

_CROP = 1024
"""px a side that the lattice is measured on."""
_ALIKE, _LEAST_ALIKE = 0.93, 0.15
"""Autocorrelation at a lattice vector: of the best one, and of that at zero."""
_TOLERANCE = 0.25  # of the shortest lattice vector
_LEAST, _REGIONS = 12, 6  # cells of a region, regions
_GRID = 32
"""Points a side of the mean cell."""
_CELLS = 2000
"""Cells that make up the mean one."""
_FAINTEST, _CLEAR = 0.03, 5.0
"""How much a column of the mean cell stands out of its surroundings: of the strongest, and in standard errors."""
_RING, _APART = 0.12, 0.2
"""Of the shortest lattice vector: radius of those surroundings, least distance of two columns."""
_BEYOND = 5.0
"""Of the reach: how far outside the image a column still shows on it."""
_REACH = 0.3
"""Of the distance to the next column: how far off its place a maximum may be."""


class Sites(NamedTuple):
    """Columns (n,) that lie on a lattice: number of their site in the mean cell, position (n, 2) px."""

    site: np.ndarray
    position: np.ndarray


def lattice_sites(
    flat: Float[np.ndarray, "rows cols"], trusted: np.ndarray, bright: Float[np.ndarray, "n 2"]
) -> Sites | None:
    """Every site of the lattice that the bright columns are on, seen or faint, and those beyond the image's edge whose
    tails reach in; None where the bright columns are on no lattice.

    flat: background-free, columns bright. bright: px (x, y), its clear maxima.
    """
    lattice = _lattice(flat, trusted, bright)
    if lattice is None:
        return None
    regions = _regions(flat, bright, lattice)
    if not regions:
        return None
    cells = Cells(*(np.concatenate(parts) for parts in zip(*regions, strict=True)))
    motif = _motif(flat, trusted, cells)
    shortest = float(np.linalg.norm(lattice, axis=1).min())
    peaks, _ = find_peaks(flat, max(0.5 * _APART * shortest, 1.0), -np.inf)
    gap = _REACH * _nearest_site(motif, lattice)
    known, seen = _placed(cells, motif, peaks, gap)
    rims = [_placed(surround(region, 2), motif, peaks, gap) for region in regions]
    both = Sites(*(np.concatenate(parts) for parts in zip(known, *(rim for rim, _ in rims), strict=True)))
    shown = np.concatenate([np.ones(len(seen), bool), *(at_peak for _, at_peak in rims)])
    on, size = inside(both.position, flat.shape), np.array(flat.shape[::-1]) - 1
    near = ((both.position > -_BEYOND * gap) & (both.position < size + _BEYOND * gap)).all(1)
    kept = np.where(on, shown & pick(trusted, both.position, False), near)
    return _single(Sites(both.site[kept], both.position[kept]), gap)


def _lattice(flat: np.ndarray, trusted: np.ndarray, bright: np.ndarray) -> np.ndarray | None:
    """Rows are the two shortest vectors (px) that carry the image onto itself."""
    rows, cols = (slice(max(0, n // 2 - _CROP // 2), n // 2 + _CROP // 2) for n in flat.shape)
    part, cover = flat[rows, cols] * trusted[rows, cols], trusted[rows, cols].astype(np.float32)
    size = [fft.next_fast_len(2 * n, real=True) for n in part.shape]
    raw, norm = (
        np.fft.fftshift(np.asarray(fft.irfft2(np.abs(np.asarray(fft.rfft2(v, size))) ** 2, size)))
        for v in (part, cover)
    )
    middle = np.array(size)[::-1] // 2
    alike = np.where(norm > 0.2 * norm.max(), raw / np.maximum(norm, 1.0), 0.0)
    alike = alike / max(float(alike[middle[1], middle[0]]), 1e-30)
    gap = float(np.median(nearest(bright, bright, 2)[0][:, 1]))
    at, height = find_peaks(alike, max(0.3 * gap, 1.0), _LEAST_ALIKE)
    step = at - middle
    length = np.linalg.norm(step, axis=1)
    far = length > 0.5 * gap
    if not far.any():
        return None
    good = far & (height > _ALIKE * height[far].max()) & ((step[:, 1] > 0.5) | ((step[:, 1] > -0.5) & (step[:, 0] > 0)))
    step, length = step[good], length[good]
    order = np.argsort(length)
    first = step[order[0]] if len(order) else np.zeros(2)
    for k in order[1:]:
        area = float(first[0] * step[k][1] - first[1] * step[k][0])
        if abs(area) > 0.3 * length[order[0]] * length[k]:
            return np.array([first, step[k]]) if area > 0 else np.array([step[k], first])
    return None


def _regions(flat: np.ndarray, bright: np.ndarray, lattice: np.ndarray) -> list[Cells]:
    """Cells that grow along the lattice from its brightest columns, region by region."""
    tolerance = _TOLERANCE * float(np.linalg.norm(lattice, axis=1).min())
    height = pick(flat, bright, 0.0)
    steps = np.concatenate([lattice, -lattice])
    miss, near = nearest(bright, (bright[:, None] + steps).reshape(-1, 2), within=tolerance)
    seen = np.isfinite(miss).reshape(-1, 4)
    beside = np.where(seen, height[np.where(np.isfinite(miss), near, 0)].reshape(-1, 4), 0.0).sum(1)
    worth = np.where(seen.all(1), beside / 4 + height, 0.0)
    free, regions = np.ones(len(bright), bool), []
    for _ in range(_REGIONS):
        start = int(np.argmax(np.where(free, worth, -1.0)))
        if not free[start] or worth[start] <= 0:
            break
        cells = grow_cells(Candidates(bright, height), start, lattice, tolerance, free)
        free[cells.candidate] = False
        if len(cells.index) >= _LEAST:
            regions.append(filled(cells))
            free &= ~within(regions[-1], bright)
    return regions


def _motif(flat: np.ndarray, trusted: np.ndarray, cells: Cells) -> np.ndarray:
    """(k, 2) fractions of a cell where its mean has columns, the one that cells are counted by first."""
    few = cells.chosen(np.linspace(0, len(cells.index) - 1, min(len(cells.index), _CELLS)).astype(int))
    step = np.arange(_GRID) / _GRID
    place = np.stack(np.meshgrid(step, step, indexing="ij"), -1).reshape(-1, 2)
    at = few.position[:, None] + np.einsum("ki,nij->nkj", place, few.lattice)
    where = at.reshape(-1, 2).T[::-1]
    value = ndimage.map_coordinates(flat, where, order=1, mode="constant", cval=np.nan).reshape(len(few.index), -1)
    covered = ndimage.map_coordinates(trusted.astype(np.float32), where, order=1, mode="constant") > 0.99
    value = np.where(covered.reshape(value.shape), value, np.nan)
    count = np.maximum(np.isfinite(value).sum(0), 1)
    filled_in = np.where(np.isfinite(value), value, 0.0)
    mean = filled_in.sum(0) / count
    error = np.sqrt(np.maximum((filled_in**2).sum(0) / count - mean**2, 0.0) / count)
    mean, error = mean.reshape(_GRID, _GRID), error.reshape(_GRID, _GRID)
    lattice = np.median(few.lattice, 0)
    ring = _ring(lattice)
    top = mean == ndimage.maximum_filter(mean, 5, mode="wrap")
    rows, cols = np.nonzero(top)
    around = mean[(rows[:, None] + ring[:, 0]) % _GRID, (cols[:, None] + ring[:, 1]) % _GRID].mean(1)
    rise = mean[rows, cols] - around
    clear = (rise > _FAINTEST * rise.max()) & (rise > _CLEAR * error[rows, cols])
    found = np.stack([rows, cols], 1)[clear] / _GRID
    found = found[np.argsort(-rise[clear], kind="stable")]
    kept = [np.zeros(2)]
    least = _APART * float(np.linalg.norm(lattice, axis=1).min())
    for fraction in found:
        gaps = fraction - np.array(kept)
        if np.linalg.norm((gaps - np.round(gaps)) @ lattice, axis=1).min() > least:
            kept.append(fraction)
    return np.array(kept)


def _ring(lattice: np.ndarray) -> np.ndarray:
    """(16, 2) steps on the mean cell's grid, a circle in the image."""
    angle = 2 * np.pi * np.arange(16) / 16
    radius = _RING * float(np.linalg.norm(lattice, axis=1).min())
    fraction = radius * np.stack([np.cos(angle), np.sin(angle)], 1) @ np.linalg.inv(lattice)
    return np.round(fraction * _GRID).astype(int)


def _nearest_site(motif: np.ndarray, lattice: np.ndarray) -> float:
    """px, the nearest distance between two columns of the mean crystal."""
    around = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    gap = np.linalg.norm((motif[:, None, None] - motif[None, :, None] - around) @ lattice, axis=-1)
    return float(gap[gap > 1e-6].min())


def _placed(cells: Cells, motif: np.ndarray, peaks: np.ndarray, reach: float) -> tuple[Sites, np.ndarray]:
    """The sites of cells, on the maximum next to each, and which of them (n,) have one."""
    position = (cells.position[:, None] + np.einsum("ki,nij->nkj", motif, cells.lattice)).reshape(-1, 2)
    miss, near = nearest(peaks, position, within=reach)
    at_peak = np.isfinite(miss)
    position = np.where(at_peak[:, None], peaks[np.where(at_peak, near, 0)], position)
    return Sites(np.tile(np.arange(len(motif)), len(cells.index)), position), at_peak


def _single(sites: Sites, reach: float) -> Sites:
    """Each place once, the first to claim it."""
    pairs = KDTree(sites.position).query_pairs(reach, output_type="ndarray")
    keep = np.ones(len(sites.site), bool)
    keep[pairs[:, 1]] = False
    return Sites(sites.site[keep], sites.position[keep])
