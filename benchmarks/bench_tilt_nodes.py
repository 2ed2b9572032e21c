"""Operators between nodes of tilt: interpolated from one lattice and from two, against the operator at that tilt.

usage: python benchmarks/bench_tilt_nodes.py [OUT_FOLDER]     (6 minutes on one core)
BaTiO3, 2 × 2 cells, 200 kV, HAADF from 60 mrad, ABF 11–21: the clean image, and the response to one cell displaced
by 12 pm along the soft mode, with the same pair of phonons everywhere. Tilts as far from every node as there are.
"""

import sys

import numpy as np
from common import RESULTS, write_result

from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, detector_operator, operator_spectrum
from ferrojax.detection.tilted_operator import tilted_operators
from ferrojax.multislice import FastThermal, plan_slices
from ferrojax.optics import Probe
from ferrojax.refinement.scene import tilt_weights

ENERGY, APERTURE, WIDEST = 200e3, 22.0, 6.0
PROBE = Probe(ENERGY, 21.0, 20.0)
DETECTORS = {"haadf": AnnularDetector(60, np.inf), "abf": AnnularDetector(11, 21)}
DEPTHS = [80.0, 160.0, 240.0]
SOURCE, SIZE = 0.5, 32
LATTICES = ((0.0, 0.0), (0.5, 0.5))


def specimens():
    crystal = material("BaTiO3")
    moved = np.zeros((2, 2, 3))
    moved[0, 0, 0] = 0.12
    return [displaced_supercell(crystal, field, 60) for field in (np.zeros((2, 2, 3)), moved)]


def blurred(operator) -> np.ndarray:
    """(exits, size, size): the image under a source."""
    spectrum = np.asarray(operator_spectrum(operator, PROBE, SIZE))
    k = np.fft.fftfreq(SIZE, 1 / SIZE) / operator.grid.extent[0]
    return np.fft.ifft2(spectrum * np.exp(-2 * (np.pi * SOURCE) ** 2 * (k[:, None] ** 2 + k**2))).real * SIZE**2


def main(folder) -> None:
    thermal, boxes = FastThermal(2, seed=0), specimens()
    plan = plan_slices(boxes[0], 2.01, DEPTHS)
    nodes, images = [], {name: [] for name in DETECTORS}  # (nodes, specimens, exits, size, size)
    for offset in LATTICES:
        found = [
            tilted_operators(b, ENERGY, APERTURE, DETECTORS, thermal, plan, max_tilt=WIDEST, offset=offset)
            for b in boxes
        ]
        tilt = next(iter(found[0].values())).tilt
        nodes.append(tilt)
        for name in DETECTORS:
            images[name].append(np.array([[blurred(each[name].at(i)) for each in found] for i in range(len(tilt))]))
    step = float(np.diff(np.unique(nodes[0][:, 0].round(4))).min())
    points = {"one lattice": (step / 2, step / 2), "two lattices": (step / 2, 0.0)}
    rows = []
    for name, tilt in points.items():
        count = 1 if name == "one lattice" else 2
        known = np.concatenate(nodes[:count])
        weight = np.asarray(tilt_weights(known, tilt), float)
        for detector, ring in DETECTORS.items():
            exact = [blurred(detector_operator(b, ENERGY, APERTURE, ring, thermal, plan, tilt=tilt)) for b in boxes]
            between = np.tensordot(weight, np.concatenate(images[detector][:count]), 1)
            for e, depth in enumerate(plan.depths):
                right, guess = exact[1][e] - exact[0][e], between[1][e] - between[0][e]
                clean = exact[0][e] - exact[0][e].mean()
                rows.append(
                    {
                        "nodes": name,
                        "tilt_mrad": tilt,
                        "detector": detector,
                        "depth_A": depth,
                        "clean_percent": 100 * np.linalg.norm(between[0][e] - exact[0][e]) / np.linalg.norm(clean),
                        "response_percent": 100 * np.linalg.norm(guess - right) / np.linalg.norm(right),
                        "response_slope": float((guess * right).sum() / (right**2).sum()),
                    }
                )
                print(rows[-1], flush=True)
    print(write_result("tilt_nodes", {"step_mrad": step, "rows": rows}, folder))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else RESULTS)
