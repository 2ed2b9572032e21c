"""Pixels that hold no measurement: bars, text, padding and lost lines move no column."""

import numpy as np
import pytest

from ferrojax.columns import scan_distortion
from ferrojax.columns.faulty_pixels import unmeasured_pixels
from ferrojax.crystal import material
from ferrojax.image import Image
from ferrojax.polarization import map_polarization, map_with_model
from tests.lattices import SHAPE, STEP, counted, crystal, errors_pm, painted


def scene():
    _, a, b = crystal(3.0)
    return counted(painted((a, 1.0, 3.4), (b, 0.35, 3.0))), a, b


def eight_bits(image: np.ndarray) -> np.ndarray:
    return np.floor(235 * (image - image.min()) / np.ptp(image))


def bar(rows: int, cols: int, ground: float = 0.0) -> np.ndarray:
    """A bar with a scale and, in place of text, strokes of several greys that all but touch its margins."""
    strip = np.full((rows, cols), ground)
    strip[rows // 3 : 2 * rows // 3, 10:110] = 255.0
    strokes = np.random.default_rng(1).integers(0, 2, (rows - 8, (cols - 130) // 3)) * 200.0
    strip[4:-4, 120 : 120 + 3 * strokes.shape[1]] = np.maximum(strokes.repeat(3, 1), ground)
    return strip


def test_what_is_filled_in_is_found_to_the_pixel():
    image = scene()[0]
    shown, none = eight_bits(image), np.zeros(SHAPE, bool)
    below, left = bar(60, SHAPE[1]), np.rot90(bar(50, SHAPE[0]))
    cases = [
        (np.vstack([shown, below]), np.vstack([none, np.ones(below.shape, bool)])),
        (np.vstack([below, shown]), np.vstack([np.ones(below.shape, bool), none])),
        (np.vstack([below[:30], shown, bar(40, SHAPE[1], 128.0)]), None),
        (np.hstack([left, shown]), np.hstack([np.ones(left.shape, bool), none])),
        (np.pad(image, ((20, 30), (40, 10))), np.pad(none, ((20, 30), (40, 10)), constant_values=True)),
    ]
    for data, wanted in cases:
        found = unmeasured_pixels(data, 14.0)
        framed = np.ones(data.shape, bool)
        framed[30 : 30 + SHAPE[0]] = False
        assert (found == (framed if wanted is None else wanted)).mean() > 0.999


def test_lost_lines_and_frozen_scans_are_found():
    image = scene()[0]
    image[200] = 0.0
    image[100:102] = 0.0
    image[:, 250] = image.mean()
    image[150, 100:300] = 0.0
    image[260:] = image[260]
    found = unmeasured_pixels(image, 14.0)
    assert found[[200, 100, 101]].all()
    assert found[:, 250].all()
    assert found[150, 100:300].all()
    assert found[261:].all()
    assert found.mean() < 0.2


@pytest.mark.parametrize("counts", [0.02, 0.3, 5.0])
def test_a_low_dose_is_a_measurement(counts):
    """Dark places of few counts are dark, not filled in."""
    _, a, b = crystal()
    image = np.random.default_rng(0).poisson(counts * painted((a, 1.0, 3.4), (b, 0.35, 3.0))).astype(float)
    assert not unmeasured_pixels(image, 14.0).any()


def test_a_clean_image_is_whole():
    assert not unmeasured_pixels(scene()[0], 14.0).any()
    assert not unmeasured_pixels(painted((crystal()[1], 1.0, 3.4)), 14.0).any()


@pytest.mark.study
@pytest.mark.parametrize("where", ["below", "above", "left", "padded", "lines"])
def test_no_accepted_cell_is_cut(where):
    image, a, b = scene()
    shift = np.zeros(2)
    if where == "below":
        image = np.vstack([eight_bits(image), bar(60, SHAPE[1])])
    elif where == "above":
        image, shift = np.vstack([bar(60, SHAPE[1]), eight_bits(image)]), np.array([0, 60])
    elif where == "left":
        image, shift = np.hstack([np.zeros((SHAPE[0], 50)), image]), np.array([50, 0])
    elif where == "padded":
        image, shift = np.pad(image, ((23, 31), (12, 40))), np.array([12, 23])
    else:
        image[150:152] = 0.0
        image[90] = 0.0
    pmap = map_polarization(Image(image, (STEP, STEP)), material("PbTiO3"))
    error = errors_pm(pmap, a + shift, b + shift)
    sigma = 100 * np.sqrt(np.asarray(pmap.covariance)[np.asarray(pmap.valid)][:, [0, 1], [0, 1]])
    assert len(error) > 130
    assert not (np.abs(error) > np.maximum(6 * sigma, 6)).any()


@pytest.mark.parametrize("fill", ["white", "frozen"])
def test_what_is_filled_in_is_no_jitter_of_the_scan(fill):
    """Whatever fills it: the error bars are those of the crystal's own pixels, along x not four times wider."""
    image, a, b = scene()
    image, shift = image[:240, :260].copy(), np.zeros(2)
    if fill == "white":
        image, shift = np.pad(image, ((0, 57), (45, 0)), constant_values=image.max()), np.array([45, 0])
    else:
        image[130:] = image[129]
    shown = Image(image, (STEP, STEP))
    pmap, found = map_with_model(shown, material("PbTiO3"))
    error = errors_pm(pmap, a + shift, b + shift)
    sigma = 100 * np.sqrt(np.asarray(pmap.covariance)[np.asarray(pmap.valid)][:, [0, 1], [0, 1]])
    assert len(error) > 50
    jitter = scan_distortion(shown, pmap.columns, ~found.blank).jitter
    assert np.asarray(jitter.rms)[0] * 100 * STEP < 1.5  # pm
    pull = np.sqrt(((error / sigma) ** 2).mean(0))
    assert (pull > 0.7).all()
    assert (pull < 1.35).all()
