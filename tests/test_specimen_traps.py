"""What people give a specimen by mistake: every mistake ends in one line that says what to give instead."""

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ferrojax as fj
from ferrojax.crystal import check_atoms, displaced_supercell, mixed_crystal, polar_crystal

PLACE = np.array([[0.5, 0.5, 0.5], [2.5, 2.5, 2.5]])
BOX = (4.0, 5.0, 6.0)
CELL, SITES = 4.0 * np.eye(3), np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
POLAR = fj.material("PbTiO3")
NAN, INF = float("nan"), float("inf")


def refused(message, call, *arguments, **options):
    with pytest.raises(fj.InputError, match=message) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def specimen(**changes):
    values = {"position": PLACE, "number": [82, 22], "box": BOX} | changes
    return fj.Atoms(**values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"number": ["Pb", "Ti"]}, r"number: holds chemical symbols \(got 'Pb, Ti'\); give atomic numbers: 82, 22"),
        ({"number": "Pb"}, "number: holds chemical symbols .* give atomic numbers: 82"),
        ({"number": ["Pb", "Xx"]}, "number: holds chemical symbols .* such as 82|as 82"),
        ({"number": [82, 22.4]}, "number: needs one whole number an atom"),
        ({"number": [82, NAN]}, "number: needs one whole number an atom"),
        ({"number": [True, True]}, "number: needs one whole number an atom"),
        ({"number": 82}, "number: needs one whole number an atom"),
        ({"number": None}, "number: needs one whole number an atom"),
        ({"number": []}, "number: needs one whole number an atom"),
        ({"thermal_rms": [-0.1, 0.1]}, r"thermal_rms: must not be negative .*sqrt\(B/8π²\)"),
        ({"thermal_rms": [0.6, 0.1]}, r"thermal_rms: is above 0\.5 Å: it looks like B .*u = sqrt\(B/8π²\)"),
        ({"thermal_rms": [INF, 0.1]}, "thermal_rms: must be finite"),
        ({"thermal_rms": "0.1"}, "thermal_rms: must be real numbers"),
        ({"thermal_rms": None}, "thermal_rms: must be real numbers"),
        ({"thermal_rms": {"Pb": 0.1}}, "thermal_rms: must be real numbers"),
        ({"occupancy": [1.0, NAN]}, "occupancy: must be finite"),
        ({"occupancy": [True, False]}, "occupancy: must be real numbers"),
        ({"position": "here"}, "position: must be real numbers"),
        ({"position": PLACE + 1j}, "position: must be real numbers"),
        ({"position": [[0, 0, 0], [1, 1]]}, "position: is no array of numbers"),
        ({"position": PLACE[:, :2]}, r"position: needs shape \(2, 3\)"),
        ({"position": PLACE.T}, r"position: needs shape \(2, 3\)"),
        ({"position": [[0, 0, 0], [1, INF, 1]]}, "position: must be finite"),
        ({"box": (4.0, INF, 6.0)}, "box: needs three positive lengths"),
        ({"box": np.diag(BOX)}, "box: needs three positive lengths"),
        ({"box": 4.0}, "box: needs three positive lengths"),
        ({"box": None}, "box: needs three positive lengths"),
        ({"box": ("4", "5", "6")}, "box: needs three positive lengths"),
        ({"box": (0.39, 0.39, 0.42)}, "box: is shorter than 1 Å all round: it looks like nm .* multiply it by 10"),
    ],
)
def test_atoms_say_what_they_need(changes, message):
    refused(message, specimen, **changes)


def test_traced_positions_pass_and_a_traced_box_does_not():
    height = jax.jit(lambda p: fj.Atoms([[p, 0.0, 0.0], [1.0, p, 1.0]], [82.0, 22], BOX).position.sum())
    assert float(height(2.0)) == 6.0
    refused("box: needs three positive lengths that are known now", jax.jit(lambda b: specimen(box=b).position), BOX)


def test_what_is_no_specimen_is_told_how_to_become_one():
    cell = ase.Atoms("PbTi", positions=PLACE, cell=BOX)
    refused(r"atoms: is no ferrojax\.Atoms \(got 'ase\.Atoms'\); .*ferrojax\.Atoms\.from_ase\(atoms", check_atoms, cell)
    refused(r"atoms: is no ferrojax\.Atoms .*ferrojax\.oriented_supercell", check_atoms, POLAR)
    refused(r"atoms: is no ferrojax\.Atoms .*pass its \.atoms", check_atoms, fj.oriented_supercell(POLAR))
    refused(r"atoms: is no ferrojax\.Atoms", check_atoms, None)
    refused(r"atoms: is no ASE Atoms .*oriented_supercell", fj.Atoms.from_ase, POLAR)
    refused("thermal_rms: must be real numbers", fj.Atoms.from_ase, cell, "0.1")
    refused(
        "thermal_rms: must be real numbers .* give a number for Ti", fj.Atoms.from_ase, cell, {"Pb": 0.1, "Ti": "x"}
    )
    refused("thermal_rms: is above 0.5 Å", fj.Atoms.from_ase, cell, {"Pb": 0.1, "Ti": 0.9})
    check_atoms(fj.Atoms.from_ase(cell, {"Pb": 0.1, "Ti": 0.08}))


def test_lengths_in_other_units_are_told():
    solid = fj.oriented_supercell(POLAR, repeats=(6, 6, 6)).atoms
    for factor, unit in [(0.1, "looks like nm .* by 10"), (100.0, "looks like pm .* by 100")]:
        box = tuple(factor * side for side in solid.box)
        refused(f"box: .*{unit}", check_atoms, fj.Atoms(factor * np.asarray(solid.position), solid.number, box))
    check_atoms(fj.Atoms(PLACE, [82, 22], (200.0, 200.0, 200.0)))  # a molecule in vacuum
    check_atoms(fj.Atoms(PLACE[:1], [82], (400.0, 400.0, 400.0)))  # an atom, which has no neighbour to tell by
    refused("cell: .* looks like nm", fj.Crystal, 0.4 * np.eye(3), SITES, (56, 22), ("A", "B"))
    refused("cell: .* looks like pm", fj.Crystal, 400 * np.eye(3), SITES, (56, 22), ("A", "B"))


@pytest.mark.parametrize("counts", [(3,), (3, 3), ((3, 3, 1),), (2, 2, 2.5), (2, 2, True), (2, 2, "1"), (2, 2, NAN)])
def test_repeating_needs_three_whole_numbers(counts):
    refused("repeats: must be .*whole number", specimen().repeated, *counts)
    assert specimen().repeated(2, 1, np.int64(1)).box == (8.0, 5.0, 6.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": CELL * [[NAN, 1, 1]] * 3}, "cell: must be finite"),
        ({"cell": np.diag([4.0, 4.0, 0.0])}, "cell: has no volume"),
        ({"cell": CELL + 0j}, "cell: must be real numbers"),
        ({"cell": (4.0, 4.0, 4.0)}, r"cell: needs shape \(3, 3\)"),
        ({"cell": "cubic"}, "cell: must be real numbers"),
        ({"position": SITES + np.array([NAN, 0, 0])}, "position: must be finite"),
        ({"number": ("Ba", "Ti")}, "number: holds chemical symbols .* give atomic numbers: 56, 22"),
        ({"number": (56, 0)}, "number: is no atomic number"),
        ({"occupancy": (1.0, 0.0)}, "occupancy: must be above 0"),
        ({"occupancy": (1.0, 1.5)}, "occupancy: must lie between 0 and 1"),
        ({"occupancy": np.ones(3)}, r"occupancy: needs shape \(2,\)"),
        ({"thermal_rms": 0.7}, "thermal_rms: is above 0.5 Å"),
        ({"thermal_rms": (0.1, -0.1)}, "thermal_rms: must not be negative"),
        ({"soft_mode": np.zeros((2, 3))}, r"soft_mode: needs shape \(2, 3, 3\)"),
        ({"born_charge": np.full((2, 3, 3), NAN)}, "born_charge: must be finite"),
        ({"mode_charge": 2.0}, r"mode_charge: needs shape \(3, 3\)"),
        ({"response_error": "10 %"}, "response_error: must be real numbers"),
    ],
)
def test_crystals_say_what_they_need(changes, message):
    values = {"cell": CELL, "position": SITES, "number": (56, 22), "label": ("A", "B")} | changes
    refused(message, fj.Crystal, **values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zone": 5}, "zone axis: needs three integers"),
        ({"in_plane": 5}, "zone axis: needs three integers"),
        ({"size": 20.0}, r"size: needs shape \(2,\)"),
        ({"size": (20.0, NAN)}, "size: must be finite"),
        ({"size": (20.0, -1.0)}, "size: must be positive"),
        ({"thickness": "100"}, "thickness: must be real numbers"),
        ({"thickness": INF}, "thickness: must be finite"),
        ({"repeats": 3}, r"repeats: needs shape \(3,\)"),
        ({"repeats": (1, 1, 2.5)}, "repeats: must be a whole number from 1"),
        ({"repeats": (1, 1, 0)}, "repeats: must be a whole number from 1"),
        ({"max_strain": NAN}, "max_strain: must be finite"),
        ({"max_strain": None}, "max_strain: must be real numbers"),
        ({"max_edge": NAN}, "max_edge: must be finite"),
        ({"max_edge": -5.0}, "max_edge: must be positive"),
        ({"thermal_rms": 3.0}, "thermal_rms: is above 0.5 Å"),
        ({"thermal_rms": "u"}, "thermal_rms: must be real numbers"),
    ],
)
def test_supercells_say_what_they_need(options, message):
    refused(message, fj.oriented_supercell, POLAR, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth: must be a whole number from 1"),
        ({"depth": 2.5}, "depth: must be a whole number from 1"),
        ({"depth": True}, "depth: must be a whole number from 1"),
        ({"depth": None}, "depth: must be a whole number from 1"),
        ({"field": np.zeros((2, 2, 2))}, r"field: needs shape \(n, n, 3\)"),
        ({"field": np.zeros((2, 3))}, r"field: needs shape \(n, n, 3\)"),
        ({"field": np.zeros((0, 2, 3))}, r"field: needs shape \(n, n, 3\)"),
        ({"field": np.full((2, 2, 3), NAN)}, "field: must be finite"),
        ({"field": np.full((2, 2, 3), 15.0)}, "field: displaces by more than 1 Å .* 15 pm are 0.15"),
        ({"field": np.zeros((2, 2, 3)) * 1j}, "field: must be real numbers"),
        ({"field": None}, "field: must be real numbers"),
        ({"mode_scale": NAN}, "mode_scale: must be finite"),
        ({"mode_scale": "1"}, "mode_scale: must be real numbers"),
        ({"crystal": "PbTiO3"}, r"crystal: is no ferrojax\.Crystal .*ferrojax\.material"),
        ({"crystal": fj.Crystal(CELL, SITES, (56, 8), ("A", "O"))}, "crystal: has no B site"),
    ],
)
def test_displaced_supercells_say_what_they_need(options, message):
    values = {"crystal": POLAR, "field": np.zeros((2, 2, 3)), "depth": 1} | options
    refused(message, displaced_supercell, **values)


def test_polar_crystals_say_what_they_need():
    for shift, strain, message in [
        ((0.1, 0.0), None, r"displacement: needs shape \(3,\)"),
        ((0.1, 0.0, NAN), None, "displacement: must be finite"),
        ((15.0, 0.0, 0.0), None, "displacement: is above 1 .* 15 pm are 0.15"),
        ("up", None, "displacement: must be real numbers"),
        ((0.1, 0, 0), 0.06, r"strain: needs shape \(3, 3\)"),
        ((0.1, 0, 0), np.diag([0.0, 0.0, 6.0]), "strain: is above 0.5 .* not per cent"),
        ((0.1, 0, 0), np.full((3, 3), NAN), "strain: must be finite"),
    ]:
        refused(message, polar_crystal, POLAR, shift, strain)
    refused(r"crystal: is no ferrojax\.Crystal", polar_crystal, specimen(), (0.1, 0, 0))
    shift = jax.jit(lambda d: polar_crystal(POLAR, d).position[1, 0])(jnp.array([0.1, 0.0, 0.0]))
    assert float(shift) > 0.5


@pytest.mark.parametrize("draw", ["substitute", "draw_occupancy"])
@pytest.mark.parametrize("seed", [1.5, "7", None, -1, True, NAN, (1, -2), jnp.float32(0.5)])
def test_draws_need_whole_seeds(draw, seed):
    mixed = {"substitute": lambda s: fj.substitute(specimen(), {"Ti": {"Zr": 0.5}}, s)}
    mixed["draw_occupancy"] = lambda s: fj.draw_occupancy(specimen(occupancy=0.5), s)
    refused("seed: must be a whole number from 0", mixed[draw], seed)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"Ti": 0.2}, r"fractions: .*\{guest: share\}"),
        (0.2, r"fractions: .*\{guest: share\}"),
        (None, r"fractions: .*\{guest: share\}"),
        ({"Ti": {"Zr": NAN}}, "fractions: must be finite"),
        ({"Ti": {"Zr": "0.1"}}, "fractions: must be real numbers"),
        ({"Ti": {"Zr": True}}, "fractions: must be real numbers"),
        ({"Ti": {40: 0.1}}, "element: unknown chemical symbol"),
        ({22: {"Zr": 0.1}}, "element: unknown chemical symbol"),
        ({"Ti": {"Ti": 0.1}}, "fractions: .* its own guest"),
    ],
)
def test_shares_of_a_site_are_told_what_they_should_be(fractions, message):
    refused(message, fj.substitute, specimen(), fractions, 0)
    refused(message, mixed_crystal, POLAR, fractions)


def test_draws_need_the_right_objects():
    refused(r"atoms: is no ferrojax\.Atoms", fj.substitute, POLAR, {"Ti": {"Zr": 0.1}}, 0)
    refused(r"atoms: is no ferrojax\.Atoms", fj.draw_occupancy, POLAR, 0)
    refused(r"crystal: is no ferrojax\.Crystal", mixed_crystal, specimen(), {"Ti": {"Zr": 0.1}})
    traced = jax.jit(lambda p: fj.draw_occupancy(specimen(position=p), 0).position)
    refused("position: is being traced", traced, PLACE)


def test_atoms_linked_by_others_share_a_site():
    """Four thirds in a chain of 0.25 Å: drawn as one site, they would leave the last hardly there."""
    chain = fj.Atoms([[2 + 0.25 * i, 2.0, 1.0] for i in range(4)], [82] * 4, (8, 8, 4), 0.05, [0.33] * 4)
    with pytest.raises(fj.InputError, match=r"atoms 0 and 1, occupancies sum to 1.320"):
        check_atoms(chain)


def test_displacements_in_pm_and_cells_in_pm_are_told():
    with pytest.raises(fj.InputError, match=r"first: is larger than 1 Å, .*give Å: 15 pm is 0.15"):
        fj.uniform_field((3, 3), (15.0, 0.0, 0.0))
    with pytest.raises(fj.InputError, match=r"supercell: makes .* atoms"):
        fj.oriented_supercell(fj.material("PbTiO3"), (0, 0, 1), thickness=1e9)
    with pytest.raises(fj.InputError, match=r"sampling: must be positive"):
        fj.wedge_thickness((4, 4), 100.0, 0.1, sampling=-1.0)
