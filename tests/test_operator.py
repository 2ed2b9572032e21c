"""The detector operator against a scan of the same specimen."""

import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, detector_operator, operator_spectrum
from ferrojax.detection.operator import CARRIED, FRACTION, SAMPLING
from ferrojax.detection.tilted_operator import tilted_operators
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice import (
    FastThermal,
    displaced_positions,
    multislice,
    plan_slices,
    propagator,
    slab,
    slice_tables,
)
from ferrojax.optics import Probe, probe_spectrum

THERMAL = FastThermal(2, seed=0)


@pytest.fixture(scope="module")
def specimen():
    field = np.random.default_rng(0).normal(size=(1, 1, 3)) * 0.1
    return displaced_supercell(material("BaTiO3"), field, 4)


def scanned(specimen, probe, plan, detector, tilt, positions) -> np.ndarray:
    """(exits, probes): each probe sent through on its own, with the operator's grid and band limits."""
    grid = Grid.for_box(specimen.box[0], specimen.box[1], SAMPLING)
    tables = slice_tables(plan.elements, grid, probe.energy, carried=grid.band_limit(CARRIED, 0.0))
    limit = grid.band_limit(FRACTION, 0.0)
    kernel = propagator(grid, probe.energy, plan.slice_thickness, jnp.asarray(tilt), limit)
    ky, kx = grid.frequencies
    shift = np.exp(-2j * np.pi * (positions[:, :1, None] * kx + positions[:, 1:, None] * ky[:, None]))
    psi = jnp.fft.ifft2(jnp.asarray(shift, jnp.complex64) * probe_spectrum(probe, grid), norm="ortho")
    ring = detector.weights(grid, probe.wavelength)

    def read(psi, _):
        pattern = jnp.abs(jnp.fft.fft2(psi, norm="ortho")) ** 2
        lost = 1 - pattern.sum((1, 2)) if detector.outer == np.inf else 0
        return (pattern * ring).sum((1, 2)) + lost

    runs = []
    for c in range(THERMAL.n):
        position = displaced_positions(specimen, THERMAL, c)
        runs.append(multislice(psi, slab(position, specimen.occupancy, plan, tables), kernel, read))
    return np.asarray(sum(runs) / THERMAL.n)


@pytest.mark.parametrize("detector", [AnnularDetector(60, np.inf), AnnularDetector(11, 21.4)])
def test_operator_gives_the_scanned_image_under_any_optics(specimen, detector):
    plan = plan_slices(specimen, 2.001, [8.0, 16.0])
    operator = detector_operator(specimen, 200e3, 24.0, detector, THERMAL, plan, tilt=(3.0, -2.0))
    size, pixels = 18, np.array([[0, 0], [3, 7], [9, 9], [16, 2]])
    for probe in (Probe(200e3, 18.0), Probe(200e3, 23.0, 30.0, {"C12": 20.0, "phi12": 0.3, "C21": 300.0})):
        image = np.fft.ifft2(np.asarray(operator_spectrum(operator, probe, size))).real * size**2
        positions = pixels[:, ::-1] * np.array(specimen.box[:2]) / size
        expected = scanned(specimen, probe, plan, detector, (3.0, -2.0), positions)
        found = image[:, pixels[:, 0], pixels[:, 1]]
        assert np.linalg.norm(found - expected) < 5e-5 * np.linalg.norm(expected)


def test_matrix_is_hermitian_and_bounded(specimen):
    plan = plan_slices(specimen, 2.001)
    matrix = np.asarray(detector_operator(specimen, 200e3, 20.0, AnnularDetector(60, np.inf), THERMAL, plan).matrix[0])
    np.testing.assert_allclose(matrix, matrix.conj().T, atol=1e-5)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > -1e-4  # no probe detects less than nothing,
    assert eigenvalues.max() < 1  # nor more than the beam


def test_a_detector_that_ends_in_between_is_refused(specimen):
    plan = plan_slices(specimen, 2.001)
    with pytest.raises(InputError, match=r"outer=inf"):
        detector_operator(specimen, 200e3, 20.0, AnnularDetector(60, 160), THERMAL, plan)


def test_beams_beyond_the_band_limit_are_refused(specimen):
    """They would lose nearly everything: a bright field's contrast came out 40 % low."""
    plan, coarse = plan_slices(specimen, 4.0), Grid.for_box(specimen.box[0], specimen.box[1], 0.2)
    with pytest.raises(InputError, match=r"max_semiangle: .* beyond the band limit of 3\d mrad"):
        detector_operator(specimen, 200e3, 35.0, AnnularDetector(0, 20), None, plan, grid=coarse)
    with pytest.raises(InputError, match=r"max_semiangle: with 9 mrad of tilt reaches beyond"):
        tilted_operators(specimen, 200e3, 25.0, {"bf": AnnularDetector(0, 20)}, None, plan, max_tilt=9.0, grid=coarse)


@pytest.mark.parametrize(
    ("probe", "match"),
    [
        (Probe(200e3, 20.0), "probe: is wider than the operator's beams, 15 mrad"),
        (Probe(200e3, 15.0, edge=2.0), "probe: is wider"),
        (Probe(60e3, 10.0), "probe: the operator is of 200000 eV"),
        (Probe(200e3, 10.0, source_size=0.4), "source_size: is not part of one image"),
        (Probe(200e3, 10.0, focal_spread=30.0), "focal_spread: is not part of one image"),
    ],
)
def test_a_probe_that_the_operator_does_not_hold_is_refused(specimen, probe, match):
    """A wider one would lose its outer beams: a detector of everything would see 0.535 of it."""
    plan = plan_slices(specimen, 4.0)
    grid = Grid.for_box(specimen.box[0], specimen.box[1], 0.1)
    operator = detector_operator(specimen, 200e3, 15.0, AnnularDetector(40, np.inf), None, plan, grid=grid)
    with pytest.raises(InputError, match=match):
        operator_spectrum(operator, probe, 12)


def test_an_image_of_odd_size_keeps_its_highest_frequency(specimen):
    plan = plan_slices(specimen, 4.0)
    grid = Grid.for_box(specimen.box[0], specimen.box[1], 0.1)
    operator = detector_operator(specimen, 200e3, 15.0, AnnularDetector(40, np.inf), None, plan, grid=grid)
    probe = Probe(200e3, 15.0)
    few, many = (np.asarray(operator_spectrum(operator, probe, n))[0] for n in (5, 12))
    for y in (-2, -1, 0, 1, 2):
        for x in (-2, -1, 0, 1, 2):
            np.testing.assert_allclose(few[y, x], many[y, x], atol=1e-9)
    assert np.abs(few[0, 2]) > 1e-6
