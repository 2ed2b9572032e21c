"""Thermal models: displacements, their standard errors, and FastThermal's shortcuts."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm, t

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, reading
from ferrojax.detection import simulate as simulate_isolated
from ferrojax.errors import InputError
from ferrojax.multislice import (
    FastThermal,
    FrozenPhonons,
    aligned_slices,
    displaced_positions,
    plan_slices,
    return_rate,
    standard_error,
)
from ferrojax.optics import Probe

PROBE = Probe(200e3, 21.4)
simulate = partial(simulate_isolated, window=None)
"""The periodic box as it stands: cheap, and exact for what these tests ask."""
HAADF = {"haadf": AnnularDetector(60, 170)}
MANY = 4000


def at_rest(rms, n=MANY):
    return Atoms(np.zeros((n, 3)), [8] * n, (4, 4, 4), thermal_rms=rms)


def polar(name="PbTiO3", cells=4, shift=0.1):
    field = np.zeros((1, 1, 3))
    field[..., 0] = shift
    return displaced_supercell(material(name), field, cells)


def drawn(atoms, thermal):
    return np.stack([np.asarray(displaced_positions(atoms, thermal, i)) for i in range(thermal.n)])


@pytest.mark.parametrize("draws", ["independent", "antithetic", "stratified"])
def test_mean_square_displacement_is_that_of_the_site_and_axis(draws):
    rms = np.where(np.arange(MANY)[:, None] % 2 == 0, [0.05, 0.10, 0.02], [0.08, 0.0, 0.12])
    u = drawn(at_rest(rms), FrozenPhonons(4, seed=2, draws=draws))
    for site in (0, 1):
        mean_square = (u[:, site::2] ** 2).mean(1)  # over atoms, per configuration
        expected = rms[site] ** 2
        assert (np.abs(mean_square - expected) <= 5 * expected * np.sqrt(2 / (MANY / 2)) + 1e-12).all()


def test_stratified_draws_take_every_interval_once():
    n = 8
    u = 2 * drawn(at_rest(0.5, 200), FrozenPhonons(n, seed=1, draws="stratified"))
    interval = np.floor(norm.cdf(u) * n).astype(int)
    np.testing.assert_array_equal(np.sort(interval, 0), np.broadcast_to(np.arange(n)[:, None, None], interval.shape))
    orders = interval.reshape(n, -1).T
    assert len({tuple(o) for o in orders}) > 500  # coordinates do not share an order
    assert abs(np.corrcoef(orders[:, 0], orders[:, 1])[0, 1] + 1 / (n - 1)) < 0.2  # of numbers drawn without return


@pytest.mark.parametrize("draws", ["independent", "antithetic", "stratified"])
def test_draws_are_the_same_in_double_precision(draws):
    thermal = FrozenPhonons(4, seed=3, draws=draws)
    single = drawn(at_rest(0.1, 20), thermal)
    with jax.enable_x64(True):
        double = drawn(at_rest(0.1, 20), thermal)
    np.testing.assert_allclose(double, single, atol=1e-5)


def test_antithetic_is_short_for_the_draws_and_seeds_repeat():
    atoms = at_rest(0.1, 10)
    pair = drawn(atoms, FrozenPhonons(2, seed=5, antithetic=True))
    np.testing.assert_array_equal(pair[0], -pair[1])
    np.testing.assert_array_equal(pair, drawn(atoms, FastThermal(2, seed=5)))
    assert FastThermal(1, antithetic=False).draws == "independent"
    assert np.abs(pair - drawn(atoms, FrozenPhonons(2, seed=6, antithetic=True))).min() > 0


@pytest.mark.parametrize(("draws", "samples"), [("independent", 8), ("antithetic", 4)])
def test_reported_standard_error_covers_the_truth_as_often_as_it_should(draws, samples):
    """Every atom is a repeat; a skewed signal, as intensities are, of known mean. Student's t for few samples."""
    thermal = FrozenPhonons(8, seed=3, draws=draws)
    u = drawn(at_rest(0.1), thermal)
    signal = 1 + u[..., 0] + (u**2).sum(-1)
    error = np.asarray(standard_error(jnp.asarray(signal), thermal))
    inside = np.abs(signal.mean(0) - 1.03) < error
    assert inside.mean() == pytest.approx(2 * t.cdf(1, samples - 1) - 1, abs=5 * np.sqrt(0.25 / MANY))


def test_variance_of_each_draw_on_odd_and_even_signals():
    """Pairs remove what is odd in u and double what is even; intervals shrink both."""
    ratio = {}
    for draws in ("independent", "antithetic", "stratified"):
        u = 2 * drawn(at_rest(0.5), FrozenPhonons(8, seed=4, draws=draws))[..., 0]
        ratio[draws] = np.array([u.mean(0).var(), (u**2).mean(0).var()]) / [1 / 8, 2 / 8]
    np.testing.assert_allclose(ratio["independent"], 1, rtol=0.25)
    np.testing.assert_allclose(ratio["antithetic"], [0, 2], rtol=0.25, atol=1e-12)
    assert (ratio["stratified"] < [0.1, 0.4]).all()


@pytest.mark.parametrize(
    ("cell", "ceiling", "layers"), [(3.905, 4.2, 1), (3.905, 2.1, 2), (4.016, 4.2, 1), (3.97, 2.1, 2)]
)
def test_slices_fall_in_step_with_the_layers(cell, ceiling, layers):
    cells = 20
    z = (np.arange(2 * cells) + 0.5) * cell / 2
    atoms = Atoms(np.stack([0 * z, 0 * z, z], -1), np.tile([82, 22], cells), (4, 4, cells * cell))
    step = aligned_slices(atoms, ceiling)
    assert step == pytest.approx(cell / layers, rel=1e-5)
    plan = plan_slices(atoms, step)
    assert (np.asarray(plan.present).sum((1, 2)) == 2 / layers).all()


def test_an_element_twice_in_a_thick_slice_is_of_two_kinds():
    atoms = Atoms([[0, 0, 0.5], [0, 0, 2.5], [0, 0, 4.5]], [82, 82, 82], (4, 4, 8))
    plan = plan_slices(atoms, 4.0)
    assert plan.elements == ("Pb", "Pb")
    np.testing.assert_array_equal(np.asarray(plan.present)[..., 0], [[1, 1], [1, 0]])


def test_thick_slices_multiply_the_cores_of_one_column():
    """B and O of a column share a slice of one cell; adding their cores would lose 8 % of HAADF."""
    atoms, scan = polar(cells=4), Scan.grid((0, 0), (3.97, 3.97), (4, 4))
    thick, thin = (
        simulate(atoms, PROBE, scan, HAADF, thermal=FastThermal(2, seed=0), slice_thickness=s)["haadf"].data
        for s in (3.98, 1.99)
    )
    assert np.linalg.norm(thick - thin) < 0.01 * np.linalg.norm(thin)


def test_return_rate_is_a_small_part_of_all_scattering_and_grows_with_density():
    atoms = polar()
    rate = return_rate(atoms, 200e3, 113.0, 60.0, 170.0)
    assert rate == pytest.approx(1.9e-4, rel=0.05)  # per Å; elastic mean free path of PbTiO3 at 200 kV: 291 Å
    half = Atoms(atoms.position, atoms.number, (*atoms.box[:2], 2 * atoms.box[2]))
    assert return_rate(half, 200e3, 113.0, 60.0, 170.0) == pytest.approx(rate / 2, rel=1e-3)
    assert 0 < return_rate(atoms, 200e3, 113.0, 60.0, np.inf) < rate / 5  # an unbounded ring loses only inwards


def test_what_leaves_an_unbounded_ring_inwards_is_taken_out(monkeypatch):
    """Of the norm that left the band limit, a part in proportion to the rate and to the path travelled since."""
    atoms, scan, ring = polar(cells=10), Scan.grid((0, 0), (4, 4), (2, 2)), {"haadf": AnnularDetector(60, np.inf)}

    def signal(rate: float) -> np.ndarray:
        asked: list[tuple] = []
        monkeypatch.setattr(reading, "return_rate", lambda *how: asked.append(how) or rate)
        image = simulate(atoms, PROBE, scan, ring, thermal=FastThermal(2, seed=0))["haadf"].data
        assert asked[0][3:] == (60.0, np.inf)
        return np.asarray(image)

    whole, some = signal(0.0), signal(1e-3)
    taken = (whole - some) / whole
    path = taken / (1e-3 * atoms.box[2])  # travelled since the loss, as part of the depth
    assert (path > 0.1).all()
    assert (path < 0.5).all()


def test_fast_thermal_does_not_feel_the_grid():
    """Its band folds over by design; specimen and scan moved by part of a pixel must still agree."""
    atoms, scan = polar(), Scan.grid((0, 0), (4, 4), (4, 4))
    moved = eqx.tree_at(lambda a: a.position, atoms, atoms.position + jnp.array([0.04, -0.03, 0.0]))
    there = Scan.grid((0.04, -0.03), (4.04, 3.97), (4, 4))
    thermal = FastThermal(2, seed=1)
    a = simulate(atoms, PROBE, scan, HAADF, thermal=thermal)["haadf"].data
    b = simulate(moved, PROBE, there, HAADF, thermal=thermal)["haadf"].data
    assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(a)


@pytest.mark.study
def test_gradient_with_respect_to_thermal_rms():
    atoms, scan = polar("BaTiO3", 3), Scan.grid((0, 0), (2, 2), (2, 2))
    plan = plan_slices(atoms, 4.0)

    def loss(scale):
        warm = eqx.tree_at(lambda a: a.thermal_rms, atoms, scale * atoms.thermal_rms)
        out = simulate(warm, PROBE, scan, HAADF, thermal=FastThermal(2, seed=0, draws="stratified"), plan=plan)
        return 100 * out["haadf"].data.sum()

    value = jax.grad(loss)(jnp.float32(1.0))
    numeric = (loss(jnp.float32(1.02)) - loss(jnp.float32(0.98))) / 0.04
    assert float(value) == pytest.approx(float(numeric), rel=1e-2)


def test_second_call_with_other_displacements_does_not_compile():
    atoms, scan = polar("BaTiO3", 3), Scan.grid((0, 0), (2, 2), (2, 2))
    simulate(atoms, PROBE, scan, HAADF, thermal=FastThermal(2, seed=0))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, duration_secs, **kwargs: compiled.append(event))
    simulate(atoms, PROBE, scan, HAADF, thermal=FastThermal(2, seed=1))
    jax.monitoring.clear_event_listeners()
    assert not [name for name in compiled if "backend_compile" in name]


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: FrozenPhonons(0), "at least 1"),
        (lambda: FrozenPhonons(3, antithetic=True), "even number"),
        (lambda: FastThermal(3), "even number"),
        (lambda: FrozenPhonons(4, draws="sobol"), "draws"),
        (lambda: simulate(polar(), PROBE, Scan.grid((0, 0), (4, 4), (2, 2)), {"far": AnnularDetector(90, 170)},
                          thermal=FastThermal(2), sampling=0.1), "too close"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(build, match):
    with pytest.raises(InputError, match=match):
        build()
