"""What of a cell moves as one, and how it follows the displacement of B.

Columns are what responds: B with the oxygen that projects onto it, every other oxygen column, A. An oxygen between two
cells follows the mean of their displacements. Taken for what each cell does by itself, half of the square of its
displacement would be missing (ABF of uniform PbTiO3: 40 to 80 % off).
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ferrojax.crystal import Atoms, Crystal, displaced_supercell, shared_sites

CELLS = 2
"""Cells along each side of the box of a response: a column's response ends within a cell's length of it."""
REACH = 0.16
"""Å: the unit of B's displacement; that of oxygen is what the soft mode makes of it."""
MODE = "mode"
ON_AXIS = 0.3
"""Å from B's axis within which oxygen moves with B's column."""


class Mover(NamedTuple):
    """Columns that move as one.

    name: "mode" of B with the oxygen on its axis, along the soft mode, or "0:A" of a site by itself. site: those that
    move. offset: (x, y) cells from B. follow: (2, 2) of B's mean displacement around, zero of what moves by itself.
    unit: Å of its terms. degree: of its polynomial.
    """

    name: str
    site: tuple[int, ...]
    offset: tuple[float, float]
    follow: tuple[tuple[float, float], tuple[float, float]]
    unit: float
    degree: int

    @property
    def powers(self) -> tuple[tuple[int, int], ...]:
        """Of (x, y), of every term."""
        return tuple((n - y, y) for n in range(1, self.degree + 1) for y in range(n + 1))

    @property
    def follows(self) -> bool:
        """Whether it goes where B's displacement takes it."""
        return bool(np.any(self.follow))

    @property
    def apart(self) -> bool:
        """Whether it follows from a place of its own, as oxygen between cells does."""
        return self.follows and self.name != MODE

    def parents(self) -> list[tuple[tuple[int, int], float]]:
        """Cells (x, y) whose displacements it follows, and how much of each."""
        low = np.floor(np.array(self.offset) + 1e-9).astype(int)
        part = np.array(self.offset) - low
        found = []
        for i, j in np.ndindex(2, 2):
            weight = abs(1 - i - part[0]) * abs(1 - j - part[1])
            if weight > 1e-6:
                found.append(((int(low[0]) + i, int(low[1]) + j), float(weight)))
        return found


def home_of(crystal: Crystal) -> Int[np.ndarray, " sites"]:
    """The first of the species that share each one's place."""
    box = np.diag(np.asarray(crystal.cell, float))
    position = np.asarray(crystal.position, float) * box
    shared = shared_sites(position, (box[0], box[1], box[2]))
    return np.arange(len(position)) if shared is None else shared


def movers_of(crystal: Crystal, degrees: tuple[int, int]) -> tuple[Mover, ...]:
    """All that moves in a crystal; degrees: of the polynomials of B's column and of oxygen's."""
    home, label = home_of(crystal), crystal.label
    fractional = np.asarray(crystal.position, float)[:, :2]
    offset = fractional - fractional[label.index("B")]
    apart = (offset - np.round(offset)) * np.diag(np.asarray(crystal.cell, float))[:2]
    on_axis = np.hypot(*apart.T) < ON_AXIS
    soft = np.zeros((len(label), 2, 2))
    if crystal.soft_mode is not None:
        soft = np.asarray(crystal.soft_mode, float)[:, :2, :2]
    moving = np.any(soft, axis=(1, 2))
    found = []
    if crystal.soft_mode is not None:
        string = tuple(i for i in range(len(label)) if on_axis[i] and moving[i])
        found.append(Mover(MODE, string, (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)), REACH, degrees[0]))
    still = ((0.0, 0.0), (0.0, 0.0))
    for i in range(len(label)):
        if home[i] != i:
            continue
        sites, name = tuple(np.flatnonzero(home == i).tolist()), f"{i}:{label[i]}"
        at = (float(offset[i, 0]), float(offset[i, 1]))
        if moving[i] and not on_axis[i]:
            (a, b), (c, d) = soft[i].tolist()
            unit = REACH * max(1.0, float(np.linalg.norm(soft[i], 2)))
            found.append(Mover(name, sites, at, ((a, b), (c, d)), unit, degrees[1]))
        else:
            found.append(Mover(name, sites, at, still, REACH, 1))
    return tuple(found)


def displaced_box(
    crystal: Crystal, depth: int, movers: Sequence[Mover], shift: Float[np.ndarray, "y x movers 2"]
) -> Atoms:
    """A box of cells whose movers are displaced by `shift` (Å, (x, y)), constant along the beam."""
    still = displaced_supercell(crystal, np.zeros((*shift.shape[:2], 3)), depth)
    position = np.array(still.position, float).reshape(depth, *shift.shape[:2], len(crystal.label), 3)
    for k, mover in enumerate(movers):
        for site in mover.site:
            by = shift[:, :, k]
            if mover.name == MODE:
                assert crystal.soft_mode is not None
                by = by @ np.asarray(crystal.soft_mode, float)[site, :2, :2].T
            position[:, :, :, site, :2] += by
    moved = jnp.asarray(position.reshape(-1, 3), still.position.dtype)
    return eqx.tree_at(lambda a: a.position, still, moved).wrapped()


def following(movers: Sequence[Mover], field: Float[np.ndarray, "y x 2"]) -> Float[np.ndarray, "y x movers 2"]:
    """What a periodic field of B's displacements (Å) makes of every mover."""
    found = np.zeros((*field.shape[:2], len(movers), 2))
    for k, mover in enumerate(movers):
        mean = sum(w * np.roll(field, (-j, -i), (0, 1)) for (i, j), w in mover.parents())
        found[:, :, k] = mean @ np.array(mover.follow).T
    return found
