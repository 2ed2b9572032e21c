"""How finely a periodic box samples the aperture: images of one crystal from boxes of n × n cells, and from offsets of
the waves' frequencies, against 6 × 6 cells.

usage: python benchmarks/bench_aperture.py [OUT_FOLDER]     (3 minutes on one core)
PbTiO3 at rest, every cell displaced alike, 14 nm, tilted, 200 kV, 20.6 mrad, annular bright field that ends with the
disc, and HAADF. A box has as many waves in the aperture as cells; at the edge of disc and ring few of them decide.
Error: rms difference of the images less their means, over the contrast of 6 × 6 cells, both under a source of 0.5 Å.
"""

import sys

import numpy as np
from common import RESULTS, write_result

import ferrojax as fj
from ferrojax.grid import Grid

DEPTH, POINTS, PIXELS = 35, 16, 64
TILT = (-2.6, -3.3)
PROBE = fj.Probe(200e3, 20.6, -12.0, {"C12": 8.0, "phi12": 2.1, "C21": 120.0, "phi21": 0.4})
DETECTORS = {"abf": fj.AnnularDetector(10.5, 20.6), "haadf": fj.AnnularDetector(60, 120)}
REFERENCE = 6


def offsets(count: int) -> list[tuple[float, float]]:
    """So many by so many, evenly spread."""
    return [(y / count, x / count) for y in range(count) for x in range(count)]


def images(crystal: fj.Crystal, cells: int, offset: tuple[float, float]) -> np.ndarray:
    """(detectors, POINTS, POINTS) of one cell, under the source."""
    side = float(crystal.cell[0, 0])
    atoms = fj.displaced_supercell(crystal, np.full((cells, cells, 3), [0.14, 0.03, 0.0]), DEPTH)
    grid = Grid((PIXELS * cells,) * 2, (side / PIXELS,) * 2, offset)
    scan = fj.Scan.grid((0, 0), (side, side), (POINTS, POINTS))
    out = fj.simulate(
        atoms, PROBE, scan, DETECTORS, tilt=TILT, sampling=grid, slice_thickness=2.1, window=None, route="matrix"
    )
    k = np.fft.fftfreq(POINTS, side / POINTS)
    blur = np.exp(-2 * np.pi**2 * 0.5**2 * (k[:, None] ** 2 + k**2))
    return np.stack([np.fft.ifft2(np.fft.fft2(np.asarray(out[d].data, float)) * blur).real for d in DETECTORS])


def main(folder) -> None:
    crystal = fj.material("PbTiO3")
    reference = images(crystal, REFERENCE, (0.0, 0.0))
    centred = reference - reference.mean((1, 2), keepdims=True)
    rows = []
    for cells, count in ((2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1), (5, 1)):
        found = np.mean([images(crystal, cells, offset) for offset in offsets(count)], axis=0)
        error = found - found.mean((1, 2), keepdims=True) - centred
        row: dict[str, float] = {"cells": cells, "offsets": count**2}
        for k, name in enumerate(DETECTORS):
            row[f"{name}_error_percent"] = float(100 * np.linalg.norm(error[k]) / np.linalg.norm(centred[k]))
            row[f"{name}_mean_percent"] = float(100 * (found[k].mean() / reference[k].mean() - 1))
        rows.append(row)
        print(row, flush=True)
    print(write_result("aperture", {"reference_cells": REFERENCE, "rows": rows}, folder))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else RESULTS)
