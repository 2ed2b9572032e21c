"""Slicing a specimen: which atom belongs to which slice, worked out eagerly into a static plan."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ferrojax.crystal import Atoms
from ferrojax.crystal.elements import SYMBOLS
from ferrojax.errors import InputError

EDGE = 1e-4
"""Å: an atom this close above a slice edge counts as on it (rounding of positions must not move atoms)."""

PLANE = 2.2
"""Å: atoms of one element this close along the beam lie side by side, not behind each other."""


class SlicePlan(eqx.Module):
    """Which atoms (indices) each slice holds, by kind, and after which slices signals are read.

    A kind is an element, or in slices thicker than PLANE an element in one of the slice's layers, so that atoms
    of one kind do not overlap. index: (slices, kinds, most) atom indices; present: 1 where the index is real, 0
    where it pads. elements: of every kind.
    """

    index: Int[Array, "slices elements most"]
    present: Float[Array, "slices elements most"]
    elements: tuple[str, ...] = eqx.field(static=True)
    slice_thickness: float = eqx.field(static=True)
    exits: tuple[int, ...] = eqx.field(static=True)


def aligned_slices(atoms: Atoms, ceiling: float) -> float:
    """The slice thickness (Å) of at most `ceiling` at which every element's layers lie alike in all slices, best.

    Slices out of step with the crystal hold one layer here and two there. Looks down to 0.7 of the ceiling.
    """
    depth, z, number = atoms.box[2], np.asarray(atoms.position[:, 2], float), np.array(atoms.number)
    fewest = max(1, int(np.ceil(depth / ceiling - 1e-6)))
    counts = np.arange(fewest, int(fewest / 0.7) + 1)
    wave = np.exp(2j * np.pi * np.outer(counts / depth, z))
    coherence = np.sum([np.abs(wave[:, number == e].sum(1)) for e in set(atoms.number)], axis=0) / len(z)
    return depth / int(counts[np.argmax(coherence > coherence.max() - 0.02)])


def plan_slices(atoms: Atoms, slice_thickness: float = 2.0, thicknesses: list[float] | None = None) -> SlicePlan:
    """Cut the box into equal slices of at most `slice_thickness` (Å).

    thicknesses: Å, where to read signals; each must lie on a slice edge to within half a slice (it is rounded).
    Every atom falls into exactly one slice; one that thermal or polar motion lifts out of the box stays in
    the first or last slice, because the specimen is not periodic along the beam.
    """
    depth = atoms.box[2]
    if not slice_thickness > 0:
        raise InputError("slice_thickness", slice_thickness, "must be positive", "give Å, e.g. 2.0")
    count = max(1, int(np.ceil(depth / slice_thickness - 1e-6)))
    step = depth / count
    z = np.asarray(atoms.position[:, 2], float)
    if (z < -step).any() or (z > depth + step).any():
        worst = z[np.argmax(np.abs(z - depth / 2))]
        raise InputError("position", f"z = {worst:.3f} Å", "lies outside the box", f"keep 0 ≤ z < {depth:.3f} Å")
    layers = int(np.ceil(step / PLANE))
    fine = np.clip(np.floor((z + EDGE) / step * layers).astype(int), 0, count * layers - 1)
    layer, number = fine // layers, np.array(atoms.number) * layers + fine % layers
    kinds = np.unique(number)
    groups = [[np.flatnonzero((layer == s) & (number == e)) for e in kinds] for s in range(count)]
    most = max(len(g) for row in groups for g in row)
    index = np.zeros((count, len(kinds), most), np.int32)
    present = np.zeros((count, len(kinds), most), np.float32)
    for s, row in enumerate(groups):
        for e, group in enumerate(row):
            index[s, e, : len(group)] = group
            present[s, e, : len(group)] = 1
    exits = (count,) if thicknesses is None else tuple(_exit(t, step, count) for t in thicknesses)
    if list(exits) != sorted(set(exits)):
        raise InputError("thicknesses", thicknesses, "must rise by at least a slice each", f"slice {step:.3f} Å")
    return SlicePlan(jnp.asarray(index), jnp.asarray(present), tuple(SYMBOLS[z // layers] for z in kinds), step, exits)


def _exit(thickness: float, step: float, count: int) -> int:
    n = round(thickness / step)
    if not 1 <= n <= count:
        raise InputError(
            "thicknesses",
            thickness,
            "lies outside the specimen",
            f"choose {step:.2f} to {count * step:.2f} Å",
        )
    return n
