"""The detector operator against a scan of the same specimen."""

import numpy as np
import pytest

from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, detector_operator, operator_spectrum, simulate
from ferrojax.errors import InputError
from ferrojax.multislice import FastThermal, plan_slices
from ferrojax.optics import Probe

THERMAL = FastThermal(2, seed=0)


@pytest.fixture(scope="module")
def specimen():
    field = np.random.default_rng(0).normal(size=(1, 1, 3)) * 0.1
    return displaced_supercell(material("BaTiO3"), field, 4)


@pytest.mark.parametrize("detector", [AnnularDetector(60, np.inf), AnnularDetector(11, 21.4)])
def test_operator_gives_the_scanned_image_under_any_optics(specimen, detector):
    plan = plan_slices(specimen, 2.001, [8.0, 16.0])
    operator = detector_operator(specimen, 200e3, 24.0, detector, THERMAL, plan, tilt=(3.0, -2.0))
    size = 18
    for probe in (Probe(200e3, 18.0), Probe(200e3, 23.0, 30.0, {"C12": 20.0, "phi12": 0.3, "C21": 300.0})):
        image = np.fft.ifft2(np.asarray(operator_spectrum(operator, probe, size))).real * size**2
        scan = Scan.grid((0, 0), specimen.box[:2], (size, size))
        options = {"thermal": THERMAL, "plan": plan, "tilt": (3.0, -2.0)}
        scanned = np.asarray(simulate(specimen, probe, scan, {"d": detector}, **options)["d"].data)
        assert np.linalg.norm(image - scanned) < 5e-5 * np.linalg.norm(scanned)


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
