"""The command line: bad input ends in one line, exit code 2 and an untouched disk; a good one in files."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr
from rich.console import Console

from ferrojax import InputError
from ferrojax.cli import main
from ferrojax.cli.map import MapSettings, progress_display, read_image
from ferrojax.cli.options import load_crystal, parse_drift, parse_sampling, parse_signal, parse_zone
from ferrojax.cli.output import prepared_output

RESULTS = {"report.html", "map.png", "map.hspy", "map.csv", "columns.csv", "summary.json"}


def lattice_image(cells: int = 9, pixels: int = 16) -> np.ndarray:
    """A perovskite along [001]: bright A at the corners, dim B half a pixel off the centres, some noise."""
    axis = np.arange(cells * pixels)
    x, y = np.meshgrid(axis, axis)
    image = np.zeros(x.shape)
    for site, height, shift in (((0.5, 0.5), 1.0, 0.0), ((1.0, 1.0), 0.4, 0.5)):
        for i, j in np.ndindex(cells, cells):
            cx, cy = (i + site[0]) * pixels + shift, (j + site[1]) * pixels
            image += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.3**2))
    return image + 0.01 * np.random.default_rng(0).normal(size=image.shape)


@pytest.fixture(scope="module")
def image_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "lattice.npz"
    np.savez(path, image=lattice_image().astype(np.float32), sampling=np.array([0.25, 0.25]))
    return path


def bad_file(folder, name):
    """A file that is no usable image; returns its path."""
    path = folder / name
    if name == "text.tif":
        path.write_text("not an image")
    elif name == "constant.npz":
        np.savez(path, image=np.ones((64, 64), np.float32), sampling=0.2)
    elif name == "nan.npz":
        np.savez(path, image=np.full((64, 64), np.nan, np.float32), sampling=0.2)
    elif name == "uncalibrated.npz":
        np.savez(path, image=lattice_image().astype(np.float32))
    elif name == "few.npz":
        np.savez(path, image=lattice_image(cells=2).astype(np.float32), sampling=0.25)
    return path


def refused(capsys, arguments) -> str:
    """Run the command and return its only line on stderr."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    return err


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.tif", "missing.tif"),
        ("text.tif", "text.tif"),
        ("constant.npz", "constant"),
        ("nan.npz", "finite"),
        ("uncalibrated.npz", "sampling"),
        ("few.npz", "columns"),
    ],
)
def test_bad_image(tmp_path, capsys, name, says):
    path = bad_file(tmp_path, name)
    before = sorted(tmp_path.iterdir())
    line = refused(capsys, ["map", path, "--crystal", "BaTiO3", "--out", tmp_path / "new" / "out"])
    assert says in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--crystal", "Unobtainium"),
        ("--zone", "0x1"),
        ("--zone", "000"),
        ("--zone", "0,1"),
        ("--sampling", "-1"),
        ("--sampling", "0.2,0.2,0.2"),
        ("--out", ""),
    ],
)
def test_bad_option(tmp_path, capsys, image_file, option, value):
    options = {"--crystal": "BaTiO3", "--out": tmp_path / "out"} | {option: value}
    line = refused(capsys, ["map", image_file, *(word for pair in options.items() for word in pair)])
    assert line.startswith(f"error: {option[2:]}: ")
    assert repr(value) in line
    assert not list(tmp_path.iterdir())


def test_zone_that_does_not_fit(tmp_path, capsys, image_file):
    line = refused(capsys, ["map", image_file, "--crystal", "BaTiO3", "--zone", "110", "--out", tmp_path / "out"])
    assert line.startswith("error: zone axis: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["taken", "taken/below"])
def test_file_in_the_way(tmp_path, capsys, image_file, out):
    (tmp_path / "taken").write_text("mine")
    line = refused(capsys, ["map", image_file, "--crystal", "BaTiO3", "--out", tmp_path / out])
    assert line.startswith("error: out: ")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["map"], "IMAGE"),
        (["map", "x.tif"], "--crystal"),
        (["no-such-command"], "no-such-command"),
        (["map", "x.tif", "--crystal", "BaTiO3", "--seed", "many"], "--seed"),
        (["map", "x.tif", "--crystal", "BaTiO3", "--nope"], "--nope"),
        (["map", "x.tif", "--crystal", "BaTiO3", "--mode", "BF"], "mode: is unknown (got 'BF')"),
        (["map", "x.tif", "--crystal", "BaTiO3", "--format", "txt"], "format: is unknown (got 'txt')"),
        (["map", "x.tif", "--crystal", "missing.cif"], "crystal: does not exist (got 'missing.cif')"),
    ],
)
def test_usage_errors_are_one_line(capsys, monkeypatch, tmp_path, words, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, words)
    assert not list(tmp_path.iterdir())


def test_no_words_show_the_help(capsys):
    assert main([]) == 0
    assert "map" in capsys.readouterr().out


def test_map_writes_everything(tmp_path, capsys, image_file):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("stays")
    (out / "summary.json").write_text("replaced")
    assert main(["map", str(image_file), "--crystal", "BaTiO3", "--zone", "0,0,1", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == RESULTS | {"mine.txt"}
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["cells"] >= 30
    assert summary["mean_pm"][0] == pytest.approx(100 * 0.25 * 0.5, abs=4)  # half a pixel along +x
    assert summary["mean_pm"][1] == pytest.approx(0, abs=4)
    assert summary["versions"].keys() >= {"jax", "ferrojax", "python"}
    assert summary["mode_found"] == "HAADF"
    assert summary["columns"]["accepted"] > 100
    assert summary["response"]["kind"] == "born"
    page = (out / "report.html").read_text(encoding="utf-8")
    shown = f"{summary['columns']['accepted']} columns are accepted"
    assert all(words in page for words in (shown, "0 refused", "Distortion of the scan", "Inferred"))
    printed = capsys.readouterr().out
    assert "pixel size on the lattice" in printed
    assert "pm" in printed


def settings(path, **changes) -> MapSettings:
    blank = MapSettings(str(path), "BaTiO3", (0, 0, 1), None, None, False, None, False, (0.0, 0.0), False)
    return dataclasses.replace(blank, **changes)


def test_series_are_aligned_and_averaged(tmp_path):
    """Four frames of one area, each moved by whole pixels, with noise of their own."""
    still = lattice_image(cells=7)
    generator = np.random.default_rng(1)
    moved = [np.roll(still, (k, -k), (0, 1)) + 0.1 * generator.normal(size=still.shape) for k in range(4)]
    np.savez(tmp_path / "series.npz", image=np.array(moved, np.float32), sampling=0.25)
    image, alignment = read_image(settings(tmp_path / "series.npz", frames=True))
    assert alignment is not None
    np.testing.assert_allclose(np.asarray(alignment.shift), [(-k, k) for k in range(4)], atol=0.1)
    assert image.data.ndim == 2
    np.testing.assert_allclose(alignment.drift, (-1.0, 1.0), atol=0.1)
    assert abs(alignment.largest_step - np.sqrt(2)) < 0.1
    guessed = read_image(settings(tmp_path / "series.npz", frames=True, drift=(14.0, 1.0)))[1]
    assert guessed is not None
    assert abs(guessed.drift[0] - 15.0) < 2.0  # a whole period further on, as asked
    with pytest.raises(InputError, match="--frames"):
        read_image(settings(tmp_path / "series.npz"))


@pytest.mark.parametrize(("text", "frames"), [("1", True), ("a,b", True), ("nan,1", True), ("1,2", False)])
def test_drifts_that_mean_nothing(text, frames):
    with pytest.raises(InputError, match="drift"):
        parse_drift(text, frames)
    assert parse_drift("14,-2", frames=True) == (14.0, -2.0)


def test_signals_are_chosen_by_name_or_number(tmp_path):
    bright = lattice_image(cells=4).astype(np.float32)
    np.savez(tmp_path / "two.npz", adf=bright, abf=1 - bright, sampling=0.25)
    for chosen, expected in (("abf", 1 - bright), (parse_signal("0"), bright)):
        image, _ = read_image(settings(tmp_path / "two.npz", signal=chosen))
        np.testing.assert_allclose(np.asarray(image.data), expected, atol=1e-6)
    with pytest.raises(InputError, match="adf"):
        read_image(settings(tmp_path / "two.npz"))


def test_a_diffraction_scan_is_no_image(tmp_path):
    scan = np.random.default_rng(0).random((3, 4, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "scan.npz", image=scan, sampling=1.0, angular_sampling=1.0)
    with pytest.raises(InputError, match="diffraction scan"):
        read_image(settings(tmp_path / "scan.npz"))


POSCAR = """cubic
1.0
3.9 0 0
0 3.9 0
0 0 3.9
Sr Ti O
1 1 3
Direct
0 0 0
0.5 0.5 0.5
0.5 0.5 0
0.5 0 0.5
0 0.5 0.5
"""


def test_crystals_come_from_the_library_or_from_files(tmp_path):
    (tmp_path / "POSCAR").write_text(POSCAR)
    crystal, remarks = load_crystal(str(tmp_path / "POSCAR"))
    assert crystal.name == "SrTiO3"
    assert crystal.label.count("O") == 3
    assert remarks == []
    assert load_crystal("BaTiO3")[0].soft_mode is not None
    with pytest.raises(InputError, match="library"):
        load_crystal("Unobtainium")


def test_progress_is_silent_where_there_is_no_terminal():
    for terminal in (False, True):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal)
        with progress_display(console) as progress:
            progress("fitting 9 columns")
        written = file.getvalue()
        assert ("fitting 9 columns" in written) == terminal
        assert ("8%" in written) == terminal


def test_info_names_devices_and_materials(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "BaTiO3" in printed
    assert "cpu" in printed or "gpu" in printed or "tpu" in printed


def test_help_answers_at_once():
    start = time.perf_counter()
    command = [sys.executable, "-c", "import sys; from ferrojax.cli import main; sys.exit(main(['--help']))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 2  # 0.1 s alone; the rest is for a busy machine
    assert {"map", "demo", "info"} <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("001", (0, 0, 1)),
        ("0,0,1", (0, 0, 1)),
        ("-110", (-1, 1, 0)),
        ("[1 -1 0]", (1, -1, 0)),
        ("1,-1,10", (1, -1, 10)),
    ],
)
def test_zones(text, zone):
    assert parse_zone(text) == zone


def test_sampling_order_is_y_x():
    assert parse_sampling("0.2") == (0.2, 0.2)
    assert parse_sampling("0.19, 0.21") == (0.19, 0.21)
    assert parse_sampling(None) is None


class TestPreparedOutput:
    def test_moves_in_at_the_end(self, tmp_path):
        with prepared_output(tmp_path / "a" / "b") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "x.txt").write_text("x")
            assert not (tmp_path / "a" / "b" / "sub").exists()
        assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["sub"]
        assert (tmp_path / "a" / "b" / "sub" / "x.txt").read_text() == "x"

    def test_clears_up_when_terminated(self, tmp_path):
        before = signal.getsignal(signal.SIGTERM)

        def run():
            with prepared_output(tmp_path / "a" / "b") as folder:
                (folder / "x.txt").write_text("half")
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(SystemExit) as stopped:
            run()
        assert stopped.value.code == 143
        assert not list(tmp_path.iterdir())
        assert signal.getsignal(signal.SIGTERM) is before

    def test_replaces_a_zarr_store_whole(self, tmp_path):
        for name in ("old", "new"):
            with prepared_output(tmp_path) as folder:
                zarr.open_group(folder / "map.zarr", mode="w").create_array(name, data=np.ones(2))
        assert list(zarr.open_group(tmp_path / "map.zarr", mode="r").array_keys()) == ["new"]

    def test_leaves_a_folder_that_is_no_store(self, tmp_path):
        (tmp_path / "map.zarr").mkdir()
        (tmp_path / "map.zarr" / "mine.txt").write_text("mine")

        def run():
            with prepared_output(tmp_path) as folder:
                zarr.open_group(folder / "map.zarr", mode="w")

        with pytest.raises(InputError, match="no Zarr store"):
            run()
        assert [p.name for p in (tmp_path / "map.zarr").iterdir()] == ["mine.txt"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_leaves_nothing_when_stopped(self, tmp_path, error):
        def run():
            with prepared_output(tmp_path / "a" / "b") as folder:
                (folder / "x.txt").write_text("half")
                raise error

        with pytest.raises(error):
            run()
        assert not list(tmp_path.iterdir())

    def test_keeps_a_folder_that_was_there(self, tmp_path):
        (tmp_path / "old.txt").write_text("old")

        def run():
            with prepared_output(tmp_path) as folder:
                (folder / "old.txt").write_text("new")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            run()
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("old.txt", "old")]

    def test_refuses_a_folder_in_a_files_place(self, tmp_path):
        (tmp_path / "x.txt").mkdir()

        def run():
            with prepared_output(tmp_path) as folder:
                (folder / "a.txt").write_text("a")
                (folder / "x.txt").write_text("x")

        with pytest.raises(InputError, match="out: is a folder"):
            run()
        assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
