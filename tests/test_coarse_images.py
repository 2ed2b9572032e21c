"""Images of few pixels a cell: error bars that are right, or a refusal."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import KDTree

from ferrojax import Image, InputError, find_columns, map_polarization
from ferrojax.columns.fitting.noise import estimate_noise


def recorded(cell, width, cells=26, counts=600):
    """Counts of PbTiO3 [001] at `cell` px a cell, A and B places (px); width: of A, in cells."""
    rng = np.random.default_rng(0)
    side = int(cells * cell)
    index = np.stack(np.meshgrid(np.arange(-2, cells + 3), np.arange(-2, cells + 3)), -1).reshape(-1, 2)
    a = cell * index + rng.uniform(0, cell, 2)
    b = a + cell * np.array([0.525, 0.46])
    at, image = np.arange(side), np.full((side, side), 0.1)
    for place, height, rms in ((a, 1.0, width * cell), (b, 0.35, 0.9 * width * cell)):
        rows = height * np.exp(-0.5 * ((at - place[:, 1:]) / rms) ** 2)
        image += rows.T @ np.exp(-0.5 * ((at - place[:, :1]) / rms) ** 2)
    return Image(rng.poisson(counts * image).astype(np.float32), (3.97 / cell,) * 2), a, b


@pytest.mark.study
@pytest.mark.parametrize(("cell", "short"), [(5.0, 0.8), (6.0, 0.88), (8.0, 0.9)])
def test_error_bars_of_few_pixels(cell, short):
    """σ over the true error of A and B: 0.55 to 0.7 at 5 px while residuals were taken for the noise."""
    image, a, b = recorded(cell, 0.17)
    columns = find_columns(image, "PbTiO3")
    position, site = np.asarray(columns.position_px, float), np.asarray(columns.site)
    variance = np.asarray(columns.covariance, float)[:, [0, 1], [0, 1]] / (3.97 / cell) ** 2
    for label, true in enumerate((a, b)):
        mine = columns.accepted & (site == label)
        error = position[mine] - true[KDTree(true).query(position[mine])[1]]
        ratio = np.sqrt(np.median(variance[mine]) / (error**2).mean())
        assert short < ratio < 1.12


@pytest.mark.study
@pytest.mark.parametrize(("cell", "width"), [(3.0, 0.17), (4.0, 0.12)])
def test_columns_between_the_pixels_are_refused(cell, width):
    with pytest.raises(InputError, match=r"image: has columns too narrow for its pixels.*finer pixels"):
        map_polarization(recorded(cell, width)[0], "PbTiO3")


def test_noise_of_pixels_that_the_fit_has_taken_most_of():
    rng = np.random.default_rng(0)
    expected = np.tile(np.linspace(100.0, 900.0, 200), (200, 1))
    left = np.clip(1.2 - expected / 1000, 0.3, 1.0)
    data = expected + rng.normal(size=expected.shape) * np.sqrt(expected * left)
    images = [jnp.asarray(image, jnp.float32) for image in (data, expected, np.ones_like(expected), left)]
    found = estimate_noise(*images).variance(images[1])
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0.05)
