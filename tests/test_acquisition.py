"""Scan geometry, blur and counts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.acquisition import ScanGeometry, blurred, expose, record, scan_positions
from ferrojax.errors import InputError

BOX = (8.0, 8.0)
SEED: Any = 7


def geometry(**change):
    values = {"sampling": [0.25, 0.2], "rotation": 0.0, "jitter": 0.0, "drift": [0.0, 0.0], **change}
    return ScanGeometry((32, 40), *(jnp.asarray(values[k]) for k in ("sampling", "rotation", "jitter", "drift")))


@pytest.fixture
def wave():
    """cos along x once and along y twice per box: band-limited, so every operation has an exact answer."""
    y, x = np.meshgrid(np.arange(24) / 24, np.arange(24) / 24, indexing="ij")
    return jnp.asarray(2 + np.cos(2 * np.pi * x) + np.cos(4 * np.pi * y), jnp.float32)


def exact(position):
    return 2 + np.cos(2 * np.pi * position[..., 0] / 8) + np.cos(4 * np.pi * position[..., 1] / 8)


def test_blur_is_a_gaussian_of_that_rms(wave):
    out = np.asarray(blurred(wave, BOX, jnp.array([0.6, 0.4])))
    amplitude = np.fft.fft2(out) / out.size
    assert 2 * amplitude[0, 1].real == pytest.approx(np.exp(-2 * np.pi**2 * (0.6 / 8) ** 2), rel=1e-5)
    assert 2 * amplitude[2, 0].real == pytest.approx(np.exp(-2 * np.pi**2 * (0.4 * 2 / 8) ** 2), rel=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(5, 5), (6, 6), (7, 6), (8, 9), (5, 8), (9, 7), (1, 2)], ids=str)
def test_refining_reads_the_same_waves_at_the_finer_points(shape, factor):
    """A constant, every cosine that the pixels hold and its sine, at any size; the value at a pixel stays its value."""
    box, still = (3.0, 5.0), jnp.zeros(2)
    y, x = (np.arange(n) / n for n in shape)
    fine_y, fine_x = (np.arange(n * factor) / (n * factor) for n in shape)
    for ky, kx in [(i, j) for i in range(shape[0] // 2 + 1) for j in range(shape[1] // 2 + 1)]:
        # at an even count's Nyquist frequency only the cosine exists
        wave_y = [f for f in (np.cos, np.sin) if f is np.cos or 0 < 2 * ky < shape[0]]
        wave_x = [f for f in (np.cos, np.sin) if f is np.cos or 0 < 2 * kx < shape[1]]
        for f, g in [(f, g) for f in wave_y for g in wave_x]:
            image = f(2 * np.pi * ky * y)[:, None] * g(2 * np.pi * kx * x)
            found = np.asarray(blurred(jnp.asarray(image, jnp.float32), box, still, factor))
            np.testing.assert_allclose(
                found, f(2 * np.pi * ky * fine_y)[:, None] * g(2 * np.pi * kx * fine_x), atol=2e-6
            )
            np.testing.assert_allclose(found[::factor, ::factor], image, atol=2e-6)


def test_record_reads_the_image_where_the_probe_stands(wave):
    g = geometry(rotation=np.deg2rad(7.0), jitter=0.05, drift=[0.002, -0.001])
    key = jax.random.key(0)
    scan = record(key, wave, BOX, g, jnp.zeros(2))
    np.testing.assert_allclose(scan, exact(np.asarray(scan_positions(key, g))), atol=0.02)


def test_rotation_turns_crystal_x_towards_plus_row():
    """Walking along crystal +x, the row index grows when the rotation is positive."""
    position = np.asarray(scan_positions(jax.random.key(0), geometry(rotation=np.deg2rad(10.0))))
    along_x = np.array([np.cos(np.deg2rad(10)), np.sin(np.deg2rad(10))])  # image (x, y) of crystal +x
    step = position[8, 8] - position[0, 0]
    pixel = np.array([8 * 0.2, 8 * 0.25])
    assert step[0] == pytest.approx(pixel @ along_x, abs=1e-5)


def test_counts_have_poisson_mean_and_variance(wave):
    flat = jnp.ones((200, 200))
    counts = np.asarray(expose(jax.random.key(1), flat, 50.0))
    assert counts.mean() == pytest.approx(50, abs=5 * np.sqrt(50 / counts.size))
    assert counts.var() == pytest.approx(50, rel=0.05)
    assert float(expose(jax.random.key(1), wave, 1e4, 0.5).std()) == pytest.approx(
        float(0.5 * 1e4 * (wave / wave.mean()).std()), rel=0.02
    )


@pytest.mark.parametrize(
    ("match", "build"),
    [
        ("dose: must be positive", lambda key, image: expose(key, image, 0.0)),
        ("dose: must be finite", lambda key, image: expose(key, image, np.nan)),
        ("dose: must be at most 1e", lambda key, image: expose(key, image, 1e12)),
        ("background: must be at most 1", lambda key, image: expose(key, image, 10.0, 50.0)),
        ("background: must be not negative", lambda key, image: expose(key, image, 10.0, -0.1)),
        ("image: has no intensity", lambda key, image: expose(key, -image, 10.0)),
        ("image: must be finite", lambda key, image: expose(key, image * np.nan, 10.0)),
        (r"key: is no random key .*jax.random.key\(0\)", lambda key, image: expose(SEED, image, 10.0)),
        ("sampling: must be positive", lambda key, image: ScanGeometry((4, 4), (0.1, 0.0))),
        ("shape: must be a whole number", lambda key, image: ScanGeometry((4, 4.5), (0.1, 0.1))),
        ("rotation: must be at most 6.28.*30° is 0.52", lambda key, image: ScanGeometry((4, 4), (0.1, 0.1), 30.0)),
        ("jitter: must be not negative", lambda key, image: ScanGeometry((4, 4), (0.1, 0.1), 0.0, -1.0)),
        ("drift: needs 2 numbers", lambda key, image: ScanGeometry((4, 4), (0.1, 0.1), 0.0, 0.0, 0.1)),
        ("box: must be positive", lambda key, image: blurred(image, (4.0, -4.0), jnp.zeros(2))),
        ("sigma: must be not negative", lambda key, image: blurred(image, (4.0, 4.0), jnp.array([0.1, -0.1]))),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_recordings_that_cannot_be_meant_are_refused(match, build):
    with pytest.raises(InputError, match=match):
        build(jax.random.key(0), jnp.ones((4, 4)))
