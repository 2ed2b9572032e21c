"""Slope of measured against true Ti displacement where oxygen hides under Ti: plain fit, oxygen drawn, and atomap.

usage: python benchmarks/bench_overlap.py [ATOMAP_PYTHON]     (three minutes; ATOMAP_PYTHON: an interpreter with atomap)
The image is abTEM's (simulations/overlap.yaml, kept in benchmarks/data/overlap.npz): HAADF of PbTiO3 [001], 12 nm, at
zero tilt and focus, frozen phonons, nine different in-plane displacements of Ti against Pb with oxygen along the soft
mode. It is repeated, blurred by a source of 0.35 Å rms and counted. The slope's error is that of a straight line.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import write_result
from scipy.ndimage import gaussian_filter

from ferrojax.columns import SITES, find_columns
from ferrojax.crystal import material
from ferrojax.crystal.zone import projected_motif
from ferrojax.image import Image
from ferrojax.polarization import map_from_columns

RENDERED = Path(__file__).parent / "data" / "overlap.npz"
REPEAT = 4
SOURCE = 0.35
DOSES = (None, 1e5, 3e4, 1e4)
SEEDS = (1, 2, 3, 4)
ATOMAP = """
import sys, json, numpy as np, hyperspy.api as hs, atomap.api as am
from atomap.sublattice import Sublattice
z = np.load(sys.argv[1])
found = {}
for label, start in (("A", z["a"]), ("B", z["b"])):
    data = z["image"] if label == "A" else rest
    s = Sublattice(start, data)
    s.find_nearest_neighbors()
    s.refine_atom_positions_using_center_of_mass()
    s.refine_atom_positions_using_2d_gaussian()
    found[label] = np.array([s.x_position, s.y_position]).T.tolist()
    if label == "A":
        from atomap.tools import remove_atoms_from_image_using_2d_gaussian as remove
        rest = remove(s.image, s, show_progressbar=False)
json.dump(found, open(sys.argv[2], "w"))
"""


def scene(dose: float | None, seed: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Image (rows, cols) in counts or fractions of the beam, Å per px, and the field (ny, nx, 2) Å."""
    with np.load(RENDERED) as z:
        image, field = z["image"].astype(float), z["field"][..., :2].astype(float)
    crystal = material("PbTiO3")
    step = field.shape[1] * float(np.asarray(crystal.cell)[0, 0]) / image.shape[1]
    image = gaussian_filter(np.tile(image, (REPEAT, REPEAT)), SOURCE / step, mode="wrap")
    if dose is not None:
        image = np.random.default_rng(seed).poisson(image * dose * step**2).astype(float)
    return image, step, field


def truth(position: np.ndarray, field: np.ndarray, cell: float) -> np.ndarray:
    """(n, 2) Å, the field of the cell whose Ti sits nearest to these positions (Å from the first pixel)."""
    i, j = np.round(position / cell - 0.5).astype(int).T
    return field[j % field.shape[0], i % field.shape[1]]


def line(true: np.ndarray, measured: np.ndarray) -> dict:
    """Slope through both components (their own offsets), its standard error, offset and rms deviation in pm."""
    x, y = true - true.mean(0), measured - measured.mean(0)
    slope = float((x * y).sum() / (x * x).sum())
    rest = y - slope * x
    error = float(np.sqrt((rest**2).sum() / (rest.size - 3) / (x * x).sum()))
    return {
        "slope": slope,
        "slope_error": error,
        "offset_pm": (100 * (measured.mean(0) - slope * true.mean(0))).tolist(),
        "rmse_pm": float(100 * np.sqrt(((measured - true) ** 2).mean())),
        "cells": len(true),
    }


def ours(image: np.ndarray, step: float, field: np.ndarray, oxygen: bool) -> tuple[dict, object]:
    crystal = material("PbTiO3")
    columns = find_columns(Image(image, (step, step)), crystal, oxygen=oxygen)
    pmap = map_from_columns(columns, crystal, projected_motif(crystal))
    valid = np.asarray(pmap.valid)
    measured = np.asarray(pmap.displacement, float)[valid]
    true = truth(np.asarray(pmap.position_px, float)[valid] * step, field, float(np.asarray(crystal.cell)[0, 0]))
    return line(true, measured), columns


def atomap(python: str, image: np.ndarray, step: float, field: np.ndarray, columns) -> dict:
    """The same cells with atomap's sequence: centre of mass, Gaussians for A, A taken out, Gaussians for B."""
    position = np.asarray(columns.position_px, float)
    chosen = {name: position[columns.accepted & (np.asarray(columns.site) == SITES.index(name))] for name in "AB"}
    with tempfile.TemporaryDirectory() as folder:
        source, answer = Path(folder) / "in.npz", Path(folder) / "out.json"
        start = {name.lower(): np.round(p) for name, p in chosen.items()}
        np.savez(source, image=image, a=start["a"], b=start["b"])
        subprocess.run([python, "-c", ATOMAP, str(source), str(answer)], check=True, capture_output=True)
        found = {name: np.array(p) for name, p in json.loads(answer.read_text()).items()}
    cell = float(np.asarray(material("PbTiO3").cell)[0, 0])
    gap = np.linalg.norm(found["B"][:, None] - found["A"][None], axis=-1)
    near = np.argsort(gap, 1)[:, :4]
    whole = np.take_along_axis(gap, near, 1).max(1) < 0.85 * cell / step
    centre = found["A"][near].mean(1)
    displacement = (found["B"] - centre)[whole] * step
    return line(truth(centre[whole] * step, field, cell), displacement)


def main(python: str | None) -> None:
    table = []
    for dose, seed in [(DOSES[0], 1), *((dose, seed) for dose in DOSES[1:] for seed in SEEDS)]:
        image, step, field = scene(dose, seed)
        plain, columns = ours(image, step, field, oxygen=False)
        rows = {"plain fit": plain, "oxygen drawn": ours(image, step, field, oxygen=True)[0]}
        if python:
            rows["atomap 0.4.2"] = atomap(python, image, step, field, columns)
        for name, found in rows.items():
            table.append({"dose_e_per_A2": dose, "seed": seed, "fit": name, **found})
            print(dose, seed, name, {k: np.round(v, 3).tolist() for k, v in found.items()}, flush=True)
    write_result("overlap", {"source_rms_A": SOURCE, "table": table})


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
