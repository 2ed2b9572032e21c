"""Measure the lattice of an image and hold a crystal's projection against it."""

import itertools

import numpy as np
from jaxtyping import Float
from scipy import linalg, ndimage, signal
from skimage.feature import peak_local_max

from ferrojax.crystal.zone import Motif
from ferrojax.errors import InputError

MAX_STRETCH = 1.145
"""Largest ratio of the principal stretches: 8 % of the lattice's own and 6 % of scan anisotropy."""
MAX_SCALE_ERROR = 0.20
NO_ROOM = -1.0
_COLUMN_RMS = 0.45  # Å, damping of the predicted reflections
_PEAKS = 24
_MIN_SCORE = 0.55


class Reflections:
    """The power spectrum of an image and its strongest peaks.

    frequency: (n, 2) cycles per px (x, y), one of each ± pair. amplitude: (n,). at(g): amplitude near g.
    """

    def __init__(self, data: np.ndarray):
        rows, cols = data.shape
        window = np.hanning(rows)[:, None] * np.hanning(cols)[None]
        spectrum = np.fft.fftshift(np.abs(np.fft.fft2((data - data.mean()) * window)))
        self.size = np.array([cols, rows])
        fy = np.fft.fftshift(np.fft.fftfreq(rows))[:, None]
        fx = np.fft.fftshift(np.fft.fftfreq(cols))[None]
        radius = np.hypot(fx, fy)
        self._near = ndimage.maximum_filter(spectrum, 3)
        low = 4.0 / min(data.shape)
        band = np.minimum((radius * 40).astype(int), 20)
        floor = ndimage.median(spectrum, band, np.arange(21))[band]
        clean = np.where((radius > low) & ((fy > 0) | ((fy == 0) & (fx > 0))), spectrum, 0.0)
        clean[spectrum < np.maximum(6 * floor, 5e-3 * clean.max())] = 0.0
        peaks = peak_local_max(clean, min_distance=3, num_peaks=_PEAKS, exclude_border=False)
        peaks = peaks[(peaks > 0).all(1) & (peaks < np.array(data.shape) - 1).all(1)]
        self.amplitude = spectrum[tuple(peaks.T)]
        self.frequency = np.array([_centroid(spectrum, p) for p in peaks]).reshape(-1, 2)[:, ::-1]
        self.frequency = (self.frequency - self.size // 2) / self.size

    def require(self) -> None:
        """Refuse an image without periods in two directions."""
        if not any(abs(_sine(self.frequency[0], q)) > 0.2 for q in self.frequency[1:]):
            raise InputError(
                "image",
                f"{len(self.amplitude)} periods found",
                "shows no lattice",
                "give an image that resolves atomic columns in two directions",
            )

    def at(self, g: np.ndarray) -> np.ndarray:
        """Amplitude within a bin of frequencies (..., 2); 0 beyond Nyquist."""
        bins = np.round(g * self.size).astype(int) + self.size // 2
        inside = ((bins >= 0) & (bins < self.size)).all(-1)
        bins = np.clip(bins, 0, self.size - 1)
        return np.where(inside, self._near[bins[..., 1], bins[..., 0]], 0.0)


def _centroid(spectrum: np.ndarray, peak: np.ndarray) -> np.ndarray:
    r, c = peak
    patch = spectrum[r - 1 : r + 2, c - 1 : c + 2] ** 2
    offset = np.arange(-1, 2)
    return peak + np.array([(patch.sum(1) * offset).sum(), (patch.sum(0) * offset).sum()]) / patch.sum()


def measure_lattice(
    data: Float[np.ndarray, "rows cols"], motif: Motif, sampling: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "2 2"]:
    """px per Å: the linear map from the motif's axes to image pixels, (x, y) both.

    Tries every pair of peaks of the power spectrum as a pair of the motif's shortest reflections, and scores
    the reflections that follow. Of equivalent maps the one with the smallest rotation wins.
    sampling: (2,) Å per px as (y, x), as recorded; only a preference here.
    Errors: InputError when there is no lattice, or the zone axis does not fit it.
    """
    found = Reflections(data)
    found.require()
    recorded = np.diag(1 / sampling[::-1])
    maps = list(_candidates(found, motif))
    scored = [(score(found, motif, t, recorded), t) for t in maps]
    best = max((s for s, _ in scored), default=0.0)
    if best < _MIN_SCORE:
        # A pixel size that is off by a unit or a factor deserves its own message.
        rescaled = [(score(found, motif, t, _rescaled(recorded, t)), t) for t in maps]
        good = [t for s, t in rescaled if s > 0.7]
        if good:
            check_fit(good[0], motif, sampling)
        raise zone_error(motif, found, sampling)
    close = [t for s, t in scored if s > 0.95 * best]
    return min(close, key=lambda t: abs(rotation_angle(t)))


def _rescaled(recorded: np.ndarray, px_per_angstrom: np.ndarray) -> np.ndarray:
    return recorded * np.sqrt(np.linalg.det(px_per_angstrom) / np.linalg.det(recorded))


def rotation_angle(px_per_angstrom: np.ndarray) -> float:
    """Rotation part of the map, radians from +x towards +y."""
    turn, _ = linalg.polar(px_per_angstrom)
    return float(np.arctan2(turn[1, 0], turn[0, 0]))


def _candidates(found: Reflections, motif: Motif):
    """Maps that carry two of the motif's short reflections onto two peaks without much distortion."""
    reciprocal = np.linalg.inv(motif.lattice)  # columns are the reciprocal vectors, 1/Å
    pairs = [
        ((1, 0), (0, 1)),
        ((1, 1), (-1, 1)),
        ((1, 0), (1, 1)),
        ((0, 1), (-1, 1)),
        ((2, 0), (0, 1)),
        ((1, 0), (0, 2)),
    ]
    strong = found.frequency[:12]
    signed = np.concatenate([strong, -strong])
    for h in pairs:
        expected = np.linalg.inv(reciprocal @ np.array(h).T)
        for p, q in itertools.product(strong, signed):
            dual = np.stack([p, q], 1) @ expected
            for sign in (1, -1):
                stretch = np.linalg.svd(dual, compute_uv=False)
                if np.linalg.det(dual) > 0 and stretch[0] < MAX_STRETCH * 1.05 * stretch[1]:
                    yield np.linalg.inv(sign * dual).T


def score(found: Reflections, motif: Motif, px_per_angstrom: np.ndarray, recorded: np.ndarray) -> float:
    """0 to 1: power that the lattice explains × likeness of the reflections × closeness to the record."""
    fractional = found.frequency @ px_per_angstrom @ motif.lattice.T
    miss = np.abs(fractional - np.round(fractional)).max(1)
    power = found.amplitude**2
    explained = power[miss < 0.12].sum() / power.sum()
    if explained < 0.3:
        return 0.0
    h = np.array([(i, j) for i in range(-3, 4) for j in range(0, 4) if j > 0 or i > 0])
    g = h @ np.linalg.inv(motif.lattice).T
    factor = np.abs((motif.strength * np.exp(2j * np.pi * h @ motif.position.T)).sum(1))
    factor = factor * np.exp(-2 * (np.pi * _COLUMN_RMS) ** 2 * (g**2).sum(1))
    seen = found.at(g @ np.linalg.inv(px_per_angstrom))
    likeness = (factor * seen).sum() / np.sqrt((factor**2).sum() * (seen**2).sum() + 1e-30)
    scale = 0.5 * np.log(abs(np.linalg.det(px_per_angstrom) / np.linalg.det(recorded)))
    stretch = np.linalg.svd(np.linalg.inv(recorded) @ px_per_angstrom, compute_uv=False)
    prior = np.exp(-0.5 * (scale / 0.4) ** 2 - 0.5 * (np.log(stretch[0] / stretch[1]) / 0.15) ** 2)
    return float(explained * likeness * prior)


def zone_error(motif: Motif, found: Reflections, sampling: np.ndarray) -> InputError:
    """The message that says which lattice was expected and which was seen."""
    first, *rest = found.frequency
    second = next((q for q in rest if abs(_sine(first, q)) > 0.3), rest[0])
    seen = np.linalg.inv(np.stack([first, second])).T * sampling[::-1]
    text = f"{motif.zone}, expected {describe(motif.lattice)}, image has {describe(seen)}"
    return InputError(
        "zone axis",
        text,
        "does not fit the image",
        "give the zone axis and crystal of the image, or the right pixel size with sampling (--sampling)",
    )


def _sine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a[0] * b[1] - a[1] * b[0]) / float(np.linalg.norm(a) * np.linalg.norm(b))


def describe(lattice: np.ndarray) -> str:
    """Lengths and angle of two lattice vectors in Å."""
    a, b = np.linalg.norm(lattice, axis=1)
    angle = np.degrees(np.arcsin(np.clip(abs(_sine(lattice[0], lattice[1])), 0, 1)))
    return f"{a:.2f} x {b:.2f} Å at {angle:.0f}°"


def check_fit(px_per_angstrom: np.ndarray, motif: Motif, sampling: np.ndarray) -> None:
    """Refuse a crystal that fits only after much stretching, or a pixel size that is far off."""
    relative = np.diag(sampling[::-1]) @ px_per_angstrom
    scale = np.sqrt(np.linalg.det(relative))
    if abs(np.log(scale)) > np.log1p(MAX_SCALE_ERROR):
        raise InputError(
            "sampling",
            f"{sampling.round(5).tolist()} Å per pixel (y, x)",
            f"lengths come out {100 * (scale - 1):+.0f} % against the crystal",
            f"give sampling (--sampling), about {np.mean(sampling) / scale:.4g} if crystal and zone axis are right",
        )
    stretch = np.linalg.svd(relative, compute_uv=False)
    if stretch[0] / stretch[1] > MAX_STRETCH:
        seen = (relative @ motif.lattice.T).T
        raise InputError(
            "zone axis",
            f"{motif.zone}, expected {describe(motif.lattice)}, image has {describe(seen)}",
            "does not fit the image",
            "check crystal and zone axis",
        )


def template_score(
    flat: Float[np.ndarray, "rows cols"], motif: Motif, px_per_angstrom: Float[np.ndarray, "2 2"]
) -> Float[np.ndarray, "rows cols"]:
    """Correlation coefficient of 3 × 3 drawn cells with the image, by the middle cell's origin.

    NO_ROOM where they reach over the edge.
    """
    cells = np.array(list(itertools.product((-1, 0, 1), repeat=2))) @ motif.lattice
    at = (cells[:, None] + motif.offset[None]).reshape(-1, 2) @ px_per_angstrom.T
    height = np.tile(motif.strength, len(cells))
    width = _COLUMN_RMS * np.sqrt(np.linalg.det(px_per_angstrom))
    half = int(np.ceil(np.abs(at).max() + 2 * width))
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    drawn, cover = np.zeros(x.shape), np.zeros(x.shape, bool)
    for (cx, cy), h in zip(at, height, strict=True):
        square = (x - cx) ** 2 + (y - cy) ** 2
        drawn += h * np.exp(-0.5 * square / width**2)
        cover |= square < (1.6 / _COLUMN_RMS * width) ** 2
    drawn = np.where(cover, drawn - drawn[cover].mean(), 0.0)
    sums = [
        signal.fftconvolve(a, k[::-1, ::-1].astype(float), mode="same")
        for a, k in ((flat, drawn), (flat, cover), (flat**2, cover))
    ]
    spread = np.maximum(sums[2] - sums[1] ** 2 / cover.sum(), 1e-6 * np.abs(sums[2]).max())
    whole = np.zeros(flat.shape, bool)
    whole[half : flat.shape[0] - half, half : flat.shape[1] - half] = True
    return np.where(whole, sums[0] / np.sqrt(spread * (drawn**2).sum()), NO_ROOM)
