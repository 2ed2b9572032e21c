"""Windows: what they cost in accuracy, and how time and memory grow with the field.

usage: python benchmarks/bench_windows.py [OUT_FOLDER]     (about 6 minutes)
accuracy: 8 × 8 cells of PbTiO3 with random polar displacements, 20 nm, windows of 10 to 20 Å against one of 27 Å.
field: 6 × 6 and 24 × 24 cells, 40 Å thick, in fresh processes (compiled once before); peak memory of each.
"""

import json
import resource
import subprocess
import sys
from time import perf_counter

import numpy as np
from common import RESULTS, write_result

from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.multislice import FastThermal
from ferrojax.optics import Probe

PROBE = Probe(200e3, 21.4)
DETECTORS = {"haadf": AnnularDetector(60, 170), "abf": AnnularDetector(11, 21.4), "bf": AnnularDetector(0, 10)}
SMALL, LARGE = 6, 24


def specimen(cells: int, depth: int):
    field = 0.05 * np.random.default_rng(0).normal(size=(cells, cells, 3))
    return displaced_supercell(material("PbTiO3"), field, depth)


def accuracy() -> dict:
    atoms = specimen(8, 50)
    scan = Scan.grid((12.3, 12.3), (16.3, 16.3), (6, 6))
    thermal = FastThermal(2, seed=1)
    rows, reference = {}, {}
    for window in (27.0, 20.0, 16.0, "auto", 10.0):
        out = simulate(atoms, PROBE, scan, DETECTORS, thermal=thermal, thicknesses=[50.0, 100.0, 195.0], window=window)
        values = {k: np.asarray(image.data) for k, image in out.items()}
        reference = reference or values
        rows[str(window)] = {
            k: {
                "l2_percent": [
                    100 * float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(v, r, strict=True)
                ],
                "mean_percent": (100 * (v.mean((1, 2)) / r.mean((1, 2)) - 1)).tolist(),
            }
            for k, v, r in ((k, values[k], reference[k]) for k in values)
        }
        print(window, rows[str(window)], flush=True)
    return rows


def field(cells: int) -> dict:
    atoms = specimen(cells, 10)
    scan = Scan.grid((0, 0), atoms.box[:2], (8 * cells, 8 * cells))
    seconds = []
    for seed in (0, 1):
        start = perf_counter()
        out = simulate(atoms, PROBE, scan, {"haadf": DETECTORS["haadf"]}, thermal=FastThermal(2, seed=seed))
        out["haadf"].data.block_until_ready()
        seconds.append(perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"cells": cells, "positions": 64 * cells**2, "first": seconds[0], "again": seconds[1], "peak_GiB": peak}


def main(folder) -> None:
    rows = {}
    for cells in (SMALL, LARGE):
        done = subprocess.run(
            [sys.executable, __file__, "field", str(cells)], capture_output=True, text=True, check=True
        )
        rows[cells] = json.loads(done.stdout.splitlines()[-1])
        print(rows[cells], flush=True)
    ratio = {k: rows[LARGE][k] / rows[SMALL][k] for k in ("again", "peak_GiB")}
    print(write_result("windows", {"field": rows, "sixteen_times_the_field": ratio, "accuracy": accuracy()}, folder))


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "field":
        print(json.dumps(field(int(sys.argv[2]))))
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else RESULTS)
