"""Shared and partly occupied sites: a site is one thing, whatever it is split into."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.crystal import Atoms
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice import (
    FastThermal,
    FrozenPhonons,
    configuration,
    displaced_positions,
    drawn_occupancy,
    exit_wave,
    plan_slices,
    return_rate,
    slice_tables,
)
from ferrojax.multislice.radial import core_factor
from ferrojax.optics import PlaneWave, Probe

pytestmark = pytest.mark.filterwarnings("ignore:detector. .* ends close to the grid's band limit:UserWarning")
"""Small grids: what is compared here is not how bright a ring is."""

PROBE = Probe(200e3, 21.4)
HAADF = {"haadf": AnnularDetector(60, 110), "abf": AnnularDetector(11, 21.4)}
ON_COLUMN = Scan.grid((2.0, 2.0), (2.8, 2.4), (1, 2))


def column(species: dict[int, float], cells: int = 6, rms: float = 0.0, side: float = 4.0) -> Atoms:
    """A column along z with these species on every site."""
    z = 1.0 + 2.0 * np.arange(cells)
    position = [[side / 2, side / 2, height] for height in z for _ in species]
    share = np.tile(list(species.values()), cells)
    return Atoms(position, list(species) * cells, (side, side, 2.0 * cells), rms, share)


def split(atoms: Atoms) -> Atoms:
    """Every atom as two halves on its site."""
    twice: Any = (jnp.repeat(a, 2, axis=0) for a in (atoms.position, atoms.thermal_rms))
    position, rms = twice
    return Atoms(position, np.repeat(atoms.number, 2), atoms.box, rms, jnp.repeat(atoms.occupancy, 2) / 2)


def signals(atoms, thermal=None, **kw: Any):
    given: dict[str, Any] = {"sampling": 0.08, "window": None, "slice_thickness": 2.0, "route": "probes"} | kw
    out = simulate(atoms, PROBE, ON_COLUMN, HAADF, thermal=thermal, **given)
    return {name: np.asarray(image.data) for name, image in out.items()}


@pytest.mark.parametrize("thickness", [2.0, 4.0])
@pytest.mark.parametrize("transmission", ["renormalised", "conventional"])
def test_splitting_an_atom_into_halves_changes_nothing(transmission, thickness):
    whole = column({82: 1.0})
    kw = {"transmission": transmission, "slice_thickness": thickness, "sampling": 0.05}
    one, two = signals(whole, **kw), signals(split(whole), **kw)
    for name in HAADF:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4)


def test_halves_vibrate_and_are_drawn_as_one():
    """Phonons leave a full site full, and its parts together."""
    whole = column({82: 1.0}, rms=0.1)
    halves = split(whole)
    thermal, plan = FrozenPhonons(2, seed=3), plan_slices(halves, 2.0)
    position = displaced_positions(halves, thermal, 1, plan.site)
    occupancy = drawn_occupancy(halves, thermal, 1, plan.site)
    np.testing.assert_array_equal(position[::2], position[1::2])
    np.testing.assert_array_equal(np.asarray(occupancy).reshape(-1, 2).sum(1), 1)
    assert 0 < occupancy[::2].sum() < 6  # either half may be drawn
    merged, total = configuration(halves, thermal, 1, plan)
    np.testing.assert_allclose(merged[::2], position[::2], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(total), np.tile([1.0, 0.0], 6))


@pytest.mark.parametrize(("element", "energy", "bound"), [("Pb", 200e3, 3e-5), ("U", 60e3, 3e-4)])
def test_an_occupancy_weighs_the_phase(element, energy, bound):
    """exp(iwφ): what is interpolated against core factors made for that very occupancy."""
    grid = Grid((40, 40), (0.1, 0.1))
    tables = slice_tables((element,), grid, energy, partial=True)
    assert tables.core is not None
    for share in (0.0, 0.07, 0.4, 0.93, 1.0):
        weights = tables.share_weights(jnp.float32(share))
        found = jnp.tensordot(weights, tables.core, 1)[0]
        exact = core_factor(element, energy, float(grid.k.max()), share=share)(grid.k)
        exact = np.stack([exact.real, exact.imag], -1) * (tables.carried > 0)[..., None] / 0.01
        assert np.abs(found - exact).max() < bound * np.abs(tables.core[-1]).max()


def test_more_of_an_atom_is_brighter_and_the_gradient_says_so():
    """A vacancy darkens a column; the derivative is that of differences."""
    atoms = column({82: 1.0}, cells=4)
    plan = plan_slices(atoms, 2.0)

    def bright(share):
        some = eqx.tree_at(lambda a: a.occupancy, atoms, share * jnp.ones_like(atoms.occupancy))
        out = simulate(some, PROBE, ON_COLUMN, HAADF, plan=plan, sampling=0.08, window=None, route="probes")
        return 100 * out["haadf"].data[0, 0]

    values = [float(jax.jit(bright)(jnp.float32(s))) for s in (0.5, 0.7, 0.9, 1.0)]
    assert values == sorted(values)
    slope = float(jax.grad(bright)(jnp.float32(0.7)))
    differences = float(bright(jnp.float32(0.75)) - bright(jnp.float32(0.65))) / 0.1
    assert slope > 0
    assert slope == pytest.approx(differences, rel=0.02)


@pytest.mark.parametrize("model", [FrozenPhonons, FastThermal])
def test_configurations_average_over_compositions(model):
    """K½Na½ by the engine's own draws against specimens drawn one by one."""
    mixed = column({19: 0.5, 11: 0.5}, cells=8, rms=0.08)
    detectors = {"haadf": AnnularDetector(60, 110 if model is FrozenPhonons else 200)}
    n = 16
    kw: dict[str, Any] = {"window": None, "slice_thickness": 2.0, "route": "probes"}
    ours = simulate(mixed, PROBE, ON_COLUMN, detectors, thermal=model(n, 1, "independent"), **kw)["haadf"]
    each = []
    for seed in range(n):
        thermal, first = model(1, 100 + seed, "independent"), np.random.default_rng(seed).random(8) < 0.5
        drawn = jnp.asarray(np.stack([first, ~first], 1).ravel(), jnp.float32)
        out = simulate(
            eqx.tree_at(lambda a: a.occupancy, mixed, drawn), PROBE, ON_COLUMN, detectors, thermal=thermal, **kw
        )
        each.append(np.asarray(out["haadf"].data)[0, 0])
    error = np.hypot(np.std(each, ddof=1) / np.sqrt(n), float(ours.standard_error[0, 0]))  # pyright: ignore
    assert abs(float(ours.data[0, 0]) - np.mean(each)) < 3 * error
    assert error < 0.1 * np.mean(each)


def test_draws_follow_the_occupancies_and_pairs_share_them():
    atoms = Atoms(
        np.repeat(np.random.default_rng(0).uniform(0, 300, (900, 3)), 3, axis=0),
        [8, 56, 82] * 900,
        (300, 300, 300),
        0.1,
        np.tile([0.2, 0.3, 0.0], 900),
    )
    plan = plan_slices(atoms, 2.0)
    pair = [configuration(atoms, FastThermal(2, seed=1), i, plan) for i in (0, 1)]
    np.testing.assert_array_equal(pair[0][1], pair[1][1])
    np.testing.assert_allclose(pair[0][0] - atoms.position, atoms.position - pair[1][0], atol=1e-4)
    share = np.asarray(pair[0][1]).reshape(900, 3)
    assert set(share.sum(1)) == {0.0, 1.0}
    np.testing.assert_allclose(share.mean(0), [0.2, 0.3, 0.0], atol=5 * np.sqrt(0.25 / 900))
    stratified = FrozenPhonons(10, seed=0, draws="stratified")
    share = np.mean([configuration(atoms, stratified, i, plan)[1] for i in range(10)], 0).reshape(900, 3)
    np.testing.assert_allclose(share[:, :2], [[0.2, 0.3]] * 900, atol=1e-6)  # every site takes every tenth once


def test_partial_atoms_scatter_as_part():
    full, half = column({82: 1.0}), column({82: 0.5})
    rate = [return_rate(a, 200e3, 113.0, 60.0, 170.0) for a in (full, half)]
    assert rate[1] == pytest.approx(rate[0] / 2, rel=1e-3)


def test_exit_waves_take_halves_too():
    whole = column({56: 1.0})
    grid = Grid.for_box(4, 4, 0.06)
    one, two = (exit_wave(a, PlaneWave(200e3), grid) for a in (whole, split(whole)))
    np.testing.assert_allclose(one, two, atol=2e-4)


@pytest.mark.parametrize(
    ("species", "apart"),
    [
        ({82: 0.5, 83: 0.5}, (0, 0, 0)),
        ({82: 0.5, 38: 0.5}, (0, 0, 0)),
        ({82: 0.5, 38: 0.3, 20: 0.2}, (0, 0, 0)),
        ({83: 0.8, 57: 0.2}, (0.01, 0, 0)),
        ({82: 0.5, 83: 0.5}, (0, 0, 0.05)),
    ],
)
def test_a_mixed_site_is_the_phase_of_its_mean_potential(species, apart):
    """Against exp(iΣwφ) on a fine grid; cores that were cut off one by one made it 7 to 23 % too bright."""
    mixed = column(species, cells=8)
    first = np.tile(np.arange(len(species)) == 0, 8)
    mixed = eqx.tree_at(lambda a: a.position, mixed, mixed.position + first[:, None] * np.array(apart))
    found = signals(mixed, sampling=0.06)["haadf"]
    exact = signals(mixed, sampling=0.02, transmission="conventional")["haadf"]
    assert found[0, 0] == pytest.approx(exact[0, 0], rel=0.04)
    np.testing.assert_allclose(
        signals(mixed, sampling=0.06, plan=plan_slices(mixed, 2.0), slice_thickness=None)["haadf"], found, rtol=1e-4
    )
    wave = exit_wave(mixed, PlaneWave(200e3), Grid.for_box(4.0, 4.0, 0.06))
    assert np.isfinite(np.asarray(wave)).all()


def test_draws_do_not_blend():
    """Configurations hold one species on a site, whatever plan is given."""
    mixed = column({82: 0.5, 38: 0.5}, rms=0.05)
    thermal = FrozenPhonons(2, seed=1)
    drawn = signals(mixed, thermal)["haadf"]
    for blended, elements in ((False, ("Sr", "Pb")), (True, ("Pb*0.500000+Sr*0.500000",))):
        plan = plan_slices(mixed, 2.0, blended=blended)
        assert plan.elements == elements
        np.testing.assert_allclose(signals(mixed, thermal, plan=plan, slice_thickness=None)["haadf"], drawn, rtol=1e-5)


def test_a_blend_has_the_shares_of_the_atoms_it_is_used_for():
    """Where it can be made anew it is; where positions are traced other occupancies are refused."""
    mixed, other = column({82: 0.5, 38: 0.5}), column({82: 0.8, 38: 0.2})
    plan = plan_slices(mixed, 2.0, blended=True)
    expected = signals(other)["haadf"]
    np.testing.assert_allclose(signals(other, plan=plan, slice_thickness=None)["haadf"], expected, rtol=1e-5)

    def traced(atoms):
        def image(position):
            moved = eqx.tree_at(lambda a: a.position, atoms, position)
            return simulate(moved, PROBE, ON_COLUMN, HAADF, plan=plan, sampling=0.08, window=None)["haadf"].data

        return jax.jit(image)(atoms.position)

    own = signals(mixed, plan=plan, slice_thickness=None, route="auto")["haadf"]
    np.testing.assert_allclose(traced(mixed), own, rtol=1e-4)
    with pytest.raises(InputError, match="plan: has shares of its own"):
        traced(other)
