"""Displacement, its covariance and the polarization it implies: sign, invariance and a real null."""

from importlib.resources import files
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.crystal import material
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.io import read
from ferrojax.polarization import (
    born_polarization,
    cell_frames,
    displacement_operator,
    displacement_statistics,
    map_polarization,
    polarization_from_displacement,
    valid_indices,
    with_prediction,
)
from tests.test_columns import draw

DATA = Path(str(files("ferrojax.data")))
BATIO3 = material("BaTiO3")
SHIFT = np.array([0.12, -0.05])


@pytest.fixture(scope="module")
def phantom():
    image, _ = draw(b_shift=SHIFT, turn=15.0, affine=np.diag([0.291, 0.306]))
    return image, map_polarization(image, BATIO3)


def turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def random_cells(n=5, k=4):
    rng = np.random.default_rng(3)
    root = rng.normal(size=(n, k + 1, 2, 2)) * 0.02
    covariance = jnp.asarray(root @ root.swapaxes(-1, -2))
    position = jnp.asarray(rng.normal(size=(n, k + 1, 2)))
    return position[:, :k], covariance[:, :k], position[:, k], covariance[:, k], jnp.full(k, 1 / k)


def test_operator_is_b_minus_the_centroid_and_propagates_errors():
    a, a_cov, b, b_cov, weight = random_cells()
    displacement, covariance = displacement_operator(a, a_cov, b, b_cov, weight)
    np.testing.assert_allclose(np.asarray(displacement), np.asarray(b - a.mean(1)), atol=1e-6)
    np.testing.assert_allclose(np.asarray(covariance), np.asarray(b_cov + a_cov.sum(1) / 16), atol=1e-8)
    moved, _ = displacement_operator(a + 3.0, a_cov, b + 3.0, b_cov, weight)
    np.testing.assert_allclose(np.asarray(moved), np.asarray(displacement), atol=1e-6)


def test_operator_gradient():
    a, a_cov, b, b_cov, weight = random_cells()

    def loss(a, b):
        displacement, _ = displacement_operator(a, a_cov, b, b_cov, weight)
        return (displacement**2).sum()

    to_a, to_b = jax.grad(loss, (0, 1))(a, b)
    h = 1e-2
    bump_a = jnp.zeros_like(a).at[2, 1, 0].set(h)
    bump_b = jnp.zeros_like(b).at[2, 1].set(h)
    numeric_a = float(loss(a + bump_a, b) - loss(a - bump_a, b)) / (2 * h)
    numeric_b = float(loss(a, b + bump_b) - loss(a, b - bump_b)) / (2 * h)
    np.testing.assert_allclose([float(to_a[2, 1, 0]), float(to_b[2, 1])], [numeric_a, numeric_b], rtol=1e-3)


def test_operator_compiles_once():
    cells = random_cells()
    displacement_operator(*cells)
    before = displacement_operator._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    displacement_operator(*random_cells())
    assert displacement_operator._cache_size() == before  # pyright: ignore[reportAttributeAccessIssue]


def test_map_returns_the_shift_in_image_axes(phantom):
    _, pmap = phantom
    valid = np.asarray(pmap.valid)
    assert valid.sum() > 80
    expected = turned(15.0) @ SHIFT
    np.testing.assert_allclose(np.asarray(pmap.displacement)[valid], expected[None].repeat(valid.sum(), 0), atol=5e-3)
    assert np.isnan(np.asarray(pmap.displacement)[~valid]).all()
    assert np.isnan(np.asarray(pmap.covariance)[~valid]).all()
    assert (np.linalg.eigvalsh(np.asarray(pmap.covariance, float)[valid]) > 0).all()
    assert dict(pmap.provenance) == {
        "image": "image",
        "mode": "HAADF",
        "oxygen under B": "not drawn",
        "crystal": "BaTiO3",
        "zone": "0 0 1",
        "response": "born",
        "method": "column fit",
    }


def test_map_is_laid_out_along_the_lattice(phantom):
    _, pmap = phantom
    position = np.asarray(pmap.position)
    along_x = np.nanmedian(position[:, 1:] - position[:, :-1], (0, 1))
    along_y = np.nanmedian(position[1:] - position[:-1], (0, 1))
    np.testing.assert_allclose(along_x, turned(15.0) @ [4.0, 0.0], atol=5e-3)
    np.testing.assert_allclose(along_y, turned(15.0) @ [0.0, 4.0], atol=5e-3)


@pytest.mark.study
@pytest.mark.parametrize(("name", "zone"), [("SrTiO3", (1, 1, 0)), ("PbTiO3", (1, 0, 0))])
def test_other_materials_and_zones(name, zone):
    crystal = material(name)
    image, _ = draw(crystal, zone, b_shift=SHIFT, turn=-10.0, affine=0.2 * np.eye(2), shape=(160, 160))
    pmap = map_polarization(Image(image.data, (0.2, 0.2)), crystal, zone)
    found = displacement_statistics(pmap)["mean"]
    np.testing.assert_allclose(found, 100 * turned(-10.0) @ SHIFT, atol=0.3)


def test_no_mean_and_no_plane_is_subtracted(phantom):
    _, pmap = phantom
    statistics = displacement_statistics(pmap)
    np.testing.assert_allclose(statistics["mean"], 100 * turned(15.0) @ SHIFT, atol=0.1)
    assert statistics["n"] == int(pmap.valid.sum())


@pytest.mark.parametrize(("name", "sign"), [("BaTiO3", 1), ("KNbO3", 1), ("PbTiO3", -1)])
def test_sign_of_polarization(name, sign):
    """P is parallel to the B displacement in BaTiO3 and KNbO3, antiparallel in PbTiO3, where oxygen leads."""
    polarization = polarization_from_displacement(material(name), 0.1 * jnp.eye(3))
    diagonal = np.diag(np.asarray(polarization))
    assert (sign * diagonal > 0).all()
    assert 0.05 < np.abs(diagonal).min() <= np.abs(diagonal).max() < 1.0
    np.testing.assert_allclose(np.asarray(polarization), np.diag(diagonal), atol=1e-6)


def test_polarization_by_hand():
    """Lead titanate: e/V (Z_B + 3.34 Z_O∥ + 2·3.07 Z_O⊥) d with the table's charges made neutral."""
    crystal = material("PbTiO3")
    excess = (3.90 + 7.06 - 5.83 - 2 * 2.56) / 5
    charge = (7.06 - excess) + 3.34 * (-5.83 - excess) + 2 * 3.07 * (-2.56 - excess)
    expected = 16.02176634 * charge * 0.1 / 3.97**3
    found = polarization_from_displacement(crystal, jnp.array([0.0, 0.1, 0.0]))
    np.testing.assert_allclose(np.asarray(found), [0, expected, 0], rtol=1e-4, atol=1e-6)


def test_rigid_shift_has_no_polarization():
    shift = jnp.broadcast_to(jnp.array([0.3, -0.2, 0.1]), (5, 3))
    np.testing.assert_allclose(np.asarray(born_polarization(BATIO3, shift)), 0.0, atol=1e-5)


def test_map_polarization_follows_the_displacement(phantom):
    _, pmap = phantom
    valid = np.asarray(pmap.valid)
    displacement = np.asarray(pmap.displacement)[valid]
    per_angstrom = float(polarization_from_displacement(BATIO3, jnp.array([1.0, 0, 0]))[0])
    np.testing.assert_allclose(np.asarray(pmap.polarization)[valid], per_angstrom * displacement, rtol=1e-3)


def test_the_error_of_the_response_is_in_the_covariance(phantom):
    _, pmap = phantom
    at = tuple(np.argwhere(np.asarray(pmap.valid))[0])
    assert pmap.response_error == BATIO3.response_error
    by_default, without = pmap.polarization_covariance(), pmap.polarization_covariance(0.0)
    assert by_default is not None
    assert without is not None
    p = np.asarray(pmap.polarization)[at]
    expected = (pmap.response_error or 0.0) ** 2 * np.outer(p, p)
    np.testing.assert_allclose(np.asarray(by_default[at] - without[at]), expected, rtol=1e-2, atol=1e-8)


def test_non_polar_crystal_has_no_polarization_but_a_map():
    with pytest.raises(InputError, match="no soft mode"):
        polarization_from_displacement(material("SrTiO3"), jnp.ones(3))


@pytest.mark.study
def test_real_strontium_titanate_is_a_null():
    """False displacement of 77 whole cells; over the whole image of 678 it averages to 0.2 pm."""
    pmap = map_polarization(read(DATA / "sto110_adf_crop.npz"), material("SrTiO3"), zone=(1, 1, 0))
    assert pmap.polarization is None
    statistics = displacement_statistics(pmap)
    assert statistics["n"] > 70
    assert np.abs(statistics["mean"]).max() < 1.5
    assert statistics["spread"].max() < 2.5
    assert 0.5 < (statistics["standard_error"] / statistics["spread"]).mean() < 2


@pytest.mark.study
def test_whole_strontium_titanate_image_is_a_null(reference_data):
    with np.load(reference_data / "sto110_adf_abf" / "sto110_adf_abf.npz") as archive:
        image = Image(archive["adf"], [10 * float(archive["pixel_size_nm"])] * 2)
    pmap = map_polarization(image, material("SrTiO3"), zone=(1, 1, 0))
    statistics = displacement_statistics(pmap)
    assert statistics["n"] > 650
    assert np.abs(statistics["mean"]).max() < 0.5
    assert statistics["spread"].max() < 2.6
    # The scatter of a crystal that has none is what the error bars hold and the disorder that is told beside them: of
    # a B column and of the four A round it.
    assert pmap.columns.lines is not None
    disorder = 100 * np.sqrt(1 + 1 / 4) * np.asarray(pmap.columns.lines.disorder, float)
    told = np.hypot(statistics["standard_error"], disorder)
    np.testing.assert_allclose(told, statistics["spread"], rtol=0.25)
    assert any("beyond their error bars" in note for note in pmap.notes)


class Shifted:
    """Answers the classical displacement plus a constant, NaN for the first cell, and no error for the second."""

    name = "shifted"

    def predict(self, image, cells):
        assert image.data.ndim == 2
        return cells.classical.at[0].set(jnp.nan) + 0.1, 4 * cells.classical_covariance.at[1, 0, 0].set(jnp.nan)


def test_predictor_replaces_the_displacement(phantom):
    image, pmap = phantom
    other = map_polarization(image, BATIO3, predictor=Shifted())
    at = valid_indices(other)
    assert int(other.valid.sum()) == int(pmap.valid.sum()) - 2
    np.testing.assert_allclose(np.asarray(other.displacement)[at], np.asarray(pmap.displacement)[at] + 0.1, atol=1e-5)
    np.testing.assert_allclose(np.asarray(other.covariance)[at], 4 * np.asarray(pmap.covariance)[at], rtol=1e-5)
    assert dict(other.provenance)["method"] == "shifted"


def test_predictor_of_the_wrong_shape(phantom):
    image, pmap = phantom

    class Wrong:
        def predict(self, image, cells):
            del image
            return cells.classical[:3], cells.classical_covariance

    with pytest.raises(InputError, match="wrong shapes"):
        with_prediction(pmap, image, Wrong())


def test_cell_frames_place_the_crystal_on_the_image(phantom):
    """A neighbours lie at frame @ (±a/2, ±a/2) from the centre, and B at frame @ its shift."""
    _, pmap = phantom
    cells = cell_frames(pmap)
    frame = np.asarray(cells.frame)
    expected = np.linalg.inv(np.diag([0.291, 0.306])) @ turned(15.0)
    np.testing.assert_allclose(frame, expected, atol=2e-3)
    np.testing.assert_allclose(np.asarray(cells.rotation), turned(15.0), atol=1e-3)
    a_px = np.asarray(pmap.columns.position_px)[np.asarray(pmap.columns.site) == 0]
    for corner in ((2.0, 2.0), (-2.0, 2.0)):
        here = np.asarray(cells.centre_px) + frame @ np.array(corner)
        assert np.sqrt(((here[:, None] - a_px[None]) ** 2).sum(-1).min(1)).max() < 0.05
    np.testing.assert_allclose(np.asarray(cells.classical) @ np.asarray(cells.rotation) - SHIFT, 0.0, atol=5e-3)


def test_zone_without_separate_columns():
    image, _ = draw()
    with pytest.raises(
        InputError, match=r"zone axis: BaTiO3 shows no column of B that is free of A.*such as \(0, 0, 1\)"
    ):
        map_polarization(image, BATIO3, (1, 1, 1))
