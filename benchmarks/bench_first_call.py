"""Seconds of a first call, which compiles: without kept programs, with them, and for an input of about the same size.

usage: python benchmarks/bench_first_call.py [OUT_FOLDER]     (about 3 minutes)
Every line is a process of its own. simulate: BaTiO3 one cell, 20 cells thick, 8 × 8 probes, HAADF and ABF, at rest and
with two configurations of FastThermal. columns: `find_columns` in a noisy phantom of BaTiO3 [001]. import: of ferrojax
and JAX alone, which is in none of the others. cold: no programs are kept; kept: the same call in the next process;
other: with the programs kept, an image of other sides and another magnification, and a scan of another start; second:
the same call once more in the process.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import RESULTS, write_result

CODE = """
import json, os, sys, time
start = time.perf_counter()
import ferrojax as fj
import jax
jax.devices()
imported = time.perf_counter() - start
import numpy as np

def simulated(thermal, other):
    atoms = fj.displaced_supercell(fj.material("BaTiO3"), np.zeros((1, 1, 3)), 20)
    at = 0.5 if other else 0.0
    scan = fj.Scan.grid((at, at), (at + 2.0, at + 2.0), (8, 8))
    rings = {"haadf": fj.AnnularDetector(60, 160), "abf": fj.AnnularDetector(11, 22)}
    out = fj.simulate(atoms, fj.Probe(200e3, 21.4), scan, rings, thermal=thermal)
    out["haadf"].data.block_until_ready()

kind, other = sys.argv[1], sys.argv[2] == "other"
def run():
    if kind == "import":
        return
    if kind == "simulate":
        simulated(None, other)
    elif kind == "thermal":
        simulated(fj.FastThermal(2), other)
    else:
        fj.find_columns(IMAGE, fj.material("BaTiO3"), (0, 0, 1))

if kind == "columns":
    shape, sampling = ((300, 310), 0.15) if not other else ((283, 296), 0.142)
    step = 4.0 / sampling
    y, x = np.mgrid[: shape[0], : shape[1]]
    data = np.full(shape, 30.0)
    for height, at in ((300.0, 0.3), (120.0, 0.8)):
        dx, dy = ((v / step - at + 0.5) % 1 - 0.5 for v in (x, y))
        data += height * np.exp(-0.5 * (dx**2 + dy**2) * (step * sampling / 0.45) ** 2)
    IMAGE = fj.Image(np.random.default_rng(0).poisson(data).astype(np.float32), (sampling, sampling), name="phantom")
seconds = []
for _ in range(2):
    start = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - start)
print(json.dumps([imported, *seconds]))
"""


def measured(kind: str, which: str, folder: str) -> list[float]:
    """Seconds of the import, the first call and the second."""
    settings = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, kind, which], capture_output=True, text=True, check=True, env=os.environ | settings
    )
    return json.loads(done.stdout)


def main(folder: str | Path = RESULTS) -> None:
    figures: dict[str, object] = {"import": round(measured("import", "same", "")[0], 2)}
    print(f"import: {figures['import']} s")
    for kind in ("simulate", "thermal", "columns"):
        with tempfile.TemporaryDirectory() as kept:
            _, cold, second = measured(kind, "same", kept)
            found = {
                "cold": cold,
                "second": second,
                "kept": measured(kind, "same", kept)[1],
                "other": measured(kind, "other", kept)[1],
            }
        figures[kind] = found
        print(kind, {key: round(value, 2) for key, value in found.items()})
    write_result("first_call", figures, folder)


if __name__ == "__main__":
    main(*sys.argv[1:2])
