"""Constants, scattering factors and potentials against published values."""

import numpy as np
import pytest

from ferrojax.constants import interaction_constant, wavelength
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice import projected_potential, scattering_factor, slice_tables

# Kirkland, Advanced Computing in Electron Microscopy: table of the interaction constant, rad/(V·Å).
SIGMA = {
    10e3: 2.599e-3,
    60e3: 1.1356e-3,
    100e3: 0.9244e-3,
    200e3: 0.7288e-3,
    300e3: 0.6526e-3,
    800e3: 0.5503e-3,
}


@pytest.mark.parametrize(("energy", "sigma"), SIGMA.items())
def test_interaction_constant_matches_the_book(energy, sigma):
    assert interaction_constant(energy) == pytest.approx(sigma, abs=1.1e-7)


def test_wavelength_at_200_kv():
    assert wavelength(200e3) == pytest.approx(0.02507934741, rel=1e-6)
    assert interaction_constant(200e3) == pytest.approx(7.2883988e-4, rel=1e-6)


@pytest.mark.parametrize(
    ("symbol", "values"),
    [
        ("O", (253.2, 28.89)),
        ("Ti", (616.7, 98.16)),
        ("Sr", (894.8, 134.7)),
        ("Ba", (1258.9, 184.1)),
        ("Pb", (1515.9, 154.5)),
    ],
)
def test_projected_potential_in_closed_form(symbol, values):
    """V·Å at 0.1 and 0.5 Å, computed by abTEM from the same Kirkland table."""
    np.testing.assert_allclose(projected_potential(symbol, np.array([0.1, 0.5]), "kirkland"), values, rtol=3e-4)


@pytest.mark.parametrize("parametrization", ["lobato", "kirkland"])
@pytest.mark.parametrize("symbol", ["O", "Ti", "Ba", "Pb"])
def test_potential_is_the_transform_of_the_scattering_factor(symbol, parametrization):
    """∫ 2πr V(r) dr is the transform at k = 0, and both tables give the same potential to a percent."""
    u, w = np.polynomial.legendre.leggauss(800)
    r, w = 30 * ((u + 1) / 2) ** 3, w / 2 * 3 * 30 * ((u + 1) / 2) ** 2
    total = (2 * np.pi * r * w * projected_potential(symbol, r, parametrization)).sum()
    assert total == pytest.approx(47.87764 * scattering_factor(symbol, np.zeros(1), parametrization)[0], rel=2e-5)


def test_hydrogen_forward_scattering_is_the_bohr_radius():
    assert scattering_factor("H", np.zeros(1))[0] == pytest.approx(0.529177, rel=1e-5)


@pytest.mark.parametrize(
    ("symbol", "peaks"), [("C", (417, 712, 1028)), ("Si", (823, 1513, 2238)), ("Au", (3327, 6534, 10125))]
)
def test_band_limited_peaks(symbol, peaks):
    """V(0) of the 3-D potential band-limited to 2, 3, 4 1/Å, in V (independent code, Lobato table)."""
    for limit, peak in zip((2, 3, 4), peaks, strict=True):
        k = np.linspace(0, limit, 4001)
        value = np.trapezoid(4 * np.pi * k**2 * 47.87764 * scattering_factor(symbol, k), k)
        assert value == pytest.approx(peak, abs=0.6)


def test_uranium_potential_from_the_books_figure(reference_data):
    import json

    record = json.loads((reference_data / "reference_numbers" / "reference_numbers.json").read_text())
    r, v = (np.array(record["projected_potential_uranium"][key]) for key in ("r_A", "V_volt_A"))
    inside = (r > 0.1) & (r < 0.45)
    error = (projected_potential("U", r, "kirkland") - v)[inside]
    assert (error**2).sum() / (v[inside] ** 2).sum() < 1.1e-4  # 1.03e-4: the figure was digitised to 0.002 Å


@pytest.mark.parametrize("transmission", ["conventional", "renormalised"])
def test_slice_tables_take_either_parametrization(transmission):
    """The phase of one oxygen atom at k = 0 is σ·V̂(0)/pixel of the table that was asked for; cores differ too."""
    grid = Grid((16, 20), (0.2, 0.2))
    tables = {p: slice_tables(("O",), grid, 200e3, transmission, parametrization=p) for p in ("lobato", "kirkland")}
    for name, table in tables.items():
        expected = interaction_constant(200e3) * 47.87764 * scattering_factor("O", np.zeros(1), name)[0] / 0.04
        assert float(table.phase[0, 0, 0]) == pytest.approx(expected, rel=1e-4)
    assert (tables["lobato"].core is None) == (transmission == "conventional")
    if transmission == "renormalised":
        cores = [np.asarray(tables[p].core) for p in ("lobato", "kirkland")]
        difference = np.linalg.norm(cores[0] - cores[1]) / np.linalg.norm(cores[0])
        assert 1e-4 < difference < 0.02


def test_slice_tables_refuse_an_unknown_parametrization():
    with pytest.raises(InputError, match=r"parametrization.*peng"):
        slice_tables(("O",), Grid((16, 16), (0.2, 0.2)), 200e3, parametrization="peng")


def test_unknown_element_and_table_are_named():
    with pytest.raises(InputError, match=r"element.*Xx"):
        scattering_factor("Xx", np.zeros(1))
    with pytest.raises(InputError, match=r"parametrization.*peng"):
        scattering_factor("C", np.zeros(1), "peng")
