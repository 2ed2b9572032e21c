"""FastThermal against explicit phonons, ring by ring: where its band limit K spoils a detector.

usage: python benchmarks/bench_fast_rings.py [OUT_FOLDER]     (about 3 minutes)
PbTiO3 and BaTiO3 displaced by 10 pm, 5 and 10 nm, one cell as a periodic box, 16 probes, two antithetic pairs, the same
displacements in both; explicit phonons on 0.044 Å per pixel. Each ring at 0.1 Å per pixel, whatever the engine's own
check says of it ("forced", ratio of means and L2), and as the engine runs it with sampling=None ("chosen").
"""

import sys
from itertools import product
from unittest.mock import patch

import numpy as np
from common import RESULTS, write_result

from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.detection.validity import fast_sampling
from ferrojax.multislice import FastThermal, FrozenPhonons
from ferrojax.optics import Probe

PROBE = Probe(200e3, 21.4)
RINGS = {
    f"{inner}-{outer}": AnnularDetector(inner, outer)
    for inner, outer in product((40, 60, 80), (70, 80, 90, 100, 110, 115, 122, 130, 150, 170, 200))
    if outer > inner
}
CHECK = sys.modules["ferrojax.detection.simulate"].__name__ + ".check_reach"


def compared(value, reference) -> list[float]:
    return [
        float(value.mean() / reference.mean()),
        float(np.linalg.norm(value - reference) / np.linalg.norm(reference)),
    ]


def main(folder) -> None:
    forced: dict[str, list] = {name: [] for name in RINGS}
    chosen: dict[str, list] = {name: [] for name in RINGS}
    for name, depth in product(("PbTiO3", "BaTiO3"), (13, 26)):
        atoms = displaced_supercell(material(name), np.full((1, 1, 3), [0.1, 0.0, 0.0]), depth)
        scan = Scan.grid((0, 0), atoms.box[:2], (4, 4))
        pairs = FrozenPhonons(4, seed=0, antithetic=True)
        reference = simulate(atoms, PROBE, scan, RINGS, thermal=pairs, sampling=0.044, window=None)
        with patch(CHECK):
            coarse = simulate(atoms, PROBE, scan, RINGS, thermal=FastThermal(4, seed=0), sampling=0.1, window=None)
        for ring, detector in RINGS.items():
            expected = np.asarray(reference[ring].data)
            forced[ring].append(compared(np.asarray(coarse[ring].data), expected))
            own = simulate(atoms, PROBE, scan, {ring: detector}, thermal=FastThermal(4, seed=0), window=None)
            chosen[ring].append(compared(np.asarray(own[ring].data), expected))
            print(name, depth, ring, forced[ring][-1], chosen[ring][-1], flush=True)
    sampling = {ring: fast_sampling({ring: d}, PROBE.wavelength) for ring, d in RINGS.items()}
    worst = {
        which: {ring: max(l2 for _, l2 in rows) for ring, rows in found.items()}
        for which, found in (("forced", forced), ("chosen", chosen))
    }
    figures = {"sampling": sampling, "worst_l2": worst, "forced": forced, "chosen": chosen}
    print("worst L2, chosen:", max(worst["chosen"].values()), "forced:", max(worst["forced"].values()))
    print(write_result("fast_rings", figures, folder))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else RESULTS)
