"""Draw what a crystal hides under a column, so that it does not pull the column's position.

Along many zone axes oxygen projects almost onto B. It is too faint to fit, but when B is displaced it moves along the
soft mode by its own amount, and a single Gaussian follows the mean of both.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ferrojax.columns.model import Parameters
from ferrojax.columns.seeds import Seeds
from ferrojax.crystal.components import ColumnComponents, column_components
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.zone import Motif
from ferrojax.errors import InputError


class Satellites(NamedTuple):
    """Columns that are drawn where others, their parents, say.

    parent: (m,) row of the parent. around, weight: (m, k) the parent's neighbours, weight 0 where one is missing.
    ideal, offset: (m, 2) px, the parent against its neighbours' centroid and the satellite against its parent, both
    without displacement. lever: (m, 2, 2), satellite − parent = offset + lever @ displacement. ratio: (m,) brightness
    of the satellite over that of its parent alone. first: row of the first satellite.
    """

    parent: Int[np.ndarray, " m"]
    around: Int[np.ndarray, "m k"]
    weight: Float[np.ndarray, "m k"]
    ideal: Float[np.ndarray, "m 2"]
    offset: Float[np.ndarray, "m 2"]
    lever: Float[np.ndarray, "m 2 2"]
    ratio: Float[np.ndarray, " m"]
    first: int = 0

    def position(self, parents: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
        """(m, 2) px, where the satellites are."""
        at = parents[self.parent].astype(float)
        centre = np.einsum("mk,mki->mi", self.weight, parents[self.around])
        known = self.weight.sum(1) > 0
        shift = np.where(known[:, None], at - centre - self.ideal, 0.0)
        return at + self.offset + np.einsum("mij,mj->mi", self.lever, shift)

    def __call__(self, p: Parameters) -> Parameters:
        """Set the satellites from their parents."""
        position, amplitude, shape = (np.array(a) for a in (p.position, p.amplitude, p.shape))
        mine = slice(self.first, self.first + len(self.parent))
        position[mine] = self.position(position)
        amplitude[mine] = self.ratio * amplitude[self.parent]
        shape[mine] = shape[self.parent]
        new = tuple(jnp.asarray(a) for a in (position, amplitude, shape))
        return eqx.tree_at(lambda q: (q.position, q.amplitude, q.shape), p, new)

    def sharpened(self, covariance: Float[np.ndarray, "n 2 2"]) -> Float[np.ndarray, "n 2 2"]:
        """Covariance of the columns, the satellites' motion included: the pixels tell where a parent and its satellites
        are together, and that moves more, or less, than the parent."""
        known = self.weight.sum(1) > 0
        total = np.bincount(self.parent, self.ratio, len(covariance))
        share = known * self.ratio / (1 + total[self.parent])
        together = np.tile(np.eye(2), (len(covariance), 1, 1))
        np.add.at(together, self.parent, share[:, None, None] * self.lever)
        inverse = np.linalg.inv(together)
        finite = np.isfinite(covariance).all((1, 2), keepdims=True)
        turned = inverse @ np.where(finite, covariance, 0.0) @ inverse.swapaxes(1, 2)
        return np.where(finite, turned, np.inf)


def hidden_oxygen(seeds: Seeds, crystal: Crystal, motif: Motif) -> Satellites:
    """The oxygen under every B column, moving along the crystal's soft mode.

    Columns of oxygen alone are left out: away from heavier columns, a dark field shows less of it than Z^1.7 says.

    Errors: InputError where the crystal has no soft mode, or no B column of this zone axis holds oxygen.
    """
    if crystal.soft_mode is None:
        raise InputError("oxygen", crystal.name, "has no soft mode to place it by", "map without oxygen")
    components = column_components(crystal, motif)
    row = {(int(c), int(i), int(j)): k for k, (c, (i, j)) in enumerate(zip(seeds.column, seeds.index, strict=True))}
    found = []
    for column, parts in enumerate(components):
        if motif.label[column] == "B" and len(motif.shells[column].weight):
            found += _of_column(column, parts, (motif, seeds, row))
    if not found:
        raise InputError("zone axis", motif.zone, "hides no oxygen under B", "map without oxygen")
    parent, around, weight, ideal, offset, lever, ratio = (np.array(part) for part in zip(*found, strict=True))
    return Satellites(parent, around, weight, ideal, offset, lever, ratio)


def _under(parts: ColumnComponents) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Offset (2,) Å from B's place, response (2, 2) and brightness over that of B alone, of what B's column holds."""
    assert parts.response is not None
    rest = range(1, len(parts.share))
    return [(parts.offset[s] - parts.offset[0], parts.response[s], parts.share[s] / parts.share[0]) for s in rest]


def _of_column(column: int, parts: ColumnComponents, known) -> list[tuple]:
    """Rows of `Satellites` for all seeds of one column of the motif."""
    motif, seeds, row = known
    assert parts.response is not None
    shell, frame = motif.shells[column], seeds.frame
    back = np.linalg.inv(frame)
    at = np.array([motif.position[c] for c in shell.column]) + shell.index - motif.position[column]
    ideal = -frame @ (shell.weight @ at @ motif.lattice)
    result = []
    for k in np.nonzero(seeds.column == column)[0]:
        i, j = seeds.index[k]
        cells = zip(shell.column, shell.index, strict=True)
        around = [row.get((int(c), int(i + a), int(j + b))) for c, (a, b) in cells]
        weight = np.zeros(len(around)) if None in around else shell.weight
        near = [int(k) if r is None else int(r) for r in around]
        for offset, response, ratio in _under(parts):
            lever = frame @ (response - parts.response[0]) @ back
            result.append((k, near, weight, ideal, frame @ offset, lever, ratio))
    return result
