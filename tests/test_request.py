"""What simulate is asked for: its arguments under jit and grad, the depths it answers for, and what it refuses."""

from typing import Any

import ase
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import (
    AnnularDetector,
    CentreOfMass,
    PixelatedDetector,
    Scan,
    at_thickness,
    detector_operator,
    plan_simulation,
    simulate,
)
from ferrojax.detection.reading import focal_nodes
from ferrojax.detection.validity import fast_sampling
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.image import Image
from ferrojax.multislice import FastThermal, FrozenPhonons, exit_wave, plan_slices
from ferrojax.optics import PlaneWave, Probe

PROBE = Probe(200e3, 21.4)
RINGS = {"adf": AnnularDetector(40, 80), "abf": AnnularDetector(11, 21.4)}
SCAN = Scan.grid((0.3, 0.2), (2.3, 2.2), (2, 2))
COARSE: dict[str, Any] = {"sampling": 0.1, "window": None}


@pytest.fixture(scope="module")
def atoms():
    field = np.zeros((1, 1, 3))
    field[..., 0] = 0.1
    return displaced_supercell(material("BaTiO3"), field, 4)


def data(out, name="abf"):
    return np.asarray(out[name].data)


def test_a_probe_and_a_scan_may_be_arguments_of_jit_and_grad(atoms):
    """With default windows and a small box: what is traced gives what is not."""

    def image(probe, scan):
        return simulate(atoms, probe, scan, RINGS, sampling=0.1)["abf"].data

    traced = jax.jit(image)(PROBE, SCAN)
    np.testing.assert_allclose(traced, data(simulate(atoms, PROBE, SCAN, RINGS, sampling=0.1)), rtol=2e-3)
    slope = jax.grad(lambda x: image(PROBE, Scan.grid((x, 0.2), (x + 2.0, 2.2), (2, 2))).sum())(0.3)
    step = 0.02
    ends = [float(image(PROBE, Scan.grid((0.3 + s, 0.2), (2.3 + s, 2.2), (2, 2))).sum()) for s in (step, -step)]
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.02)
    with pytest.raises(Exception, match="source_size"):
        jax.jit(image)(Probe(200e3, 21.4, source_size=0.5), SCAN)


def test_one_component_of_the_tilt_may_be_traced(atoms):
    def image(tx):
        return simulate(atoms, PROBE, SCAN, RINGS, tilt=(tx, -2.0), **COARSE)["abf"].data

    np.testing.assert_allclose(
        jax.jit(image)(3.0), data(simulate(atoms, PROBE, SCAN, RINGS, tilt=(3.0, -2.0), **COARSE)), rtol=1e-5
    )
    with pytest.raises(Exception, match="tilt: must be finite and within"):
        jax.jit(image)(4000.0)


def test_results_carry_the_depths_where_they_were_read(atoms):
    """33.4 Å asked for is read at a slice edge; at_thickness goes by the edge, not by the request."""
    asked = [4.3, 7.9, 11.6, 15.7]
    out = simulate(atoms, PROBE, SCAN, RINGS, thicknesses=asked, slice_thickness=2.0, **COARSE)["adf"]
    assert out.thickness == pytest.approx((4.0, 8.0, 12.0, 16.0))
    np.testing.assert_allclose(at_thickness(out, None, 12.0).data, out.data[2], rtol=1e-5)
    np.testing.assert_allclose(at_thickness(out, asked, 12.0).data, out.data[2], rtol=1e-5)
    single = simulate(atoms, PROBE, SCAN, RINGS, **COARSE)["adf"]
    assert single.thickness == pytest.approx((16.0,))
    with pytest.raises(InputError, match="thicknesses: must be given"):
        at_thickness(Image(out.data, (1, 1)), None, 8.0)


def test_a_wedge_has_its_thickness_in_every_pixel():
    planes = np.array([2.0, 4.0, 6.0, 8.0])
    stack = Image(jnp.asarray(planes, jnp.float32)[:, None, None] ** 2 * jnp.ones((4, 2, 3)), (1, 1), None, "", planes)
    wedge = np.array([[2.0, 3.0, 4.0], [5.0, 6.5, 8.0]])
    np.testing.assert_allclose(at_thickness(stack, None, wedge).data, wedge**2, rtol=1e-5)
    with pytest.raises(InputError, match="one value, or a map"):
        at_thickness(stack, None, wedge[:, :2])


@pytest.mark.study
def test_the_focal_spread_is_summed_finely_enough(atoms):
    """60 Å at 30 mrad against a Gauss–Legendre sum over 60 defoci."""
    spread, alpha = 60.0, 30.0
    scan, kw = Scan.grid((0.0, 0.0), (2.0, 2.0), (1, 2)), {"sampling": 0.1, "window": None, "route": "matrix"}
    rings = {"adf": AnnularDetector(45, 80)}
    x, w = np.polynomial.legendre.leggauss(60)
    w = w * np.exp(-((4 * x) ** 2) / 2)
    each = [data(simulate(atoms, Probe(200e3, alpha, 4 * spread * at), scan, rings, **kw), "adf") for at in x]
    expected = np.tensordot(w / w.sum(), each, 1)
    found = data(simulate(atoms, Probe(200e3, alpha, focal_spread=spread), scan, rings, **kw), "adf")
    np.testing.assert_allclose(found, expected, rtol=3e-3)
    assert len(focal_nodes(Probe(200e3, 20.0, focal_spread=10.0))[1]) <= 7


@pytest.mark.parametrize("ring", [(60, 80), (60, 110), (60, 120), (80, 100), (80, 170), (90, 110), (100, 200)])
def test_fast_thermal_finds_a_grid_that_is_right_for_the_ring(ring):
    """Rings near the band limit had 0.63 to 0.90 of the reference; K is chosen clear of them."""
    sampling = fast_sampling({"ring": AnnularDetector(*ring)}, PROBE.wavelength)
    reach = 0.9 * 0.5 / sampling * PROBE.wavelength * 1e3
    inside, across = ring[1] <= 0.68 * reach, 1.6 * ring[0] <= reach and ring[1] >= 1.12 * reach
    assert inside or across


@pytest.mark.study
def test_fast_thermal_is_right_for_a_ring_that_ended_at_its_band_limit():
    cell = displaced_supercell(material("PbTiO3"), np.full((1, 1, 3), [0.1, 0, 0]), 8)
    ring, scan = {"ring": AnnularDetector(60, 110)}, Scan.grid((0, 0), (4, 4), (3, 3))
    fast = simulate(cell, PROBE, scan, ring, thermal=FastThermal(2, 0), window=None)["ring"].data
    pairs = FrozenPhonons(2, 0, antithetic=True)
    fine = simulate(cell, PROBE, scan, ring, thermal=pairs, sampling=0.045, window=None)["ring"].data
    assert np.linalg.norm(fast - fine) < 0.02 * np.linalg.norm(fine)


def ask(atoms, **changed):
    given: dict[str, Any] = {"probe": PROBE, "scan": SCAN, "detectors": RINGS, **COARSE} | changed
    return simulate(given.pop("atoms", atoms), given.pop("probe"), given.pop("scan"), given.pop("detectors"), **given)


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "ase atoms": (r"atoms: is no ferrojax.Atoms .*from_ase", {"atoms": ase.Atoms("Ba", cell=(4, 4, 4))}),
    "plane wave": (r"probe: .*exit_wave", {"probe": PlaneWave(200e3)}),
    "scan as a tuple": (r"scan: .*Scan.grid", {"scan": (4, 4)}),
    "list of detectors": (r"detectors: must name", {"detectors": [AnnularDetector(60, 80)]}),
    "no detector": (r"detectors: none given", {"detectors": {}}),
    "thermal as a number": (r"thermal: .*FrozenPhonons\(8\)", {"thermal": 8}),
    "scalar tilt": (r"tilt: needs \(x, y\)", {"tilt": 3.0}),
    "tilt in degrees or worse": (r"tilt: must lie within 100 mrad", {"tilt": (300.0, 0.0)}),
    "tilt of words": (r"tilt: needs \(x, y\)", {"tilt": ("a", "b")}),
    "plan of something": (r"plan: is no SlicePlan", {"plan": 3}),
    "unknown option": (r"samplng: is no argument.*sampling", {"samplng": 0.1}),
    "sampling in pm": (r"sampling: .*at most 1, in Å", {"sampling": 5.0}),
    "sampling of words": (r"sampling: must be real numbers", {"sampling": "fine"}),
    "slices of NaN": (r"slice_thickness: must be finite", {"slice_thickness": np.nan}),
    "thicknesses of one number": (r"thicknesses: must be a list", {"thicknesses": 20.0}),
    "negative thickness": (r"thicknesses: must be positive", {"thicknesses": [-4.0, 8.0]}),
    "thicknesses of words": (r"thicknesses: must be numbers", {"thicknesses": ["thin"]}),
    "a batch of halves": (r"batch: must be a whole number", {"batch": 2.5}),
    "fast and conventional": (r"transmission: loses norm", {"thermal": FastThermal(2), "transmission": "conventional"}),
    "fast and abtem": (r"transmission: loses norm", {"thermal": FastThermal(2), "transmission": "abtem"}),
    "grid of another box": (r"grid: does not span the box", {"sampling": Grid((40, 40), (0.2, 0.2))}),
    "a ring at the band limit": (
        r"detector: .*at most 0\.0.*Å",
        {"thermal": FastThermal(2), "detectors": {"a": AnnularDetector(60, 110)}},
    ),
    "a camera beyond FastThermal's band": (
        r"detector: ends too close to or beyond",
        {"thermal": FastThermal(2), "detectors": {"a": PixelatedDetector(70, step=5)}},
    ),
}  # fmt: skip


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_line(atoms, case):
    match, changed = REFUSED[case]
    with pytest.raises(InputError, match=match) as caught:
        ask(**({"atoms": atoms} | changed))
    assert "\n" not in str(caught.value)


def test_a_plan_of_another_specimen_is_refused(atoms):
    longer = displaced_supercell(material("BaTiO3"), np.zeros((1, 1, 3)), 5)
    with pytest.raises(InputError, match="plan: is of another specimen"):
        ask(atoms, plan=plan_slices(longer))
    upside_down = eqx.tree_at(
        lambda a: a.position, atoms, atoms.position * jnp.array([1, 1, -1]) + jnp.array([0, 0, 16])
    )
    with pytest.raises(InputError, match="plan: is of another specimen"):
        ask(atoms, plan=plan_slices(upside_down))
    with pytest.raises(InputError, match="slice_thickness: is the plan's"):
        ask(atoms, plan=plan_slices(atoms), slice_thickness=1.0)
    with pytest.raises(InputError, match="thicknesses: are those of the plan"):
        ask(atoms, plan=plan_slices(atoms), thicknesses=[8.0])
    with pytest.raises(InputError, match="plan: is of another specimen"):
        detector_operator(atoms, 200e3, 20.0, AnnularDetector(60, np.inf), FastThermal(2), plan_slices(longer))


def test_a_grid_with_swapped_axes_is_refused():
    wide = Atoms([[1.0, 1.0, 1.0]], [8], (6.0, 4.0, 2.0))
    with pytest.raises(InputError, match=r"grid: .*swap shape and sampling"):
        ask(wide, sampling=Grid((60, 40), (0.1, 0.1)))
    with pytest.raises(InputError, match="grid: "):
        exit_wave(wide, PlaneWave(200e3), Grid((60, 40), (0.1, 0.1)))


@pytest.mark.usefixtures("unchecked")
def test_exit_wave_takes_a_plane_wave_only(atoms):
    wrong: Any = PROBE
    with pytest.raises(InputError, match=r"illumination: is no PlaneWave .*simulate"):
        exit_wave(atoms, wrong, Grid((40, 40), (0.1, 0.1)))


def test_plan_simulation_refuses_what_simulate_refuses(atoms):
    with pytest.raises(InputError, match="band limit"):
        plan_simulation(atoms, PROBE, SCAN, {"far": AnnularDetector(60, 400)}, **COARSE)
    with pytest.raises(InputError, match="band limit"):
        plan_simulation(atoms, PROBE, SCAN, {"com": CentreOfMass(200)}, **COARSE)


def test_a_thermal_model_says_what_it_does_not_move(atoms):
    """As a structure file without displacement parameters gives it."""
    titanium = np.array(atoms.number) == 22
    partly = eqx.tree_at(lambda a: a.thermal_rms, atoms, jnp.where(titanium, 0.0, atoms.thermal_rms))
    still = eqx.tree_at(lambda a: a.thermal_rms, atoms, jnp.zeros_like(atoms.thermal_rms))
    with pytest.warns(UserWarning, match="thermal: under FrozenPhonons Ti does not move, thermal_rms is 0; give it in"):
        ask(partly, thermal=FrozenPhonons(2))
    with pytest.warns(UserWarning, match="O, Ti, Ba do not move"):
        ask(still, thermal=FrozenPhonons(2))
    ask(atoms, thermal=FrozenPhonons(2))
    ask(still)
    # A model that only draws the composition has its use.
    ask(eqx.tree_at(lambda a: a.occupancy, still, jnp.full(len(titanium), 0.5)), thermal=FrozenPhonons(2))
