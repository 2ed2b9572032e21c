"""`ferrojax validate`: agreement on this machine, exit code 1 without it, bad input in one line."""

import json

import ase
import ase.io
import equinox as eqx
import numpy as np
import pytest

from ferrojax.cli import main
from ferrojax.crystal import Atoms
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.interop import agreement
from ferrojax.multislice import plan_slices

QUICK = ["--thickness", "8", "--sampling", "0.1", "--semiangle", "10"]


@pytest.fixture
def structure(tmp_path):
    """A small orthogonal cell with atoms off the pixels and on a slice edge."""
    path = tmp_path / "cell.xyz"
    ase.io.write(path, ase.Atoms("TiO2", [[0.013, 0, 0], [1.52, 1.47, 2], [0, 1.5, 2]], cell=[3, 3.2, 4], pbc=True))
    return str(path)


def test_the_engines_agree_on_a_users_structure(structure, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["validate", structure, *QUICK, "--tilt", "5", "-3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "within bounds" in printed
    assert "HAADF" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert summary["agreed"] is True
    found = summary["differences"]
    assert set(found) == {"exit wave", "CBED", "HAADF", "ABF", "BF"}
    assert all(entry["relative_difference"] <= entry["bound"] for entry in found.values())
    assert found["exit wave"]["conventional_from_abtem"] > 1e-4  # the pixel factor: another potential is noticed
    assert summary["largest_move_onto_grid_A"] > 0


def test_a_disagreement_ends_in_exit_code_1(structure, monkeypatch, tmp_path, capsys):
    """The reference is given x and y exchanged: what an axis mix-up would look like."""
    honest = agreement.with_abtem

    def exchanged(experiment):
        position = experiment.atoms.position[:, np.array([1, 0, 2])]
        return honest(eqx.tree_at(lambda e: e.atoms.position, experiment, position))

    monkeypatch.setattr(agreement, "with_abtem", exchanged)
    assert main(["validate", structure, *QUICK, "--out", str(tmp_path / "out")]) == 1
    assert "OUT OF BOUNDS" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["agreed"] is False


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["absent.cif"], "structure: cannot be read"),
        (["--material", "Unobtainium"], "crystal"),
        (["--energy", "-1"], "energy"),
        (["--energy", "nan"], "energy"),
        (["--semiangle", "0"], "semiangle"),
        (["--semiangle", "90"], "sampling"),
        (["--thickness", "0"], "thickness"),
        (["--thickness", "nan"], "thickness"),
        (["--tilt", "nan", "0"], "tilt"),
        (["--sampling", "0"], "sampling"),
        (["--sampling", "0.002"], "sampling"),
        (["--sampling", "nan"], "sampling"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, match, capsys):
    assert main(["validate", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert match in error


def test_a_skewed_cell_and_a_text_file_are_refused(tmp_path, capsys):
    skewed, words = tmp_path / "skewed.xyz", tmp_path / "words.cif"
    ase.io.write(skewed, ase.Atoms("Si", cell=[[3, 0, 0], [1, 3, 0], [0, 0, 4]], pbc=True))
    words.write_text("no structure\n")
    for path, match in ((skewed, "not orthogonal"), (words, "structure")):
        assert main(["validate", str(path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert match in error


def test_snapped_atoms_lie_on_pixels_and_clear_of_slice_edges():
    grid = Grid((40, 50), (4 / 40, 5 / 50))
    atoms = Atoms([[4.99, 0.02, 0], [1.234, 3.33, 2], [2.5, 2, 3.0]], [8, 22, 8], (5, 4, 6))
    moved, largest = agreement.snapped(atoms, grid, 2.0)
    pixels = np.asarray(moved.position[:, :2]) / 0.1
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-4)
    assert largest == pytest.approx(0.034, abs=1e-4)
    assert (np.asarray(moved.position) >= 0).all()
    assert (np.asarray(moved.position) < atoms.box).all()
    phase = np.mod(np.asarray(moved.position[:, 2]), 2.0)
    assert np.minimum(phase, 2 - phase).min() == pytest.approx(0.5, abs=1e-3)
    assert float(np.asarray(plan_slices(moved, 2.0).present).sum()) == 3


def test_two_atoms_on_one_pixel_are_refused():
    atoms = Atoms([[1.0, 1.0, 1.0], [1.01, 1.0, 1.0]], [8, 8], (4, 4, 4))
    with pytest.raises(InputError, match="two atoms on one place"):
        agreement.snapped(atoms, Grid((40, 40), (0.1, 0.1)), 2.0)


def test_patterns_of_different_size_are_compared_round_the_zero_frequency():
    wide = np.arange(42.0).reshape(6, 7)
    narrow = wide[1:6, 1:5]  # 6 // 2 − 5 // 2 = 1, 7 // 2 − 4 // 2 = 1
    found = agreement.relative_differences({"CBED": wide}, {"CBED": narrow})
    assert found["CBED"] == 0
    assert agreement.relative_differences({"HAADF": 1.5 * narrow}, {"HAADF": narrow})["HAADF"] == pytest.approx(0.5)
    wave = np.array([[1 + 1j, 2.0], [0.5j, 1.0]])
    turned = agreement.relative_differences({"exit wave": wave * np.exp(0.7j)}, {"exit wave": wave})
    assert turned["exit wave"] < 1e-12
