"""From an image to fitted, indexed and calibrated columns."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from os import PathLike
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np

from ferrojax.checks import check_numbers
from ferrojax.columns.assemble import assemble, at_edge, rejections
from ferrojax.columns.calibration import calibrate
from ferrojax.columns.columns import ACCEPTED, FAINT, JUMP, UNLIKE, Columns
from ferrojax.columns.contrast import no_counts, unlike
from ferrojax.columns.distortion.jumps import beside_jumps, scan_jumps, without_jumps
from ferrojax.columns.faulty_pixels import saturated_pixels, without_spikes
from ferrojax.columns.fitting.fit import FitSettings, FittedColumns, fit_columns
from ferrojax.columns.fitting.noise import Noise, PoissonNoise
from ferrojax.columns.indexing.seeds import MIN_CELLS, Seeds, inside, seed_columns, seed_positions, too_few
from ferrojax.columns.indexing.template import anchor
from ferrojax.columns.oxygen import hidden_oxygen
from ferrojax.columns.superstructure import Modulation, modulations
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.given import given_crystal
from ferrojax.crystal.zone import Motif, projected_motif
from ferrojax.errors import InputError
from ferrojax.image import FAINTEST, Image

CORE = 0.5
OXYGEN_UNSURE = 0.5
"""Share by which the brightness of oxygen under a column is unknown: thickness, focus and tilt change it by as much."""
_NARROWEST = 0.6
"""px, rms radius of columns; at that error bars are up to a quarter too small, below they soon are half of what they
should be."""
_KNOTS = 3.0
"""Periods of the lattice between the knots of the background."""
_ONE_IMAGE = "pass one two-dimensional image"


class FindOptions(TypedDict, total=False):
    """Keywords of `find_columns`."""

    mode: str | None
    noise: Noise | str | None
    core: float | None
    oxygen: bool
    progress: Callable[[str], None] | None


class FoundColumns(NamedTuple):
    """Columns of an image beside what the fit left of it.

    columns: as `find_columns` returns them. model: (rows, cols) the fitted image, background included, in the image's
    unit; variance: (rows, cols) of its noise as the fit weighted it, that unit squared; left: (rows, cols), share of it
    that the fit left in image − model; seen: (rows, cols), pixels that counted. stray: (m, 2) px (x, y), columns seen
    that belong to no site of the lattice.
    mode: "HAADF", "ABF" or "iDPC", "" without a crystal.
    ambiguity: what the intensities could not decide, one line each. spikes: hot and dead pixels, which do not count.
    jumps: line (px) and displacement (2,) px of every jump of the scan. other_periods: amplitude of the strongest
    period in image − model that is no period of the lattice, over the lattice's strongest; from maps only.
    blank: (rows, cols), pixels that hold no measurement: bars, padding, lost lines.
    modulations: what is ordered on the lattice with a period of several cells.
    """

    columns: Columns
    model: np.ndarray
    variance: np.ndarray
    left: np.ndarray
    seen: np.ndarray
    stray: np.ndarray
    blank: np.ndarray
    mode: str
    ambiguity: tuple[str, ...]
    spikes: int = 0
    other_periods: float = 0.0
    jumps: tuple[tuple[float, tuple[float, float]], ...] = ()
    modulations: tuple[Modulation, ...] = ()


class _Options(NamedTuple):
    mode: str | None = None
    noise: Noise | None = None
    core: float | None = CORE
    oxygen: bool = False
    progress: Callable[[str], None] = lambda _: None


def find_columns(
    image: Image,
    crystal: Crystal | str | PathLike[str] | None = None,
    zone: Sequence[int] | None = None,
    **options: Unpack[FindOptions],
) -> Columns:
    """Find and fit the atomic columns of an image, all of them together by maximum likelihood.

    With a crystal (zone defaults to (0, 0, 1)) the columns are labelled, indexed and calibrated on the lattice; without
    one every column is fitted that is bright or on a site of the lattice that the bright ones show, and positions are
    in recorded Å. crystal: a Crystal, a name of the library or the path of a structure file.
    Options, all by keyword:
    mode: "HAADF" (or any dark field), "ABF" or "iDPC"; None tells it from the image.
    noise: `PoissonNoise` ("poisson" for counts) or `GaussianNoise` where it is known; None takes it from the residuals.
    core: 0.5; pixels farther from every column than this share of the nearest distance between columns do not count
    (None: all do): there a real image shows tails and faint columns that no model draws, and they bias positions.
    oxygen: draw the oxygen that projects under B where the crystal's soft mode puts it, and tails common to all
    columns, so that neither pulls B along. Right for a dark field in focus and a sample that follows that mode; the
    error bars hold half of what is taken out (`Columns.oxygen_error`).
    progress: called with a word before every stage.
    Single pixels far outside everything else (hot or dead ones) do not count.
    Errors: InputError where the image shows no lattice, zone axis, crystal, contrast or pixel size do not fit, fewer
    than 12 cells are complete, or an option is unknown or out of its range.
    """
    return find_with_model(image, crystal, zone, **options).columns


def find_with_model(
    image: Image,
    crystal: Crystal | str | PathLike[str] | None = None,
    zone: Sequence[int] | None = None,
    **options: Unpack[FindOptions],
) -> FoundColumns:
    """`find_columns`, with the fitted image and what the search decided; arguments and errors as there."""
    if crystal is None:
        if zone is not None:
            raise InputError("zone axis", tuple(zone), "means nothing without a crystal", "give crystal too")
        return _found_along(image, None, _checked(options))
    crystal = given_crystal(crystal)
    return find_with_motif(image, crystal, projected_motif(crystal, (0, 0, 1) if zone is None else zone), **options)


def find_with_motif(image: Image, crystal: Crystal, motif: Motif, **options: Unpack[FindOptions]) -> FoundColumns:
    """`find_with_model` along the zone axis of a motif of that crystal, whose rows `Columns.column` then names."""
    return _found_along(image, (crystal, motif), _checked(options))


def _found_along(image: Image, seen_along: tuple[Crystal, Motif] | None, chosen: _Options) -> FoundColumns:
    data, spikes = without_spikes(image_data(image))
    sampling = np.asarray(image.sampling, float)
    chosen.progress("finding columns")
    if seen_along is None:
        found = _unlabelled(data, sampling, chosen, ~spikes)
    else:
        found = _labelled(data, sampling, seen_along, chosen, ~spikes)
    return found._replace(spikes=int(spikes.sum()))


def _checked(options: Mapping[str, Any]) -> _Options:
    """The options with their defaults; InputError for a name or a value that means nothing."""
    for name in options:
        if name not in _Options._fields:
            close = get_close_matches(name, _Options._fields, 1)
            hint = f"did you mean {close[0]}? The options are" if close else "the options are"
            raise InputError("option", name, "is unknown", f"{hint} {', '.join(_Options._fields)}")
    chosen = _Options()._replace(**{k: v for k, v in options.items() if k != "progress" or v is not None})
    if isinstance(chosen.noise, str) and chosen.noise.lower() == "poisson":
        chosen = chosen._replace(noise=PoissonNoise())
    if isinstance(chosen.noise, type) or not (chosen.noise is None or hasattr(chosen.noise, "standardised")):
        remedy = 'pass PoissonNoise(gain, offset), GaussianNoise(sd), "poisson" for counts, or None'
        raise InputError("noise", chosen.noise, "is no noise", remedy)
    if chosen.core is not None:
        remedy = f"pass a share of the distance between columns such as {CORE}, or None for all pixels"
        check_numbers("core", chosen.core, remedy, above=0.0)
    if not isinstance(chosen.oxygen, bool | np.bool_):
        raise InputError("oxygen", chosen.oxygen, "is neither True nor False", "pass True or False")
    return chosen


def image_data(image: Image) -> np.ndarray:
    """(rows, cols) float64 pixels that can be analysed, or an InputError."""
    if not isinstance(image, Image):
        remedy = "pass Image(data, sampling), with the pixel size in Å"
        raise InputError("image", type(image).__name__, "is no Image: its pixel size is not known", remedy)
    data = np.asarray(image.data, np.float64)
    if data.ndim != 2:
        raise InputError("image", f"shape {data.shape}", "is a stack of images", _ONE_IMAGE)
    bad = int((~np.isfinite(data)).sum())
    if bad:
        raise InputError("image", f"{bad} pixels", "has NaN or infinite pixels", "crop or repair the image")
    if data.max() == data.min():
        raise InputError("image", f"all pixels {data.flat[0]:g}", "is constant", "give an image with columns")
    largest = float(np.abs(data).max())
    if largest < FAINTEST:
        shown = f"values up to {largest:.3g}"
        raise InputError("image", shown, "is too faint for single precision", "divide it by its maximum")
    if min(data.shape) < 16:
        raise InputError("image", f"shape {data.shape}", "is too small for a lattice", "give at least 4 cells a side")
    return data


def _settings(knots: float, seeds: Seeds, options: _Options) -> FitSettings:
    core = None if options.core is None else options.core * seeds.gap * seeds.scale
    noise = None if options.noise is None else options.noise.standardised(0.0, float(seeds.polarity))
    return FitSettings(knots * seeds.scale, noise=noise, core=core, halo=options.oxygen)


def _labelled(
    data: np.ndarray, sampling: np.ndarray, seen_along: tuple[Crystal, Motif], options: _Options, counts: np.ndarray
) -> FoundColumns:
    crystal, motif = seen_along
    seeds = seed_columns(data, sampling, motif, options.mode)
    options.progress(f"fitting {len(seeds.site)} columns")
    settings = _settings(_KNOTS * float(np.linalg.norm(motif.lattice, axis=1).max()), seeds, options)
    start = np.concatenate([seeds.position, seeds.stray])
    group = np.concatenate([seeds.column, np.full(len(seeds.stray), len(motif.label))])
    bright = seeds.polarity * data
    satellites = hidden_oxygen(seeds, crystal, motif) if options.oxygen else None
    counts = counts & ~saturated_pixels(bright) & ~seeds.blank
    fitted = fit_columns(bright, start, group, settings, counts, satellites)
    unsure = None
    if satellites is not None:
        fitted = fitted._replace(covariance=satellites.sharpened(fitted.covariance))
        unsure = OXYGEN_UNSURE * satellites.pull(fitted.position)
    options.progress("checking columns")
    _check_resolved(fitted, seeds)
    stray = fitted.position[len(seeds.site) :]
    seen = inside(seeds.position, data.shape)
    fitted, seeds = fitted.chosen(np.nonzero(seen)[0]), seeds[seen]
    unsure = None if unsure is None else unsure[np.nonzero(seen)[0]]
    rejection = rejections(fitted, seeds, bright)
    # The lattice may end at the image's edge: what is not there is not missing.
    real = (rejection != FAINT) | ~at_edge(fitted.position, data.shape, seeds.gap * seeds.scale)
    fitted, seeds, rejection = fitted.chosen(real), seeds[real], rejection[real]
    unsure = None if unsure is None else unsure[real]
    anchored = (seeds.column == anchor(motif)) & (rejection == ACCEPTED)
    good = rejection == ACCEPTED
    lines = scan_jumps(fitted.position[good], seeds.index[good], seeds.column[good], anchor(motif), data.shape[0])
    torn = beside_jumps(fitted.position, lines[0], 0.5 * float(np.abs(motif.lattice @ seeds.frame.T)[:, 1].sum()))
    rejection = np.where(torn & (rejection == ACCEPTED), JUMP, rejection)
    anchored &= rejection == ACCEPTED
    if anchored.sum() < MIN_CELLS:
        raise too_few(int(anchored.sum()))
    strange = unlike(seeds.site, fitted.position, fitted.amplitude * fitted.width**2, motif, seeds.mode)
    rejection = np.where(strange & (rejection == ACCEPTED), UNLIKE, rejection)
    even = without_jumps(fitted.position[anchored], *lines)
    calibration = calibrate(even, seeds.index[anchored], motif, sampling, anchor(motif))
    columns = assemble(bright, fitted, seeds, (rejection, anchored), calibration, unsure)
    found = _found(columns, fitted, seeds, stray[inside(stray, data.shape)])
    jumps = tuple((float(y), (float(u), float(v))) for y, (u, v) in zip(*lines, strict=True))
    doubts = (*found.ambiguity, *(no_counts(data[counts], seeds.mode) if options.mode is None else ()))
    return found._replace(jumps=jumps, modulations=modulations(columns), ambiguity=doubts)


def _check_resolved(fitted: FittedColumns, seeds: Seeds) -> None:
    """Refuse columns that fall between the pixels: positions and error bars of them mean nothing."""
    width = float(np.median(fitted.width[: len(seeds.site)]))
    if width < _NARROWEST:
        raise InputError(
            "image",
            f"columns of {width:.2f} px rms",
            "has columns too narrow for its pixels to be placed",
            f"record with finer pixels, so that their rms radius is at least {_NARROWEST:g} px",
        )


def _found(columns: Columns, fit: FittedColumns, seeds: Seeds, stray: np.ndarray) -> FoundColumns:
    return FoundColumns(
        columns=columns,
        model=seeds.polarity * fit.image,
        variance=fit.variance,
        left=fit.left,
        seen=fit.seen,
        stray=stray,
        blank=seeds.blank,
        mode=seeds.mode,
        ambiguity=seeds.ambiguity,
    )


def _unlabelled(data: np.ndarray, sampling: np.ndarray, options: _Options, counts: np.ndarray) -> FoundColumns:
    seeds = seed_positions(data, sampling, options.mode)
    bright = seeds.polarity * data
    settings = _settings(_KNOTS * 2 * seeds.gap, seeds, options)._replace(spread=0.2)
    counts = counts & ~saturated_pixels(bright) & ~seeds.blank
    fitted = fit_columns(bright, seeds.position, np.maximum(seeds.column, 0), settings, counts)
    seen = inside(seeds.position, data.shape)
    fitted, seeds = fitted.chosen(np.nonzero(seen)[0]), seeds[seen]
    rejection = rejections(fitted, seeds, bright)
    columns = assemble(bright, fitted, seeds, (rejection, np.zeros(len(rejection), bool)), None)
    return _found(columns, fitted, seeds, np.zeros((0, 2)))
