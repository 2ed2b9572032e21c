"""`ferrojax validate`: agreement on this machine, exit code 1 without it, bad input in one line."""

import importlib
import json
import os
import re
import signal
from pathlib import Path

import ase
import ase.io
import equinox as eqx
import jax
import numpy as np
import pytest

from ferrojax.cli import main
from ferrojax.crystal import Atoms
from ferrojax.interop import agreement
from ferrojax.multislice import plan_slices

pytestmark = pytest.mark.filterwarnings("ignore:detector. .* ends close to the grid's band limit:UserWarning")
"""Small grids: what is compared here is not how bright a ring is."""

command = importlib.import_module("ferrojax.cli.validate")  # the room's name of it is the function
QUICK = ["--thickness", "8", "--sampling", "0.1", "--semiangle", "10"]


@pytest.fixture
def structure(tmp_path):
    """A small orthogonal cell with atoms off the pixels and on a slice edge."""
    path = tmp_path / "cell.xyz"
    ase.io.write(path, ase.Atoms("TiO2", [[0.013, 0, 0], [1.52, 1.47, 2], [0, 1.5, 2]], cell=[3, 3.2, 4], pbc=True))
    return str(path)


@pytest.mark.study
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
    assert found["exit wave"]["conventional_from_abtem"] > 1e-4  # the pixels: another potential is noticed
    assert summary["occupancy_seed"] is None
    pixels = summary["abtem_pixels"]
    assert pixels["HAADF_relative_difference"] == pytest.approx(found["HAADF"]["conventional_from_abtem"], rel=0.2)
    assert abs(pixels["HAADF_mean_change"]) > 1e-3
    assert f"{pixels['HAADF_relative_difference']:.1e} (relative L2" in printed
    assert "no part of the verdict" in printed


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
        (["--energy", "200"], "energy"),
        (["--semiangle", "0"], "semiangle"),
        (["--semiangle", "nan"], "semiangle"),
        (["--semiangle", "0.0214"], "semiangle"),
        (["--semiangle", "5"], "semiangle"),
        (["--semiangle", "90"], "sampling"),
        (["--thickness", "0"], "thickness"),
        (["--thickness", "nan"], "thickness"),
        (["--tilt", "nan", "0"], "tilt"),
        (["--sampling", "0"], "sampling"),
        (["--sampling", "0.002"], "sampling"),
        (["--sampling", "1e-9"], "sampling"),
        (["--sampling", "4"], "sampling"),
        (["--sampling", "nan"], "sampling"),
        (["--material", "BiFeO3_R3c"], "oriented_supercell"),
        (["-"], "structure: cannot be read: no such file"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, match, capsys):
    assert main(["validate", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert match in error


def no_specimens() -> dict[str, tuple[ase.Atoms, str]]:
    """Structures that cannot be compared, and what is said of them."""
    tall = ase.Atoms("Si", cell=[3, 3, 1500], pbc=True)
    double = ase.Atoms("Si2", [[0, 0, 0], [0, 0, 0.1]], cell=[3, 3, 4], pbc=True)
    lost = ase.Atoms("Si", [[0, 0, np.nan]], cell=[3, 3, 4], pbc=True)
    return {
        "skewed": (
            ase.Atoms("Si", cell=[[3, 0, 0], [1, 3, 0], [0, 0, 4]], pbc=True),
            "use ferrojax.oriented_supercell",
        ),
        "no cell": (ase.Atoms("Si"), "box: needs three positive lengths"),
        "too thick": (tall, "structure: is too thick"),
        "twice": (double, "overlap"),
        "NaN": (lost, "position: must be finite"),
        "unknown element": (ase.Atoms("X", cell=[3, 3, 4], pbc=True), "number: is no atomic number"),
        "empty": (ase.Atoms(cell=[3, 3, 4], pbc=True), "structure"),
    }


@pytest.mark.parametrize("name", no_specimens())
def test_a_structure_that_cannot_be_compared_is_refused_in_one_line(name, tmp_path, capsys):
    atoms, match = no_specimens()[name]
    path = tmp_path / "cell.xyz"
    ase.io.write(path, atoms)
    assert main(["validate", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert match in error
    assert not (tmp_path / "out").exists()


def test_unreadable_files_are_refused(tmp_path, capsys):
    (tmp_path / "words.cif").write_text("no structure\n")
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "bytes.cif").write_bytes(bytes(range(256)))
    for path in (*tmp_path.iterdir(), tmp_path):
        assert main(["validate", str(path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "structure" in error


def test_atoms_keep_their_places_but_on_slice_edges():
    atoms = Atoms([[4.99, 0.02, 0], [1.234, 3.33, 2], [2.5, 2, 3.0], [1, 1, -0.3]], [8, 22, 8, 8], (5, 4, 6))
    moved = agreement.clear_of_slice_edges(atoms, 2.0)
    np.testing.assert_array_equal(moved.position[:, :2], atoms.position[:, :2])
    np.testing.assert_allclose(moved.position[:, 2], [0.2, 2.2, 3.0, 0.2], atol=1e-5)
    for before, after in zip(*(jax.tree.leaves(plan_slices(a, 2.0)) for a in (atoms, moved)), strict=True):
        np.testing.assert_array_equal(before, after)


def test_shared_and_partly_occupied_sites_are_drawn_for_both_engines(tmp_path, monkeypatch, capsys):
    """Na and K of one site, and an oxygen that is there half of the time: whole atoms, as the seed draws them."""
    path, seen = tmp_path / "shared.cif", []
    cell = ase.Atoms("NaNbO", [[0, 0, 0], [1.5, 1.6, 2], [0, 1.6, 2]], cell=[3, 3.2, 4], pbc=True)
    cell.info["occupancy"] = {"0": {"Na": 0.5, "K": 0.5}, "1": {"Nb": 1.0}, "2": {"O": 0.5}}
    cell.set_array("spacegroup_kinds", np.arange(3))
    ase.io.write(path, cell)

    def watched(experiment, *_):
        seen.append(experiment.atoms)
        return {name: np.ones((2, 2)) for name in ("exit wave", "CBED", *experiment.detectors)}

    monkeypatch.setattr(agreement, "with_abtem", watched)
    monkeypatch.setattr(agreement, "with_ferrojax", watched)
    assert main(["validate", str(path), *QUICK, "--thickness", "40", "--out", str(tmp_path / "out")]) == 0
    assert "drawn once (draw_occupancy, seed 0)" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["occupancy_seed"] == 0
    atoms, *others = seen
    assert len(others) == 3
    assert all(other is atoms for other in others)
    counts = {z: atoms.number.count(z) for z in set(atoms.number)}
    assert counts[11] + counts[19] == counts[41] == 10
    assert 0 < counts[11] < 10
    assert 0 < counts[8] < 10
    assert (np.asarray(atoms.occupancy) == 1).all()


def test_a_material_with_a_shared_site_is_compared():
    atoms, drawn = command.whole(command.specimen(None, "K0.5Na0.5NbO3", 8.0))
    assert drawn
    assert len(atoms.number) == 5 * round(atoms.box[2] / 4.015)


def test_stopped_it_leaves_nothing_half_written(structure, tmp_path, monkeypatch):
    def stopped(experiment):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(agreement, "with_abtem", stopped)
    assert main(["validate", structure, *QUICK, "--out", str(tmp_path / "out")]) == 143
    assert not (tmp_path / "out").exists()


def test_patterns_of_different_size_are_compared_round_the_zero_frequency():
    wide = np.arange(42.0).reshape(6, 7)
    narrow = wide[1:6, 1:5]  # 6 // 2 − 5 // 2 = 1, 7 // 2 − 4 // 2 = 1
    found = agreement.relative_differences({"CBED": wide}, {"CBED": narrow})
    assert found["CBED"] == 0
    assert agreement.relative_differences({"HAADF": 1.5 * narrow}, {"HAADF": narrow})["HAADF"] == pytest.approx(0.5)
    wave = np.array([[1 + 1j, 2.0], [0.5j, 1.0]])
    turned = agreement.relative_differences({"exit wave": wave * np.exp(0.7j)}, {"exit wave": wave})
    assert turned["exit wave"] < 1e-12


@pytest.mark.study
def test_the_page_on_abtem_says_what_runs(tmp_path, monkeypatch):
    """Every block of docs/abtem.md, in order, in one folder."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "abtem.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|console)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "python", "console", "python"]
    names: dict[str, object] = {}
    for language, text in blocks:
        if language == "python":
            exec(compile(text, "docs/abtem.md", "exec"), names)
        else:
            assert main(text.split()[1:]) == 0
            assert json.loads(Path("check/summary.json").read_text())["agreed"] is True
