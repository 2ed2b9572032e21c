"""Scan distortion and frame series: what was put into phantoms comes out, and what a real image shows.

usage: python benchmarks/bench_distortion.py [OUT_FOLDER]     (about 3 minutes)
lines: columns of 65 pm rms at 25 pm a pixel on a square lattice of 4 Å, turned against the lines, 256 × 256 px, Poisson
counts; drift of 25 pm amplitude and line jitter; the columns are found and fitted as in any image. Errors against what
was put in, and as a ratio of the stated error (1 is right, less is cautious).
frames: eight frames of 120 × 140 px with 20 px a period that drift by 7.9 px a frame.
srtio3: the real SrTiO3 [110] ADF image of 999 × 1012 px, if FERROJAX_REFERENCE_DATA names the reference data.
"""

import os
import sys
from pathlib import Path
from time import perf_counter

import jax.numpy as jnp
import numpy as np
from common import RESULTS, write_result
from scipy.spatial import KDTree

from ferrojax.columns import (
    SITES,
    Columns,
    ColumnShape,
    LineJitter,
    align_frames,
    common_misfit,
    corrected_positions,
    displacement_jitter,
    estimate_drift,
    estimate_jitter,
    find_columns,
    rendered_columns,
    scan_distortion,
    variance_split,
)
from ferrojax.crystal import material
from ferrojax.image import Image
from ferrojax.io import read

ROWS, GAP, WIDTH, GROUND, PM = 256, 16.0, 2.6, 0.2, 25.0
SEEDS = 6


def gaussians(position: np.ndarray, shape: tuple[int, int], shift: np.ndarray) -> np.ndarray:
    """Columns of height 1 on a ground; shift: (rows, 2) px of what each line shows."""
    image = np.full(shape, GROUND)
    lines, cols = np.arange(shape[0]), np.arange(shape[1])
    for x, y in position:
        rows = slice(max(int(y) - 20, 0), max(int(y) + 21, 0))
        dx = cols - shift[rows, :1] - x
        dy = (lines[rows] - shift[rows, 1] - y)[:, None]
        image[rows] += np.exp(-(dx**2 + dy**2) / 2 / WIDTH**2)
    return image


def square_lattice(angle: float, shape: tuple[int, int], gap: float) -> tuple[np.ndarray, np.ndarray]:
    a = np.deg2rad(angle)
    vectors = gap * np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    index = np.stack(np.meshgrid(np.arange(-40, 60), np.arange(-40, 60)), -1).reshape(-1, 2)
    position = index @ vectors + (5.0, 6.0)
    near = ((position > -20) & (position < np.array(shape[::-1]) + 20)).all(1)
    return index[near], position[near]


def one_scan(seed: int, angle: float, dose: float, jitter: float) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    index, position = square_lattice(angle, (ROWS, ROWS), GAP)
    t = np.arange(ROWS) / ROWS
    drift = np.stack([np.sin(2 * np.pi * 1.3 * t), 0.6 * np.cos(2 * np.pi * t)], -1)
    lines = np.stack([jitter * generator.normal(size=ROWS), np.zeros(ROWS)], -1)
    data = generator.poisson(dose * gaussians(position, (ROWS, ROWS), drift + lines)).astype(float)
    columns = find_columns(Image(data, (0.25, 0.25)))
    place = np.asarray(columns.position_px, float)
    distance, nearest = KDTree(position).query(place)
    near = np.asarray(nearest, int)
    kept = columns.accepted & (distance < GAP / 3)
    covariance = np.asarray(columns.covariance, float)[kept] / 0.25**2
    lattice = (place[kept], covariance, index[near[kept]], np.zeros(int(kept.sum()), int), ROWS)
    found = estimated_jitter(data, columns, np.asarray(estimate_drift(*lattice).shift, float))
    y = place[kept][:, 1]
    alone = displacement_jitter(found, (y, WIDTH), (y[:, None], WIDTH), np.zeros(1))
    slow = estimate_drift(*lattice, [float(np.sqrt(v)) or None for v in alone.mean(0)])
    inner = slice(16, -16)
    off = (np.asarray(found.shift) - lines)[inner, 0]
    bent = trendless(np.asarray(slow.shift, float)) - trendless(drift)
    return {
        "jitter": PM * float(lines[:, 0].std()),
        "jitter_found": PM * float(found.rms[0]),
        "jitter_stated_error": PM * float(found.rms_error[0]),
        "line_remains": PM * float(off.std()),
        "line_ratio": float(off.std() / np.sqrt((np.asarray(found.shift_error)[inner, 0] ** 2).mean())),
        "drift": PM * float(trendless(drift).std()),
        "drift_remains": PM * float(np.sqrt((bent**2).mean())),
        "drift_ratio": float(np.sqrt((bent**2).mean() / (np.asarray(slow.shift_error) ** 2).mean())),
    }


def estimated_jitter(data: np.ndarray, columns: Columns, drift: np.ndarray) -> LineJitter:
    width = float(np.median(np.asarray(columns.width))) / 0.25
    n = len(columns.position_px)
    amplitude = columns.intensity / (2 * np.pi * width**2)
    shape = ColumnShape(columns.position_px, amplitude, jnp.full(n, width))
    model = np.asarray(rendered_columns(shape, data.shape, 14), float)
    model = model + np.median(data - model)
    model = model + common_misfit(data - model, shape, np.zeros(n, int))
    return estimate_jitter(data, model, shape, drift=drift)


def trendless(values: np.ndarray) -> np.ndarray:
    """Without its straight line: uniform strain and shear are the lattice's own."""
    line = np.arange(len(values))
    return values - np.polynomial.polynomial.polyval(line, np.polynomial.polynomial.polyfit(line, values, 1)).T


def lines() -> list[dict]:
    table = []
    for angle in (0.0, 7.0, 45.0):
        for dose in (50.0, 500.0, 5000.0):
            for jitter in (0.05, 0.25):
                rows = [one_scan(seed, angle, dose, jitter) for seed in range(SEEDS)]
                mean = {key: float(np.sqrt(np.mean([r[key] ** 2 for r in rows]))) for key in rows[0]}
                table.append({"angle": angle, "counts_at_peak": dose, **mean})
                print(table[-1], flush=True)
    return table


def frames() -> list[dict]:
    table = []
    for dose in (0.5, 5.0, 50.0, 500.0):
        errors, ratios, seconds = [], [], 0.0
        for seed in range(SEEDS):
            generator = np.random.default_rng(seed)
            walk = np.array([7.3, -3.1]) + 0.3 * generator.normal(size=(7, 2))
            true = np.concatenate([np.zeros((1, 2)), np.cumsum(walk, 0)])
            _, position = square_lattice(0.0, (240, 280), 20.0)
            series = [gaussians(position - 60 + s, (120, 140), np.zeros((120, 2))) for s in true]
            counts = generator.poisson(dose * np.stack(series)).astype(float)
            start = perf_counter()
            found = align_frames(counts)
            seconds += perf_counter() - start
            off = (np.asarray(found.shift) - true)[1:]
            errors.append(off)
            ratios.append(off / np.asarray(found.shift_error)[1:])
        table.append(
            {
                "counts_at_peak": dose,
                "rms_px": float(np.sqrt(np.mean(np.square(errors)))),
                "largest_px": float(np.abs(errors).max()),
                "error_ratio": float(np.sqrt(np.mean(np.square(ratios)))),
                "seconds_a_series": seconds / SEEDS,
            }
        )
        print(table[-1], flush=True)
    return table


def srtio3(folder: Path) -> dict:
    image = read(folder / "sto110_adf_abf" / "sto110_adf_abf.npz", signal="adf")
    columns = find_columns(image, material("SrTiO3"), (1, 1, 0))
    assert columns.calibration is not None
    affine = np.asarray(columns.calibration.affine, float)
    pm_per_px = 100 * float(np.sqrt(np.linalg.det(affine)))
    start = perf_counter()
    found = scan_distortion(image, columns)
    seconds = perf_counter() - start
    place = np.asarray(columns.position_px, float)
    width = np.asarray(columns.width, float) * 100 / pm_per_px
    steady = corrected_positions(columns.position_px, found.drift.shift)
    still = corrected_positions(steady, found.jitter.shift, jnp.asarray(width))
    moved = {
        "as recorded": place,
        "without drift": np.asarray(steady, float),
        "without drift and jitter": np.asarray(still, float),
    }
    cells, weight = neighbours(columns)
    own, near = cells[:, 0], cells[:, 1:]
    site, y = np.asarray(columns.site), place[:, 1]
    a, b = (
        100 / pm_per_px * float(np.median(np.asarray(columns.width)[columns.accepted & (site == s)])) for s in (0, 1)
    )
    scan = displacement_jitter(found.jitter, (y[own], b), (y[near], a), weight)
    fit = np.asarray(columns.covariance, float)
    covariance = fit[own] + np.einsum("k,nkij->nij", weight**2, fit[near])
    table = {}
    for name, position in moved.items():
        at = position @ affine.T
        displacement = at[own] - np.einsum("k,nki->ni", weight, at[near])
        split = variance_split(displacement, covariance, scan * (pm_per_px / 100) ** 2)
        table[name] = {"mean_pm": (100 * displacement.mean(0)).tolist(), **split.spreads(), "cells": len(own)}
    return {
        "drift_pm": found.drift.levels(pm_per_px),
        "jitter_pm": {
            k: [v if np.isfinite(v) else None for v in pair] for k, pair in found.jitter.levels(pm_per_px).items()
        },
        "jitter_correlation": np.asarray(found.jitter.correlation).tolist(),
        "spread_pm": table,
        "seconds": seconds,
        "note": "the column covariance of this release holds the scan's share already: counting is an upper bound",
    }


def neighbours(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """(n, 5) B column and its four A neighbours, weight (4,); cells that are complete."""
    index = np.asarray(columns.lattice_index)
    row = {
        site: {
            (int(index[k, 0]), int(index[k, 1])): int(k)
            for k in np.nonzero(columns.accepted & (np.asarray(columns.site) == SITES.index(site)))[0]
        }
        for site in "AB"
    }
    place = np.asarray(columns.position, float)
    found, shells = [], set()
    tree = KDTree(place[list(row["A"].values())])
    keys = list(row["A"])
    for cell, b in row["B"].items():
        near = np.asarray(tree.query(place[b], k=4)[1], int)
        shells.add(tuple(sorted((keys[i][0] - cell[0], keys[i][1] - cell[1]) for i in near)))
        found.append((b, cell))
    shell = max(shells, key=lambda s: sum(all((c[0] + i, c[1] + j) in row["A"] for i, j in s) for _, c in found))
    whole = [(b, *[row["A"].get((c[0] + i, c[1] + j), -1) for i, j in shell]) for b, c in found]
    cells = np.array([w for w in whole if -1 not in w])
    return cells, np.full(4, 0.25)


def main() -> None:
    figures: dict[str, object] = {"pm_per_px": PM, "seeds": SEEDS, "lines": lines(), "frames": frames()}
    data = os.environ.get("FERROJAX_REFERENCE_DATA")
    if data:
        figures["srtio3"] = srtio3(Path(data))
        print(figures["srtio3"])
    write_result("distortion", figures, sys.argv[1] if len(sys.argv) > 1 else RESULTS)


if __name__ == "__main__":
    main()
