"""Which way the crystal lies in an image, and by which contrast it is seen, from the image's best tiles."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ferrojax.columns.indexing import lattice as lat
from ferrojax.columns.indexing.template import MODES, Fold, coefficients, fold_likeness, gradient_likeness
from ferrojax.crystal.zone import Motif
from ferrojax.errors import InputError

_TILE_CELLS = (14.0, 8.0)  # a side: the smaller ones where no larger one holds a single crystal
_TILES = 5  # a side
_MIN_SCORE = 0.5
_MIN_LIKENESS = 0.5
_ABSENT = 0.5  # of a lattice's amplitude elsewhere in a tile
_TURNS = "turns of the crystal that intensities could not tell apart"
UNDECIDED_SITES = "shifts of the cell that intensities could not tell apart: which sublattice is which"
_SAME = 0.02
"""Likeness closer than this decides nothing."""
_STEEPER = 0.05
"""How much better than with the columns an image must agree with their slope, to be one."""
_BETTER = 1.04
"""How much better another pixel size must agree to cast doubt on the recorded one."""
_ALONE = (0.92, 0.95)
"""Least share of the strongest periods that the lattice, with its modulations, must explain, by size of tile. Real
images of one crystal reach 0.96; a small tile has so few peaks that a second lattice may hide."""


class Orientation(NamedTuple):
    """frame: (2, 2) px per Å. origin: (2,) px, where a cell's origin is. mode: key of MODES.

    power: of the motif's strength that brightness follows. likeness: −1 to 1. polarity: 1 for bright columns, −1 for
    dark ones. ambiguity: what stayed undecided.
    """

    frame: np.ndarray
    origin: np.ndarray
    mode: str
    power: float
    likeness: float
    polarity: int
    ambiguity: tuple[str, ...]


def orient(
    images: tuple[Float[np.ndarray, "rows cols"], Float[np.ndarray, "rows cols"]],
    trusted: Bool[np.ndarray, "rows cols"],
    motif: Motif,
    recorded: Float[np.ndarray, "2 2"],
    mode: str | None = None,
) -> Orientation | None:
    """The best map of the motif onto the image; None where no tile shows the motif's lattice.

    images: background-free, contrast evened out, and not. recorded: (2, 2) px per Å as recorded.
    Errors: InputError where the lattice fits and the intensities do not, or where two lattices lie on each other.
    """
    share = 1.0
    for cells, least in zip(_TILE_CELLS, _ALONE, strict=True):
        found = _best_tile(images, trusted, motif, recorded, cells)
        if found is None or found[1][0].score < _MIN_SCORE:
            continue
        (tile, plain), fits, corner = found
        wrong = lat.rescaled_fit(tile, motif, recorded, plain)
        if wrong is not None and _agreement(tile, motif, wrong) > _BETTER * _agreement(tile, motif, fits[0]):
            return None
        # A small tile has so few peaks that the reflections of a second lattice find companions by chance.
        own = max(f.modulated if cells == _TILE_CELLS[0] else f.alone for f in fits)
        share = min(share, own)
        if own >= least:
            return _decide(tile, motif, fits, mode, corner)
        if not _side_by_side(tile, motif, fits[0].frame):
            break
    if share == 1.0:
        return None
    narrow = lat.too_narrow(trusted.shape, motif, recorded)
    if narrow is not None:
        raise narrow
    raise InputError(
        "image",
        f"{100 * (1 - share):.0f} % of its periods belong to something else",
        f"shows another lattice on top of {motif.zone}",
        "give a region with one crystal in the beam's path",
    )


def _best_tile(
    images, trusted, motif: Motif, recorded, cells: float
) -> tuple[list[np.ndarray], list[lat.Fit], np.ndarray] | None:
    """The tile (of every image) of so many cells a side that one lattice explains best, the lattice's maps, and its
    corner (2,) px."""
    corners, side = tile_corners(trusted.shape, motif, recorded, cells)
    best: tuple[float, list[lat.Fit], tuple[int, int]] | None = None
    for r, c in corners:
        window = (slice(r, r + side[0]), slice(c, c + side[1]))
        if trusted[window].mean() < 0.7:
            continue
        even, plain = (image[window] for image in images)
        fits = lat.tile_fits(even, motif, recorded, plain=plain)
        if fits and (best is None or fits[0].score * fits[0].modulated > best[0]):
            best = fits[0].score * fits[0].modulated, fits, (r, c)
    if best is None:
        return None
    r, c = best[2]
    return [image[r : r + side[0], c : c + side[1]] for image in images], best[1], np.array([c, r], float)


def _side_by_side(tile: np.ndarray, motif: Motif, frame: np.ndarray) -> bool:
    """Whether the lattice is missing from a part of the tile, so that what else is there lies beside it, not on it."""
    half = [n // 2 for n in tile.shape]
    frequency = lat.strong_reflections(motif) @ np.linalg.inv(motif.lattice).T @ np.linalg.inv(frame)
    window = np.hanning(half[0])[:, None] * np.hanning(half[1])[None]
    strength = []
    for r, c in itertools.product((0, 1, 2), repeat=2):
        part = tile[r * half[0] // 2 :, c * half[1] // 2 :][: half[0], : half[1]]
        strength.append(np.abs(coefficients(part * window, frequency, np.zeros(2))).sum())
    return bool(min(strength) < _ABSENT * max(strength))


def _agreement(tile: np.ndarray, motif: Motif, fit: lat.Fit) -> float:
    """0 to 1: share of the periods explained × likeness of the folded tile in whichever mode suits."""
    powers = {p for _, powers in MODES.values() for p in powers}
    return fit.explained * max(f.likeness for p in powers for f in fold_likeness(tile, motif, fit.frame, p))


def tile_corners(
    shape: tuple[int, ...], motif: Motif, recorded: np.ndarray, cells: float
) -> tuple[list[tuple[int, int]], list[int]]:
    """Corners (row, column) of up to 25 tiles of so many cells a side all over the image, and their (rows, cols)."""
    scale = np.sqrt(np.linalg.det(recorded))
    wanted = max(int(cells * scale * np.sqrt(abs(np.linalg.det(motif.lattice)))), 48)
    side = [min(wanted, n) for n in shape]
    starts = []
    for n, s in zip(shape, side, strict=True):
        count = min(_TILES, 1 + int(np.ceil((n - s) / (0.5 * s))))
        starts.append(np.unique(np.linspace(0, n - s, count).astype(int)))
    return [(int(r), int(c)) for r in starts[0] for c in starts[1]], side


class _Try(NamedTuple):
    """One reading of a tile: a map, and the sign and power that brightness follows."""

    fold: Fold
    frame: np.ndarray
    polarity: int
    power: float


def _decide(tile: np.ndarray, motif: Motif, fits: list[lat.Fit], mode: str | None, corner: np.ndarray) -> Orientation:
    """Of maps that the lattice cannot tell apart, the one whose intensities fit best; of equals the smallest turn."""
    tried, powers = [], sorted({p for _, powers in MODES.values() for p in powers})
    for fit in fits:
        for power in powers:
            folds = fold_likeness(tile, motif, fit.frame, power)
            tried += [_Try(f, fit.frame, p, power) for f, p in zip(folds, (1, -1), strict=True)]
    lawful = [t.polarity == MODES[mode][0] if mode else any(_allows(m, t) for m in MODES) for t in tried]
    best = max((t for t, fine in zip(tried, lawful, strict=True) if fine), key=_likeness)
    top = max((t for t, fine in zip(tried, lawful, strict=True) if not fine), key=_likeness)
    slope = max(gradient_likeness(tile, motif, fit.frame, power) for fit in fits for power in powers)
    if slope > max(_MIN_LIKENESS, _likeness(best) + _STEEPER, _likeness(top) + _STEEPER):
        raise InputError(
            "image",
            f"likeness {slope:.2f} to the slope of the crystal, {max(_likeness(best), _likeness(top)):.2f} to itself",
            "looks like one component of a DPC or centre-of-mass signal: every column has a bright and a dark side",
            'pass the integrated signal (iDPC) or the divergence (columns bright), with mode="iDPC" (--mode iDPC)',
        )
    inverted = _likeness(top) > _likeness(best) + _SAME
    if _likeness(best) < _MIN_LIKENESS or inverted:
        raise InputError(
            "image",
            f"likeness {_likeness(best):.2f} of 1" + (f", {_likeness(top):.2f} inverted" if inverted else ""),
            "does not look like the crystal along this zone axis (bright columns on a dark ground expected, or ABF)",
            "check crystal, zone axis and mode; invert a bright-field image",
        )
    rivals = [t for t in tried if t.power == best.power and t.polarity == best.polarity]
    rivals = [t for t in rivals if _likeness(t) > _likeness(best) - max(_SAME, 3 * t.fold.error)]
    alike = [equal_view(motif, best.frame, t.frame) for t in rivals]
    ambiguity = () if all(alike) else (_TURNS,)
    chosen = min((t for t, a in zip(rivals, alike, strict=True) if a), key=_turn)
    origin = chosen.fold.origin + corner
    if chosen.fold.second > _likeness(chosen) - max(_SAME, 3 * chosen.fold.error):
        ambiguity = (*ambiguity, UNDECIDED_SITES)
    named = mode or next(m for m in MODES if _allows(m, chosen))
    return Orientation(chosen.frame, origin, named, chosen.power, _likeness(chosen), chosen.polarity, ambiguity)


def _allows(mode: str, reading: _Try) -> bool:
    sign, powers = MODES[mode]
    return reading.polarity == sign and reading.power in powers


def _likeness(t: _Try) -> float:
    return t.fold.likeness


def _turn(t: _Try) -> float:
    return abs(lat.rotation_angle(t.frame))


def equal_view(motif: Motif, one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two maps (px per Å) show the same picture: they differ by a symmetry of the motif, up to a shift."""
    turn = motif.lattice @ other.T @ np.linalg.inv(one.T) @ np.linalg.inv(motif.lattice)
    whole = np.round(turn)
    if abs(abs(np.linalg.det(whole)) - 1) > 1e-6:
        return False
    moved = motif.position @ whole
    for shift in motif.position - moved[0]:
        gap = moved[:, None] + shift - motif.position[None]
        near = np.linalg.norm((gap - np.round(gap)) @ motif.lattice, axis=-1) < 0.3
        alike = np.abs(motif.strength[:, None] - motif.strength[None]) < 0.02 * motif.strength.max()
        if (near & alike).any(1).all():
            return True
    return False
