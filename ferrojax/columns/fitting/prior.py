"""What is known of columns before their pixels are looked at: where they are, and that those of a group look alike."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ferrojax.columns.fitting.model import Parameters
from ferrojax.columns.sizes import counted

_LOOSE, _FIRM = 2.0, 0.2
"""Spread of positions round their start (widths) and of amplitudes round their group's (relative): the first matters
only to a column that the pixels hardly show, the second is for columns whose tails alone reach into the image."""
_FIRM_SHAPE = 0.05
"""Spread of the shapes of those."""
_GROUPS = 4
"""They come in multiples, so that few programs are compiled."""


class ShapePrior(NamedTuple):
    """Columns of one group share their shape up to `spread` (log width; ellipticities a third of it).

    group: (n,) int. trusted: (n,) columns that the image shows whole enough: the mean of their shapes is the group's,
    and it is fitted; the others are not far from where they start and from their group's looks.
    """

    group: Int[np.ndarray, " n"]
    trusted: Bool[np.ndarray, " n"]
    spread: float = 0.1


class Prior(eqx.Module):
    """mean, precision: (n, 6) of position, amplitude and shape. member: (n, groups) a trusted column's share in the
    shape of its group, in columns of unit length: those shapes have no mean beforehand but their own."""

    mean: Float[Array, "n 6"]
    precision: Float[Array, "n 6"]
    member: Float[Array, "n groups"]

    def off(self, p: Parameters) -> Float[Array, "n 6"]:
        """How far the columns are from what is known of them."""
        off = jnp.column_stack([p.position, p.amplitude, p.shape]) - self.mean
        return off.at[:, 3:].add(-self.member @ (self.member.T @ off[:, 3:]))

    def firmer(self, by: Float[Array, " n"]) -> "Prior":
        """With every column's precision multiplied."""
        return eqx.tree_at(lambda q: q.precision, self, self.precision * by[:, None])


def known_beforehand(p: Parameters, start: Parameters, shapes: ShapePrior, spread: float) -> Prior:
    """What is known of columns that started at `start` and are at p; spread: of the shapes, where not firm."""
    mean = np.column_stack([start.position, p.amplitude, p.shape]).astype(float)
    loose = np.ones((len(mean), 3))
    groups = np.unique(shapes.group)
    member = np.zeros((len(mean), counted(len(groups), _GROUPS)))
    for k, g in enumerate(groups):
        mine = shapes.group == g
        known = mine & shapes.trusted
        if known.any():
            mean[mine, 2], mean[mine, 3:] = np.median(mean[known, 2]), mean[known, 3:].mean(0)
            loose[mine] = np.array([*[np.exp(mean[mine, 3][0])] * 2, np.abs(mean[mine, 2][0]) + 1e-6])
            member[known, k] = known.sum() ** -0.5
    loose *= np.where(shapes.trusted, _LOOSE, _FIRM)[:, None]
    own = np.where(shapes.trusted, spread, min(spread, _FIRM_SHAPE))[:, None] * np.array([1.0, 1 / 3, 1 / 3])
    sd = np.column_stack([loose, own])
    return Prior(*(jnp.asarray(a, start.position.dtype) for a in (mean, sd**-2.0, member)))
