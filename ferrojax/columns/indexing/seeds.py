"""From pixels to labelled seeds: which columns an image shows, where, and at which place of the lattice."""

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from ferrojax.columns.columns import ACCEPTED, EDGE, OFF_LATTICE, SATURATED, SEAM, SITES
from ferrojax.columns.faulty_pixels import saturated_pixels, unmeasured_pixels
from ferrojax.columns.indexing import lattice as lat
from ferrojax.columns.indexing.border import beside_regions, faint_marked, kept_outside, strays
from ferrojax.columns.indexing.cells import find_cells
from ferrojax.columns.indexing.index import Cells, nearest, surround, torn
from ferrojax.columns.indexing.lattice import MIN_CELLS, too_few
from ferrojax.columns.indexing.orientation import orient
from ferrojax.columns.indexing.pixels import Working, evened, find_peaks, flatten, working_grid
from ferrojax.columns.indexing.place import Drawn, View, clearer, drawn_columns, inside, pick, resolved, settled
from ferrojax.columns.indexing.template import MODES
from ferrojax.columns.indexing.unlabelled import lattice_sites
from ferrojax.crystal.zone import Motif
from ferrojax.errors import InputError

_BLURS = (0.3, 0.5)  # Å, sharp and soft
_FINEST, _COARSEST = 0.15, 0.28  # Å per px where columns are sought
_TOO_COARSE = 0.5  # px in nearest distances between columns
_SEPARABLE = 0.8  # Å
_GAP = 2.0  # Å, about the distance of columns of which nothing is known


class Seeds(eqx.Module):
    """Columns to fit, in NumPy.

    site: (n,) index into SITES, −1 without a crystal. column: (n,) row of the motif; without a crystal the site of the
    mean cell, −1 on no lattice.
    index: (n, 2) cell. position: (n, 2) px (x, y), some outside the image, where tails of columns reach in.
    rejection: (n,) index into REJECTIONS, why a seed's index is not to be trusted; 0 is accepted.
    stray: (m, 2) px, columns seen off the lattice; stray_rejection: (m,) why.
    frame: (2, 2), px = frame @ Å for vectors along the motif's axes. scale: px per Å.
    gap: Å, nearest distance between two columns that are seeded. mode: the contrast found, "" without a crystal.
    polarity: 1 bright columns, −1 dark ones. blank: (rows, cols), pixels that hold no measurement.
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
    blank: Bool[np.ndarray, "rows cols"]
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
    if mode is not None:
        _checked(mode)
    cells = data.size * sampling.prod() / abs(np.linalg.det(motif.lattice))
    if cells < MIN_CELLS:
        raise too_few(int(cells))
    gap = column_gap(motif)
    pixel = float(np.sqrt(sampling.prod()))
    if pixel > _TOO_COARSE * gap:
        raise lat.refusal(data, sampling, motif)
    blank = unmeasured_pixels(data, gap / pixel)
    work = working_grid(data, ~blank, pixel, float(np.clip(gap / 5, _FINEST, _COARSEST)))
    scale = 1 / (pixel * work.step)
    period = float(np.linalg.norm(motif.lattice, axis=1).max())
    plain = [flatten(work.data, scale, period, min(blur, 0.25 * gap), work.trusted) for blur in _BLURS]
    even, soft = (evened(flat, scale, period, work.trusted) for flat in plain)
    recorded = np.diag(1 / (sampling[::-1] * work.step))
    orientation = orient((even, plain[0]), work.trusted, motif, recorded, mode)
    if orientation is None:
        raise lat.refusal(data, sampling, motif)
    lat.check_fit(orientation.frame * work.step, motif, sampling)
    scale = float(np.sqrt(np.linalg.det(orientation.frame)))
    even, soft = even * orientation.polarity, soft * orientation.polarity
    cells = find_cells(even, work.trusted, motif, orientation, gap * scale)
    if len(cells.index) < MIN_CELLS:
        raise lat.too_narrow(work.data.shape, motif, recorded) or too_few(len(cells.index))
    cells, even = clearer(cells, motif, (even, soft), gap * scale)
    seeds = _seeds(data, work, even, motif, orientation, cells, mode is not None)
    return eqx.tree_at(lambda s: s.blank, seeds, blank)


def _checked(mode: str) -> int:
    """The sign of a mode's contrast, or an InputError where there is no such mode."""
    if mode not in MODES:
        raise InputError("mode", mode, "is no imaging mode", f"choose one of {', '.join(MODES)}")
    return MODES[mode][0]


def _seeds(data, work: Working, even: np.ndarray, motif: Motif, orientation, cells: Cells, told: bool) -> Seeds:
    """Columns of the cells and of two rings round them, in image px."""
    lattice = np.median(cells.lattice, 0)
    frame = lattice.T @ np.linalg.inv(motif.lattice.T)
    visible = _visible(even, cells, motif, orientation, told)
    orientation = orientation._replace(mode=_contrast_name(motif, orientation, visible, told))
    gap = column_gap(motif, visible) * float(np.sqrt(np.linalg.det(frame)))
    length = np.linalg.norm(lattice, axis=1)
    view = View(even, work.trusted, *find_peaks(even, max(0.3 * gap, 1.0), -np.inf), gap, float(length.max()))
    cells = cells._replace(index=cells.index - cells.index[cells.region == cells.region.min()].min(0))
    seam = torn(cells, 0.3 * float(length.min()))
    drawn = drawn_columns(cells, motif, visible, np.where(seam, SEAM, ACCEPTED))
    rings = [surround(cells.chosen(cells.region == r), 2) for r in np.unique(cells.region)]
    beyond = Cells(*(np.concatenate(parts) for parts in zip(*rings, strict=True)))
    outer = drawn_columns(beyond, motif, visible, np.zeros(len(beyond.index), int))
    drawn, outer = settled(drawn, outer, view)
    size, margin = np.array(even.shape[::-1]) - 1, 1.5 * gap
    drawn = drawn.chosen(np.all((drawn.position >= -margin) & (drawn.position <= size + margin), axis=1))
    drawn = faint_marked(drawn, view)
    outer = kept_outside(beside_regions(outer, beyond, len(visible), cells), drawn, view)
    both = Drawn(*(np.concatenate(parts) for parts in zip(drawn, outer, strict=True)))
    blank = inside(both.position, even.shape) & ~pick(work.trusted, both.position, False)
    both = both._replace(rejection=np.where(blank, EDGE, both.rejection))
    return _assembled(data, work, motif, orientation, (both, strays(both, view), visible), frame)


def _visible(even: np.ndarray, cells: Cells, motif: Motif, orientation, told: bool) -> list[int]:
    """Columns of the motif to seed: strong ones, and pure oxygen and other faint ones where they show, or where the
    mode that was told shows them."""
    clear = _clear(motif)
    shown = np.full(len(clear), orientation.mode != "HAADF") if told else resolved(even, cells, motif)
    visible = separable(motif, [int(k) for k in np.nonzero(clear | shown)[0]])
    if told:
        return visible
    if orientation.polarity < 0 and not any(motif.label[k] == "O" for k in visible):
        raise InputError(
            "image",
            "dark columns, none of oxygen",
            "does not look like ABF (bright columns on a dark ground expected)",
            'invert a bright-field or inverted image, or say mode="ABF"',
        )
    return visible


def seed_positions(
    data: Float[np.ndarray, "rows cols"], sampling: Float[np.ndarray, "2"], mode: str | None = None
) -> Seeds:
    """Place every column of an image, or every dark one in ABF, without a crystal: site is −1.

    Where the clear columns lie on a lattice, its mean cell says where the faint ones are, and column numbers its sites;
    what lies on no lattice has −1.

    sampling: (2,) Å per px as (y, x), as recorded; gap is the median distance of nearest columns. mode: as for
    `seed_columns`; without one columns are taken for bright. The index is 0.
    Errors: InputError where the image shows no lattice or fewer than 12 columns.
    """
    polarity = 1 if mode is None else _checked(mode)
    scale = 1 / float(np.sqrt(sampling.prod()))
    blank = unmeasured_pixels(data, _GAP * scale)
    lat.Reflections(np.where(blank, np.median(data[~blank]), data) if blank.any() else data).require()
    flat = polarity * flatten(data, scale, 4.0, trusted=~blank)
    peaks, height = find_peaks(flat, 0.6 * scale)
    keep = height > 0.12 * np.percentile(height, 95) if len(height) else np.zeros(0, bool)
    if keep.sum() < MIN_CELLS:
        raise too_few(int(keep.sum()))
    seed = peaks[keep]
    column = np.full(len(seed), -1)
    sites = lattice_sites(flat, ~blank, seed)
    if sites is not None:
        apart = float(np.median(nearest(sites.position, sites.position, 2)[0][:, 1]))  # some lie outside the image
        off = nearest(sites.position, seed)[0] > 0.5 * apart
        column = np.concatenate([sites.site, column[off]])
        seed = np.concatenate([sites.position, seed[off]])
    gap = float(np.median(nearest(seed, seed, 2)[0][:, 1])) / scale
    none = np.full(len(seed), -1)
    accepted = np.zeros(len(seed), int)
    index = np.zeros((len(seed), 2), int)
    stray, frame = (np.zeros((0, 2)), np.zeros(0, int)), np.diag(1 / sampling[::-1])
    return Seeds(none, column, index, seed, accepted, *stray, frame, scale, gap, blank, polarity=polarity)


def column_gap(motif: Motif, columns: list[int] | None = None) -> float:
    """Å, the nearest distance between two of these columns; of all that HAADF shows if none are given."""
    if columns is None:
        columns = separable(motif, [int(k) for k in np.nonzero(_clear(motif))[0]])
    distance = _distances(motif, columns)
    return float(distance[distance > 1e-3].min())


def _clear(motif: Motif) -> np.ndarray:
    """(columns,) what HAADF shows: cations above 8 % of the strongest column, anions above 20 %."""
    least = np.where(np.array(motif.label) == "O", 0.2, 0.08)
    return motif.strength >= least * motif.strength.max()


def separable(motif: Motif, columns: list[int]) -> list[int]:
    """Of these columns those that an image can tell apart: where two are too close, the stronger one."""
    distance = _distances(motif, list(range(len(motif.label)))).min(2)
    kept: list[int] = []
    for k in sorted(columns, key=lambda k: -float(motif.strength[k])):
        if all(distance[k, other] >= _SEPARABLE for other in kept):
            kept.append(k)
    return sorted(kept)


def _distances(motif: Motif, columns: list[int]) -> np.ndarray:
    """(k, k, 9) Å between columns and their images in the cells around."""
    offset = motif.offset[columns]
    cells = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ motif.lattice
    return np.linalg.norm(offset[:, None, None] - offset[None, :, None] - cells, axis=-1)


def _contrast_name(motif: Motif, orientation, visible: list[int], told: bool) -> str:
    """The mode that was told; else ABF where columns are dark, iDPC where columns show that HAADF would not."""
    if told or orientation.polarity < 0:
        return orientation.mode
    return "iDPC" if (~_clear(motif))[visible].any() else "HAADF"


def _assembled(
    data, work: Working, motif: Motif, orientation, drawn: tuple[Drawn, np.ndarray, list[int]], frame
) -> Seeds:
    """Seeds in image px, those on clipped pixels marked."""
    both, stray, visible = drawn
    scale = float(np.sqrt(np.linalg.det(frame))) * work.step
    position, stray = work.to_image(both.position), work.to_image(stray)
    clipped = saturated_pixels(orientation.polarity * data)
    rejection = both.rejection
    if clipped.any():
        away = np.asarray(ndimage.distance_transform_edt(~clipped))
        row, column = (np.clip(np.round(position[:, k]).astype(int), 0, data.shape[1 - k] - 1) for k in (1, 0))
        hit = inside(position, data.shape) & (away[row, column] < 0.2 * column_gap(motif) * scale)
        seen = inside(position, data.shape)
        share, name = max((hit[seen & (both.column == k)].mean(), motif.label[k]) for k in set(both.column[seen]))
        if share > 0.5:
            raise InputError(
                "image",
                f"{100 * share:.0f} % of its {name} columns",
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
        blank=np.zeros(data.shape, bool),
        mode=orientation.mode,
        polarity=orientation.polarity,
        ambiguity=orientation.ambiguity,
    )
