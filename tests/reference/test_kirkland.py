"""Figures of Kirkland's book, Advanced Computing in Electron Microscopy, with his parametrization."""

import numpy as np
import pytest
from scipy.special import j0

from ferrojax.constants import interaction_constant
from ferrojax.crystal import Atoms
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.grid import Grid
from ferrojax.multislice import exit_wave, projected_potential
from ferrojax.optics import PlaneWave, Probe, probe_spectrum


@pytest.mark.parametrize("transmission", ["conventional", "renormalised"])
def test_phase_contrast_of_single_atoms(transmission):
    """Fig. 5.12: C, Si, Cu, Au, U; 200 kV, Cs 1.3 mm, defocus 700 Å, 10.37 mrad: 0.72 to 1.03."""
    grid = Grid((512, 512), (50 / 512, 50 / 512))
    atoms = Atoms([[x, 25.0, 4.0] for x in (5.0, 15.0, 25.0, 35.0, 45.0)], [6, 14, 29, 79, 92], (50.0, 50.0, 8.0))
    wave = exit_wave(
        atoms, PlaneWave(200e3), grid, slice_thickness=8.0, transmission=transmission, parametrization="kirkland"
    )
    transfer = probe_spectrum(Probe(200e3, 10.37, defocus=700.0, aberrations={"C30": 1.3e7}), grid)
    image = np.abs(np.fft.ifft2(np.fft.fft2(wave) * transfer / transfer[0, 0])) ** 2
    assert image.min() == pytest.approx(0.721, abs=2e-3)
    assert image.max() == pytest.approx(1.030, abs=2e-3)


@pytest.mark.parametrize(("number", "symbol"), [(14, "Si"), (79, "Au")])
def test_renormalised_annular_signal_is_that_of_the_atom_itself(number, symbol):
    """One atom under the probe, 40–150 mrad: Hankel transform of exp(iσV) without a grid, in a box of 10 Å."""
    probe, box, pixels = Probe(200e3, 21.4), 10.0, 256
    wavelength = probe.wavelength
    out = simulate(
        Atoms([[5.0, 5.0, 1.0]], [number], (box, box, 2.0)),
        probe,
        Scan.grid((5, 5), (6, 6), (1, 1)),
        {"adf": AnnularDetector(40, 150)},
        sampling=Grid((pixels, pixels), (box / pixels, box / pixels)),
        parametrization="kirkland",
    )
    x, w = np.polynomial.legendre.leggauss(600)
    x, w = (x + 1) / 2, w / 2
    r, area = 5 * x**3, 2 * np.pi * 5 * x**3 * 15 * x**2 * w
    index = np.arange(-32, 33)
    beam = np.hypot(index[:, None], index[None]) / box
    beam = beam[beam < 21.4e-3 / wavelength]
    incident = j0(2 * np.pi * np.outer(r, beam)).sum(1) / (box * len(beam) ** 0.5)
    scattered = incident * (np.exp(1j * interaction_constant(200e3) * projected_potential(symbol, r, "kirkland")) - 1)
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(pixels, box / pixels)] * 2))
    q = k[(k * wavelength >= 40e-3) & (k * wavelength < 150e-3)]
    unique, count = np.unique(q.round(9), return_counts=True)
    spectrum = j0(2 * np.pi * np.outer(unique, r)) @ (scattered * area) / box
    assert float(out["adf"].data[0, 0]) == pytest.approx((count * np.abs(spectrum) ** 2).sum(), rel=4e-3)
