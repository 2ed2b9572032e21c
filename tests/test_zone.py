"""Projections of crystals along zone axes: columns, what they are made of, and their shells."""

import itertools

import numpy as np
import pytest

from ferrojax.crystal import Crystal, column_components, material, projected_motif
from ferrojax.errors import InputError

RUTHERFORD = 1.7


def wurtzite(a=3.25, c=5.207, u=0.3819) -> Crystal:
    """ZnO, with Zn as the lattice that images are indexed on."""
    cell = np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]])
    third = [(1 / 3, 2 / 3, 0.0), (2 / 3, 1 / 3, 0.5)]
    position = [*third, *((x, y, z + u) for x, y, z in third)]
    return Crystal(cell, np.array(position), (30, 30, 8, 8), ("A", "A", "B", "B"), name="ZnO")


def enlarged(crystal: Crystal, counts: tuple[int, int, int]) -> Crystal:
    """The same crystal described by a larger cell."""
    shifts = np.array(list(itertools.product(*map(range, counts))))
    position = (np.asarray(crystal.position, float)[None] + shifts[:, None]).reshape(-1, 3) / counts
    copies = len(shifts)
    return Crystal(
        np.asarray(crystal.cell) * np.array(counts)[:, None],
        position,
        crystal.number * copies,
        crystal.label * copies,
        occupancy=np.tile(crystal.occupancy, copies),
        soft_mode=None if crystal.soft_mode is None else np.tile(crystal.soft_mode, (copies, 1, 1)),
    )


def summary(parts) -> np.ndarray:
    """Every component as a row (element, density, distance from its column, trace of its response), sorted."""
    rows = []
    for part in parts:
        trace = np.zeros(len(part.number)) if part.response is None else np.trace(part.response, axis1=1, axis2=2)
        rows.append(np.stack([part.number, part.density, np.linalg.norm(part.offset, axis=1), trace], 1))
    table = np.concatenate(rows)
    return table[np.lexsort(table.round(3).T)]


def triclinic() -> Crystal:
    """Five sites anywhere in a skew cell."""
    cell = np.array([[4.1, 0, 0], [1.3, 5.2, 0], [-0.9, 1.1, 6.3]])
    position = np.random.default_rng(4).random((5, 3))
    return Crystal(cell, position, (82, 22, 8, 8, 8), ("A", "B", "O", "O", "O"), occupancy=np.array([1, 1, 0.5, 1, 1]))


CASES = [
    (triclinic(), (1, -2, 1)),
    (triclinic(), (0, 3, -1)),
    (material("PbTiO3"), (0, 0, 1)),
    (material("PbTiO3"), (1, 1, 0)),
    (material("KNbO3"), (2, 1, 0)),
    (material("BaTiO3"), (1, 1, 1)),
    (material("BiFeO3_R3c"), (2, 4, 1)),
    (material("BiFeO3_R3c"), (-1, -2, 1)),
    (wurtzite(), (1, 1, 0)),
    (wurtzite(), (1, -1, 0)),
    (wurtzite(), (0, 0, 1)),
]


@pytest.mark.parametrize(("crystal", "zone"), CASES)
def test_every_atom_is_in_one_column(crystal, zone):
    """The columns' atoms per Å, over the area of the plane cell, are the crystal's atoms per volume."""
    motif = projected_motif(crystal, zone)
    parts = column_components(crystal, motif)
    volume = abs(np.linalg.det(np.asarray(crystal.cell, float)))
    area = np.linalg.det(motif.lattice)
    number, occupancy = np.array(crystal.number), np.asarray(crystal.occupancy, float)
    for z in set(crystal.number):
        density = sum(part.density[part.number == z].sum() for part in parts)
        assert density / area == pytest.approx(occupancy[number == z].sum() / volume, rel=1e-4)
    strength = [(part.density * part.number**RUTHERFORD).sum() for part in parts]
    np.testing.assert_allclose(motif.strength, strength, rtol=1e-5)
    for part, label in zip(parts, motif.label, strict=True):
        assert part.label[0] == label
        assert part.share.sum() == pytest.approx(1)
        assert np.linalg.norm(part.offset, axis=1).max() < 0.6
        own = [i for i, name in enumerate(part.label) if name == label]
        np.testing.assert_allclose(part.density[own] @ part.offset[own], 0, atol=1e-5)


@pytest.mark.parametrize(("crystal", "zone"), CASES)
def test_larger_cell_gives_the_same_motif(crystal, zone):
    one = projected_motif(crystal, zone)
    large = enlarged(crystal, (1, 2, 2))
    two = projected_motif(large, (2 * zone[0], zone[1], zone[2]))
    assert two.label == one.label
    assert two.depth == pytest.approx(one.depth, rel=1e-5)
    np.testing.assert_allclose(np.sort(two.strength), np.sort(one.strength), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.det(two.lattice), np.linalg.det(one.lattice), rtol=1e-4)
    first, second = (summary(column_components(c, m)) for c, m in ((crystal, one), (large, two)))
    np.testing.assert_allclose(second, first, atol=2e-4)


@pytest.mark.parametrize("zone", [(0, 0, 1), (1, 0, 0), (1, 1, 0), (2, 1, 0), (-1, 1, 0)])
def test_polar_shift_of_every_component_is_its_response(zone):
    """Displacing the crystal along its soft mode moves each projected component by response @ d."""
    crystal = material("PbTiO3")
    motif = projected_motif(crystal, zone)
    across = np.array([0.004, -0.007])
    shift = np.asarray(crystal.soft_mode, float) @ (across @ motif.axes)
    moved = Crystal(
        crystal.cell,
        np.asarray(crystal.position, float) + shift @ np.linalg.inv(np.asarray(crystal.cell, float)),
        crystal.number,
        crystal.label,
    )
    after = projected_motif(moved, zone)
    # The column follows the sites that name it, so the shift of a component is its offset's and its column's.
    for part, new, before_at, after_at in zip(
        column_components(crystal, motif), column_components(moved, after), motif.offset, after.offset, strict=True
    ):
        assert part.response is not None
        gap = after_at - before_at
        gap = gap - np.round(gap @ np.linalg.inv(motif.lattice)) @ motif.lattice
        for label in set(part.label):
            first = [i for i, name in enumerate(part.label) if name == label]
            second = [i for i, name in enumerate(new.label) if name == label]
            weight = part.density[first] / part.density[first].sum()
            expected = weight @ (part.offset[first] + part.response[first] @ across)
            other = new.density[second] / new.density[second].sum()
            np.testing.assert_allclose(gap + other @ new.offset[second], expected, atol=2e-5)


def test_what_the_titanium_column_holds():
    """PbTiO3 [001]: Ti and one O per cell, O moving 3.07 times as far; two pure O columns."""
    crystal = material("PbTiO3")
    motif = projected_motif(crystal)
    parts = column_components(crystal, motif)
    assert "".join(motif.label) == "ABOO"
    response = [np.asarray(part.response) for part in parts]
    titanium = parts[1]
    np.testing.assert_array_equal(titanium.number, [22, 8])
    np.testing.assert_allclose(titanium.density, 1 / 3.97, rtol=1e-5)
    np.testing.assert_allclose(titanium.share[1], 8**RUTHERFORD / (8**RUTHERFORD + 22**RUTHERFORD), rtol=1e-6)
    np.testing.assert_allclose(response[1], [np.eye(2), 3.07 * np.eye(2)], rtol=1e-5)
    np.testing.assert_allclose(response[0], np.zeros((1, 2, 2)))
    # The pure O columns move 3.34 along their bond to Ti and 3.07 across it.
    np.testing.assert_allclose(response[2], [np.diag([3.07, 3.34])], rtol=1e-5)
    np.testing.assert_allclose(response[3], [np.diag([3.34, 3.07])], rtol=1e-5)


@pytest.mark.parametrize("zone", [(0, 0, 1), (1, 1, 0)])
def test_shells_of_a_rhombohedral_crystal(zone):
    """R3c along pseudo-cubic [001] and [110]: every Fe column has its shell, and is 0.413 Å off it along [111]."""
    crystal = material("BiFeO3_R3c")
    hexagonal = {(0, 0, 1): (2, 4, 1), (1, 1, 0): (-1, -2, 1)}[zone]
    motif = projected_motif(crystal, hexagonal)
    for column in motif.sites("B"):
        shell = motif.shells[column]
        assert len(shell.weight) == {(0, 0, 1): 4, (1, 1, 0): 6}[zone]
        assert shell.weight.sum() == pytest.approx(1)
    for column in motif.sites("A") + motif.sites("O"):
        assert len(motif.shells[column].weight) == 0
    # Seen along [110] the crystal's cell holds everything but oxygen twice.
    assert "".join(motif.label) == {(0, 0, 1): "ABOO", (1, 1, 0): "ABO"}[zone]
    assert motif.alike == {(0, 0, 1): 1, (1, 1, 0): 2}[zone]
    assert len(motif.shell.weight) == {(0, 0, 1): 4, (1, 1, 0): 6}[zone]
    # The polar axis is c; seen along the beam it is shortened by the sine of the angle between them.
    beam = np.array(hexagonal) @ np.asarray(crystal.cell, float)
    sine = np.sqrt(1 - (beam[2] / np.linalg.norm(beam)) ** 2)
    seen = np.linalg.norm(motif.ideal_displacement[motif.sites("B")], axis=1)
    np.testing.assert_allclose(seen, 0.4132 * sine, atol=2e-3)


@pytest.mark.parametrize("zone", [(0, 0, 1), (1, 1, 0), (2, 1, 0)])
def test_non_polar_crystal_has_no_displacement(zone):
    motif = projected_motif(material("SrTiO3"), zone)
    np.testing.assert_allclose(motif.ideal_displacement[motif.sites("B")], 0, atol=1e-5)
    assert np.isnan(motif.ideal_displacement[motif.sites("A")]).all()
    np.testing.assert_array_equal(motif.shell.index, motif.shells[motif.label.index("B")].index)


def test_supercell_maps_each_b_column_to_its_own_neighbours():
    """A cell doubled by a small antiparallel shift has two B columns, each in the middle of four A columns."""
    cubic = enlarged(material("BaTiO3"), (2, 1, 1))
    position = np.array(cubic.position, float)
    position[1, 0] += 0.01
    motif = projected_motif(Crystal(cubic.cell, position, cubic.number, cubic.label), (0, 0, 1))
    assert "".join(motif.label).count("B") == 2
    np.testing.assert_allclose(np.linalg.norm(motif.lattice, axis=1), (4.0, 8.0), rtol=1e-5)
    found = np.abs(motif.ideal_displacement[motif.sites("B")]).max(1)
    np.testing.assert_allclose(np.sort(found), [0.0, 0.08], atol=1e-4)
    for column in motif.sites("B"):
        np.testing.assert_allclose(motif.shells[column].weight, 0.25)


def test_wurtzite_dumbbells():
    """[11-20] shows Zn–O dumbbells in a cell of d(1-100) × c; [1-100] shows Zn and O above each other along c."""
    crystal = wurtzite()
    dumbbell = projected_motif(crystal, (1, 1, 0))
    assert "".join(dumbbell.label) == "AABB"
    zinc, oxygen = dumbbell.offset[dumbbell.sites("A")], dumbbell.offset[dumbbell.sites("B")]
    cells = np.array(list(itertools.product((-1, 0, 1), repeat=2))) @ dumbbell.lattice
    for z in zinc:
        gap = np.linalg.norm(oxygen[:, None] + cells - z, axis=-1)
        assert gap.min() == pytest.approx(np.hypot(3.25 / (2 * 3**0.5), 5.207 * (0.5 - 0.3819)), rel=1e-4)
    np.testing.assert_allclose(np.linalg.norm(dumbbell.lattice, axis=1), [3.25 * 3**0.5 / 2, 5.207], rtol=1e-5)
    # Four neighbours in a tetrahedron; their centroid is O's ideal site up to the internal parameter.
    for column in dumbbell.sites("B"):
        assert np.linalg.norm(dumbbell.ideal_displacement[column]) < 0.1
    row = projected_motif(crystal, (1, -1, 0))
    assert "".join(row.label) == "AB"  # the two layers of a cell, at different depths, show the same half a cell apart
    assert row.alike == 2
    np.testing.assert_allclose(np.linalg.norm(row.lattice, axis=1), [3.25 / 2, 5.207 / 2], rtol=1e-5)
    across = (row.offset - row.offset[0]) @ row.lattice[0] / np.linalg.norm(row.lattice[0]) / (3.25 / 2)
    np.testing.assert_allclose(across, np.round(across), atol=1e-4)


def test_unfit_crystals_end_in_one_line():
    cell, position = 4.0 * np.eye(3), np.zeros((2, 3))
    for arguments, message in [
        ((cell, position, (22,), ("A",)), "position: needs shape \\(1, 3\\)"),
        ((cell, position, (22, 8), ("A",)), "label: must be A, B or O for each of 2 sites"),
        ((cell[:2], position, (22, 8), ("A", "O")), "cell: needs shape \\(3, 3\\)"),
        ((cell, position, (22, 8), ("Ti", "O")), "label: must be A, B or O"),
    ]:
        with pytest.raises(InputError, match=message):
            Crystal(*arguments)
