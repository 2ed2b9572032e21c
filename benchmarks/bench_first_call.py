"""Seconds of a first call, which compiles: without kept programs, with them, and for an input of about the same size.

usage: python benchmarks/bench_first_call.py [OUT_FOLDER]                      (about 3 minutes)
       python benchmarks/bench_first_call.py against CHECKOUT [OUT_FOLDER]     (3 minutes: beside another commit)
Every line is a process of its own. simulate: BaTiO3 5 × 5 cells, 20 thick, whole box, 8 × 8 probes, HAADF and ABF, at
rest and with two configurations of FastThermal. columns: `find_columns` in a noisy phantom of BaTiO3. import: ferrojax
and JAX alone, in none of the others. cold: no programs are kept; kept: the same call in the next process;
other: with the programs kept, an image of other sides and another magnification, and a scan of another start; second:
the same call once more in the process.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import RESULTS, write_result

HERE = Path(__file__).resolve().parents[1]

CODE = """
import json, os, sys, time
start = time.perf_counter()
import ferrojax as fj
assert fj.__file__.startswith(sys.argv[3]), fj.__file__
from ferrojax.columns import find_columns
from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.image import Image
from ferrojax.multislice import FastThermal
from ferrojax.optics import Probe
import jax
jax.devices()
imported = time.perf_counter() - start
import numpy as np

def simulated(thermal, other):
    atoms = displaced_supercell(material("BaTiO3"), np.zeros((5, 5, 3)), 20)
    at = 0.5 if other else 0.0
    scan = Scan.grid((at, at), (at + 2.0, at + 2.0), (8, 8))
    rings = {"haadf": AnnularDetector(60, 160), "abf": AnnularDetector(11, 22)}
    out = simulate(atoms, Probe(200e3, 21.4), scan, rings, thermal=thermal, window=None)
    out["haadf"].data.block_until_ready()

kind, other = sys.argv[1], sys.argv[2] == "other"
def run():
    if kind == "import":
        return
    if kind == "simulate":
        simulated(None, other)
    elif kind == "thermal":
        simulated(FastThermal(2), other)
    else:
        find_columns(IMAGE, material("BaTiO3"), (0, 0, 1))

if kind == "columns":
    shape, sampling = ((300, 310), 0.15) if not other else ((283, 296), 0.142)
    step = 4.0 / sampling
    y, x = np.mgrid[: shape[0], : shape[1]]
    data = np.full(shape, 30.0)
    for height, at in ((300.0, 0.3), (120.0, 0.8)):
        dx, dy = ((v / step - at + 0.5) % 1 - 0.5 for v in (x, y))
        data += height * np.exp(-0.5 * (dx**2 + dy**2) * (step * sampling / 0.45) ** 2)
    IMAGE = Image(np.random.default_rng(0).poisson(data).astype(np.float32), (sampling, sampling), name="phantom")
seconds = []
for _ in range(2):
    start = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - start)
print(json.dumps([imported, *seconds]))
"""


def measured(kind: str, which: str, folder: str, checkout: Path = HERE) -> list[float]:
    """Seconds of the import, the first call and the second, of the ferrojax in a checkout."""
    settings = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    command = [sys.executable, "-c", CODE, kind, which, str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | settings, cwd=checkout)
    return json.loads(done.stdout)


def commit_of(checkout: str) -> str:
    done = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def against(checkout: str, folder: str | Path = RESULTS) -> None:
    """First calls of another checkout and of this one in turn, no programs kept; medians of three."""
    figures: dict[str, object] = {"other": commit_of(checkout)}
    for kind in ("simulate", "thermal", "columns"):
        seconds = []
        for _ in range(3):
            for place in (Path(checkout).resolve(), HERE):
                with tempfile.TemporaryDirectory() as none:
                    seconds.append(measured(kind, "same", none, place)[1:])
        first, second = np.median(np.reshape(seconds, (3, 2, 2)), axis=0).T
        found = {"cold": first.tolist(), "second": second.tolist(), "compiling": (first - second).tolist()}
        figures[kind] = found
        print(kind, "other, this:", {k: np.round(v, 2) for k, v in found.items()})
    write_result("first_call_against", figures, folder)


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
    if sys.argv[1:2] == ["against"]:
        against(*sys.argv[2:4])
    else:
        main(*sys.argv[1:2])
