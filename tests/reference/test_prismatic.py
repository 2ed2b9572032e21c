"""Prismatic's stored potential of one silicon cell (skipped where the reference data are not at hand)."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from ferrojax.constants import interaction_constant
from ferrojax.grid import Grid
from ferrojax.multislice import slice_tables


@pytest.mark.parametrize(("parametrization", "expected"), [("kirkland", 9668.0), ("lobato", 9704.0)])
def test_sum_of_the_projected_potential(reference_data, parametrization, expected):
    """Four atoms fill its first slice: sum over the pixels within 0.5 %."""
    stored = np.load(reference_data / "prismatic_si100_reference" / "Si100_2D_3D_DPC_potential_2slices.npz")
    grid = Grid((16, 16), (5.43 / 16, 5.43 / 16))
    tables = slice_tables(("Si",), grid, 100e3, "conventional", parametrization=parametrization)
    ours = 4 * float(tables.phase[0, 0, 0]) / interaction_constant(100e3)
    theirs = stored["realslices.ppotential.realslice"][..., 0].sum()
    assert ours == pytest.approx(expected, abs=1.0)
    assert ours == pytest.approx(theirs, rel=5e-3)


def test_rings_patterns_and_centres_of_mass(reference_data, monkeypatch):
    """All probes, thermal motion off, on that code's own grid, beams and pixel-averaged potential."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    bench = importlib.import_module("bench_prismatic")
    folder = reference_data / "prismatic_si100_reference"
    ring = bench.image_figures(folder, "Si100_3D", 2.0)["virtual_detector_depth0000"]
    assert ring["relative_L2"] < 1e-3
    disc = bench.image_figures(folder, "Si100_4D", 2.0)["CBED_array_depth0001"]
    assert disc["relative_L2"] < 1e-3
    moment = bench.image_figures(folder, "Si100_2D_3D_DPC_potential_2slices", 5.0)["DPC_CoM_depth0001"]
    assert moment["relative_L2"] < 5e-3
