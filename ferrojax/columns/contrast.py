"""Whether columns are as bright as the crystal makes them: another material on the same lattice gives itself away."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from ferrojax.columns.columns import SITES, Columns
from ferrojax.crystal.zone import Motif
from ferrojax.errors import InputError

_POWER = {"HAADF": 1.0, "iDPC": 0.5}
"""Of the ratio that Z^1.7 gives; ABF follows thickness and focus more than Z, and says nothing."""
_TELLING = 0.3
"""Expected log ratio of A to B from which intensities say anything."""
_LEAST = 0.2
"""Of the expected log ratio: what is measured, with all that thickness and overlap do to it, is not below."""
_ROUND = 9
"""B columns whose median counts, so that one odd column is not another material."""
_NEIGHBOURS = 4
_BELOW = 0.1
"""Of an image's range: how far its ground lies below zero where it is no count of electrons."""
_NO_COUNTS = (
    "the image falls below zero, as no dark field does. A differential or filtered signal (dDPC) draws every column in "
    'a dark ring, which pulls its neighbours: pass mode="iDPC" (--mode iDPC) if it is one; a dark field less its mean '
    "is read right as it is"
)
_MOST = 0.75
"""Share of B columns from which the image, and not a part of it, is of something else."""


def unlike(
    site: Int[np.ndarray, " n"],
    position: Float[np.ndarray, "n 2"],
    intensity: Float[np.ndarray, " n"],
    motif: Motif,
    mode: str,
) -> Bool[np.ndarray, " n"]:
    """(n,) B columns about which A and B are not as bright, against each other, as the crystal makes them.

    Raises InputError where that is most of the image.
    """
    expected = _POWER.get(mode, 0.0) * expected_contrast(motif)
    a, b = (np.nonzero(site == s)[0] for s in (0, 1))
    answer = np.zeros(len(site), bool)
    if abs(expected) < _TELLING or len(a) < _NEIGHBOURS or len(b) < _ROUND:
        return answer
    nearest = KDTree(position[a]).query(position[b], k=_NEIGHBOURS)[1]
    ratio = np.median(_log(intensity[a])[nearest], axis=1) - _log(intensity[b])
    around = KDTree(position[b]).query(position[b], k=_ROUND)[1]
    ratio = np.median(ratio[around], axis=1)
    answer[b] = ratio / expected < _LEAST
    if answer[b].mean() > _MOST:
        raise InputError(
            "crystal",
            f"A/B intensity {np.exp(np.median(ratio)):.2f}",
            f"expects {np.exp(expected):.1f}: what looks like A and B is not",
            "check crystal, zone axis and pixel size",
        )
    return answer


def no_counts(data: Float[np.ndarray, " n"], mode: str) -> tuple[str, ...]:
    """A line to say where an image taken for a dark field lies below zero."""
    low, high = np.percentile(data, (20, 99))
    return (_NO_COUNTS,) if mode == "HAADF" and low < -_BELOW * (high - low) else ()


def expected_contrast(motif: Motif) -> float:
    """Log ratio of the brightness of A to that of B (HAADF); 0 where one of them is missing."""
    if not {"A", "B"} <= set(motif.label):
        return 0.0
    a, b = (motif.strength[motif.label.index(s)] for s in SITES[:2])
    return float(np.log(a / b))


def measured_contrast(columns: Columns) -> float:
    """The same of an image's accepted columns; 0 where one kind is missing."""
    site, intensity = np.asarray(columns.site), np.asarray(columns.intensity, float)
    seen = [intensity[columns.accepted & (site == s)] for s in (0, 1)]
    if not all(len(values) for values in seen):
        return 0.0
    return float(_log(np.median(seen[0])) - _log(np.median(seen[1])))


def _log(intensity):
    return np.log(np.maximum(intensity, 1e-9))
