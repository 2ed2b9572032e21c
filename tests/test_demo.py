"""The demo's whole line, with few cells and few steps: every part runs and every promised figure is there."""

import json

import numpy as np
import pytest

from ferrojax.cli.demo import RESULTS, demo
from ferrojax.training import Schedule

pytestmark = pytest.mark.study


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    demo(str(folder), seed=0, fresh=1, schedule=Schedule(base=60, final=40, batch=64))
    return folder


def test_every_result_is_written_and_nothing_else(results):
    assert sorted(p.name for p in results.iterdir()) == sorted(RESULTS)


def test_summary_has_the_promised_figures(results):
    summary = json.loads((results / "summary.json").read_text())
    for method in ("classical", "simulation_only", "joint"):
        found = summary["errors_pm"][method]
        # 60 steps teach a network little, but no answer is worse than twice that of one which sees no signal.
        assert found["bias"] <= 2**0.5 * found["rmse"] < 2 * 2**0.5 * summary["errors_pm"]["no_signal"]["rmse"]
        assert found["rmse"] > 1
    assert summary["errors_pm"]["joint"] != summary["errors_pm"]["simulation_only"]
    assert len(summary["null_pm"]["mean"]) == len(summary["null_pm"]["sd"]) == 2
    assert summary["calibration"]["anisotropy"] == pytest.approx(5, abs=0.5)
    assert {"seconds", "versions", "seed"} <= set(summary)


def test_classical_figures_are_within_their_known_range(results):
    summary = json.loads((results / "summary.json").read_text())
    assert np.abs(summary["null_pm"]["mean"]).max() < 2
    assert np.max(summary["null_pm"]["sd"]) < 2.5
    assert summary["errors_pm"]["classical"]["rmse"] < summary["errors_pm"]["no_signal"]["rmse"]


def test_page_is_self_contained(results):
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page
    for words in ("colour", "Errors on the pseudo-experiment", "Consistency", "SrTiO3"):
        assert words in page, words
