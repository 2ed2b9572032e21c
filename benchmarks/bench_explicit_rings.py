"""Rings near the band limit under explicit phonons: what is missing where they end close to it.

usage: python benchmarks/bench_explicit_rings.py [OUT_FOLDER]     (10 minutes on one core)
PbTiO3 (displaced by 11 pm, 12 nm) and SrTiO3 (8 nm), 2 × 2 cells, FrozenPhonons of one seed on every grid, against
0.028 Å per pixel; `CLEAR` in detection/validity.py is drawn from it.
"""

import sys
import warnings

import numpy as np
from common import RESULTS, write_result

import ferrojax as fj

RINGS = {"40-70": (40, 70), "60-80": (60, 80), "60-100": (60, 100), "80-120": (80, 120), "90-110": (90, 110)}
SAMPLINGS, REFERENCE = (0.088, 0.075, 0.071, 0.064, 0.056), 0.028
PROBE = fj.Probe(200e3, 21.4)


def measured(name: str, depth: int, shift: float) -> list[dict]:
    crystal = fj.material(name)
    field = np.full((1, 1, 3), [shift, shift / 2, 0.0])
    atoms = fj.displaced_supercell(crystal, field, depth).repeated(2, 2, 1)
    scan = fj.Scan.grid((0, 0), (atoms.box[0] / 2, atoms.box[1] / 2), (4, 4))

    def run(sampling: float, reach: float) -> dict[str, np.ndarray]:
        rings = {k: fj.AnnularDetector(*ring) for k, ring in RINGS.items() if ring[1] <= reach}
        thermal = fj.FrozenPhonons(2, seed=1)
        out = fj.simulate(atoms, PROBE, scan, rings, thermal=thermal, sampling=sampling, window=None)
        return {k: np.asarray(v.data, float) for k, v in out.items()}

    reference, rows = run(REFERENCE, np.inf), []
    for sampling in SAMPLINGS:
        grid = fj.Grid.for_box(*atoms.box[:2], sampling)
        reach = 0.75 * grid.nyquist * PROBE.wavelength * 1e3
        for ring, value in run(sampling, reach).items():
            rows.append(
                {
                    "crystal": name,
                    "ring": ring,
                    "end_over_band_limit": RINGS[ring][1] / reach,
                    "mean_percent": 100 * (value.mean() / reference[ring].mean() - 1),
                    "l2_percent": 100 * np.linalg.norm(value - reference[ring]) / np.linalg.norm(reference[ring]),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main(folder) -> None:
    warnings.simplefilter("ignore")  # that these rings end too close is what is measured
    rows = measured("PbTiO3", 30, 0.1) + measured("SrTiO3", 20, 0.0)
    worst = {
        name: max(abs(r["mean_percent"]) for r in rows if chosen(r["end_over_band_limit"]))
        for name, chosen in (("up_to_0.84", lambda x: x <= 0.84), ("beyond", lambda x: x > 0.84))
    }
    print(write_result("explicit_rings", {"worst_mean_percent": worst, "rings": rows}, folder))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else RESULTS)
