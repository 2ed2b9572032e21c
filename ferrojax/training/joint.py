"""Training by stages: one network on simulation, then adapted copies, each jointly with an unlabelled image."""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from ferrojax.dataset import SimulatedSet
from ferrojax.dataset.patches import PATCH, build_pool
from ferrojax.models import DisplacementNet
from ferrojax.training.domain import Domain, matched_domain, prior_domain
from ferrojax.training.loop import Settings, spread_scale, train

HELD_OUT = 8
"""Every so many supercells, one is kept from training to calibrate the error bars."""


class Schedule(eqx.Module):
    """Steps and loss weights. base: on simulation; final: more of it, or jointly with an unlabelled image."""

    base: int = eqx.field(static=True, default=1500)
    final: int = eqx.field(static=True, default=600)
    batch: int = eqx.field(static=True, default=256)
    consistency: float = eqx.field(static=True, default=0.1)
    alignment: float = eqx.field(static=True, default=0.5)


class Trained(eqx.Module):
    """A network, the factor for its error bars, its training curves and what was found about its target."""

    model: DisplacementNet
    spread_scale: float
    curves: dict[str, tuple[list[int], list[float]]]
    found: dict[str, float]


def train_jointly(
    simulated: SimulatedSet,
    targets: Mapping[str, Float[np.ndarray, "n p p"]],
    cell: float,
    schedule: Schedule,
    seed: int,
    on_step: Callable[[str, int], None] = lambda *_: None,
) -> dict[str, Trained]:
    """ "simulation_only" and one joint network for each unlabelled target (name -> normalised patches).

    All share a base trained on the simulation prior, and all take the same number of steps after it. The joint
    loss is supervised + consistency·c + alignment·a: the supervised part draws simulations as the target's
    matched domain records them; c and a see the target's patches, never a label. cell: Å.
    """
    held = simulated.specimen % HELD_OUT == HELD_OUT - 1
    pool, unseen = build_pool(simulated.subset(~held)), build_pool(simulated.subset(held))
    model = DisplacementNet(PATCH, rngs=nnx.Rngs(seed))
    prior = prior_domain(pool, seed)
    base = Settings(schedule.base, schedule.batch, seed=seed)
    curves = train(model, pool, prior, base, on_step=lambda i: on_step("base", i))
    graph, state = nnx.split(model)

    def finish(name: str, domain: Domain, unseen_domain: Domain, patches=None, found=None) -> Trained:
        copy = nnx.merge(graph, jax.tree.map(lambda x: x, state))
        weights = {} if patches is None else {"consistency": schedule.consistency, "alignment": schedule.alignment}
        settings = Settings(schedule.final, schedule.batch, 1e-3, seed=seed + 1, **weights)
        own = train(copy, pool, domain, settings, patches, lambda i: on_step(name, i))
        scale = spread_scale(copy, unseen, unseen_domain, seed + 2)
        return Trained(copy, scale, _appended(curves, own, schedule.base), found or {})

    trained = {"simulation_only": finish("simulation_only", prior, prior_domain(unseen, seed))}
    for name, patches in targets.items():
        domain, found = matched_domain(pool, patches, cell, name)
        unseen_domain, _ = matched_domain(unseen, patches, cell, name, effective=0.2)
        trained[name] = finish(name, domain, unseen_domain, patches, found)
    return trained


def _appended(first, second, offset: int) -> dict[str, tuple[list[int], list[float]]]:
    """Curves of two stages in one."""
    out = {}
    for name in second:
        steps, values = second[name]
        before = first.get(name, ([], []))
        out[name] = (before[0] + [s + offset for s in steps], before[1] + values)
    return out
