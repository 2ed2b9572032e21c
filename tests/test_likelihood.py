"""Maximum likelihood of a whole image: exact without noise, at the Cramér–Rao bound with it, honest about errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.columns import GaussianNoise, PoissonNoise, cramer_rao, find_columns
from ferrojax.columns.fitting import fisher, likelihood
from ferrojax.columns.fitting.fit import FitSettings, fit_columns
from ferrojax.columns.fitting.model import ImageModel, Parameters, plan_model
from ferrojax.columns.fitting.noise import FittedNoise, estimate_noise
from ferrojax.columns.precision import exact_bound
from ferrojax.columns.uncertainty import misfit
from ferrojax.crystal import material
from ferrojax.errors import InputError
from ferrojax.image import Image

SIZE = (90, 84)
WIDTH, GAP = 2.3, 20.0
KNOTS = 3 * GAP


def columns(seed: int = 0, gap: float = GAP) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 2) and kinds of a perovskite-like pattern, what reaches in from outside included."""
    rng = np.random.default_rng(seed)
    corner = np.stack(np.meshgrid(np.arange(-2, 11), np.arange(-2, 11)), -1).reshape(-1, 2) * gap
    position = np.concatenate([corner + 6.3, corner + 6.3 + gap / 2]) + rng.normal(size=(338, 2)) * 0.3
    kind = np.repeat([0, 1], 169)
    near = ((position > -6 * WIDTH) & (position < np.array(SIZE[::-1]) + 6 * WIDTH)).all(1)
    return position[near], kind[near]


def draw(position: np.ndarray, kind: np.ndarray, counts: float, tail: float = 0.0) -> np.ndarray:
    """Gaussians of 2 × counts and counts on a sloping ground; tail: height of a Gaussian twice as wide under each."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    amplitude = counts / (2 * np.pi * WIDTH**2) * np.where(kind == 0, 2.0, 1.0)
    image = 0.3 * amplitude.max() * (0.8 + 0.4 * y / SIZE[0])
    for (cx, cy), a in zip(position, amplitude, strict=True):
        square = ((x - cx) ** 2 + (y - cy) ** 2) / WIDTH**2
        image += a * (np.exp(-0.5 * square) + tail * np.exp(-0.125 * square))
    return image


normal_blocks, position_covariance = eqx.filter_jit(fisher.normal_blocks), eqx.filter_jit(fisher.position_covariance)


def within(position: np.ndarray, rim: float) -> np.ndarray:
    return np.all((position > rim) & (position < np.array(SIZE[::-1]) - 1 - rim), axis=1)


def started(position: np.ndarray, seed: int = 1, by: float = 0.5) -> np.ndarray:
    shift = np.random.default_rng(seed).uniform(-by, by, position.shape)
    return position + shift * within(position, 0)[:, None]


def parameters(model: ImageModel, position, amplitude, ground: float) -> Parameters:
    shape = np.zeros((len(position), 3))
    shape[:, 0] = np.log(WIDTH)
    back = np.full((model.rows.shape[1], model.cols.shape[1]), ground)
    return Parameters(*(jnp.asarray(a, jnp.result_type(float)) for a in (position, amplitude, shape, back)))


def test_without_noise_the_answer_is_exact():
    """Isolated columns: 1e-4 px in single precision."""
    position = np.array([[20.3, 21.1], [60.7, 22.4], [22.2, 63.5], [58.9, 61.8]])
    image = draw(position, np.array([0, 1, 0, 1]), 1e4)
    fit = fit_columns(image, started(position), np.zeros(4, int), FitSettings(KNOTS, reach=6.0))
    np.testing.assert_allclose(fit.position, position, atol=1e-4)
    np.testing.assert_allclose(fit.width, WIDTH, rtol=1e-3)


@pytest.mark.study
def test_neighbours_and_ground_are_fitted_at_once():
    position, kind = columns()
    fit = fit_columns(draw(position, kind, 1e4), started(position), kind, FitSettings(KNOTS, reach=6.0))
    inner = within(position, 12)
    assert inner.sum() > 15
    np.testing.assert_allclose(fit.position[inner], position[inner], atol=1e-4)


@pytest.mark.study
@pytest.mark.parametrize("noise", [None, PoissonNoise()])
def test_errors_are_those_of_the_bound_and_of_the_covariance(noise):
    position, kind = columns()
    image, inside, inner = draw(position, kind, 1e3), within(position, -0.5), within(position, 3 * WIDTH)
    model = plan_model(position[inside], SIZE, width=WIDTH, knots=KNOTS)
    amplitude = 1e3 / (2 * np.pi * WIDTH**2) * np.where(kind == 0, 2.0, 1.0)
    p = parameters(model, position[inside], amplitude[inside], 0.3 * amplitude.max())
    least = np.sqrt(np.asarray(exact_bound(model, p, PoissonNoise(), 0.1), float)[inner[inside]][:, [0, 1], [0, 1]])
    error, pull = [], []
    for seed in range(12):
        data = np.random.default_rng(seed).poisson(image).astype(float)
        fit = fit_columns(data, started(position, seed), kind, FitSettings(KNOTS, noise=noise))
        factor = misfit(data, fit.chosen(inside), kind[inside], np.ones(int(inside.sum()), bool))
        sigma = np.sqrt((fit.covariance[inside] * factor[:, None, None])[inner[inside]][:, [0, 1], [0, 1]])
        error.append((fit.position - position)[inner])
        pull.append(error[-1] / sigma)
    assert 0.88 < np.sqrt((np.square(error) / least**2).mean()) < 1.12
    share = (np.abs(pull) < 1).mean()
    assert abs(share - 0.683) < 0.06  # some 2.5 standard errors of the share


def test_noise_that_does_not_hold_widens_the_error_bars():
    position, kind = columns()
    image, inside = draw(position, kind, 1e3), within(position, -0.5)
    data = image + np.random.default_rng(0).normal(size=SIZE) * 30
    fit = fit_columns(data, started(position), kind, FitSettings(KNOTS, noise=GaussianNoise(10.0)))
    factor = misfit(data, fit.chosen(inside), kind[inside], np.ones(int(inside.sum()), bool))
    assert 7 < np.median(factor) < 11  # (30 / 10)²
    fit = fit_columns(data, started(position), kind, FitSettings(KNOTS, noise=GaussianNoise(30.0)))
    factor = misfit(data, fit.chosen(inside), kind[inside], np.ones(int(inside.sum()), bool))
    np.testing.assert_allclose(np.median(factor), 1.0)


def test_one_column_alone_has_the_textbook_variance():
    """σ²/N for a bright Gaussian without ground: E. Bettens et al., Ultramicroscopy 77, 37 (1999)."""
    model = plan_model(np.array([[20.2, 20.4]]), (41, 41), width=3.0, reach=5.5)
    p = parameters(model, [[20.2, 20.4]], [1000 / (2 * np.pi * 9)], 1e-4)
    p = eqx.tree_at(lambda q: q.shape, p, p.shape.at[0, 0].set(np.log(3.0)))
    np.testing.assert_allclose(exact_bound(model, p, PoissonNoise())[0], np.eye(2) * 9 / 1000, rtol=0.03, atol=1e-5)


@pytest.mark.study
def test_the_local_covariance_is_the_exact_one():
    position, _ = columns()
    position = position[within(position, -0.5)]
    model = plan_model(position, SIZE, width=WIDTH, knots=KNOTS)
    p = parameters(model, position, np.full(len(position), 100.0), 20.0)
    exact = np.asarray(exact_bound(model, p, PoissonNoise()), float)
    none = jnp.zeros((len(position), 6), p.position.dtype)
    local = np.asarray(position_covariance(normal_blocks(model, p, 1 / PoissonNoise().variance(model(p)), none)), float)
    inner = within(position, 10)
    np.testing.assert_allclose(local[inner], exact[inner], rtol=0.05, atol=0.03 * exact[inner].max())


def test_cut_is_the_transpose_of_add():
    position, _ = columns()
    model = plan_model(position, SIZE, width=WIDTH)
    rng = np.random.default_rng(3)
    windows = jnp.asarray(rng.normal(size=(len(position), model.window, model.window)), jnp.result_type(float))
    image = jnp.asarray(rng.normal(size=SIZE), windows.dtype)
    np.testing.assert_allclose((model.add(windows) * image).sum(), (windows * model.cut(image)).sum(), rtol=1e-4)


@pytest.mark.study
def test_the_fisher_blocks_are_those_of_automatic_differentiation():
    position = np.array([[20.0, 20.0], [31.0, 24.0]])
    model = plan_model(position, (50, 50), width=2.0, reach=6.0)
    model = eqx.tree_at(lambda m: m.halo, model, jnp.full(2, 0.2), is_leaf=lambda x: x is None)
    p = parameters(model, position, [10.0, 5.0], 1.0)
    p = eqx.tree_at(lambda q: q.shape, p, jnp.asarray([[0.7, 0.05, -0.1], [0.6, 0.0, 0.08]], p.shape.dtype))
    found = normal_blocks(model, p, jnp.ones((50, 50)), jnp.zeros((2, 6)))
    j = jax.jacfwd(model)(p)
    each = [
        jnp.concatenate([j.position[:, :, k], j.amplitude[:, :, k, None], j.shape[:, :, k]], -1).reshape(-1, 6)
        for k in (0, 1)
    ]
    for k in (0, 1):
        own = found.own[k] * found.scale[k][:, None] * found.scale[k]
        np.testing.assert_allclose(own, each[k].T @ each[k], rtol=2e-3, atol=2e-3 * float(own.max()))
    edge = np.asarray(found.edge)[0]
    pair = found.pair[0] * found.scale[edge[0]][:, None] * found.scale[edge[1]]
    expected = each[edge[0]].T @ each[edge[1]]
    np.testing.assert_allclose(pair, expected, rtol=5e-3, atol=5e-3 * float(jnp.abs(expected).max()))


def test_background_counts_every_pixel_with_its_weight():
    """Approximations here make the whole matrix indefinite, and fits creep: also at sizes no power of two divides."""
    model = plan_model(np.array([[20.0, 20.0]]), (75, 90), width=2.0, knots=17.0)
    weight = np.random.default_rng(0).uniform(0, 1, model.size) ** 4
    p = parameters(model, np.array([[20.0, 20.0]]), [1.0], 1.0)
    found = normal_blocks(model, p, jnp.asarray(weight, jnp.float32), jnp.zeros((1, 6)))
    pixels = np.einsum("ya,xb->yxab", model.rows, model.cols).reshape(weight.size, -1).astype(float)
    expected = pixels.T @ (weight.ravel()[:, None] * pixels) + np.eye(pixels.shape[1])
    block = np.asarray(found.ground * found.ground_scale[:, None] * found.ground_scale)
    np.testing.assert_allclose(block, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.study
def test_fit_of_columns_that_are_not_gaussian_settles(monkeypatch):
    """Wide tails, near neighbours, only the pixels round the columns: more rounds move no column."""
    monkeypatch.setitem(globals(), "SIZE", (110, 99))
    position, kind = columns(gap=13.0)
    image = np.random.default_rng(0).poisson(draw(position, kind, 3e3, tail=0.3)).astype(float)
    inner = within(position, 12)
    few, many = (
        fit_columns(image, started(position), kind, FitSettings(39.0, core=2.2 * WIDTH, rounds=rounds))
        for rounds in (4, 16)
    )
    np.testing.assert_allclose(few.width[inner], many.width[inner], rtol=3e-3)
    sd = np.sqrt(many.covariance[inner, 0, 0])
    assert np.abs((few.position - many.position)[inner] / sd[:, None]).max() < 0.1


def test_columns_of_a_group_share_a_width_that_is_fitted():
    """However firmly: their common shape is the data's, not that of the start."""
    position, kind = columns()
    fit = fit_columns(draw(position, kind, 1e4), started(position), kind * 0, FitSettings(KNOTS, spread=1e-3))
    inner = within(position, 12)
    np.testing.assert_allclose(fit.width[inner], WIDTH, rtol=5e-3)


def test_the_model_is_differentiable():
    position, _ = columns()
    model = plan_model(position, SIZE, width=WIDTH, knots=KNOTS)
    p = parameters(model, position, np.full(len(position), 1.0), 0.3)

    def mean(shift):
        return (model(eqx.tree_at(lambda q: q.position, p, p.position + shift)) ** 2).mean()

    slope, step = float(jax.grad(mean)(0.0)), 0.02
    np.testing.assert_allclose(slope, float(mean(step) - mean(-step)) / (2 * step), rtol=0.02, atol=1e-5)


def test_a_second_image_compiles_nothing():
    position, kind = columns()
    data = np.random.default_rng(0).poisson(draw(position, kind, 1e3)).astype(float)
    fit_columns(data, position, kind, FitSettings(KNOTS))
    before = likelihood._climb._cached._cache_size()  # pyright: ignore[reportFunctionMemberAccess]
    fit_columns(data[::-1].copy(), position * (1, -1) + (0, SIZE[0] - 1), kind, FitSettings(KNOTS))
    assert likelihood._climb._cached._cache_size() == before  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.study
def test_tails_are_found_and_do_not_pull():
    """A light column displaced among heavy ones with tails, which a fit without them draws too far."""
    position, kind = columns()
    position[kind == 1] += (1.2, 0.0)
    image = draw(position, kind, 1e4, tail=0.2)
    inner = within(position, 12) & (kind == 1)
    error = {}
    for halo in (False, True):
        fit = fit_columns(image, started(position), kind, FitSettings(KNOTS, halo=halo, rounds=8))
        error[halo] = np.abs((fit.position - position)[inner, 0]).mean()
    assert error[True] < 0.05 * error[False]


def test_variance_follows_the_intensity():
    expected = jnp.asarray(np.random.default_rng(0).uniform(10, 100, (200, 200)))
    residual = jnp.asarray(np.random.default_rng(1).normal(size=(200, 200))) * jnp.sqrt(4 + 0.5 * expected)
    found = estimate_noise(expected + residual, expected, jnp.ones_like(expected)).variance(expected)
    np.testing.assert_allclose(found, 4 + 0.5 * expected, rtol=0.12)


@pytest.mark.study
def test_bound_for_columns_of_an_image():
    y, x = np.mgrid[:120, :130].astype(float)
    image = np.full((120, 130), 40.0)
    for i in range(-1, 11):
        for j in range(-1, 11):
            image += 800 * np.exp(-0.5 * ((x - 13 * i - 5) ** 2 + (y - 13 * j - 4) ** 2) / 4)
            image += 300 * np.exp(-0.5 * ((x - 13 * i - 11.5) ** 2 + (y - 13 * j - 10.5) ** 2) / 4)
    picture = Image(np.random.default_rng(0).poisson(image).astype(float), (0.3054, 0.3054))
    found = find_columns(picture, material("PbTiO3"), noise=PoissonNoise(), core=None)
    bound = np.asarray(cramer_rao(found, picture, PoissonNoise()), float)
    stated = np.asarray(found.covariance, float)
    ratio = (stated / bound)[found.accepted][:, [0, 1], [0, 1]]
    assert 0.9 < np.median(ratio) < 1.2  # the covariance also holds what the A columns scatter beyond it
    twice = np.asarray(cramer_rao(found, picture, PoissonNoise(gain=2.0)), float)
    np.testing.assert_allclose(twice[found.accepted], 2 * bound[found.accepted], rtol=1e-3, atol=1e-9)
    with pytest.raises(InputError, match="one image"):
        cramer_rao(found, Image(np.zeros((2, 120, 130)), (0.3054, 0.3054)), PoissonNoise())


@pytest.mark.parametrize("make", [lambda: PoissonNoise(gain=-1.0), lambda: GaussianNoise(sd=float("nan"))])
def test_impossible_noise_is_refused(make):
    with pytest.raises(InputError, match="positive"):
        make()


@pytest.fixture(scope="module")
def dark_field_and_abf():
    """The same columns bright and dark, counted, with the noise of counting known."""
    from tests.lattices import STEP, counted, crystal, painted

    _, a, b = crystal()
    bright = painted((a, 0.5, 3.4), (b, 0.3, 3.0))
    images = (counted(bright), counted(1.2 - bright))
    return [
        (Image(data, (STEP, STEP)), find_columns(Image(data, (STEP, STEP)), mode=mode, noise=PoissonNoise()), a)
        for data, mode in zip(images, ("HAADF", "ABF"), strict=True)
    ]


def test_counting_noise_of_dark_columns(dark_field_and_abf):
    """Dark columns have fewer counts than their surroundings, and so less noise: errors are as stated."""
    for image, columns, true in dark_field_and_abf:
        assert columns.dark == (np.median(np.asarray(image.data)) > 400)
        here = np.asarray(columns.position_px)[columns.accepted]
        gap = here[:, None] - true[None]
        row = np.arange(len(here))
        near = np.linalg.norm(gap, axis=-1).argmin(1)
        mine = np.linalg.norm(gap[row, near], axis=1) < 3
        error = 0.1985 * gap[row, near][mine]
        sigma = np.sqrt(np.asarray(columns.covariance)[columns.accepted][mine][:, [0, 1], [0, 1]])
        assert mine.sum() > 150
        assert 0.85 < np.sqrt((error**2 / sigma**2).mean()) < 1.15
        assert isinstance(columns.noise, PoissonNoise)
        assert float(columns.noise.gain) == pytest.approx(1.0, rel=1e-4)


def test_the_bound_of_dark_columns_lies_below_their_error(dark_field_and_abf):
    for image, columns, _ in dark_field_and_abf:
        bound = np.asarray(cramer_rao(columns, image))
        kept = columns.accepted
        ratio = np.sqrt(bound[kept][:, 0, 0] / np.asarray(columns.covariance)[kept][:, 0, 0])
        assert 0.85 < np.median(ratio) < 1.05
    with pytest.raises(InputError, match="not the image of the columns"):
        cramer_rao(columns, Image(np.asarray(image.data)[:-7], image.sampling))


def test_noise_of_an_inverted_image_is_the_same_noise():
    data = jnp.array([0.5, 3.0, 10.0])
    for noise in (PoissonNoise(2.0, 0.3), GaussianNoise(3.0), FittedNoise(*jnp.array([0.1, 2.0, 0.4]))):
        turned = noise.standardised(4.0, -5.0)
        np.testing.assert_allclose(turned.variance((data - 4) / -5) * 25, noise.variance(data), rtol=1e-5)
