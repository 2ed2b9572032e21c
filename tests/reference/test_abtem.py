"""The engine against abTEM on the same grid, in the mode that mirrors it."""

import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.grid import Grid
from ferrojax.interop import abtem as reference
from ferrojax.multislice import exit_wave, multislice, plan_slices, propagator, slab, slice_tables
from ferrojax.optics import PlaneWave, Probe, probe_spectrum

PROBE = Probe(200e3, 21.4, defocus=20.0, aberrations={"C30": 5e4, "C12": 30.0, "phi12": 0.4})
GRID = Grid((120, 128), (4.0 / 120, 4.0 / 128))


@pytest.fixture(scope="module")
def atoms():
    """Off-centred along x, on multiples of the pixel: off them abTEM spreads atoms linearly, a known difference."""
    straight = displaced_supercell(material("PbTiO3"), np.zeros((1, 1, 3)), 6)
    scale = np.array([4.0 / straight.box[0], 4.0 / straight.box[1], 1.0])
    shift = np.array([4 * 4.0 / 128, -2 * 4.0 / 120, 0.0])
    return Atoms(np.asarray(straight.position) * scale + shift, straight.number, (4.0, 4.0, straight.box[2]))


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (5.0, -3.0)])
def test_exit_wave(atoms, tilt):
    ours = np.asarray(exit_wave(atoms, PlaneWave(200e3), GRID, tilt=tilt, transmission="abtem"))
    theirs = reference.exit_wave(atoms, 200e3, GRID, tilt=tilt)
    phase = np.vdot(ours, theirs)
    assert relative(ours * phase / abs(phase), theirs) < 1e-4


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (5.0, -3.0)])
def test_convergent_beam_pattern(atoms, tilt):
    plan = plan_slices(atoms)
    tables = slice_tables(plan.elements, GRID, PROBE.energy, "abtem")
    kernel = propagator(GRID, PROBE.energy, plan.slice_thickness, jnp.asarray(tilt), GRID.band_limit())
    x, y = 1.1, 0.4
    ky, kx = GRID.frequencies
    ramp = jnp.exp(-2j * jnp.pi * (jnp.asarray(kx)[None] * x + jnp.asarray(ky)[:, None] * y))
    psi = jnp.fft.ifft2(probe_spectrum(PROBE, GRID) * ramp, norm="ortho")[None]
    wave = multislice(psi, slab(atoms.position, atoms.occupancy, plan, tables), kernel, lambda p, _: p)[-1, 0]
    ours = np.fft.fftshift(np.abs(np.fft.fft2(wave, norm="ortho")) ** 2)
    theirs = reference.diffraction_pattern(atoms, PROBE, (x, y), GRID, tilt=tilt)
    rows, cols = ((n - m) // 2 for n, m in zip(ours.shape, theirs.shape, strict=True))
    cropped = ours[rows : rows + theirs.shape[0], cols : cols + theirs.shape[1]]
    assert cropped.sum() > 0.99 * ours.sum()
    assert relative(cropped, theirs) < 1e-3


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (5.0, -3.0)])
def test_line_scan(atoms, tilt):
    detectors = {"haadf": AnnularDetector(60, 150), "abf": AnnularDetector(11, 21.4)}
    scan = Scan.grid((0, 0), (4, 2), (2, 9))
    ours = simulate(atoms, PROBE, scan, detectors, tilt=tilt, sampling=GRID, slice_thickness=2.0, transmission="abtem")
    theirs = reference.scan_annular(atoms, PROBE, scan, detectors, GRID, tilt=tilt)
    for name in detectors:
        assert relative(np.asarray(ours[name].data), theirs[name]) < 1e-3


def test_abtem_cuts_as_many_slices_as_we_do():
    """A single-precision box that divides into 99 slices but for its last digit."""
    atoms = Atoms(np.zeros((1, 3)), [22], (4.0, 4.0, 198.2200026512146))
    step = atoms.box[2] / 99 * (1 - 1e-9)
    with reference._quiet() as abtem:
        potential = reference._potential(abtem, atoms, GRID, step, "lobato")
    assert len(potential) == plan_slices(atoms, step).exits[-1] == 99
