"""From pixels to labelled seeds: which columns an image shows, where, and at which place of the lattice."""

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from scipy.spatial import KDTree

from ferrojax.columns import lattice as lat
from ferrojax.columns.columns import SITES
from ferrojax.columns.index import find_peaks, fit_lattice, flatten, grow_lattice, site_seeds
from ferrojax.crystal.zone import Motif
from ferrojax.errors import InputError

MIN_CELLS = 12
_MIN_TEMPLATE = 0.5


class Seeds(eqx.Module):
    """Columns to fit, in NumPy.

    site: (n,) index into SITES, −1 without a crystal. column: (n,) row of the motif, −1 without a crystal.
    index: (n, 2) cell. position: (n, 2) px (x, y), some outside the image, where tails of columns reach in.
    rejection: (n,) index into REJECTIONS, why a seed's index is not to be trusted; 0 is accepted.
    stray: (m, 2) px, columns seen off the lattice; stray_rejection: (m,) why.
    frame: (2, 2), px = frame @ Å for vectors along the motif's axes. scale: px per Å.
    gap: Å, nearest distance between two columns that are seeded. polarity: 1 bright columns, −1 dark ones.
    ambiguity: what the intensities could not decide, one line each.
    """

    site: Int[np.ndarray, " n"]
    column: Int[np.ndarray, " n"]
    index: Int[np.ndarray, "n 2"]
    position: Float[np.ndarray, "n 2"]
    rejection: Int[np.ndarray, " n"]
    stray: Float[np.ndarray, "m 2"]
    stray_rejection: Int[np.ndarray, " m"]
    frame: Float[np.ndarray, "2 2"]
    scale: float
    gap: float
    polarity: int = eqx.field(static=True, default=1)
    ambiguity: tuple[str, ...] = eqx.field(static=True, default=())

    def __getitem__(self, rows: np.ndarray) -> "Seeds":
        """The chosen seeds (rows: integers or a mask), with everything else as it is."""
        names = ("site", "column", "index", "position", "rejection")
        chosen = [getattr(self, name)[rows] for name in names]
        return eqx.tree_at(lambda s: [getattr(s, name) for name in names], self, chosen)


def seed_columns(data: Float[np.ndarray, "rows cols"], sampling: Float[np.ndarray, "2"], motif: Motif) -> Seeds:
    """Label, index and roughly place the columns of an image, a margin round it included.

    sampling: (2,) Å per px as (y, x), as recorded.
    Errors: InputError where the image shows no lattice or too few cells of it, or crystal, zone axis or pixel
    size do not fit.
    """
    cells = data.size * sampling.prod() / abs(np.linalg.det(motif.lattice))
    if cells < MIN_CELLS:
        raise too_few(int(cells))
    px = lat.measure_lattice(data, motif, sampling)
    lat.check_fit(px, motif, sampling)
    scale = float(np.sqrt(np.linalg.det(px)))
    flat = flatten(data, scale, float(np.linalg.norm(motif.lattice, axis=1).max()))
    px, start = _locate(flat, motif, px)
    gap = column_gap(motif)
    peaks, _ = find_peaks(flat, 0.35 * gap * scale)
    known = grow_lattice(peaks, start, motif.lattice @ px.T, 0.3 * gap * scale)
    if len(known) < MIN_CELLS:
        raise too_few(len(known))
    known, lattice_px = _canonical(known)
    column, index, position = _all_seeds(known, motif, lattice_px, data.shape, 1.5 * gap * scale)
    position = _snapped(position, peaks, 0.25 * gap * scale)
    site = np.array([SITES.index(motif.label[c]) for c in range(len(motif.label))])[column]
    none = np.zeros((0, 2)), np.zeros(0, int)
    return Seeds(site, column, index, position, np.zeros(len(site), int), *none, px, scale, gap)


def seed_positions(data: Float[np.ndarray, "rows cols"], sampling: Float[np.ndarray, "2"]) -> Seeds:
    """Place every bright column of an image, without a crystal: site and column are −1, index is 0.

    sampling: (2,) Å per px as (y, x), as recorded; gap is the median distance of nearest columns.
    Errors: InputError where the image shows no lattice or fewer than 12 columns.
    """
    lat.Reflections(data).require()
    scale = 1 / float(np.sqrt(sampling.prod()))
    flat = flatten(data, scale, 4.0)
    peaks, height = find_peaks(flat, 0.6 * scale)
    keep = height > 0.12 * np.percentile(height, 95) if len(height) else np.zeros(0, bool)
    if keep.sum() < MIN_CELLS:
        raise too_few(int(keep.sum()))
    seed = peaks[keep]
    gap = float(np.median(KDTree(seed).query(seed, k=2)[0][:, 1])) / scale
    none = np.full(len(seed), -1)
    accepted = np.zeros(len(seed), int)
    index = np.zeros((len(seed), 2), int)
    stray = np.zeros((0, 2)), np.zeros(0, int)
    return Seeds(none, none, index, seed, accepted, *stray, np.diag(1 / sampling[::-1]), scale, gap)


def too_few(count: int) -> InputError:
    """The refusal of an image with too few cells."""
    return InputError(
        "image",
        f"{count} cells",
        "has too few columns on the lattice",
        f"give an image of at least {MIN_CELLS} complete cells, and check its pixel size",
    )


def inside(position: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(n,) bool, positions (n, 2) px that lie on an image of that shape."""
    return np.all((position >= 0) & (position <= np.array(shape[::-1]) - 1), axis=1)


def column_gap(motif: Motif) -> float:
    """Å, the nearest distance between two columns that are fitted (A and B)."""
    fitted = motif.offset[[i for i, name in enumerate(motif.label) if name != "O"]]
    cells = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ motif.lattice
    distance = np.linalg.norm(fitted[:, None, None] - fitted[None, :, None] - cells, axis=-1)
    return float(distance[distance > 1e-3].min())


def _locate(flat: np.ndarray, motif: Motif, px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map or its half turn, whichever fits the picture better, and where an A column is (px)."""
    found = []
    for turned in (px, -px):
        match = lat.template_score(flat, motif, turned)
        row, col = np.unravel_index(np.argmax(match), match.shape)
        found.append((float(match[row, col]), turned, np.array([col, row], float)))
        if _has_inversion(motif):
            break
    value, px, start = max(found[::-1], key=lambda f: f[0])
    if value == lat.NO_ROOM:
        raise too_few(int(flat.size * np.linalg.det(np.linalg.inv(px)) / abs(np.linalg.det(motif.lattice))))
    if value < _MIN_TEMPLATE or stats.skew(flat.ravel()) < -0.3:
        raise InputError(
            "image",
            f"likeness {value:.2f} of 1",
            "does not look like the crystal along this zone axis (bright columns on a dark ground expected)",
            "check crystal and zone axis; invert a bright-field image",
        )
    a_column = motif.offset[motif.label.index("A")]
    return px, start + px @ a_column


def _has_inversion(motif: Motif) -> bool:
    """Whether a half turn about column 0 leaves the motif as it is."""
    for i, here in enumerate(motif.position):
        gap = 2 * motif.position[0] - here - motif.position
        near = np.linalg.norm((gap - np.round(gap)) @ motif.lattice, axis=1) < 0.3
        if not any(near[j] and motif.label[j] == motif.label[i] for j in range(len(near))):
            return False
    return True


def _canonical(known: dict) -> tuple[dict, np.ndarray]:
    """Cells counted from the smallest index, and the measured lattice rows (px)."""
    index = np.array(list(known))
    low = index.min(0)
    _, lattice_px, _ = fit_lattice(index, np.array(list(known.values())))
    return {(i - int(low[0]), j - int(low[1])): p for (i, j), p in known.items()}, lattice_px


def _all_seeds(
    known: dict, motif: Motif, lattice_px: np.ndarray, shape: tuple[int, ...], margin: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The A columns that were indexed, where the B columns should be, and what lies a margin (px) outside.

    Motif column (n,), index (n, 2) and position (n, 2) px.
    """
    index, position = np.array(list(known)), np.array(list(known.values()))
    parts = [(motif.label.index("A"), index, position)]
    outer = np.array([[-margin, -margin], np.array(shape[::-1]) - 1 + margin])
    for label in "AB":
        for column in motif.sites(label)[: None if label == "B" else 1]:
            index, position = site_seeds(known, motif, column, lattice_px, outer)
            new = np.ones(len(index), bool)
            if label == "A":
                new = ~inside(position, shape) & np.array([(i, j) not in known for i, j in index], bool)
            parts.append((column, index[new], position[new]))
    return (
        np.concatenate([np.full(len(index), column) for column, index, _ in parts]),
        np.concatenate([index for _, index, _ in parts]),
        np.concatenate([position for _, _, position in parts]),
    )


def _snapped(position: np.ndarray, peaks: np.ndarray, reach: float) -> np.ndarray:
    """Start from the intensity maximum near the expected place, where there is one."""
    miss, near = KDTree(peaks).query(position)
    return np.where((miss < reach)[:, None], peaks[near], position)
