"""Cells of full structures: polarization and tilts against stored references, formulas and each other."""

import ase
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.constants import POLARIZATION_UNIT
from ferrojax.crystal import material
from ferrojax.errors import InputError
from ferrojax.polarization import (
    atom_charges,
    cell_displacement,
    cell_polarization,
    cell_vectors,
    distinct_atoms,
    local_volume,
    octahedral_rotation,
    octahedral_tilt,
    perovskite_cells,
    polarization_covariance,
    polarization_from_displacement,
    projected_rotation,
)

SITE = {"Pb": "A", "Bi": "A", "Ba": "A", "Sr": "A", "Ti": "B", "Fe": "B", "O": "O"}
CHARGE = {"A": 3.44, "B": 5.18, "O": -(3.44 + 5.18) / 3}
"""e; the isotropic charges with which the stored polarization was made."""
FIVE = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
LABELS = ["A", "B", "O", "O", "O"]


def supercell(repeats=(2, 2, 2), cell=(4.0, 4.0, 4.0), shift=None):
    """Positions, box and labels of a perovskite; shift: (5, 3) Å added to every cell's atoms."""
    sides = np.array(cell)
    steps = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 3)
    atoms = (steps[:, None] + FIVE) * sides + (0 if shift is None else np.asarray(shift))
    return atoms.reshape(-1, 3), np.diag(sides * repeats), LABELS * len(steps)


def rotated_octahedra(degrees, repeats=(2, 2, 2)):
    """Octahedra turned about z by ±degrees, neighbours in the plane the other way (a⁰a⁰c⁻ or c⁺ alike)."""
    position, box, labels = supercell(repeats)
    slope = np.tan(np.radians(degrees))
    for row in np.nonzero(np.array(labels) == "O")[0]:
        at = position[row] / 4.0
        bond = int(np.argmin(np.abs(at - np.floor(at) - 0.0)))  # the axis along which this O bonds to B
        if bond == 2:
            continue
        before = np.floor(at + 1e-9).astype(int)
        sign = (-1.0) ** (before.sum() - (1 if bond < 2 else 0))
        other = 1 - bond
        position[row, other] += sign * (1 if bond == 0 else -1) * 2.0 * slope
    return position, box, labels


def read(path):
    atoms = ase.io.read(path)
    assert isinstance(atoms, ase.Atoms)
    return atoms.get_positions(), np.asarray(atoms.cell), [SITE[s] for s in atoms.get_chemical_symbols()]


def test_every_neighbour_is_found_through_the_box_in_the_stated_order():
    position, box, labels = supercell((1, 2, 3))
    cells = perovskite_cells(position + 37.1, box, labels)
    assert cells.complete.all()
    np.testing.assert_allclose(cells.axes, np.eye(3), atol=1e-12)
    corner = position[cells.a] + cells.a_image @ box - position[cells.b][:, None]
    expected = np.array([[x, y, z] for x in (-2, 2) for y in (-2, 2) for z in (-2, 2)])
    np.testing.assert_allclose(corner, np.broadcast_to(expected, corner.shape), atol=1e-9)
    ligand = position[cells.o] + cells.o_image @ box - position[cells.b][:, None]
    np.testing.assert_allclose(ligand[0], [[-2, 0, 0], [2, 0, 0], [0, -2, 0], [0, 2, 0], [0, 0, -2], [0, 0, 2]])
    step = position[cells.b[cells.neighbour]] + cells.neighbour_image @ box - position[cells.b][:, None]
    np.testing.assert_allclose(step, np.broadcast_to(4 * np.eye(3), step.shape), atol=1e-9)


def test_a_cell_that_misses_an_atom_is_left_out():
    position, box, labels = supercell((3, 3, 3))
    cells = perovskite_cells(np.delete(position, 0, 0), box, labels[1:])
    assert (~cells.complete).sum() == 8
    found = cell_displacement(np.delete(position, 0, 0), box, cells)
    np.testing.assert_array_equal(np.isnan(np.asarray(found)).all(1), ~cells.complete)


def test_atoms_that_a_seam_doubles_are_dropped():
    position, box, _ = supercell((2, 2, 2))
    doubled = np.concatenate([position, position[:3] + box[0] + 0.05])
    np.testing.assert_array_equal(distinct_atoms(doubled, box), np.arange(len(position)))


def test_labels_must_fit():
    position, box, _ = supercell()
    with pytest.raises(InputError, match="label"):
        perovskite_cells(position, box, ["A"] * len(position))


def test_polarization_by_hand_and_in_any_axes():
    """Pb at rest, Ti and O displaced along z: e/V Σ Z u, the same when the whole structure is turned."""
    shift = np.zeros((5, 3))
    shift[1, 2], shift[2:, 2] = 0.1, -0.2
    position, box, labels = supercell((2, 2, 2), (3.9, 3.9, 4.1), shift)
    charge = np.array([CHARGE[name] for name in labels])
    cells = perovskite_cells(position, box, labels)
    found = cell_polarization(position, box, cells, charge)
    expected = POLARIZATION_UNIT / (3.9**2 * 4.1) * (5.18 * 0.1 + 3 * CHARGE["O"] * -0.2)
    np.testing.assert_allclose(np.asarray(found), np.broadcast_to([0, 0, expected], found.shape), atol=2e-4)
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    turned = perovskite_cells(position @ turn, box @ turn, labels)
    again = cell_polarization(position @ turn, box @ turn, turned, charge)
    np.testing.assert_allclose(np.asarray(again), np.asarray(found) @ turn, atol=2e-4)


def test_polarization_of_a_crystal_follows_its_tensors():
    """The soft mode in a structure gives what the crystal's own conversion says, along the bond and across."""
    crystal = material("PbTiO3")
    displacement = np.array([0.05, -0.02, 0.1])
    mode = np.asarray(crystal.soft_mode, float)
    fraction = np.asarray(crystal.position, float)
    side = float(crystal.cell[0, 0])
    position, box, labels = supercell((2, 2, 2), (side,) * 3)
    names = np.array(labels)
    for site in range(5):
        rest = np.mod((position - fraction[site] * side) / side + 1e-6, 1)
        rows = (np.abs(rest - 1e-6) < 1e-3).all(1) & (names == crystal.label[site])
        position[rows] += mode[site] @ displacement
    cells = perovskite_cells(position, box, labels)
    found = cell_polarization(position, box, cells, atom_charges(crystal, cells, len(position)))
    expected = polarization_from_displacement(crystal, jnp.asarray(displacement))
    np.testing.assert_allclose(np.asarray(found), np.broadcast_to(expected, found.shape), atol=1e-3)


def test_charges_that_do_not_cancel_are_refused():
    position, box, labels = supercell()
    cells = perovskite_cells(position, box, labels)
    with pytest.raises(InputError, match="must cancel"):
        cell_polarization(position, box, cells, np.ones(len(labels)))


def test_stored_polarization_of_lead_titanate(reference_data):
    """80 cells with two 180° walls, to 1e-6 C/m² in double precision, with local volumes close to the mean."""
    folder = reference_data / "pto_polarization_reference"
    position, box, labels = read(folder / "PTO-180DW.vasp")
    stored = np.load(folder / "PTO-180DW-P.npy")
    cells = perovskite_cells(position, box, labels)
    with jax.enable_x64(True):
        charge = np.array([CHARGE[name] for name in labels])
        found = np.asarray(cell_polarization(position, box, cells, charge))
        volume = np.asarray(local_volume(position, box, cells))
        locally = np.asarray(cell_polarization(position, box, cells, charge, volume))
    assert np.abs(found - stored).max() < 1e-6
    np.testing.assert_allclose(volume.sum(), abs(np.linalg.det(box)), rtol=1e-9)
    np.testing.assert_allclose(locally, found, rtol=0.02, atol=2e-3)
    single = np.asarray(cell_polarization(position, box, cells, charge))
    assert np.abs(single - stored).max() < 2e-4


def test_stored_tilts_of_strontium_titanate(reference_data):
    """To 1e-6°, but for the 100 O–O pairs an axis that the box cuts: stored with the image on the wrong side.

    Shown by doing the same: with the images moved the wrong way all 3000 stored values come out.
    """
    folder = reference_data / "pto_polarization_reference"
    position, box, labels = read(folder / "STO-50K.vasp")
    stored = np.load(folder / "STO-50K_octahedral_tilt.npy")
    cells = perovskite_cells(position, box, labels)
    with jax.enable_x64(True):
        found = np.asarray(octahedral_tilt(position, box, cells))
    bond = position[cells.o] - position[cells.b][:, None]
    cut = np.linalg.norm(bond[:, 1::2] - bond[:, ::2], axis=-1) > 10
    np.testing.assert_array_equal(cut.sum(0), [100, 100, 100])
    assert np.abs(found - stored)[~cut].max() < 1e-6
    wrong = bond + np.round(bond @ np.linalg.inv(box)) @ box
    row = np.arange(len(wrong))
    for axis in range(3):
        along = wrong[:, :, axis]
        diagonal = wrong[row, along.argmax(1)] - wrong[row, along.argmin(1)]
        angle = np.degrees(np.arccos(np.abs(diagonal[:, axis]) / np.linalg.norm(diagonal, axis=1)))
        np.testing.assert_allclose(angle, stored[:, axis], atol=1e-6)
        # The cut layers are no different from the others in the crystal.
        np.testing.assert_allclose(found[cut[:, axis], axis].mean(), found[~cut[:, axis], axis].mean(), rtol=0.05)


def test_tilt_and_rotation_of_turned_octahedra():
    position, box, labels = rotated_octahedra(5.0)
    cells = perovskite_cells(position, box, labels)
    tilt = np.asarray(octahedral_tilt(position, box, cells))
    np.testing.assert_allclose(tilt, np.broadcast_to([5.0, 5.0, 0.0], tilt.shape), atol=1e-3)
    rotation = np.asarray(octahedral_rotation(position, box, cells))
    np.testing.assert_allclose(np.abs(rotation), np.broadcast_to([0.0, 0.0, 5.0], rotation.shape), atol=1e-3)
    forward = cells.neighbour
    np.testing.assert_allclose(rotation[forward[:, 0], 2], -rotation[:, 2], atol=1e-3)
    moved = np.asarray(octahedral_rotation(position + 11.3, box, perovskite_cells(position + 11.3, box, labels)))
    np.testing.assert_allclose(moved, rotation, atol=1e-3)


def test_local_lattice_in_three_dimensions():
    position, box, labels = supercell((2, 1, 2), (3.9, 4.0, 4.2))
    cells = perovskite_cells(position, box, labels)
    vectors = np.asarray(cell_vectors(position, box, cells))
    np.testing.assert_allclose(vectors, np.broadcast_to(np.diag([3.9, 4.0, 4.2]), vectors.shape), atol=1e-5)


def test_gradient_and_one_compilation():
    position, box, labels = supercell((2, 2, 2), shift=0.05 * np.random.default_rng(1).normal(size=(5, 3)))
    charge = np.array([CHARGE[name] for name in labels])
    cells = perovskite_cells(position, box, labels)
    traced = []

    @jax.jit
    def loss(position):
        traced.append(1)
        polarization = cell_polarization(position, box, cells, charge)
        return (polarization**2).sum() + (octahedral_rotation(position, box, cells) ** 2).mean()

    with jax.enable_x64(True):
        at = jnp.asarray(position)
        gradient = np.asarray(jax.grad(loss)(at))
        row, step = (7, 2), 1e-5
        numeric = (float(loss(at.at[row].add(step))) - float(loss(at.at[row].add(-step)))) / (2 * step)
        np.testing.assert_allclose(gradient[row], numeric, rtol=1e-6)
    assert len(traced) == 1


def test_projected_rotation_and_its_error():
    """Two pairs at right angles turned by 4° and sheared: the shear drops out; errors as drawn."""
    turn, shear = np.radians(4.0), 0.03
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    reference = np.eye(2)
    vector = (rotation @ np.array([[1, shear], [shear, 1]]) @ (4.0 * reference)).T
    pair = np.stack([-vector / 2, vector / 2], 1)
    covariance = np.broadcast_to(np.diag([4e-4, 9e-4]), (2, 2, 2, 2))
    angle, variance = projected_rotation(pair, covariance, reference)
    np.testing.assert_allclose(float(angle), 4.0, atol=2e-3)
    noise = np.random.default_rng(0).normal(size=(4000, 2, 2, 2)) * np.sqrt([4e-4, 9e-4])
    drawn, _ = projected_rotation(pair + noise, np.broadcast_to(covariance, (4000, 2, 2, 2, 2)), reference)
    np.testing.assert_allclose(np.asarray(drawn).std(), np.sqrt(float(variance)), rtol=0.05)
    again, _ = projected_rotation(pair[:1] + 9.0, covariance[:1], reference[:1])
    np.testing.assert_allclose(float(again), 4.0 + np.degrees(np.arctan(shear)), atol=0.02)
    slope = jax.grad(lambda p: projected_rotation(p, covariance, reference)[0])(jnp.asarray(pair))
    up, down = (float(projected_rotation(pair + s * np.eye(8)[3].reshape(2, 2, 2), covariance, reference)[0])
                for s in (0.01, -0.01))  # fmt: skip
    np.testing.assert_allclose(float(slope[0, 1, 1]), (up - down) / 0.02, rtol=1e-2)


def test_polarization_covariance_against_draws():
    """C/m²: errors of the displacement and of a response that is off by a common factor."""
    generator = np.random.default_rng(2)
    response = np.array([[2.0, 0.3], [-0.3, 1.5]])
    covariance = np.array([[4e-4, 1e-4], [1e-4, 9e-4]])
    displacement = np.array([0.2, -0.1])
    draws = displacement + generator.multivariate_normal([0, 0], covariance, 200_000)
    factor = 1 + 0.1 * generator.normal(size=(200_000, 1))
    found = polarization_covariance(response, displacement, covariance, 0.1)
    np.testing.assert_allclose(np.asarray(found), np.cov((draws @ response.T * factor).T), rtol=0.02, atol=2e-5)
    plain = np.asarray(polarization_covariance(response, displacement, covariance))
    np.testing.assert_allclose(plain, response @ covariance @ response.T, rtol=1e-5)
