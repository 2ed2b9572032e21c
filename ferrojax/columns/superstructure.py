"""Commensurate order on one lattice: columns that zigzag or alternate in brightness, with period and amplitude."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import fft, ndimage

from ferrojax.columns.columns import ACCEPTED, SITES, Columns
from ferrojax.columns.indexing.index import fit_lattice

_LEAST_COLUMNS = 36
_SLOW = 2.0
"""Cells (rms) over which strain, drift and thickness are smoothed away; of a period of 4 cells 0.7 % goes with them."""
_SHORT = 0.2
"""Cycles per cell from which on a period is sought."""
_MOST_CELLS = 6
"""Longest period that is told as a whole number of cells along each axis."""
_CLEAR = 6.0
"""Times the median of the spectrum: noise alone reaches 4."""
_LEAST_PM, _LEAST_CONTRAST = 3.0, 0.03
_SAME = 0.2
"""Of the reciprocal of the number of cells: a wave vector nearer than that to a fraction is one."""
_WAVES = 3
"""Of one sublattice and kind at most."""


class Modulation(NamedTuple):
    """A wave on a sublattice.

    site: "A", "B" or "O". wave: (x, y) cycles per cell along the two lattice vectors. cells: the smallest numbers of
    cells (x, y) after which it repeats, None where it does not within a few. period: Å between its crests.
    displacement: (x, y) pm, amplitude along the image's axes; contrast: relative amplitude of the columns' brightness;
    of the two, what is not significant is 0.
    """

    site: str
    wave: tuple[float, float]
    cells: tuple[int, int] | None
    period: float
    displacement: tuple[float, float]
    contrast: float

    def __str__(self) -> str:
        """One sentence for a report."""
        size = float(np.hypot(*self.displacement))
        what = [f"are displaced by ±({self.displacement[0]:.0f}, {self.displacement[1]:.0f}) pm"] if size else []
        what += [f"differ in brightness by ±{100 * self.contrast:.0f} %"] if self.contrast else []
        repeat = "" if self.cells is None else f", a cell of {self.cells[0]} × {self.cells[1]}"
        return f"{self.site} columns {' and '.join(what)} with a period of {self.period:.1f} Å{repeat}."


def modulations(columns: Columns) -> tuple[Modulation, ...]:
    """Waves of displacement and of brightness with periods of up to five cells, of calibrated columns."""
    assert columns.calibration is not None
    affine = np.asarray(columns.calibration.affine, float)
    reciprocal = np.linalg.inv(np.asarray(columns.calibration.lattice_px, float) @ affine.T).T
    found: list[Modulation] = []
    for site, name in enumerate(SITES):
        chosen = (np.asarray(columns.site) == site) & (np.asarray(columns.rejection) == ACCEPTED)
        index, first = np.unique(np.asarray(columns.lattice_index)[chosen], axis=0, return_index=True)
        if len(index) < _LEAST_COLUMNS or np.ptp(index, axis=0).min() < 3:
            continue
        rows = np.nonzero(chosen)[0][first]
        _, _, bend = fit_lattice(index, np.asarray(columns.position, float)[rows])
        bright = np.log(np.maximum(np.asarray(columns.intensity, float)[rows], 1e-12))
        for wave, values in _waves(index, np.column_stack([100 * bend, bright])):
            moved, contrast = values[:2], float(values[2])
            period = 1 / float(np.linalg.norm(np.array(wave, float) @ reciprocal))
            cells = None if not all(isinstance(w, Fraction) for w in wave) else _repeat(wave)
            amplitude = (float(moved[0]), float(moved[1]))
            found.append(Modulation(name, (float(wave[0]), float(wave[1])), cells, period, amplitude, contrast))
    return tuple(found)


def _repeat(wave: tuple) -> tuple[int, int]:
    return wave[0].denominator, wave[1].denominator


def _waves(index: np.ndarray, values: Float[np.ndarray, "n 3"]) -> list[tuple[tuple, np.ndarray]]:
    """Wave vectors that stand out, and the amplitudes (x pm, y pm, contrast) of each."""
    index = index - index.min(0)
    shape = tuple(int(n) + 1 for n in index.max(0))
    at = (index[:, 0], index[:, 1])
    known = np.zeros(shape, bool)
    known[at] = True
    boards = np.stack([_without_slow(_board(shape, at, v), known) for v in values.T])
    size = [2 * int(fft.next_fast_len(n) or n) for n in shape]
    fx, fy = np.meshgrid(*[fft.fftfreq(n) for n in size], indexing="ij")
    fast = np.hypot(fx, fy) > _SHORT
    half = fast & ((fy > 1e-9) | ((np.abs(fy) < 1e-9) & (fx > 1e-9)) | (fx == -0.5) | (fy == -0.5))
    waves: dict[tuple, np.ndarray] = {}
    for kind, least in ((slice(0, 2), _LEAST_PM), (slice(2, 3), _LEAST_CONTRAST)):
        rest = boards[kind].copy()
        spectrum = np.sqrt(sum(np.abs(np.asarray(fft.fft2(b, size))) ** 2 for b in rest))
        floor = _CLEAR * float(np.median(spectrum[fast]))
        for _ in range(_WAVES):
            spectrum = np.sqrt(sum(np.abs(np.asarray(fft.fft2(b, size))) ** 2 for b in rest))
            spectrum = np.where(half, spectrum, 0.0)
            k = np.unravel_index(int(np.argmax(spectrum)), spectrum.shape)
            if spectrum[k] < floor:
                break
            wave = _rational(_peak(rest, known, np.array([fx[k], fy[k]])), np.array(shape))
            part = np.array([_amplitude(b, known, wave) for b in rest])
            size_of = float(np.linalg.norm(np.abs(part)))
            if size_of < least:
                break
            rest = np.stack([_without(b, known, wave, p) for b, p in zip(rest, part, strict=True)])
            amplitudes = waves.setdefault(wave, np.zeros(3))
            turn = part[int(np.argmax(np.abs(part)))]
            amplitudes[kind] = np.abs(part) * np.where((part * np.conj(turn)).real < 0, -1.0, 1.0)
    return list(waves.items())


def _board(shape: tuple[int, ...], at: tuple[np.ndarray, np.ndarray], value: np.ndarray) -> np.ndarray:
    board = np.zeros(shape)
    board[at] = value - np.median(value)
    return board


def _without_slow(board: np.ndarray, known: Bool[np.ndarray, "nx ny"]) -> np.ndarray:
    """Values of one sublattice without what varies slowly, outliers held back; 0 where there is none."""
    cover = ndimage.gaussian_filter(known.astype(float), _SLOW, mode="constant")
    slow = ndimage.gaussian_filter(board * known, _SLOW, mode="constant") / np.maximum(cover, 1e-3)
    rest = (board - slow) * known
    held = 5 * 1.4826 * float(np.median(np.abs(rest[known]))) + 1e-12
    return np.clip(rest, -held, held)


def _rational(wave: np.ndarray, shape: np.ndarray) -> tuple:
    """The fraction of small denominator that is as good, axis by axis; the number itself where there is none."""
    out = []
    for w, n in zip(wave, shape, strict=True):
        near = Fraction(float(w)).limit_denominator(_MOST_CELLS)
        if abs(float(near) - w) < _SAME / n:
            out.append(abs(near) if abs(near) == Fraction(1, 2) else near)
        else:
            out.append(float(w))
    if any(isinstance(w, float) for w in out):
        return tuple(float(w) for w in out)
    return tuple(out)


def _peak(boards: np.ndarray, known: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The wave vector, between the bins of the spectrum, that has most power."""
    step = np.linspace(-0.5, 0.5, 21)
    tried = [near + np.array([u, v]) / known.shape for u in step for v in step]
    i, j = np.nonzero(known)
    waves = np.exp(-2j * np.pi * (np.array(tried) @ np.stack([i, j])))
    power = (np.abs(waves @ boards[:, known].T) ** 2).sum(1)
    return tried[int(np.argmax(power))]


def _phases(known: np.ndarray, wave: tuple) -> np.ndarray:
    i, j = np.nonzero(known)
    return np.exp(-2j * np.pi * (i * float(wave[0]) + j * float(wave[1])))


def _amplitude(board: np.ndarray, known: np.ndarray, wave: tuple) -> complex:
    """Amplitude of a wave; of one that alternates from cell to cell, there is no second half of the spectrum."""
    alternates = all(float(2 * w) % 1 == 0 for w in wave)
    return complex((1 if alternates else 2) * (board[known] * _phases(known, wave)).mean())


def _without(board: np.ndarray, known: np.ndarray, wave: tuple, part: complex) -> np.ndarray:
    rest = board.copy()
    rest[known] -= (part * np.conj(_phases(known, wave))).real
    return rest
