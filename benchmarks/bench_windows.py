"""Windows: what they cost in accuracy, and how time and memory grow with the field.

usage: python benchmarks/bench_windows.py [OUT_FOLDER]            (17 minutes on a quiet machine, over an hour else)
       python benchmarks/bench_windows.py batches [OUT_FOLDER]    (5 minutes)
accuracy: PbTiO3 with random polar displacements, 20 nm, 36 probes; windows of 10 to 24 Å against the whole box of
12 × 12 cells (47.6 Å), the mean of two whose frequencies are offset by a quarter of a step; the plain box beside them.
field: 6 × 6 and 24 × 24 cells, 40 Å thick, in fresh processes (compiled once before); peak memory of each.
batches: half the probes of the 6 × 6 field, in batches as they come and as large as before they had to stay in a
core's cache (9 waves), on one device and on one a core; fresh processes, twice in turn.
"""

import json
import os
import resource
import subprocess
import sys
from time import perf_counter

import numpy as np
from common import RESULTS, write_result

from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.grid import Grid
from ferrojax.multislice import FastThermal
from ferrojax.optics import Probe

PROBE = Probe(200e3, 21.4)
DETECTORS = {
    "haadf": AnnularDetector(60, 170),
    "ladf": AnnularDetector(21.4, 60),
    "abf": AnnularDetector(11, 21.4),
    "bf": AnnularDetector(0, 10, edge=1.0),
}
SMALL, LARGE = 6, 24
BEFORE = 9
"""Waves of a batch of this field when batches filled 3 MiB."""


def specimen(cells: int, depth: int):
    field = 0.05 * np.random.default_rng(0).normal(size=(cells, cells, 3))
    return displaced_supercell(material("PbTiO3"), field, depth)


def accuracy() -> dict:
    atoms = specimen(12, 50)
    scan = Scan.grid((20.3, 20.3), (24.3, 24.3), (6, 6))
    box = Grid.for_box(*atoms.box[:2], 0.1)
    planes = [50.0, 100.0, 195.0]

    def run(**how) -> dict:
        out = simulate(atoms, PROBE, scan, DETECTORS, thermal=FastThermal(2, seed=1), thicknesses=planes, **how)
        return {k: np.asarray(image.data) for k, image in out.items()}

    whole = [
        run(sampling=Grid(box.shape, box.sampling, offset), window=None, route="probes")
        for offset in ((0.25, 0.25), (0.25, -0.25), (0.0, 0.0))
    ]
    reference = {k: (whole[0][k] + whole[1][k]) / 2 for k in DETECTORS}
    rows = {"one of the two": compared(whole[0], reference), "plain box": compared(whole[2], reference)}
    for window in ("auto", 10.0, 16.0, 24.0):
        rows[str(window)] = compared(run(window=window), reference)
    return rows


def compared(values: dict, reference: dict) -> dict:
    row = {
        k: {
            "l2_percent": [100 * float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(v, r, strict=True)],
            "mean_percent": (100 * (v.mean((1, 2)) / r.mean((1, 2)) - 1)).tolist(),
        }
        for k, v, r in ((k, values[k], reference[k]) for k in values)
    }
    print(row, flush=True)
    return row


def timed(atoms, scan, **how) -> list[float]:
    """Seconds of the first call, compilation included, and of a second with other draws."""
    seconds = []
    for seed in (0, 1):
        start = perf_counter()
        out = simulate(atoms, PROBE, scan, {"haadf": DETECTORS["haadf"]}, thermal=FastThermal(2, seed=seed), **how)
        out["haadf"].data.block_until_ready()
        seconds.append(perf_counter() - start)
    return seconds


def half_field(batch: int | None) -> dict:
    atoms = specimen(SMALL, 10)
    scan = Scan.grid((0, 0), (atoms.box[0], atoms.box[1] / 2), (4 * SMALL, 8 * SMALL))
    return {"again": timed(atoms, scan, batch=batch)[1]}


def batches(folder) -> None:
    rows = []
    for _ in range(2):
        for devices in (1, 2):
            for batch in (None, BEFORE):
                row = {"devices": devices, "batch": batch} | fresh("half", str(batch or 0), devices=devices)
                rows.append(row)
                print(row, flush=True)
    print(write_result("windows_batches", {"half_field": rows}, folder))


def fresh(*task: str, devices: int = 1) -> dict:
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    done = subprocess.run([sys.executable, __file__, *task], capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def field(cells: int) -> dict:
    atoms = specimen(cells, 10)
    seconds = timed(atoms, Scan.grid((0, 0), atoms.box[:2], (8 * cells, 8 * cells)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"cells": cells, "positions": 64 * cells**2, "first": seconds[0], "again": seconds[1], "peak_GiB": peak}


def main(folder) -> None:
    rows = {}
    for cells in (SMALL, LARGE):
        rows[cells] = fresh("field", str(cells))
        print(rows[cells], flush=True)
    ratio = {k: rows[LARGE][k] / rows[SMALL][k] for k in ("again", "peak_GiB")}
    print(write_result("windows", {"field": rows, "sixteen_times_the_field": ratio, "accuracy": accuracy()}, folder))


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "field":
        print(json.dumps(field(int(sys.argv[2]))))
    elif len(sys.argv) > 2 and sys.argv[1] == "half":
        print(json.dumps(half_field(int(sys.argv[2]) or None)))
    elif len(sys.argv) > 1 and sys.argv[1] == "batches":
        batches(sys.argv[2] if len(sys.argv) > 2 else RESULTS)
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else RESULTS)
