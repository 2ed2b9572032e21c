"""A polar field of 8 × 8 PbTiO3 cells, 30 thick, 128² probes, HAADF, two frozen configurations: time and error.

usage: python benchmarks/bench_polar_field.py [OUT_FOLDER]     (about 40 minutes, most of it abTEM's)
ferrojax (FastThermal; windows of three cells and slices of one, then all by default) and abTEM's PRISM
(interpolation 2, 0.05 Å per pixel, slices of 2 Å) image the same displaced atoms, one after the other in one process;
compilation is included. Error: relative L2 on a subset of the pixels against renormalised explicit multislice of the
whole box at 0.045 Å per pixel.
"""

import os
import sys
from time import perf_counter

# Before JAX starts: one device per core, so that ferrojax shares its work out as abTEM's threads do.
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={os.cpu_count()}")

import equinox as eqx
import numpy as np
from common import RESULTS, write_result

from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.interop.abtem import scan_prism
from ferrojax.multislice import FastThermal, displaced_positions
from ferrojax.optics import Probe

CELLS, DEPTH, PIXELS = 8, 30, 128
PROBE = Probe(200e3, 21.4)
HAADF = AnnularDetector(60, 165)  # abTEM reaches 167 mrad here
THERMAL = FastThermal(2, seed=1, draws="independent")
FAST, WINDOW = "ferrojax, windows of 11.9 Å, one-cell slices, 0.11 Å/px", 8.0
CHECKED = 6  # along each axis


def specimen():
    """A vortex-like field: B displaced by 0.1 Å, turning along y."""
    angle = 2 * np.pi * np.arange(CELLS)[:, None] / CELLS
    field = np.zeros((CELLS, CELLS, 3))
    field[..., 0], field[..., 1] = 0.1 * np.cos(angle), 0.1 * np.sin(angle)
    return displaced_supercell(material("PbTiO3"), field, DEPTH)


def main(folder) -> None:
    atoms = specimen()
    scan = Scan.grid((0, 0), atoms.box[:2], (PIXELS, PIXELS))
    frozen = [eqx.tree_at(lambda a: a.position, atoms, displaced_positions(atoms, THERMAL, c)) for c in (0, 1)]
    images, seconds = {}, {}

    def timed(name, image):
        start = perf_counter()
        images[name] = np.asarray(image())
        seconds[name] = perf_counter() - start
        print(name, seconds[name], flush=True)

    def ours(**how):
        return simulate(atoms, PROBE, scan, {"haadf": HAADF}, thermal=THERMAL, **how)["haadf"].data

    def theirs():
        return np.mean([scan_prism(a.wrapped(), PROBE, scan.shape, HAADF, 0.05, 2, downsample=True) for a in frozen], 0)

    timed(FAST, lambda: ours(slice_thickness=atoms.box[2] / DEPTH * 1.0001, sampling=0.113, window=WINDOW))
    timed("abTEM PRISM", theirs)
    reference, at = converged(frozen, scan)
    write(images, seconds, reference, at, folder)
    timed("ferrojax, default", ours)
    write(images, seconds, reference, at, folder)


def write(images, seconds, reference, at, folder) -> None:
    error = {
        name: {
            "l2_percent": float(100 * np.linalg.norm(image[at] - reference) / np.linalg.norm(reference)),
            "mean_percent": float(100 * (image[at].mean() / reference.mean() - 1)),
        }
        for name, image in images.items()
    }
    ratio = {k: seconds["abTEM PRISM"] / v for k, v in seconds.items()}
    print(write_result("polar_field", {"seconds": seconds, "error": error, "faster_than_abtem": ratio}, folder))
    print(error, ratio, flush=True)


def converged(frozen, scan):
    """Explicit multislice of the whole box on a coarse subset of the pixels that covers all parts of a cell."""
    rows = np.arange(CHECKED) * 21 % PIXELS
    at = np.ix_(rows, rows)
    x = np.asarray(scan.position)[at].reshape(-1, 2)
    values = []
    for atoms in frozen:
        for point in x:
            spot = Scan.grid(point, point, (1, 1))
            out = simulate(atoms.wrapped(), PROBE, spot, {"haadf": HAADF}, sampling=0.045, window=None, route="probes")
            values.append(float(out["haadf"].data[0, 0]))
    return np.mean(np.reshape(values, (len(frozen), CHECKED, CHECKED)), 0), at


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else RESULTS)
