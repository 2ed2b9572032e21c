"""The specimen: wrapping, repeating, random substitution, and what is refused."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax import (
    Atoms,
    Grid,
    InputError,
    PlaneWave,
    draw_occupancy,
    exit_wave,
    material,
    oriented_supercell,
    substitute,
)
from ferrojax.crystal import check_atoms

BOX = (4.0, 5.0, 6.0)


def specimen(**changes) -> Atoms:
    values = {
        "position": np.array([[0.5, 0.5, 0.5], [2.5, 2.5, 2.5]]),
        "number": [83, 26],
        "box": BOX,
        "thermal_rms": np.array([0.07, 0.06]),
        "occupancy": np.array([1.0, 0.5]),
    }
    values |= {k: np.array(v) if isinstance(v, list) else v for k, v in changes.items()}
    return Atoms(**values)


def test_wrapped_is_periodic_in_the_plane_only():
    moved = specimen(position=[[-0.5, 5.5, -0.5], [9.0, 2.0, 7.0]]).wrapped()
    np.testing.assert_allclose(np.asarray(moved.position), [[3.5, 0.5, -0.5], [1.0, 2.0, 7.0]], atol=1e-6)
    with pytest.raises(InputError, match=r"box of 5\.000 Å \(got .y = 6\.500 Å of atom 1.\); .*atoms\.wrapped\(\)"):
        check_atoms(specimen(position=[[0, 0, 0], [2.0, 6.5, 1.0]]))
    check_atoms(specimen(position=[[-0.9, 0, 0], [2.0, 5.9, 1.0]]))


def test_wrapping_has_the_gradient_of_a_shift():
    def height(position):
        wrapped = specimen(position=position).wrapped()
        return (wrapped.position * jnp.array([1.0, 2.0, 3.0])).sum()

    gradient = jax.grad(height)(jnp.array([[-0.5, 5.5, 0.2], [1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(np.asarray(gradient), [[1, 2, 3], [1, 2, 3]], rtol=1e-6)


@pytest.mark.parametrize("rms", [[0.07, 0.06], [[0.07, 0.01, 0.02], [0.06, 0.03, 0.04]]])
def test_repeating_keeps_density_rms_and_occupancy(rms):
    one = specimen(thermal_rms=rms)
    many = one.repeated(2, 3, 4)
    assert many.box == (8.0, 15.0, 24.0)
    assert len(many.number) / np.prod(many.box) == pytest.approx(len(one.number) / np.prod(one.box))
    position = np.asarray(many.position)
    assert len(np.unique(position.round(4), axis=0)) == 48
    cell = np.mod(position + 1e-5, BOX)
    for z in (83, 26):
        mask, own = np.array(many.number) == z, one.number.index(z)
        np.testing.assert_allclose(cell[mask], np.tile(one.position[own], (24, 1)), atol=1e-4)
        own_rms = np.broadcast_to(one.thermal_rms[own], (24, *np.shape(rms)[1:]))
        np.testing.assert_array_equal(np.asarray(many.thermal_rms)[mask], own_rms)
        np.testing.assert_array_equal(np.asarray(many.occupancy)[mask], one.occupancy[own])
    with pytest.raises(InputError, match="repeats: must be a whole number from 1"):
        one.repeated(0, 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": [[0, 0, 0], [np.nan, 1, 1]]}, "position: must be finite"),
        ({"thermal_rms": [0.1, -0.1]}, "thermal_rms: must not be negative"),
        ({"thermal_rms": np.zeros((2, 2))}, r"thermal_rms: needs shape \(2,\) or \(2, 3\)"),
        ({"thermal_rms": np.zeros(3)}, r"thermal_rms: needs shape \(2,\)"),
        ({"occupancy": [0.5, 1.2]}, r"occupancy: must lie between 0 and 1 \(got 1\.2"),
        ({"occupancy": [-0.1, 1.0]}, "occupancy: must lie between 0 and 1"),
        ({"occupancy": [1.0] * 3}, r"occupancy: needs shape \(2,\)"),
        ({"number": [83, 104]}, "number: is no atomic number"),
        ({"number": [83, 0]}, "number: is no atomic number"),
        ({"number": [83]}, r"position: needs shape \(1, 3\)"),
        ({"box": (4.0, 0.0, 6.0)}, "box: needs three positive lengths"),
        ({"box": (4.0, np.nan, 6.0)}, "box: needs three positive lengths"),
    ],
)
def test_bad_values_end_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        specimen(**changes)
    assert "\n" not in str(caught.value)


def test_values_changed_later_are_checked_too():
    bad = eqx.tree_at(lambda a: a.thermal_rms, specimen(), jnp.array([0.1, -0.2]))
    with pytest.raises(InputError, match="thermal_rms: must not be negative"):
        check_atoms(bad)


def test_overlap_is_refused_across_the_periodic_edge_and_shared_sites_are_not():
    near = [[0.1, 0.1, 1.0], [3.95, 4.95, 1.0]]
    with pytest.raises(InputError, match=r"closer than 0\.3 Å overlap \(got .atoms 0 and 1, occupancies sum to 1\.500"):
        check_atoms(specimen(position=near))
    check_atoms(specimen(position=near, occupancy=[0.5, 0.5]))
    check_atoms(specimen(position=[[1, 1, 0.0], [1, 1, 5.9]], occupancy=1.0))  # the beam's direction is not periodic
    three = Atoms(np.ones((3, 3)), [12, 41, 22], BOX, 0.0, np.full(3, 0.4))
    with pytest.raises(InputError, match=r"sum to 1\.200"):
        check_atoms(three)


def test_traced_atoms_are_let_through():
    bad = specimen(position=[[0, 0, 0], [0, 0, 0.1]], occupancy=1.0)

    @jax.jit
    def total(atoms):
        check_atoms(atoms)
        return atoms.position.sum()

    assert float(total(bad)) == pytest.approx(0.1)


def test_a_hundred_thousand_atoms_are_checked_in_seconds():
    atoms = oriented_supercell(material("SrTiO3"), repeats=(28, 28, 26)).atoms
    assert len(atoms.number) > 1e5
    start = time.perf_counter()
    check_atoms(atoms)
    assert time.perf_counter() - start < 5


def test_substitution_has_the_fractions_asked_for():
    atoms = oriented_supercell(material("BiFeO3"), repeats=(16, 16, 16)).atoms
    fractions = {"Bi": {"La": 0.2, "Nd": 0.1}, "Fe": {"Mn": 0.5}, "O": {"vacancy": 0.05}}
    mixed = substitute(atoms, fractions, seed=3)
    sites, whole = 16**3, mixed.present()
    count = {z: whole.number.count(z) for z in (83, 57, 60, 26, 25, 8)}
    for z, share, of in [(57, 0.2, 1), (60, 0.1, 1), (83, 0.7, 1), (25, 0.5, 1), (26, 0.5, 1), (8, 0.95, 3)]:
        assert abs(count[z] - share * of * sites) < 4 * np.sqrt(share * (1 - share) * of * sites)
    # Each site has one atom, at the place and with the thermal rms of the host.
    assert count[83] + count[57] + count[60] == count[26] + count[25] == sites
    home = {tuple(p): float(u) for p, u in zip(np.asarray(atoms.position).tolist(), atoms.thermal_rms, strict=True)}
    found = [tuple(p) for p in np.asarray(whole.position).tolist()]
    assert len(set(found)) == len(found)
    np.testing.assert_array_equal(np.asarray(whole.thermal_rms), [home[place] for place in found])
    assert set(substitute(atoms, {"Bi": {"La": 1.0}}, 1).present().number) == {57, 26, 8}
    assert len(substitute(atoms, {"O": {"vacancy": 1.0}}, 1).present().number) == 2 * sites


def test_another_draw_has_the_same_layout_and_compiles_nothing():
    atoms = oriented_supercell(material("BiFeO3"), repeats=(3, 3, 3)).atoms
    fractions = {"Bi": {"La": 0.3, "vacancy": 0.1}}
    draws = [substitute(atoms, fractions, seed) for seed in (1, 2, (1, 2), (1, 3))]
    assert draws[0].number[:3] == (83, 57, 26)
    np.testing.assert_array_equal(draws[0].position[0], draws[0].position[1])
    shared = Atoms(draws[0].position, draws[0].number, draws[0].box, 0.08, 0.5)
    draws_of_shares = [draw_occupancy(shared, seed) for seed in (1, 2)]
    traces = []

    @jax.jit
    def weight(specimen):
        traces.append(1)
        return (specimen.occupancy * jnp.asarray(specimen.number)).sum()

    for some in (draws, draws_of_shares):
        assert len({jax.tree.structure(draw) for draw in some}) == 1
        assert len({tuple(np.shape(leaf) for leaf in jax.tree.leaves(draw)) for draw in some}) == 1
        assert len({np.asarray(draw.occupancy).tobytes() for draw in some}) == len(some)
        total = [float(weight(draw)) for draw in some]
        assert total == [pytest.approx(sum(draw.present().number)) for draw in some]
    assert len(traces) == 1
    again = substitute(atoms, fractions, 2)
    np.testing.assert_array_equal(again.occupancy, draws[1].occupancy)


def test_the_engine_sees_only_the_atoms_that_are_there():
    cell = oriented_supercell(material("BiFeO3")).atoms
    wave, grid = PlaneWave(energy=200e3), Grid.for_box(*cell.box[:2], 0.25)
    found = []
    for seed in (0, 3):
        drawn = substitute(cell, {"Bi": {"La": 0.5}, "O": {"vacancy": 0.3}}, seed)
        found.append(np.asarray(exit_wave(drawn, wave, grid)))
        np.testing.assert_allclose(found[-1], np.asarray(exit_wave(drawn.present(), wave, grid)), atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_drawn_atoms_keep_the_occupancy_of_their_site():
    mixed = substitute(specimen(), {"Fe": {"Mn": 1.0}}, 0)
    assert mixed.number == (83, 26, 25)
    np.testing.assert_allclose(mixed.occupancy, [1.0, 0.0, 0.5])
    gradient = jax.grad(
        lambda o: substitute(Atoms(np.ones((1, 3)), [26], BOX, 0.0, o), {"Fe": {"Mn": 1.0}}, 0).occupancy.sum()
    )
    assert float(gradient(0.5)) == 1.0


def test_an_atom_of_no_occupancy_is_not_there():
    between = np.array([[1.0, 1, 1], [1.2, 1, 1], [1.4, 1, 1]])
    check_atoms(Atoms(between, [8, 26, 8], BOX, 0.0, [1.0, 0.0, 1.0]))
    drawn = draw_occupancy(Atoms(between[:2], [8, 26], BOX, 0.0, [1.0, 0.0]), 0)
    np.testing.assert_array_equal(drawn.occupancy, [1, 0])
    with pytest.raises(InputError, match="occupancy: is zero for every atom"):
        specimen(occupancy=0.0).present()
    with pytest.raises(InputError, match="occupancy: is being traced"):
        jax.jit(lambda o: specimen(occupancy=o).present().position)(jnp.ones(2))


def test_substitution_refuses_what_it_cannot_do():
    for fractions, message in [
        ({"Bi": {"La": 1.2}}, "fractions: for Bi must be"),
        ({"Bi": {"La": -0.2}}, "fractions: for Bi must be"),
        ({"Bi": {"La": 0.6, "Nd": 0.5}}, "sum to at most 1"),
        ({"Ba": {"La": 0.1}}, "fractions: is not in the specimen"),
        ({"Bi": {"Xx": 0.1}}, "element: unknown chemical symbol"),
    ]:
        with pytest.raises(InputError, match=message):
            substitute(specimen(), fractions, 0)


def test_drawn_sites_hold_one_species_each():
    sites = 4000
    place = np.random.default_rng(0).permutation(sites)
    corner = np.stack([place % 20, place // 20 % 20, place // 400], -1) + 0.5
    position = np.concatenate([corner, corner + np.array([0.05, 0, 0]), corner + np.array([0.5, 0, 0])])
    number = np.repeat([12, 41, 8], sites)
    share = np.repeat([0.33, 0.60, 1.0], sites)
    mixed = draw_occupancy(Atoms(position, number, (20, 20, 10), 0.05 + 0.01 * (number == 8), share), seed=5).present()
    found = {z: int((np.array(mixed.number) == z).sum()) for z in (12, 41, 8)}
    assert found[8] == sites
    for z, p in [(12, 0.33), (41, 0.60)]:
        assert abs(found[z] - p * sites) < 4 * np.sqrt(p * (1 - p) * sites)
    assert abs(found[12] + found[41] - 0.93 * sites) < 4 * np.sqrt(0.93 * 0.07 * sites)
    cation = np.array(mixed.number) != 8
    cells = np.floor(np.asarray(mixed.position)[cation] + 1e-4)
    assert len(np.unique(cells, axis=0)) == cation.sum()
    np.testing.assert_array_equal(np.asarray(mixed.occupancy), 1)
    np.testing.assert_allclose(np.asarray(mixed.thermal_rms), 0.05 + 0.01 * ~cation, rtol=1e-5)
    assert draw_occupancy(specimen(occupancy=1.0), 0).number == (83, 26)
