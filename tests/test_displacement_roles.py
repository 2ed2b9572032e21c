"""Displacement of any sublattice against its neighbours, cells with several columns, and octahedral rotation."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import ferrojax as fj
from ferrojax import Crystal, Image, map_polarization, material
from ferrojax.cli import app
from ferrojax.crystal import projected_motif
from ferrojax.crystal.roles import displacement_roles
from ferrojax.polarization import map_with_model, octahedral_rotation_map

from .lattices import SHIFT, STEP, counted, crystal, errors_pm, painted

SHAPE = (300, 320)
WURTZITE_U = 0.3821


def wurtzite(u=WURTZITE_U):
    third, two = 1 / 3, 2 / 3
    position = [[third, two, 0], [two, third, 0.5], [third, two, u], [two, third, u + 0.5]]
    a, c = 3.23, 4.99
    cell = [[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]]
    return Crystal(cell, position, (13, 13, 7, 7), ("A", "A", "O", "O"), name="AlN")


def hexagonal_close_packed():
    a, c = 3.21, 5.21
    cell = [[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]]
    return Crystal(cell, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], (12, 12), ("A", "A"), name="Mg")


def drawn(motif, step, moved, shape=SHAPE):
    """Places (px) of every column of the motif in and round the image, each moved by its own (x, y) Å."""
    reach = int(max(shape) * step / np.linalg.norm(motif.lattice, axis=1).min()) + 4
    index = np.stack(np.meshgrid(*[np.arange(-reach, reach)] * 2), -1).reshape(-1, 2)
    places = []
    for k, offset in enumerate(motif.offset):
        place = (index @ motif.lattice + offset + moved[k]) / step + 5.0
        places.append(place[((place > -30) & (place < np.array(shape[::-1]) + 30)).all(1)])
    return places


@pytest.mark.study
def test_cations_against_anions_of_wurtzite():
    """AlN [11-20] in ABF: Al moved by 8 pm against N in every column shows as that, on top of the cell's own."""
    found = wurtzite()
    motif = projected_motif(found, (1, 1, 0))
    assert motif.displacement == "A:O"
    assert len(motif.moving) == 2
    step, moved = 0.1, np.array([[0.03, 0.08], [0.03, 0.08], [0, 0], [0, 0]])
    aluminium, other, *nitrogen = drawn(motif, step, moved)
    groups = [(np.concatenate([aluminium, other]), 0.5, 3.6), *((place, 0.25, 3.2) for place in nitrogen)]
    image = 1 - painted(*groups, ground=0.0)
    pmap = map_polarization(Image(counted(np.clip(image, 0.02, None)), (step, step)), found, (1, 1, 0), mode="ABF")
    own = motif.ideal_displacement[list(motif.moving)].mean(0)
    valid = np.asarray(pmap.valid)
    seen = np.asarray(pmap.displacement, float)[valid]
    # The lattice may be found turned by half a turn: the polarity goes with it.
    turn = np.asarray(pmap.calibration.rotation, float)
    np.testing.assert_allclose(seen.mean(0), turn @ (own + turn.T @ [0.03, 0.08]), atol=3e-3)
    assert pmap.polarization is None
    assert dict(pmap.provenance)["displacement"] == "A:O"
    sigma = np.sqrt(np.asarray(pmap.covariance, float)[valid][:, [0, 1], [0, 1]])
    z = (seen - seen.mean(0)) / sigma
    assert 0.75 < np.sqrt((z**2).mean()) < 1.25


@pytest.mark.study
def test_one_sublattice_of_a_metal_against_the_other():
    """HCP [11-20]: one of two equal columns off by 10 pm against the centroid of the six sites round it."""
    found = hexagonal_close_packed()
    with pytest.raises(fj.InputError, match=r"displacement: Mg has no site B.*Mg \(A\).*Fe:Bi"):
        map_polarization(Image(np.ones((64, 64)) + np.eye(64), (0.2, 0.2)), found, (1, 1, 0))
    motif = projected_motif(found, (1, 1, 0), displacement="Mg2:Mg1")
    assert len(motif.moving) == 1
    np.testing.assert_allclose(motif.shell.weight.sum(), 1)
    np.testing.assert_allclose(motif.ideal_displacement[motif.moving[0]], 0, atol=1e-5)
    step, moved = 0.12, np.zeros((2, 2))
    moved[motif.moving[0]] = [0.06, -0.08]
    first, second = drawn(motif, step, moved)
    image = painted((first, 1.0, 4.0), (second, 1.0, 4.0))
    pmap = map_polarization(Image(counted(image), (step, step)), found, (1, 1, 0), displacement="Mg2:Mg1")
    seen = np.asarray(pmap.displacement, float)[np.asarray(pmap.valid)]
    # Two equal columns: which is called the second is open, and so is the sign.
    np.testing.assert_allclose(np.abs(seen.mean(0)), [0.06, 0.08], atol=3e-3)


@pytest.mark.study
def test_elements_name_the_same_as_labels():
    index, a, b = crystal()
    del index
    image = Image(counted(painted((a, 1.0, 3.4), (b, 0.35, 3.0))), (STEP, STEP))
    by_label, by_name = (map_polarization(image, material("PbTiO3"), displacement=d) for d in (None, "Ti:Pb"))
    np.testing.assert_array_equal(by_label.displacement, by_name.displacement)
    assert by_label.polarization is not None
    assert by_name.polarization is None
    swapped = map_polarization(image, material("PbTiO3"), displacement="Pb:Ti")
    mean = [np.nanmean(np.asarray(m.displacement, float), (0, 1)) for m in (by_label, swapped)]
    np.testing.assert_allclose(mean[1], -mean[0], atol=2e-3)
    np.testing.assert_allclose(mean[0], STEP * SHIFT, atol=2e-3)
    assert np.abs(errors_pm(by_label, a, b).mean(0)).max() < 0.3


@pytest.mark.study
def test_a_rhombohedral_crystal_along_the_pseudocubic_110():
    """The crystal has two Bi and two Fe columns a cell, which repeat in half of it: every Fe column is a cell."""
    found = material("BiFeO3_R3c")
    motif = projected_motif(found, (-1, -2, 1))
    assert "".join(motif.label) == "ABO"
    assert motif.alike == 2
    step = 0.14
    places = drawn(motif, step, np.zeros((len(motif.label), 2)))
    heights = {"A": 1.0, "B": 0.35}
    groups = [(place, heights[name], 4.5) for place, name in zip(places, motif.label, strict=True) if name in heights]
    pmap = map_polarization(Image(counted(painted(*groups)), (step, step)), found, (-1, -2, 1))
    own = motif.ideal_displacement[motif.moving[0]]
    assert int(np.asarray(pmap.valid).sum()) > 100
    seen = np.nanmean(np.asarray(pmap.displacement, float), (0, 1))
    np.testing.assert_allclose(seen, np.asarray(pmap.calibration.rotation, float) @ own, atol=5e-3)
    assert pmap.polarization is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Ti", "does not say what moves against what"),
        ("Ti:", "does not say what moves against what"),
        ("Ti:Sr", r"names Sr, which PbTiO3 does not have .*use Pb \(1 sites\)"),
        ("O4:Ti", "names O4"),
        ("Ti:Ti", "names the same sites twice"),
    ],
)
def test_displacements_that_name_nothing(text, problem):
    with pytest.raises(fj.InputError, match=problem):
        displacement_roles(material("PbTiO3"), text)


def test_sites_by_number_and_several_neighbours():
    found = displacement_roles(material("PbTiO3"), "Ti:O1+O3")
    assert found.moving.sum() == 1
    assert found.around.tolist() == [False, False, True, False, True]
    _, a, b = crystal()
    image = Image(counted(painted((a, 1.0, 3.4), (b, 0.35, 3.0))), (STEP, STEP))
    with pytest.raises(fj.InputError, match="0 cells with all columns of Ti:O"):
        map_polarization(image, material("PbTiO3"), displacement="Ti:O")


# Octahedra


def turned_octahedra(angle, alternate=True, noise=0.0, counts=2000):
    """ABF of SrTiO3 [001] with octahedra turned in the plane by `angle` degrees, clockwise on the screen."""
    step, cell = 0.0976, 3.905 / 0.0976
    index = np.stack(np.meshgrid(np.arange(-2, 12), np.arange(-2, 12)), -1).reshape(-1, 2)
    a = cell * index + 6.0
    sign = (-1.0) ** index.sum(1) if alternate else np.ones(len(index))
    off = 0.5 * cell * np.tan(np.radians(angle)) * sign
    off = off + noise / step * np.random.default_rng(1).normal(size=off.shape)
    b = a + cell / 2
    right, down = (b + np.array(step) * 0.5 * cell for step in ((1, 0), (0, 1)))
    # Clockwise with y down: the right-hand oxygen goes down, the lower one to the left.
    right, down = right + np.stack([0 * off, off], -1), down + np.stack([-off, 0 * off], -1)
    dark = painted((a, 0.5, 5.0), (b, 0.4, 4.5), (np.concatenate([right, down]), 0.2, 4.0), ground=0.0)
    image = np.random.default_rng(0).poisson(counts * np.clip(1 - dark, 0.05, None)).astype(float)
    return Image(image, (step, step))


@pytest.fixture(scope="module")
def turned():
    image = turned_octahedra(5.0)
    return map_with_model(image, material("SrTiO3"))[0]


def test_rotation_of_octahedra(turned):
    motif = projected_motif(material("SrTiO3"))
    found = octahedral_rotation_map(turned, motif)
    assert found is not None
    assert found.amplitude == pytest.approx(5.0, abs=max(3 * found.amplitude_error, 0.1))
    assert found.alternates == (True, True)
    # B of cell (i, j): clockwise where i + j is even in the drawing, whose cell (0, 0) is at px 6.
    at = np.asarray(turned.position_px, float)
    drawn_index = np.round((at - 6.0 - 20.0) / (3.905 / 0.0976))
    expected = 5.0 * (-1.0) ** drawn_index.sum(-1)
    known = np.isfinite(found.angle)
    assert known.sum() >= 12
    z = (found.angle - expected)[known] / found.error[known]
    assert np.sqrt((z**2).mean()) < 1.5


def test_octahedra_that_do_not_turn_have_no_rotation():
    """Noise moves an oxygen shared by two octahedra, which turns them against each other: that is no rotation."""
    pmap = map_with_model(turned_octahedra(0.0, noise=0.05), material("SrTiO3"))[0]
    found = octahedral_rotation_map(pmap, projected_motif(material("SrTiO3")))
    assert found is not None
    assert found.amplitude == 0
    assert found.alternates is None


@pytest.mark.study
def test_the_command_tells_octahedra_and_takes_displacements(tmp_path, turned):
    del turned  # the programs are compiled
    image = turned_octahedra(5.0)
    np.savez(tmp_path / "abf.npz", image=np.asarray(image.data), sampling=float(image.sampling[0]))
    out = tmp_path / "out"
    run = CliRunner().invoke(
        app, ["map", str(tmp_path / "abf.npz"), "--crystal", "SrTiO3", "--displacement", "Ti:O", "--out", str(out)]
    )
    assert run.exit_code == 0, run.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["octahedral_rotation"]["amplitude_degrees"] == pytest.approx(5.0, abs=0.2)
    assert summary["displacement"] == "Ti:O"
    page = (out / "report.html").read_text()
    assert "Rotation of the octahedra" in page
    assert "Displacement of the Ti columns of SrTiO3 against their O neighbours" in page


def test_labels_of_a_structure_file_on_the_command_line():
    from ferrojax.cli.options import parse_labels

    assert parse_labels(None) is None
    assert parse_labels("Pb=A, Ti=B,O=o") == {"Pb": "A", "Ti": "B", "O": "O"}
    with pytest.raises(fj.InputError, match="labels: does not label elements"):
        parse_labels("Pb=X")


def supercell(count: int, wave: float, moved=()):
    """PbTiO3 with a wave of the oxygen (Å) over `count` cells along x; moved: Å along y, of the Pb."""
    one = material("PbTiO3")
    a = float(one.cell[0, 0])
    position, number, label = [], [], []
    for cell in range(count):
        for place, z, name in zip(np.asarray(one.position, float), one.number, one.label, strict=True):
            shift = wave * np.cos(2 * np.pi * cell / count) if name == "O" else 0.0
            shift += moved[cell] if moved and name == "A" else 0.0
            position.append([(place[0] + cell) / count, place[1] + shift / a, place[2]])
            number.append(int(z))
            label.append(name)
    return Crystal(np.diag([count * a, a, a]), position, tuple(number), tuple(label))


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_oxygen_alone_makes_no_larger_cell(count):
    """As many columns as in one cell, however many cells the wave of the oxygen has."""
    motif = projected_motif(supercell(count, 0.2))
    assert "".join(motif.label) == "ABOO"
    assert motif.alike == count
    np.testing.assert_allclose(motif.lattice, 3.97 * np.eye(2), atol=1e-4)
    np.testing.assert_allclose(motif.strength, projected_motif(material("PbTiO3")).strength, rtol=1e-5)


def test_what_differs_stays_a_larger_cell():
    """A modulation whose parts are alike by pairs only, sites named by number, and cells of several A columns."""
    small = projected_motif(supercell(4, 0.2, moved=(0, 0.02, 0.03, 0.02)))
    assert "".join(small.label) == "AAAABBBBOOOOOOOO"
    for text in ("Pb1:Pb2", "Ti1:Ti2", "Ti1:Pb2"):
        named = projected_motif(supercell(2, 0.2), displacement=text)
        assert "".join(named.label) == "AABBOOOO"
        assert set(named.shell.column.tolist()).isdisjoint(named.moving)
    assert projected_motif(material("Cu3B7O13Cl"), (1, 0, 0)).alike == 1
    assert projected_motif(material("K0.5Na0.5NbO3"), displacement="K:Na").moving == ()
    assert projected_motif(material("PbTiO3"), displacement=" B : A ").displacement == "B:A"


@pytest.mark.parametrize("along", [0, 1])
def test_octahedra_with_one_diagonal_in_the_plane(along):
    """As along [110]: neighbours share an oxygen along one vector only; noise of twice the rotation misleads no one."""
    from ferrojax.polarization.rotation import _alternation

    rng = np.random.default_rng(along)
    y, x = np.indices((60, 60))
    off = rng.normal(size=(61, 61))
    shared = (off[:60, :60] - (off[:60, 1:] if along == 0 else off[1:, :60])) / np.sqrt(2)
    step = np.array([[1, 0]]) if along == 0 else np.array([[0, 1]])
    for sign, expected in (
        ((-1.0) ** (x + y), (True, True)),
        ((-1.0) ** y, (False, True)),
        ((-1.0) ** x, (True, False)),
    ):
        amplitude, error, alternates = _alternation(sign + 2 * shared, np.full((60, 60), 4.0), step)
        assert alternates == expected
        assert abs(amplitude - 1) < 4 * error


@pytest.mark.study
def test_sites_by_number_are_found_in_the_cell_that_tells_them_apart():
    """Pb1 and Pb2 of a doubled cell look alike: the image cannot say which is which, and the map does not guess."""
    doubled = supercell(2, 0.2)
    _, a, b = crystal()
    image = Image(counted(painted((a, 1.0, 3.4), (b, 0.35, 3.0))), (STEP, STEP))
    with pytest.raises(fj.InputError, match="shows columns that could be A as well as B"):
        map_polarization(image, doubled, displacement="Pb1:Pb2")
    with pytest.raises(fj.InputError, match="oxygen: is drawn where B moves against A"):
        map_polarization(image, doubled, displacement="Pb1:Pb2", oxygen=True)
    assert map_polarization(image, doubled).valid.sum() > 100
