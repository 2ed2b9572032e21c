"""simulate: its routes, windows and resampling give one answer; its plan refuses what cannot run."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from scipy.ndimage import gaussian_filter

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import (
    AnnularDetector,
    CentreOfMass,
    PixelatedDetector,
    Scan,
    SegmentedDetector,
    plan_simulation,
    reading,
    simulate,
)
from ferrojax.detection import plan as planning
from ferrojax.detection.sampling import scan_sampling
from ferrojax.detection.windows import lattice_period
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice import FastThermal, FrozenPhonons, plan_slices
from ferrojax.optics import Probe

pytestmark = pytest.mark.filterwarnings("ignore:detector. .* ends close to the grid's band limit:UserWarning")
"""Small grids: what is compared here is not how bright a ring is."""

COARSE = 0.1
PROBE = Probe(200e3, 21.4)
DETECTORS = {"adf": AnnularDetector(40, 80), "abf": AnnularDetector(11, 21.4)}
HERE = Scan.grid((0.3, 0.2), (2.3, 2.7), (2, 3))


@pytest.fixture(scope="module")
def atoms():
    field = np.zeros((1, 1, 3))
    field[..., :2] = 0.1, 0.05
    return displaced_supercell(material("BaTiO3"), field, 4)


def signals(atoms, probe, scan=HERE, detectors: Any = DETECTORS, **kw: Any):
    given: dict[str, Any] = {"sampling": COARSE, "window": None, **kw}
    out = simulate(atoms, probe, scan, detectors, **given)
    return {name: np.asarray(result.data) for name, result in out.items()}


def check_equal(a, b, bound):
    for name in a:
        assert a[name].shape == b[name].shape
        assert np.linalg.norm(a[name] - b[name]) < bound * np.linalg.norm(b[name]), name


ABERRATED = Probe(200e3, 20.0, 30.0, {"C12": 30.0, "phi12": 0.4, "C21": 200.0, "C30": 1e4})


@pytest.mark.parametrize(
    ("probe", "kw"),
    [
        (PROBE, {"tilt": (5.0, -3.0)}),
        (ABERRATED, {"thicknesses": [4.0, 8.0, 16.0], "thermal": FrozenPhonons(2, seed=1)}),
        (Probe(200e3, 20.0, focal_spread=40.0), {"thicknesses": [4.0, 10.0, 14.0]}),
        (Probe(200e3, 20.0, edge=3.0), {"transmission": "conventional"}),
    ],
)
def test_the_scattering_matrix_gives_what_probes_give(atoms, probe, kw):
    probes, matrix = (signals(atoms, probe, route=route, **kw) for route in ("probes", "matrix"))
    check_equal(matrix, probes, 1e-5)


def test_the_scattering_matrix_has_the_fast_thermal_model(atoms):
    """Here the two differ: μ is taken at the atoms alone, and the lost path from a few depths."""
    detectors = {"haadf": AnnularDetector(60, 170), "abf": AnnularDetector(11, 21.4)}
    kw: dict[str, Any] = {
        "detectors": detectors,
        "thermal": FastThermal(2, seed=0),
        "tilt": (3.0, 1.0),
        "thicknesses": [8.0, 16.0],
    }
    kw |= {"detectors": detectors, "sampling": None}
    probes, matrix = (signals(atoms, PROBE, route=route, **kw) for route in ("probes", "matrix"))
    check_equal(matrix, probes, 5e-3)


def test_a_resampled_scan_equals_every_position_computed(atoms):
    """More pixels than the optics resolve: the whole box is computed at its band limit and resampled."""
    a = atoms.box[0]
    whole = signals(atoms, ABERRATED, Scan.grid((0.3, 0), (a + 0.3, a), (16, 20)), route="matrix")
    plan = plan_simulation(atoms, ABERRATED, Scan.grid((0.3, 0), (a + 0.3, a), (16, 20)), DETECTORS, sampling=COARSE)
    assert plan.positions < 16 * 20 / 1.2
    rows = Scan.grid((0.3, 3 * a / 16), (a + 0.3, 5 * a / 16), (2, 20))  # two rows of the same pixels
    alone = signals(atoms, ABERRATED, rows, route="probes")
    for name in DETECTORS:
        np.testing.assert_allclose(whole[name][3:5], alone[name], rtol=1e-4)


def test_source_size_blurs_the_scan(atoms):
    a, size = atoms.box[0], 32
    scan = Scan.grid((0, 0), (a, a), (size, size))
    sharp = signals(atoms, PROBE, scan)
    source = np.array([0.4, 0.7])  # (x, y)
    blurred = signals(atoms, Probe(200e3, 21.4, source_size=source), scan)
    for name in DETECTORS:
        sigma = (source[1] * size / a, source[0] * size / a)
        expected = gaussian_filter(sharp[name].astype(float), sigma, mode="wrap", truncate=6.0)
        np.testing.assert_allclose(blurred[name], expected, rtol=1e-4)
        assert np.abs(blurred[name] / sharp[name] - 1).max() > 0.02
    part = Scan.grid((4 * a / size, 6 * a / size), (12 * a / size, 14 * a / size), (8, 8))
    alone = signals(atoms, Probe(200e3, 21.4, source_size=source), part)
    for name in DETECTORS:
        np.testing.assert_allclose(alone[name], blurred[name][6:14, 4:12], rtol=2e-3)


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.2, 0.35])
@pytest.mark.parametrize("step", [0.11, 0.2, 0.4])
def test_a_source_of_any_size_blurs_part_of_a_scan(sigma, step):
    """Waves up to the band limit, read on a margin's positions, come out damped as the source damps them."""
    reach = 2 * PROBE.semiangle * 1e-3 / PROBE.wavelength
    part = Scan.grid((3.0, 1.0), (3.0 + 9 * step, 1.0 + 5 * step), (5, 9))
    sampled = scan_sampling(part, Probe(200e3, 21.4, source_size=(sigma, 0.0)), (40.0, 40.0))
    assert sampled.rows is None  # no source along y
    for q in np.linspace(0.1, 0.98, 12) * float(reach):
        wave = 1 + np.cos(2 * np.pi * q * np.asarray(sampled.position)[..., 0] + 1)
        damped = 1 + np.exp(-2 * (np.pi * sigma * q) ** 2) * np.cos(2 * np.pi * q * part.position[..., 0] + 1)
        np.testing.assert_allclose(sampled.resample(jnp.asarray(wave)), damped, atol=2e-3)


def test_a_tilt_for_each_position_equals_runs_with_that_tilt(atoms):
    tilts = np.array([[[0, 0], [4, 0], [0, 5]], [[-3, 2], [4, 0], [1, 1]]], float)
    field = signals(atoms, PROBE, tilt=tilts)
    for at in [(0, 1), (0, 2), (1, 0)]:
        one = signals(atoms, PROBE, tilt=tuple(tilts[at]))
        for name in DETECTORS:
            np.testing.assert_allclose(field[name][at], one[name][at], rtol=1e-4)


@pytest.fixture(scope="module")
def field_of_cells():
    shift = np.random.default_rng(0).normal(size=(7, 7, 3)) * 0.05
    return displaced_supercell(material("BaTiO3"), shift, 3)


@pytest.mark.study
@pytest.mark.parametrize(("window", "route"), [("auto", "matrix"), (14.0, "probes")])
def test_a_window_gives_what_the_whole_box_gives(field_of_cells, window, route):
    scan = Scan.grid((-1.6, 2.4), (6.4, 10.4), (5, 5))  # hangs over the edge
    detectors = {"adf": AnnularDetector(50, 70), "abf": DETECTORS["abf"]}
    kw: dict[str, Any] = {"sampling": COARSE, "route": route, "detectors": detectors}
    plan = plan_simulation(field_of_cells, PROBE, scan, window=window, **kw)
    assert plan.windowed
    assert max(plan.grid.extent) < field_of_cells.box[0]
    cut = signals(field_of_cells, PROBE, scan, window=window, **kw)
    grids = [Grid((280, 280), (COARSE, COARSE), offset) for offset in planning.HALVES]
    whole = [signals(field_of_cells, PROBE, scan, window=None, **(kw | {"sampling": grid})) for grid in grids]
    check_equal(cut, {name: (whole[0][name] + whole[1][name]) / 2 for name in cut}, 5e-3)


def test_offset_grids_of_a_cell_average_to_a_larger_box(atoms):
    """In a crystal, waves whose frequencies are offset travel apart: three offsets along x are a box of three cells."""
    one = atoms.box
    cell, wide = Grid((40, 40), (one[1] / 40, one[0] / 40)), Grid((40, 120), (one[1] / 40, one[0] / 40))
    kw: dict[str, Any] = {"window": None, "route": "probes", "tilt": (5.0, -3.0)}
    whole = signals(atoms.repeated(3, 1, 1), PROBE, sampling=wide, **kw)
    offsets = [Grid(cell.shape, cell.sampling, (0.0, n / 3)) for n in (-1, 0, 1)]
    parts = [signals(atoms, PROBE, sampling=grid, **kw) for grid in offsets]
    # Each offset's probe has unit norm: they count by how many frequencies they have in the aperture.
    beams = np.array([(g.k * PROBE.wavelength * 1e3 < float(PROBE.semiangle)).sum() for g in offsets])
    for name in DETECTORS:
        mean = np.tensordot(beams / beams.sum(), [p[name] for p in parts], 1)
        np.testing.assert_allclose(mean, whole[name], rtol=1e-4)


@pytest.mark.parametrize("finest", [reading.FINEST, 1])
def test_a_window_in_a_vacuum_has_its_beam_in_the_centre(field_of_cells, monkeypatch, finest):
    monkeypatch.setattr(reading, "FINEST", finest)
    empty = eqx.tree_at(lambda a: a.occupancy, field_of_cells, jnp.zeros_like(field_of_cells.occupancy))
    scan = Scan.grid((3.0, 3.0), (5.0, 5.0), (2, 2))
    detectors = {"com": CentreOfMass(40)}
    assert plan_simulation(empty, PROBE, scan, detectors, sampling=COARSE, window=14.0, route="probes").windowed
    com = signals(empty, PROBE, scan, sampling=COARSE, window=14.0, route="probes", detectors=detectors)["com"]
    np.testing.assert_allclose(com, 0, atol=1e-4)


def test_the_period_is_the_crystals_not_one_nearly_as_long(field_of_cells):
    """28 Å hold 7 cells of 4 Å; 8 of 3.5 Å bring every atom within 0.5 Å of the next, which is no period."""
    assert lattice_period(field_of_cells) == pytest.approx((4.0, 4.0))


@pytest.mark.study
def test_detectors_do_not_know_of_each_other(atoms):
    detectors = {
        "ring": AnnularDetector(0, 40),
        "quarters": SegmentedDetector(10, 40),
        "com": CentreOfMass(40),
        "camera": PixelatedDetector(42, step=4.0),
    }
    kw: dict[str, Any] = {"thicknesses": [8.0, 16.0], "thermal": FrozenPhonons(2)}
    together = signals(atoms, PROBE, detectors=detectors, **kw)
    for name, detector in detectors.items():
        alone = signals(atoms, PROBE, detectors={name: detector}, **kw)[name]
        np.testing.assert_allclose(together[name], alone, rtol=1e-5, atol=1e-6)
    shapes = {name: data.shape for name, data in together.items()}
    assert shapes == {"ring": (2, 2, 3), "quarters": (2, 4, 2, 3), "com": (2, 2, 2, 3), "camera": (2, 2, 3, 21, 21)}


def test_detectors_add_up(atoms):
    detectors = {
        "ring": AnnularDetector(10, 40),
        "quarters": SegmentedDetector(10, 40),
        "camera": PixelatedDetector(60, step=4.0),
        "inner": AnnularDetector(0, 40),
    }
    out = signals(atoms, PROBE, detectors=detectors)
    np.testing.assert_allclose(out["quarters"].sum(0), out["ring"], rtol=1e-5)
    camera = out["camera"].sum((-2, -1))
    assert (camera > out["inner"]).all()  # a square of 60 mrad half width holds the disc of 40,
    assert (camera < 1).all()  # and lacks what was scattered further
    halves = {"inner": AnnularDetector(0, 60), "outer": AnnularDetector(60, np.inf)}
    out = signals(atoms, PROBE, detectors=halves, thermal=FastThermal(2), sampling=None)
    np.testing.assert_allclose(out["inner"] + out["outer"], 1, atol=1e-5)


def test_exit_planes_are_read_where_asked_however_they_are_spaced():
    """1, 5 and 12 slices share no divisor; each equals a specimen cut off there."""
    cell = displaced_supercell(material("BaTiO3"), np.zeros((1, 1, 3)), 6)
    many = signals(cell, PROBE, thicknesses=[2.0, 10.0, 24.0], slice_thickness=2.001)
    z = np.asarray(cell.position[:, 2])
    for i, depth in enumerate((2.0, 10.0, 24.0)):
        keep = z < depth
        number = [n for n, k in zip(cell.number, keep, strict=True) if k]
        short = Atoms(np.asarray(cell.position)[keep], number, (*cell.box[:2], depth / 24.0 * cell.box[2]))
        one = signals(short, PROBE, slice_thickness=2.001)
        for name in DETECTORS:
            np.testing.assert_allclose(many[name][i], one[name], rtol=1e-4)
    single = signals(cell, PROBE, thicknesses=[24.0], slice_thickness=2.001)
    assert single["abf"].shape == (1, 2, 3)


def test_the_plan_can_be_read_and_forced(atoms):
    plan = plan_simulation(atoms, PROBE, HERE, DETECTORS, sampling=COARSE, batch=3, route="probes", window=None)
    assert (plan.route, plan.windowed, plan.batch, plan.waves, plan.positions) == ("probes", False, 3, 6, 6)
    for part in ("probes route", "whole box", "batches of 3", "memory", "wave-slices"):
        assert part in str(plan)
    forced = plan_simulation(atoms, PROBE, HERE, DETECTORS, sampling=COARSE, route="matrix")
    assert forced.route == "matrix"
    assert "matrix" in forced.memory


def test_a_run_beyond_the_memory_is_refused_with_its_plan(atoms, monkeypatch):
    monkeypatch.setattr(planning, "free_memory", lambda: 2**29)
    camera = {"camera": PixelatedDetector(40, shape=(256, 256))}
    with pytest.raises(InputError, match=r"memory: .*plan: probes route.*GiB.*fewer scan positions"):
        simulate(atoms, PROBE, Scan.grid((0, 0), (2, 2), (200, 200)), camera, sampling=COARSE, route="probes")
    simulate(atoms, PROBE, HERE, DETECTORS, sampling=COARSE)


@pytest.mark.parametrize("route", ["probes", "matrix"])
def test_second_call_does_not_compile(atoms, route):
    def go(shift, tilt, defocus):
        moved = eqx.tree_at(lambda a: a.position, atoms, atoms.position + shift)
        probe = Probe(200e3, 21.4, defocus)
        how: dict[str, Any] = {"window": "auto" if route == "probes" else None}  # else thousands of waves
        return simulate(
            moved, probe, HERE, DETECTORS, tilt=tilt, sampling=COARSE, route=route, thicknesses=[8.0, 16.0], **how
        )

    go(0.0, (0.0, 0.0), 0.0)
    go(0.02, (0.5, 0.0), 5.0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, duration_secs, **kwargs: compiled.append(event))
    go(0.01, (1.0, -1.0), 10.0)
    jax.monitoring.clear_event_listeners()
    assert not [name for name in compiled if "backend_compile" in name]


def test_under_jit_what_is_not_traced_is_planned_with(field_of_cells):
    """Probe and scan may be built inside; windows are still cut."""
    kw: dict[str, Any] = {"sampling": COARSE, "window": 14.0}

    def image(tilt, defocus):
        scan = Scan.grid((1.0, 2.0), (4.0, 5.0), (2, 2))
        out = simulate(field_of_cells, Probe(200e3, 21.4, defocus), scan, DETECTORS, tilt=tilt, **kw)
        return out["abf"].data

    at = jnp.array([3.0, -2.0]), jnp.asarray(20.0)
    np.testing.assert_allclose(jax.jit(image)(*at), image(*at), rtol=1e-4)


def atom_at(position, number: int | list[int] = 8, box=(4.0, 4.0, 4.0), **kw):
    return Atoms(np.atleast_2d(np.asarray(position, float)), np.atleast_1d(number), box, **kw)


SINGLE = atom_at([1, 1, 1])


@pytest.mark.parametrize(
    ("match", "build"),
    [
        ("detector.*band limit", lambda: signals(SINGLE, PROBE, detectors={"a": AnnularDetector(60, 300)})),
        ("sampling.*semi-angle", lambda: signals(SINGLE, PROBE, sampling=0.5, detectors={"a": CentreOfMass(10)})),
        ("position.*outside the box", lambda: signals(atom_at([7.0, 1, 1]), PROBE)),
        ("position.*outside the box", lambda: signals(atom_at([1, 1, 9.0]), PROBE)),
        ("position.*overlap", lambda: signals(atom_at([[1, 1, 1], [1, 1.1, 1]], [8, 22]), PROBE)),
        ("box", lambda: atom_at([1, 1, 0], box=(4, 4, 0))),
        ("slice_thickness", lambda: signals(SINGLE, PROBE, slice_thickness=0.0)),
        ("thicknesses", lambda: signals(SINGLE, PROBE, thicknesses=[0.0])),
        ("number", lambda: atom_at([1, 1, 1], number=0)),
        ("number", lambda: Atoms.from_ase(bulk("X", "sc", a=4.0))),
        ("thermal_rms", lambda: atom_at([1, 1, 1], thermal_rms=-0.1)),
        ("position", lambda: atom_at([1, np.nan, 1])),
        ("scan shape", lambda: Scan.grid((0, 0), (4, 4), (0, 4))),
        ("tilt", lambda: signals(SINGLE, PROBE, tilt=np.zeros((3, 2, 2)))),
        ("tilt", lambda: signals(SINGLE, PROBE, tilt=3.0)),
        ("route", lambda: signals(SINGLE, PROBE, route="guess")),
        ("route", lambda: signals(SINGLE, PROBE, route="matrix", tilt=np.zeros((2, 3, 2)))),
        ("source_size", lambda: signals(SINGLE, Probe(200e3, 20, source_size=0.5), tilt=np.zeros((2, 3, 2)))),
        ("window", lambda: signals(SINGLE, PROBE, window=-3.0)),
        ("window", lambda: signals(SINGLE, PROBE, window="large")),
        ("batch", lambda: signals(SINGLE, PROBE, batch=0)),
        ("tilt", lambda: signals(SINGLE, PROBE, tilt=(np.nan, 0.0))),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_line_that_names_the_field(match, build):
    with pytest.raises(InputError, match=match) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_traced_positions_need_a_plan(atoms):
    def image(position, plan):
        moved = eqx.tree_at(lambda a: a.position, atoms, position)
        return simulate(moved, PROBE, HERE, DETECTORS, sampling=COARSE, plan=plan)["abf"].data

    with pytest.raises(InputError, match=r"position.*plan_slices"):
        jax.jit(lambda p: image(p, None))(atoms.position)
    plan = plan_slices(atoms, 2.0)
    traced = jax.jit(lambda p: image(p, plan))(atoms.position)
    np.testing.assert_allclose(traced, image(atoms.position, plan), rtol=1e-4)
