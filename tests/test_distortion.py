"""Drift and line jitter put into phantoms come out again, within the errors that are stated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.acquisition import ScanGeometry, expose, scan_positions
from ferrojax.columns import (
    Calibration,
    Columns,
    ColumnShape,
    common_misfit,
    corrected_positions,
    displacement_jitter,
    estimate_drift,
    estimate_jitter,
    lattice_deviation,
    line_offsets,
    rendered_columns,
    resampled_lines,
    scan_distortion,
    variance_split,
)
from ferrojax.columns.distortion.jitter import line_weights
from ferrojax.columns.distortion.smoothing import LineValues, Strength, likeliest, smoothed
from ferrojax.errors import InputError
from ferrojax.image import Image

SHAPE, GAP, WIDTH, GROUND = (200, 220), 16.0, 2.6, 0.2


def lattice(angle: float):
    """Indices (n, 2) and positions px (n, 2) of a square lattice that reaches over the image's edges."""
    a = np.deg2rad(angle)
    vectors = GAP * np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    index = np.stack(np.meshgrid(np.arange(-30, 40), np.arange(-30, 40)), -1).reshape(-1, 2)
    position = index @ vectors + (5.0, 6.0)
    near = ((position > -12) & (position < np.array(SHAPE[::-1]) + 12)).all(1)
    return index[near], position[near]


def scene(where):
    """Intensity of the columns, of height 1 on a ground, at specimen positions (rows, cols, 2) px, and the lattice."""
    index, position = lattice(7.0)
    image = np.full(where.shape[:2], GROUND)
    for x, y in position:
        rows = slice(max(int(y) - 16, 0), max(int(y) + 17, 0))
        part = where[rows]
        image[rows] += np.exp(-((part[..., 0] - x) ** 2 + (part[..., 1] - y) ** 2) / 2 / WIDTH**2)
    return image, index, position


def recorded(seed: int, jitter: float, drift: float = 0.0, dose: float = 500.0):
    """A scan with line jitter along x and a smooth drift: counts, clean image, apparent shift (rows, 2), lattice."""
    key, noise = jax.random.split(jax.random.key(seed))
    one = jnp.ones(2)
    geometry = ScanGeometry(SHAPE, one, jnp.zeros(()), jnp.asarray(jitter), jnp.zeros(2))
    where = np.asarray(scan_positions(key, geometry), float)
    t = np.arange(SHAPE[0]) / SHAPE[0]
    smooth = drift * np.stack([np.sin(2 * np.pi * 1.3 * t), 0.6 * np.cos(2 * np.pi * t)], -1)
    lines = np.array([0.0, 1.0]) * np.arange(SHAPE[0])[:, None]
    shift = smooth - (where[:, 0] - lines)  # the probe to the right: columns to the left
    image, index, position = scene(where - smooth[:, None])
    data = np.asarray(expose(noise, jnp.asarray(image), dose * float(image.mean()), 0.0), float)
    return data, image, shift, smooth, (index, position)


def fitted(data, position):
    """Columns of one known width fitted one by one on a level ground, and the model that they make."""
    start, shape, model = position + 0.0, columns_of(position), np.zeros(SHAPE)
    inside = ((position > -4) & (position < np.array(SHAPE[::-1]) + 3)).all(1)
    amplitude = np.full(len(start), np.percentile(data, 99) - np.percentile(data, 5))
    ground = np.percentile(data, 10)
    step = np.arange(-8, 9)
    for _ in range(4):
        shape = ColumnShape(*(jnp.asarray(a, jnp.float32) for a in (start, amplitude, np.full(len(start), WIDTH))))
        model = np.asarray(rendered_columns(shape, SHAPE, 14), float)
        ground = float(np.median(data - model))
        for k in np.nonzero(inside)[0]:
            x, y = np.meshgrid(step + round(start[k, 0]), step + round(start[k, 1]))
            there = (x >= 0) & (y >= 0) & (x < SHAPE[1]) & (y < SHAPE[0])
            dx, dy = x[there] - start[k, 0], y[there] - start[k, 1]
            own = np.exp(-(dx**2 + dy**2) / 2 / WIDTH**2)
            window = np.exp(-(dx**2 + dy**2) / 2 / 25)
            design = np.stack([amplitude[k] * dx / WIDTH**2 * own, amplitude[k] * dy / WIDTH**2 * own, own], 1)
            rest = (data - model)[y[there], x[there]] - ground
            change = np.linalg.lstsq(design * window[:, None], rest * window, rcond=None)[0]
            start[k] += np.clip(change[:2], -1, 1)
            amplitude[k] += change[2]
    return start, shape, np.asarray(model + ground), inside


@pytest.fixture(scope="module")
def phantom():
    data, clean, shift, smooth, (index, position) = recorded(seed=0, jitter=0.25, drift=1.0)
    found, shape, model, inside = fitted(data, position)
    return {"data": data, "clean": clean, "shift": shift, "smooth": smooth, "index": index,
            "found": found, "shape": shape, "model": model, "inside": inside}  # fmt: skip


def test_jitter_comes_back_within_its_error(phantom):
    jitter = estimate_jitter(phantom["data"], phantom["model"], phantom["shape"], drift=phantom["smooth"])
    true = (phantom["shift"] - phantom["smooth"])[:, 0]
    assert float(jitter.rms[0]) == pytest.approx(true.std(), abs=3 * float(jitter.rms_error[0]))
    assert float(jitter.rms_error[0]) < 0.15 * true.std()
    assert float(jitter.rms[1]) < 0.06  # there is none along y
    lines = slice(10, -10)
    off = (np.asarray(jitter.shift)[:, 0] - true)[lines]
    stated = np.sqrt((np.asarray(jitter.shift_error)[lines, 0] ** 2).mean())
    assert off.std() < 0.4 * true.std()
    assert off.std() < 1.3 * stated < 3 * off.std()
    assert np.corrcoef(np.asarray(jitter.raw)[lines, 0], true[lines])[0, 1] > 0.9


def test_correcting_the_lines_restores_the_image(phantom):
    jitter = estimate_jitter(phantom["data"], phantom["model"], phantom["shape"], drift=phantom["smooth"])
    straight, _, _ = scene(np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE[::-1])), -1))
    smooth = jnp.asarray(phantom["smooth"], jnp.float32)
    recorded_clean = jnp.asarray(phantom["clean"], jnp.float32)
    inner = (slice(12, -12), slice(12, -12))
    errors = [
        np.sqrt(np.mean((np.asarray(resampled_lines(recorded_clean, shift))[inner] - straight[inner]) ** 2))
        for shift in (smooth, smooth + jitter.shift)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_what_the_columns_show_adds_to_what_the_residual_shows(phantom):
    """Deviations of the columns from their lattice hold the shift that the fit has taken up."""
    inside, smooth = phantom["inside"], phantom["smooth"]
    true = (phantom["shift"] - smooth)[:, 0]
    lattice_place = phantom["found"] - lattice(7.0)[1]
    line = np.clip(np.rint(phantom["found"][:, 1]), 0, SHAPE[0] - 1).astype(int)
    off = np.where(inside[:, None], lattice_place - smooth[line], 0.0)
    variance = np.where(inside[:, None], 0.03**2, 1e6) * np.ones((1, 2))
    images = phantom["data"], phantom["model"], phantom["shape"]
    alone = np.asarray(estimate_jitter(*images, drift=smooth).shift)[10:-10, 0]
    both = np.asarray(estimate_jitter(*images, deviation=(off, variance), drift=smooth).shift)[10:-10, 0]
    assert (both - true[10:-10]).std() < 0.9 * (alone - true[10:-10]).std()


def test_no_jitter_is_called_none():
    data, _, _, _, (_, position) = recorded(seed=3, jitter=0.0)
    _, shape, model, _ = fitted(data, position)
    jitter = estimate_jitter(data, model, shape)
    assert float(jitter.rms[0]) < 0.03
    assert np.abs(np.asarray(jitter.shift)).max() < 0.05


@pytest.mark.parametrize("known", [False, True])
def test_drift_comes_back_within_its_error(phantom, known):
    inside, found = phantom["inside"], phantom["found"]
    covariance = np.broadcast_to(0.02**2 * np.eye(2), (inside.sum(), 2, 2))
    line = (0.25 * np.sqrt(1 / (np.sqrt(np.pi) * np.sqrt(2) * WIDTH)), 0.0) if known else (None, None)
    drift = estimate_drift(
        found[inside], covariance, phantom["index"][inside], np.zeros(inside.sum(), int), SHAPE[0], line
    )
    rows = np.arange(SHAPE[0])

    def without_line(values):  # uniform strain and shear are the lattice's own
        return values - np.polynomial.polynomial.polyval(rows, np.polynomial.polynomial.polyfit(rows, values, 1)).T

    off = without_line(np.asarray(drift.shift, float)) - without_line(phantom["smooth"])
    stated = np.sqrt((np.asarray(drift.shift_error) ** 2).mean(0))
    assert (np.sqrt((off**2).mean(0)) < 1.6 * stated + 0.01).all()
    assert (np.sqrt((off**2).mean(0)) < 0.2 * np.asarray(phantom["smooth"]).std(0)).all()
    assert (np.asarray(drift.disagreement) < 1.5 * np.asarray(drift.shift_error).mean(0) + 0.01).all()
    assert "strain gradient" in drift.caveat
    assert drift.levels(25.0)["drift_removed"][0] == pytest.approx(
        25 * float(jnp.sqrt((drift.shift[:, 0] ** 2).mean()))
    )


def test_correction_of_positions_takes_the_drift_out(phantom):
    inside = phantom["inside"]
    group = np.zeros(inside.sum(), int)
    before = lattice_deviation(phantom["found"][inside], phantom["index"][inside], group)
    shift = jnp.asarray(phantom["smooth"], jnp.float32)
    corrected = np.asarray(corrected_positions(jnp.asarray(phantom["found"][inside], jnp.float32), shift), float)
    after = lattice_deviation(corrected, phantom["index"][inside], group)
    assert after[:, 0].std() < 0.2 * before[:, 0].std()
    assert after[:, 1].std() < 0.2 * before[:, 1].std()


def test_correction_of_positions_weighs_the_lines_that_a_column_crosses(phantom):
    """True line shifts, averaged with the weights of the fit, take most of the scatter of the positions away."""
    inside, found = phantom["inside"], phantom["found"]
    away = (found[:, 1] > 10) & (found[:, 1] < SHAPE[0] - 10) & inside
    width = jnp.full(int(away.sum()), WIDTH)
    at, shift = jnp.asarray(found[away], jnp.float32), jnp.asarray(phantom["shift"], jnp.float32)
    true = lattice(7.0)[1][away]
    left = [
        (np.asarray(corrected_positions(at, s, w)) - true)[:, 0].std()
        for s, w in ((jnp.asarray(phantom["smooth"], jnp.float32), None), (shift, None), (shift, width))
    ]
    assert left[2] < 0.5 * left[0] < left[1]


def test_strain_that_the_halves_of_a_line_do_not_share_is_told():
    index, position = lattice(7.0)
    bent = position + np.stack(
        [np.zeros(len(position)), 2e-5 * (position[:, 0] - 110) * (position[:, 1] - 100) ** 2], -1
    )
    covariance = np.broadcast_to(1e-4 * np.eye(2), (len(position), 2, 2))
    drift = estimate_drift(bent, covariance, index, np.zeros(len(index), int), SHAPE[0])
    assert float(drift.disagreement[1]) > 3 * float(drift.shift_error[:, 1].mean())


def test_lattice_deviation_ignores_lattice_origin_and_outliers():
    index, position = lattice(20.0)
    group = (index.sum(1) % 3 == 0).astype(int)
    moved = position @ np.array([[1.1, 0.05], [-0.1, 0.9]]) + np.where(group[:, None] == 1, (3.0, -2.0), 0.0)
    moved[5] += 4.0
    deviation = lattice_deviation(moved, index, group)
    assert np.abs(np.delete(deviation, 5, 0)).max() < 0.05
    np.testing.assert_allclose(deviation[5], 4.0, atol=0.1)


def test_too_few_columns():
    index, position = lattice(0.0)
    few = (position[:10], np.zeros((10, 2, 2)), index[:10], np.zeros(10, int), 50)
    with pytest.raises(InputError, match="too few to follow the drift"):
        estimate_drift(*few)
    flat = np.stack([GAP * np.arange(40), np.zeros(40)], -1)
    with pytest.raises(InputError, match="span too few lines"):
        estimate_drift(flat, np.zeros((40, 2, 2)), index[:40], np.zeros(40, int), 50)


# Single operators


def columns_of(position, amplitude=1.0, width=WIDTH):
    n = len(position)
    return ColumnShape(
        jnp.asarray(position, jnp.float32), jnp.full(n, amplitude, jnp.float32), jnp.full(n, width, jnp.float32)
    )


def test_rendered_columns_are_gaussians():
    image = np.asarray(rendered_columns(columns_of([[20.3, 15.8], [-3.0, 8.0]]), (32, 40), 14))
    y, x = np.mgrid[:32, :40]
    expected = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 2 / WIDTH**2) for cx, cy in ((20.3, 15.8), (-3.0, 8.0)))
    np.testing.assert_allclose(image, expected, atol=1e-6)


@pytest.mark.study
def test_line_offsets_of_a_known_shift_and_their_gradient():
    _, position = lattice(7.0)
    shape = (80, 96)
    model = rendered_columns(columns_of(position), shape, 14)
    shift = np.array([0.02, -0.015])
    data = rendered_columns(columns_of(position + shift), shape, 14)
    fit = line_offsets(data, model, jnp.ones(shape))
    middle = np.median(np.asarray(fit.offset)[10:-10], 0)
    np.testing.assert_allclose(middle, shift, rtol=0.02)

    def first(values):
        return line_offsets(values, model, jnp.ones(shape)).offset[40, 0]

    slope = jax.grad(first)(data)
    direction = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    step = (first(data + 0.01 * direction) - first(data - 0.01 * direction)) / 0.02
    assert float((slope * direction).sum()) == pytest.approx(float(step), rel=2e-3)


def test_brightness_of_a_line_is_no_shift():
    _, position = lattice(7.0)
    model = rendered_columns(columns_of(position), (80, 96), 14) + GROUND
    gain = jnp.asarray(1 + 0.1 * np.random.default_rng(0).normal(size=(80, 1)), jnp.float32)
    assert float(jnp.abs(line_offsets(gain * model, model, jnp.ones((80, 96))).offset).max()) < 1e-3


def test_rows_of_columns_along_the_lines_say_nothing_about_y():
    _, position = lattice(0.0)
    shape = columns_of(position)
    model = np.asarray(rendered_columns(shape, SHAPE, 14), float)
    data = model + 0.05 * np.random.default_rng(1).normal(size=SHAPE)
    jitter = estimate_jitter(data, model, shape)
    assert np.isinf(np.asarray(jitter.shift_error)[:, 1]).mean() > 0.9
    assert np.isfinite(np.asarray(jitter.shift_error)[:, 0]).all()


def test_line_weights_are_those_of_least_squares():
    """The x fit of a Gaussian to an image whose lines are shifted is the weighted mean of the shifts."""
    lines = np.arange(-12.0, 13.0)
    weight = line_weights(np.array([0.3]), np.array([WIDTH]), lines[None])
    shift = np.random.default_rng(0).normal(size=25) * 1e-3
    x = np.arange(-12.0, 13.0)
    profile = np.exp(-((lines[:, None] - 0.3) ** 2 + x**2) / 2 / WIDTH**2)
    slopes = -x / WIDTH**2 * profile, -(lines[:, None] - 0.3) / WIDTH**2 * profile
    for axis, slope in enumerate(slopes):
        expected = (slope**2 * shift[:, None]).sum() / (slope**2).sum()
        assert float(weight[axis, 0] @ shift) == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(weight.sum(-1), 1)


def test_jitter_of_displacements_against_drawn_ones():
    y_b, y_a = np.array([30.2, 31.7]), np.array([[22.2, 38.2], [23.9, 39.5]])
    rms = jnp.array([0.3, 0.2])
    for correlation in (0.0, 0.8):
        generator = np.random.default_rng(0)
        noise = generator.normal(size=(4000, 60, 2))
        for r in range(1, 60):
            noise[:, r] = correlation * noise[:, r - 1] + np.sqrt(1 - correlation**2) * noise[:, r]
        drawn = noise * np.asarray(rms)
        lines = np.arange(60.0)
        parts = [line_weights(y, np.full_like(y, WIDTH), np.broadcast_to(lines, (*y.shape, 60))) for y in (y_b, y_a)]
        net = parts[0] - parts[1].mean(2)
        expected = np.stack([(drawn[..., i] @ net[i].T).var(0) for i in (0, 1)], -1)
        blank = jnp.zeros((60, 2))
        jitter = estimate_like(blank, rms, correlation)
        found = displacement_jitter(jitter, (y_b, WIDTH), (y_a, WIDTH), np.array([0.5, 0.5]))
        np.testing.assert_allclose(found, expected, rtol=0.12)


def estimate_like(blank, rms, correlation):
    from ferrojax.columns import LineJitter

    return LineJitter(blank, blank, blank, blank, rms, 0 * rms, jnp.full(2, correlation))


def test_common_misfit_finds_the_ellipticity_of_all_columns():
    _, position = lattice(7.0)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    data = np.zeros(SHAPE)
    for cx, cy in position:
        dx, dy = x - cx, y - cy
        data += np.exp(-((1.05 * dx + 0.1 * dy) ** 2 + (0.95 * dy) ** 2) / 2 / WIDTH**2)
    shape = columns_of(position)
    model = np.asarray(rendered_columns(shape, SHAPE, 14), float)
    rest = data - model
    better = rest - common_misfit(rest, shape, np.zeros(len(position), int))
    inner = (slice(12, -12), slice(12, -12))
    assert better[inner].std() < 0.2 * rest[inner].std()
    raw = [
        np.asarray(line_offsets(jnp.asarray(data), jnp.asarray(m), jnp.ones(SHAPE)).offset)[12:-12]
        for m in (model, data - better)
    ]
    assert raw[1].std() < 0.3 * raw[0].std()


def test_resampling_is_exact_for_smooth_lines_and_differentiable():
    shape = (80, 96)
    t = np.arange(80) / 80
    shift = jnp.asarray(np.stack([0.7 * np.sin(40 * t) + 0.13, 0.3 * np.sin(3 * t) + 0.15], -1), jnp.float32)
    data = jnp.asarray(np.cos(0.3 * np.arange(96))[None] * np.sin(0.25 * np.arange(80))[:, None], jnp.float32)
    still = resampled_lines(data, jnp.zeros((80, 2)))
    np.testing.assert_allclose(np.asarray(still), np.asarray(data), atol=1e-6)
    rows = np.arange(80)[:, None] - np.asarray(shift)[:, 1:]
    recorded_there = jnp.cos(0.3 * (np.arange(96) - shift[:, :1])) * jnp.sin(0.25 * rows)
    back = resampled_lines(recorded_there, shift)
    np.testing.assert_allclose(np.asarray(back)[6:-6, 6:-6], np.asarray(data)[6:-6, 6:-6], atol=2e-3)
    weight = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

    def loss(values):
        return (weight * resampled_lines(recorded_there, values)).sum()

    direction = jnp.asarray(np.random.default_rng(1).normal(size=(80, 2)), jnp.float32)
    slope = float((jax.grad(loss)(shift) * direction).sum())
    step = float(loss(shift + 1e-3 * direction) - loss(shift - 1e-3 * direction)) / 2e-3
    assert slope == pytest.approx(step, rel=0.02)


def test_nothing_compiles_twice():
    _, position = lattice(7.0)
    count = 0

    @jax.jit
    def both(data, model, shift):
        nonlocal count
        count += 1
        return line_offsets(data, model, jnp.ones_like(data)).offset, resampled_lines(data, shift)

    model = rendered_columns(columns_of(position), (80, 96), 14)
    for scale in (1.0, 1.3):
        both(scale * model, model, scale * jnp.ones((80, 2)))
    assert count == 1


def test_smoother_follows_a_curve_and_knows_its_error():
    generator = np.random.default_rng(0)
    t = np.linspace(0, 1, 120)
    curve = np.sin(5 * t)
    weight = np.where(generator.random(120) < 0.2, 0.0, 1 / 0.05**2)
    z, scatters = [], []
    for _ in range(20):
        noise = generator.normal(size=120) * np.hypot(0.05, 0.1)
        values = LineValues(np.where(weight > 0, curve + noise, 0.0), weight)
        strength = likeliest(values)
        mean, error = smoothed(values, strength)
        z.append((mean - curve) / error)
        scatters.append(strength.scatter)
    assert 0.7 < np.sqrt(np.mean(np.square(z))) < 1.4
    assert np.mean(scatters) == pytest.approx(0.1, abs=0.02)
    assert likeliest(values, 0.07) == Strength(likeliest(values, 0.07).walk, 0.07, 0.0)


def test_variance_split_adds_up():
    generator = np.random.default_rng(0)
    counting, scan, rest = 0.02**2, np.array([0.03**2, 0.0]), 0.01**2
    displacement = generator.normal(size=(4000, 2)) * np.sqrt(counting + scan + rest) + (0.1, -0.2)
    displacement[:20] += 3.0
    split = variance_split(displacement, np.broadcast_to(counting * np.eye(2), (4000, 2, 2)), scan)
    np.testing.assert_allclose(split.total, counting + scan + rest, atol=4 * split.total_error.max())
    np.testing.assert_allclose(split.rest, rest, atol=4 * split.total_error.max())
    assert split.spreads()["counting"] == pytest.approx([2.0, 2.0])
    assert variance_split(0 * displacement, np.ones((4000, 2, 2)), scan).rest.tolist() == [0, 0]


def test_distortion_of_an_image_from_its_columns(phantom):
    """Through Columns, as an image's analysis returns them."""
    inside, found, shape = phantom["inside"], phantom["found"], phantom["shape"]
    n, zero = int(inside.sum()), jnp.zeros(())
    calibration = Calibration(
        affine=0.25 * jnp.eye(2), rotation=jnp.eye(2), lattice_px=16 * jnp.eye(2), origin_px=jnp.zeros(2),
        recorded_sampling=jnp.full(2, 0.25), sampling_error=zero, anisotropy=zero, shear=zero, rotation_deg=zero,
        rms_pm=zero,
    )  # fmt: skip
    columns = Columns(
        position=jnp.asarray(0.25 * found[inside], jnp.float32), position_px=jnp.asarray(found[inside], jnp.float32),
        covariance=jnp.broadcast_to(0.005**2 * jnp.eye(2), (n, 2, 2)),
        intensity=2 * jnp.pi * WIDTH**2 * shape.amplitude[inside], width=jnp.full(n, 0.25 * WIDTH),
        residual=jnp.zeros(n), site=jnp.zeros(n, int), lattice_index=jnp.asarray(phantom["index"][inside]),
        rejection=jnp.zeros(n, int), calibration=calibration,
    )  # fmt: skip
    image = Image(jnp.asarray(phantom["data"], jnp.float32), (0.25, 0.25))
    found_distortion = scan_distortion(image, columns)
    true = phantom["shift"] - phantom["smooth"]
    assert float(found_distortion.jitter.rms[0]) == pytest.approx(true[:, 0].std(), rel=0.25)
    assert np.corrcoef(np.asarray(found_distortion.drift.shift)[:, 0], phantom["smooth"][:, 0])[0, 1] > 0.97
    unlabelled = Columns(**{**vars(columns), "calibration": None})
    with pytest.raises(InputError, match="not on a lattice"):
        scan_distortion(image, unlabelled)


@pytest.mark.parametrize("width", [None, WIDTH])
def test_gradient_of_corrected_positions(width):
    generator = np.random.default_rng(0)
    at = jnp.asarray(generator.uniform(12, 60, (20, 2)), jnp.float32)
    weight = jnp.asarray(generator.normal(size=(20, 2)), jnp.float32)
    shift, direction = jnp.asarray(generator.normal(size=(2, 72, 2)), jnp.float32)
    widths = None if width is None else jnp.full(20, width)

    def loss(values):
        return (weight * corrected_positions(at, values, widths)).sum()

    step = float(loss(shift + 0.1 * direction) - loss(shift - 0.1 * direction)) / 0.2
    assert float((jax.grad(loss)(shift) * direction).sum()) == pytest.approx(step, rel=2e-3)
