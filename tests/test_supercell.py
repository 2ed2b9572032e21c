"""Orthogonal supercells: known boxes, every atom kept once, the strain as reported, the primitive lattice found."""

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.cell import Cell
from ase.io import read
from ase.spacegroup import crystal as ase_crystal
from scipy.spatial import KDTree

import ferrojax as fj
from ferrojax.crystal.lattice import completed_basis, lattice_points, primitive_cell, principal_strain

SILICON = bulk("Si", cubic=True, a=5.4294)
TRICLINIC = ase.Atoms(
    "NaClK",
    cell=Cell.fromcellpar([4.1, 5.3, 6.2, 82, 97, 104]),
    scaled_positions=[[0.02, 0, 0], [0.4, 0.45, 0.55], [0.7, 0.2, 0.8]],
    pbc=True,
)


def every_atom_once(structure, supercell) -> None:
    """Undo rotation and strain: every site of the structure is met equally often and the density is the same."""
    if isinstance(structure, fj.Crystal):
        cell, sites = np.asarray(structure.cell, float), np.asarray(structure.position, float)
        number = np.array(structure.number)
    else:
        cell, number = structure.cell.array, structure.numbers
        sites = structure.get_scaled_positions()
    atoms = supercell.atoms
    back = np.linalg.inv((np.eye(3) + supercell.strain) @ supercell.rotation)
    found = np.asarray(atoms.position, float) @ back.T @ np.linalg.inv(cell)
    distance, index = KDTree(np.mod(sites, 1), boxsize=1).query(np.mod(np.mod(found, 1), 1))
    assert distance.max() < 2e-4
    np.testing.assert_array_equal(np.array(atoms.number), number[index])
    cells = np.prod(atoms.box) / np.linalg.det(np.eye(3) + supercell.strain) / abs(np.linalg.det(cell))
    visits = np.bincount(index, minlength=len(sites))
    if cells > 1 - 1e-6 and np.allclose(supercell.vectors, supercell.vectors.round()):
        np.testing.assert_array_equal(visits, round(cells))
    assert len(atoms.number) == pytest.approx(cells * len(sites), rel=1e-5)
    position = np.asarray(atoms.position)
    assert (position >= 0).all()
    assert (position < np.array(atoms.box)).all()


def nearest(position, box) -> np.ndarray:
    """Distance of every atom to its nearest neighbour, periodic."""
    tree = KDTree(np.mod(np.asarray(position, float), box), boxsize=box)
    return np.sort(tree.query(tree.data, k=2)[0][:, 1])


def nearest_in_crystal(structure) -> float:
    """The shortest distance in an ASE crystal of any cell."""
    shifts = lattice_points(3 * np.eye(3, dtype=int)) - 1
    images = (structure.positions + (shifts @ structure.cell.array)[:, None]).reshape(-1, 3)
    return KDTree(images).query(structure.positions, k=2)[0][:, 1].min()


def test_silicon_110_is_the_known_box_without_strain():
    side = 5.4294 / np.sqrt(2)
    for cell, zone in [(SILICON, (1, 1, 0)), (bulk("Si", a=5.4294), (0, 0, 1))]:
        supercell = fj.oriented_supercell(cell, zone, thermal_rms={"Si": 0.078})
        np.testing.assert_allclose(supercell.atoms.box, [side, 5.4294, side], rtol=1e-6)
        assert supercell.largest_strain < 1e-6
        every_atom_once(cell, supercell)
        # Along [110]: the dumbbell's atoms 5.4294/4 apart along [001] and half a box apart in depth.
        found = np.asarray(supercell.atoms.position, float) / supercell.atoms.box
        relative = np.mod(found - found[0] + 1e-4, 1).round(3)
        low = {tuple(row) for row in relative}
        assert low in (
            {(0, 0, 0), (0.5, 0.5, 0.5), (0.0, 0.25, 0.5), (0.5, 0.75, 0.0)},
            {(0, 0, 0), (0.5, 0.5, 0.5), (0.0, 0.75, 0.5), (0.5, 0.25, 0.0)},
        )
        np.testing.assert_allclose(np.asarray(supercell.atoms.thermal_rms), 0.078, rtol=1e-6)


def test_perovskite_along_001_is_its_own_cell():
    crystal = fj.material("SrTiO3")
    supercell = fj.oriented_supercell(crystal, repeats=(2, 1, 3))
    np.testing.assert_allclose(supercell.atoms.box, [2 * 3.905, 3.905, 3 * 3.905], rtol=1e-6)
    np.testing.assert_array_equal(supercell.vectors, np.eye(3))
    np.testing.assert_allclose(supercell.rotation, np.eye(3), atol=1e-12)
    rms = dict(zip(supercell.atoms.number, np.asarray(supercell.atoms.thermal_rms), strict=True))
    assert rms == {38: np.float32(0.0887), 22: np.float32(0.0746), 8: np.float32(0.0963)}


def test_hexagonal_cell_needs_no_strain():
    zinc_oxide = bulk("ZnO", "wurtzite", a=3.25, c=5.2)
    supercell = fj.oriented_supercell(zinc_oxide, (0, 0, 1))
    np.testing.assert_allclose(supercell.atoms.box, [3.25, 3.25 * np.sqrt(3), 5.2], rtol=1e-6)
    assert supercell.largest_strain < 1e-6
    every_atom_once(zinc_oxide, supercell)


@pytest.mark.parametrize("zone", [(0, 0, 1), (1, 0, 1), (2, -1, 3)])
def test_triclinic_keeps_every_atom_and_its_distances(zone):
    supercell = fj.oriented_supercell(TRICLINIC, zone, max_strain=0.02)
    every_atom_once(TRICLINIC, supercell)
    strain = supercell.largest_strain
    assert 0 < strain <= 0.02
    assert np.linalg.det(supercell.rotation) == pytest.approx(1)
    edges = supercell.vectors @ TRICLINIC.cell.array
    np.testing.assert_allclose(np.linalg.norm(edges, axis=1), supercell.atoms.box, rtol=1e-6)
    assert strain == pytest.approx(float(principal_strain(edges)), abs=1e-9)
    np.testing.assert_allclose(np.cross(edges[2], np.array(zone) @ TRICLINIC.cell.array), 0, atol=1e-9)
    before = nearest_in_crystal(TRICLINIC)
    after = nearest(supercell.atoms.position, supercell.atoms.box)
    assert abs(after.min() / before - 1) < 1.1 * strain + 1e-5


def test_less_strain_needs_a_larger_box():
    small = fj.oriented_supercell(TRICLINIC, (1, 0, 1), max_strain=0.02)
    large = fj.oriented_supercell(TRICLINIC, (1, 0, 1), max_strain=0.005)
    assert large.largest_strain <= 0.005 < small.largest_strain
    assert len(large.atoms.number) > len(small.atoms.number)
    with pytest.raises(fj.InputError, match=r"max_strain: no orthogonal box .* the least is 0\.0\d+, with .* Å"):
        fj.oriented_supercell(TRICLINIC, (1, 0, 1), max_strain=1e-5, max_edge=30)


def test_least_strain_named_is_reached():
    with pytest.raises(fj.InputError) as caught:
        fj.oriented_supercell(TRICLINIC, (0, 1, 2), max_strain=0.0, max_edge=40)
    least = float(str(caught.value).split("the least is ")[1].split(",")[0])
    found = fj.oriented_supercell(TRICLINIC, (0, 1, 2), max_strain=least + 5e-5, max_edge=40)
    assert found.largest_strain == pytest.approx(least, abs=6e-5)


def test_bismuth_ferrite_along_pseudo_cubic_001():
    """R3c along pseudo-cubic [001]: lattice parameter 3.9646 Å, angle 89.43°, polar along [111], no tilt of columns."""
    crystal = fj.material("BiFeO3_R3c")
    supercell = fj.oriented_supercell(crystal, (2, 4, 1), in_plane=(4, 2, -1))
    every_atom_once(crystal, supercell)
    np.testing.assert_allclose(supercell.atoms.box, 2 * 3.96455, rtol=1e-4)
    assert len(supercell.atoms.number) == 40
    # Three angles of 89.431°: shear strain of half of 0.569° in each, along the diagonal twice that.
    half = np.radians(90 - 89.43106) / 2
    np.testing.assert_allclose(np.abs(supercell.strain[np.triu_indices(3, 1)]), half, rtol=0.01)
    assert supercell.largest_strain == pytest.approx(2 * half, rel=0.02)
    number, position = np.array(supercell.atoms.number), np.asarray(supercell.atoms.position)
    side = supercell.atoms.box[0] / 2
    bismuth, iron = position[number == 83], position[number == 26]
    shift = iron[:, None] - bismuth[None] - side / 2
    shift = shift - side * np.round(shift / side)
    # Fe lies 0.413 Å from the centre of its Bi cage along one pseudo-cubic diagonal, alike in every cell.
    np.testing.assert_allclose(np.abs(shift), 0.4132 / np.sqrt(3), atol=0.01)
    assert np.ptp(shift, axis=(0, 1)).max() < 1e-3


def test_bismuth_ferrite_sites_are_those_of_the_space_group():
    """The library's 30 sites against ASE's table of R3c, from the three sites of the refinement."""
    crystal = fj.material("BiFeO3_R3c")
    sites = [(0, 0, 0), (0, 0, 0.22021), (0.4469, 0.0181, 0.95183)]
    expected = ase_crystal(("Bi", "Fe", "O"), sites, spacegroup=161, cellpar=[5.57882, 5.57882, 13.86932, 90, 90, 120])
    np.testing.assert_allclose(np.asarray(crystal.cell), expected.cell.array, atol=1e-5)
    tree = KDTree(np.mod(expected.get_scaled_positions(), 1), boxsize=1)
    distance, index = tree.query(np.mod(np.asarray(crystal.position, float), 1))
    assert distance.max() < 1e-5
    np.testing.assert_array_equal(np.sort(index), np.arange(30))
    np.testing.assert_array_equal(np.array(crystal.number), expected.numbers[index])


def test_pseudo_cubic_bismuth_ferrite_follows_the_r3c_structure():
    """The soft mode gives the Fe and mean O shifts of the R3c cell, and O leads, as in PbTiO3."""
    mode = np.asarray(fj.material("BiFeO3").soft_mode)
    shift = mode @ np.full(3, -0.4132 / np.sqrt(3))
    np.testing.assert_allclose(shift[2:].mean(0).sum() / np.sqrt(3), -0.04817 * 13.86932, rtol=2e-3)
    assert fj.material("BiFeO3").born_charge is None


def test_dft_bismuth_ferrite_from_either_setting(reference_data):
    """The same crystal in rhombohedral and pseudo-cubic axes gives the same box."""
    folder = reference_data / "domain_wall_structures"
    rhombohedral = read(folder / "BiFeO3_R3c.vasp")
    pseudo_cubic = read(folder / "BiFeO3_R3c_pseudocubic.vasp")
    one = fj.oriented_supercell(rhombohedral, (1, 1, -1), max_strain=0.02)
    two = fj.oriented_supercell(pseudo_cubic, (0, 0, 1), max_strain=0.02)
    every_atom_once(rhombohedral, one)
    every_atom_once(pseudo_cubic, two)
    np.testing.assert_allclose(one.atoms.box, two.atoms.box, rtol=1e-4)
    np.testing.assert_allclose(
        nearest(one.atoms.position, one.atoms.box), nearest(two.atoms.position, two.atoms.box), atol=2e-3
    )
    hexagonal = read(reference_data / "ferroelectric_structures_dft" / "BiFeO3_sg161_mp-24932_polar.cif")
    every_atom_once(hexagonal, fj.oriented_supercell(hexagonal, (2, 4, 1), max_strain=0.02))
    with pytest.raises(fj.InputError, match=r"allow that strain or raise max_edge"):
        fj.oriented_supercell(hexagonal, (2, 4, 1), max_strain=0.001, max_edge=20)


def test_shared_sites_of_a_structure_file_are_kept(reference_data):
    cell = read(reference_data / "pmn110_idpc" / "PMN_average_cubic.cif")
    for atoms in (fj.oriented_supercell(cell, (1, 1, 0)).atoms, fj.Atoms.from_ase(cell)):
        share = {z: float(o) for z, o in zip(atoms.number, np.asarray(atoms.occupancy), strict=True)}
        assert share == pytest.approx({82: 1, 12: 0.67, 41: 0.33, 8: 1}, abs=1e-6)
        fj.crystal.check_atoms(atoms)


def test_size_and_thickness_are_reached():
    supercell = fj.oriented_supercell(SILICON, (1, 1, 0), size=(20.0, 10.0), thickness=200.0)
    box = np.array(supercell.atoms.box)
    assert (box >= [20, 10, 200]).all()
    assert (box - [3.8392, 5.4294, 3.8392] < [20, 10, 200]).all()
    assert len(supercell.atoms.number) == 4 * np.prod(supercell.repeats)


@pytest.mark.parametrize("in_plane", [(0, 0, 1), (1, -1, 0), (-1, 1, 1)])
def test_direction_along_x(in_plane):
    supercell = fj.oriented_supercell(SILICON, (1, 1, 0), in_plane=in_plane)
    along = supercell.rotation @ np.array(in_plane)
    np.testing.assert_allclose(along / np.linalg.norm(along), [1, 0, 0], atol=1e-9)
    every_atom_once(SILICON, supercell)


def test_bad_requests_end_in_one_line():
    with pytest.raises(fj.InputError, match="in_plane: is parallel to the zone axis"):
        fj.oriented_supercell(SILICON, (1, 1, 0), in_plane=(2, 2, 0))
    with pytest.raises(fj.InputError, match="zone axis: has no direction"):
        fj.oriented_supercell(SILICON, (0, 0, 0))
    with pytest.raises(fj.InputError, match="structure: is no crystal"):
        fj.oriented_supercell("Si.cif")
    with pytest.raises(fj.InputError, match="thickness: must be positive"):
        fj.oriented_supercell(SILICON, thickness=0.0)
    with pytest.raises(fj.InputError, match="thermal_rms: lacks Si"):
        fj.oriented_supercell(SILICON, thermal_rms={"Ge": 0.1})
    with pytest.raises(fj.InputError, match="max_edge: Å is too short"):
        fj.oriented_supercell(SILICON, max_edge=2.0)
    with pytest.raises(fj.InputError, match="repeats: comes with a size"):
        fj.oriented_supercell(SILICON, repeats=(1, 1, 2), thickness=20.0)
    with pytest.raises(fj.InputError, match=r"cell: is not orthogonal .* use ferrojax\.oriented_supercell"):
        fj.Atoms.from_ase(TRICLINIC)
    with pytest.raises(fj.InputError, match="has no orthogonal cell"):
        fj.crystal.displaced_supercell(fj.material("BiFeO3_R3c"), np.zeros((1, 1, 3)), 1)


def test_whole_number_lattices():
    generator = np.random.default_rng(2)
    for _ in range(30):
        corner = generator.integers(-4, 5, (3, 3))
        volume = abs(round(np.linalg.det(corner)))
        if volume:
            points = lattice_points(corner)
            assert len(np.unique(points, axis=0)) == len(points) == volume
        vector = generator.integers(-9, 10, 3)
        if np.gcd.reduce(vector) == 1:
            basis = completed_basis(vector)
            assert abs(round(np.linalg.det(basis))) == 1
            np.testing.assert_array_equal(basis[2], vector)


def test_primitive_cell_is_found_in_a_skewed_supercell():
    cell = TRICLINIC.cell.array
    corner = np.array([[2, 1, 0], [0, 3, -1], [1, 0, 2]])
    points = lattice_points(corner)
    sites = (points[:, None] + TRICLINIC.get_scaled_positions()).reshape(-1, 3) @ np.linalg.inv(corner)
    kind = np.tile([11, 17, 19], len(points))
    basis, keep = primitive_cell(corner @ cell, sites, list(kind))
    assert abs(np.linalg.det(basis)) == pytest.approx(1 / len(points))
    np.testing.assert_array_equal(np.sort(kind[keep]), [11, 17, 19])
    spoiled = kind.copy()
    spoiled[0] = 37
    basis, keep = primitive_cell(corner @ cell, sites, list(spoiled))
    np.testing.assert_array_equal(basis, np.eye(3))
    assert len(keep) == len(sites)
