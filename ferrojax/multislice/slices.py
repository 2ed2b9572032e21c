"""Slicing a specimen: which atom belongs to which slice, worked out eagerly into a static plan."""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ferrojax.checks import real_number
from ferrojax.crystal import Atoms, shared_sites
from ferrojax.crystal.atoms import check_specimen
from ferrojax.crystal.elements import SYMBOLS
from ferrojax.errors import InputError, is_traced
from ferrojax.multislice.scattering import blend

EDGE = 1e-4
"""Å: an atom this close above a slice edge counts as on it (rounding of positions must not move atoms)."""

MOVED = 1.0
"""Å: atoms may move so far along the beam from the slice they were planned into."""

TWIN, ALONG = 0.05, 0.15
"""Å: atoms that share a site and lie so close, seen along the beam, are parts of one atom; what lies between them along
the beam counts by the second number."""
THINNEST, THICKEST = 0.05, 100.0
"""Å, of a slice."""
_BLENDS = 1000
"""Numbers from here on stand for blends of elements."""

PLANE = 2.2
"""Å: atoms of one element this close along the beam lie side by side, not behind each other."""


class SlicePlan(eqx.Module):
    """Which atoms (indices) each slice holds, by kind, and after which slices signals are read.

    A kind is an element, or in slices thicker than PLANE an element in one of the slice's layers, and parts of one
    site are of different kinds, so that atoms of one kind do not overlap. index: (slices, kinds, most) atom indices;
    present: 1 where the index is real, 0 where it pads. elements: of every kind.
    site: (atoms,) the first atom of the site that each atom shares; None where every atom has its own, and for windows.
    twin: (atoms,) the first of the atoms of one element (of any, in a blended plan) at the same place, which alone is
    placed (`merged`); None where there are none, and for windows.
    origin: (x, y) Å of the corner of a window cut out of the specimen, of extent `window` (x, y); None: the box.
    Plans of several windows are stacked along leading axes (`cut_windows`).
    """

    index: Int[Array, "*windows slices kinds most"]
    present: Float[Array, "*windows slices kinds most"]
    origin: Float[Array, "*windows 2"] | None
    site: Int[Array, " atoms"] | None
    twin: Int[Array, " atoms"] | None
    elements: tuple[str, ...] = eqx.field(static=True)
    slice_thickness: float = eqx.field(static=True)
    exits: tuple[int, ...] = eqx.field(static=True)
    box: tuple[float, float] = eqx.field(static=True)
    window: tuple[float, float] = eqx.field(static=True)
    made_for: int = eqx.field(static=True)

    def check_specimen(self, atoms: Atoms) -> None:
        """Refuse atoms that this plan was not made for: other elements or box, or, where known, other depths."""
        remedy = "make the plan with plan_slices(atoms) of these atoms"
        if self.made_for != _mark(atoms):
            raise InputError("plan", f"not of these {len(atoms.number)} atoms", "is of another specimen", remedy)
        if is_traced(atoms.position) or is_traced(self.index):
            return
        real = np.asarray(self.present) > 0
        layer = np.broadcast_to(np.arange(real.shape[0])[:, None, None], real.shape)[real]
        z = np.asarray(atoms.position, float)[np.asarray(self.index)[real], 2]
        away = np.abs(z - (layer + 0.5) * self.slice_thickness) - self.slice_thickness / 2
        if away.max(initial=0) > MOVED:
            atom = int(np.asarray(self.index)[real][away.argmax()])
            raise InputError(
                "plan", f"atom {atom} lies {away.max():.1f} Å from its slice", "is of another specimen", remedy
            )

    def place(
        self, position: Float[Array, "atoms 3"], occupancy: Float[Array, " atoms"]
    ) -> tuple[Float[Array, "slices kinds most 2"], Float[Array, "slices kinds most"]]:
        """(x, y) Å of every slice's atoms from the corner of the window, and their weight (0 where it pads)."""
        xy = position[self.index][..., :2]
        if self.origin is not None:
            box, centre = jnp.asarray(self.box, xy.dtype), self.origin + jnp.asarray(self.window, xy.dtype) / 2
            xy = xy - box * jnp.round(jax.lax.stop_gradient((xy - centre) / box)) - self.origin
        return xy, occupancy[self.index] * self.present

    def merged(
        self, position: Float[Array, "atoms 3"], occupancy: Float[Array, " atoms"]
    ) -> tuple[Float[Array, "atoms 3"], Float[Array, " atoms"]]:
        """Position and occupancy with the parts of one atom taken together, at the first of them: one core factor of
        the whole, not the product of those of its parts, which a grid would cut off one by one."""
        if self.twin is None:
            return position, occupancy
        total = self.totals(occupancy)
        weight = jnp.where(total[self.twin] > 0, occupancy / jnp.where(total > 0, total, 1)[self.twin], 0)
        centre = jnp.zeros_like(position).at[self.twin].add(weight[:, None] * position)
        return jnp.where(total[:, None] > 0, centre, position), total

    @property
    def blended(self) -> bool:
        """Whether species that share a site are placed as one atom, in shares that the plan was made with."""
        return any("+" in element for element in self.elements)

    def has_shares_of(self, atoms: Atoms) -> bool:
        """Whether these atoms' occupancies make the blends that this plan holds."""
        names = set(_species(atoms, None if self.twin is None else np.asarray(self.twin))[1].values())
        return {name for name in names if "+" in name} == {e for e in self.elements if "+" in e}

    def totals(self, occupancy: Float[Array | np.ndarray, " atoms"]) -> Float[Array, " atoms"]:
        """Occupancy with the parts of one atom added up at the first of them, 0 at the others."""
        occupancy = jnp.asarray(occupancy)
        return occupancy if self.twin is None else jnp.zeros_like(occupancy).at[self.twin].add(occupancy)

    @property
    def depths(self) -> tuple[float, ...]:
        """Å below the entrance where signals are read: the exits' slice edges."""
        return tuple(n * self.slice_thickness for n in self.exits)

    def repeated(self, nx: int, ny: int, atoms: int) -> "SlicePlan":
        """The plan of the specimen repeated as `Atoms.repeated(nx, ny, 1)` does, for a plan of its `atoms` atoms."""
        copies = atoms * jnp.arange(nx * ny)
        site, twin = (None if a is None else (copies[:, None] + a).ravel() for a in (self.site, self.twin))
        box = (nx * self.box[0], ny * self.box[1])
        return SlicePlan(
            jnp.concatenate([self.index + c for c in copies], -1),
            jnp.tile(self.present, nx * ny),
            None,
            site,
            twin,
            self.elements,
            self.slice_thickness,
            self.exits,
            box,
            box,
            self.made_for,
        )


def slice_step(value: Any) -> float:
    """A slice thickness, Å."""
    give = "give a ceiling in Å such as 2.0"
    return real_number("slice_thickness", value, give, unit="Å", above=0.0, low=THINNEST, high=THICKEST)


def depths_given(thicknesses: Any) -> tuple[float, ...] | None:
    """Depths to read at (Å), positive and finite; None: the exit alone."""
    if thicknesses is None:
        return None
    try:
        values = np.asarray(thicknesses, float)
    except (TypeError, ValueError) as error:
        raise InputError("thicknesses", thicknesses, "must be numbers", "give a list in Å, e.g. [50.0]") from error
    if values.ndim != 1 or not len(values):
        raise InputError("thicknesses", thicknesses, "must be a list of depths", "give Å, e.g. [50.0, 100.0]")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise InputError("thicknesses", thicknesses, "must be positive and finite", "give Å, e.g. [50.0, 100.0]")
    return tuple(float(v) for v in values)


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


def plan_slices(
    atoms: Atoms,
    slice_thickness: float = 2.0,
    thicknesses: Sequence[float] | None = None,
    *,
    blended: bool = False,
) -> SlicePlan:
    """Cut the box into equal slices of at most `slice_thickness` (Å).

    thicknesses: Å, where to read signals: at the nearest slice edges, which `depths` tells.
    blended: species that share a site are one atom with the sum of their potentials, in shares as `atoms` has them.
    That is exp(iΣwφ) of a mixed site: right for occupancies that are known and not drawn, and what `simulate` does with
    them by itself; otherwise every species has a core factor of its own, and a grid cuts off their product (Pb½Bi½ is
    8 to 12 % too bright where its occupancies are traced).
    Every atom falls into exactly one slice; one that thermal or polar motion lifts out of the box stays in
    the first or last slice, because the specimen is not periodic along the beam.
    """
    check_specimen(atoms)
    slice_thickness, thicknesses = slice_step(slice_thickness), depths_given(thicknesses)
    depth = atoms.box[2]
    count = max(1, int(np.ceil(depth / slice_thickness - 1e-6)))
    step = depth / count
    z = np.asarray(atoms.position[:, 2], float)
    if (z < -step).any() or (z > depth + step).any():
        worst = z[np.argmax(np.abs(z - depth / 2))]
        raise InputError("position", f"z = {worst:.3f} Å", "lies outside the box", f"keep 0 ≤ z < {depth:.3f} Å")
    layers = int(np.ceil(step / PLANE))
    site = shared_sites(atoms.position, atoms.box)
    seen = np.asarray(atoms.position, float) * [1, 1, ALONG]
    twin = None if site is None else shared_sites(seen, atoms.box, TWIN, None if blended else atoms.number)
    species, names = _species(atoms, twin if blended else None)
    placed = np.arange(len(z)) if twin is None else np.unique(twin)
    fine = np.clip(np.floor((z + EDGE) / step * layers).astype(int), 0, count * layers - 1)
    layer = fine // layers
    # element, layer of it, and which of the site's atoms of this element, as one number
    number = (species * layers + fine % layers) * len(z) + _rank_on_site(site, tuple(species.tolist()))
    kinds, kind = np.unique(number[placed], return_inverse=True)
    index, present = _grouped(layer[placed] * len(kinds) + kind, count * len(kinds), placed)
    shape = (count, len(kinds), -1)
    exits = (count,) if thicknesses is None else tuple(_exit(t, step, count) for t in thicknesses)
    if not exits or list(exits) != sorted(set(exits)):
        raise InputError("thicknesses", thicknesses, "must rise by at least a slice each", f"slice {step:.3f} Å")
    return SlicePlan(
        jnp.asarray(index.reshape(shape)),
        jnp.asarray(present.reshape(shape)),
        None,
        None if site is None else jnp.asarray(site),
        None if twin is None else jnp.asarray(twin),
        tuple(names[int(k) // len(z) // layers] for k in kinds),
        step,
        exits,
        atoms.box[:2],
        atoms.box[:2],
        _mark(atoms),
    )


def cut_windows(plan: SlicePlan, atoms: Atoms, centre: np.ndarray, window: tuple[float, float]) -> SlicePlan:
    """The plan of each window of extent `window` (x, y) around `centre` (windows, 2) Å: only the atoms inside it.

    The box is periodic in x and y, so a window may hang over its edge; it must not be larger than the box.
    """
    half, box = np.array(window) / 2, np.array(plan.box)
    groups = plan.index.shape[0] * plan.index.shape[1]
    present = np.asarray(plan.present).reshape(groups, -1) > 0
    atom = np.asarray(plan.index).reshape(groups, -1)[present]
    group = np.broadcast_to(np.arange(groups)[:, None], present.shape)[present]
    xy = np.asarray(atoms.position, float)[atom, :2]
    tables = []
    for c in centre:
        offset = xy - c
        inside = (np.abs(offset - box * np.round(offset / box)) <= half + 1e-9).all(1)
        tables.append(_grouped(group[inside], groups, atom[inside]))
    most = max(index.shape[1] for index, _ in tables)
    stacks = [np.stack([np.pad(t[i], ((0, 0), (0, most - t[i].shape[1]))) for t in tables]) for i in (0, 1)]
    shape = (len(centre), *plan.index.shape[:2], most)
    return SlicePlan(
        jnp.asarray(stacks[0].reshape(shape)),
        jnp.asarray(stacks[1].reshape(shape)),
        jnp.asarray(centre - half, jnp.result_type(float)),
        None,
        None,
        plan.elements,
        plan.slice_thickness,
        plan.exits,
        plan.box,
        window,
        plan.made_for,
    )


def _species(atoms: Atoms, twin: np.ndarray | None) -> tuple[Int[np.ndarray, " atoms"], dict[int, str]]:
    """(atoms,) the number of each atom's species, and their names; twin: of atoms that are one blend of theirs."""
    species = np.array(atoms.number)
    names = {int(z): SYMBOLS[int(z)] for z in species}
    if twin is None:
        return species, names
    share, blends = np.asarray(atoms.occupancy, float), dict[str, int]()
    for first in np.unique(twin[np.bincount(twin, minlength=len(twin))[twin] > 1]):
        mine = np.flatnonzero((twin == first) & (share > 0))
        of_element = {names[z]: share[mine][species[mine] == z].sum() for z in species[mine].tolist()}
        if len(of_element) == 1:
            species[first] = species[mine[0]]
        elif of_element:
            name = blend({symbol: part / sum(of_element.values()) for symbol, part in of_element.items()})
            species[first] = blends.setdefault(name, _BLENDS + len(blends))
    return species, names | {number: name for name, number in blends.items()}


def _mark(atoms: Atoms) -> int:
    """A checksum of what a plan is made for and JAX does not trace."""
    return crc32(repr((atoms.number, atoms.box)).encode())


def _rank_on_site(site: np.ndarray | None, number: tuple[int, ...]) -> np.ndarray:
    """How many atoms of the same element precede each atom on its site."""
    rank = np.zeros(len(number), int)
    if site is not None:
        seen: dict[tuple[int, int], int] = {}
        for atom in np.flatnonzero(np.bincount(site, minlength=len(site))[site] > 1):
            key = (int(site[atom]), number[atom])
            rank[atom] = seen[key] = seen.get(key, -1) + 1
    return rank


def _grouped(group: np.ndarray, groups: int, item: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Items sorted into (groups, most) tables: their index, and 1 where the entry is real."""
    item = np.arange(len(group)) if item is None else item
    order = np.argsort(group, kind="stable")
    size = np.bincount(group, minlength=groups)
    rank = np.arange(len(group)) - np.repeat(np.cumsum(size) - size, size)
    index = np.zeros((groups, max(1, size.max())), np.int32)
    present = np.zeros(index.shape, np.float32)
    index[group[order], rank] = item[order]
    present[group[order], rank] = 1
    return index, present


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
