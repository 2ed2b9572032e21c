"""The multislice recursion: transmit at the slice's entrance, propagate its full thickness."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ferrojax.constants import wavelength
from ferrojax.crystal import Atoms
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice.slices import SlicePlan, plan_slices
from ferrojax.multislice.transmission import SliceTables, slice_tables, slice_transmission
from ferrojax.optics import PlaneWave

Read = Callable[[Complex[Array, "batch rows cols"], Float[Array, "batch edges"]], Any]


def propagator(
    grid: Grid, energy: float, distance: float, tilt: Float[Array, "2"], limit: np.ndarray
) -> Complex[Array, "rows cols"]:
    """exp(−iπλΔz k²)·exp(−2πiΔz(kx tan tx + ky tan ty)) within the band limit; tilt (x, y) in mrad."""
    ky, kx = grid.frequencies
    slope = jnp.tan(tilt * 1e-3)
    ramp = kx[None] * slope[0] + ky[:, None] * slope[1]
    fresnel = np.exp(-1j * np.pi * wavelength(energy) * distance * grid.k**2) * limit
    return jnp.asarray(fresnel) * jnp.exp(-2j * jnp.pi * distance * ramp)


STACK_LIMIT = 2**28
"""Bytes of transmission functions that are kept for all probes; a larger specimen makes them anew per batch."""


class Slab(eqx.Module):
    """A specimen in one thermal configuration, ready to be sent waves through."""

    position: Float[Array, "atoms 3"]
    occupancy: Float[Array, " atoms"]
    plan: SlicePlan
    tables: SliceTables
    stack: tuple[Complex[Array, "slices rows cols"], Float[Array, "slices edges rows cols"] | None] | None

    def transmission(self, index, present):
        """t and the cross-sections beyond the outer angles of the slice with these atoms."""
        return slice_transmission(self.tables, self.position[index][..., :2], self.occupancy[index] * present)

    def entries(self):
        """What the recursion runs over, one entry a slice: (t, μ) where they are kept, else the atoms."""
        n = max(self.plan.exits)
        atoms = (self.plan.index[:n], self.plan.present[:n].astype(self.tables.carried.dtype))
        return atoms if self.stack is None else self.stack


def slab(
    position: Float[Array, "atoms 3"], occupancy: Float[Array, " atoms"], plan: SlicePlan, tables: SliceTables
) -> Slab:
    """Make the slices' transmission functions once if they fit, so that all probe batches share them."""
    bare = Slab(position, occupancy, plan, tables, None)
    edges = 0 if tables.beyond is None else tables.beyond.shape[0]
    if max(plan.exits) * tables.carried.size * tables.carried.itemsize * (2 + edges) > STACK_LIMIT:
        return bare
    stack = jax.lax.map(lambda entry: bare.transmission(*entry), bare.entries())
    return Slab(position, occupancy, plan, tables, stack)


def multislice(
    psi: Complex[Array, "batch rows cols"],
    specimen: Slab,
    propagate: Complex[Array, "rows cols"],
    read: Read,
) -> Any:
    """Send a batch of waves through the slices; `read(psi, beyond)` is called at each exit plane.

    Returns read's pytree with a leading axis over exit planes. beyond: Σ_slices ∫|ψ|²μ per outer edge, the
    intensity scattered beyond it (empty where the tables hold none).
    """
    plan, tables = specimen.plan, specimen.tables
    edges = 0 if tables.beyond is None else tables.beyond.shape[0]
    beyond = jnp.zeros((psi.shape[0], edges), tables.carried.dtype)
    slot = np.full(max(plan.exits), -1, np.int32)
    slot[np.array(plan.exits) - 1] = np.arange(len(plan.exits))
    buffer = jax.tree.map(lambda a: jnp.zeros((len(plan.exits), *a.shape), a.dtype), jax.eval_shape(read, psi, beyond))

    @jax.checkpoint
    def step(carry, entry):
        psi, beyond, buffer = carry
        what, exit_slot = entry
        t, mu = specimen.transmission(*what) if specimen.stack is None else what
        if mu is not None:
            beyond = beyond + jnp.einsum("byx,eyx->be", jnp.abs(psi) ** 2, mu)
        psi = jnp.fft.ifft2(jnp.fft.fft2(psi * t) * propagate)

        def store():
            return jax.tree.map(lambda b, v: b.at[exit_slot].set(v), buffer, read(psi, beyond))

        buffer = jax.lax.cond(exit_slot >= 0, store, lambda: buffer)
        return (psi, beyond, buffer), None

    (_, _, buffer), _ = jax.lax.scan(step, (psi, beyond, buffer), (specimen.entries(), jnp.asarray(slot)))
    return buffer


def exit_wave(
    atoms: Atoms,
    illumination: PlaneWave,
    grid: Grid,
    *,
    slice_thickness: float = 2.0,
    tilt: tuple[float, float] = (0.0, 0.0),
    transmission: str = "renormalised",
    parametrization: str = "lobato",
    plan: SlicePlan | None = None,
) -> Complex[Array, "rows cols"]:
    """Wave at the exit plane for a plane wave of unit amplitude; shape grid.shape, FFT-periodic.

    tilt in mrad (x, y); slice_thickness in Å. Pass a plan (`plan_slices`) when positions are traced.
    """
    box = (atoms.box[1], atoms.box[0])
    if np.abs(np.array(grid.extent) - box).max() > 1e-3:
        raise InputError("grid", grid.extent, f"does not span the box {box} Å (y, x)", "use Grid.for_box")
    plan = plan_slices(atoms, slice_thickness) if plan is None else plan
    tables = slice_tables(plan.elements, grid, illumination.energy, transmission, parametrization=parametrization)
    kernel = propagator(grid, illumination.energy, plan.slice_thickness, jnp.asarray(tilt), grid.band_limit())
    psi = jnp.ones((1, *grid.shape), kernel.dtype)
    waves = multislice(psi, slab(atoms.position, atoms.occupancy, plan, tables), kernel, lambda psi, _: psi)
    return waves[-1, 0]
