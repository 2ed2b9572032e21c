"""Point symmetry of a crystal seen along the beam, and what it makes of detector operators."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ferrojax.crystal import Crystal

CLOSE = 1e-3
"""Å within which a site lies on another."""
SAME = 1e-7
"""Relative: sides that differ by more make other sets of beams, however like the crystals are."""


def plane_operations(crystal: Crystal, origin: Float[np.ndarray, "2"]) -> list[Int[np.ndarray, "2 2"]]:
    """Those of the eight operations of a square about `origin` (Å) that leave crystal, sites and soft mode alone."""
    cell = np.diag(np.asarray(crystal.cell, float))
    position = np.asarray(crystal.position, float) * cell - np.append(origin, 0)
    found = []
    for swap, sx, sy in itertools.product((False, True), (1, -1), (1, -1)):
        g = np.diag([sx, sy]) if not swap else np.array([[0, sx], [sy, 0]])
        if swap and abs(cell[0] - cell[1]) > SAME * cell[0]:
            continue
        whole = np.eye(3)
        whole[:2, :2] = g
        if _maps(crystal, cell, position, whole):
            found.append(g)
    return found


def _maps(crystal: Crystal, cell: np.ndarray, position: np.ndarray, g: np.ndarray) -> bool:
    rms = np.asarray(crystal.thermal_rms, float).reshape(len(position), -1)
    kind = np.column_stack([np.array(crystal.number), np.asarray(crystal.occupancy, float), rms])
    image = _matched(cell, position @ g.T, position, kind)
    if image is None:
        return False
    if crystal.soft_mode is None:
        return True
    mode = np.asarray(crystal.soft_mode, float)
    return np.allclose(mode[image], g @ mode @ g.T, atol=1e-6)


def _matched(cell: np.ndarray, moved: np.ndarray, position: np.ndarray, kind: np.ndarray) -> np.ndarray | None:
    """Site of its own kind on which every moved one lies, lattice translations aside; None where one lies on none."""
    apart = moved[:, None] - position[None]
    apart -= np.round(apart / cell) * cell
    near = (np.linalg.norm(apart, axis=-1) < CLOSE) & np.isclose(kind[:, None], kind[None]).all(-1)
    return near.argmax(1) if near.any(1).all() else None


class Pairs(NamedTuple):
    """Pairs of beams (first, second) whose difference q lies in one half of the plane; (n,) and (n, 2) (x, y)."""

    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    q: Int[np.ndarray, "n 2"]


def beam_pairs(beam: Int[np.ndarray, "b 2"], box: Float[np.ndarray, "2"], farthest: float) -> Pairs:
    """All pairs with |q| up to `farthest` (1/Å) in a box of Å (x, y); the other half is their complex conjugate."""
    first, second = (i.ravel() for i in np.meshgrid(np.arange(len(beam)), np.arange(len(beam)), indexing="ij"))
    q = beam[first] - beam[second]
    half = (q[:, 1] > 0) | ((q[:, 1] == 0) & (q[:, 0] >= 0))
    kept = half & (np.hypot(*(q / box).T) <= farthest + 1e-9)
    return Pairs(first[kept], second[kept], q[kept])


def turned_pairs(
    pairs: Pairs, beam: Int[np.ndarray, "b 2"], g: Int[np.ndarray, "2 2"]
) -> tuple[Int[np.ndarray, " n"], np.ndarray]:
    """(n,) where each pair's image under g stands, and (n,) whether as its conjugate."""
    number = {tuple(b): i for i, b in enumerate(beam.tolist())}
    turned = np.array([number[tuple(b)] for b in (beam @ g.T).tolist()])
    place = np.full((len(beam), len(beam)), -1)
    place[pairs.first, pairs.second] = np.arange(len(pairs.q))
    direct = place[turned[pairs.first], turned[pairs.second]]
    swapped = place[turned[pairs.second], turned[pairs.first]]
    return np.where(direct >= 0, direct, swapped), direct < 0
