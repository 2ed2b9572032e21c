"""What users pass to the analysis by mistake: meant plainly it is taken, else refused with the remedy, at once."""

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import ferrojax as fj
from ferrojax import Image, InputError, map_polarization, material
from ferrojax.cli import app
from ferrojax.io import write_columns_csv, write_csv, write_map
from ferrojax.report import write_summary

from .lattices import STEP, counted, crystal, painted


@pytest.fixture(scope="module")
def image():
    _, a, b = crystal()
    return Image(counted(painted((a, 1.0, 3.4), (b, 0.35, 3.0))), (STEP, STEP))


@pytest.fixture(scope="module")
def mapped(image):
    return map_polarization(image, "PbTiO3", noise="poisson")


def test_a_name_is_a_crystal_and_poisson_is_a_noise(image, mapped):
    meant = map_polarization(image, material("PbTiO3"), noise=fj.PoissonNoise())
    np.testing.assert_array_equal(mapped.displacement, meant.displacement)
    np.testing.assert_array_equal(mapped.covariance, meant.covariance)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("PbTiO",), {}, "crystal: no such name in the material library.*PbTiO3"),
        (("missing.cif",), {}, "crystal: does not exist"),
        (("PbTiO3",), {"oxigen": True}, "option: is unknown .*oxigen.*did you mean oxygen"),
        (("PbTiO3",), {"xyz": 1}, "option: is unknown .*the options are mode, noise, core, oxygen, progress"),
        (("PbTiO3",), {"noise": "gaussian"}, "noise: is no noise.*GaussianNoise"),
        (("PbTiO3",), {"core": -1}, "core: must be positive"),
        (("PbTiO3",), {"core": "half"}, "core: must be real numbers"),
        (("PbTiO3",), {"oxygen": "no"}, "oxygen: is neither True nor False"),
        (("PbTiO3",), {"mode": "STEM"}, "mode: is no imaging mode"),
        (("PbTiO3",), {"displacement": "Ti-Pb"}, "displacement: does not say what moves"),
        (("PbTiO3", (0, 0, 1), 3), {}, "predictor: is no predictor"),
        (("PbTiO3", (0, 0, 1), 3), {"displacement": "Ti:Pb"}, "predictor: is no predictor|displacement"),
    ],
)
def test_arguments_that_cannot_be_meant(image, arguments, options, message):
    with pytest.raises(InputError, match=message):
        map_polarization(image, *arguments, **options)


def test_values_of_the_wrong_type(tmp_path):
    """In a process of its own: these tests check types before the functions do."""
    script = tmp_path / "mistakes.py"
    script.write_text(
        "import numpy as np, ferrojax as fj\n"
        "data = np.random.default_rng(0).random((64, 64))\n"
        "image = fj.Image(data, (0.2, 0.2))\n"
        "for call in (\n"
        "    lambda: fj.map_polarization(data, 'PbTiO3'),\n"
        "    lambda: fj.find_columns(data),\n"
        "    lambda: fj.map_polarization(image, 3),\n"
        "    lambda: fj.map_polarization(image, 'PbTiO3', mode=3),\n"
        "    lambda: fj.find_columns(image, cor=0.5),\n"
        "):\n"
        "    try:\n"
        "        call()\n"
        "    except fj.InputError as error:\n"
        "        print(error)\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 5, run.stdout
    for line in lines[:2]:
        assert line.startswith("image: is no Image: its pixel size is not known")
        assert "pass Image(data, sampling)" in line
    assert lines[2].startswith("crystal: is no crystal (got 3); pass a Crystal")
    assert lines[3].startswith("mode: is no imaging mode (got 3)")
    assert lines[4].startswith("option: is unknown (got 'cor'); did you mean core?")


def test_writers_make_folders_and_replace_files_whole(tmp_path, mapped, monkeypatch):
    deep = tmp_path / "not" / "yet"
    for name in ("map.h5", "map.hspy", "map.zarr"):
        write_map(deep / name, mapped)
        write_map(deep / name, mapped)
    write_csv(deep / "map.csv", mapped)
    write_columns_csv(deep / "columns.csv", mapped.columns)
    write_summary(deep / "summary.json", {"a": 1})
    names = {path.name for path in deep.iterdir()}
    assert names == {"map.h5", "map.hspy", "map.zarr", "map.csv", "columns.csv", "summary.json"}
    before = {path.name: path.read_bytes() for path in deep.iterdir() if path.is_file()}
    import ferrojax.io.write as module

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_store", full)
    monkeypatch.setattr(module.csv, "writer", full)
    for name, write in (
        ("map.h5", write_map),
        ("map.hspy", write_map),
        ("map.zarr", write_map),
        ("map.csv", write_csv),
    ):
        with pytest.raises(InputError, match="path: cannot be written: No space left on device"):
            write(deep / name, mapped)
    assert {path.name for path in deep.iterdir()} == names
    assert {path.name: path.read_bytes() for path in deep.iterdir() if path.is_file()} == before
    monkeypatch.undo()
    assert fj.io.read_map(deep / "map.zarr").valid.sum() == mapped.valid.sum()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="path: cannot be written"):
        write_csv(tmp_path / "file" / "map.csv", mapped)


@pytest.mark.parametrize("name", ["map.h5", "map.zarr"])
def test_foreign_folders_are_left_alone(tmp_path, mapped, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"path: (exists and is no Zarr store|is a folder)"):
        write_map(tmp_path / name, mapped)
    assert (tmp_path / name / "mine.txt").read_text() == "mine"


def test_the_command_finds_a_foreign_store_before_the_work(tmp_path):
    store = tmp_path / "out" / "map.zarr"
    store.mkdir(parents=True)
    (store / "mine.txt").write_text("mine")
    arguments = ["map", str(tmp_path / "no such image.npz"), "--crystal", "PbTiO3", "--format", "zarr"]
    run = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert run.exit_code != 0
    assert isinstance(run.exception, InputError)  # before the missing image is noticed
    assert "out: is no Zarr store" in str(run.exception)


@pytest.mark.study
def test_names_with_dollars_and_a_crystal_of_other_brightness(tmp_path, image):
    """BaTiO3 mapped as PbTiO3: half as much between A and B as Z^1.7 makes it is said in the report's first lines."""
    path = tmp_path / "a$b_$1^{x.npz"
    np.savez(path, image=np.asarray(image.data), sampling=STEP)
    run = CliRunner().invoke(app, ["map", str(path), "--crystal", "PbTiO3", "--out", str(tmp_path / "o$u{t")])
    assert run.exit_code == 0, run.output
    page = (tmp_path / "o$u{t" / "report.html").read_text()
    assert "<title>a$b_$1^{x" in page
    lead = page[page.index('class="lead"') :].split("</p>")[0]
    assert "Beware: A columns are 3." in lead
    assert "Z^1.7 alone makes it 7.9" in lead
    assert json.loads((tmp_path / "o$u{t" / "summary.json").read_text())["crystal"] == "PbTiO3"


def test_folders_and_links_in_the_way(tmp_path, mapped, monkeypatch):
    """A file never takes the place of a folder, and an empty path is no path."""
    keep = tmp_path / "results"
    keep.mkdir()
    (keep / "precious.txt").write_text("mine")
    for write in (lambda path: write_summary(path, {}), lambda path: write_csv(path, mapped)):
        with pytest.raises(InputError, match="path: is a folder"):
            write(keep)
    assert (keep / "precious.txt").read_text() == "mine"
    monkeypatch.chdir(keep)
    with pytest.raises(InputError, match="path: is empty"):
        write_summary("", {})
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_summary(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text()) == {"a": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "real.json", "results"]


def test_a_store_that_cannot_take_its_place_leaves_the_old_one(tmp_path, mapped):
    from ferrojax.files import replacing

    write_map(tmp_path / "map.zarr", mapped)
    with pytest.raises(InputError, match="path: "), replacing(tmp_path / "map.zarr"):
        pass  # writes nothing
    assert [path.name for path in tmp_path.iterdir()] == ["map.zarr"]
    assert fj.io.read_map(tmp_path / "map.zarr").valid.sum() == mapped.valid.sum()
