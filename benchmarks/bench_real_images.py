"""What real images give: the null of SrTiO3 [110], and the published positions of a PbTiO3/SrRuO3 film.

usage: FERROJAX_REFERENCE_DATA=... python benchmarks/bench_real_images.py [ATOMAP_PYTHON]      (2 minutes)
SrTiO3 is not polar: mean and spread of Ti against Sr should be nothing but error. The spread is split into counting
noise (the fit's covariance), what scan lines share (for lines along x and along y: the scan may be turned), and the
rest. ATOMAP_PYTHON: an interpreter with atomap 0.4.2, for the same cells of the ADF image.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import write_result
from scipy.optimize import curve_fit
from scipy.spatial import KDTree

from ferrojax.columns import SITES, estimate_drift, find_columns
from ferrojax.columns.fitting.fit import FitSettings, fit_columns
from ferrojax.columns.indexing.place import inside
from ferrojax.columns.indexing.seeds import seed_columns
from ferrojax.columns.uncertainty import misfit
from ferrojax.crystal import material
from ferrojax.crystal.zone import projected_motif
from ferrojax.image import Image
from ferrojax.polarization import displacement_statistics, map_from_columns

ATOMAP = """
import sys, json, numpy as np, atomap.api
from atomap.sublattice import Sublattice
from atomap.tools import remove_atoms_from_image_using_2d_gaussian as remove
z = np.load(sys.argv[1])
found, image = {}, z["image"]
for name in "ab":
    s = Sublattice(z[name], image)
    s.find_nearest_neighbors()
    s.refine_atom_positions_using_center_of_mass()
    s.refine_atom_positions_using_2d_gaussian()
    found[name] = np.array([s.x_position, s.y_position]).T.tolist()
    image = remove(s.image, s)
print(json.dumps(found))
"""


def counting(image: np.ndarray, step: float, zone, mode: str) -> dict[str, np.ndarray]:
    """Covariance px² from counting alone by seed, with the seeds, from the fit that `find_columns` makes."""
    motif = projected_motif(material("SrTiO3"), zone)
    seeds = seed_columns(image, np.full(2, step), motif, mode)
    bright = seeds.polarity * image
    period = float(np.linalg.norm(motif.lattice, axis=1).max()) * seeds.scale
    fit = fit_columns(bright, seeds.position, seeds.column, FitSettings(3 * period, core=0.5 * seeds.gap * seeds.scale))
    seen = inside(seeds.position, image.shape)
    known = np.asarray(np.isfinite(fit.covariance[seen]).all((1, 2)))
    factor = misfit(bright, fit.chosen(seen), seeds.column[seen], known)
    return {"covariance": fit.covariance[seen] * factor[:, None, None], "position": fit.position[seen]}


def lines_share(columns, pm_per_px: float, size: tuple[int, int]) -> dict[str, list[float]]:
    """pm (x, y), rms of what the columns of a scan line share beyond smooth drift, for lines along x and along y."""
    kept = columns.accepted & (np.asarray(columns.site) < 2)
    position = np.asarray(columns.position_px, float)[kept]
    covariance = np.asarray(columns.covariance, float)[kept] / (pm_per_px / 100) ** 2
    index, site = np.asarray(columns.lattice_index)[kept], np.asarray(columns.site)[kept]
    along_x = estimate_drift(position, covariance, index, site, size[0])
    along_y = estimate_drift(position[:, ::-1], covariance[:, ::-1, ::-1], index, site, size[1])
    return {
        "lines along x": (pm_per_px * np.asarray(along_x.line_scatter)).tolist(),
        "lines along y": (pm_per_px * np.asarray(along_y.line_scatter)[::-1]).tolist(),
    }


def null(image: np.ndarray, step: float, mode: str) -> tuple[dict, tuple]:
    crystal, zone = material("SrTiO3"), (1, 1, 0)
    columns = find_columns(Image(image, (step, step)), crystal, zone, mode=mode)
    motif = projected_motif(crystal, zone)
    pmap = map_from_columns(columns, crystal, motif)
    found = displacement_statistics(pmap)
    assert columns.calibration is not None
    pm_per_px = 100 * float(np.sqrt(np.linalg.det(np.asarray(columns.calibration.affine, float))))
    alone = counting(image, step, zone, mode)
    _, near = KDTree(alone["position"]).query(np.asarray(columns.position_px, float))
    variance = pm_per_px**2 * alone["covariance"][near][:, [0, 1], [0, 1]]
    site = np.asarray(columns.site)
    a, b = (np.median(variance[columns.accepted & (site == SITES.index(s))], 0) for s in "AB")
    share = float((np.asarray(motif.shell.weight) ** 2).sum())
    count = b + share * a
    shared = lines_share(columns, pm_per_px, (image.shape[0], image.shape[1]))
    scan = np.max([np.square(v) for v in shared.values()], axis=0) * (1 + share)
    total = np.square(found["spread"])
    return {
        "cells": int(found["n"]),
        "mean_pm": found["mean"].tolist(),
        "mean_error_pm": np.asarray(found["mean_error"]).tolist(),
        "spread_pm": found["spread"].tolist(),
        "counting_pm": np.sqrt(count).tolist(),
        "scan_lines_pm": np.sqrt(scan).tolist(),
        "rest_pm": np.sqrt(np.maximum(total - count - scan, 0)).tolist(),
        "line_scatter_pm": shared,
        "smooth_part_pm": smooth_part(np.asarray(pmap.displacement, float) * 100, np.asarray(pmap.valid)),
    }, (columns, pmap)


def smooth_part(displacement: np.ndarray, valid: np.ndarray) -> list[float]:
    """pm (x, y), rms of the displacement averaged over 5 × 5 cells, the noise of that average taken off."""
    from scipy.ndimage import uniform_filter

    filled = np.where(valid[..., None], np.nan_to_num(displacement) - np.nanmean(displacement, (0, 1)), 0.0)
    cover = uniform_filter(valid.astype(float), 5)
    mean = np.stack([uniform_filter(filled[..., k], 5) for k in (0, 1)], -1) / np.maximum(cover, 1e-9)[..., None]
    whole = valid & (cover > 0.9)
    rest = (filled - mean)[whole].var(0)
    return np.sqrt(np.maximum(mean[whole].var(0) - rest / 24, 0.0)).tolist()


def atomap_null(python: str, image: np.ndarray, columns) -> dict:
    position = np.asarray(columns.position_px, float)
    chosen = {s: np.nonzero(columns.accepted & (np.asarray(columns.site) == SITES.index(s)))[0] for s in "AB"}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.npz"
        np.savez(source, image=image, a=np.round(position[chosen["A"]]), b=np.round(position[chosen["B"]]))
        done = subprocess.run([python, "-c", ATOMAP, str(source)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    affine = np.asarray(columns.calibration.affine, float)
    new = np.asarray(columns.position, float).copy()
    new[chosen["A"]], new[chosen["B"]] = (np.array(found[s]) @ affine.T for s in "ab")
    import equinox as eqx
    import jax.numpy as jnp

    moved = eqx.tree_at(lambda c: c.position, columns, jnp.asarray(new, columns.position.dtype))
    theirs = map_from_columns(moved, material("SrTiO3"), projected_motif(material("SrTiO3"), (1, 1, 0)))
    stats = displacement_statistics(theirs)
    return {"cells": int(stats["n"]), "mean_pm": stats["mean"].tolist(), "spread_pm": stats["spread"].tolist()}


def film(folder: Path) -> dict:
    """Published A positions against ours, and the curvature of the SrRuO3 planes."""
    with np.load(folder / "pto_sro_haadf" / "pto_sro_haadf.npz") as z:
        image = z["image"].astype(float)
        published = z["parent_asite_refined_xy_px"] - z["parent_to_crop_shift_xy_px"]
    columns = find_columns(Image(image, (0.16, 0.16)), material("PbTiO3"))
    a = columns.accepted & (np.asarray(columns.site) == 0)
    ours = np.asarray(columns.position_px, float)[a]
    rim = ((published > 8) & (published < np.array(image.shape[::-1]) - 9)).all(1)
    miss, near = (np.asarray(v) for v in KDTree(ours).query(published[rim]))
    matched = miss < 4.0
    gap = ours[near[matched]] - published[rim][matched]
    apart = gap - np.median(gap, 0)
    index = np.asarray(columns.lattice_index)[a]
    rows = planes(ours, index)
    return {
        "published_inside": int(rim.sum()),
        "matched": int(matched.sum()),
        "offset_px": np.median(gap, 0).tolist(),
        "mad_px": np.median(np.abs(apart), 0).tolist(),
        "planes": rows,
    }


def planes(position: np.ndarray, index: np.ndarray) -> list[dict]:
    """y = a sin(b x + c) + d of every plane of A columns that spans the image, px; amplitude and period."""
    axis = 1 if np.ptp(position[index[:, 1] == np.median(index[:, 1])][:, 0]) > 300 else 0
    result = []
    for k in np.unique(index[:, axis]):
        x, y = position[index[:, axis] == k].T
        if np.ptp(x) < 1000:
            continue
        order = np.argsort(x)
        x, y = x[order], y[order]
        try:
            best, _ = curve_fit(wave, x, y - y.mean(), [np.std(y) * 1.4, 2 * np.pi / 1300, 0.0, 0.0], maxfev=20000)
        except RuntimeError:
            continue
        rest = y - y.mean() - wave(x, *best)
        result.append(
            {
                "plane": int(k),
                "y_px": float(y.mean()),
                "amplitude_px": float(abs(best[0])),
                "period_px": float(abs(2 * np.pi / best[1])),
                "rms_rest_px": float(rest.std()),
            }
        )
    return sorted(result, key=lambda r: r["y_px"])


def wave(x, a, b, c, d):
    return a * np.sin(b * x + c) + d


def main(python: str | None) -> None:
    folder = Path(os.environ["FERROJAX_REFERENCE_DATA"])
    with np.load(folder / "sto110_adf_abf" / "sto110_adf_abf.npz") as z:
        step = 10 * float(z["pixel_size_nm"])
        adf, abf = z["adf"].astype(float), z["abf"].astype(float)
    figures: dict[str, object] = {}
    figures["SrTiO3 ADF"], kept = null(adf, step, "HAADF")
    figures["SrTiO3 ABF"], _ = null(abf, step, "ABF")
    if python:
        figures["SrTiO3 ADF, atomap 0.4.2"] = atomap_null(python, adf, kept[0])
    figures["PbTiO3/SrRuO3"] = film(folder)
    for name, found in figures.items():
        print(name, json.dumps(found), flush=True)
    write_result("real_images", figures)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
