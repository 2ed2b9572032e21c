"""From an image to fitted, indexed and calibrated columns."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from ferrojax.columns import lattice as lat
from ferrojax.columns.columns import ACCEPTED, EDGE, FAINT, MOVED, POOR, WIDTH, Calibration, Columns
from ferrojax.columns.fit import AMPLITUDE, LOG_WIDTH, FitPlan, FittedColumns, fit_columns
from ferrojax.columns.index import fit_lattice
from ferrojax.columns.lattice import MIN_CELLS, too_few
from ferrojax.columns.place import inside
from ferrojax.columns.seeds import Seeds, seed_columns, seed_positions
from ferrojax.columns.uncertainty import noise_statistics, scan_scatter
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.zone import Motif, projected_motif
from ferrojax.errors import InputError
from ferrojax.image import Image

_WINDOW = 0.56  # of the nearest distance between columns
_GUESS = 0.45  # Å, rms radius of a column
_ONE_IMAGE = "pass one two-dimensional image"


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
    seeds = seed_columns(data, sampling, motif)
    gap = seeds.gap * seeds.scale
    plan = FitPlan(half=int(np.ceil(1.25 * _WINDOW * gap)), radius=_WINDOW * gap)
    fitted = fit_columns(data, seeds.position, seeds.site, plan, _GUESS * seeds.scale)
    seen = inside(seeds.position, data.shape)
    fitted, seeds = jax.tree.map(lambda a: a[seen], fitted), seeds[seen]
    rejection = _rejections(fitted, seeds, data.shape, 0.35 * gap)
    good_a = (seeds.site == 0) & (rejection == ACCEPTED)
    if good_a.sum() < MIN_CELLS:
        raise too_few(int(good_a.sum()))
    position = np.asarray(fitted.parameters[:, :2], float)
    calibration = calibrate(position[good_a], seeds.index[good_a], motif, sampling)
    columns = _assemble(fitted, seeds, rejection, np.asarray(calibration.affine, float), calibration)
    _check_contrast(columns, motif)
    return columns


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


def _rejections(fit: FittedColumns, seeds: Seeds, shape, reach: float) -> np.ndarray:
    """(n,) index into REJECTIONS."""
    site = np.maximum(seeds.site, 0)
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
    rejection[~inside(p[:, :2], shape)] = EDGE
    return rejection


def _relative_residual(fit: FittedColumns) -> np.ndarray:
    weight = np.asarray(fit.weight, float)
    square = (weight * np.asarray(fit.residual, float) ** 2).sum((1, 2))
    rms = np.sqrt(square / np.maximum(weight.sum((1, 2)), 1e-9))
    return rms / np.maximum(np.abs(np.asarray(fit.parameters[:, AMPLITUDE], float)), 1e-12)


def _assemble(
    fit: FittedColumns, seeds: Seeds, rejection, affine: np.ndarray, calibration: Calibration | None
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
    seeds = seed_positions(data, sampling)
    gap = seeds.gap * seeds.scale
    plan = FitPlan(half=int(np.ceil(1.25 * _WINDOW * gap)), radius=_WINDOW * gap)
    group = np.zeros(len(seeds.site), int)
    fitted = fit_columns(data, seeds.position, group, plan, min(_GUESS * seeds.scale, gap / 3))
    rejection = _rejections(fitted, seeds, data.shape, 0.35 * gap)
    return _assemble(fitted, seeds, rejection, np.diag(sampling[::-1]), None)
