"""The engine: slices, tilt sign, norm, symmetry, gradients, recompilation."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan
from ferrojax.detection import simulate as simulate_isolated
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice import FastThermal, FrozenPhonons, displaced_positions, exit_wave, plan_slices
from ferrojax.optics import PlaneWave, Probe

pytestmark = pytest.mark.filterwarnings("ignore:detector. .* ends close to the grid's band limit:UserWarning")
"""Small grids: what is compared here is not how bright a ring is."""

DETECTORS = {"haadf": AnnularDetector(60, 110), "abf": AnnularDetector(11, 21.4)}
COARSE = 0.075
PROBE = Probe(200e3, 21.4)
simulate = partial(simulate_isolated, window=None)
"""The periodic box as it stands: cheap, and exact for what these tests ask."""


@pytest.fixture(scope="module")
def atoms():
    field = np.zeros((1, 1, 3))
    field[..., 0] = 0.1
    return displaced_supercell(material("BaTiO3"), field, 5)


@settings(max_examples=50, deadline=None)
@given(
    z=st.lists(st.integers(0, 2000), min_size=1, max_size=12, unique=True).map(lambda n: [i / 100 for i in n]),
    thickness=st.sampled_from([0.7, 1.0, 2.0, 3.3, 20.0, 50.0]),
)
def test_every_atom_falls_into_exactly_one_slice(z, thickness):
    position = np.stack([0.5 * np.arange(len(z)), np.zeros(len(z)), z], -1)  # side by side: none shares a site
    plan = plan_slices(Atoms(position, [8] * len(z), (4 + 0.5 * len(z), 4, 20)), thickness)
    assert plan.present.sum() == len(z)
    assert sorted(np.asarray(plan.index)[np.asarray(plan.present) > 0]) == list(range(len(z)))


def test_an_atom_on_an_edge_belongs_to_the_slice_below_it():
    plan = plan_slices(Atoms([[0, 0, 1.99999], [1, 0, 2.0], [2, 0, 2.00001]], [8, 8, 8], (4, 4, 4)), 2.0)
    np.testing.assert_array_equal(np.asarray(plan.present).sum((1, 2)), [0, 3])


def test_pure_phase_object_keeps_the_norm(atoms):
    grid = Grid.for_box(4, 4, 0.04)
    psi = exit_wave(atoms, PlaneWave(200e3), grid, transmission="conventional")
    assert float(jnp.mean(jnp.abs(psi) ** 2)) == pytest.approx(1, abs=5e-3)


def test_moving_specimen_and_scan_together_changes_nothing(atoms):
    """Exact sub-pixel placement: no moiré between lattice and grid."""
    shift = jnp.array([0.37, -0.21, 0.0])
    moved = eqx.tree_at(lambda a: a.position, atoms, atoms.position + shift)
    a = simulate(atoms, PROBE, Scan.grid((0, 0), (4, 4), (3, 3)), DETECTORS, sampling=COARSE)
    b = simulate(moved, PROBE, Scan.grid((0.37, -0.21), (4.37, 3.79), (3, 3)), DETECTORS, sampling=COARSE)
    for name in DETECTORS:
        np.testing.assert_allclose(a[name].data, b[name].data, rtol=2e-3)


def test_mirrored_specimen_gives_the_mirrored_image(atoms):
    """x is the column axis: mirroring atoms in x mirrors the columns of the image."""
    position = atoms.position * jnp.array([-1.0, 1.0, 1.0])
    mirrored = eqx.tree_at(lambda a: a.position, atoms, position).wrapped()
    scan = Scan.grid((0, 0), (4, 4), (4, 8))
    a = simulate(atoms, PROBE, scan, DETECTORS, sampling=COARSE)["haadf"].data
    b = simulate(mirrored, PROBE, scan, DETECTORS, sampling=COARSE)["haadf"].data
    np.testing.assert_allclose(a, np.roll(np.asarray(b)[:, ::-1], 1, axis=1), rtol=5e-3, atol=1e-6)
    assert np.abs(np.asarray(a) - np.asarray(b)).max() > 0.02 * np.asarray(a).max()


def test_positive_tilt_leans_columns_towards_minus_x():
    """A phase ramp per slice and a shear of the atoms are the same physics: this fixes the sign."""
    straight = displaced_supercell(material("BaTiO3"), np.zeros((2, 2, 3)), 20)
    scan = Scan.grid((0, 0), (4, 4), (2, 8))

    def sheared(tx):
        x = straight.position[:, 0] - straight.position[:, 2] * np.tan(tx * 1e-3)
        return eqx.tree_at(lambda a: a.position, straight, straight.position.at[:, 0].set(x))

    detector = {"abf": AnnularDetector(11, 21.4)}
    tilted = simulate(straight, PROBE, scan, detector, tilt=(6.0, 0.0), sampling=COARSE)["abf"].data
    right, wrong = (simulate(sheared(t), PROBE, scan, detector, sampling=COARSE)["abf"].data for t in (6.0, -6.0))
    error = [float(jnp.linalg.norm(tilted - s) / jnp.linalg.norm(tilted)) for s in (right, wrong)]
    assert error[0] < 0.02
    assert error[1] > 5 * error[0]


def test_exit_planes_equal_separate_runs():
    deep = displaced_supercell(material("BaTiO3"), np.zeros((1, 1, 3)), 6)
    shallow = displaced_supercell(material("BaTiO3"), np.zeros((1, 1, 3)), 3)
    scan = Scan.grid((0, 0), (4, 4), (2, 2))
    both = simulate(deep, PROBE, scan, DETECTORS, thicknesses=[12.0, 24.0], sampling=COARSE)["haadf"].data
    one = simulate(shallow, PROBE, scan, DETECTORS, sampling=COARSE)["haadf"].data
    np.testing.assert_allclose(both[0], one, rtol=1e-3)
    assert both.shape == (2, 2, 2)


def test_frozen_phonons_have_the_right_rms_and_pairs_are_opposite():
    many = Atoms(np.zeros((4000, 3)), [8] * 4000, (4, 4, 4), thermal_rms=0.085)
    up, down = (displaced_positions(many, FrozenPhonons(2, seed=1, antithetic=True), i) for i in (0, 1))
    np.testing.assert_allclose(np.asarray(up).std(0), 0.085, rtol=5 / np.sqrt(2 * 4000))
    np.testing.assert_allclose(up, -down)


def test_average_does_not_depend_on_how_many_ways_it_is_split(atoms):
    """Configuration i is the same in every run, and the mean is a mean (abTEM once returned n times it)."""
    scan = Scan.grid((0, 0), (4, 4), (2, 2))
    four = simulate(atoms, PROBE, scan, DETECTORS, thermal=FrozenPhonons(4, seed=3), sampling=COARSE)["haadf"]
    one = simulate(atoms, PROBE, scan, DETECTORS, thermal=FrozenPhonons(1, seed=3), sampling=COARSE)["haadf"]
    assert one.standard_error is None
    assert four.standard_error is not None
    assert (np.abs(four.data - one.data) < 6 * 2 * four.standard_error).all()
    batched = simulate(atoms, PROBE, scan, DETECTORS, thermal=FrozenPhonons(4, seed=3), batch=3, sampling=COARSE)[
        "haadf"
    ]
    np.testing.assert_allclose(batched.data, four.data, rtol=1e-4)


def test_fast_thermal_agrees_with_explicit_phonons_on_a_fine_grid():
    """Same displacements: HAADF from the lost norm at 0.0625 Å/px against the wave itself at 0.036 Å/px."""
    cell = displaced_supercell(material("BaTiO3"), np.zeros((1, 1, 3)), 25)
    scan = Scan.grid((0, 0), (4, 4), (4, 4))
    detectors = {"haadf": AnnularDetector(60, 170), "abf": AnnularDetector(11, 21.4)}
    fast = simulate(cell, PROBE, scan, detectors, thermal=FastThermal(2, seed=0))
    fine = simulate(cell, PROBE, scan, detectors, thermal=FrozenPhonons(2, seed=0, antithetic=True), sampling=0.036)
    for name, bound in (("haadf", 0.03), ("abf", 0.005)):
        difference = np.linalg.norm(fast[name].data - fine[name].data) / np.linalg.norm(fine[name].data)
        assert difference < bound, name


def test_gradient_with_respect_to_positions_and_tilt(atoms):
    """Reverse mode against central differences."""
    plan = plan_slices(atoms)
    scan = Scan.grid((0.3, 0.2), (2.3, 2.2), (2, 2))

    def loss(position, tilt):
        moved = eqx.tree_at(lambda a: a.position, atoms, position)
        out = simulate(moved, PROBE, scan, DETECTORS, tilt=tilt, sampling=COARSE, plan=plan)
        return 100 * (out["haadf"].data * jnp.array([[1.0, 2.0], [3.0, 4.0]])).sum()

    rng = np.random.default_rng(0)
    position, tilt = atoms.position, jnp.array([3.0, -2.0])
    along = (jnp.asarray(rng.normal(size=position.shape), position.dtype), jnp.array([0.6, 0.8]))
    gradient = jax.grad(loss, argnums=(0, 1))(position, tilt)
    for i, step in ((0, 2e-3), (1, 0.1)):
        moved = [[x + s * step * along[j] if j == i else x for j, x in enumerate((position, tilt))] for s in (1, -1)]
        numeric = (loss(*moved[0]) - loss(*moved[1])) / (2 * step)
        assert float((gradient[i] * along[i]).sum()) == pytest.approx(float(numeric), rel=2e-2)


def test_second_call_does_not_compile(atoms):
    scan = Scan.grid((0, 0), (4, 4), (2, 2))
    simulate(atoms, PROBE, scan, DETECTORS, sampling=COARSE)
    other = eqx.tree_at(lambda a: a.position, atoms, atoms.position + 0.01)
    simulate(other, PROBE, scan, DETECTORS, tilt=(0.5, 0.0), sampling=COARSE)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, duration_secs, **kwargs: compiled.append(event))
    simulate(atoms, PROBE, scan, DETECTORS, tilt=(1.0, 0.0), sampling=COARSE)
    jax.monitoring.clear_event_listeners()
    assert not [name for name in compiled if "backend_compile" in name]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"detectors": {"haadf": AnnularDetector(60, 300)}}, "band limit"),
        ({"detectors": {}}, "detectors"),
        ({"sampling": -1.0}, "sampling"),
        ({"transmission": "magic"}, "transmission"),
        ({"thicknesses": [500.0]}, "thicknesses"),
        ({"slice_thickness": 0.0}, "slice_thickness"),
        ({"thermal": FastThermal(2), "detectors": {"haadf": AnnularDetector(95, 170)}, "sampling": 0.1}, "too close"),
    ],
)
def test_bad_input_names_the_field(atoms, change, match):
    kw = {"detectors": DETECTORS, "sampling": COARSE, **change}
    detectors = kw.pop("detectors")
    with pytest.raises(InputError, match=match):
        simulate(atoms, PROBE, Scan.grid((0, 0), (4, 4), (2, 2)), detectors, **kw)


def test_bad_objects_are_refused_on_construction():
    for build, match in [
        (lambda: Scan.grid((0, 0), (4, 4), (0, 3)), "scan shape"),
        (lambda: AnnularDetector(60, 40), "inner < outer"),
        (lambda: Probe(-1, 20), "energy"),
        (lambda: Probe(200e3, 0), "semiangle"),
        (lambda: Probe(200e3, 20, aberrations={"C99": 1.0}), "aberrations"),
        (lambda: Atoms([[0, 0, np.nan]], [8], (4, 4, 4)), "position"),
        (lambda: Atoms([[0, 0, 0]], [8], (4, 4, 4), thermal_rms=-0.1), "thermal_rms"),
        (lambda: Atoms([[0, 0, 0]], [8], (4, 0, 4)), "box"),
        (lambda: FastThermal(3), "even number"),
    ]:
        with pytest.raises(InputError, match=match):
            build()
