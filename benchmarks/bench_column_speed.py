"""Time and memory of fitting columns: against atomap on the same columns of a real image, and on a 4096 × 4096 image.

usage: FERROJAX_REFERENCE_DATA=... python benchmarks/bench_column_speed.py ATOMAP_PYTHON     (4 minutes)
ATOMAP_PYTHON: an interpreter with atomap 0.4.2. Both refine the same columns of the SrTiO3 [110] ADF image (999 × 1012)
from the same starts; atomap runs its centre of mass, then its 2-D Gaussian refinement, which alone is timed. Parts run
one after another, each in a process of its own, in one call of this script.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import write_result

STEP = 0.0932627
PAIRS = 5
ATOMAP = """
import sys, json, time, numpy as np, atomap.api
from atomap.sublattice import Sublattice
z = np.load(sys.argv[1])
seconds, position = 0.0, []
for start in (z["a"], z["b"]):
    s = Sublattice(start, z["image"])
    s.find_nearest_neighbors()
    s.refine_atom_positions_using_center_of_mass()
    t = time.perf_counter()
    s.refine_atom_positions_using_2d_gaussian()
    seconds += time.perf_counter() - t
print(json.dumps(seconds))
"""


def fit_part(source: str) -> None:
    """In a fresh process: import to first result, then the same again."""
    begin = time.perf_counter()
    from ferrojax.columns.fitting.fit import FitSettings, fit_columns

    with np.load(source) as z:
        image, start = z["image"].astype(float), np.concatenate([z["a"], z["b"]])
        group = np.repeat([0, 1], [len(z["a"]), len(z["b"])])
    settings = FitSettings(125.0, core=10.5)
    fit_columns(image, start, group, settings)
    first = time.perf_counter() - begin
    again = []
    for _ in range(3):
        t = time.perf_counter()
        fit_columns(image, start, group, settings)
        again.append(time.perf_counter() - t)
    print(json.dumps({"with_import_and_compilation": first, "after_compilation": min(again), "columns": len(start)}))


def large_part(pixels: int) -> None:
    """In a fresh process: an image of some 40 000 columns from pixels to the map, compilation included."""
    from lattice_phantom import Scene, draw

    from ferrojax.crystal import material
    from ferrojax.crystal.zone import projected_motif
    from ferrojax.image import Image

    scene = Scene(shape=(pixels, pixels), sampling=3.97 / 29, turn=17.0, strain=0.02, drift=3.0, vacancies=0.01)
    picture, _ = draw(projected_motif(material("PbTiO3")), scene)
    image = Image(picture, (scene.sampling, scene.sampling))
    begin = time.perf_counter()
    import ferrojax as fj

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stages: dict[str, float] = {}
    words: list[tuple[str, float]] = []
    pmap = fj.map_polarization(
        image, fj.material("PbTiO3"), progress=lambda word: words.append((word, time.perf_counter()))
    )
    end = time.perf_counter()
    for (word, t), (_, after) in zip(words, [*words[1:], ("", end)], strict=True):
        stages[word] = after - t
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "seconds": end - begin,
        "stages": stages,
        "columns": len(pmap.columns.site),
        "cells": int(np.asarray(pmap.valid).sum()),
        "peak_GiB": peak / 2**20,
        "before_GiB": before / 2**20,
    }
    print(json.dumps(found))


def run(*command: str) -> dict | float:
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    return json.loads(done.stdout.splitlines()[-1])


def starts(folder: Path) -> str:
    """The image and the accepted columns' starting pixels, for both programs."""
    import ferrojax as fj
    from ferrojax.columns.indexing.place import inside
    from ferrojax.columns.indexing.seeds import seed_columns
    from ferrojax.crystal.zone import projected_motif

    data = Path(os.environ["FERROJAX_REFERENCE_DATA"]) / "sto110_adf_abf" / "sto110_adf_abf.npz"
    with np.load(data) as z:
        image = z["adf"].astype(float)
    seeds = seed_columns(image, np.full(2, STEP), projected_motif(fj.material("SrTiO3"), (1, 1, 0)))
    seen = inside(seeds.position, image.shape)
    a, b = (np.round(seeds.position[seen & (seeds.site == k)]) for k in (0, 1))
    np.savez(folder / "starts.npz", image=image, a=a, b=b)
    return str(folder / "starts.npz")


def main(python: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = starts(Path(folder))
        theirs, pairs = [], []
        for _ in range(PAIRS):
            theirs.append(run(python, "-c", ATOMAP, source))
            pairs.append(run(sys.executable, __file__, "fit", source))
            print(theirs[-1], pairs[-1], flush=True)
        parts = ("with_import_and_compilation", "after_compilation")
        ratio = {k: float(np.median([t / p[k] for t, p in zip(theirs, pairs, strict=True)])) for k in parts}
        print("ratios, median of the pairs", ratio)
        large = run(sys.executable, __file__, "large", "4096")
        print(large)
    write_result("column_speed", {"atomap_seconds": theirs, "ours": pairs, "ratio": ratio, "large": large})


if __name__ == "__main__":
    if sys.argv[1] == "fit":
        fit_part(sys.argv[2])
    elif sys.argv[1] == "large":
        large_part(int(sys.argv[2]))
    else:
        main(sys.argv[1])
