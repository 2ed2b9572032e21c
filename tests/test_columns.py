"""Columns found, fitted, indexed and calibrated, on phantoms with a known answer and on real images."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ferrojax.columns import SITES, find_columns
from ferrojax.columns.fitting import likelihood
from ferrojax.crystal import material
from ferrojax.crystal.zone import projected_motif
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.io import read

DATA = Path(str(files("ferrojax.data")))
BATIO3 = material("BaTiO3")


def draw(crystal=BATIO3, zone=(0, 0, 1), shape=(150, 170), *, b_shift=(0.0, 0.0), affine=None, turn=0.0):
    """Noise-free Gaussian phantom: image with sampling 0.3 Å, and the A and B columns in px by cell.

    affine: (2, 2) Å per px, 0.3 Å if not given; turn: degrees of the lattice from +x towards +y.
    """
    motif = projected_motif(crystal, zone)
    affine = 0.3 * np.eye(2) if affine is None else np.asarray(affine)
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    to_px = np.linalg.inv(affine) @ np.array([[c, -s], [s, c]])
    cells = np.stack(np.meshgrid(*[np.arange(-40, 41)] * 2, indexing="ij"), -1).reshape(-1, 2)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    data, truth = np.full(shape, 40.0), {}
    for label in "AB":
        column = motif.label.index(label)
        offset = motif.offset[column] + (np.array(b_shift) if label == "B" else 0.0)
        centre = (cells @ motif.lattice + offset) @ to_px.T + np.array(shape[::-1]) / 2 + 0.3
        near = ((centre > -15) & (centre < np.array(shape[::-1]) + 15)).all(1)
        truth[label] = centre[near]
        for cx, cy in centre[near]:
            r0, r1, c0, c1 = (int(np.clip(v, 0, 2000)) for v in (cy - 14, cy + 15, cx - 14, cx + 15))
            dx, dy = x[r0:r1, c0:c1] - cx, y[r0:r1, c0:c1] - cy
            u = np.stack([dx, dy], -1) @ affine.T
            data[r0:r1, c0:c1] += motif.strength[column] * np.exp(-0.5 * (u**2).sum(-1) / 0.5**2)
    return Image(data, (0.3, 0.3)), truth


def material_strength(name: str, label: str) -> float:
    motif = projected_motif(material(name), (0, 0, 1))
    return float(motif.strength[motif.label.index(label)])


def errors(columns, truth):
    """(n, 2) px, fitted minus true position of every accepted column, by label."""
    found = {}
    for k, label in enumerate(SITES[:2]):
        mine = columns.accepted & (np.asarray(columns.site) == k)
        here = np.asarray(columns.position_px, float)[mine]
        gap = here[:, None] - truth[label][None]
        nearest = np.argmin((gap**2).sum(-1), 1)
        found[label] = gap[np.arange(len(here)), nearest]
    return found


@pytest.fixture(scope="module")
def bto():
    return find_columns(read(DATA / "BTO_crystal_1.dm4"), BATIO3)


def test_noise_free_positions_are_exact():
    image, truth = draw(b_shift=(0.1, -0.06), turn=3.0)
    columns = find_columns(image, BATIO3)
    found = errors(columns, truth)
    for k, label in enumerate("AB"):
        here = np.asarray(columns.position_px)[columns.accepted & (np.asarray(columns.site) == k)]
        inner = ((here > 28) & (here < np.array([170, 150]) - 29)).all(1)
        assert inner.sum() > 50
        assert np.abs(found[label][inner]).max() < 1e-3
        assert np.abs(found[label]).max() < 1.5e-2  # neighbours beyond the edge are only guessed


@pytest.mark.parametrize("turn", [0.0, -20.0, 38.0])
def test_calibration_finds_scale_anisotropy_and_rotation(turn):
    affine = np.diag([0.3 * 0.97, 0.3 * 1.02])
    image, truth = draw(affine=affine, turn=turn)
    columns = find_columns(image, BATIO3)
    calibration = columns.calibration
    assert calibration is not None
    np.testing.assert_allclose(np.asarray(calibration.affine), affine, atol=2e-5)
    np.testing.assert_allclose(float(calibration.anisotropy), 100 * (1.02 / 0.97 - 1), atol=0.02)
    np.testing.assert_allclose(float(calibration.sampling_error), 100 * ((0.97 * 1.02) ** -0.5 - 1), atol=0.01)
    np.testing.assert_allclose(float(calibration.rotation_deg), -turn, atol=0.02)
    assert float(calibration.rms_pm) < 0.1
    assert abs(float(calibration.shear)) < 0.01
    assert max(np.abs(e).max() for e in errors(columns, truth).values()) < 1.5e-2


def test_shear_is_calibrated_away():
    affine = np.array([[0.3, 0.004], [0.004, 0.31]])
    image, _ = draw(affine=affine, turn=8.0)
    calibration = find_columns(image, BATIO3).calibration
    assert calibration is not None
    np.testing.assert_allclose(np.asarray(calibration.affine), affine, atol=3e-5)


def test_sites_and_indices_follow_the_lattice():
    image, _ = draw(turn=12.0)
    columns = find_columns(image, BATIO3)
    assert columns.calibration is not None
    lattice = np.asarray(columns.calibration.lattice_px, float)
    offset = np.array([[0.0, 0.0], [0.5, 0.5]])[np.asarray(columns.site)]
    expected = np.asarray(columns.calibration.origin_px) + (np.asarray(columns.lattice_index) + offset) @ lattice
    miss = np.asarray(columns.position_px) - expected
    assert np.abs(miss[columns.accepted]).max() < 2e-2
    assert set(columns.label) == {"A", "B"}
    brightness = np.asarray(columns.intensity)
    assert brightness[np.asarray(columns.site) == 0].min() > brightness[np.asarray(columns.site) == 1].max()


def test_a_brighter_b_site_is_labelled_b():
    """KNbO3: niobium outshines potassium."""
    crystal = material("KNbO3")
    image, truth = draw(crystal)
    found = errors(find_columns(image, crystal), truth)
    assert max(np.abs(e).max() for e in found.values()) < 1.5e-2


@pytest.mark.study
@pytest.mark.parametrize(("blur", "most"), [(0, 1.25), (1, 1.5)])
def test_covariance_covers_the_errors(blur, most):
    """Pull of A and B positions close to 1 for white noise; noise as wide as a column hides in the fit."""
    image, truth = draw(shape=(260, 260), turn=5.0)
    noise = np.random.default_rng(1).normal(size=(260, 260))
    noise = gaussian_filter(noise, blur) if blur else noise
    noisy = Image(np.asarray(image.data) + 8.0 * noise / noise.std(), (0.3, 0.3))
    columns = find_columns(noisy, BATIO3)
    found = errors(columns, truth)
    covariance = np.asarray(columns.covariance, float)
    for k, label in enumerate("AB"):
        mine = columns.accepted & (np.asarray(columns.site) == k)
        sigma = np.sqrt(covariance[mine][:, [0, 1], [0, 1]]) / 0.3
        pull = found[label] / sigma
        assert 0.75 < pull.std() < most, label


def with_b_moved(image, far, by):
    """Counts of lead titanate with the B columns `far` moved by px towards an A column, and blurred."""
    y, x = np.mgrid[: image.data.shape[0], : image.data.shape[1]]
    data = gaussian_filter(np.asarray(image.data), 1.6)
    width = np.hypot(0.5 / 0.3, 1.6)
    height = material_strength("PbTiO3", "B") * (0.5 / 0.3 / width) ** 2
    for cx, cy in far:
        for shift, sign in ((0.0, -1), (by, 1)):
            data += sign * height * np.exp(-0.5 * ((x - cx - shift) ** 2 + (y - cy - shift) ** 2) / width**2)
    return np.random.default_rng(0).poisson(0.4 * data).astype(float)


@pytest.mark.study
def test_columns_far_off_their_place_at_the_rim_are_fitted():
    """What is in view and not drawn pulls at everything that is common to all columns."""
    image, truth = draw(material("PbTiO3"), shape=(180, 200))
    size = np.array([199, 179])
    rim = (np.minimum(truth["B"], size - truth["B"]).min(1) < 12) & ((truth["B"] > 3) & (truth["B"] < size - 6)).all(1)
    far = truth["B"][rim]
    found = find_columns(Image(with_b_moved(image, far, 1.7), image.sampling), material("PbTiO3"))
    away = np.linalg.norm(np.asarray(found.position_px)[:, None] - (far + 1.7), axis=-1).min(0)
    assert len(far) > 10
    assert (away < 1.5).mean() > 0.95, away


def test_a_column_on_its_neighbours_flank_is_not_missing():
    """B displaced so far towards a bright A that it has no maximum: the largest polarization must not be left out."""
    image, truth = draw(material("PbTiO3"), shape=(180, 200))
    inner = ((truth["B"] > 25) & (truth["B"] < np.array([174, 154]))).all(1)
    far = truth["B"][np.nonzero(inner)[0][::9]]
    data = with_b_moved(image, far, 1.7)
    columns = find_columns(Image(data, image.sampling), material("PbTiO3"))
    position, accepted = np.asarray(columns.position_px), columns.accepted & (np.asarray(columns.site) == 1)
    away = np.linalg.norm(position[accepted][:, None] - (far + 1.7), axis=-1).min(0)
    assert len(far) >= 10
    assert (away < 1.5).mean() > 0.9, away


def test_a_tilted_ground_moves_no_column():
    image, truth = draw(turn=5.0)
    ramp = np.linspace(0, 150, 170)[None] + np.linspace(0, 60, 150)[:, None]
    found = errors(find_columns(Image(np.asarray(image.data) + ramp, (0.3, 0.3)), BATIO3), truth)
    assert max(np.abs(e).max() for e in found.values()) < 0.02


def test_intensity_unit_does_not_matter():
    image, _ = draw()
    one = find_columns(image, BATIO3)
    other = find_columns(Image(np.asarray(image.data) * 1e4 + 3e5, (0.3, 0.3)), BATIO3)
    np.testing.assert_allclose(np.asarray(other.position_px), np.asarray(one.position_px), atol=2e-3)
    np.testing.assert_allclose(np.asarray(other.intensity), np.asarray(one.intensity) * 1e4, rtol=5e-3)


def test_second_fit_compiles_nothing():
    def compiled():
        return likelihood._climb._cached._cache_size()  # pyright: ignore[reportFunctionMemberAccess]

    image, _ = draw()
    find_columns(image, BATIO3)
    before = compiled()
    find_columns(Image(np.asarray(image.data) * 1.5, (0.3, 0.3)), BATIO3)
    assert compiled() == before


def test_without_a_crystal_positions_only():
    image, truth = draw(turn=5.0)
    columns = find_columns(image)
    assert columns.calibration is None
    assert set(columns.label) == {""}
    both = np.concatenate([truth["A"], truth["B"]])
    here = np.asarray(columns.position_px)[columns.accepted]
    nearest = np.sqrt(((here[:, None] - both[None]) ** 2).sum(-1).min(1))
    inner = truth["A"][((truth["A"] > 8.5) & (truth["A"] < np.array([169, 149]) - 8.5)).all(1)]
    missed = np.sqrt(((inner[:, None] - here[None]) ** 2).sum(-1).min(1))
    assert len(inner) > 80
    assert missed.max() < 0.1
    assert np.percentile(nearest, 90) < 0.02
    np.testing.assert_allclose(np.asarray(columns.position), 0.3 * np.asarray(columns.position_px), rtol=1e-5)


def test_the_real_image_is_indexed_and_its_distortion_found(bto):
    site = np.asarray(bto.site)
    accepted = [(bto.accepted & (site == k)).sum() for k in (0, 1)]
    assert min(accepted) > 1000
    assert (~bto.accepted).mean() < 0.08
    calibration = bto.calibration
    assert 4.5 < float(calibration.anisotropy) < 5.5
    assert -3.5 < float(calibration.sampling_error) < -2.0
    assert float(calibration.rms_pm) < 8
    assert calibration.summary()["recorded_sampling_yx"] == pytest.approx([0.296599, 0.296599], abs=1e-5)


@pytest.mark.parametrize("factor", [0.93, 1.07])
def test_a_wrong_recorded_pixel_size_changes_nothing(factor):
    image, _ = draw(turn=5.0)
    columns = find_columns(Image(image.data, image.sampling * factor), BATIO3)
    assert columns.calibration is not None
    np.testing.assert_allclose(np.asarray(columns.calibration.affine), 0.3 * np.eye(2), atol=1e-4)
    np.testing.assert_allclose(float(columns.calibration.sampling_error), 100 * (factor - 1), atol=0.05)


@pytest.mark.parametrize("zone", [(1, 1, 0), (2, 1, 0), (1, 1, 1)])
def test_wrong_zone_axis(zone):
    image, _ = draw()
    with pytest.raises(InputError) as error:
        find_columns(image, BATIO3, zone)
    assert error.value.field == "zone axis"
    assert "does not fit" in str(error.value)


@pytest.mark.parametrize("zone", [(0, 0, 0), (1, 0), (9, 1, 0)])
def test_what_is_no_zone_axis(zone):
    with pytest.raises(InputError) as error:
        projected_motif(BATIO3, zone)
    assert error.value.field == "zone axis"


@pytest.mark.parametrize("factor", [0.1, 0.78, 1.3, 10.0])
def test_pixel_size_far_off(factor):
    image, _ = draw(turn=5.0)
    with pytest.raises(InputError, match=r"--sampling|pixel size"):
        find_columns(Image(image.data, image.sampling * factor), BATIO3)


def test_dark_columns_are_refused():
    image, _ = draw()
    with pytest.raises(InputError, match="bright columns on a dark ground"):
        find_columns(Image(-np.asarray(image.data), (0.3, 0.3)), BATIO3)


def nan_pixel(data):
    data[3, 4] = np.nan
    return data


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: np.random.default_rng(0).normal(size=d.shape), "shows no lattice"),
        (lambda d: d[:45, :45], "too few columns"),
        (lambda d: d[:30, :30], "too few columns"),
        (lambda d: d[:8], "too small"),
        (lambda d: d * 0 + np.sin(np.arange(170)), "shows no lattice"),
        (nan_pixel, "NaN"),
        (lambda d: d * 0, "constant"),
        (lambda d: np.stack([d, d]), "stack"),
    ],
)
def test_images_that_cannot_be_analysed(spoil, message):
    image, _ = draw()
    with pytest.raises(InputError, match=message) as error:
        find_columns(Image(spoil(np.array(image.data)), (0.3, 0.3)), BATIO3)
    assert error.value.field == "image"


def test_a_zone_axis_needs_a_crystal():
    image, _ = draw()
    with pytest.raises(InputError, match="without a crystal"):
        find_columns(image, zone=(0, 0, 1))


@pytest.mark.parametrize(
    ("zone", "lengths", "labels"),
    [
        ((0, 0, 1), (4.0, 4.0), "ABOO"),
        ((1, 0, 0), (4.0, 4.0), "ABOO"),
        ((2, 0, 0), (4.0, 4.0), "ABOO"),
        ((1, 1, 0), (4.0 / 2**0.5, 4.0), "ABO"),
        ((1, 1, 1), (4.0 * (2 / 3) ** 0.5,) * 2, "AOOO"),
    ],
)
def test_projected_motif(zone, lengths, labels):
    motif = projected_motif(BATIO3, zone)
    np.testing.assert_allclose(np.linalg.norm(motif.lattice, axis=1), lengths, rtol=1e-5)
    assert "".join(motif.label) == labels
    assert np.linalg.det(motif.lattice) > 0
    np.testing.assert_allclose(motif.axes @ motif.axes.T, np.eye(2), atol=1e-6)
    beam = np.array(zone) / np.linalg.norm(zone)
    np.testing.assert_allclose(np.cross(*motif.axes), beam, atol=1e-6)
    if "B" in labels:
        a, b = (motif.offset[motif.label.index(s)] for s in "AB")
        centroid = motif.shell.weight @ (motif.shell.index @ motif.lattice + a)
        np.testing.assert_allclose(centroid, b, atol=1e-5)


def test_atoms_above_each_other_make_one_column():
    """Along [110] Sr and an oxygen share a column, titanium stands alone."""
    motif = projected_motif(material("SrTiO3"), (1, 1, 0))
    depth = 3.905 * 2**0.5
    np.testing.assert_allclose(motif.strength[0], (38**1.7 + 8**1.7) / depth, rtol=1e-4)
    np.testing.assert_allclose(motif.strength[1], 22**1.7 / depth, rtol=1e-4)
