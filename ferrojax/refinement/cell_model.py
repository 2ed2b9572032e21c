"""What displacements make of a cell's pixels: all that is fitted of a cell, and the signal of its parameters."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ferrojax.errors import InputError
from ferrojax.refinement.movers import CELLS, MODE, REACH, Mover
from ferrojax.refinement.response import CellResponse
from ferrojax.refinement.scene import Terms, Waves, powers
from ferrojax.refinement.specimens import PARITIES

KNOWN = {
    "displacement": 0.4, "shift": 0.03, "gain": 0.1, "ground": 0.1, "oxygen": 0.03, "A": 0.02, "around": 0.05,
}  # fmt: skip
"""Standard errors known beforehand, per axis. displacement, shift of the lattice, oxygen off its mode, A by itself,
displacement of the cells around as a reading before left it: Å; gain: relative; ground: of the image's mean."""
AROUND = np.array([(i, j) for j in (-1, 0, 1) for i in (-1, 0, 1) if (i, j) != (0, 0)])
CORNERS = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
"""Cells whose A column, by itself, is at a corner of this one."""
OXYGEN_ENDS = 0.85
"""Cell sides from an oxygen column at which its response ends: the next ones beyond those that follow the nine cells do
not reach a cell's pixels."""
_NEAR = 0.6
"""Cell sides from B within which an oxygen column may leave its mode by itself."""


class View(eqx.Module):
    """One detector at the recording. value: (terms, q), blurred, half of the plane counted twice; level: counts of the
    image's mean, share of which is no signal; mean: of the signal."""

    value: Complex[Array, "terms q"]
    level: Float[Array, ""]
    share: Float[Array, ""]
    mean: Float[Array, ""]


class Column(NamedTuple):
    """An oxygen column around: which mover, of which cell (x, y), what it follows (row of the nine cells, weight), and
    whether it may leave its mode by itself."""

    mover: int
    cell: tuple[int, int]
    parent: tuple[tuple[int, float], ...]
    free: bool


class Layout(eqx.Module):
    """What all cells share, known as programs are compiled: q (n, 2), the terms, oxygen columns around, sides of a cell
    (Å), how many detectors."""

    q_: tuple[tuple[int, int], ...] = eqx.field(static=True)
    mover: tuple[Mover, ...] = eqx.field(static=True)
    of: tuple[int, ...] = eqx.field(static=True)
    power: tuple[tuple[int, int], ...] = eqx.field(static=True)
    column: tuple[Column, ...] = eqx.field(static=True)
    side_: tuple[float, float] = eqx.field(static=True)
    detectors: int = eqx.field(static=True)

    @property
    def q(self) -> np.ndarray:
        return np.array(self.q_)

    @property
    def side(self) -> np.ndarray:
        return np.array(self.side_)

    @property
    def term(self) -> Terms:
        return Terms(self.mover, np.array(self.of), np.array(self.power))

    @property
    def free(self) -> list[Column]:
        """Oxygen columns that may leave their mode."""
        return [c for c in self.column if c.free]

    @property
    def known(self) -> np.ndarray:
        """Standard errors known beforehand of all parameters of a cell."""
        sizes = (2, 2, self.detectors, self.detectors, 2 * len(self.string), 2 * len(self.free))
        names = ("displacement", "shift", "gain", "ground", "oxygen", "oxygen", "A", "around")
        many = (*sizes, 2 * len(CORNERS), 2 * len(AROUND))
        return np.concatenate([np.full(n, KNOWN[name]) for name, n in zip(names, many, strict=True)])

    def rows(self, ending: str) -> list[int]:
        """Movers of that name, or of that label."""
        return [k for k, m in enumerate(self.mover) if m.name.endswith(ending)]

    @property
    def string(self) -> list[int]:
        """Oxygen that moves with B, by itself."""
        return [k for k, m in enumerate(self.mover) if m.name.endswith(":O") and not m.follows]

    @staticmethod
    def made(response: CellResponse, waves: Waves, detectors: int) -> "Layout":
        term = Terms.made(response)
        a = [m for m in response.mover if m.name.endswith(":A")]
        if len(a) != 1:
            problem = f"has {len(a)} A sites in its cell, and cells of one are read"
            raise InputError("crystal", response.crystal, problem, "map it by the column fit")
        side = (response.box[0] / CELLS, response.box[1] / CELLS)
        q, power = (tuple(map(tuple, v.tolist())) for v in (waves.q, term.power))
        around = columns_around(response.mover)
        return Layout(q, response.mover, tuple(term.of.tolist()), power, around, side, detectors)

    def own(self, first: int) -> np.ndarray:
        """(oxygens, 2) rows of the parameters, from `first` on, of the cell's own oxygen, in the order of its sites."""
        at = {k: i for i, k in enumerate(self.string)}
        at |= {c.mover: len(at) + i for i, c in enumerate(self.free) if c.cell == (0, 0)}
        return first + 2 * np.array([at[k] for k in sorted(at)], int)[:, None] + np.arange(2)

    def parts(self, x: Array) -> tuple[Array, ...]:
        """Displacement, shift, gains, grounds, oxygen on B's axis (s, 2), other oxygen (o, 2), A (4, 2), and
        displacements around (8, 2) of (k,)."""
        m, s, o = self.detectors, 2 * len(self.string), 2 * len(self.free)
        at = np.cumsum([2, 2, m, m, s, o, 2 * len(CORNERS)])
        d, shift, gain, ground, string, oxygen, a, around = jnp.split(x, at)
        return d, shift, gain, ground, *(v.reshape(-1, 2) for v in (string, oxygen, a, around))


def columns_around(movers: tuple[Mover, ...]) -> tuple[Column, ...]:
    """Oxygen columns that follow the nine cells alone; B's are not among them."""
    nine = [(0, 0), *map(tuple, AROUND.tolist())]
    found = []
    for k, mover in enumerate(movers):
        if not mover.apart:
            continue
        for cell in ((i, j) for j in range(-2, 3) for i in range(-2, 3)):
            parent = [((cell[0] + i, cell[1] + j), w) for (i, j), w in mover.parents()]
            if all(at in nine for at, _ in parent):
                away = np.hypot(*(np.array(cell) + mover.offset))
                rows = tuple((nine.index(at), w) for at, w in parent)
                found.append(Column(k, cell, rows, bool(away < _NEAR)))
    return tuple(found)


class Tables(NamedTuple):
    """What every mover around a cell adds to its pixels (p), of one detector."""

    clean: Float[Array, " p"]
    slope: Float[Array, "2 p"]
    mode: Float[Array, "9 powers p"]
    b: Float[Array, "9 2 p"]
    oxygen: tuple[Float[Array, "powers p"], ...]
    string: tuple[Float[Array, "2 p"], ...]
    corner: Float[Array, "4 2 p"]


def tables_of(view: View, layout: Layout, at: Float[Array, "p 2"]) -> Tables:
    """at: Å from the cell's centroid, along the crystal's axes."""
    box, of = CELLS * layout.side, layout.term.of
    wave = jnp.exp(2j * jnp.pi * jnp.matmul(at / box, layout.q.T))
    parity = [np.flatnonzero((layout.q % CELLS == p).all(1)) for p in PARITIES]
    image = jnp.stack([(wave[:, p] @ view.value[:, p].T).real.T for p in parity])  # (4, terms, p)
    slope = [(wave * (2j * jnp.pi * layout.q[:, k] / box[k])) @ view.value[0] for k in (0, 1)]

    def moved(k: int, cell):
        """(powers, p) of mover k of the cell so many cells away."""
        sign = np.where((np.array(PARITIES) @ np.array(cell)) % 2 == 0, 1.0, -1.0)
        middle = (np.array(cell) + layout.mover[k].offset) * layout.side
        near = (jnp.abs(at - middle) <= layout.side * (OXYGEN_ENDS if layout.mover[k].apart else 1.0)).all(-1)
        return jnp.tensordot(sign, image[:, np.flatnonzero(of == k)], 1) * near

    nine = [(0, 0), *map(tuple, AROUND.tolist())]
    mode = [moved(k, c) for k in layout.rows(MODE) for c in nine]
    return Tables(
        clean=image.sum(0)[0],
        slope=jnp.stack(slope).real,
        mode=jnp.stack(mode) if mode else jnp.zeros((len(nine), 0, len(at))),
        b=jnp.stack([moved(layout.term.b, c) for c in nine]),
        oxygen=tuple(moved(c.mover, c.cell) for c in layout.column),
        string=tuple(moved(k, (0, 0)) for k in layout.string),
        corner=jnp.stack([moved(k, c) for k in layout.rows(":A") for c in CORNERS]),
    )


def signals(tables: tuple[Tables, ...], layout: Layout, mode, around, x) -> list[Float[Array, " p"]]:
    """Of every detector, for the parameters x of a cell among neighbours displaced by `around` (8, 2) Å."""
    term = layout.term
    d, by, _, _, string, own, a, off = layout.parts(x)
    cells, free, oxygen = jnp.concatenate([d[None], around + off]), iter(own), []
    for column in layout.column:
        mover = layout.mover[column.mover]
        mean = sum(w * cells[at] for at, w in column.parent)
        moves = jnp.matmul(jnp.asarray(mover.follow, x.dtype), mean) * mode
        moves = moves + next(free) if column.free else moves
        oxygen.append(term.polynomial(column.mover, powers(moves / mover.unit)))
    back = 1 - mode if term.follows else 1.0
    along = jax.vmap(lambda u: powers(mode * u / REACH))(cells)
    weight = jnp.stack([term.polynomial(k, u) for k in layout.rows(MODE) for u in along]) if term.follows else None
    found = []
    for t in tables:
        signal = t.clean - by @ t.slope + jnp.tensordot(back * cells / REACH, t.b, 2)
        signal = signal + jnp.tensordot(a / REACH, t.corner, 2)
        if weight is not None:
            signal = signal + jnp.tensordot(weight, t.mode, 2)
        for one, image in zip(oxygen, t.oxygen, strict=True):
            signal = signal + one @ image
        for one, image in zip(string, t.string, strict=True):
            signal = signal + (one / REACH) @ image
        found.append(signal)
    return found
