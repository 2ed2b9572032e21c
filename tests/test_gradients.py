"""Gradients of images: reverse and forward mode, float32 and x64, both routes, against finite differences."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, at_thickness, simulate
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.image import Image
from ferrojax.multislice import FastThermal, propagator, slab, slice_tables, transport
from ferrojax.multislice.slices import plan_slices
from ferrojax.optics import Probe
from tests.gradient_cases import CASES


@pytest.fixture(scope="module")
def derivatives() -> tuple[dict, dict]:
    """What tests.gradient_cases finds in float32 and in x64, each in its own process."""

    def run(x64: str) -> dict:
        command = [sys.executable, "-m", "tests.gradient_cases"]
        # Compiling takes far longer than these small runs do.
        env = {**os.environ, "JAX_ENABLE_X64": x64, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        root = Path(__file__).parents[1]
        done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(2) as pool:
        single, double = pool.map(run, ("0", "1"))
    return single, double


@pytest.mark.study
@pytest.mark.parametrize("case", CASES)
def test_x64_gradients_equal_finite_differences_to_1e_6(derivatives, case):
    """Of every atom's position, occupancy and rms, tilt, thickness and the optics; forward mode says the same."""
    double = derivatives[1][case]
    assert set(double) == set(CASES[case]["names"])
    for name, found in double.items():
        assert found["reverse"] == pytest.approx(found["differences"], rel=1e-6), name
        assert found["forward"] == pytest.approx(found["reverse"], rel=1e-9), name


@pytest.mark.study
@pytest.mark.parametrize("case", CASES)
def test_float32_gradients_equal_those_of_x64_to_1e_3(derivatives, case):
    single, double = (run[case] for run in derivatives)
    for name, found in single.items():
        assert found["reverse"] == pytest.approx(double[name]["reverse"], rel=1e-3), name


@pytest.mark.study
def test_interpolated_thickness_equals_refined_slices():
    """Planes every two cells tell what slices half as thick read one cell off, far better than the nearest plane."""
    atoms = displaced_supercell(material("BaTiO3"), np.zeros((1, 1, 3)), 11)
    scan, probe = Scan.grid((0.0, 0.0), (4.0, 2.0), (2, 4)), Probe(200e3, 21.4)
    detectors = {"haadf": AnnularDetector(60, 170), "abf": AnnularDetector(11, 21.4)}
    planes, between = [8.0, 16.0, 24.0, 32.0, 40.0], [20.0, 28.0, 36.0]
    kw: dict[str, Any] = {"thermal": FastThermal(2), "sampling": 0.1}
    coarse = simulate(atoms, probe, scan, detectors, thicknesses=planes, slice_thickness=4.0001, **kw)
    fine = simulate(atoms, probe, scan, detectors, thicknesses=between, slice_thickness=2.0001, **kw)
    for name, bound in (("haadf", 0.06), ("abf", 0.012)):
        expected = np.asarray(fine[name].data)
        found = np.stack([at_thickness(coarse[name], planes, depth).data for depth in between])
        error, nearest = (np.linalg.norm(a - expected) for a in (found, coarse[name].data[1:4]))
        assert error < bound * np.linalg.norm(expected), name
        assert error < nearest / 2.5, name


def test_a_cubic_is_interpolated_exactly_between_uneven_planes():
    planes = np.array([1.0, 2.0, 5.0, 7.0, 12.0])
    stack = jnp.asarray(np.stack([planes**3 - 4 * planes, 2 - planes**2], -1))
    for t in (1.0, 1.7, 4.0, 9.5, 12.0):
        np.testing.assert_allclose(at_thickness(stack, planes, t), [t**3 - 4 * t, 2 - t**2], rtol=2e-5, atol=2e-4)
    slope = jax.jacobian(lambda t: at_thickness(stack, planes, t))(4.0)
    np.testing.assert_allclose(slope, [3 * 16 - 4, -8], rtol=1e-4)
    image = Image(jnp.ones((5, 2, 3)), (0.1, 0.1), 0.1 * jnp.ones((5, 2, 3)), "haadf")
    at = at_thickness(image, planes, 5.0)
    assert (at.data.shape, at.name) == ((2, 3), "haadf")
    np.testing.assert_allclose(np.asarray(at.standard_error), 0.1, rtol=1e-5)
    assert np.isnan(jax.jit(lambda t: at_thickness(stack, planes, t))(13.0)).all()


@pytest.mark.parametrize(
    ("planes", "thickness", "match"),
    [
        ([1.0, 2.0, 3.0, 4.0], 4.5, "thickness: lies outside"),
        ([1.0, 2.0, 3.0, 4.0], np.nan, "thickness: lies outside"),
        ([1.0, 2.0, 2.0, 4.0], 3.0, "thicknesses: must be finite and rise"),
        ([1.0, 2.0, 3.0], 2.5, "thicknesses: needs one value for each of the 4 planes"),
    ],
)
def test_a_thickness_that_cannot_be_told_is_refused(planes, thickness, match):
    with pytest.raises(InputError, match=match):
        at_thickness(jnp.ones((4, 2, 2)), planes, thickness)


@pytest.mark.parametrize("exits", [(24,), (21, 22, 23, 24), (6, 24)])
def test_reverse_mode_keeps_waves_per_block_not_per_slice(exits):
    """However close together the exit planes are, residuals stay near (blocks + 1) waves."""
    import dataclasses

    atoms = displaced_supercell(material("BaTiO3"), np.zeros((1, 1, 3)), 12)
    plan = dataclasses.replace(plan_slices(atoms, 2.0001), exits=exits)
    grid = Grid.for_box(4.0, 4.0, 0.1)
    tables = slice_tables(plan.elements, grid, 200e3)
    kernel = propagator(grid, 200e3, plan.slice_thickness, jnp.zeros(2), grid.band_limit())
    medium = slab(atoms.position, atoms.occupancy, plan, tables)
    wave = jnp.ones((8, *grid.shape), kernel.dtype)

    def signal(wave):
        return transport(wave, medium, kernel, lambda s, _: (jnp.abs(s) ** 2).mean((1, 2)), block=6)[0]

    _, pull_back = jax.vjp(signal, wave)
    large = [a for a in jax.tree.leaves(pull_back) if hasattr(a, "nbytes") and a.ndim >= 3]
    kept = sum(a.nbytes for a in large if a.shape[-2:] == grid.shape and 8 in a.shape) / wave.nbytes
    assert 1 <= kept <= 24 / 6 + 2
