"""The training loop: supervised on simulated patches, and on real patches without labels."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Key

from ferrojax.dataset.patches import PATCH, Recording, SimulatedPool, simulate_patches
from ferrojax.models import DisplacementNet
from ferrojax.training.domain import Domain
from ferrojax.training.losses import even_alignment, gaussian_nll, half_turn

UNIT = 0.1
"""Å per label unit: networks predict in units of 10 pm."""
CHUNK = 25
"""Steps over which curves are averaged."""
REAL = 1024
"""Real patches that training draws from, resampled to this number so that no image needs its own compilation."""


class Settings(eqx.Module):
    """Of one training run; all static.

    consistency, alignment: weights of the two losses on real patches beside the supervised loss.
    """

    steps: int = eqx.field(static=True)
    batch: int = eqx.field(static=True, default=256)
    rate: float = eqx.field(static=True, default=2e-3)
    decay: float = eqx.field(static=True, default=1e-4)
    consistency: float = eqx.field(static=True, default=0.0)
    alignment: float = eqx.field(static=True, default=0.0)
    seed: int = eqx.field(static=True, default=0)


def draw(key: Key[Array, ""], pool: SimulatedPool, domain: Domain, n: int):
    """n labelled patches as `domain` records them: (patches, displacement in label units)."""
    keys = jax.random.split(key, 7)
    entry = jax.random.choice(keys[0], len(domain.weight), (n,), p=domain.weight)
    scale = jnp.exp(domain.blur_spread * jax.random.normal(keys[1], (n, 1)))
    level = jnp.exp(domain.noise_spread * jax.random.normal(keys[2], (n, 1, 1)))
    recording = Recording(
        blur=domain.blur[entry] * scale,
        jitter=domain.jitter * jax.random.uniform(keys[3], (n,)),
        strain=domain.strain * jax.random.normal(keys[4], (n, 3)),
        centre=domain.centre * jax.random.normal(keys[5], (n, 2)),
        noise=domain.noise * level,
    )
    patches, label = simulate_patches(keys[6], pool, entry, recording)
    return patches, label / UNIT


def train(
    model: DisplacementNet,
    pool: SimulatedPool,
    domain: Domain,
    settings: Settings,
    real: Float[np.ndarray, "n p p"] | None = None,
    on_step: Callable[[int], None] = lambda _: None,
) -> dict[str, tuple[list[int], list[float]]]:
    """Train in place; returns curves name -> (steps, values), averaged over CHUNK steps.

    real: unlabelled patches, needed where consistency or alignment has weight.
    """
    joint = settings.consistency > 0 or settings.alignment > 0
    if joint and real is None:
        raise ValueError("a joint loss needs real patches")
    rng = np.random.default_rng(settings.seed)
    unlabelled = (
        jnp.zeros((REAL, PATCH, PATCH)) if real is None else jnp.asarray(real[rng.integers(0, len(real), REAL)])
    )
    graph, parameters = nnx.split(model)
    state = (parameters, _optimiser(settings).init(parameters))
    key = jax.random.key(settings.seed)
    curves: dict[str, tuple[list[int], list[float]]] = {}
    window: list[dict[str, Array]] = []
    for i in range(settings.steps):
        state, terms = _step(graph, settings, state, jax.random.fold_in(key, i), pool, domain, unlabelled)
        window.append(terms)
        if (i + 1) % CHUNK == 0:
            for name in terms:
                steps, means = curves.setdefault(name, ([], []))
                steps.append(i + 1)
                means.append(float(np.mean([w[name] for w in window])))
            window = []
            on_step(i + 1)
    nnx.update(model, state[0])
    return curves


def _optimiser(settings: Settings) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(0.0, settings.rate, min(100, settings.steps // 5), settings.steps)
    return optax.adamw(schedule, weight_decay=settings.decay)


@partial(jax.jit, static_argnums=(0, 1))
def _step(graph, settings: Settings, state, key, pool: SimulatedPool, domain: Domain, unlabelled):
    """One step: (parameters, optimiser state) and the loss terms. XLA's CPU convolutions crawl inside a scan."""
    parameters, moments = state
    draw_key, pick_key, shift_key = jax.random.split(key, 3)
    patches, label = draw(draw_key, pool, domain, settings.batch)

    def loss(parameters):
        model = nnx.merge(graph, parameters)
        mean, factor = model(patches)
        nll = gaussian_nll(mean, factor, label).mean()
        terms = {"supervised": nll, "rmse_pm": 100 * UNIT * jnp.sqrt(((mean - label) ** 2).mean())}
        total = nll
        if settings.consistency > 0 or settings.alignment > 0:
            pick = jax.random.randint(pick_key, (settings.batch // 4,), 0, len(unlabelled))
            consistency, alignment = _real_terms(model, patches, unlabelled[pick], shift_key)
            terms |= {"consistency": consistency, "alignment": alignment}
            total += settings.consistency * consistency + settings.alignment * alignment
        return total, terms

    gradient, terms = jax.grad(loss, has_aux=True)(parameters)
    updates, moments = _optimiser(settings).update(gradient, moments, parameters)
    return (optax.apply_updates(parameters, updates), moments), terms


def _real_terms(model, simulated, real, key):
    """Consistency under a half turn with a sub-pixel shift of the crop; alignment of half-turn-even features."""
    moved = _shifted(half_turn(real), 0.1 * jax.random.normal(key, (len(real), 2)))
    mean, factor = model(real)
    opposite, _ = model(moved)
    scale = jnp.sqrt((factor**2).sum((1, 2)) / 2)[:, None]
    consistency = (((mean + opposite) / jax.lax.stop_gradient(scale)) ** 2).mean()
    n = len(real)
    even = [(model.features(p) + model.features(half_turn(p))) / 2 for p in (simulated[:n], real)]
    return consistency, even_alignment(*even)


def _shifted(patches: Float[Array, "n p p"], shift: Float[Array, "n 2"]) -> Float[Array, "n p p"]:
    """Patches moved by a fraction of a pixel (x, y), linearly interpolated, the edge repeated."""
    from_x, from_y = (jnp.pad(patches, ((0, 0), *pad), mode="edge") for pad in (((0, 0), (1, 1)), ((1, 1), (0, 0))))
    sx, sy = shift[:, 0, None, None], shift[:, 1, None, None]
    dx = (from_x[:, :, 2:] - from_x[:, :, :-2]) / 2
    dy = (from_y[:, 2:] - from_y[:, :-2]) / 2
    return patches - sx * dx - sy * dy


def half_turn_average(model: DisplacementNet, patches: Float[Array, "n p p"]) -> tuple[Array, Array]:
    """Mean (n, 2) and covariance (n, 2, 2), in label units, averaged over the patch and its half turn.

    What the two answers disagree by is added to the covariance.
    """
    (mean, factor), (turned, turned_factor) = model(patches), model(half_turn(patches))
    disagreement = (mean + turned) / 2
    covariance = (factor @ factor.mT + turned_factor @ turned_factor.mT) / 2
    return (mean - turned) / 2, covariance + disagreement[:, :, None] * disagreement[:, None, :]


def spread_scale(model: DisplacementNet, pool: SimulatedPool, domain: Domain, seed: int, n: int = 2048) -> float:
    """Factor for the standard deviations of `half_turn_average` that makes the mean squared Mahalanobis distance 2.

    Measured on supercells that training did not see.
    """
    patches, label = draw(jax.random.key(seed), pool, domain, n)
    mean, covariance = half_turn_average(model, patches)
    error = label - mean
    distance = (error * jnp.linalg.solve(covariance, error[..., None])[..., 0]).sum(1)
    return float(jnp.sqrt(distance.mean() / 2))
