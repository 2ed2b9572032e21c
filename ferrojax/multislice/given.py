"""Checks of what a multislice run is given besides the specimen's own: tilt, slices, depths, and what JAX traces."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ferrojax.checks import check_numbers
from ferrojax.crystal import Atoms
from ferrojax.crystal.checks import LARGEST_RMS
from ferrojax.errors import InputError, is_traced
from ferrojax.multislice.slices import MOVED, SlicePlan

STEEPEST = 100.0
"""mrad of mis-tilt that a propagator's ramp bears: beyond, the crystal should be cut along another zone axis."""


def check_tilt(tilt: Any) -> None:
    """One tilt, (x, y) in mrad."""
    remedy = "give (x, y), e.g. (3.0, 0.0), or cut the crystal along a nearer zone axis with oriented_supercell"
    check_numbers("tilt", tilt, remedy, unit="mrad", shape=(2,), low=-STEEPEST, high=STEEPEST)


def guarded_tilt(tilt: Float[Array, "*positions 2"]) -> Float[Array, "*positions 2"]:
    """The tilt (mrad); where it is traced, its values are checked as the program runs."""
    if not is_traced(tilt):
        return tilt
    bad = ~(jnp.abs(tilt) <= STEEPEST)
    return eqx.error_if(tilt, bad.any(), f"tilt: must be finite and within {STEEPEST:g} mrad")


def plan_given(plan: Any, atoms: Atoms, slice_thickness: Any) -> SlicePlan | None:
    """A plan that was made for these atoms, with which no other slice thickness is asked for; None: to be made."""
    if not (plan is None or isinstance(plan, SlicePlan)):
        raise InputError("plan", type(plan).__name__, "is no SlicePlan", "make it with fj.plan_slices(atoms)")
    if plan is None:
        if is_traced(atoms.position):
            raise InputError("position", "traced", "cannot be sorted into slices", "pass plan=plan_slices(atoms)")
        return None
    plan.check_specimen(atoms)
    if slice_thickness is not None:
        remedy = "give it to plan_slices, or leave the plan out"
        raise InputError("slice_thickness", slice_thickness, "is the plan's when one is given", remedy)
    return plan


def guarded_atoms(atoms: Atoms, plan: SlicePlan) -> Atoms:
    """The atoms; what of them is traced is checked as the program runs."""
    position, rms, share = (jax.lax.stop_gradient(v) for v in (atoms.position, atoms.thermal_rms, atoms.occupancy))
    if is_traced(share):
        bad = ~((share >= 0) & (share <= 1 + 1e-5))
        checked = eqx.error_if(atoms.occupancy, bad.any(), "occupancy: must lie between 0 and 1")
        atoms = eqx.tree_at(lambda a: a.occupancy, atoms, checked)
    if is_traced(rms):
        bad = ~((rms >= 0) & (rms <= LARGEST_RMS))
        problem = f"thermal_rms: must lie between 0 and {LARGEST_RMS} Å per axis"
        atoms = eqx.tree_at(lambda a: a.thermal_rms, atoms, eqx.error_if(atoms.thermal_rms, bad.any(), problem))
    if is_traced(position):
        layer = jnp.arange(plan.index.shape[0])[:, None, None]
        away = jnp.abs(position[plan.index][..., 2] - (layer + 0.5) * plan.slice_thickness) - plan.slice_thickness / 2
        bad = ~jnp.isfinite(position).all() | (jnp.where(plan.present > 0, away, 0.0) > MOVED).any()
        problem = f"position: must be finite, and within {MOVED:g} Å of the slice that the plan put each atom into"
        atoms = eqx.tree_at(lambda a: a.position, atoms, eqx.error_if(atoms.position, bad, problem))
    return atoms
