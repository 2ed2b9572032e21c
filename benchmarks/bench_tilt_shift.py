"""Apparent B − A column shift against mis-tilt: FastThermal against frozen phonons with the same displacements.

usage: python benchmarks/bench_tilt_shift.py [CONFIGURATIONS] [ENERGY_KEV]     (about 4 minutes on one core)
Cubic PbTiO3, HAADF 60–170 mrad, 21.4 mrad. Columns: centroid of the image above the disc's rim, in a disc of
1.2 Å around A and B. The reference is renormalised multislice of 2 Å slices at 0.045 (200 kV) or 0.03 Å per pixel.
"""

import sys
import time

import numpy as np
from bench_thermal import record

from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.multislice import FastThermal, FrozenPhonons
from ferrojax.optics import Probe

TILTS = (-6.0, -3.0, 0.0, 3.0, 6.0)
RADIUS = 1.2
STEPS = 14
DETECTOR = {"haadf": AnnularDetector(60, 170)}


def centroid(image: np.ndarray, at: np.ndarray, step: float) -> float:
    """x of the column near `at` (x, y) Å on a periodic image, Å from `at`."""
    n = image.shape[-1]
    grid = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1) * step
    offset = (grid - at + n * step / 2) % (n * step) - n * step / 2
    r = np.hypot(*np.moveaxis(offset, -1, 0))
    rim = image[np.abs(r - RADIUS) < 0.15].mean()
    weight = np.where(r < RADIUS, np.clip(image - rim, 0, None), 0)
    return float((weight * offset[..., 0]).sum() / weight.sum())


def shift(image: np.ndarray, cell: float) -> float:
    """B − A along x in pm, against their true distance; image of one cell, refined by Fourier interpolation."""
    fine = 4 * image.shape[-1]
    spectrum = np.zeros((fine, fine), complex)
    k = np.fft.fftfreq(image.shape[-1], 1 / image.shape[-1]).astype(int)
    keep = np.abs(k) < image.shape[-1] / 2
    spectrum[np.ix_(k[keep], k[keep])] = np.fft.fft2(image)[np.ix_(keep, keep)]
    image = np.fft.ifft2(spectrum).real
    a, b = (centroid(image, np.full(2, f * cell), cell / fine) for f in (0.0, 0.5))
    return 100 * (b - a)


def main(configurations: int, energy: float) -> None:
    crystal = material("PbTiO3")
    cell = float(crystal.cell[0, 0])
    atoms = displaced_supercell(crystal, np.zeros((2, 2, 3)), 30)
    scan = Scan.grid((0, 0), (cell, cell), (STEPS, STEPS))
    depths = [cell * n for n in (10, 20, 30)]
    probe = Probe(energy * 1e3, 21.4)
    models = {
        "frozen": (FrozenPhonons, {"sampling": 0.045 if energy <= 200 else 0.03, "slice_thickness": 2.0}),
        "fast": (FastThermal, {}),
        "fast, slices of one cell": (FastThermal, {"slice_thickness": cell + 1e-3}),
    }
    shifts: dict[str, np.ndarray] = {}
    seconds = {}
    for name, (model, options) in models.items():
        start, rows = time.time(), []
        for c in range(configurations):
            how = {"thermal": model(1, seed=c, antithetic=False), "thicknesses": depths, "window": None, **options}
            runs = [simulate(atoms, probe, scan, DETECTOR, tilt=(t, 0.0), **how) for t in TILTS]
            rows.append([[shift(np.asarray(d, float), cell) for d in r["haadf"].data] for r in runs])
            print(name, c, np.round(rows[-1], 2).tolist(), f"{time.time() - start:.0f} s", flush=True)
        shifts[name], seconds[name] = np.array(rows), time.time() - start  # configurations, tilts, depths
    root = configurations**0.5
    difference = {name: x - shifts["frozen"] for name, x in shifts.items() if name != "frozen"}
    record(
        f"tilt_shift_{energy:.0f}kV",
        {
            "tilt_mrad": TILTS,
            "depth_A": depths,
            "configurations": configurations,
            "shift_pm": {k: v.mean(0) for k, v in shifts.items()},
            "shift_standard_error_pm": {k: v.std(0, ddof=1) / root for k, v in shifts.items()},
            "difference_pm": {k: v.mean(0) for k, v in difference.items()},
            "difference_standard_error_pm": {k: v.std(0, ddof=1) / root for k, v in difference.items()},
            "seconds": seconds,
        },
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4, float(sys.argv[2]) if len(sys.argv) > 2 else 200.0)
