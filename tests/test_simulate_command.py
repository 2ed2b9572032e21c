"""`ferrojax simulate`: plans that cannot be run are refused before anything is computed; parts are taken up again."""

import numpy as np
import pytest
import yaml

from ferrojax.cli import main
from ferrojax.dataset import SimulatedSet

GOOD = {
    "crystal": "BaTiO3",
    "cells": 1,
    "thicknesses": [4.0],
    "detector": [60.0, float("inf")],
    "semiangle": [19.0, 21.0],
    "defocus": [0.0, 10.0],
    "astigmatism": [0.0, 0.0],
    "coma": [0.0, 0.0],
    "optics": 1,
    "tilt_max": 1.0,
    "mean_displacement_pm": [0.0, 5.0],
    "spread_pm": 2.0,
    "mode_scale": [1.0, 1.0],
    "thermal_scale": [1.0, 1.0],
    "count": 2,
    "seed": 0,
}


def run(tmp_path, **change):
    plan = tmp_path / "small.yaml"
    plan.write_text(yaml.safe_dump({**GOOD, **change}))
    return main(["simulate", str(plan), "--out", str(tmp_path / "out")])


def test_a_plan_makes_its_set_and_leaves_no_parts(tmp_path):
    assert run(tmp_path) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["small_set.npz"]
    made = SimulatedSet.load(tmp_path / "out" / "small_set.npz")
    assert made.image.shape == (2, 1, 12, 12)
    assert np.isfinite(made.image).all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"semiangle": [24, 18]}, "semiangle"),
        ({"semiangle": [float("nan"), 20]}, "semiangle"),
        ({"semiangle": [-1, 20]}, "semiangle"),
        ({"defocus": [float("-inf"), 0]}, "defocus"),
        ({"thicknesses": []}, "thicknesses"),
        ({"thicknesses": [float("inf")]}, "thicknesses"),
        ({"tilt_max": float("inf")}, "tilt_max"),
        ({"energy": 1e-9}, "energy"),
        ({"mean_displacement_pm": [1e9, 1e9]}, "mean_displacement_pm"),
        ({"surprise": 1}, "surprise"),
        ({"crystal": "Unobtainium"}, "crystal"),
        ({"crystal": "SrTiO3"}, "crystal"),
        ({"count": 0}, "count"),
    ],
)
def test_bad_plans_end_in_one_line_with_the_field(tmp_path, capsys, change, field):
    assert run(tmp_path, **change) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert field in error


def test_a_folder_in_the_way_is_seen_before_computing(tmp_path, capsys):
    (tmp_path / "out" / "small_set.npz").mkdir(parents=True)
    assert run(tmp_path) == 2
    assert "folder where the result belongs" in capsys.readouterr().err
