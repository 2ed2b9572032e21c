"""From an image to fitted, indexed and calibrated columns."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg, stats
from scipy.spatial import KDTree

from ferrojax.columns import lattice as lat
from ferrojax.columns.columns import ACCEPTED, EDGE, FAINT, MOVED, POOR, SITES, WIDTH, Calibration, Columns
from ferrojax.columns.fit import AMPLITUDE, LOG_WIDTH, FitPlan, FittedColumns, fit_columns
from ferrojax.columns.index import find_peaks, fit_lattice, flatten, grow_lattice, site_seeds
from ferrojax.columns.uncertainty import noise_statistics, scan_scatter
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.zone import Motif, projected_motif
from ferrojax.errors import InputError
from ferrojax.image import Image

MIN_CELLS = 12
_MIN_TEMPLATE = 0.5
_WINDOW = 0.56  # of the nearest distance between columns
_GUESS = 0.45  # Å, rms radius of a column
_ONE_IMAGE = "pass one two-dimensional image"


class _Seeds(NamedTuple):
    """Columns to fit: sublattice (n,), lattice index (n, 2) and first position (n, 2) px."""

    site: np.ndarray
    index: np.ndarray
    position: np.ndarray


def find_columns(image: Image, crystal: Crystal | None = None, zone: Sequence[int] | None = None) -> Columns:
    """Find and fit the atomic columns of an ADF or HAADF image (bright columns on a dark ground).

    With a crystal (zone defaults to (0, 0, 1)) the A and B columns are labelled, indexed and calibrated on
    the lattice; without one every bright column is fitted and positions are in recorded Å.
    Errors: InputError where the image shows no lattice, the zone axis or the pixel size does not fit, or
    fewer than 12 cells are complete.
    """
    data = image_data(image)
    sampling = np.asarray(image.sampling, float)
    if crystal is None:
        if zone is not None:
            raise InputError("zone axis", tuple(zone), "means nothing without a crystal", "give crystal too")
        return _unlabelled(data, sampling)
    motif = projected_motif(crystal, (0, 0, 1) if zone is None else zone)
    return _labelled(data, sampling, motif)


def image_data(image: Image) -> np.ndarray:
    """(rows, cols) float64 pixels that can be analysed, or an InputError."""
    data = np.asarray(image.data, np.float64)
    if data.ndim != 2:
        raise InputError("image", f"shape {data.shape}", "is a stack of images", _ONE_IMAGE)
    bad = int((~np.isfinite(data)).sum())
    if bad:
        raise InputError("image", f"{bad} pixels", "has NaN or infinite pixels", "crop or repair the image")
    if data.max() == data.min():
        raise InputError("image", f"all pixels {data.flat[0]:g}", "is constant", "give an image with columns")
    if min(data.shape) < 16:
        raise InputError("image", f"shape {data.shape}", "is too small for a lattice", "give at least 4 cells a side")
    return data


def _labelled(data: np.ndarray, sampling: np.ndarray, motif: Motif) -> Columns:
    cells = data.size * sampling.prod() / abs(np.linalg.det(motif.lattice))
    if cells < MIN_CELLS:
        raise _too_few(int(cells))
    px = lat.measure_lattice(data, motif, sampling)
    lat.check_fit(px, motif, sampling)
    scale = float(np.sqrt(np.linalg.det(px)))
    flat = flatten(data, scale, float(np.linalg.norm(motif.lattice, axis=1).max()))
    px, start = _locate(flat, motif, px)
    gap = _column_gap(motif)
    peaks, _ = find_peaks(flat, 0.35 * gap * scale)
    known = grow_lattice(peaks, start, motif.lattice @ px.T, 0.3 * gap * scale)
    if len(known) < MIN_CELLS:
        raise _too_few(len(known))
    known, lattice_px = _canonical(known)
    seeds = _all_seeds(known, motif, lattice_px, data.shape, 1.5 * gap * scale)
    seeds = _snapped(seeds, peaks, 0.25 * gap * scale)
    plan = FitPlan(half=int(np.ceil(1.25 * _WINDOW * gap * scale)), radius=_WINDOW * gap * scale)
    fitted = fit_columns(data, seeds.position, seeds.site, plan, _GUESS * scale)
    seen = _inside(seeds.position, data.shape)
    fitted, seeds = jax.tree.map(lambda a: a[seen], (fitted, seeds))
    rejection = _rejections(fitted, seeds, data.shape, 0.35 * gap * scale)
    good_a = (seeds.site == 0) & (rejection == ACCEPTED)
    if good_a.sum() < MIN_CELLS:
        raise _too_few(int(good_a.sum()))
    position = np.asarray(fitted.parameters[:, :2], float)
    calibration = calibrate(position[good_a], seeds.index[good_a], motif, sampling)
    columns = _assemble(fitted, seeds, rejection, np.asarray(calibration.affine, float), calibration)
    _check_contrast(columns, motif)
    return columns


def _too_few(count: int) -> InputError:
    return InputError(
        "image",
        f"{count} cells",
        "has too few columns on the lattice",
        f"give an image of at least {MIN_CELLS} complete cells, and check its pixel size",
    )


def _column_gap(motif: Motif) -> float:
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
        raise _too_few(int(flat.size * np.linalg.det(np.linalg.inv(px)) / abs(np.linalg.det(motif.lattice))))
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


def _all_seeds(known: dict, motif: Motif, lattice_px: np.ndarray, shape: tuple[int, ...], margin: float) -> _Seeds:
    """The A columns that were indexed, where the B columns should be, and what lies a margin (px) outside."""
    index, position = np.array(list(known)), np.array(list(known.values()))
    parts = [(SITES.index("A"), index, position)]
    outer = np.array([[-margin, -margin], np.array(shape[::-1]) - 1 + margin])
    for label in "AB":
        for column in motif.sites(label)[: None if label == "B" else 1]:
            index, position = site_seeds(known, motif, column, lattice_px, outer)
            new = np.ones(len(index), bool)
            if label == "A":
                new = ~_inside(position, shape) & np.array([(i, j) not in known for i, j in index], bool)
            parts.append((SITES.index(label), index[new], position[new]))
    return _Seeds(
        np.concatenate([np.full(len(index), site) for site, index, _ in parts]),
        np.concatenate([index for _, index, _ in parts]),
        np.concatenate([position for _, _, position in parts]),
    )


def _inside(position: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.all((position >= 0) & (position <= np.array(shape[::-1]) - 1), axis=1)


def _snapped(seeds: _Seeds, peaks: np.ndarray, reach: float) -> _Seeds:
    """Start from the intensity maximum near the expected place, where there is one."""
    miss, near = KDTree(peaks).query(seeds.position)
    return seeds._replace(position=np.where((miss < reach)[:, None], peaks[near], seeds.position))


def calibrate(position: np.ndarray, index: np.ndarray, motif: Motif, sampling: np.ndarray) -> Calibration:
    """Affine step and its figures from A columns (n, 2) px at lattice indices (n, 2)."""
    origin, lattice_px, residual = fit_lattice(index, position)
    to_crystal = motif.lattice.T @ np.linalg.inv(lattice_px.T)
    inverse_rotation, affine = linalg.polar(to_crystal)
    lat.check_fit(np.linalg.inv(to_crystal), motif, sampling)
    relative = np.diag(sampling[::-1]) @ np.linalg.inv(affine)  # recorded Å per true Å
    angle = np.arctan2(inverse_rotation[0, 1], inverse_rotation[0, 0])
    distance = residual @ affine
    typical = np.median(np.linalg.norm(distance, axis=1))
    kept = distance[np.linalg.norm(distance, axis=1) < max(4 * typical, 1e-9)]
    along = np.linalg.norm(relative, axis=0)
    figures = {
        "sampling_error": 100 * (np.sqrt(np.linalg.det(relative)) - 1),
        "anisotropy": 100 * (along[0] / along[1] - 1),
        "shear": 90 - np.degrees(np.arccos((relative[:, 0] @ relative[:, 1]) / along.prod())),
        "rotation_deg": -np.degrees(angle),
        "rms_pm": 100 * np.sqrt((kept**2).mean()),
    }
    arrays = {
        "affine": affine,
        "rotation": inverse_rotation.T,
        "lattice_px": lattice_px,
        "origin_px": origin,
        "recorded_sampling": sampling,
    }
    return Calibration(**{k: jnp.asarray(v, jnp.result_type(float)) for k, v in {**arrays, **figures}.items()})


def _rejections(fit: FittedColumns, seeds: _Seeds, shape, reach: float) -> np.ndarray:
    """(n,) index into REJECTIONS."""
    site = seeds.site
    p = np.asarray(fit.parameters, float)
    weight = np.asarray(fit.weight)
    residual = _relative_residual(fit)
    rejection = np.full(len(p), ACCEPTED)
    for s in range(site.max() + 1):
        mine = site == s
        if not mine.any():
            continue
        amplitude, width = np.median(p[mine, AMPLITUDE]), np.median(p[mine, LOG_WIDTH])
        rejection[mine & (residual > 5 * np.median(residual[mine]) + 0.02)] = POOR
        rejection[mine & (np.abs(p[:, LOG_WIDTH] - width) > np.log(1.6))] = WIDTH
        rejection[mine & (p[:, AMPLITUDE] < 0.15 * amplitude)] = FAINT
    rejection[np.linalg.norm(p[:, :2] - seeds.position, axis=1) > reach] = MOVED
    area = weight.sum((1, 2))
    rejection[area < 0.9 * np.median(area)] = EDGE
    rejection[~_inside(p[:, :2], shape)] = EDGE
    return rejection


def _relative_residual(fit: FittedColumns) -> np.ndarray:
    weight = np.asarray(fit.weight, float)
    square = (weight * np.asarray(fit.residual, float) ** 2).sum((1, 2))
    rms = np.sqrt(square / np.maximum(weight.sum((1, 2)), 1e-9))
    return rms / np.maximum(np.abs(np.asarray(fit.parameters[:, AMPLITUDE], float)), 1e-12)


def _assemble(
    fit: FittedColumns, seeds: _Seeds, rejection, affine: np.ndarray, calibration: Calibration | None
) -> Columns:
    """Columns in Å; affine: (2, 2) Å per px."""
    site, index = seeds.site, seeds.index
    position = np.asarray(fit.parameters[:, :2], float)
    variance, area = noise_statistics(fit, np.maximum(site, 0), rejection == ACCEPTED)
    covariance = affine @ (np.asarray(fit.covariance, float) * (variance * area)[:, None, None]) @ affine.T
    good_a = (site == 0) & (rejection == ACCEPTED)
    if good_a.any():
        scatter = scan_scatter(position[good_a] @ affine.T, covariance[good_a], index[good_a])
        covariance = covariance + np.diag(scatter)
    p = np.asarray(fit.parameters, float)
    width = np.exp(p[:, LOG_WIDTH])
    kind = jnp.result_type(float)
    return Columns(
        position=jnp.asarray(position @ affine.T, kind),
        position_px=jnp.asarray(position, kind),
        covariance=jnp.asarray(covariance, kind),
        intensity=jnp.asarray(2 * np.pi * p[:, AMPLITUDE] * width**2, kind),
        width=jnp.asarray(width * np.sqrt(np.linalg.det(affine)), kind),
        residual=jnp.asarray(_relative_residual(fit), kind),
        site=jnp.asarray(site),
        lattice_index=jnp.asarray(index),
        rejection=jnp.asarray(rejection),
        calibration=calibration,
    )


def _check_contrast(columns: Columns, motif: Motif) -> None:
    """The brighter sublattice must be the one of higher atomic number, where the two differ clearly."""
    if "B" not in motif.label:
        return
    strength = [motif.strength[motif.label.index(s)] for s in "AB"]
    site = np.asarray(columns.site)
    seen = [float(np.median(np.asarray(columns.intensity)[site == s])) for s in (0, 1) if (site == s).any()]
    expected = np.log(strength[0] / strength[1])
    if len(seen) < 2 or abs(expected) < 0.3:
        return
    measured = np.log(max(seen[0], 1e-9) / max(seen[1], 1e-9))
    if measured / expected < 0.2:
        raise InputError(
            "crystal",
            f"A/B intensity {np.exp(measured):.2f}",
            f"expects {np.exp(expected):.1f}: what looks like A and B is not",
            "check crystal, zone axis and pixel size",
        )


def _unlabelled(data: np.ndarray, sampling: np.ndarray) -> Columns:
    lat.Reflections(data).require()
    scale = 1 / float(np.sqrt(sampling.prod()))
    flat = flatten(data, scale, 4.0)
    peaks, height = find_peaks(flat, 0.6 * scale)
    keep = height > 0.12 * np.percentile(height, 95) if len(height) else np.zeros(0, bool)
    if keep.sum() < MIN_CELLS:
        raise _too_few(int(keep.sum()))
    seed = peaks[keep]
    gap = float(np.median(KDTree(seed).query(seed, k=2)[0][:, 1]))
    plan = FitPlan(half=int(np.ceil(1.25 * _WINDOW * gap)), radius=_WINDOW * gap)
    seeds = _Seeds(np.zeros(len(seed), int), np.zeros((len(seed), 2), int), seed)
    fitted = fit_columns(data, seed, seeds.site, plan, min(_GUESS * scale, gap / 3))
    rejection = _rejections(fitted, seeds, data.shape, 0.35 * gap)
    return _assemble(fitted, seeds._replace(site=seeds.site - 1), rejection, np.diag(sampling[::-1]), None)
