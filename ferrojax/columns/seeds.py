"""From pixels to labelled seeds: which columns an image shows, where, and at which place of the lattice."""

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.spatial import KDTree

from ferrojax.columns import lattice as lat
from ferrojax.columns.cells import find_cells
from ferrojax.columns.columns import ACCEPTED, EDGE, FAINT, OFF_LATTICE, SATURATED, SEAM, SITES
from ferrojax.columns.index import Cells, moved, surround, torn
from ferrojax.columns.lattice import MIN_CELLS, too_few
from ferrojax.columns.orientation import orient
from ferrojax.columns.pixels import Working, evened, find_peaks, flatten, saturated_pixels, working_grid
from ferrojax.columns.template import MODES, anchor
from ferrojax.crystal.zone import Motif
from ferrojax.errors import InputError

_BLURS = (0.3, 0.5)  # Å, sharp and soft
_NOISY, _OUTLIER = 0.4, 0.65  # scatter of a sublattice's maxima (rms) and of one of them, in units of the reach
_FINEST, _COARSEST = 0.15, 0.28  # Å per px where columns are sought
_TOO_COARSE = 0.5  # px in nearest distances between columns
_FAINT, _FAINT_UNSEEN, _SHOWN = 0.3, 0.4, 0.4
_ALIKE = 0.5  # log of the contrast of a column beside the last cells against its sublattice's
"""Shares of a sublattice's usual contrast: no column at a maximum, no column without one, a column beyond the cells."""


class Seeds(eqx.Module):
    """Columns to fit, in NumPy.

    site: (n,) index into SITES, −1 without a crystal. column: (n,) row of the motif, −1 without a crystal.
    index: (n, 2) cell. position: (n, 2) px (x, y), some outside the image, where tails of columns reach in.
    rejection: (n,) index into REJECTIONS, why a seed's index is not to be trusted; 0 is accepted.
    stray: (m, 2) px, columns seen off the lattice; stray_rejection: (m,) why.
    frame: (2, 2), px = frame @ Å for vectors along the motif's axes. scale: px per Å.
    gap: Å, nearest distance between two columns that are seeded. mode: the contrast found, "" without a crystal. polarity: 1 bright columns, −1 dark ones.
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
    mode: str = eqx.field(static=True, default="")
    polarity: int = eqx.field(static=True, default=1)
    ambiguity: tuple[str, ...] = eqx.field(static=True, default=())

    def __getitem__(self, rows: np.ndarray) -> "Seeds":
        """The chosen seeds (rows: integers or a mask), with everything else as it is."""
        names = ("site", "column", "index", "position", "rejection")
        chosen = [getattr(self, name)[rows] for name in names]
        return eqx.tree_at(lambda s: [getattr(s, name) for name in names], self, chosen)


def seed_columns(
    data: Float[np.ndarray, "rows cols"],
    sampling: Float[np.ndarray, "2"],
    motif: Motif,
    mode: str | None = None,
) -> Seeds:
    """Label, index and roughly place the columns of an image, a margin round it included.

    sampling: (2,) Å per px as (y, x), as recorded. mode: "HAADF", "ABF" or "iDPC"; None: told from the image.
    Pure oxygen columns are seeded where the mode shows them.
    Errors: InputError where the image shows no lattice or too few cells of it, or crystal, zone axis, contrast or
    pixel size do not fit.
    """
    if mode is not None and mode not in MODES:
        raise InputError("mode", mode, "is no imaging mode", f"choose one of {', '.join(MODES)}")
    cells = data.size * sampling.prod() / abs(np.linalg.det(motif.lattice))
    if cells < MIN_CELLS:
        raise too_few(int(cells))
    gap = column_gap(motif)
    pixel = float(np.sqrt(sampling.prod()))
    if pixel > _TOO_COARSE * gap:
        raise lat.refusal(data, sampling, motif)
    work = working_grid(data, pixel, float(np.clip(gap / 5, _FINEST, _COARSEST)), gap)
    scale = 1 / (pixel * work.step)
    period = float(np.linalg.norm(motif.lattice, axis=1).max())
    even, soft = (
        evened(flatten(work.data, scale, period, min(blur, 0.25 * gap), work.trusted), scale, period, work.trusted)
        for blur in _BLURS
    )
    recorded = np.diag(1 / (sampling[::-1] * work.step))
    orientation = orient(even, work.trusted, motif, recorded, mode)
    if orientation is None:
        raise lat.refusal(data, sampling, motif)
    lat.check_fit(orientation.frame * work.step, motif, sampling)
    scale = float(np.sqrt(np.linalg.det(orientation.frame)))
    even, soft = even * orientation.polarity, soft * orientation.polarity
    found = find_cells(even, work.trusted, motif, orientation, gap * scale)
    if len(found.cells.index) < MIN_CELLS:
        raise too_few(len(found.cells.index))
    cells, even = _clearer(found.cells, motif, (even, soft), gap * scale)
    return _seeds(data, work, even, motif, orientation, cells, mode is not None)


def _seeds(data, work: Working, even: np.ndarray, motif: Motif, orientation, cells: Cells, told: bool) -> Seeds:
    """Columns of the cells and of two rings round them, in image px."""
    lattice = np.median(cells.lattice, 0)
    frame = lattice.T @ np.linalg.inv(motif.lattice.T)
    scale = float(np.sqrt(np.linalg.det(frame)))
    shown = _resolved(even, cells, motif)
    visible = [k for k, name in enumerate(motif.label) if name != "O" or shown[k]]
    if told:
        visible = visible_columns(motif, orientation.mode)
    elif orientation.polarity < 0 and not any(motif.label[k] == "O" for k in visible):
        raise InputError(
            "image",
            "dark columns, none of oxygen",
            "does not look like ABF (bright columns on a dark ground expected)",
            'invert a bright-field or inverted image, or say mode="ABF"',
        )
    gap = column_gap(motif, visible) * scale
    cells = cells._replace(index=cells.index - cells.index[cells.region == cells.region.min()].min(0))
    peaks, height = find_peaks(even, max(0.3 * gap, 1.0), -np.inf)
    seam = torn(cells, 0.3 * float(np.linalg.norm(lattice, axis=1).min()))
    drawn = _columns(cells, motif, visible, np.where(seam, SEAM, ACCEPTED))
    rings = [surround(cells.chosen(cells.region == r), 2) for r in np.unique(cells.region)]
    beyond = Cells(*(np.concatenate(parts) for parts in zip(*rings, strict=True)))
    outer = _columns(beyond, motif, visible, np.zeros(len(beyond.index), int))
    drawn, outer = _settled(drawn, outer, peaks, 0.3 * gap)
    near = ((drawn.position >= -1.5 * gap) & (drawn.position <= np.array(even.shape[::-1]) - 1 + 1.5 * gap)).all(1)
    drawn = drawn.chosen(near)
    presence = _presence(even, work.trusted, drawn)
    faint = (drawn.rejection == ACCEPTED) & (presence < np.where(drawn.at_peak, _FAINT, _FAINT_UNSEEN))
    for k in visible:  # noise makes a faint sublattice look patchy: only what stands apart from it is missing
        mine = drawn.column == k
        faint[mine] &= presence[mine] < 1 - 4 * 1.48 * np.median(np.abs(presence[mine] - 1))
    drawn = drawn._replace(rejection=np.where(faint, FAINT, drawn.rejection))
    outer = _kept_outside(outer, drawn, even, work.trusted, peaks, gap, float(np.linalg.norm(lattice, axis=1).max()))
    both = _Drawn(*(np.concatenate(parts) for parts in zip(drawn, outer, strict=True)))
    blank = inside(both.position, even.shape) & (_pick(work.trusted, both.position, False) == 0)
    both = both._replace(rejection=np.where(blank, EDGE, both.rejection))
    stray = _strays(both, peaks, height, even, gap)
    return _assembled(data, work, motif, orientation, (both, stray, visible), frame)


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


def inside(position: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(n,) bool, positions (n, 2) px that lie on an image of that shape."""
    return np.all((position >= 0) & (position <= np.array(shape[::-1]) - 1), axis=1)


def column_gap(motif: Motif, columns: list[int] | None = None) -> float:
    """Å, the nearest distance between two of these columns; of all but pure oxygen if none are given."""
    if columns is None:
        columns = [i for i, name in enumerate(motif.label) if name != "O"] or list(range(len(motif.label)))
    offset = motif.offset[columns]
    cells = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ motif.lattice
    distance = np.linalg.norm(offset[:, None, None] - offset[None, :, None] - cells, axis=-1)
    return float(distance[distance > 1e-3].min())


def visible_columns(motif: Motif, mode: str) -> list[int]:
    """Columns of the motif that an imaging mode shows: all but pure oxygen in HAADF, everything elsewhere."""
    return [i for i, name in enumerate(motif.label) if name != "O" or mode != "HAADF"]


class _Drawn(NamedTuple):
    """Motif column (n,), cell (n, 2), position (n, 2) working px, rejection (n,), and whether a maximum is there (n,)."""

    column: np.ndarray
    index: np.ndarray
    position: np.ndarray
    rejection: np.ndarray
    at_peak: np.ndarray

    def chosen(self, rows: np.ndarray) -> "_Drawn":
        """The columns of these rows (integers or a mask)."""
        return _Drawn(*(a[rows] for a in self))


def _columns(cells: Cells, motif: Motif, visible: list[int], rejection: np.ndarray) -> _Drawn:
    """Where the columns of cells should be, by each cell's own lattice."""
    offset = motif.position[visible] - motif.position[anchor(motif)]
    position = cells.position[:, None] + np.einsum("ki,nij->nkj", offset, cells.lattice)
    many, n = len(visible), len(cells.index)
    column, index = np.tile(np.array(visible), n), np.repeat(cells.index, many, 0)
    return _Drawn(column, index, position.reshape(-1, 2), rejection.repeat(many), np.zeros(n * many, bool))


def _resolved(even: np.ndarray, cells: Cells, motif: Motif) -> np.ndarray:
    """(columns,) whether a column shows in the mean of all cells: a maximum, or a shoulder that bends down every way."""
    spokes = np.array([(1, 0), (0, 1), (0.7, 0.7), (0.7, -0.7)])
    shifts = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    around = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ motif.lattice
    few = cells.chosen(np.linspace(0, len(cells.index) - 1, min(len(cells.index), 2000)).astype(int))
    result = np.zeros(len(motif.label), bool)
    for k in range(len(motif.label)):
        distance = np.linalg.norm(motif.offset[k] - motif.offset[:, None] - around, axis=-1)
        nearest = float(distance[distance > 1e-3].min())
        middle = motif.offset[k] - motif.offset[anchor(motif)] + 0.15 * nearest * shifts
        points = middle[:, None, None] + 0.3 * nearest * np.array([-1, 0, 1])[:, None] * spokes[None, :, None]
        step = points.reshape(-1, 2) @ np.linalg.inv(motif.lattice)
        at = few.position[:, None] + np.einsum("ki,nij->nkj", step, few.lattice)
        value = ndimage.map_coordinates(even, at.reshape(-1, 2).T[::-1], order=1, mode="nearest")
        value = value.reshape(len(few.index), len(shifts), len(spokes), 3)
        bend = value[..., 0] - 2 * value[..., 1] + value[..., 2]
        clear = bend.mean(0) < -4 * bend.std(0) / np.sqrt(len(bend))
        result[k] = bool(clear.all(1).any())
    return result


def _snapped(drawn: _Drawn, peaks: np.ndarray, reach: float) -> _Drawn:
    """Start from the intensity maximum near the expected place, where there is one; no maximum serves two."""
    if not len(peaks) or not len(drawn.position):
        return drawn
    miss, near = KDTree(peaks).query(drawn.position)
    order = np.argsort(miss, kind="stable")
    first = order[np.unique(near[order], return_index=True)[1]]
    first = first[miss[first] < reach]
    position, at_peak = drawn.position.copy(), drawn.at_peak.copy()
    position[first], at_peak[first] = peaks[near[first]], True
    return drawn._replace(position=position, at_peak=at_peak)


def _clearer(cells: Cells, motif: Motif, images: tuple[np.ndarray, ...], gap: float) -> tuple[Cells, np.ndarray]:
    """Cells moved onto the maxima of their anchor columns, for the rest of a cell may be displaced against it, and
    the image (sharp, soft) whose maxima scatter less about the expected places: noise asks for the soft one."""
    best: tuple[float, Cells, np.ndarray] | None = None
    for image in images:
        drawn = _columns(cells, motif, [anchor(motif)], np.zeros(len(cells.index), int))
        found = _snapped(drawn, find_peaks(image, max(0.3 * gap, 1.0), -np.inf)[0], 0.3 * gap)
        gone = np.linalg.norm(found.position - drawn.position, axis=1)
        scatter = float(np.sqrt((np.where(found.at_peak, gone, 0.3 * gap) ** 2).mean()))
        if best is None or scatter < 0.8 * best[0]:
            at = found.position if scatter < _NOISY * 0.3 * gap else cells.position
            best = scatter, moved(cells, at), image
    assert best is not None
    return best[1:]


def _settled(drawn: _Drawn, outer: _Drawn, peaks: np.ndarray, reach: float) -> tuple[_Drawn, _Drawn]:
    """Columns on their maxima; those without one, and those of the border cells, follow the ones around.

    So do all of a sublattice whose maxima scatter about their neighbours' so much that noise must have made them.
    """
    found = _snapped(drawn, peaks, reach)
    inner, beyond = found.position.copy(), outer.position.copy()
    for k in np.unique(drawn.column):
        mine = np.nonzero((drawn.column == k) & found.at_peak)[0]
        if len(mine) < 9:
            continue
        tree, gap = KDTree(drawn.position[mine]), found.position[mine] - drawn.position[mine]
        apart = np.linalg.norm(gap - np.median(gap[tree.query(drawn.position[mine], k=9)[1]], 1), axis=1)
        rest = (drawn.column == k) & ~found.at_peak
        rest[mine[apart > max(_OUTLIER * reach, 5 * float(np.median(apart)))]] = True
        if np.sqrt((apart**2).mean()) > _NOISY * reach:
            rest = drawn.column == k
        for part, place, chosen in ((drawn, inner, rest), (outer, beyond, outer.column == k)):
            _, near = tree.query(part.position[chosen], k=9)
            place[chosen] = part.position[chosen] + np.median(gap[near], 1)
    return found._replace(position=inner), outer._replace(position=beyond)


def _pick(image: np.ndarray, position: np.ndarray, beyond: float) -> np.ndarray:
    """(n,) pixels of an image at positions (n, 2), `beyond` outside it."""
    column, row = np.round(position).astype(int).T
    on = (row >= 0) & (column >= 0) & (row < image.shape[0]) & (column < image.shape[1])
    return np.where(on, image[np.where(on, row, 0), np.where(on, column, 0)], beyond)


def _presence(even: np.ndarray, trusted: np.ndarray, drawn: _Drawn) -> np.ndarray:
    """(n,) contrast of a column above the ground, in units of its sublattice's nearby; 1 outside the image."""
    ground = float(np.percentile(even[trusted], 3))
    height = _pick(even, drawn.position, np.nan) - ground
    presence = np.ones(len(height))
    for k in np.unique(drawn.column):
        mine = np.nonzero((drawn.column == k) & np.isfinite(height))[0]
        if len(mine) > 9:
            _, near = KDTree(drawn.position[mine]).query(drawn.position[mine], k=9)
            presence[mine] = height[mine] / np.maximum(np.median(height[mine][near], 1), 1e-9)
    return presence


def _kept_outside(
    outer: _Drawn, drawn: _Drawn, even: np.ndarray, trusted, peaks: np.ndarray, gap: float, reach: float
) -> _Drawn:
    """Of the columns that the border cells expect: what lies off the image, and what shows on it."""
    snapped = _snapped(outer, peaks, 0.3 * gap)
    on = _pick(trusted, outer.position, 0) > 0
    size = np.array(even.shape[::-1]) - 1
    near = ((outer.position >= -1.5 * gap) & (outer.position <= size + 1.5 * gap)).all(1)
    rim = (np.minimum(outer.position, size - outer.position) < reach).any(1)  # where no cell is seen whole
    ground = float(np.percentile(even[trusted], 3))
    height = _pick(even, snapped.position, ground) - ground
    usual = np.full(len(height), np.inf)
    for k in np.unique(outer.column):
        mine, others = outer.column == k, drawn.position[drawn.column == k]
        _, row = KDTree(others).query(outer.position[mine], k=min(5, len(others)))
        usual[mine] = np.median(
            _pick(even, others[row.reshape(mine.sum(), -1).reshape(-1)], 0.0).reshape(mine.sum(), -1) - ground, 1
        )
    shown = (height > _SHOWN * usual) & rim
    sure = snapped.at_peak & (np.linalg.norm(snapped.position - outer.position, axis=1) < 0.15 * gap)
    beside = KDTree(drawn.position).query(outer.position, k=2)[0][:, 1] < 1.3 * gap
    shown |= sure & beside & (np.abs(np.log(np.maximum(height, 1e-9) / usual)) < _ALIKE)
    outer = snapped.chosen(np.where(on, shown, near))
    clear = KDTree(drawn.position).query(outer.position)[0] > 0.5 * gap
    known = {(int(c), int(i), int(j)) for c, (i, j) in zip(drawn.column, drawn.index, strict=True)}
    names = [(int(c), int(i), int(j)) for c, (i, j) in zip(outer.column, outer.index, strict=True)]
    outer = outer.chosen(clear & np.array([name not in known for name in names], bool).reshape(-1))
    if not len(outer.column):
        return outer
    pairs = KDTree(outer.position).query_pairs(0.5 * gap, output_type="ndarray")
    single = np.ones(len(outer.column), bool)
    single[pairs[:, 1]] = False
    outer = outer.chosen(single)
    names = np.column_stack([outer.column, outer.index])
    return outer.chosen(np.sort(np.unique(names, axis=0, return_index=True)[1]))


def _strays(both: _Drawn, peaks: np.ndarray, height: np.ndarray, even: np.ndarray, gap: float) -> np.ndarray:
    """(m, 2) working px, maxima as strong as a column and away from all seeds."""
    usual = [np.median(_pick(even, both.position[both.column == k], 0.0)) for k in np.unique(both.column)]
    strong = peaks[height > max(0.5 * max(usual), min(usual))]
    return strong[KDTree(both.position).query(strong)[0] > 0.7 * gap] if len(strong) else strong


def _assembled(
    data, work: Working, motif: Motif, orientation, drawn: tuple[_Drawn, np.ndarray, list[int]], frame
) -> Seeds:
    """Seeds in image px, those on clipped pixels marked."""
    both, stray, visible = drawn
    scale = float(np.sqrt(np.linalg.det(frame))) * work.step
    position, stray = work.to_image(both.position), work.to_image(stray)
    clipped = saturated_pixels(orientation.polarity * data)
    rejection = both.rejection
    if clipped.any():
        away = ndimage.distance_transform_edt(~clipped)
        row, column = (np.clip(np.round(position[:, k]).astype(int), 0, data.shape[1 - k] - 1) for k in (1, 0))
        hit = inside(position, data.shape) & (away[row, column] < 0.2 * column_gap(motif) * scale)
        if hit.sum() > 0.5 * len(hit):
            raise InputError(
                "image",
                f"{100 * hit.mean():.0f} % of its columns",
                "are clipped at the largest value",
                "record it again with less gain, or give the unclipped file",
            )
        rejection = np.where(hit, SATURATED, rejection)
    site = np.array([SITES.index(name) for name in motif.label])[both.column]
    return Seeds(
        site=site,
        column=both.column,
        index=both.index,
        position=position,
        rejection=rejection,
        stray=stray,
        stray_rejection=np.full(len(stray), OFF_LATTICE),
        frame=frame * work.step,
        scale=scale,
        gap=column_gap(motif, visible),
        mode=orientation.mode,
        polarity=orientation.polarity,
        ambiguity=orientation.ambiguity,
    )
