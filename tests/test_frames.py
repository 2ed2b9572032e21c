"""Frame series of a periodic scene with known shifts: found, averaged, and never slipped by a period."""

import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from ferrojax.columns import align_frames, average_frames
from ferrojax.errors import InputError
from ferrojax.image import Image

SHAPE, PERIOD, WIDTH, GROUND = (120, 140), 20.0, 3.0, 0.1
MISSING = ((3, 2), (1, 4))


def scene(shift, missing=MISSING):
    """Columns of height 1 on a square lattice, two of them missing."""
    y, x = (np.arange(n, dtype=float) for n in SHAPE)
    image = np.full(SHAPE, GROUND)
    for i in range(-12, 20):
        for j in range(-12, 20):
            if (i, j) not in missing:
                cx, cy = PERIOD * i + 3 + shift[0], PERIOD * j + 5 + shift[1]
                image += np.outer(np.exp(-((y - cy) ** 2) / 2 / WIDTH**2), np.exp(-((x - cx) ** 2) / 2 / WIDTH**2))
    return image


def series(count=8, step=(7.3, -3.1), dose=0.0, seed=0, missing=MISSING):
    generator = np.random.default_rng(seed)
    walk = np.array(step) + 0.3 * generator.normal(size=(count - 1, 2))
    true = np.concatenate([np.zeros((1, 2)), np.cumsum(walk, 0)])
    frames = np.stack([scene(s, missing) for s in true])
    return (generator.poisson(dose * frames).astype(float) if dose else frames), true


@pytest.mark.parametrize("step", [(7.3, -3.1), (0.4, 0.2), (-2.0, 5.0)])
def test_exact_shifts_without_noise(step):
    frames, true = series(step=step)
    alignment = align_frames(frames)
    np.testing.assert_allclose(np.asarray(alignment.shift), true, atol=0.002)
    assert float(alignment.period) == pytest.approx(PERIOD, abs=1.01)
    assert alignment.accepted.all()


def test_a_lattice_period_is_no_trap():
    """The drift passes several periods; the highest correlation with the first frame is off by whole ones."""
    frames, true = series(dose=200.0, missing=())
    assert np.abs(true[-1]).max() > 2 * PERIOD
    slipped, _, _ = phase_cross_correlation(frames[0], frames[-1])
    assert np.abs(-np.asarray(slipped)[::-1] - true[-1]).max() > 0.9 * PERIOD
    np.testing.assert_allclose(np.asarray(align_frames(frames).shift), true, atol=0.05)


def test_stated_errors_are_the_errors():
    relative = []
    for seed in range(4):
        frames, true = series(count=6, dose=5.0, seed=seed)
        alignment = align_frames(frames)
        relative.append((np.asarray(alignment.shift) - true)[1:] / np.asarray(alignment.shift_error)[1:])
    assert 0.6 < np.sqrt(np.mean(np.square(relative))) < 1.4


def test_bright_frames_to_two_hundredths_of_a_pixel():
    frames, true = series(dose=500.0)
    found = np.asarray(align_frames(frames).shift)
    assert np.sqrt(np.mean((found - true)[1:] ** 2)) < 0.02


def test_drift_beyond_half_a_period_needs_a_guess():
    frames, true = series(step=(16.0, 2.0))
    with_guess = np.asarray(align_frames(frames[:4], drift=(15.0, 0.0)).shift)
    np.testing.assert_allclose(with_guess, true[:4], atol=0.005)


@pytest.mark.parametrize("dose", [2.0, 50.0])
def test_average_and_its_standard_error(dose):
    frames, _ = series(count=9, dose=dose)
    image, alignment = average_frames(Image(frames, (0.2, 0.25), name="series"))
    x, y = np.asarray(alignment.origin)
    rows, cols = image.data.shape
    truth = dose * scene((0.0, 0.0))[y : y + rows, x : x + cols]
    assert image.standard_error is not None
    relative = (np.asarray(image.data) - truth) / np.asarray(image.standard_error)
    assert relative.std() == pytest.approx(1, abs=0.08)
    assert abs(relative.mean()) < 0.15
    assert (image.name, np.asarray(image.sampling).tolist()) == ("series", [np.float32(0.2), 0.25])


def test_frames_that_do_not_belong_are_left_out():
    frames, true = series(dose=50.0)
    frames[3] = np.random.default_rng(1).poisson(20.0, SHAPE)
    frames[5] = np.nan
    alignment = align_frames(frames)
    assert alignment.rejection_reason[3] == "unlike the other frames"
    assert alignment.rejection_reason[5] == "NaN, infinite or constant"
    assert alignment.accepted.sum() == 6
    np.testing.assert_allclose(np.asarray(alignment.shift)[alignment.accepted], true[alignment.accepted], atol=0.15)
    assert align_frames(frames, reject=False).accepted.sum() == 7


def test_intensity_and_offset_do_not_move_a_frame():
    frames, _ = series()
    scaled = frames * np.linspace(1, 2, len(frames))[:, None, None] + np.arange(len(frames))[:, None, None]
    np.testing.assert_allclose(
        np.asarray(align_frames(scaled).shift), np.asarray(align_frames(frames).shift), atol=2e-3
    )


def test_a_scene_without_lattice():
    """Blobs at random places: no period limits the search."""
    from scipy import ndimage

    wide = ndimage.gaussian_filter(np.random.default_rng(2).random((200, 220)), 3)
    frames = np.stack([wide[30 + 2 * k : 150 + 2 * k, 30 + 5 * k : 170 + 5 * k] for k in range(5)])
    expected = -np.arange(5)[:, None] * np.array([5.0, 2.0])
    np.testing.assert_allclose(np.asarray(align_frames(frames, drift=(-4.0, 0.0)).shift), expected, atol=0.02)


def test_refusals():
    frames, _ = series(count=3)
    with pytest.raises(InputError, match="stack=True"):
        align_frames(frames[:1])
    with pytest.raises(InputError, match="finite and not constant"):
        align_frames(np.full((3, 50, 50), 1.0))
    with pytest.raises(InputError, match="positive length in px"):
        align_frames(frames, period=-1.0)
    with pytest.raises(InputError, match="stack=True"):
        average_frames(Image(frames[0], (0.2, 0.2)))
