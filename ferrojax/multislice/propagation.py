"""The multislice recursion: transmit at the slice's entrance, propagate its full thickness."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ferrojax.constants import wavelength
from ferrojax.crystal import Atoms, check_atoms
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice.given import check_tilt, guarded_atoms, guarded_tilt, plan_given
from ferrojax.multislice.slices import SlicePlan, plan_slices
from ferrojax.multislice.thermal import weighs, weighted_plan
from ferrojax.multislice.transmission import SliceTables, band, slice_tables, slice_transmission
from ferrojax.optics import PlaneWave
from ferrojax.products import EXACT

Read = Callable[[Complex[Array, "batch rows cols"], Float[Array, "batch edges"]], Any]
Watch = Callable[[Complex[Array, "batch rows cols"], Any], Any]
BLOCK = 16
"""Slices between the waves that reverse mode keeps: near the square root of the usual number of slices."""


def propagator(
    grid: Grid, energy: float, distance: float, tilt: Float[Array, "*batch 2"], limit: np.ndarray | Array
) -> Complex[Array, "*batch rows cols"]:
    """exp(−iπλΔz k²)·exp(−2πiΔz(kx tan tx + ky tan ty)) within the band limit; tilt (x, y) in mrad."""
    fresnel = np.exp(-1j * np.pi * wavelength(energy) * distance * grid.k**2) * limit
    return jnp.asarray(fresnel) * tilt_ramp(grid.frequencies, distance, tilt)


def tilt_ramp(frequencies, distance: float, tilt: Float[Array, "*batch 2"]) -> Complex[Array, "*batch rows cols"]:
    """exp(−2πiΔz(kx tan tx + ky tan ty)): shifts the wave against the columns by Δz·tan; tilt (x, y) in mrad.

    frequencies: (ky, kx) of the grid in 1/Å.
    """
    ky, kx = frequencies
    slope = -2j * jnp.pi * distance * jnp.tan(tilt * 1e-3)
    return jnp.exp(slope[..., 1, None] * ky)[..., :, None] * jnp.exp(slope[..., 0, None] * kx)[..., None, :]


STACK_LIMIT = 2**28
"""Bytes of transmission functions that are kept for all probes; a larger specimen makes them anew per batch."""


class Slab(eqx.Module):
    """A specimen in one thermal configuration, ready to be sent waves through.

    xy, weight: the atoms of every slice, Å from the corner of the grid. stack: t and μ of every slice, if kept.
    """

    xy: Float[Array, "slices kinds most 2"]
    weight: Float[Array, "slices kinds most"]
    stack: tuple[Complex[Array, "slices rows cols"], Float[Array, "slices edges rows cols"] | None] | None
    tables: SliceTables
    exits: tuple[int, ...] = eqx.field(static=True)

    def transmission(self, atoms, kept):
        """t (rows, cols) of one slice, and the cross-sections beyond the outer angles, if tabled."""
        return slice_transmission(self.tables, *atoms) if kept is None else kept


def slab(
    position: Float[Array, "atoms 3"],
    occupancy: Float[Array, " atoms"],
    plan: SlicePlan,
    tables: SliceTables,
) -> Slab:
    """Make the slices' transmission functions once if they fit, so that all probe batches share them."""
    n = plan.exits[-1]
    xy, weight = (a[:n].astype(tables.carried.dtype) for a in plan.place(position, occupancy))
    if n * transmission_bytes(tables) > STACK_LIMIT:
        return Slab(xy, weight, None, tables, plan.exits)
    stack = jax.lax.map(jax.checkpoint(lambda atoms: slice_transmission(tables, *atoms)), (xy, weight))
    return Slab(xy, weight, stack, tables, plan.exits)


def transmission_bytes(tables: SliceTables) -> int:
    """Bytes of one slice's transmission function and cross-sections."""
    edges = 0 if tables.beyond is None else tables.beyond.shape[0]
    return tables.carried.size * tables.carried.dtype.itemsize * (2 + edges)


def multislice(
    psi: Complex[Array, "batch rows cols"],
    specimen: Slab,
    propagate: Complex[Array, "*batch rows cols"],
    read: Read,
    block: int = BLOCK,
) -> Any:
    """Send a batch of waves through the slices; `read(psi, beyond)` is called at each exit plane.

    Returns read's pytree with a leading axis over exit planes. beyond: Σ_slices ∫|ψ|²μ per outer edge, the
    intensity scattered beyond it (empty where the tables hold none). propagate: one kernel, or one a wave.
    block: in reverse mode only the wave before every `block` slices is kept, the rest is computed again.
    """

    def from_spectrum(spectrum, beyond):
        return read(jnp.fft.ifft2(spectrum), beyond)

    return transport(jnp.fft.fft2(psi), specimen, propagate, from_spectrum, block=block)[0]


def transport(
    spectrum: Complex[Array, "batch rows cols"],
    specimen: Slab,
    propagate: Complex[Array, "*batch rows cols"],
    read: Read,
    watch: Watch | None = None,
    loss: float = 0.0,
    block: int = BLOCK,
) -> tuple[Any, Any]:
    """`multislice` between Fourier transforms: waves come, and are read, as spectra in FFT order.

    watch(spectrum, (xy, weight)) sees the waves at the entrance of every slice; what it returns is collected as
    (slices, ...), the second result. With `loss` (the slice thickness Δz), beyond's last entry is
    Σ_slices Δz·(1 − ‖ψ‖²), the path (Å) that the norm lost beyond the band limit has travelled since.
    """
    stride = math.gcd(*specimen.exits)
    stops = specimen.exits[-1] // stride
    edges = 0 if specimen.tables.beyond is None or watch is not None else specimen.tables.beyond.shape[0]
    beyond = jnp.zeros((spectrum.shape[0], edges + (loss > 0)), specimen.tables.carried.dtype)

    def step(carry, entry):
        spectrum, beyond = carry
        seen = None if watch is None else watch(spectrum, entry[0])
        t, mu = specimen.transmission(*entry)
        psi = jnp.fft.ifft2(spectrum)
        if beyond.shape[-1]:
            intensity = jnp.abs(psi) ** 2
            if mu is not None and edges:
                beyond = beyond.at[:, :edges].add(jnp.einsum("byx,eyx->be", intensity, mu, precision=EXACT))
            if loss:
                beyond = beyond.at[:, edges].add(loss * (1 - intensity.sum((-2, -1))))
        return (jnp.fft.fft2(psi * t) * propagate, beyond), seen

    def advance(carry, entries):
        return jax.lax.scan(step, carry, entries)

    # Signals are read only at multiples of the exits' common divisor: the recursion runs from one to the next.
    entries = ((specimen.xy, specimen.weight), specimen.stack)
    segments = jax.tree.map(lambda a: a.reshape(stops, stride, *a.shape[1:]), entries)
    slots = np.full(stops, -1, np.int32)
    slots[np.array(specimen.exits) // stride - 1] = np.arange(len(specimen.exits))
    shapes = jax.eval_shape(read, spectrum, beyond)
    buffer = jax.tree.map(lambda a: jnp.zeros((len(specimen.exits), *a.shape), a.dtype), shapes)

    def to_stop(carry, what):
        wave, buffer = carry
        segment, slot = what
        # Stops closer than a block share one, so that reverse mode keeps no wave for each of them.
        wave, seen = (
            _in_blocks(jax.checkpoint(advance), wave, segment, block) if stride > block else advance(wave, segment)
        )

        def store():
            return jax.tree.map(lambda b, v: b.at[slot].set(v), buffer, read(*wave))

        buffer = store() if (slots >= 0).all() else jax.lax.cond(slot >= 0, store, lambda: buffer)
        return (wave, buffer), seen

    def to_stops(carry, what):
        return jax.lax.scan(to_stop, carry, what)

    together = max(1, block // stride)
    to_stops = to_stops if stride > block else jax.checkpoint(to_stops)
    (_, buffer), seen = _in_blocks(to_stops, ((spectrum, beyond), buffer), (segments, jnp.asarray(slots)), together)
    return buffer, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), seen)


def _in_blocks(advance: Callable[[Any, Any], Any], carry: Any, entries: Any, block: int) -> Any:
    """advance over all entries, `block` at a time, the remainder last."""
    n = jax.tree.leaves(entries)[0].shape[0]
    whole = n // block * block
    if n <= block:
        return advance(carry, entries)
    blocks = jax.tree.map(lambda a: a[:whole].reshape(-1, block, *a.shape[1:]), entries)
    carry, seen = jax.lax.scan(advance, carry, blocks)
    seen = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), seen)
    if n > whole:
        carry, last = advance(carry, jax.tree.map(lambda a: a[whole:], entries))
        seen = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), seen, last)
    return carry, seen


def exit_wave(
    atoms: Atoms,
    illumination: PlaneWave,
    grid: Grid,
    *,
    slice_thickness: float | None = None,
    tilt: Any = (0.0, 0.0),
    transmission: str = "renormalised",
    parametrization: str = "lobato",
    plan: SlicePlan | None = None,
) -> Complex[Array, "rows cols"]:
    """Wave at the exit plane for a plane wave of unit amplitude; shape grid.shape, FFT-periodic.

    tilt in mrad (x, y); slice_thickness in Å, 2.0 unless said. Pass a plan (`plan_slices`) when positions are traced,
    which has its own slice thickness.
    """
    if not isinstance(illumination, PlaneWave):
        shown = type(illumination).__name__
        raise InputError("illumination", shown, "is no PlaneWave", "give fj.PlaneWave(energy), or simulate a Probe")
    if not isinstance(grid, Grid):
        raise InputError("grid", type(grid).__name__, "is no Grid", "use Grid.for_box(width, height, sampling)")
    with jax.ensure_compile_time_eval():  # under jit too, what is not traced has a value to plan with
        check_atoms(atoms)
        grid.check_spans(*atoms.box[:2])
        check_tilt(tilt)
        step = 2.0 if slice_thickness is None else slice_thickness
        plan = plan_given(plan, atoms, slice_thickness) or plan_slices(atoms, step)
        plan = weighted_plan(plan, atoms, None)
        partial = weighs(plan, atoms, None)
        tables = slice_tables(
            plan.elements, grid, illumination.energy, transmission, parametrization=parametrization, partial=partial
        )
        limit = grid.band_limit(*band(transmission)[:2])
    atoms = guarded_atoms(atoms, plan)
    ramp = guarded_tilt(jnp.asarray(tilt, jnp.result_type(float)))
    return _exit_wave(*plan.merged(atoms.position, atoms.occupancy), ramp, plan, tables, grid, limit, illumination)


@eqx.filter_jit
def _exit_wave(position, occupancy, tilt, plan, tables, grid, limit, illumination) -> Complex[Array, "rows cols"]:
    """As one program, so that a second call with other atoms compiles nothing."""
    kernel = propagator(grid, illumination.energy, plan.slice_thickness, tilt, limit)
    psi = jnp.ones((1, *grid.shape), kernel.dtype)
    return multislice(psi, slab(position, occupancy, plan, tables), kernel, lambda psi, _: psi)[-1, 0]
