"""Born charges against Berry-phase polarization along stored distortion paths, and the sign for every material."""

import importlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.crystal import material, polarization_response
from ferrojax.polarization import born_polarization

SHIFTS = {
    "PbTiO3": ([0.04738, 0.024753, -0.028171, -0.021981], 63.3713, 16.5735),
    "BaTiO3": ([0.007894, 0.01617, -0.014275, -0.004892], 65.9772, 6.0357),
    "KNbO3": ([0.008379, 0.015836, -0.011208, -0.006503], 67.0712, 6.6448),
}
"""Shifts along c in Å of A, B, O above B and O beside B, volume in Å³ and Berry-phase polarization in µC/cm², one ninth
of the way from the cubic to the P4mm cells mp-20459, mp-5986 and mp-4342: T. E. Smidt, S. A. Mack, S. E. Reyes-Lillo,
A. Jain, J. B. Neaton, Sci. Data 7, 72 (2020), MIT."""
SIGNS = {"PbTiO3": -1, "BiFeO3": -1, "LiNbO3": -1, "BaTiO3": 1, "KNbO3": 1}


@pytest.mark.parametrize("name", SHIFTS)
def test_cited_charges_near_the_cubic_phase(name):
    """Within 8 %: charges of another functional and lattice constant; wrong tensors would be off by far more."""
    (a, b, above, beside), volume, polarization = SHIFTS[name]
    crystal = material(name)
    along = jnp.array([a, b, above, beside, beside])[:, None] * jnp.array([0.0, 0.0, 1.0])
    own = float(jnp.linalg.det(crystal.cell))
    found = 100 * np.asarray(born_polarization(crystal, along), float) * own / volume
    np.testing.assert_allclose(found, [0, 0, polarization], rtol=0.08, atol=1e-4)
    moved = 100 * np.asarray(born_polarization(crystal, along + 0.3), float) * own / volume
    np.testing.assert_allclose(moved, found, atol=1e-3)


@pytest.fixture(scope="module")
def figures(reference_data):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        bench = importlib.import_module("bench_berry_phase")
        return {path.name: bench.path_figures(path) for path in bench.stored_paths(reference_data)}


def of_formula(figures, formula):
    return {name: row for name, row in figures.items() if name.split()[0] == formula}


def test_every_completed_path_is_used(figures):
    assert len(figures) == 16
    assert sum("born_over_berry" in row for row in figures.values()) == 11
    # No step between two images is near half a quantum, so that the stored branch is the right one.
    assert max(row["largest_step_over_quantum"] for row in figures.values()) < 0.5


def test_born_charges_follow_the_berry_phase(figures):
    """Within 8 % at zero, and within the error of linear response, which is stated beside it, at the polar end."""
    for name, row in figures.items():
        if "born_over_berry" in row:
            assert abs(row["born_over_berry_slope"] - 1) < 0.08, name
            assert abs(row["born_over_berry"][-1] - 1) < row["linear_response_error_stated"], name


@pytest.mark.parametrize("formula", SIGNS)
def test_sign_of_polarization_against_b(figures, formula):
    rows = of_formula(figures, formula)
    assert rows
    assert {row["sign_of_P_against_B"] for row in rows.values()} == {SIGNS[formula]}


def test_niobium_does_not_tell_the_polarization_of_sodium_niobate(figures):
    """31 µC/cm² without Nb moving against Na: why the library gives that material no mode."""
    signs = sorted(row["sign_of_P_against_B"] for row in of_formula(figures, "NaNbO3").values())
    assert signs == [-1, 0, 0]
    assert material("NaNbO3").soft_mode is None


@pytest.mark.parametrize("formula", ["PbTiO3", "BaTiO3", "KNbO3", "BiFeO3"])
def test_stated_error_of_the_library_covers_its_paths(figures, formula):
    worst = max(abs(row["library_over_berry_end"] - 1) for row in of_formula(figures, formula).values())
    stated = polarization_response(material(formula)).relative_error
    assert stated is not None
    assert worst <= stated <= worst + 0.06


def test_boracite_charge_is_the_one_of_the_stored_path(figures):
    charge = {name.split()[0]: row["mode_charge_end"] for name, row in figures.items() if "B7O13" in name}
    library = material("Cu3B7O13Cl")
    assert library.mode_charge is not None
    assert float(library.mode_charge[2, 2]) == pytest.approx(charge["Mg3B7O13Cl"], abs=2e-3)
    spread = abs(charge["Cr3B7O13Cl"] / charge["Mg3B7O13Cl"] - 1)
    assert library.response_error == pytest.approx(spread, rel=0.03)
