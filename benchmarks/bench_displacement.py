"""Displacement read through a microscope that is known, beside the column fit, the one with oxygen drawn, and zero.

usage: python benchmarks/bench_displacement.py SET.npz [OUT_FOLDER]     (SET of simulations/render_polar_truth.py; the
response at the set's tilt is computed first, 5 to 10 minutes on two cores)
Boxes were rendered with explicit phonons and rings that end; the response has phonons of its own (FastThermal) and
rings without end, and knows thickness, tilt, optics and how far oxygen follows B. Every box is blurred by a source of
0.5 Å, tiled 3 × 3, and drawn with 1500 counts a pixel on the mean at 16 px a cell, twice; cells of the tiles' rim do
not count. Truth: B against the centroid of its A columns. rmse, bias (mean error), slope (measured against true) and
share inside the 68 and 95 % intervals, whose sd (stated: its median) holds counting noise (counting: alone), what the
response misses, and phonon: rms of what the truth's phonons do to such a reading without counting noise, from four
quarters of them. Tuned on PbTiO3 and BaTiO3.
"""

import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import jax.numpy as jnp
import numpy as np
from bench_recording import read_set, truth_of
from common import RESULTS, write_result

import ferrojax as fj
from ferrojax.polarization import CellFrames, PolarizationMap, cell_frames
from ferrojax.refinement import CellResponse, Microscope, Recording, cell_response
from ferrojax.refinement.recording import EACH, PRIORS

SOURCE, DOSE, DRAWS, PIXELS = 0.5, 1500.0, 2, 16


def blurred(signal: np.ndarray, side: float) -> np.ndarray:
    """A periodic image (rows, cols) under the source."""
    k = np.fft.fftfreq(signal.shape[-1], side / signal.shape[-1])
    return np.fft.ifft2(np.fft.fft2(signal) * np.exp(-2 * np.pi**2 * SOURCE**2 * (k[:, None] ** 2 + k**2))).real


def known(truth: dict[str, float], level: dict[str, float]) -> Recording:
    """The recording as it was, for images of these mean levels (counts)."""
    value = {k: v for k, (v, _) in PRIORS.items()} | truth
    value |= {"source_x": SOURCE, "source_y": SOURCE, "source_xy": 0.0}
    value |= {f"{key}_{name}": 0.0 for name in level for key in EACH}
    k = len(value)
    data = {name: np.array([mean], complex) for name, mean in level.items()}
    numbers = np.array(list(value.values()), float)
    return Recording(tuple(value), numbers, np.zeros(k), numbers, np.ones(k), np.zeros((k, k)), 1.0, np.inf, data, {})


def true_displacement(path: Path, box: int) -> np.ndarray:
    """(3, 3, 2) Å of B against the centroid of its A columns."""
    with np.load(path) as z:
        a, b = (np.asarray(z[f"displacement_{k}"], float)[box, ..., :2] for k in "AB")
    right = np.roll(a, -1, 1)
    return b - (a + right + np.roll(a, -1, 0) + np.roll(right, -1, 0)) / 4


def matched(centre_px: np.ndarray, crystal: fj.Crystal, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True displacement (n, 2) Å of cells at these places, and which are within the tiles' rim."""
    b = np.asarray(crystal.position)[crystal.label.index("B"), :2]
    index = np.round(centre_px / PIXELS - b).astype(int)
    inner = np.all((index >= 1) & (index < 3 * len(true) - 1), axis=1)
    return true[index[:, 1] % len(true), index[:, 0] % len(true)], inner


def scored(found: np.ndarray, sd: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """pm."""
    good = np.isfinite(found).all(1)
    error, true, sd = 100 * (found - true)[good], 100 * true[good], 100 * sd[good]
    slope = [float(np.polyfit(t, e + t, 1)[0]) if t.std() > 0.5 else None for t, e in zip(true.T, error.T, strict=True)]
    return {
        "cells": len(error),
        "rmse": float(np.sqrt((error**2).mean())),
        "bias": error.mean(0).tolist(),
        "slope": slope,
        "stated": float(np.median(sd)) if sd.size else None,
        "inside_68": float((np.abs(error) < sd).mean()),
        "inside_95": float((np.abs(error) < 1.96 * sd).mean()),
    }


def of_map(pmap: PolarizationMap, crystal: fj.Crystal, true: np.ndarray) -> dict[str, Any]:
    good = np.asarray(pmap.valid)
    at, inner = matched(np.asarray(pmap.position_px, float)[good], crystal, true)
    sd = np.sqrt(np.diagonal(np.asarray(pmap.covariance, float)[good], axis1=1, axis2=2))
    return scored(np.asarray(pmap.displacement, float)[good][inner], sd[inner], at[inner])


def response_of(settings: dict, crystal: fj.Crystal) -> CellResponse:
    a, depth = float(crystal.cell[2, 2]), settings["depth"]
    rings = {k: fj.AnnularDetector(r[0], np.inf if r[1] > 100 else r[1]) for k, r in settings["detectors"].items()}
    return cell_response(
        crystal,
        settings["probe"]["energy"],
        rings,
        thicknesses=[round(n * a, 3) for n in (depth - 4, depth - 2, depth, depth + 2)],
        max_semiangle=settings["probe"]["semiangle"] + 2.0,
        tilt=tuple(settings["tilt"]),
    )


def main(path: Path, folder: str | Path = RESULTS) -> None:
    fj.use_all_cores()
    settings, signals, shift = read_set(path)
    crystal = fj.material(path.stem)
    a = float(crystal.cell[0, 0])
    start = perf_counter()
    response = response_of(settings, crystal)
    figures: dict = {"set": path.stem, "response_seconds": perf_counter() - start, "boxes": []}
    figures["noise"] = {
        k: dict(zip(map(str, response.term), v.tolist(), strict=True)) for k, v in response.noise.items()
    }
    with np.load(path) as z:
        quarters = {k: np.asarray(z[k], float) * float(z[f"{k}_scale"]) for k in settings["detectors"]}
    for box in range(len(shift)):
        true, truth = true_displacement(path, box), truth_of(settings, crystal, shift[box])
        clean = {k: blurred(v[box], 3 * a) for k, v in signals.items()}
        rows: dict[str, list] = {}
        phonon: dict[tuple[str, ...], float] = {}
        for draw in range(DRAWS):
            rng = np.random.default_rng([box, draw])
            images = {
                k: fj.Image(rng.poisson(np.tile(v / v.mean() * DOSE, (3, 3))).astype(float), (a / PIXELS,) * 2)
                for k, v in clean.items()
            }
            pmap = fj.map_polarization(images["haadf"], crystal)
            cells = cell_frames(pmap)
            rows.setdefault("column fit", []).append(of_map(pmap, crystal, true))
            drawn = fj.map_polarization(images["haadf"], crystal, oxygen=True)
            rows.setdefault("oxygen drawn", []).append(of_map(drawn, crystal, true))
            at, inner = matched(np.asarray(cells.centre_px, float), crystal, true)
            rows.setdefault("zero", []).append(scored(0 * at[inner], 0 * at[inner], at[inner]))
            for some in (("haadf",), ("abf",), ("haadf", "abf")):
                start = perf_counter()
                found = read(some, images, (truth, response, crystal), cells)
                if some not in phonon:
                    phonon[some] = phonons(some, {k: quarters[k][box] for k in some}, (truth, response, crystal), cells)
                counting, structural = (
                    np.sqrt(np.diagonal(v, axis1=1, axis2=2)) for v in (found.covariance, found.structural)
                )
                sd = np.sqrt(counting**2 + structural**2 + phonon[some] ** 2)
                row = scored(found.displacement[inner], sd[inner], at[inner])
                row |= {"counting": 100 * float(np.nanmedian(counting)), "phonon": 100 * phonon[some]}
                row |= {"misfit": float(np.nanmedian(found.misfit)), "seconds": perf_counter() - start}
                rows.setdefault(" + ".join(some), []).append(row)
        figures["boxes"].append(rows)
        write_result(f"displacement_{path.stem}", figures, folder)  # after every box: a long run may be cut off
        for name, each in rows.items():
            print(f"{path.stem} {box} {name:14}", *(f"{k} {v}" for k, v in rounded(each[0]).items()), flush=True)


def phonons(some: tuple[str, ...], quarters: dict[str, np.ndarray], facts: tuple, cells: CellFrames) -> float:
    """Å rms of what the truth's phonons do to a reading without counting noise."""
    a, four = float(facts[2].cell[0, 0]), []
    for q in range(len(quarters[some[0]])):
        still = {k: blurred(quarters[k][q], 3 * a) for k in some}
        images = {k: fj.Image(np.tile(v / v.mean() * DOSE, (3, 3)), (a / PIXELS,) * 2) for k, v in still.items()}
        found = read(some, images, facts, cells).displacement
        four.append(found[np.isfinite(found).all(1)])
    return float(np.sqrt((np.std(four, 0, ddof=1) ** 2).mean() / len(four)))


def read(some: tuple[str, ...], images: dict, facts: tuple, cells: CellFrames):
    truth, response, crystal = facts
    level = {k: float(jnp.mean(images[k].data)) for k in some}
    beside = {k: images[k] for k in some[1:]}
    return Microscope(known(truth, level), response, crystal, some[0], beside).read(images[some[0]], cells)


def rounded(row: dict) -> dict:
    return {k: np.round(np.array(v, float), 3).tolist() for k, v in row.items()}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *sys.argv[2:3])
