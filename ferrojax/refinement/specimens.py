"""Displaced boxes of cells from which a response is determined, and what they tell of its terms.

All columns of a box move at once, as in a crystal: every cell's B by its own displacement about one that all share,
oxygen after it and a little by itself. What two columns do together then counts as the mean over such crystals has it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ferrojax.crystal import Crystal
from ferrojax.refinement.movers import CELLS, Mover, following, home_of

FARTHEST, LIMIT = 0.2, 0.28
"""Å: mean displacements of B in a box reach so far, and no single one farther than the second."""
SCATTER = (0.04, 0.08)
"""Å rms per axis, of every cell about it, in turn."""
LEAST = 0.02
"""Å rms: boxes displaced by less count no more than these."""
ASIDE = 0.03
"""Å rms, of what moves by itself, or beside what it follows."""
TRIED = 20
"""Random choices of boxes, of which the best is taken."""
PARITIES = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Of q, which decide the signs with which the cells of the box add up."""


class Turn(NamedTuple):
    """What an operation of the point symmetry makes of movers: g (2, 2), whose place each takes, and how many cells off
    the cell that its own is turned to (movers, 2)."""

    g: Int[np.ndarray, "2 2"]
    place: Int[np.ndarray, " movers"]
    off: Int[np.ndarray, "movers 2"]

    def image(self, shift: Float[np.ndarray, "y x movers 2"]) -> Float[np.ndarray, "y x movers 2"]:
        """The displaced box after the operation."""
        found = np.zeros_like(shift)
        for (y, x), k in ((at, k) for at in np.ndindex(*shift.shape[:2]) for k in range(shift.shape[2])):
            i, j = self.g @ np.array([x, y]) + self.off[k]
            found[j % shift.shape[0], i % shift.shape[1], self.place[k]] = self.g @ shift[y, x, k]
        return found


def turns_of(crystal: Crystal, movers: Sequence[Mover], operations: Sequence[Int[np.ndarray, "2 2"]]) -> list[Turn]:
    """Every operation about B of the first cell."""
    home, names = home_of(crystal), [m.name for m in movers]
    position = np.asarray(crystal.position, float)
    b = position[crystal.label.index("B"), :2]
    cell = np.diag(np.asarray(crystal.cell, float))
    found = []
    for g in operations:
        place, off = np.zeros(len(movers), int), np.zeros((len(movers), 2), int)
        for k, mover in enumerate(movers):
            if mover.name not in names or mover.name == "mode":
                place[k] = k
                continue
            site = mover.site[0]
            turned = np.append(g @ (position[site, :2] - b) + b, position[site, 2])
            apart = turned - position
            near = np.linalg.norm((apart - np.round(apart)) * cell, axis=1)
            other = int(home[np.argmin(near)])
            place[k] = names.index(f"{other}:{crystal.label[other]}")
            off[k] = np.round(turned - position[other])[:2]
        found.append(Turn(np.asarray(g), place, off))
    return found


def terms_of(movers: Sequence[Mover]) -> tuple[tuple[str, int, int], ...]:
    """(mover, power of x, power of y) of all that displacements add."""
    return tuple((m.name, x, y) for m in movers for x, y in m.powers)


def design(movers: Sequence[Mover], shifts: Float[np.ndarray, "n y x movers 2"]) -> Float[np.ndarray, "4 n terms"]:
    """How much of each term, as the first cell has it, boxes hold at frequencies of each parity."""
    sign = np.array([[[(-1.0) ** (p[0] * x + p[1] * y) for x in range(CELLS)] for y in range(CELLS)] for p in PARITIES])
    found = []
    for k, mover in enumerate(movers):
        u = shifts[:, :, :, k] / mover.unit
        power = np.stack([u[..., 0] ** x * u[..., 1] ** y for x, y in mover.powers], -1)
        found.append(np.einsum("pyx,nyxt->pnt", sign, power))
    return np.concatenate(found, -1)


def specimens(movers: Sequence[Mover], count: int, turns: Sequence[Turn]) -> Float[np.ndarray, "n y x movers 2"]:
    """So many displaced boxes (Å), the best of many random choices: with their images under the symmetry they tell all
    terms apart."""
    rng = np.random.default_rng(0)
    best, least = None, np.inf
    for _ in range(TRIED):
        shifts = np.stack([_drawn(movers, i, count, rng) for i in range(count)])
        images = np.stack([turn.image(one) for one in shifts for turn in turns])
        size = 0.0
        for part in design(movers, images) * weights(images)[:, None]:
            known = np.linalg.matrix_rank(part) == part.shape[1]
            size += float(np.trace(np.linalg.inv(part.T @ part))) if known else np.inf
        if size < least:
            best, least = shifts, size
    if best is None:
        raise ValueError(f"{count} boxes do not tell {len(terms_of(movers))} terms apart")
    return best


def weights(shifts: Float[np.ndarray, "n y x movers 2"]) -> Float[np.ndarray, " n"]:
    """What a box counts: phonons scatter a response by a share of its own size."""
    return 1 / np.sqrt((shifts[:, :, :, 0] ** 2).sum(-1).mean((1, 2)) + LEAST**2)


def _drawn(movers: Sequence[Mover], number: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """One box: mean displacements are as often small as large, because the small ones tell the linear terms."""
    radius, angle = FARTHEST * (number + rng.uniform()) / count, rng.uniform(0, 2 * np.pi)
    field = radius * np.array([np.cos(angle), np.sin(angle)]) + SCATTER[number % 2] * rng.normal(size=(CELLS, CELLS, 2))
    field *= np.minimum(1, LIMIT / np.linalg.norm(field, axis=-1, keepdims=True))
    shift = following(movers, field)
    for k, mover in enumerate(movers):
        if mover.name != "mode":
            shift[:, :, k] += ASIDE * rng.normal(size=(CELLS, CELLS, 2))
    return shift
