"""Single atoms of Kirkland's book: the phase-contrast image of fig. 5.12 and the annular signals of fig. 5.22.

usage: python benchmarks/bench_kirkland.py [OUT_FOLDER]
Kirkland's parametrization, 200 kV, Cs 1.3 mm, defocus 700 Å, aperture 10.37 mrad; C, Si, Cu, Au, U in a box of
50 × 50 Å, one slice; 10 Å apart in the image, one at a time under the probe. Beside every annular signal stands the
exact one, from Hankel transforms without a grid.
"""

import sys
from time import perf_counter

import numpy as np
from common import RESULTS, write_result
from scipy.special import j0, roots_legendre

from ferrojax.constants import interaction_constant
from ferrojax.crystal import Atoms
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.grid import Grid
from ferrojax.interop.abtem import scan_annular
from ferrojax.multislice import exit_wave, projected_potential
from ferrojax.optics import PlaneWave, Probe, probe_spectrum

ELEMENTS = {"C": 6, "Si": 14, "Cu": 29, "Au": 79, "U": 92}
BOX = 50.0
OBJECTIVE = Probe(200e3, 10.37, defocus=700.0, aberrations={"C30": 1.3e7})
IMAGE_EXPECTED = (0.721, 1.030)
RING = AnnularDetector(40, 200)
ADF_EXPECTED = np.array([1.168e-4, 5.93e-4, 2.147e-3, 9.778e-3, 1.168e-2])
ADF_GRIDS = {
    "conventional": (1200, 2048),
    "abtem": (2048,),
    "abTEM itself": (2048,),
    "renormalised": (1200, 1600, 2048),
}
"""Pixels a side; 200 mrad lie within the band limit from 1200 on. "abtem" has that code's pixel factor."""


def square(pixels: int) -> Grid:
    """The box on that many pixels a side."""
    return Grid((pixels, pixels), (BOX / pixels, BOX / pixels))


def image_extremes(pixels: int, transmission: str) -> tuple[float, float]:
    """Smallest and largest intensity of the coherent bright-field image of the five atoms."""
    row = [[x, BOX / 2, 4.0] for x in (5.0, 15.0, 25.0, 35.0, 45.0)]
    atoms, grid = Atoms(row, list(ELEMENTS.values()), (BOX, BOX, 8.0)), square(pixels)
    wave = exit_wave(
        atoms,
        PlaneWave(OBJECTIVE.energy),
        grid,
        slice_thickness=8.0,
        transmission=transmission,
        parametrization="kirkland",
    )
    transfer = probe_spectrum(OBJECTIVE, grid)
    image = np.abs(np.fft.ifft2(np.fft.fft2(wave) * transfer / transfer[0, 0])) ** 2
    return float(image.min()), float(image.max())


def annular_signal(number: int, pixels: int, transmission: str) -> float:
    """Signal with the probe on one atom, fraction of the beam; transmission "abTEM itself": by that code."""
    centre = BOX / 2
    atom = Atoms([[centre, centre, 4.0]], [number], (BOX, BOX, 8.0))
    scan = Scan.grid((centre, centre), (centre + 1, centre + 1), (1, 1))
    if transmission == "abTEM itself":
        signals = scan_annular(
            atom, OBJECTIVE, scan, {"adf": RING}, square(pixels), slice_thickness=8.0, parametrization="kirkland"
        )
        return float(signals["adf"][0, 0])
    out = simulate(
        atom,
        OBJECTIVE,
        scan,
        {"adf": RING},
        sampling=square(pixels),
        slice_thickness=8.0,
        transmission=transmission,
        parametrization="kirkland",
    )
    return float(out["adf"].data[0, 0])


def exact_signal(symbol: str, probe: np.ndarray, r: np.ndarray, area: np.ndarray) -> float:
    """The same without a grid: Hankel transform of the scattered wave. probe: its amplitude at the radii r (Å)."""
    wavelength = OBJECTIVE.wavelength
    phase = interaction_constant(OBJECTIVE.energy) * projected_potential(symbol, r, "kirkland")
    inner, outer = RING.inner * 1e-3 / wavelength, RING.outer * 1e-3 / wavelength
    x, w = _nodes()
    q = inner + (outer - inner) * x
    spectrum = j0(2 * np.pi * np.outer(q, r)) @ (probe * (np.exp(1j * phase) - 1) * area)
    return float((np.abs(spectrum) ** 2 * 2 * np.pi * q * (outer - inner) * w).sum())


def exact_signals() -> dict[str, np.ndarray]:
    """All five with the beams that the box has, as on the grids, and with the whole aperture (free space)."""
    x, w = _nodes()
    r, area = 12 * x**3, 2 * np.pi * 12 * x**3 * 36 * x**2 * w
    aperture = float(OBJECTIVE.semiangle) * 1e-3 / OBJECTIVE.wavelength
    index = np.arange(-64, 65)
    beam = np.hypot(index[:, None], index[None]) / BOX
    beam = beam[beam < aperture]
    k = aperture * x
    probes = {
        "box": _bessel_sum(r, beam, np.full(len(beam), 1 / (BOX * len(beam) ** 0.5))),
        "free_space": _bessel_sum(r, k, 2 * np.pi**0.5 * k * w),
    }
    return {
        name: np.array([exact_signal(symbol, probe, r, area) for symbol in ELEMENTS]) for name, probe in probes.items()
    }


def _nodes() -> tuple[np.ndarray, np.ndarray]:
    x, w = roots_legendre(1500)[:2]
    return (x + 1) / 2, w / 2


def _bessel_sum(r: np.ndarray, k: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Σ weight·exp(−iχ(k))·J0(2πkr), the rotational mean of a probe."""
    alpha = k * OBJECTIVE.wavelength
    chi = 2 * np.pi / OBJECTIVE.wavelength * (1.3e7 * alpha**4 / 4 - 700 * alpha**2 / 2)
    return j0(2 * np.pi * np.outer(r, k)) @ (weight * np.exp(-1j * chi))


def annular_row(transmission: str, pixels: int, exact: np.ndarray) -> dict:
    """All five atoms on one grid, beside the expected and the exact signals."""
    value = np.array([annular_signal(number, pixels, transmission) for number in ELEMENTS.values()])
    ratios = {"over_expected": value / ADF_EXPECTED, "over_exact": value / exact}
    return {"transmission": transmission, "pixels": pixels, "signal": value, **ratios}


def main(folder: str) -> None:
    start = perf_counter()
    images, signals = [], []
    for transmission in ("conventional", "renormalised"):
        for pixels in (512, 1024):
            low, high = image_extremes(pixels, transmission)
            images.append({"transmission": transmission, "pixels": pixels, "min": low, "max": high})
            print(images[-1], flush=True)
    exact = exact_signals()
    print({name: (value / ADF_EXPECTED).round(4) for name, value in exact.items()}, "exact / expected", flush=True)
    for transmission, grids in ADF_GRIDS.items():
        for pixels in grids:
            signals.append(annular_row(transmission, pixels, exact["box"]))
            shown = {k: v.round(4) if isinstance(v, np.ndarray) else v for k, v in signals[-1].items()}
            print(shown, flush=True)
    figures = {
        "image_expected": IMAGE_EXPECTED,
        "image": images,
        "adf_elements": list(ELEMENTS),
        "adf_expected": ADF_EXPECTED,
        "adf_exact": exact,
        "adf_exact_over_expected": {name: value / ADF_EXPECTED for name, value in exact.items()},
        "adf": signals,
        "seconds": perf_counter() - start,
    }
    print("written to", write_result("kirkland", figures, folder))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(RESULTS))
