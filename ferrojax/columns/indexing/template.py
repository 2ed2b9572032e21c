"""How a drawn cell of the motif agrees with an image: all cells of a tile folded, or cell by cell."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import fft

from ferrojax.crystal.zone import Motif

MODES = {"HAADF": (1, (1.0, 0.6)), "iDPC": (1, (0.6, 0.4)), "ABF": (-1, (0.4, 0.6))}
"""Sign of a column's contrast, and the powers of its HAADF strength (Z^1.7) that brightness may follow: iDPC is
nearly linear in Z, ABF depends on it less still, and thickness flattens all of them."""
_WIDTHS = (0.35, 0.5, 0.7)  # Å, rms radius of a column
_GRID = 24
_BETWEEN = ((0.5, 0.5), (0.5, 0.3), (0.3, 0.5), (0.4, -0.4), (0.5, -0.3))
"""Indices between reflections."""


class Fold(NamedTuple):
    """Likeness (−1 to 1) of a folded tile to the motif, and where its origin lies: `origin` (2,) px of the tile.

    error: standard error of the likeness that the tile's noise makes. second: the best likeness of any other origin,
    1 Å or more away.
    """

    likeness: float
    origin: np.ndarray
    error: float
    second: float


def fold_likeness(
    tile: Float[np.ndarray, "rows cols"], motif: Motif, frame: Float[np.ndarray, "2 2"], power: float
) -> tuple[Fold, Fold]:
    """A tile's Fourier coefficients on the lattice against the motif's: best likeness as it is, and inverted.

    frame: px per Å. power: of the motif's strength. All cells of the tile count, so noise averages out.
    """
    seen, h, frequency = _on_lattice(tile, motif, frame)
    g = h @ np.linalg.inv(motif.lattice).T
    middle = _middle(tile)
    noise = _between(tile, motif, frame, frequency)
    factor = motif.strength**power * np.exp(-2j * np.pi * h @ motif.position.T)
    shift = np.stack(np.meshgrid(*[np.arange(_GRID) / _GRID] * 2, indexing="ij"), -1).reshape(-1, 2)
    wave = np.exp(2j * np.pi * h @ shift.T)
    total = np.sqrt((np.abs(seen) ** 2).sum())
    best: list[Fold | None] = [None, None]
    for width in _WIDTHS:
        drawn = factor.sum(1) * np.exp(-2 * (np.pi * width) ** 2 * (g**2).sum(1))
        size = np.sqrt((np.abs(drawn) ** 2).sum())
        match = ((seen * np.conj(drawn)) @ wave).real / (size * total + 1e-30)
        for k, sign in enumerate((1, -1)):
            at = int(np.argmax(sign * match))
            known = best[k]
            if known is None or sign * match[at] > known.likeness:
                origin = middle + frame @ (shift[at] @ motif.lattice)
                gap = shift - shift[at]
                other = np.linalg.norm((gap - np.round(gap)) @ motif.lattice, axis=1) > 1.0
                second = float((sign * match)[other].max()) if other.any() else -1.0
                best[k] = Fold(float(sign * match[at]), origin, float(noise / (total + 1e-30)), second)
    bright, dark = best
    assert bright is not None
    assert dark is not None
    return bright, dark


def gradient_likeness(
    tile: Float[np.ndarray, "rows cols"], motif: Motif, frame: Float[np.ndarray, "2 2"], power: float
) -> float:
    """Best likeness (0 to 1) of a folded tile to the motif's slope along any direction: every column has a bright and
    a dark side, as in one component of a differential phase contrast or of the centre of mass."""
    seen, h, frequency = _on_lattice(tile, motif, frame)
    g = h @ np.linalg.inv(motif.lattice).T
    shift = np.stack(np.meshgrid(*[np.arange(_GRID) / _GRID] * 2, indexing="ij"), -1).reshape(-1, 2)
    wave = np.exp(2j * np.pi * h @ shift.T)
    factor = (motif.strength**power * np.exp(-2j * np.pi * h @ motif.position.T)).sum(1)
    total = np.sqrt((np.abs(seen) ** 2).sum()) + 1e-30
    best = 0.0
    for width in _WIDTHS:
        drawn = factor * np.exp(-2 * (np.pi * width) ** 2 * (g**2).sum(1))
        slopes = 1j * frequency.T * drawn  # along x and y of the tile
        size = (slopes @ np.conj(slopes).T).real
        match = ((seen * np.conj(slopes)) @ wave).real
        # of all directions u, the one that makes (u·match) / sqrt(u·size·u) largest
        square = np.einsum("in,ij,jn->n", match, np.linalg.pinv(size, rcond=1e-6), match)
        best = max(best, float(np.sqrt(square.max())) / total)
    return best


def _on_lattice(tile: np.ndarray, motif: Motif, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A tile's Fourier coefficients (n,) at the motif's reflections (n, 2), and their frequencies (n, 2)."""
    h = _half_plane(motif, 0.8)
    frequency = h @ np.linalg.inv(motif.lattice).T @ np.linalg.inv(frame)
    fine = np.abs(frequency).max(1) < 0.45
    h, frequency = h[fine], frequency[fine]
    return coefficients(_windowed(tile), frequency, _middle(tile)), h, frequency


def _between(tile: np.ndarray, motif: Motif, frame: np.ndarray, frequency: np.ndarray) -> float:
    """Noise of such coefficients: between the reflections, where neither the lattice nor a doubled or tripled cell of
    it has anything, or only in one of the places that are tried."""
    places = np.array(_BETWEEN) @ np.linalg.inv(motif.lattice).T @ np.linalg.inv(frame)
    power = [np.abs(coefficients(_windowed(tile), frequency + off, _middle(tile))) ** 2 for off in places]
    return float(np.sqrt(np.median(np.mean(power, axis=1))))


def _windowed(tile: np.ndarray) -> np.ndarray:
    return tile * np.hanning(tile.shape[0])[:, None] * np.hanning(tile.shape[1])[None]


def _middle(tile: np.ndarray) -> np.ndarray:
    return 0.5 * np.array(tile.shape[::-1]) - 0.5


def coefficients(tile: np.ndarray, frequency: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """(n,) Fourier coefficients at frequencies (n, 2) cycles per px, phase 0 in the middle."""
    rows, cols = tile.shape
    x = np.exp(-2j * np.pi * frequency[:, :1] * (np.arange(cols) - middle[0]))
    y = np.exp(-2j * np.pi * frequency[:, 1:] * (np.arange(rows) - middle[1]))
    return ((y @ tile) * x).sum(1)


def _half_plane(motif: Motif, finest: float) -> np.ndarray:
    """(n, 2) reflections of spacing above `finest` Å, one of each ± pair."""
    reach = np.ceil(np.linalg.norm(motif.lattice, axis=1) / finest).astype(int)
    h = np.array(list(itertools.product(range(-reach[0], reach[0] + 1), range(reach[1] + 1))))
    h = h[(h[:, 1] > 0) | (h[:, 0] > 0)]
    return h[np.linalg.norm(h @ np.linalg.inv(motif.lattice).T, axis=1) < 1 / finest]


def anchor(motif: Motif) -> int:
    """The column whose place stands for the cell's: the strongest."""
    return int(np.argmax(motif.strength))


def cell_match(
    flat: Float[np.ndarray, "rows cols"], trusted: np.ndarray, motif: Motif, frame: np.ndarray, power: float
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation coefficient and amplitude of one drawn cell (a disc round its anchor) at every pixel.

    Pixels that are not trusted or outside the image have no say; 0 where less than half of the disc is seen.
    """
    drawn, disc = _drawn_cell(motif, frame, power)
    half = drawn.shape[0] // 2
    shape = [fft.next_fast_len(n + 2 * half, real=True) for n in flat.shape]
    known = trusted.astype(np.float32)

    def spectrum(a):
        return np.asarray(fft.rfft2(np.asarray(a, np.float32), shape))

    image, square, cover = (spectrum(a) for a in (flat * known, flat**2 * known, known))
    kernel, kernel_square, mask = (np.conj(spectrum(k)) for k in (drawn, drawn**2, disc))

    def sums(a, k):
        out = np.roll(np.asarray(fft.irfft2(a * k, shape)), (half, half), (0, 1))
        return out[: flat.shape[0], : flat.shape[1]]

    count = np.maximum(sums(cover, mask), 1.0)
    level, tone = sums(image, mask) / count, sums(cover, kernel) / count
    both = sums(image, kernel) - count * level * tone
    spread = np.maximum(sums(square, mask) - count * level**2, 0.0)
    size = np.maximum(sums(cover, kernel_square) - count * tone**2, 0.0)
    seen = (count > 0.5 * disc.sum()) & trusted
    usual = float(np.median(spread[seen])) if seen.any() else 1.0
    likeness = both / np.sqrt((spread + 1e-3 * usual + 1e-30) * (size + 1e-6 * float(size.max()) + 1e-30))
    amplitude = both / np.maximum(size, 0.1 * float(size.max()) + 1e-30)
    return np.where(seen, likeness, 0.0), np.where(seen, amplitude, 0.0)


def _drawn_cell(motif: Motif, frame: np.ndarray, power: float) -> tuple[np.ndarray, np.ndarray]:
    """The columns within a disc round the anchor, and the disc; square arrays, the anchor in the middle pixel."""
    scale = np.sqrt(abs(np.linalg.det(frame)))
    radius = max(0.8 * np.sqrt(abs(np.linalg.det(motif.lattice))), 3.0) * scale
    width = 0.45 * scale
    half = int(np.ceil(radius))
    cells = np.array(list(itertools.product(range(-3, 4), repeat=2))) @ motif.lattice
    middle = motif.offset[anchor(motif)]
    at = (cells[:, None] + motif.offset[None] - middle).reshape(-1, 2) @ frame.T
    height = np.tile(motif.strength**power / motif.strength.max() ** power, len(cells))
    near = np.linalg.norm(at, axis=1) < radius + 3 * width
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    drawn = np.zeros(x.shape)
    for (cx, cy), h in zip(at[near], height[near], strict=True):
        drawn += h * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / width**2)
    disc = np.hypot(x, y) <= radius
    return drawn * disc, disc.astype(float)
