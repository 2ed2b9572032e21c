"""Error bars under jitter, flicker and hum of the scan lines, and under what the crystal does itself."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import KDTree

from ferrojax import Image, map_polarization, material
from ferrojax.columns.distortion.jitter import line_weights
from ferrojax.columns.distortion.lines import across_lines, line_scatter, shared_variance, without_superstructure
from ferrojax.polarization import block_bootstrap, displacement_statistics
from ferrojax.polarization.scan_error import cells_share
from ferrojax.report import map_facts, map_statistics

CELL, WIDTH, STEP = 20.0, 3.4, 3.97 / 20
"""px, px, Å per px."""
COUNTS, BRIGHT_B, GROUND = 600, 0.35, 0.1
SHIFT_B = np.array([0.5, -0.8])  # px


def lattice(angle, shape, margin):
    """Indices (n, 2), positions px (n, 2) of the A columns of a square lattice, and its vectors px."""
    turn = np.radians(angle)
    vectors = CELL * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    reach = int(1.6 * max(shape) / CELL) + 4
    index = np.stack(np.meshgrid(*[np.arange(-reach, reach)] * 2), -1).reshape(-1, 2)
    position = index @ vectors + (17.3, 11.1)
    near = ((position > -margin) & (position < np.array(shape[::-1]) + margin)).all(1)
    return index[near], position[near], vectors


def recorded(seed, angle=0.0, shape=(300, 320), jitter=0.0, flicker=0.0, disorder=0.0):
    """Counts of an image line by line, and the true A and B positions; jitter (px along x), flicker a line."""
    rng = np.random.default_rng(seed)
    _, a, vectors = lattice(angle, shape, 30.0)
    b = a + vectors.sum(0) / 2 + SHIFT_B
    a = a + disorder * rng.normal(size=a.shape)
    off, gain = jitter * rng.normal(size=shape[0]), 1 + flicker * rng.normal(size=shape[0])
    image, cols = np.full(shape, GROUND), np.arange(shape[1])
    for place, height, width in ((a, 1.0, WIDTH), (b, BRIGHT_B, 3.0)):
        for x, y in place:
            lines = np.arange(max(int(y) - 18, 0), min(int(y) + 20, shape[0]))
            down = np.exp(-((lines - y) ** 2) / 2 / width**2)
            along = np.exp(-((cols - x - off[lines, None]) ** 2) / 2 / width**2)
            image[lines] += height * down[:, None] * along
    return rng.poisson(image * gain[:, None] * COUNTS).astype(np.float32), a, b


def scores(pmap, a, b):
    """Error over its σ (n, 2) of every cell."""
    valid = np.asarray(pmap.valid)
    place, found = np.asarray(pmap.position_px, float)[valid], np.asarray(pmap.displacement, float)[valid]
    own = b[KDTree(b).query(place)[1]]
    true = (own - a[np.asarray(KDTree(a).query(own, 4)[1])].mean(1)) * STEP
    variance = np.asarray(pmap.covariance, float)[valid][:, [0, 1], [0, 1]]
    return (found - true) / np.sqrt(variance)


def mapped(seed, **scene):
    data, a, b = recorded(seed, **scene)
    pmap = map_polarization(Image(data, (STEP, STEP)), material("PbTiO3"))
    return pmap, scores(pmap, a, b)


@pytest.mark.study
@pytest.mark.parametrize("angle", [0.0, 23.0, 45.0])
def test_jitter_of_the_lines_is_covered(angle):
    """7 pm a line: rms of error over σ, over two images, is 1 within what so few lines allow."""
    made = [mapped(seed, angle=angle, jitter=0.35) for seed in range(2)]
    rms = np.sqrt(np.mean([(z**2).mean(0) for _, z in made], 0))
    assert (rms > 0.75).all()
    assert (rms < 1.25).all()
    for pmap, _ in made:
        lines = pmap.columns.lines
        assert lines is not None
        assert float(lines.jitter_px[0]) == pytest.approx(0.35, rel=0.2)
        assert float(lines.disorder.max()) < 0.02


@pytest.mark.study
def test_flicker_of_the_lines_is_covered():
    """Lines 5 % brighter or darker move the columns along y, all those of a row alike."""
    rms = np.sqrt(np.mean([(mapped(seed, flicker=0.05)[1] ** 2).mean(0) for seed in range(2)], 0))
    assert (rms > 0.65).all()
    assert (rms < 1.35).all()


def test_disorder_of_a_relaxor_is_structure():
    """A columns 10 pm off at random: the cells' errors are those of the fit, and the disorder is told."""
    pmap, z = mapped(0, disorder=0.5)
    rms = np.sqrt((z**2).mean(0))
    assert (rms > 0.8).all()
    assert (rms < 1.25).all()
    lines = pmap.columns.lines
    assert lines is not None
    np.testing.assert_allclose(np.asarray(lines.disorder), 0.5 * STEP, rtol=0.2)
    found = map_statistics(pmap)
    np.testing.assert_allclose(np.asarray(found["lattice_disorder_pm"]), 50 * STEP, rtol=0.2)
    assert "pm rms" in dict(map_facts(pmap))["columns off the smooth lattice beyond their σ (x, y)"]


# What lines share, from positions alone


def shifted(rng, angle, shift_of_lines, noise=0.03, shape=(800, 800)):
    """Index, positions and what lines of a scan make of them, weighed over the lines a column crosses (px)."""
    index, position, vectors = lattice(angle, shape, -WIDTH)
    lines = np.arange(-40.0, shape[0] + 40)
    off = shift_of_lines(lines)
    weight = line_weights(
        position[:, 1], np.full(len(position), WIDTH), np.broadcast_to(lines, (len(position), len(lines)))
    )
    moved = position + np.stack([weight[0] @ off, np.zeros(len(position))], -1)
    return index, position, moved + noise * rng.normal(size=moved.shape), vectors


@pytest.mark.parametrize("angle", [0.0, 3.0, 23.0, 45.0])
def test_lines_share_what_jitter_leaves_of_columns(angle):
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        index, place, position, vectors = shifted(rng, angle, lambda lines, rng=rng: 0.35 * rng.normal(size=len(lines)))
        share, own = line_scatter(position, place, index, np.full(len(index), -1), vectors)
        found.append(share)
        assert own.max() < 0.006
    expected = 0.35**2 / (np.sqrt(2 * np.pi) * WIDTH)
    assert np.mean(found, 0)[0] == pytest.approx(expected, rel=0.35)
    assert np.max(found, 0)[1] < 1e-3 * expected


@pytest.mark.parametrize(
    "structure",
    [
        lambda index, rng: 0.5 * rng.normal(size=index.shape),
        lambda index, rng: np.stack([1.2 * (-1.0) ** index[:, 0], 1.2 * (-1.0) ** index[:, 1]], -1),
        lambda index, rng: 1.2 * np.stack([(-1.0) ** index[:, 1], (-1.0) ** index.sum(1)], -1),
        lambda index, rng: np.stack([np.cos(2 * np.pi * index[:, 1] / 3), np.sin(np.pi * index[:, 1] / 2)], -1),
        lambda index, rng: 2e-3 * index.astype(float) ** 2,
    ],
    ids=["disorder", "zigzag", "layers", "layers of three and four", "strain"],
)
@pytest.mark.parametrize("angle", [0.0, 45.0])
def test_structure_is_not_what_lines_share(structure, angle):
    """What the crystal does, though it be common along a scan line, is no error of the scan."""
    rng = np.random.default_rng(1)
    index, place, position, vectors = shifted(rng, angle, np.zeros_like)
    share, _ = line_scatter(position + structure(index, rng), place, index, np.full(len(index), -1), vectors)
    assert np.sqrt(share.max()) < 0.03  # px, what a column's noise is


def test_a_hum_of_the_scan_is_shared():
    rng = np.random.default_rng(0)
    index, place, position, vectors = shifted(rng, 3.0, lambda lines: np.sin(2 * np.pi * lines / 31))
    share, _ = line_scatter(position, place, index, np.full(len(index), -1), vectors)
    assert share[0] > 0.3
    assert share[1] < 0.01


def test_domains_and_layers_of_a_map_are_not_shared_errors():
    """Domains across and along the lines, and a modulation of two cells, add nothing; rows off at random do."""
    rng = np.random.default_rng(0)
    index = np.stack(np.meshgrid(np.arange(30), np.arange(30)), -1).reshape(-1, 2)
    centre, vectors = CELL * index + 10.0, CELL * np.eye(2)
    noise = 0.03 * rng.normal(size=(len(index), 2))
    domains = np.stack([np.where(index[:, 1] < 12, 0.8, -0.8), np.where(index[:, 0] % 14 < 7, 0.8, -0.8)], -1)
    layers = 0.3 * (-1.0) ** index[:, 1:]
    assert cells_share(noise + domains + layers, centre, index, vectors).max() < 0.03**2
    found = []
    for _ in range(4):
        rows = 0.2 * rng.normal(size=30)[index[:, 1], None] * [1.0, 0.0]
        found.append(cells_share(noise + domains + rows, centre, index, vectors))
    assert np.mean(found, 0)[0] == pytest.approx(0.04, rel=0.4)
    assert np.max(found, 0)[1] < 0.03**2


def test_operators_of_the_lattice():
    assert across_lines(CELL * np.eye(2)) == (0, 1)
    turned = lattice(45.0, (300, 300), 0.0)[2]
    assert across_lines(turned) == (1, 1)
    field = np.ones((12, 12, 1)) * np.array([1.0, -1.0] * 6)[:, None, None]
    field[3, 4] = np.nan
    assert np.nanmax(np.abs(without_superstructure(field))) < 1e-12
    few = np.full((4, 3, 2), np.nan)
    found = shared_variance(few, few, CELL)
    assert found.variance.max() == 0
    assert np.isinf(found.error).all()


# Error of the mean


@pytest.mark.parametrize("along", ["rows", "columns", "diagonals"])
def test_error_of_the_mean_where_lines_of_cells_err_together(along):
    """Square blocks state half of it."""
    rows, cols = 24, 26
    y, x = np.indices((rows, cols))
    line = {"rows": y, "columns": x, "diagonals": x + y}[along]
    weight = np.bincount(line.ravel()) / line.size
    ratio, named = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        field = (rng.normal(size=rows + cols)[line] + 0.2 * rng.normal(size=(rows, cols)))[..., None]
        found = block_bootstrap(field, np.ones((rows, cols), bool), resamples=200)
        ratio.append(found.standard_error[0] / np.sqrt((weight**2).sum() + 0.04 / line.size))
        named.append(found.along)
    assert np.sqrt(np.mean(np.square(ratio))) == pytest.approx(1.0, abs=0.2)
    assert set(named) == {along}


def test_a_map_says_that_its_lines_err_together():
    pmap, _ = mapped(0, jitter=0.35)
    found = displacement_statistics(pmap)
    assert found["along"] == "scan lines"
    assert map_statistics(pmap)["errors_shared_along"] == "scan lines"
    assert "scan lines" in dict(map_facts(pmap))["cells err together"]
    plain = np.asarray(found["standard_error"]) / np.sqrt(found["n"])
    assert found["mean_error"][0] > 2 * plain[0]
    assert displacement_statistics(pmap, block=2)["along"] == ""
    quiet = displacement_statistics(mapped(0, disorder=0.5)[0])
    assert quiet["along"] == ""


def test_scatter_of_free_cells_has_no_direction():
    rng = np.random.default_rng(0)
    named = [
        block_bootstrap(rng.normal(size=(20, 22, 2)), np.ones((20, 22), bool), resamples=50).along for _ in range(10)
    ]
    assert named.count("") >= 9


def test_maps_keep_what_lines_add(tmp_path):
    from ferrojax.io import read_map, write_map

    pmap, _ = mapped(0, jitter=0.35)
    write_map(tmp_path / "map.h5", pmap)
    again = read_map(tmp_path / "map.h5").columns.lines
    lines = pmap.columns.lines
    assert again is not None
    assert lines is not None
    for name in ("variance", "jitter_px", "correlation", "height_px", "disorder"):
        np.testing.assert_array_equal(np.asarray(getattr(again, name)), np.asarray(getattr(lines, name)))
    alone = pmap.columns.covariance - jnp.diag(lines.variance)
    np.testing.assert_allclose(np.asarray(pmap.columns.own_covariance), np.asarray(alone))
