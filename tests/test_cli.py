"""The command line: bad input ends in one line, exit code 2 and an untouched disk; a good one in files."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from ferrojax import InputError
from ferrojax.cli import main
from ferrojax.cli.options import parse_sampling, parse_zone
from ferrojax.cli.output import prepared_output

RESULTS = {"report.html", "map.png", "map.hspy", "map.csv", "summary.json"}


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


def test_usage_errors_exit_with_two(capsys):
    assert main(["map"]) == 2
    assert main(["no-such-command"]) == 2
    assert main(["map", "x.tif", "--crystal", "BaTiO3", "--seed", "many"]) == 2
    assert "Traceback" not in capsys.readouterr().err


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
    printed = capsys.readouterr().out
    assert "pixel size on the lattice" in printed
    assert "pm" in printed


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
