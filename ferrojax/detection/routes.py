"""Two ways from a specimen to signals: send every probe through, or send the aperture's plane waves once.

A probe is a sum of the plane waves inside its aperture, so the exit wave of any probe is the same sum of theirs (the
scattering matrix of PRISM without interpolation, exact for the window). It pays where positions outnumber beams.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from ferrojax.detection.reading import Optics, Signals, crop, embed
from ferrojax.grid import Grid
from ferrojax.multislice import SlicePlan, SliceTables, slab, transport
from ferrojax.multislice.propagation import BLOCK, Slab, Watch, tilt_ramp
from ferrojax.products import EXACT

Read = Callable[[Complex[Array, "batch r c"]], Any]
KEPT_WAVES = 3 * 2**29
"""Bytes of waves that reverse mode may keep between batches; beyond that, each batch is computed again, which takes
another forward pass."""

LOSS_PLANES = 6
"""Depths at which the scattering matrix samples the lost norm, besides the exit planes."""


class Specimen(eqx.Module):
    """Atoms of one thermal configuration with the tables to place them."""

    position: Float[Array, "atoms 3"]
    occupancy: Float[Array, " atoms"]
    tables: SliceTables


def probe_signals(
    specimen: Specimen,
    plan: SlicePlan,
    optics: Optics,
    xy: Float[Array, "groups most 2"],
    tilt: Float[Array, "groups most 2"] | None,
    corner: Int[Array, "groups 2"] | None,
    batch: int,
) -> Signals:
    """Every probe through its group's window; name -> (groups, most, exits, *channels).

    xy: Å from the window's corner; corner: pixels (row, col) of that from the corner of the region (None: the same).
    """
    medium = slab(specimen.position, specimen.occupancy, plan, specimen.tables)
    probes = xy.shape[0] * xy.shape[1]
    kept = probes * (plan.exits[-1] // BLOCK + 1) * optics.grid.shape[0] * optics.grid.shape[1] * 8

    def one_group(what):
        xy, tilt, corner = what
        seen = medium if corner is None else _cropped(medium, corner, optics.grid)

        def one_batch(what):
            return _one_batch(seen, plan, optics, *what)

        return _in_batches(jax.checkpoint(one_batch) if kept > KEPT_WAVES else one_batch, (xy, tilt), batch)

    if xy.shape[0] == 1:
        first = jax.tree.map(lambda a: a[0], (xy, tilt, corner))
        return jax.tree.map(lambda s: s[None], one_group(first))
    return jax.lax.map(one_group, (xy, tilt, corner))


def _one_batch(medium: Slab, plan: SlicePlan, optics: Optics, xy: Float[Array, "batch 2"], tilt) -> Signals:
    pixels = optics.grid.shape[0] * optics.grid.shape[1]
    kernel = optics.propagate if tilt is None else _tilted(optics, plan, tilt)
    ramp = _ramp(optics, xy)

    def read(spectrum, beyond):
        return optics.read(jnp.abs(crop(spectrum, optics.seen)) ** 2 / pixels, beyond)

    def one_node(spectrum):
        # The inverse transform divides by the pixels, so unit norm in real space needs their root here.
        wave = embed(spectrum * ramp, optics.grid) * pixels**0.5
        return transport(wave, medium, kernel, read, loss=plan.slice_thickness if optics.loses else 0.0)[0]

    return jax.tree.map(lambda s: jnp.swapaxes(s, 0, 1), _over_nodes(one_node, optics))


def _cropped(medium: Slab, corner: Int[Array, "2"], grid: Grid) -> Slab:
    """The window of this grid at `corner` (row, col) of the region whose transmission functions are kept."""

    def window(a):
        for axis in (0, 1):
            index = (corner[axis] + np.arange(grid.shape[axis])) % a.shape[axis - 2]
            a = jnp.take(a, index, axis - 2, mode="clip")
        return a

    return eqx.tree_at(lambda m: m.stack, medium, jax.tree.map(window, medium.stack))


def scattering_matrix(
    medium: Slab, propagate: Complex[Array, "rows cols"], grids: tuple[Grid, Grid], beams: Int[Array, "2 beams"],
    batch: int, read: Read, watch: Watch | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """What `read` makes of the exit waves of the aperture's plane waves of unit norm; (beams, planes, ...).

    grids: of the waves and of detection; beams: (row, col) on the latter. The second result is what `watch` saw,
    (beams, slices, ...).
    """
    grid, seen = grids
    rows, cols = seen.shape
    pixels = grid.shape[0] * grid.shape[1]

    def one_batch(index):
        flat = jax.nn.one_hot(index[:, 0] * cols + index[:, 1], rows * cols, dtype=propagate.dtype)
        wave = embed(flat.reshape(-1, rows, cols), grid) * pixels**0.5
        waves, watched = transport(wave, medium, propagate, lambda s, _: read(crop(s, seen) / pixels**0.5), watch)
        return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (waves, watched))

    return _in_batches(one_batch, beams.T, batch)


def matrix_signals(
    specimen: Specimen,
    plan: SlicePlan,
    optics: Optics,
    xy: Float[Array, "probes 2"],
    beams: Int[Array, "2 beams"],
    batch: int,
) -> Signals:
    """The same through the scattering matrix; beams: (2, beams) indices (row, col) of the aperture's plane waves."""
    exits, planes = plan.exits, _planes(plan, optics.loses)
    plan = dataclasses.replace(plan, exits=planes)
    medium = slab(specimen.position, specimen.occupancy, plan, specimen.tables)
    rows, cols = optics.seen.shape
    local = None if specimen.tables.beyond is None else _LocalLoss.of(specimen.tables, optics)
    grids = optics.grid, optics.seen
    # (beams, planes, r, c) and (beams, slices, edges, kinds, most)
    watch = None if local is None else local.at_atoms
    matrix, at_atoms = scattering_matrix(medium, optics.propagate, grids, beams, batch, lambda s: s, watch)
    asked = np.searchsorted(planes, exits)

    def one_node(coefficient):
        pattern = jnp.abs(jnp.einsum("pb,bekl->pekl", coefficient, matrix, precision=EXACT)) ** 2
        beyond = []
        if local is not None:
            amplitude = jnp.einsum("pb,bsgem->psgem", coefficient, at_atoms, precision=EXACT)
            beyond.append(local.beyond(amplitude, medium))
        if optics.loses:
            beyond.append(_lost_path(pattern, planes, plan.slice_thickness)[..., None])
        none = jnp.zeros((*pattern.shape[:2], 0), pattern.dtype)
        beyond = jnp.concatenate([none, *beyond], -1)[:, asked]
        count = pattern.shape[0] * len(asked)
        edges = beyond.shape[-1]
        flat = optics.read(pattern[:, asked].reshape(count, rows, cols), beyond.reshape(count, edges))
        return {k: v.reshape(-1, len(asked), *v.shape[1:]) for k, v in flat.items()}

    def positions(xy):
        ramp = _ramp(optics, xy)[:, beams[0], beams[1]]
        return _over_nodes(lambda spectrum: one_node(ramp * spectrum[beams[0], beams[1]]), optics)

    return _in_batches(positions, xy, batch)


def _over_nodes(signals: Callable[[Array], Signals], optics: Optics) -> Signals:
    """The incoherent sum over the focal spread."""

    def add(total, node):
        spectrum, weight = node
        return jax.tree.map(lambda t, s: t + weight * s, total, signals(spectrum)), None

    none = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(signals, optics.spectrum[0]))
    return jax.lax.scan(add, none, (optics.spectrum, optics.node_weight))[0]


def _planes(plan: SlicePlan, loses: bool) -> tuple[int, ...]:
    """Exit planes, and between them those where the lost norm is sampled to integrate its path."""
    nodes = {round(plan.exits[-1] * (i + 1) / LOSS_PLANES) for i in range(LOSS_PLANES)} - {0} if loses else set()
    return tuple(sorted(nodes | set(plan.exits)))


def _lost_path(pattern: Float[Array, "batch planes r c"], planes: tuple[int, ...], step: float):
    """∫(1 − ‖ψ‖²) dz up to every plane, Å, by the trapezoidal rule."""
    gone = jnp.pad(1 - pattern.sum((-2, -1)), ((0, 0), (1, 0)))
    depth = step * np.diff([0, *planes])
    return jnp.cumsum((gone[:, 1:] + gone[:, :-1]) / 2 * depth.astype(pattern.dtype), 1)


class _LocalLoss(eqx.Module):
    """What is scattered beyond outer angles, from the waves at the atoms alone.

    ∫|ψ|²μ ≈ σ|ψ̄|² with σ = ∫μ and ψ̄ the wave at the atom, smoothed by μ's own shape: exact in the second moment
    of μ where |ψ| has its maximum, and linear in the wave, so that it passes through the scattering matrix. The shape
    is that of a whole atom, σ that of its occupancy.
    """

    smooth: Float[Array, "edges kinds r c"]
    total: Float[Array, "edges shares kinds"]
    frequencies: tuple[Float[Array, " r"], Float[Array, " c"]]
    tables: SliceTables
    pixels: int = eqx.field(static=True)
    seen: Grid = eqx.field(static=True)

    @staticmethod
    def of(tables: SliceTables, optics: Optics) -> "_LocalLoss":
        assert tables.beyond is not None
        total = tables.beyond[..., 0, 0]
        smooth = crop(tables.beyond[:, -1], optics.seen) / total[:, -1, :, None, None]
        pixels = optics.grid.shape[0] * optics.grid.shape[1]
        return _LocalLoss(smooth, total, optics.seen_frequencies, tables, pixels, optics.seen)

    def at_atoms(self, spectrum: Complex[Array, "batch rows cols"], atoms) -> Complex[Array, "batch edges kinds most"]:
        xy, _ = atoms
        ky, kx = self.frequencies
        ex, ey = jnp.exp(2j * jnp.pi * xy[..., 0, None] * kx), jnp.exp(2j * jnp.pi * xy[..., 1, None] * ky)
        smooth = crop(spectrum, self.seen)[:, None, None] * self.smooth
        rows = jnp.einsum("bgekl,eml->bgekm", smooth, ex, precision=EXACT)
        return jnp.einsum("bgekm,emk->bgem", rows, ey, precision=EXACT) / self.pixels

    def beyond(self, amplitude, medium: Slab) -> Float[Array, "batch exits edges"]:
        """amplitude: (batch, slices, edges, elements, most)."""
        weight = self.tables.share_weights(medium.weight)
        rate = jnp.einsum("gwe,wsem->sgem", self.total, weight, precision=EXACT)
        loss = jnp.einsum("psgem,sgem->psg", jnp.abs(amplitude) ** 2, rate, precision=EXACT)
        return jnp.cumsum(loss, 1)[:, np.array(medium.exits) - 1]


def _ramp(optics: Optics, xy: Float[Array, "batch 2"]) -> Complex[Array, "batch r c"]:
    """exp(−2πi k·r): moves a probe from the corner to xy."""
    ky, kx = optics.seen_frequencies
    x = jnp.exp(-2j * jnp.pi * xy[:, 0, None] * kx)
    y = jnp.exp(-2j * jnp.pi * xy[:, 1, None] * ky)
    return y[:, :, None] * x[:, None, :]


def _tilted(optics: Optics, plan: SlicePlan, tilt: Float[Array, "batch 2"]) -> Complex[Array, "batch rows cols"]:
    """The run's kernel with the ramp of every probe's own tilt."""
    return optics.propagate * tilt_ramp(optics.frequencies, plan.slice_thickness, tilt)


def _in_batches(function, items, batch: int):
    """function over the leading axis of items, `batch` at a time (the last is filled up by repeating)."""
    n = jax.tree.leaves(items)[0].shape[0]
    batch = min(batch, n)
    padded = jax.tree.map(lambda a: jnp.pad(a, ((0, -n % batch), *[(0, 0)] * (a.ndim - 1)), mode="edge"), items)
    out = jax.lax.map(function, jax.tree.map(lambda a: a.reshape(-1, batch, *a.shape[1:]), padded))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], out)
