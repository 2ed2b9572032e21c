"""Amorphous layers, stacks and wedges: density, distances, depth."""

import numpy as np
import pytest
from scipy.spatial import KDTree

import ferrojax as fj
from ferrojax.crystal import check_atoms


def shortest(atoms, periodic_from=None) -> float:
    """The shortest distance between two atoms, periodic in x and y."""
    box = np.array([*atoms.box[:2], 0.0])
    position = np.asarray(atoms.position, float)
    position[:, :2] = np.mod(np.mod(position[:, :2], box[:2]), box[:2])
    return KDTree(position, boxsize=box).query(position, k=2)[0][:, 1].min()


@pytest.mark.parametrize(
    ("element", "number", "mass", "density", "least"),
    [("C", 6, 12.011, 2.0, 1.3), ("C", 6, 12.011, 2.0, 1.7), ("Si", 14, 28.085, 2.2, 2.3)],
)
def test_a_layer_has_its_density_and_its_least_distance(element, number, mass, density, least):
    atoms = fj.amorphous_layer(
        (25.0, 21.0), 18.0, element=element, density=density, seed=(1, 2), least_distance=least, thermal_rms=0.09
    )
    check_atoms(atoms)
    assert set(atoms.number) == {number}
    assert atoms.box == (25.0, 21.0, 18.0)
    found = len(atoms.number) * mass / 6.02214076e23 / (np.prod(atoms.box) * 1e-24)
    assert found == pytest.approx(density, rel=0.002)
    assert shortest(atoms) >= least
    z = np.asarray(atoms.position)[:, 2]
    assert 0 <= z.min() <= z.max() <= 18.0
    thirds = np.histogram(z, 3, (0, 18))[0] / len(z)
    np.testing.assert_allclose(thirds, 1 / 3, atol=0.04)
    again = fj.amorphous_layer((25.0, 21.0), 18.0, element=element, density=density, seed=(1, 2), least_distance=least)
    np.testing.assert_array_equal(again.position, atoms.position)


def test_a_layer_says_what_it_cannot_hold():
    for options, message in [
        ({"least_distance": 2.2}, r"least_distance: Å leaves no room .* choose less than 2\.0\d Å"),
        ({"extent": (3.0, 3.0), "thickness": 0.3}, "extent: holds no whole number of atoms"),
        ({"extent": (2.0, 40.0)}, "extent: is below twice the least distance"),
        ({"extent": 20.0}, r"extent: needs shape \(2,\)"),
        ({"thickness": -5.0}, "thickness: must be positive"),
        ({"density": np.nan}, "density: must be finite"),
        ({"element": "Carbon"}, "element: unknown chemical symbol"),
        ({"seed": 0.5}, "seed: must be a whole number"),
    ]:
        given = {"extent": (10.0, 10.0), "thickness": 10.0} | options
        with pytest.raises(fj.InputError, match=message):
            fj.amorphous_layer(given.pop("extent"), given.pop("thickness"), **given)


@pytest.mark.parametrize("above", [True, False])
def test_a_layer_lies_on_either_side_of_a_crystal(above):
    crystal = fj.oriented_supercell(fj.material("SrTiO3"), repeats=(5, 5, 4)).atoms
    film = fj.amorphous_layer(crystal.box[:2], 20.0, seed=3)
    both = fj.stacked(*((film, crystal) if above else (crystal, film)), least_distance=1.6)
    check_atoms(both)
    assert len(both.number) == len(film.number) + len(crystal.number)
    gap = both.box[2] - film.box[2] - crystal.box[2]
    assert 0 <= gap < 1.6
    z = np.asarray(both.position)[:, 2]
    carbon = np.array(both.number) == 6
    assert (z[carbon].max() < z[~carbon].min()) == above
    # Across the interface nothing is closer than asked for, and something is just as close, or no gap was needed.
    sides = np.array([*both.box[:2], 0.0])
    position = np.mod(np.mod(np.asarray(both.position, float), [*both.box[:2], 1e9]), [*both.box[:2], 1e9])
    trees = [KDTree(position[mask], boxsize=sides) for mask in (carbon, ~carbon)]
    nearest = trees[0].query(trees[1].data)[0].min()
    assert nearest >= 1.6 - 1e-4
    assert nearest == pytest.approx(1.6, abs=1e-3) or gap == 0


def test_stacked_crystals_keep_their_spacing_and_their_thermal_motion():
    cell = fj.oriented_supercell(fj.material("SrTiO3"), repeats=(2, 2, 1)).atoms
    tensor = fj.Atoms(cell.position, cell.number, cell.box, np.full((20, 3), 0.05), 0.5)
    both = fj.stacked(cell, tensor)
    np.testing.assert_allclose(np.asarray(both.position), np.asarray(cell.repeated(1, 1, 2).position), atol=1e-5)
    assert both.thermal_rms.shape == (40, 3)
    np.testing.assert_allclose(both.thermal_rms[0], cell.thermal_rms[0])
    np.testing.assert_allclose(both.occupancy[20:], 0.5)
    with pytest.raises(fj.InputError, match="box: differs in x or y"):
        fj.stacked(cell, cell.repeated(2, 1, 1))
    with pytest.raises(fj.InputError, match=r"atoms: is no ferrojax\.Atoms"):
        fj.stacked(cell, fj.material("SrTiO3"))


def test_a_wedge_rises_along_its_direction():
    wedge = fj.wedge_thickness((5, 9), 100.0, 0.5, sampling=(1.0, 2.0))
    np.testing.assert_allclose(wedge, np.tile(100 + 0.5 * 2.0 * (np.arange(9) - 4), (5, 1)))
    down = fj.wedge_thickness((5, 9), 100.0, 0.5, angle=90.0, sampling=2.0)
    np.testing.assert_allclose(down[:, 0], 100 + 0.5 * 2.0 * (np.arange(5) - 2))
    slanted = fj.wedge_thickness((64, 64), 200.0, 0.3, angle=30.0, sampling=0.5)
    slope_y, slope_x = np.gradient(slanted, 0.5)
    np.testing.assert_allclose([slope_x.mean(), slope_y.mean()], 0.3 * np.array([np.cos(np.pi / 6), 0.5]), rtol=1e-9)
    assert slanted.mean() == pytest.approx(200.0)
    with pytest.raises(fj.InputError, match=r"slope: leaves -\d.* Å at the thin end"):
        fj.wedge_thickness((5, 300), 100.0, 1.0)
