"""`ferrojax map --method microscope`: its options, and what its report and summary say of the recording."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import ferrojax.refinement
from ferrojax import AnnularDetector, InputError, material
from ferrojax.cli import main
from ferrojax.cli.options import parse_known, parse_ring
from ferrojax.polarization import Prediction
from ferrojax.refinement import Recording, ScanRecording
from ferrojax.refinement.mean_cell import harmonics
from ferrojax.refinement.recording import EACH, PRIORS
from ferrojax.refinement.scan_recording import FARTHEST
from tests.test_cli import lattice_image

ASKED = ["--method", "microscope", "--energy", "200000", "--detector", "60:"]


def test_rings_and_what_is_known():
    assert parse_ring("detector", "60:170") == (60.0, 170.0)
    assert parse_ring("detector", "60:") == (60.0, np.inf)
    assert parse_ring("detector", None) is None
    assert parse_known("thickness=120:20, defocus=0:30") == {"thickness": (120.0, 20.0), "defocus": (0.0, 30.0)}
    assert parse_known(None) == {}
    for text in ("60", "170:60", "a:b", ":", "nan:3"):
        with pytest.raises(InputError, match="detector: is no ring"):
            parse_ring("detector", text)
    for text in ("thickness", "thickness=120", "thickness=a:b"):
        with pytest.raises(InputError, match="known: is no value with its error"):
            parse_known(text)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--method", "microscop"], "method: is unknown"),
        (["--energy", "200000"], "energy: is not used by a column fit"),
        (["--method", "microscope"], "energy: is needed by --method microscope"),
        (["--method", "microscope", "--energy", "200000"], "detector: is needed by --method microscope"),
        (["--beside-detector", "11:22"], "beside-detector: is not used by a column fit"),
        ([*ASKED, "--displacement", "Ti:O"], "displacement: is not what --method microscope reads"),
        ([*ASKED, "--beside", "abf.dm4"], "beside: and --beside-detector belong together"),
    ],
)
def test_options_that_do_not_go_together(words, line, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["map", "scan.dm4", "--crystal", "BaTiO3", "--out", str(out), *words]) == 2
    assert line in capsys.readouterr().err
    assert not out.exists()


class _Told(ScanRecording):
    """Answers what it is told to, as a reading would."""

    def predictor(self, image, crystal=None):
        class Reader:
            name = "read through the microscope"

            def predict(self, image, cells):
                one = jnp.ones((len(cells.centre_px), 1, 1))
                unit = one * jnp.eye(2)
                return Prediction(
                    one[:, 0] * jnp.array([0.05, 0.0]), 4e-4 * unit, 1e-4 * unit, 9e-4 * jnp.eye(2), ("Told.",)
                )

        return Reader()


def recording(images, misfit: float = 0.9) -> ScanRecording:
    names = (*PRIORS, *(f"{key}_image" for key in EACH))
    prior = np.array([v for v, _ in (*PRIORS.values(), *EACH.values())])
    known = np.array([e for _, e in (*PRIORS.values(), *EACH.values())])
    error = known * np.where(np.arange(len(names)) % 2, 1.0, 0.1)
    a = float(material("BaTiO3").cell[0, 0])
    data = np.exp(-np.hypot(*harmonics((a, a), FARTHEST).T)) + 0j
    fit = Recording(
        names, prior + 0.1 * known, error, prior, known, np.diag(error**2), misfit, np.inf,
        {"image": data}, {"image": 0.98 * data}, ("A note.",),
    )  # fmt: skip
    return _Told(fit, material("BaTiO3"), 200e3, {"image": AnnularDetector(60, np.inf)}, images)


def test_the_report_says_what_the_microscope_was_found_to_be(tmp_path, monkeypatch):
    asked, image_file = {}, tmp_path / "lattice.npz"
    np.savez(image_file, image=lattice_image().astype(np.float32), sampling=0.25)

    def fitted(images, crystal, zone, **options):
        asked.update(options, images=images, zone=zone)
        return recording(images)

    monkeypatch.setattr(ferrojax.refinement, "fit_recording", fitted)
    out = tmp_path / "out"
    words = [*ASKED, "--semiangle", "21.4", "--known", "thickness=150:20"]
    words += ["--beside", str(image_file), "--beside-detector", "11:22"]
    assert main(["map", str(image_file), "--crystal", "BaTiO3", "--out", str(out), *words]) == 0
    assert set(asked["images"]) == {"image", "beside"}
    assert asked["detectors"]["beside"].outer == 22.0
    assert (asked["energy"], asked["semiangle"]) == (200e3, 21.4)
    assert asked["priors"] == {"thickness": (150.0, 20.0)}
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["mean_pm"] == pytest.approx([5.0, 0.0], abs=0.01)
    assert summary["mean_error_pm"] == pytest.approx([3.0, 3.0], abs=0.02)  # that of all cells; they are alike
    found = summary["recording"]
    assert found["value"]["thickness"] == pytest.approx(128.0)
    assert found["identified"]["thickness"]
    assert not found["identified"]["tilt_x"]
    assert np.array(found["common_covariance_pm2"]) == pytest.approx(9 * np.eye(2), rel=1e-3)
    assert "Told." in summary["notes"]
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in (
        "reading through the microscope found in the image", "128 ± 8", "120 ± 80", "what was known",
        "All cells share another of (3.0, 3.0) pm", "The mean displacement cannot be told from a tilt", "A note.",
        "image, difference", "Column fit",
    ):  # fmt: skip
        assert words in page, words
    assert "Nothing is subtracted" not in page
    again = ferrojax.read_map(out / "map.hspy")
    assert again.common_covariance == pytest.approx(9e-4 * np.eye(2), rel=1e-5)
    assert again.structural_covariance is not None
    assert again.structural_covariance.shape == again.covariance.shape
