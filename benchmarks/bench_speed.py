"""The same job on the same grid: ferrojax in the mode that mirrors abTEM, against abTEM's multislice.

usage: python benchmarks/bench_speed.py [OUT_FOLDER]     (about 2 minutes)
PbTiO3, 2 × 2 cells on 256 × 256 pixels, 20 nm in slices of half a cell, 12 × 12 probes over a cell, HAADF and ABF, a
static lattice, single precision and all cores in both, run in turns three times; times are medians without compilation.
"""

import sys
from time import perf_counter

import numpy as np
from common import RESULTS, write_result

from ferrojax import use_all_cores
from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.grid import Grid
from ferrojax.interop.abtem import scan_annular
from ferrojax.optics import Probe

use_all_cores()  # before JAX starts, so that it shares its work out as abTEM's threads do
PROBE = Probe(200e3, 21.4)
DETECTORS = {"haadf": AnnularDetector(60, 170), "abf": AnnularDetector(11, 21.4)}


def main(folder) -> None:
    atoms = displaced_supercell(material("PbTiO3"), np.zeros((2, 2, 3)), 50)
    grid = Grid((256, 256), (atoms.box[1] / 256, atoms.box[0] / 256))
    step = atoms.box[2] / 100
    scan = Scan.grid((0, 0), (atoms.box[0] / 2, atoms.box[1] / 2), (12, 12))

    def ours():
        out = simulate(
            atoms, PROBE, scan, DETECTORS, sampling=grid, slice_thickness=step * 1.0001, transmission="abtem",
            window=None, route="probes",
        )  # fmt: skip
        return {k: np.asarray(v.data) for k, v in out.items()}

    def theirs():
        return scan_annular(atoms, PROBE, scan, DETECTORS, grid, slice_thickness=step * 1.0001, precision="float32")

    seconds = {"ferrojax": [], "abtem": []}
    ours()
    images = {}
    for _ in range(3):
        for name, run in (("ferrojax", ours), ("abtem", theirs)):
            start = perf_counter()
            images[name] = run()
            seconds[name].append(perf_counter() - start)
            print(seconds, flush=True)
    median = {k: float(np.median(v)) for k, v in seconds.items()}
    difference = {
        k: float(np.linalg.norm(images["ferrojax"][k] - images["abtem"][k]) / np.linalg.norm(images["abtem"][k]))
        for k in DETECTORS
    }
    figures = {"seconds": seconds, "ratio": median["abtem"] / median["ferrojax"], "relative_l2": difference}
    print(write_result("speed", figures, folder), figures["ratio"], difference)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else RESULTS)
