"""Images that would give a confident wrong map: each is refused for its own reason, or what lies is left out."""

import numpy as np
import pytest

from ferrojax.columns import average_frames
from ferrojax.columns.faulty_pixels import without_spikes
from ferrojax.crystal import material
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.io import read
from ferrojax.polarization import map_polarization, map_with_model

STEP = 0.2
PERIOD = 20.0
SIZE = (190, 200)
SHIFT = np.array([0.4, -0.7])
"""px, of B."""


def picture(heights: tuple[float, float] = (1000.0, 350.0), scatter: float = 0.0) -> np.ndarray:
    """Counts of barium titanate along [001]; scatter: px rms by which B strays."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    image = np.full(SIZE, 80.0)
    for i in range(-1, 12):
        for j in range(-1, 12):
            corner = PERIOD * np.array([i, j]) + 6.3
            for at, height in ((corner, heights[0]), (corner + PERIOD / 2 + SHIFT, heights[1])):
                cx, cy = at + (rng.normal(size=2) * scatter if height == heights[1] else 0)
                image += height * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / 2.4**2)
    return rng.poisson(image).astype(float)


def lattice(turn: float, size: int, scale: float) -> np.ndarray:
    """Expected counts of a whole field of the same crystal, turned by degrees."""
    y, x = np.mgrid[:size, :size] - size / 2
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    u, v = (c * x + s * y) / PERIOD, (c * y - s * x) / PERIOD
    image = np.zeros(x.shape)
    for (du, dv), height in (((0.0, 0.0), 1000.0), ((0.52, 0.47), 350.0)):
        near = [(w - d - np.round(w - d)) * PERIOD for w, d in ((u, du), (v, dv))]
        image += height * np.exp(-0.5 * (near[0] ** 2 + near[1] ** 2) / 2.4**2)
    return scale * image


def mapped(data: np.ndarray, step: float = STEP, **options):
    return map_with_model(Image(data, (step, step)), material("BaTiO3"), **options)


@pytest.fixture(scope="module")
def plain():
    return mapped(picture())


def test_hot_and_dead_pixels_change_nothing(plain):
    data = picture()
    data[60, 60] = data[100, 130] = 30 * data.max()
    data[140, 31] = -5 * data.max()
    pmap, found = mapped(data)
    assert found.spikes == 3
    both = np.asarray(pmap.valid) & np.asarray(plain[0].valid)
    assert both.sum() == np.asarray(plain[0].valid).sum()
    np.testing.assert_allclose(pmap.covariance[both], plain[0].covariance[both], rtol=0.1, atol=1e-6)
    np.testing.assert_allclose(pmap.displacement[both], plain[0].displacement[both], atol=0.02)


def test_counts_and_columns_are_no_spikes():
    rng = np.random.default_rng(1)
    for counts in (0.02, 0.3, 5.0):
        assert without_spikes(rng.poisson(picture() / 1000 * counts).astype(float))[1].mean() < 1e-4
    assert not without_spikes(picture())[1].any()


def test_cells_across_a_jump_of_the_scan_are_not_mapped(plain):
    """Three pixels from one line on, which no lattice index slips by: 24 pm of nothing in every cell across it."""
    data = picture()
    data[100:] = np.roll(data[100:], 3, 1)
    pmap, found = mapped(data)
    ((line, by),) = found.jumps
    assert abs(line - 100) < 6
    np.testing.assert_allclose(by, (3.0, 0.0), atol=0.1)
    valid, row = np.asarray(pmap.valid), np.asarray(pmap.position_px)[..., 1]
    assert not (valid & (np.abs(row - 100) < PERIOD / 2)).any()
    assert valid.sum() > 0.7 * np.asarray(plain[0].valid).sum()
    true = np.asarray(plain[0].displacement)[np.asarray(plain[0].valid)]
    np.testing.assert_allclose(np.asarray(pmap.displacement)[valid].mean(0), true.mean(0), atol=5e-3)
    assert np.asarray(pmap.displacement)[valid].std(0).max() < 2 * true.std(0).max()
    assert plain[1].jumps == ()
    np.testing.assert_allclose(pmap.calibration.affine, plain[0].calibration.affine, atol=1e-3)


def test_one_sublattice_clipped_is_told_as_that():
    data = picture()
    with pytest.raises(InputError, match=r"clipped at the largest value .*A columns"):
        mapped(np.minimum(data, np.percentile(data, 97)))


def test_columns_that_could_be_either_sublattice_are_not_mapped():
    data = picture((700.0, 350.0))
    with pytest.raises(InputError, match=r"sign of every displacement is open|what looks like A and B is not"):
        mapped(data + np.roll(data, int(PERIOD) // 2, axis=1))


def test_half_the_period_is_not_the_lattice():
    """A pixel size wrong by √2 makes a lattice of the A columns alone, half of which would pass for B."""
    data = picture((1000.0, 120.0))
    with pytest.raises(InputError):
        mapped(data, STEP / np.sqrt(2))


def test_a_sublattice_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"B columns off their sites|does not look like|A/B intensity"):
        mapped(picture(scatter=9.0))


@pytest.mark.study
@pytest.mark.parametrize("turn", [8.0, 20.0])
def test_a_weaker_lattice_under_the_first_is_refused(turn):
    rng = np.random.default_rng(0)
    one = lattice(5.0, 440, 1.0) + 80
    pmap, found = mapped(rng.poisson(one).astype(float))
    assert found.other_periods < 0.02
    assert np.asarray(pmap.valid).sum() > 250
    with pytest.raises(InputError, match=r"more than one lattice|another lattice"):
        mapped(rng.poisson(one + lattice(5.0 + turn, 440, 0.5)).astype(float))


def test_the_map_of_an_honest_image_stays(plain):
    pmap, found = plain
    assert found.spikes == 0
    mean = np.asarray(pmap.displacement)[np.asarray(pmap.valid)].mean(0)
    np.testing.assert_allclose(mean, STEP * SHIFT, atol=0.02)
    assert map_polarization(Image(picture(), (STEP, STEP)), material("BaTiO3")).valid.sum() == pmap.valid.sum()


def test_a_bad_frame_of_a_series_is_left_out(tmp_path):
    series = np.stack([picture()] * 4)
    series[2, 50, 60] = np.nan
    np.savez(tmp_path / "series.npz", image=series, sampling=STEP)
    average, alignment = average_frames(read(tmp_path / "series.npz", stack=True))
    assert alignment.rejection_reason == ("", "", "NaN, infinite or constant", "")
    assert np.isfinite(np.asarray(average.data)).all()


@pytest.mark.parametrize(("shape", "problem"), [((40, 50, 3), "colour image"), ((40, 50, 6), "frames last")])
def test_axes_in_another_order_are_told(tmp_path, shape, problem):
    np.savez(tmp_path / "odd.npz", image=np.random.default_rng(0).normal(size=shape), sampling=STEP)
    with pytest.raises(InputError, match=problem):
        read(tmp_path / "odd.npz", stack=True)
