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
    integrated_centre_of_mass,
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

pytestmark = pytest.mark.filterwarnings("ignore:detector. .* ends close to the grid's band limit:UserWarning")
"""Small grids: what is compared here is not how bright a ring is."""

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


@pytest.mark.study
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


@pytest.mark.study
def test_a_probe_with_a_source_may_be_an_argument_of_jit(atoms):
    """On a whole periodic box the source is convolved, whatever the semi-angle turns out to be up to 40 mrad."""
    scan, blurred = Scan.grid((0, 0), atoms.box[:2], (6, 6)), Probe(200e3, 21.4, source_size=0.4)

    def image(probe):
        return simulate(atoms, probe, scan, RINGS, **COARSE)["adf"].data

    expected = np.asarray(image(blurred))
    sharp = np.asarray(image(PROBE))
    assert np.ptp(expected) < 0.9 * np.ptp(sharp)
    np.testing.assert_allclose(jax.jit(image)(blurred), expected, rtol=1e-3, atol=1e-3 * np.ptp(expected))
    np.testing.assert_allclose(jax.jit(image)(PROBE), sharp, rtol=1e-3, atol=1e-3 * np.ptp(sharp))
    with pytest.raises(Exception, match=r"semiangle: traced, with a source .*, it must be at most 40 mrad"):
        jax.jit(image)(Probe(200e3, 45.0)).block_until_ready()


@pytest.mark.parametrize(
    ("what", "change", "match"),
    [
        ("atoms", lambda a: eqx.tree_at(lambda x: x.occupancy, a, a.occupancy * 1.5), "occupancy: must lie between"),
        ("atoms", lambda a: eqx.tree_at(lambda x: x.thermal_rms, a, a.thermal_rms - 1), "thermal_rms: must lie"),
        ("atoms", lambda a: eqx.tree_at(lambda x: x.position, a, a.position + 4.0), "position: must be finite, and"),
        ("atoms", lambda a: eqx.tree_at(lambda x: x.position, a, a.position * jnp.nan), "position: must be finite"),
        ("scan", lambda s: eqx.tree_at(lambda x: x.start, s, s.start * jnp.nan), "scan: its corners must be finite"),
        ("scan", lambda s: eqx.tree_at(lambda x: x.start, s, s.start + 1e7), "scan: its corners must be finite"),
        ("probe", lambda p: eqx.tree_at(lambda x: x.defocus, p, p.defocus + 1e9), "defocus: must be finite and within"),
        ("probe", lambda p: eqx.tree_at(lambda x: x.defocus, p, p.defocus * jnp.nan), "defocus: must be finite"),
        ("probe", lambda p: eqx.tree_at(lambda x: x.semiangle, p, p.semiangle / 1e3), "semiangle: must lie between"),
    ],
)
def test_what_is_traced_is_checked_as_the_program_runs(atoms, what, change, match):
    """Values that come through JAX, as arguments of a fit do; untraced ones in a probe are refused at once."""
    plan, given = plan_slices(atoms, 2.1), {"atoms": atoms, "probe": PROBE, "scan": SCAN}

    def image(value):
        g = given | {what: value}
        thermal = FrozenPhonons(1)
        return simulate(g["atoms"], g["probe"], g["scan"], RINGS, plan=plan, thermal=thermal, **COARSE)["abf"].data

    with pytest.raises(Exception, match=match):
        eqx.filter_jit(image)(change(given[what])).block_until_ready()
    if what == "probe":
        with pytest.raises(InputError, match=match.split(":")[0]):
            image(change(PROBE))


def test_a_ring_that_ends_close_to_the_band_limit_is_told_and_defaults_keep_away(atoms):
    """Such a ring is 4 to 30 % low under explicit phonons (benchmarks/bench_explicit_rings.py)."""
    ring, probe = {"adf": AnnularDetector(60, 90)}, Probe(300e3, 21.4)
    with pytest.warns(UserWarning, match="ends close to the grid's band limit of 9. mrad, where waves fold over"):
        plan_simulation(atoms, PROBE, SCAN, ring, sampling=0.1, window=None)
    wide = {"haadf": AnnularDetector(60, 200)}
    found = plan_simulation(atoms, probe, SCAN, wide, window=None)  # was refused: 0.045 Å reaches 164 mrad
    assert 0.84 * 0.75 * found.grid.nyquist * probe.wavelength * 1e3 >= 200


def test_what_is_derived_keeps_its_depths(atoms):
    """Images of phase, of a camera's centre of mass, and patterns themselves: read where they were, not where asked."""
    asked = [5.1, 7.2, 11.4, 15.3]
    detectors = {"com": CentreOfMass(40), "camera": PixelatedDetector(40, step=8.0)}
    out = simulate(atoms, PROBE, Scan.grid((0, 0), (4, 4), (4, 4)), detectors, thicknesses=asked, **COARSE)
    phase = integrated_centre_of_mass(out["com"], PROBE.wavelength)
    mean = out["camera"].centre_of_mass()
    for found in (phase, mean, out["camera"]):
        assert found.thickness == out["com"].thickness
        middle = at_thickness(found, asked, 10.0)
        assert middle.thickness == (10.0,)
        np.testing.assert_allclose(middle.data, at_thickness(found.data, np.array(found.thickness), 10.0), rtol=1e-5)
    wedge = np.full((4, 4), 10.0)
    np.testing.assert_allclose(at_thickness(out["camera"], None, wedge).data, middle.data, rtol=1e-5)
    with pytest.raises(InputError, match="thicknesses: are not near the depths that the stack was read at"):
        at_thickness(phase, [20.0, 40.0, 60.0, 80.0], 30.0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tilt": (np.nan, 0.0)}, "tilt: must be finite"),
        ({"tilt": (500.0, 0.0)}, "tilt: must be at most 100"),
        ({"tilt": 3.0}, "tilt: needs 2 numbers"),
        ({"slice_thickness": "a"}, "slice_thickness: "),
        ({"slice_thickness": 1e-4}, "slice_thickness: must be at least 0.05"),
        ({"plan": "x"}, "plan: is no SlicePlan"),
        ({"plan": True, "slice_thickness": 0.7}, "slice_thickness: is the plan's when one is given"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_exit_waves_say_what_they_need(atoms, change, match):
    change = change | ({"plan": plan_slices(atoms)} if change.get("plan") is True else {})
    with pytest.raises(InputError, match=match):
        exit_wave(atoms, PlaneWave(200e3), Grid.for_box(atoms.box[0], atoms.box[1], 0.1), **change)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("2",), "slice_thickness: "),
        ((None,), "slice_thickness: "),
        ((True,), "slice_thickness: "),
        ((1e-5,), "slice_thickness: must be at least 0.05"),
        ((2.0, 5.0), "thicknesses: must be a list of depths"),
        ((2.0, [np.nan]), "thicknesses: must be positive and finite"),
        ((2.0, ["a"]), "thicknesses: must be numbers"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_plans_say_what_they_need(atoms, arguments, match):
    with pytest.raises(InputError, match=match):
        plan_slices(atoms, *arguments)
    with pytest.raises(InputError, match=r"atoms: is no ferrojax.Atoms"):
        plan_slices(ase.Atoms("Pb"), 2.0)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("devices", [2, ["cpu"], []])
@pytest.mark.usefixtures("unchecked")
def test_devices_are_those_of_jax(atoms, devices):
    with pytest.raises(InputError, match="devices: is no list of JAX's devices"):
        plan_simulation(atoms, PROBE, SCAN, RINGS, devices=devices, **COARSE)
