"""From a plan to a predictor: data set, patches, domain matching, training, checkpoints, prediction, scores."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ferrojax.data import data_file
from ferrojax.dataset import PARAMETERS, SimulatedSet, TrainingPlan, generate, read_plan
from ferrojax.dataset.patches import AXIS, PATCH, Recording, build_pool, extract_patches, normalised, simulate_patches
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.inference import MadeFor, NetworkPredictor, Truth, no_signal
from ferrojax.models import DisplacementNet
from ferrojax.polarization import CellFrames
from ferrojax.training import Domain, Settings, draw, load_model, matched_domain, prior_domain, save_model, train
from ferrojax.training.domain import noise_spectrum, white_noise
from ferrojax.training.losses import even_alignment, gaussian_nll, half_turn

PLAN = TrainingPlan(
    crystal="BaTiO3",
    cells=2,
    thicknesses=(4.0, 8.0),
    detector=(60, np.inf),
    semiangle=(19, 22),
    defocus=(0, 20),
    astigmatism=(0, 10),
    coma=(0, 100),
    optics=2,
    tilt_max=3.0,
    mean_displacement_pm=(5, 15),
    spread_pm=5.0,
    mode_scale=(0.8, 1.2),
    thermal_scale=(1, 1),
    count=2,
    seed=1,
)
BLOB = 0.45  # Å, rms width of the phantom's columns


def phantom(n: int = 24) -> SimulatedSet:
    """Supercells of Gaussian columns whose labels are exact: what a network can be trained on in seconds."""
    rng = np.random.default_rng(0)
    displacement = rng.normal(size=(n, 2, 2, 3)) * 0.12
    k = np.fft.fftfreq(24, 8 / 24)
    envelope = np.exp(-2 * np.pi**2 * BLOB**2 * (k[:, None] ** 2 + k[None] ** 2))
    images = []
    for d in displacement:
        spectrum = 0
        for row in range(2):
            for col in range(2):
                a = np.array([4.0 * col, 4.0 * row])
                for z, (x, y) in ((1.0, a), (0.5, a + 2 + d[row, col, :2])):
                    spectrum = spectrum + z * np.exp(-2j * np.pi * (k[None] * x + k[:, None] * y))
        images.append(1 + np.fft.ifft2(spectrum * envelope).real * 100)
    parameter = np.zeros((n, len(PARAMETERS)))
    return SimulatedSet(
        np.array(images, np.float32)[:, None], displacement.astype(np.float32), np.array([100.0], np.float32),
        parameter.astype(np.float32), np.arange(n), 8.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pool():
    return build_pool(phantom())


@pytest.fixture(scope="module")
def simulated():
    return generate(PLAN, range(2), 0)


def clean_recording(n: int, blur: float = 0.0, noise: float = 0.0) -> Recording:
    zeros = jnp.zeros
    level = jnp.full((n, PATCH, PATCH), noise)
    return Recording(jnp.tile(jnp.array([blur, blur, 0.0]), (n, 1)), zeros(n), zeros((n, 3)), zeros((n, 2)), level)


def test_same_seed_same_set_whole_or_in_parts(simulated):
    again = generate(PLAN, [1], 0)
    np.testing.assert_array_equal(simulated.image[2:], again.image)
    assert simulated.image.shape == (4, 2, 24, 24)
    assert (np.diff(simulated.image.mean((2, 3)), axis=1) > 0).all()  # thicker scatters more
    assert np.abs(generate(PLAN, [1], 1).image - again.image).max() > 1e-4


def test_set_survives_saving(simulated, tmp_path):
    simulated.save(tmp_path / "set.npz")
    loaded = SimulatedSet.load(tmp_path / "set.npz")
    np.testing.assert_allclose(loaded.image, simulated.image, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(loaded.displacement, simulated.displacement)
    joined = loaded.join(loaded)
    assert len(set(joined.specimen)) == 4


def test_the_shipped_plan_and_set_belong_together():
    plan, shipped = read_plan(data_file("bto_training.yaml")), SimulatedSet.load(data_file("bto_training_set.npz"))
    assert len(set(shipped.specimen)) == plan.count
    np.testing.assert_allclose(shipped.thickness, plan.thicknesses)
    assert data_file("bto_training_set.npz").stat().st_size < 5e6


def test_pool_orientations_are_the_simulated_physics(pool):
    """In every orientation a patch shows B where its label says: the brightest pixel of the centre moves with it."""
    entry = jnp.arange(0, len(pool.source), 3)
    patches, label = simulate_patches(jax.random.key(0), pool, entry, clean_recording(len(entry)))
    middle = np.abs(AXIS) < 1.2
    centre = np.asarray(patches)[:, middle][:, :, middle]
    weight = np.maximum(centre - centre.min((1, 2), keepdims=True), 0) ** 4
    x, y = np.meshgrid(AXIS[middle], AXIS[middle])
    found = np.stack([(weight * c).sum((1, 2)) / weight.sum((1, 2)) for c in (x, y)], -1)
    slope = (found * np.asarray(label)).sum(0) / (np.asarray(label) ** 2).sum(0)
    assert np.corrcoef(found.ravel(), np.asarray(label).ravel())[0, 1] > 0.99
    np.testing.assert_allclose(slope, 1, atol=0.15)


def test_pool_images_are_centred_on_their_a_columns_as_seen():
    """Shifting every column by the same amount, as tilt does, must change no patch."""
    still = phantom(4)
    moved = SimulatedSet(
        np.roll(still.image, (1, -1), (2, 3)),  # 0.33 Å each way
        *(getattr(still, n) for n in ("displacement", "thickness", "parameter", "specimen", "box")),
    )
    a, b = (np.asarray(build_pool(s).spectrum) for s in (still, moved))
    np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(a).max())


def test_patches_of_an_image_are_those_of_the_simulation(pool):
    """The same cell through an Image on a rotated, anisotropic pixel grid and straight from the pool."""
    patches, _ = simulate_patches(jax.random.key(1), pool, jnp.array([0]), clean_recording(1, 0.2))
    theta = 0.1
    rotation = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    frame = np.diag([1 / 0.15, 1 / 0.17]) @ rotation
    spectrum = np.asarray(pool.spectrum[0])
    k = np.fft.fftfreq(24, 8 / 24)
    spectrum = spectrum * np.exp(-2 * np.pi**2 * 0.2 * (k[:, None] ** 2 + k[None] ** 2))
    cols, rows = np.meshgrid(np.arange(110), np.arange(110))
    xy = np.stack([cols - 55, rows - 55], -1) @ np.linalg.inv(frame).T
    best = np.inf
    for cell in ((2, 2), (6, 2), (2, 6), (6, 6)):
        x, y = xy[..., 0] + cell[0], xy[..., 1] + cell[1]
        ey, ex = np.exp(2j * np.pi * y[..., None] * k), np.exp(2j * np.pi * x[..., None] * k)
        image = np.einsum("rcy,yx,rcx->rc", ey, spectrum, ex).real
        seen = extract_patches(Image(image, (0.17, 0.15)), jnp.array([[55.0, 55.0]]), jnp.asarray(frame))
        best = min(best, np.abs(seen - np.asarray(patches)).max())
    assert best < 0.02


def test_noise_is_measured_as_it_was_made(pool):
    entry = jnp.zeros(600, int)
    noise = white_noise(0.2, 0.2)
    recording = eqx.tree_at(lambda r: r.noise, clean_recording(600), jnp.tile(noise, (600, 1, 1)))
    patches, _ = simulate_patches(jax.random.key(2), pool, entry, recording)
    measured = noise_spectrum(np.asarray(patches))
    clean = 1 / np.sqrt(1 + 0.2**2)  # patches are scaled to unit variance, noise included
    assert np.sqrt((measured**2).mean()) == pytest.approx(0.2 * clean, rel=0.08)
    assert measured[0, 2] > 3 * measured[0, 12]


def test_matching_finds_the_hidden_blur_and_ignores_polarization(pool):
    entry = jnp.arange(200)
    sharp, _ = simulate_patches(jax.random.key(3), pool, entry, clean_recording(200, 0.2))
    domain, found = matched_domain(pool, np.asarray(sharp), 4.0, "phantom")
    assert found["source_rms_x_A"] == pytest.approx(np.sqrt(0.2), abs=0.06)
    assert float(domain.weight.sum()) == pytest.approx(1, abs=1e-5)
    turned, _ = matched_domain(pool, np.asarray(half_turn(sharp)), 4.0, "turned")
    np.testing.assert_allclose(turned.weight, domain.weight, rtol=0.05, atol=1e-6)


def test_likelihood_is_that_of_a_gaussian():
    factor = jnp.array([[[0.5, 0.0], [0.3, 0.8]]])
    mean, label = jnp.array([[0.1, -0.2]]), jnp.array([[0.4, 0.3]])
    covariance = np.asarray(factor[0] @ factor[0].T)
    r = np.asarray(label - mean)[0]
    expected = 0.5 * r @ np.linalg.solve(covariance, r) + 0.5 * np.log(np.linalg.det(covariance))
    assert float(gaussian_nll(mean, factor, label)[0]) == pytest.approx(expected, rel=1e-5)


def test_alignment_is_zero_for_equal_sets_only():
    x = jax.random.normal(jax.random.key(0), (64, 8))
    assert float(even_alignment(x, x)) == 0
    assert float(even_alignment(x, x + 1)) > 0.5


@pytest.fixture(scope="module")
def network(pool):
    """Trained for seconds on phantoms with a little noise, jointly with unlabelled patches."""
    domain = prior_domain(pool, 0, noise_level=(0.02, 0.06))
    real = np.asarray(draw(jax.random.key(9), pool, domain, 256)[0])
    model = DisplacementNet(PATCH, rngs=nnx.Rngs(0))
    settings = Settings(400, batch=64, consistency=0.05, alignment=0.1)
    return model, train(model, pool, domain, settings, real), domain


@pytest.mark.study
def test_training_learns_the_displacement(network, pool):
    model, curves, domain = network
    assert set(curves) == {"supervised", "rmse_pm", "consistency", "alignment"}
    patches, label = draw(jax.random.key(10), pool, domain, 400)
    mean, factor = model(patches)
    error = float(jnp.sqrt(((mean - label) ** 2).mean()))
    assert error < 0.35 * float(jnp.sqrt((label**2).mean()))
    z = (label - mean)[:, 0] / factor[:, 0, 0]
    assert 0.5 < float(jnp.std(z)) < 2


def test_same_seed_same_network(pool):
    domain = prior_domain(pool, 0)
    means = []
    for _ in range(2):
        model = DisplacementNet(PATCH, rngs=nnx.Rngs(3))
        train(model, pool, domain, Settings(3, batch=16))
        means.append(np.asarray(model(jnp.ones((1, PATCH, PATCH)))[0]))
    np.testing.assert_array_equal(*means)


def test_checkpoint_restores_the_network(network, tmp_path):
    save_model(tmp_path / "model", network[0])
    patch = jax.random.normal(jax.random.key(0), (2, PATCH, PATCH))
    np.testing.assert_array_equal(load_model(tmp_path / "model")(patch)[0], network[0](patch)[0])
    with pytest.raises(InputError, match="checkpoint"):
        load_model(tmp_path / "nothing")


def test_a_checkpoint_is_replaced_and_nothing_else_is(network, tmp_path):
    patch = jax.random.normal(jax.random.key(0), (2, PATCH, PATCH))
    save_model(tmp_path / "model", DisplacementNet(PATCH, rngs=nnx.Rngs(7)))
    save_model(tmp_path / "model", network[0])
    np.testing.assert_array_equal(load_model(tmp_path / "model")(patch)[0], network[0](patch)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(InputError, match="path: holds something that is no checkpoint"):
            save_model(tmp_path / name, network[0])
    assert (tmp_path / "mine" / "work.txt").read_text() == "x"


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    save_model(tmp_path / "narrow", DisplacementNet(PATCH, 32, rngs=nnx.Rngs(0)))
    save_model(tmp_path / "small", DisplacementNet(PATCH - 8, rngs=nnx.Rngs(0)))
    (tmp_path / "empty").mkdir()
    for name, problem in (("narrow", "shapes|fit"), ("small", "shapes|fit"), ("empty", "checkpoint")):
        with pytest.raises(InputError, match=f"model: .*({problem})"):
            load_model(tmp_path / name)


def test_a_network_maps_what_it_was_made_for(network):
    """A network answers for any patch; cells of another crystal, zone axis or mode are refused with the reason."""
    predictor = NetworkPredictor(network[0], 1.0, "test", MadeFor("BaTiO3"))
    centre = jnp.array([[30.0, 30.0]])
    image = Image(jax.random.normal(jax.random.key(0), (60, 60)), (0.2, 0.2))

    def cells(crystal="BaTiO3", zone="0 0 1", mode="HAADF"):
        one = jnp.eye(2)
        return CellFrames(centre, 5 * one, one, jnp.zeros((1, 2)), one[None], crystal, zone, mode)

    assert predictor.predict(image, cells())[0].shape == (1, 2)
    for other in (cells("PbTiO3"), cells(zone="1 1 0"), cells(mode="ABF")):
        with pytest.raises(InputError, match=r"predictor: cannot map .* made for HAADF of BaTiO3 \[0 0 1\]"):
            predictor.predict(image, other)
    with pytest.raises(InputError, match="spread_scale"):
        NetworkPredictor(network[0], -1.0, "test", MadeFor("BaTiO3"))


def test_training_sets_keep_occupancies(monkeypatch):
    """Pb on 70 % of its sites: the specimens that are simulated say so."""
    module = sys.modules[generate.__module__]
    whole = module.material("PbTiO3")
    partly = eqx.tree_at(lambda c: c.occupancy, whole, jnp.where(jnp.array(whole.number) == 82, 0.7, whole.occupancy))
    seen = []

    class Seen(Exception):
        pass

    def simulated(atoms, *_, **__):
        seen.append(atoms)
        raise Seen

    monkeypatch.setattr(module, "material", lambda _: partly)
    monkeypatch.setattr(module, "detector_operator", simulated)
    with pytest.raises(Seen):
        generate(PLAN, [0], seed=1)
    occupancy, number = np.asarray(seen[0].occupancy), np.asarray(seen[0].number)
    np.testing.assert_allclose(occupancy[number == 82], 0.7)
    np.testing.assert_allclose(occupancy[number != 82], 1.0)


def noise_over_signal(per_cell: int) -> float:
    """Of patches of a drawn lattice of 4 Å cells, recorded with one dose per area at so many px a cell."""
    step, cells = 4.0 / per_cell, 6
    y, x = np.mgrid[: cells * per_cell, : cells * per_cell] * step
    clean = np.cos(np.pi * x / 2) + np.cos(np.pi * y / 2)
    noisy = clean + 0.05 / step * np.random.default_rng(per_cell).normal(size=clean.shape)
    at = 4.0 * np.mgrid[1:5, 1:5].reshape(2, -1).T / step
    frame = jnp.eye(2) / step
    still, shown = (extract_patches(Image(data, (step, step)), jnp.asarray(at), frame) for data in (clean, noisy))
    along = (still * shown).mean((1, 2))[:, None, None]  # both have unit variance: what is left is noise
    return float(np.sqrt(((shown / along - still) ** 2).mean()))


def test_a_finer_scan_of_the_same_dose_gives_no_noisier_patches():
    """Pixels of a finer scan hold fewer counts; patches are means over their pixel, so that only the dose counts."""
    found = [noise_over_signal(per_cell) for per_cell in (16, 24, 40, 80)]
    assert max(found) < 1.15 * min(found)


def test_patches_of_an_image_and_of_its_simulation_agree(pool):
    """The pool's own periodic image, finely drawn, cut at a cell: the low-pass is the same on both ways."""
    entry = jnp.arange(3)
    simulated, label = simulate_patches(jax.random.key(1), pool, entry, clean_recording(3))
    n, cells = 160, pool.displacement.shape[1]
    for k in range(3):
        whole = np.zeros((n, n), complex)
        half = pool.spectrum.shape[1] // 2
        index = np.r_[0:half, -half:0]
        whole[np.ix_(index, index)] = np.asarray(pool.spectrum)[k]
        data = np.tile(np.fft.ifft2(whole).real * n**2, (3, 3))
        same = np.abs(np.asarray(pool.displacement)[k] - np.asarray(label)[k]).max(-1)
        row, col = np.unravel_index(same.argmin(), same.shape)
        per_cell = n // cells
        centre = np.array([[n + (col + 0.5) * per_cell, n + (row + 0.5) * per_cell]])
        frame = np.eye(2) * n / pool.box
        found = extract_patches(Image(data, (1, 1)), jnp.asarray(centre), jnp.asarray(frame))
        np.testing.assert_allclose(found[0], simulated[k], atol=0.02)


def test_prediction_is_odd_under_the_half_turn(network, pool):
    predictor = NetworkPredictor(network[0], 1.0, "test", MadeFor("BaTiO3"))
    patches, label = draw(jax.random.key(11), pool, network[2], 200)
    displacement, covariance = predictor.predict_patches(np.asarray(patches))
    opposite, _ = predictor.predict_patches(np.asarray(half_turn(patches)))
    np.testing.assert_allclose(displacement, -opposite, atol=1e-5)
    assert np.linalg.eigvalsh(np.asarray(covariance)).min() > 0
    assert np.corrcoef(np.asarray(displacement).ravel(), np.asarray(label).ravel())[0, 1] > 0.9


def test_normalised_patches_forget_gain_and_offset():
    patches = jax.random.normal(jax.random.key(0), (3, PATCH, PATCH))
    np.testing.assert_allclose(normalised(1e4 + 50 * patches), normalised(patches), atol=2e-3)


def test_no_signal_baseline_is_the_rms_of_the_truth():
    truth = Truth(np.zeros((2, 2)), np.array([[0.1, 0.0], [0.0, -0.1]]))
    assert no_signal(truth)["rmse"] == pytest.approx(10 / np.sqrt(2))


@pytest.mark.parametrize(
    ("text", "match"),
    [("a: [", "cannot be read"), ("- 1", "no mapping"), ("crystal: BaTiO3\ncount: -1", "plan field")],
)
def test_bad_plans_name_the_field(tmp_path, text, match):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(InputError, match=match):
        read_plan(tmp_path / "plan.yaml")


def test_domain_is_a_pytree_of_numbers(pool):
    assert isinstance(prior_domain(pool, 0), Domain)
