"""Windows: what a probe sees round it is as good as a large box, and tells no left from right."""

from typing import Any

import numpy as np
import pytest

from ferrojax.crystal import Atoms, displaced_supercell, material, oriented_supercell
from ferrojax.detection import (
    AnnularDetector,
    CentreOfMass,
    PixelatedDetector,
    Scan,
    SegmentedDetector,
    plan_simulation,
    simulate,
)
from ferrojax.detection.windows import lattice_period, window_size
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice import FrozenPhonons, plan_slices
from ferrojax.optics import Probe, probe_spectrum

pytestmark = pytest.mark.filterwarnings("ignore:detector. .* ends close to the grid's band limit:UserWarning")
"""Small grids: what is compared here is not how bright a ring is."""

PROBE = Probe(200e3, 21.4)
DETECTORS = {
    "com": CentreOfMass(40),
    "quarters": SegmentedDetector(10, 40),
    "camera": PixelatedDetector(40, step=4.0),
    "abf": AnnularDetector(11, 21.4),
}
COARSE: dict[str, Any] = {"sampling": 0.1}


def cell(name: str, shift: float, depth: int = 12, cells: int = 1) -> Atoms:
    field = np.zeros((cells, cells, 3))
    field[..., 0] = shift
    return displaced_supercell(material(name), field, depth)


def at(points) -> Scan:
    """A line of probes."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    n = len(points)
    return Scan.grid((x0, y0), (x0 + (x1 - x0) * n / (n - 1), y0 + (y1 - y0)), (1, n))


@pytest.fixture(scope="module")
def symmetric():
    """Non-polar SrTiO3 at its inversion centres Ti and Sr."""
    atoms = cell("SrTiO3", 0.0)
    a = atoms.box[0]
    return {
        k: np.asarray(v.data) for k, v in simulate(atoms, PROBE, at([(0, 0), (a / 2, 0)]), DETECTORS, **COARSE).items()
    }


def friedel(camera) -> float:
    """‖I(k) − I(−k)‖/‖I(k) + I(−k)‖."""
    turned = camera[..., ::-1, ::-1]
    return float(np.linalg.norm(camera - turned) / np.linalg.norm(camera + turned))


def test_a_symmetric_specimen_gives_symmetric_signals_with_default_arguments(symmetric):
    assert np.abs(symmetric["com"]).max() < 1e-4  # mrad
    assert friedel(symmetric["camera"]) < 1e-4
    quarters = symmetric["quarters"][:, 0]
    np.testing.assert_allclose(quarters[0], quarters[2], rtol=1e-4)
    np.testing.assert_allclose(quarters[1], quarters[3], rtol=1e-4)


def test_a_mirror_plane_is_kept_and_polarity_is_not_made_up():
    """BaTiO3 displaced along x: y is a mirror; against a box of 6 × 6 cells what is polar is right."""
    small, large = cell("BaTiO3", 0.15), cell("BaTiO3", 0.15, cells=6)
    scan = Scan.grid((2.0, 2.0), (4.0, 4.0), (1, 2))
    one, six = (simulate(atoms, PROBE, scan, DETECTORS, **COARSE) for atoms in (small, large))
    for out in (one, six):
        assert np.abs(out["com"].data[1]).max() < 1e-4
        camera = np.asarray(out["camera"].data)
        assert np.linalg.norm(camera - camera[..., ::-1, :]) < 1e-4 * np.linalg.norm(camera)
    assert np.abs(one["com"].data[0]).min() > 0.05  # mrad: the polar signal
    np.testing.assert_allclose(one["com"].data, six["com"].data, atol=0.02)
    assert friedel(np.asarray(one["camera"].data)) == pytest.approx(friedel(np.asarray(six["camera"].data)), rel=0.03)
    np.testing.assert_allclose(one["abf"].data, six["abf"].data, rtol=0.01)


def test_a_box_smaller_than_the_window_is_repeated():
    """One cell tells what six by six do; taken as it stands it has its neighbours' probes interfere."""
    rings = {"adf": AnnularDetector(40, 80), "abf": AnnularDetector(11, 21.4)}
    scan = Scan.grid((0, 0), (4, 4), (3, 3))
    one = simulate(cell("BaTiO3", 0.1), PROBE, scan, rings, **COARSE)
    six = simulate(cell("BaTiO3", 0.1, cells=6), PROBE, scan, rings, **COARSE)
    alone = simulate(cell("BaTiO3", 0.1), PROBE, scan, rings, window=None, **COARSE)
    for name in rings:
        norm = np.linalg.norm(six[name].data)
        assert np.linalg.norm(one[name].data - six[name].data) < 0.01 * norm
        assert np.linalg.norm(alone[name].data - six[name].data) > 0.02 * norm
    plan = plan_simulation(cell("BaTiO3", 0.1), PROBE, scan, rings, **COARSE)
    assert min(plan.grid.extent) >= 15.9


def test_repeated_cells_vibrate_on_their_own_and_keep_a_given_plan():
    atoms = cell("BaTiO3", 0.1, depth=4)
    scan, rings = Scan.grid((0, 0), (2, 2), (1, 2)), {"adf": AnnularDetector(40, 80)}
    plan = plan_slices(atoms, 2.0, [8.0, 16.0])
    thermal = FrozenPhonons(2, seed=0)
    planned = simulate(atoms, PROBE, scan, rings, thermal=thermal, plan=plan, **COARSE)["adf"]
    given = simulate(
        atoms, PROBE, scan, rings, thermal=thermal, thicknesses=[8.0, 16.0], slice_thickness=2.0, **COARSE
    )["adf"]
    np.testing.assert_allclose(planned.data, given.data, rtol=1e-5)
    assert planned.thickness == pytest.approx((8.0, 16.0))
    periodic = simulate(atoms, PROBE, scan, rings, thermal=thermal, plan=plan, window=None, **COARSE)["adf"]
    assert np.abs(periodic.data / planned.data - 1).max() > 1e-3


def test_runs_share_the_grids_between_configurations():
    atoms, scan, rings = cell("BaTiO3", 0.1, 2), Scan.grid((0, 0), (4, 4), (2, 2)), {"adf": AnnularDetector(40, 80)}
    runs = [len(plan_simulation(atoms, PROBE, scan, rings, thermal=t).runs) for t in (None, FrozenPhonons(3))]
    assert runs == [2, 6]
    assert plan_simulation(atoms, PROBE, scan, rings, thermal=FrozenPhonons(4)).runs == ((0, 0), (1, 1), (2, 0), (3, 1))
    assert plan_simulation(atoms, PROBE, scan, rings, window=None).runs == ((0, 0),)


@pytest.mark.parametrize("tilt", [(60.0, 0.0), (0.0, -60.0)])
def test_a_window_holds_the_way_of_a_tilted_beam(tilt):
    """Two atoms 197 Å down, 12 Å aside: under the beam that enters at the origin and leans by 60 mrad."""
    drift = 197.0 * np.tan(np.array(tilt) * 1e-3)
    place = np.array([[40.0, 40.0, 196.0], [40.0, 40.0, 198.0]])
    place[:, :2] += drift
    atoms = Atoms(place, [82, 82], (80.0, 80.0, 200.0))
    probe, detectors = Probe(200e3, 15.0, 197.0), {"adf": AnnularDetector(30, 60)}
    given: dict[str, Any] = {"tilt": tilt, "sampling": 0.12, "slice_thickness": 4.0}
    scan = at([(39.9, 40.0), (40.0, 40.0)])
    whole = np.asarray(simulate(atoms, probe, scan, detectors, window=None, **given)["adf"].data)
    found = np.asarray(simulate(atoms, probe, scan, detectors, **given)["adf"].data)
    assert whole.min() > 1e-4
    np.testing.assert_allclose(found, whole, rtol=0.1)  # without the lean: nothing at all


def test_a_window_nearly_as_large_as_the_box_is_the_box():
    """And not a scattering matrix of thousands of waves for sixteen probes."""
    atoms, scan = cell("PbTiO3", 0.0, 1, 9), Scan.grid((0, 0), (4, 4), (4, 4))
    run = plan_simulation(atoms, PROBE, scan, {"adf": AnnularDetector(60, 90)}, window=33.0)
    assert run.grid.extent == pytest.approx(atoms.box[:2])
    assert run.waves == 16


def test_windows_of_a_superlattice_hold_whole_periods():
    """Every third Sr is Ba: 11.7 Å, symmetric about Ba; a window that cuts the period has an asymmetry of 2e-3."""
    plain = oriented_supercell(material("SrTiO3"), (0, 0, 1), repeats=(9, 9, 4)).atoms
    position, number = np.asarray(plain.position), np.array(plain.number)
    a, sr = plain.box[0] / 9, number == 38
    ba = sr & (np.round((position[:, 0] - position[sr][0, 0]) / a).astype(int) % 3 == 0)
    atoms = Atoms(position, np.where(ba, 56, number), plain.box)
    period = lattice_period(atoms)
    assert period is not None
    np.testing.assert_allclose(period, (3 * a, a), rtol=1e-5)
    x, y = position[ba][0, :2] + np.array([3, 4]) * a
    scan = Scan.grid((x, y), (x + 2.0, y + 1.2), (3, 5))
    camera = simulate(atoms, PROBE, scan, {"camera": DETECTORS["camera"]}, **COARSE)["camera"].data
    assert friedel(np.asarray(camera)[0, 0]) < 5e-4


@pytest.mark.parametrize(
    "probe",
    [
        Probe(200e3, 21.4),
        Probe(200e3, 15.0, aberrations={"C30": 1.2e7}),
        Probe(200e3, 15.0, 700.0, {"C30": 1.2e7}),
        Probe(200e3, 20.0, aberrations={"C12": 600.0, "phi12": 0.3}),
        Probe(200e3, 20.0, aberrations={"C23": 6e4}),
    ],
)
def test_a_window_holds_the_beam_whatever_aberration_spreads_it(probe):
    """The square of the window round the probe, in vacuum; a hard aperture's own tails leave half a percent."""
    side = 240.0
    grid = Grid.for_box(side, side, 0.3)
    intensity = np.abs(np.fft.ifft2(np.asarray(probe_spectrum(probe, grid)), norm="ortho")) ** 2
    y, x = (np.abs(np.fft.fftfreq(n, 1 / side)) for n in grid.shape)
    half = window_size(probe, 0.0) / 2
    outside = (y[:, None] > half) | (x[None] > half)
    assert intensity[outside].sum() < 0.02


def test_windows_narrower_than_the_probe_are_refused():
    """They had no wave inside the aperture, and images of NaN."""
    atoms, scan = cell("PbTiO3", 0.0, 1, 8), at([(0, 0), (1, 0)])
    with pytest.raises(InputError, match=r"window: is narrower than the disc of a probe of 1 mrad, 30.6 Å"):
        plan_simulation(atoms, Probe(200e3, 1.0), scan, DETECTORS, window=10.0)
    assert plan_simulation(atoms, Probe(200e3, 1.0), scan, DETECTORS, window=None).grid
    box = Grid.for_box(*atoms.box[:2], 0.1)
    between = Grid(box.shape, box.sampling, (0.5, 0.5))
    with pytest.raises(InputError, match=r"box: .* first frequency lies at 0.56 mrad, outside the semi-angle"):
        plan_simulation(atoms, Probe(200e3, 0.5), scan, DETECTORS, sampling=between)


@pytest.mark.parametrize(
    ("ring", "share"), [((10, 20), 300 / 21.4**2), ((11, 21.4), 1 - (11 / 21.4) ** 2), ((0, 10), 100 / 21.4**2)]
)
def test_a_ring_has_its_share_of_the_bright_disc_though_a_window_has_few_pixels(ring, share):
    """Of a uniform disc of 21.4 mrad in vacuum; a ring that ends within a pixel of the disc's edge was 2 % low."""
    vacuum = Atoms([[15.0, 15.0, 1.0]], [1], (30.0, 30.0, 2.0), 0.0, [0.0])
    scan = Scan.grid((15, 15), (16, 16), (1, 1))
    found = [
        float(
            simulate(vacuum, PROBE, scan, {"ring": AnnularDetector(*ring)}, window=w, sampling=0.1)["ring"].data[0, 0]
        )
        for w in (15.8, 17.0, 18.3, 19.5)
    ]
    assert np.mean(found) == pytest.approx(share, rel=0.01)
