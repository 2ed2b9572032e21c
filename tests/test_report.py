"""Maps written to files read back the same; the figure and the page show what they claim."""

import csv
import dataclasses
import json
import re
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import rsciio.hspy
import zarr
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

from ferrojax import Columns, Image, InputError, PolarizationMap, write_map
from ferrojax.columns import Calibration
from ferrojax.io import read_map, write_csv
from ferrojax.polarization import Domains
from ferrojax.report import (
    Curve,
    MapReport,
    Panel,
    Section,
    Table,
    calibration_facts,
    map_facts,
    map_statistics,
    polarization_figure,
    response_sentence,
    write_html,
    write_summary,
)
from ferrojax.report.colour import direction_colours, round_up


@pytest.fixture(scope="session")
def small_map():
    """A map of 5 × 6 cells of 4 Å, two of them invalid, with known displacements; seeded."""
    return make_map(rows=5, cols=6)


def make_map(rows: int, cols: int) -> PolarizationMap:
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:rows, :cols].astype(np.float32)
    centre = 20 * np.stack([x, y], -1) + 15
    shift = np.stack([0.1 + 0 * x, -0.05 + 0 * x], -1) + 0.01 * generator.normal(size=(rows, cols, 2))
    valid = np.ones((rows, cols), bool)
    valid[0, 0] = valid[2, 3] = False
    covariance = np.broadcast_to(np.array([[4e-4, 1e-4], [1e-4, 9e-4]]), (rows, cols, 2, 2))

    def blank(values):
        return jnp.asarray(np.where(np.expand_dims(valid, tuple(range(2, values.ndim))), values, np.nan), jnp.float32)

    return PolarizationMap(
        position=blank(0.2 * centre),
        position_px=blank(centre),
        displacement=blank(shift),
        covariance=blank(covariance),
        valid=jnp.asarray(valid),
        polarization=blank(0.2 * shift),
        response=0.2 * jnp.eye(2),
        calibration=make_calibration(),
        columns=make_columns(centre.reshape(-1, 2)),
        provenance=(("image", "small"), ("crystal", "BaTiO3"), ("zone", "0 0 1"), ("method", "column fit")),
    )


def make_calibration() -> Calibration:
    zero = jnp.zeros(())
    return Calibration(
        affine=jnp.diag(jnp.array([0.2, 0.2])), rotation=jnp.eye(2), lattice_px=20 * jnp.eye(2),
        origin_px=jnp.array([5.0, 5.0]), recorded_sampling=jnp.array([0.19, 0.2]), sampling_error=zero - 2.5,
        anisotropy=zero + 5, shear=zero, rotation_deg=zero, rms_pm=zero + 4,
    )  # fmt: skip


def make_columns(b_px: np.ndarray) -> Columns:
    at = jnp.asarray(np.concatenate([b_px, b_px - 10]), jnp.float32)
    n, half = len(at), len(b_px)
    return Columns(
        position=0.2 * at, position_px=at, covariance=jnp.broadcast_to(1e-4 * jnp.eye(2), (n, 2, 2)),
        intensity=jnp.ones(n), width=jnp.full(n, 0.6), residual=jnp.full(n, 0.02),
        site=jnp.asarray([1] * half + [0] * half), lattice_index=jnp.zeros((n, 2), int),
        rejection=jnp.zeros(n, int).at[0].set(1), calibration=make_calibration(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def report(small_map):
    picture = Figure(figsize=(3, 2))
    picture.subplots().plot([0, 1])
    return MapReport(
        title="Test <b>map</b> & more",
        lead="A map that never was.",
        image=Image(np.random.default_rng(0).random((100, 120), np.float32), (0.19, 0.2)),
        maps={"Column fit": small_map, "Network <1>": small_map},
        tables=[Table("Errors (pm)", ["method", "rmse"], [["fit", 4.25678], ["<i>net</i>", float("nan")]], "few")],
        curves=[Curve("Loss", "step", "loss", {"train": ([0, 1, 2], [3.0, 2.0, 1.0])}, log_y=True)],
        facts=[("seed", 0), ("path", "<script>alert(1)</script>")],
        notes=["one note"],
        pictures=[("Extra", "a caption", picture)],
    )


def test_hspy_reads_back(tmp_path, small_map):
    write_map(tmp_path / "map.hspy", small_map)
    (signal,) = rsciio.hspy.file_reader(str(tmp_path / "map.hspy"))
    names = list(signal["metadata"]["ferrojax"]["channel_names"])
    data = signal["data"]
    assert data.shape == (5, 6, 13)
    assert [axis["navigate"] for axis in signal["axes"]] == [True, True, False]
    valid = np.asarray(small_map.valid)
    np.testing.assert_array_equal(data[..., names.index("valid")], valid)
    np.testing.assert_allclose(data[..., names.index("displacement x")], small_map.displacement[..., 0])
    np.testing.assert_allclose(data[valid][:, names.index("covariance xy")], 1e-4, rtol=1e-6)
    np.testing.assert_allclose(data[..., names.index("polarization y")], small_map.polarization[..., 1])
    assert np.isnan(data[~valid][:, :7]).all()
    # P = 0.2 d, so cov(P) = 0.2² cov(d): no error of the response is known here
    np.testing.assert_allclose(data[valid][:, names.index("polarization covariance yy")], 0.04 * 9e-4, rtol=1e-5)
    own = signal["metadata"]["ferrojax"]
    assert own["provenance"]["crystal"] == "BaTiO3"
    np.testing.assert_allclose(own["calibration"]["affine"], 0.2 * np.eye(2))
    assert own["calibration"]["anisotropy"] == 5


def make_domains(pmap: PolarizationMap) -> Domains:
    """The left half points right, the right half left; invalid cells have none."""
    label = np.where(np.arange(pmap.valid.shape[1]) < 3, 0, 1) * np.ones(pmap.valid.shape, int)
    label = np.where(np.asarray(pmap.valid), label, -1)
    confidence = np.where(np.asarray(pmap.valid), 0.9, np.nan)
    return Domains(label, confidence, label, np.array([[1.0, 0.0], [-1.0, 0.0]]), 0.1, 0.01, np.zeros(2))


@pytest.mark.parametrize("extension", ["h5", "hspy", "zarr"])
def test_domains_and_polarization_errors_are_written(tmp_path, small_map, extension):
    domains, path = make_domains(small_map), tmp_path / f"map.{extension}"
    write_map(path, small_map, domains)
    file: Any = zarr.open_group(path, mode="r") if extension == "zarr" else h5py.File(path)
    group = file["ferrojax"] if extension == "hspy" else file
    np.testing.assert_array_equal(group["domains"]["label"][()], domains.label)
    expected = np.asarray(small_map.polarization_covariance())
    np.testing.assert_allclose(group["polarization_covariance"][()], expected)
    assert group["polarization_covariance"].attrs["units"] == "C²/m⁴"
    if extension != "zarr":
        file.close()
    np.testing.assert_array_equal(read_map(path).valid, small_map.valid)


def test_csv_with_domains(tmp_path, small_map):
    write_csv(tmp_path / "map.csv", small_map, make_domains(small_map))
    with (tmp_path / "map.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [rows[k]["domain"] for k in (0, 1, 5)] == ["-1", "0", "1"]
    assert float(rows[1]["domain confidence"]) == 0.9


def test_hspy_refuses_another_extension(tmp_path, small_map):
    with pytest.raises(InputError, match=r"path: .*\.hspy"):
        write_map(tmp_path / "map.tif", small_map)
    assert not list(tmp_path.iterdir())


def test_csv_has_a_row_per_cell_and_units(tmp_path, small_map):
    write_csv(tmp_path / "map.csv", small_map)
    with (tmp_path / "map.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert [rows[0]["valid"], rows[0]["x (Å)"]] == ["0", "nan"]
    assert float(rows[7]["displacement x (Å)"]) == pytest.approx(float(small_map.displacement[1, 1, 0]), rel=1e-6)
    assert {"covariance xy (Å²)", "polarization y (C/m²)"} <= rows[0].keys()


def test_summary_is_plain_json(tmp_path, small_map):
    values = {
        "a": np.float32(0.1),
        "b": float("nan"),
        "c": small_map.displacement[1, 1],
        "d": (1, "x", None, True),
    }
    write_summary(tmp_path / "summary.json", {"nested": values, "map": map_statistics(small_map)})
    read = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert read["nested"]["a"] == 0.1
    assert read["nested"]["b"] is None
    assert read["nested"]["d"] == [1, "x", None, True]
    assert read["map"]["cells"] == 28
    assert read["map"]["sigma_pm"] == pytest.approx([2, 3], rel=1e-4)
    assert read["map"]["mean_pm"] == pytest.approx([10, -5], abs=1)


def test_facts_carry_units(small_map):
    facts = dict(map_facts(small_map)) | dict(calibration_facts(small_map.calibration))
    assert facts["cells mapped"] == "28"
    assert facts["σ of a cell (x, y)"] == "(2.0, 3.0) pm"
    assert facts["pixel size recorded (y, x)"] == "0.1900, 0.2000 Å"


def test_up_on_the_screen_is_a_quarter_turn():
    """Opposite directions differ, and 'up' (−y) takes the colour a quarter of the cyclic map on."""
    arrows = np.array([[1.0, 0], [0, -1], [-1, 0], [0, 1]])
    colours = direction_colours(arrows, 1.0)
    just_up = direction_colours(np.array([[1.0, -1e-3], [1.0, 1e-3]]), 1.0)
    assert np.abs(just_up[0] - just_up[1]).max() < 0.02
    assert np.linalg.norm(colours[:, None] - colours[None], axis=-1)[np.triu_indices(4, 1)].min() > 0.2
    assert np.linalg.norm(direction_colours(np.zeros((1, 2)), 1.0) - 0.95) < 0.3


@pytest.mark.parametrize(("value", "step"), [(0.9, 1), (1.2, 1.5), (21, 30), (50, 50), (0, 1), (np.nan, 1)])
def test_round_up(value, step):
    assert round_up(value) == pytest.approx(step)


def test_figure_draws_the_arrows_as_on_screen(report, small_map):
    figure = polarization_figure(report)
    assert len([ax for ax in figure.axes if ax.get_title(loc="left")]) == 9
    (arrows_axes,) = [ax for ax in figure.axes if ax.get_title(loc="left") == "Column fit: displacement"]
    assert arrows_axes.yaxis_inverted()
    (arrows,) = [drawn for drawn in arrows_axes.collections if isinstance(drawn, Quiver)]
    valid = np.asarray(small_map.valid)
    np.testing.assert_allclose(np.asarray(arrows.U), 100 * np.asarray(small_map.displacement)[valid][:, 0])
    assert "not polarization" in figure.get_supxlabel()


def test_page_is_self_contained_and_escaped(tmp_path, report):
    write_html(tmp_path / "report.html", report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<i>net</i>" not in page
    assert "&lt;script&gt;" in page
    assert "Network &lt;1&gt;" in page
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) == 3 + 2 * 3 + 1 + 1
    assert all(source.startswith("data:image/") for source in sources)
    assert "://" not in page
    assert "4.257" in page


def test_statistics_carry_the_error_of_the_response(small_map):
    """var(P) of the mean = (R se)² + s² P², formula by formula."""
    sure = map_statistics(small_map)
    unsure = map_statistics(dataclasses.replace(small_map, response_error=0.5))
    mean, scatter = (np.asarray(sure[f"mean_polarization{k}_C_per_m2"]) for k in ("", "_error"))
    np.testing.assert_allclose(scatter, 0.2 * np.asarray(sure["mean_error_pm"]) / 100, rtol=1e-5)
    found = np.asarray(unsure["mean_polarization_error_C_per_m2"])
    np.testing.assert_allclose(found, np.sqrt(scatter**2 + (0.5 * mean) ** 2), rtol=1e-5)
    assert "µC/cm²" in dict(map_facts(small_map))["mean polarization implied (x, y)"]


def test_the_page_says_what_is_measured_and_what_inferred(small_map):
    def sentence(**changes):
        return response_sentence(dataclasses.replace(small_map, **changes))

    born = sentence(provenance=(("response", "born"),), response_error=0.18)
    assert all(word in born for word in ("Measured", "Inferred", "Born", "18 %", "points along"))
    other = sentence(provenance=(("response", "mode-effective"),), response=-0.2 * jnp.eye(2))
    assert all(word in other for word in ("mode-effective", "unknown", "points against"))
    assert "No polarization" in sentence(polarization=None, response=None)


def test_sections_follow_the_maps_and_are_escaped(tmp_path, report):
    panel = Panel("Dots", "two <dots>", lambda ax: ax.plot([0, 1]))
    section = Section("Extra", ["a <sentence>"], [Table("T", ["a"], [[1.0], [True]])], [panel])
    write_html(tmp_path / "r.html", dataclasses.replace(report, sections=[section]))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.index("Column fit") < page.index("<h2>Extra</h2>") < page.index("a &lt;sentence&gt;")
    assert "two &lt;dots&gt;" in page
    assert "<td>yes</td>" in page


def test_checks_are_one_more_row_and_flat_images_get_rows_of_their_own(report, small_map):
    drawn: list[float] = []

    def draw(ax):
        drawn.append(ax.get_position().width)

    checks = [Panel("On it", "", draw, on_image=True), Panel("Beside", "", draw)]
    square = dataclasses.replace(report, maps={"fit": small_map}, checks=checks)
    flat = dataclasses.replace(square, image=Image(np.random.default_rng(0).random((40, 240), np.float32), (0.2, 0.2)))
    figures = [polarization_figure(each) for each in (square, flat)]
    titles = [[ax.get_title(loc="left") for ax in figure.axes] for figure in figures]
    assert all({"On it", "Beside"} <= set(found) for found in titles)
    assert drawn[0] == pytest.approx(drawn[1], rel=0.01)
    assert drawn[2] > 2.5 * drawn[3]


def test_same_report_same_page(tmp_path, report):
    for name in ("one.html", "two.html"):
        write_html(tmp_path / name, report)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_report_of_a_map_without_polarization_or_valid_labels(small_map):
    fields = {name: getattr(small_map, name) for name in small_map.__dataclass_fields__}
    bare = type(small_map)(**{**fields, "polarization": None, "response": None})
    assert "mean_polarization_C_per_m2" not in map_statistics(bare)
    report = MapReport("t", "l", Image(np.eye(120, dtype=np.float32), (0.2, 0.2)), {"fit": bare})
    assert polarization_figure(report).axes
