"""Measure the lattice of an image and hold a crystal's projection against it."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import fft, linalg, ndimage
from skimage.feature import peak_local_max

from ferrojax.columns.indexing.template import coefficients
from ferrojax.crystal.zone import Motif
from ferrojax.errors import InputError

MAX_STRETCH = 1.145
"""Largest ratio of the principal stretches: 8 % of the lattice's own and 6 % of scan anisotropy."""
MAX_SCALE_ERROR = 0.20
_COLUMN_RMS = 0.45  # Å, damping of the predicted reflections
_PEAKS = 24
_SLOW = 4.0
"""Bins of the spectrum below which an image's own shading lies."""
_FLOOR = 4.5  # times the median amplitude of its ring: noise alone reaches it once in 25 000 bins
_ON_LATTICE = 0.12
_MAIN = 0.5
"""Least share of the peaks' power on a lattice of which the rest is a modulation."""
_COMPANION, _NEAR_COMPANION = 0.3, 1.25
"""Of a satellite's amplitude, the least of its strongest companion; how far out that may be, in shortest reflections
or, farther out, in units of the satellite's own distance."""
_TRIED = 80
_CLEAR, _CLEAR_SHARE = 0.6, 0.9
MIN_CELLS = 12
_CELLS_ACROSS = 4.0
"""Least size of an image of which more can be said than that it is small."""


class Reflections:
    """The power spectrum of an image and its strongest peaks.

    frequency: (n, 2) cycles per px (x, y), one of each ± pair. amplitude: (n,). at(g): amplitude near g.
    """

    def __init__(self, data: np.ndarray):
        rows, cols = data.shape
        window = np.hanning(rows)[:, None] * np.hanning(cols)[None]
        self._data = (data - data.mean()) * window
        spectrum = np.fft.fftshift(np.abs(np.asarray(fft.fft2(self._data))))
        self.size = np.array([cols, rows])
        fy = np.fft.fftshift(fft.fftfreq(rows))[:, None]
        fx = np.fft.fftshift(fft.fftfreq(cols))[None]
        radius = np.hypot(fx, fy)
        bins = np.hypot(fx * cols, fy * rows)  # a strip has few lines, and yet all its periods along them
        band = np.minimum((radius * 40).astype(int), 20)
        floor = _FLOOR * ndimage.median(spectrum, band, np.arange(21))[band]
        self._near = ndimage.maximum_filter(np.where(spectrum > floor, spectrum, 0.0), 3)
        clean = np.where((bins > _SLOW) & ((fy > 0) | ((fy == 0) & (fx > 0))), spectrum, 0.0)
        clean[spectrum < np.maximum(floor, 5e-3 * clean.max())] = 0.0
        peaks = peak_local_max(clean, min_distance=3, num_peaks=_PEAKS, exclude_border=False)
        peaks = peaks[(peaks > 0).all(1) & (peaks < np.array(data.shape) - 1).all(1)]
        self.amplitude = spectrum[tuple(peaks.T)]
        self.frequency = np.array([_centroid(spectrum, p) for p in peaks]).reshape(-1, 2)[:, ::-1]
        self.frequency = (self.frequency - self.size // 2) / self.size

    def periodic(self) -> bool:
        """Whether there are periods in two directions."""
        return len(self.frequency) > 1 and any(abs(_sine(self.frequency[0], q)) > 0.2 for q in self.frequency[1:])

    def require(self) -> None:
        """Refuse an image without periods in two directions."""
        if not self.periodic():
            raise _no_lattice(self)

    def at(self, g: np.ndarray) -> np.ndarray:
        """Amplitude within a bin of frequencies (..., 2); 0 in the noise and beyond Nyquist."""
        bins = np.round(g * self.size).astype(int) + self.size // 2
        inside = ((bins >= 0) & (bins < self.size)).all(-1)
        bins = np.clip(bins, 0, self.size - 1)
        return np.where(inside, self._near[bins[..., 1], bins[..., 0]], 0.0)

    def exactly_at(self, g: np.ndarray) -> np.ndarray:
        """(n,) amplitude at frequencies (n, 2), between the bins, where a strong neighbour has little say."""
        return np.abs(coefficients(self._data, g, np.zeros(2)))


def _centroid(spectrum: np.ndarray, peak: np.ndarray) -> np.ndarray:
    r, c = peak
    patch = spectrum[r - 1 : r + 2, c - 1 : c + 2] ** 2
    offset = np.arange(-1, 2)
    return peak + np.array([(patch.sum(1) * offset).sum(), (patch.sum(0) * offset).sum()]) / patch.sum()


class Fit(NamedTuple):
    """A map from the motif's axes to pixels of a tile: frame (2, 2) px per Å, its score (0 to 1), the share of the
    peaks' power that the lattice and its modulations explain, and the share of the ten strongest peaks' amplitude on
    the lattice (`alone`) and with the satellites of its modulations (`modulated`)."""

    score: float
    frame: np.ndarray
    explained: float
    alone: float
    modulated: float


def tile_fits(
    tile: Float[np.ndarray, "rows cols"],
    motif: Motif,
    recorded: Float[np.ndarray, "2 2"],
    *,
    any_scale: bool = False,
    plain: Float[np.ndarray, "rows cols"] | None = None,
) -> list[Fit]:
    """Maps that carry the motif's reflections onto the peaks of a tile's power spectrum, best first.

    Tries every pair of peaks as a pair of the motif's strong reflections, and scores the reflections that follow.
    Only maps within 5 % of the best are returned: turns and shifts of each other, which intensities must tell apart.
    recorded: (2, 2) px per Å, what the file said. any_scale: whether the file's scale counts for nothing.
    plain: the tile before its contrast was evened out, if it was: evening carries the beat of two lattices over to all
    reflections, and makes companions that neither has.
    """
    found = Reflections(tile)
    plainly = found if plain is None else Reflections(plain)
    if not found.periodic():
        return []
    maps = _candidates(found, motif, recorded, any_scale)
    if not len(maps):
        return []
    explained = _explained(found, motif, maps)
    chosen = np.argsort(-explained, kind="stable")[:_TRIED]
    maps, explained = maps[chosen], explained[chosen]
    reference = [_rescaled(recorded, t) if any_scale else recorded for t in maps]
    scores = np.array([score(found, motif, t, r) * e for t, e, r in zip(maps, explained, reference, strict=True)])
    order = [k for k in np.argsort(-scores, kind="stable") if scores[k] > 0.95 * scores.max()]
    fits: list[Fit] = []
    for k in order:
        if all(np.abs(np.linalg.inv(f.frame) @ maps[k] - np.eye(2)).max() > 0.04 for f in fits):
            frame = _refined(found, motif, maps[k])
            on = _misses(found.frequency, motif, frame) < _ON_LATTICE
            both = _with_satellites((found, plainly), motif, frame, on)
            alone, modulated = (
                float(found.amplitude[:10][o[:10]].sum() / found.amplitude[:10].sum()) for o in (on, both)
            )
            share = float((found.amplitude[both] ** 2).sum() / (found.amplitude**2).sum())
            fits.append(Fit(float(scores[k]), frame, max(float(explained[k]), share), alone, modulated))
    return fits


def _with_satellites(
    seen: tuple[Reflections, Reflections], motif: Motif, frame: np.ndarray, on: np.ndarray
) -> np.ndarray:
    """(peaks,) bool, peaks on the lattice (`on`), and the satellites that a modulation of it makes.

    What modulates a lattice (order of two species, a zigzag of columns, lines that hum) puts satellites at the same
    distance ± q from many reflections, so a satellite has companions that are as strong; the reflections of a second
    lattice, turned or of another size, each stand alone.
    """
    found, plainly = seen
    index = found.frequency @ frame @ motif.lattice.T
    part = index - np.round(index)
    power = found.amplitude**2
    if on.all() or power[on].sum() < _MAIN * power.sum():
        return on
    on = on.copy()
    reciprocal = np.linalg.inv(motif.lattice).T
    shortest = np.linalg.norm(reciprocal, axis=1).min()
    cells = np.array(list(itertools.product(range(-3, 4), repeat=2)))
    for k in np.nonzero(~on)[0]:
        near = np.concatenate([part[k] + cells, cells - part[k]])
        far = _NEAR_COMPANION * max(float(np.linalg.norm(index[k] @ reciprocal)), float(shortest))
        own = np.minimum(*(np.abs(near - sign * index[k]).max(1) for sign in (1, -1))) < 0.1
        near = near[~own & (np.linalg.norm(near @ reciprocal, axis=1) < far)]
        own, *others = plainly.exactly_at(np.concatenate([index[[k]], near]) @ reciprocal @ np.linalg.inv(frame))
        on[k] = max(others, default=0.0) > _COMPANION * own
    return on


def _explained(found: Reflections, motif: Motif, maps: np.ndarray) -> np.ndarray:
    """(n,) share of the peaks' power that lies on the lattice of each map (n, 2, 2)."""
    power = found.amplitude**2
    return (power * (_misses(found.frequency, motif, maps) < _ON_LATTICE)).sum(1) / power.sum()


def _misses(frequency: np.ndarray, motif: Motif, maps: np.ndarray) -> np.ndarray:
    """(..., peaks) how far frequencies (peaks, 2) are from whole indices under maps (..., 2, 2)."""
    fractional = frequency @ maps @ motif.lattice.T
    return np.abs(fractional - np.round(fractional)).max(-1)


def _refined(found: Reflections, motif: Motif, frame: np.ndarray) -> np.ndarray:
    """The map that fits all peaks on its lattice best, strong ones first."""
    for _ in range(2):
        index = found.frequency @ frame @ motif.lattice.T
        whole = np.round(index)
        on = (np.abs(index - whole).max(1) < _ON_LATTICE) & np.any(whole != 0, 1)
        g = whole[on] @ np.linalg.inv(motif.lattice).T
        if on.sum() < 2 or np.linalg.matrix_rank(g, 1e-3) < 2:
            return frame
        weight = found.amplitude[on][:, None]
        # frequency = inv(frame).T @ g
        dual = np.linalg.lstsq(weight * g, weight * found.frequency[on], rcond=None)[0].T
        frame = np.linalg.inv(dual).T
    return frame


def _rescaled(recorded: np.ndarray, px_per_angstrom: np.ndarray) -> np.ndarray:
    return recorded * np.sqrt(np.linalg.det(px_per_angstrom) / np.linalg.det(recorded))


def rotation_angle(px_per_angstrom: np.ndarray) -> float:
    """Rotation part of the map, radians from +x towards +y."""
    turn, _ = linalg.polar(px_per_angstrom)
    return float(np.arctan2(turn[1, 0], turn[0, 0]))


def _candidates(found: Reflections, motif: Motif, recorded: np.ndarray, any_scale: bool) -> np.ndarray:
    """(n, 2, 2) maps that carry two of the motif's strong reflections onto two peaks without much distortion."""
    h = strong_reflections(motif)
    g = h @ np.linalg.inv(motif.lattice).T
    first, second = np.triu_indices(len(h), 1)
    independent = h[first, 0] * h[second, 1] != h[first, 1] * h[second, 0]
    basis = np.stack([g[first[independent]], g[second[independent]]], -1)  # columns are reflections, 1/Å
    strong = found.frequency[:12]
    signed = np.concatenate([strong, -strong])
    p, q = (a.ravel() for a in np.meshgrid(np.arange(len(strong)), np.arange(len(signed)), indexing="ij"))
    seen = np.stack([strong[p], signed[q]], -1)
    seen = seen[np.abs(np.linalg.det(seen)) > 1e-9]
    dual = (seen[None] @ np.linalg.inv(basis)[:, None]).reshape(-1, 2, 2)
    dual = np.concatenate([dual, -dual])
    dual = dual[np.linalg.det(dual) > 1e-12]
    maps = np.swapaxes(np.linalg.inv(dual), 1, 2)
    relative = np.linalg.inv(recorded) @ maps
    stretch = np.linalg.svd(relative, compute_uv=False)
    fits = stretch[:, 0] < MAX_STRETCH * 1.05 * stretch[:, 1]
    if not any_scale:
        fits &= np.abs(np.log(stretch.prod(1))) < 2 * np.log(1.05 + MAX_SCALE_ERROR)
    return maps[fits]


def strong_reflections(motif: Motif) -> Int[np.ndarray, "n 2"]:
    """The motif's eight strongest reflections (one of each ± pair) and its shortest."""
    h = np.array([(i, j) for i in range(-4, 5) for j in range(0, 5) if j > 0 or i > 0])
    g = np.linalg.norm(h @ np.linalg.inv(motif.lattice).T, axis=1)
    factor = np.max([reflection_factor(motif, h, power) for power in (1.0, 0.5)], 0)
    strong = [*np.argsort(-factor, kind="stable")[:8], *np.argsort(g, kind="stable")[:4]]
    return h[list(dict.fromkeys(strong))]


def reflection_factor(motif: Motif, h: np.ndarray, power: float) -> np.ndarray:
    """(n,) amplitude of reflections (n, 2), the largest 1; power: of the HAADF strength, by imaging mode."""
    g = np.linalg.norm(h @ np.linalg.inv(motif.lattice).T, axis=1)
    factor = np.abs((motif.strength**power * np.exp(2j * np.pi * h @ motif.position.T)).sum(1))
    factor = factor * np.exp(-2 * (np.pi * _COLUMN_RMS * g) ** 2)
    return factor / factor.max()


def score(found: Reflections, motif: Motif, px_per_angstrom: np.ndarray, recorded: np.ndarray) -> float:
    """0 to 1: likeness of the reflections × closeness to the record."""
    reach = np.ceil(np.linalg.norm(motif.lattice, axis=1) / 1.2).astype(int)
    h = np.array([(i, j) for i in range(-reach[0], reach[0] + 1) for j in range(reach[1] + 1) if j > 0 or i > 0])
    g = h @ np.linalg.inv(motif.lattice).T
    seen = found.at(g @ np.linalg.inv(px_per_angstrom))
    size = np.sqrt((seen**2).sum() + 1e-30)
    factors = [reflection_factor(motif, h, power) for power in (1.0, 0.6, 0.4)]
    likeness = max(float((f * seen).sum() / np.sqrt((f**2).sum())) for f in factors) / size
    scale = 0.5 * np.log(abs(np.linalg.det(px_per_angstrom) / np.linalg.det(recorded)))
    stretch = np.linalg.svd(np.linalg.inv(recorded) @ px_per_angstrom, compute_uv=False)
    prior = np.exp(-0.5 * (scale / 0.4) ** 2 - 0.5 * (np.log(stretch[0] / stretch[1]) / 0.15) ** 2)
    return float(likeness * prior)


def rescaled_fit(tile: np.ndarray, motif: Motif, recorded: np.ndarray, plain: np.ndarray | None = None) -> Fit | None:
    """The best map that fits clearly when the recorded pixel size counts for nothing and that is far from it."""
    for fit in tile_fits(tile, motif, recorded, any_scale=True, plain=plain):
        scale = 0.5 * np.log(np.linalg.det(fit.frame) / np.linalg.det(recorded))
        if fit.score > _CLEAR and fit.explained > _CLEAR_SHARE and abs(scale) > np.log1p(MAX_SCALE_ERROR):
            return fit
    return None


def too_narrow(shape: tuple[int, ...], motif: Motif, recorded: Float[np.ndarray, "2 2"]) -> InputError | None:
    """The refusal of a strip in which too few cells lie one above the other for any period; None for other images."""
    cell = float(np.sqrt(abs(np.linalg.det(recorded)) * abs(np.linalg.det(motif.lattice))))
    across = min(shape) / cell
    if across >= _CELLS_ACROSS:
        return None
    return InputError(
        "image",
        f"{shape[0]} × {shape[1]} px",
        f"is only {across:.1f} cells of {motif.zone} {'high' if shape[0] < shape[1] else 'wide'}: too small to index",
        f"give an image of at least {_CELLS_ACROSS:.0f} cells a side",
    )


def refusal(data: Float[np.ndarray, "rows cols"], sampling: Float[np.ndarray, "2"], motif: Motif) -> InputError:
    """Why no part of an image shows the motif's lattice: none at all, pixels of another size, or another lattice."""
    rows, cols = (slice(max(0, n // 2 - 512), n // 2 + 512) for n in data.shape)
    data = np.asarray(data[rows, cols], float)
    narrow = too_narrow(data.shape, motif, np.diag(1 / sampling[::-1]))
    if narrow is not None:
        return narrow
    found = Reflections(data)
    if not found.periodic():
        return _no_lattice(found)
    recorded, swapped = np.diag(1 / sampling[::-1]), np.diag(1 / sampling)
    if max(sampling) > 1.03 * min(sampling):
        fits = tile_fits(data, motif, swapped)
        if fits and fits[0].score > _CLEAR:
            return InputError(
                "sampling",
                f"{sampling.round(5).tolist()} Å per pixel (y, x)",
                "fits the crystal only with its axes swapped",
                "give sampling (--sampling) as (y, x)",
            )
    wrong = rescaled_fit(data, motif, recorded)
    if wrong is not None:
        try:
            check_fit(wrong.frame, motif, sampling)
        except InputError as error:
            return error
    return zone_error(motif, found, sampling)


def _no_lattice(found: Reflections) -> InputError:
    return InputError(
        "image",
        f"{len(found.amplitude)} periods found",
        "shows no lattice",
        "give an image that resolves atomic columns in two directions",
    )


def too_few(count: int) -> InputError:
    """The refusal of an image with too few cells."""
    return InputError(
        "image",
        f"{count} cells",
        "has too few columns on the lattice",
        f"give an image of at least {MIN_CELLS} complete cells, and check its pixel size",
    )


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
