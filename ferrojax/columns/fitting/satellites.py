"""Columns that are not fitted but drawn where others say."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ferrojax.columns.fitting.model import Parameters


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

    def pull(self, parents: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """(n, 2) px from every column to the centre of gravity of itself and its satellites; 0 without any."""
        total = np.bincount(self.parent, self.ratio, len(parents))
        share = self.ratio / (1 + total[self.parent])
        found = np.zeros(parents.shape)
        np.add.at(found, self.parent, share[:, None] * (self.position(parents) - parents[self.parent]))
        return found

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
