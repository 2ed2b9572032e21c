"""Local lattice, strain, ideal sites and the block bootstrap: formulas, invariances, drawn errors, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from ferrojax.crystal import material
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.polarization import (
    block_bootstrap,
    column_grid,
    crystal_lattice,
    displacement_operator,
    displacement_statistics,
    field_gradient,
    fit_lattice,
    lattice_angle,
    lattice_displacement,
    lattice_lengths,
    local_lattice,
    map_lattice,
    map_polarization,
    mean_lattice,
    polarization_covariance,
    projected_rotation,
    site_displacement,
    strain,
    tetragonality,
    winding_number,
)
from tests.test_columns import draw

VECTORS = np.array([[4.0, 0.1], [-0.2, 4.2]])
NOISE = np.array([[4e-4, 1e-4], [1e-4, 9e-4]])


def index_grid(rows, cols):
    y, x = np.mgrid[:rows, :cols].astype(float)
    return np.stack([x, y], -1)


def columns(rows=8, cols=9, vectors=VECTORS):
    position = index_grid(rows, cols) @ vectors + [3.0, 5.0]
    return position, np.broadcast_to(NOISE, (rows, cols, 2, 2)), np.ones((rows, cols), bool)


def draws(count=3000, shape=(3, 3)):
    generator = np.random.default_rng(5)
    return generator.multivariate_normal([0, 0], NOISE, (count, *shape))


def test_lengths_angle_and_ratio_of_a_plain_lattice():
    lattice = local_lattice(*columns())
    assert lattice.valid.shape == (7, 8)
    length = np.linalg.norm(VECTORS, axis=1)
    np.testing.assert_allclose(np.asarray(lattice_lengths(lattice)[0]), np.broadcast_to(length, (7, 8, 2)), rtol=1e-5)
    cosine = VECTORS[0] @ VECTORS[1] / length.prod()
    np.testing.assert_allclose(np.asarray(lattice_angle(lattice)[0]), np.degrees(np.arccos(cosine)), rtol=1e-4)
    np.testing.assert_allclose(np.asarray(tetragonality(lattice)[0]), length[1] / length[0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(tetragonality(lattice, 0)[0]), length[0] / length[1], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(mean_lattice(lattice)), VECTORS, atol=1e-4)


@pytest.mark.parametrize("stencil", ["plaquette", "cross"])
def test_errors_of_the_lattice_against_draws(stencil):
    position, covariance, valid = columns(3, 3)
    clean = local_lattice(position, covariance, valid, stencil)
    at = (1, 1)
    noisy = jax.vmap(lambda p: local_lattice(p, covariance, valid, stencil))(jnp.asarray(position + draws()))
    flat = np.asarray(noisy.vectors)[:, *at].reshape(-1, 4)
    np.testing.assert_allclose(np.cov(flat.T), np.asarray(clean.covariance[at]), atol=4e-5)
    for operator in (lattice_angle, tetragonality):
        value, _ = jax.vmap(operator)(noisy)
        np.testing.assert_allclose(np.asarray(value)[:, *at].var(), float(operator(clean)[1][at]), rtol=0.1)
    found = jax.vmap(lambda each: strain(each, VECTORS))(noisy)
    drawn = np.concatenate([np.asarray(found.tensor)[:, *at], np.asarray(found.rotation)[:, *at][:, None]], 1)
    expected = np.asarray(strain(clean, VECTORS).covariance[at])
    np.testing.assert_allclose(np.cov(drawn.T) / np.sqrt(np.outer(*[expected.diagonal()] * 2)),
                               expected / np.sqrt(np.outer(*[expected.diagonal()] * 2)), atol=0.1)  # fmt: skip


def test_missing_columns_leave_their_cells_out():
    position, covariance, valid = columns()
    valid = valid.copy()
    valid[3, 4] = False
    position = np.where(valid[..., None], position, np.nan)
    plaquettes = local_lattice(position, covariance, valid)
    assert (~np.asarray(plaquettes.valid)).sum() == 4
    crosses = local_lattice(position, covariance, valid, "cross")
    assert int(crosses.valid.sum()) == 6 * 7 - 4
    for lattice in (plaquettes, crosses):
        np.testing.assert_array_equal(np.isnan(np.asarray(lattice_lengths(lattice)[0]))[..., 0], ~lattice.valid)
        found = strain(lattice, VECTORS)
        np.testing.assert_array_equal(np.isnan(np.asarray(found.tensor)).any(-1), ~lattice.valid)
        np.testing.assert_allclose(np.asarray(found.tensor)[np.asarray(lattice.valid)], 0.0, atol=1e-5)


def test_strain_and_rotation_of_a_known_deformation():
    """F = V R with 3 % and −1 % strain, 2 % shear and 6° from +x towards +y."""
    turn = np.radians(6.0)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    stretch = np.array([[1.03, 0.02], [0.02, 0.99]])
    found = strain(local_lattice(*columns(vectors=VECTORS @ (stretch @ rotation).T)), VECTORS)
    np.testing.assert_allclose(np.asarray(found.tensor), np.broadcast_to([0.03, -0.01, 0.02], (7, 8, 3)), atol=1e-5)
    np.testing.assert_allclose(np.asarray(found.rotation), 6.0, atol=1e-3)


def test_lattice_gradient_and_one_compilation():
    position, covariance, valid = columns(4, 4)
    valid = valid.copy()
    valid[0, 0] = False
    traced = []

    @jax.jit
    def loss(position):
        traced.append(1)
        lattice = local_lattice(position, covariance, valid)
        found = strain(lattice, VECTORS)
        total = jnp.nansum(found.tensor**2) + jnp.nansum(found.rotation) + jnp.nansum(tetragonality(lattice)[0] ** 2)
        local, _ = site_displacement(position, covariance, valid, radius=1)
        return total + jnp.nansum(site_displacement(position, covariance, valid)[0] ** 2) + jnp.nansum(local**2)

    with jax.enable_x64(True):
        at = jnp.asarray(position + 0.05 * draws(1, (4, 4))[0] / 0.02)
        gradient = np.asarray(jax.grad(loss)(at))
        assert np.isfinite(gradient).all()
        row, h = (2, 1, 0), 1e-5
        numeric = (float(loss(at.at[row].add(h))) - float(loss(at.at[row].add(-h)))) / (2 * h)
        np.testing.assert_allclose(gradient[row], numeric, rtol=1e-5)
    assert len(traced) == 1


@pytest.mark.parametrize("radius", [None, 1, 2])
def test_one_displaced_site_is_found_and_its_error_is_right(radius):
    position, covariance, valid = columns(7, 7)
    moved = position.copy()
    moved[3, 3] += [0.2, -0.1]
    found, _ = site_displacement(moved, covariance, valid, radius)
    # The global lattice follows the displaced site by its leverage, 1/49 in the middle.
    np.testing.assert_allclose(np.asarray(found[3, 3]), [0.2, -0.1], atol=1e-5 if radius else 0.2 / 40)
    still, expected = site_displacement(position, covariance, valid, radius)
    lonely = np.isnan(np.asarray(still)).any(-1)
    assert lonely.sum() == (4 if radius == 1 else 0)  # a corner has three neighbours
    np.testing.assert_allclose(np.asarray(still)[~lonely], 0.0, atol=1e-5)
    noisy = jnp.asarray(position + draws(4000, (7, 7)))
    drawn, _ = jax.vmap(lambda p: site_displacement(p, covariance, valid, radius))(noisy)
    for at in ((3, 3), (0, 1)):
        np.testing.assert_allclose(np.cov(np.asarray(drawn)[:, *at].T), np.asarray(expected[at]), rtol=0.1, atol=3e-5)


def test_a_local_lattice_follows_a_bend_and_gaps_are_left_out():
    position, covariance, valid = columns(9, 9)
    index = index_grid(9, 9) - 4
    bent = position + 0.002 * np.stack([index[..., 1] ** 2, 0 * index[..., 0]], -1)
    local, _ = site_displacement(bent, covariance, valid, 1)
    whole, _ = site_displacement(bent, covariance, valid)
    assert np.abs(np.asarray(local)[1:-1, 1:-1]).max() < 0.25 * np.abs(np.asarray(whole)).max()
    valid = valid.copy()
    valid[:, 1] = valid[:, 3] = False  # column 2 has neighbours in one line only
    some, _ = site_displacement(np.where(valid[..., None], bent, np.nan), covariance, valid, 1)
    assert np.isnan(np.asarray(some)[:, :4]).all()
    assert np.isfinite(np.asarray(some)[1:-1, 5:-1]).all()
    with pytest.raises(InputError, match="radius"):
        site_displacement(bent, covariance, valid, 0)


def test_a_sublattice_against_the_lattice_of_another():
    position, covariance, valid = columns(5, 6)
    index = index_grid(5, 6)
    b_index = index[:-1, :-1] + 0.5
    b_position = b_index @ VECTORS + [3.0, 5.0] + [0.15, -0.05]
    fitted = fit_lattice(position, covariance, index, valid)
    found, error = lattice_displacement(b_position, covariance[:-1, :-1], b_index, fitted)
    np.testing.assert_allclose(np.asarray(found), np.broadcast_to([0.15, -0.05], found.shape), atol=1e-5)
    noise = draws(4000, (5, 6))
    fits = jax.vmap(lambda p: fit_lattice(p, covariance, index, valid))(jnp.asarray(position + noise))
    alone = np.cov(np.asarray(b_index[0, 0] @ np.asarray(fits.coefficient)[:, 1:] + fits.coefficient[:, 0]).T)
    np.testing.assert_allclose(alone + NOISE, np.asarray(error[0, 0]), rtol=0.1)


@pytest.fixture(scope="module")
def pmap():
    image, _ = draw(b_shift=(0.12, -0.05), turn=15.0)
    noise = np.random.default_rng(0).normal(size=image.data.shape)
    return map_polarization(Image(np.asarray(image.data) + 20 * noise, (0.3, 0.3)), material("BaTiO3"))


def test_operators_compile_once():
    position, covariance, valid = map(jnp.asarray, columns(5, 5))
    index = jnp.asarray(index_grid(5, 5))
    lattice = fit_lattice(position, covariance, index, valid)
    pair, reference = position[:2, :2], jnp.eye(2)
    calls = {
        fit_lattice: (position, covariance, index, valid),
        lattice_displacement: (position, covariance, index, lattice),
        polarization_covariance: (reference, position, covariance),
        projected_rotation: (pair, covariance[:2, :2], reference),
        winding_number: (position, valid),
        field_gradient: (position, position, valid),
    }
    for operator, arguments in calls.items():
        operator(*arguments)
        size = operator._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
        operator(arguments[0] + 0.1, *arguments[1:])
        assert operator._cache_size() == size  # pyright: ignore[reportAttributeAccessIssue]


def test_gradient_of_the_covariance_and_of_a_foreign_lattice():
    position, covariance, valid = map(jnp.asarray, columns(4, 4))
    index = jnp.asarray(index_grid(4, 4))

    def loss(position, response):
        lattice = fit_lattice(position, covariance, index, valid)
        shift, error = lattice_displacement(position[:2], covariance[:2], index[:2] + 0.5, lattice)
        return (polarization_covariance(response, shift, error, 0.1) ** 2).sum()

    with jax.enable_x64(True):
        args = [jnp.asarray(np.asarray(position) + draws(1, (4, 4))[0]), jnp.asarray([[2.0, 0.1], [0.0, 1.5]])]
        gradient = jax.grad(loss, (0, 1))(*args)
        for k, at in ((0, (1, 2, 0)), (1, (0, 1))):
            up, down = (loss(*[a.at[at].add(h) if i == k else a for i, a in enumerate(args)]) for h in (1e-5, -1e-5))
            np.testing.assert_allclose(float(gradient[k][at]), float(up - down) / 2e-5, rtol=1e-6)


def test_map_lattice_lies_on_the_cells_of_the_map(pmap):
    """Lattice parameter and zero strain of a phantom, from A and from B, on the map's own grid."""
    reference = crystal_lattice(pmap)
    side = float(material("BaTiO3").cell[0, 0])
    np.testing.assert_allclose(np.linalg.norm(np.asarray(reference), axis=1), side, rtol=1e-3)
    corners = map_lattice(pmap, "A")
    np.testing.assert_array_equal(np.asarray(corners.valid)[np.asarray(pmap.valid)], True)
    for site in ("A", "B"):
        lattice = map_lattice(pmap, site)
        assert lattice.valid.shape == pmap.valid.shape
        found = strain(lattice, reference)
        inside = np.asarray(lattice.valid)
        assert inside.sum() > 50
        error = np.sqrt(np.asarray(found.covariance)[inside].diagonal(axis1=1, axis2=2))
        score = np.concatenate([np.asarray(found.tensor), np.asarray(found.rotation)[..., None]], -1)[inside] / error
        assert np.abs(score).max() < 6
        assert 0.6 < np.sqrt((score**2).mean()) < 1.4
    a = column_grid(pmap.columns, "A", pmap.first_cell, tuple(n + 1 for n in pmap.valid.shape))
    corner = a.position
    middle = (corner[:-1, :-1] + corner[1:, 1:] + corner[:-1, 1:] + corner[1:, :-1]) / 4
    there = np.asarray(pmap.valid)
    np.testing.assert_allclose(np.asarray(middle)[there], np.asarray(pmap.position)[there], atol=1e-4)
    with pytest.raises(InputError, match="labelled"):
        column_grid(pmap.columns, "O")


def correlated(seed, side, shape=(30, 30)):
    noise = np.random.default_rng(seed).normal(size=shape)
    return (uniform_filter(noise, side, mode="wrap") * side)[..., None]


@pytest.mark.parametrize("side", [1, 3, 5])
def test_block_bootstrap_finds_the_error_of_the_mean(side):
    """Against the spread of means of many maps; the standard error of independent cells is off by `side`."""
    valid = np.random.default_rng(1).random((30, 30)) > 0.1
    found = [block_bootstrap(correlated(seed, side), valid, resamples=300) for seed in range(40)]
    true = np.std([f.mean[0] for f in found])
    estimate = np.sqrt(np.mean([f.standard_error[0] ** 2 for f in found]))
    assert 0.65 < estimate / true < 1.35
    if side > 1:
        assert estimate > 1.7 / np.sqrt(valid.sum())


def test_block_bootstrap_knows_of_shared_columns():
    """Only A columns are noisy, each shared by four cells: the mean's error is σ_A/√n, twice that of free cells."""
    rows, cols, sigma = 40, 40, 0.1
    generator = np.random.default_rng(7)
    zero, weight = jnp.zeros((rows, cols, 2)), jnp.full(4, 0.25)
    covariance = jnp.broadcast_to(sigma**2 * jnp.eye(2), (rows, cols, 4, 2, 2))
    ratio, naive = [], []
    for seed in range(6):
        a = sigma * generator.normal(size=(rows + 1, cols + 1, 2))
        around = np.stack([a[:-1, :-1], a[:-1, 1:], a[1:, :-1], a[1:, 1:]], 2)
        field, error = displacement_operator(
            *map(jnp.asarray, (around, covariance, zero, 0 * covariance[:, :, 0], weight))
        )
        found = block_bootstrap(field, np.ones((rows, cols), bool), seed=seed)
        ratio.append(found.standard_error / (sigma / np.sqrt(rows * cols)))
        naive.append(np.sqrt(float(error[0, 0, 0, 0]) / (rows * cols)) / (sigma / np.sqrt(rows * cols)))
    np.testing.assert_allclose(naive, 0.5, rtol=1e-4)
    assert 0.75 < np.mean(ratio) < 1.15


def test_block_bootstrap_by_hand():
    """Blocks of one cell are the plain bootstrap; a constant field has no error; the block must fit."""
    field = correlated(3, 1)
    valid = np.ones((30, 30), bool)
    plain = block_bootstrap(field, valid, block=1, resamples=4000)
    np.testing.assert_allclose(plain.standard_error[0], field.std() / 30, rtol=0.06)
    np.testing.assert_allclose(plain.mean, field.mean((0, 1)))
    again = block_bootstrap(field + 5.0, valid, block=1, resamples=4000)
    np.testing.assert_allclose(again.standard_error, plain.standard_error)
    assert block_bootstrap(np.ones((8, 8, 2)), np.ones((8, 8), bool)).standard_error.max() == 0
    with pytest.raises(InputError, match="block"):
        block_bootstrap(field, valid, block=16)
    with pytest.raises(InputError, match="no mean"):
        block_bootstrap(field, ~valid)


def test_map_statistics_have_the_error_of_the_mean(pmap):
    found = displacement_statistics(pmap)
    assert found["block"] >= 2
    naive = found["spread"] / np.sqrt(found["n"])
    assert (found["mean_error"] > 0.5 * naive).all()
    assert (found["mean_error"] < 3 * naive).all()
    c, s = np.cos(np.radians(15.0)), np.sin(np.radians(15.0))
    truth = [12 * c + 5 * s, 12 * s - 5 * c]
    assert (np.abs(found["mean"] - truth) < 4 * found["mean_error"] + 0.1).all()
    covariance = pmap.polarization_covariance(0.1)
    assert covariance is not None
    assert pmap.response is not None
    assert pmap.polarization is not None
    at = tuple(np.argwhere(np.asarray(pmap.valid))[0])
    p, r = np.asarray(pmap.polarization[at]), np.asarray(pmap.response)
    expected = r @ np.asarray(pmap.covariance[at]) @ r.T + 0.01 * np.outer(p, p)
    np.testing.assert_allclose(np.asarray(covariance[at]), expected, rtol=1e-4)
