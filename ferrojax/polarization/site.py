"""Displacement of columns from the ideal sites of an affine lattice, fitted to a whole map or to a neighbourhood."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ferrojax.errors import InputError
from ferrojax.polarization.structure import AnyArray
from ferrojax.products import exact

MIN_NEIGHBOURS = 5
"""Sites that a local plane must rest on: two more than it has parameters."""


class AffineLattice(eqx.Module):
    """r(h) = origin + h @ vectors for index h, with the covariance of the six numbers.

    coefficient: (3, 2) Å, rows are the origin and the two lattice vectors. covariance: (3, 3, 2, 2) Å², between
    rows and between x and y.
    """

    coefficient: Float[Array, "3 2"]
    covariance: Float[Array, "3 3 2 2"]


@jax.jit
@exact
def fit_lattice(
    position: Float[AnyArray, "*batch 2"],
    covariance: Float[AnyArray, "*batch 2 2"],
    index: Float[AnyArray, "*batch 2"],
    valid: Bool[AnyArray, "*batch"],
) -> AffineLattice:
    """Least squares of an affine lattice through the valid sites; all sites count alike.

    index: lattice index as floats, with the site's place in the cell if that is not the origin.
    """
    valid = jnp.ravel(jnp.asarray(valid))
    design = _design(jnp.reshape(jnp.asarray(index), (-1, 2))) * valid[:, None]
    place = jnp.where(valid[:, None], jnp.reshape(jnp.asarray(position), (-1, 2)), 0.0)
    spread = jnp.where(valid[:, None, None], jnp.reshape(jnp.asarray(covariance), (-1, 2, 2)), 0.0)
    inverse = jnp.linalg.inv(design.T @ design)
    rows = design @ inverse
    return AffineLattice(rows.T @ place, jnp.einsum("nk,nl,nij->klij", rows, rows, spread))


@jax.jit
@exact
def lattice_displacement(
    position: Float[AnyArray, "*batch 2"],
    covariance: Float[AnyArray, "*batch 2 2"],
    index: Float[AnyArray, "*batch 2"],
    lattice: AffineLattice,
) -> tuple[Float[Array, "*batch 2"], Float[Array, "*batch 2 2"]]:
    """Displacement (Å) of sites that took no part in a lattice's fit, such as B against A's, and its covariance.

    The covariance has the site's own and the lattice's; the latter is common to all sites.
    """
    design = _design(jnp.asarray(index))
    ideal = design @ lattice.coefficient
    carried = jnp.einsum("...k,...l,klij->...ij", design, design, lattice.covariance)
    return jnp.asarray(position) - ideal, jnp.asarray(covariance) + carried


def _design(index: Float[Array, "*batch 2"]) -> Float[Array, "*batch 3"]:
    return jnp.concatenate([jnp.ones((*index.shape[:-1], 1), index.dtype), index], -1)


@exact
def site_displacement(
    position: Float[AnyArray, "ny nx 2"],
    covariance: Float[AnyArray, "ny nx 2 2"],
    valid: Bool[AnyArray, "ny nx"],
    radius: int | None = None,
) -> tuple[Float[Array, "ny nx 2"], Float[Array, "ny nx 2 2"]]:
    """Displacement (Å) of every site from the lattice of its own kind, and its covariance (Å²).

    radius: the ideal site is where an affine lattice through the neighbours up to that many cells away puts it,
    the site itself left out. None: one lattice through all sites. Either way a displacement that all sites of
    the fit share is not seen: it is in the lattice. Sites with too few neighbours are NaN.
    """
    position, covariance, valid = jnp.asarray(position), jnp.asarray(covariance), jnp.asarray(valid)
    if radius is not None and radius < 1:
        raise InputError("radius", radius, "must be at least one cell", "give 1 or more, or None for one lattice")
    return _from_all(position, covariance, valid) if radius is None else _from_near(position, covariance, valid, radius)


@jax.jit
@exact
def _from_all(position: Array, covariance: Array, valid: Array) -> tuple[Array, Array]:
    """With the hat matrix H: d = (1 − H) r, so cov(d_s) = (1 − 2 H_ss) C_s + Σ_k H_sk² C_k."""
    rows, cols = valid.shape
    y, x = jnp.meshgrid(jnp.arange(rows) - rows / 2, jnp.arange(cols) - cols / 2, indexing="ij")
    index = jnp.stack([x, y], -1).astype(position.dtype)
    lattice = fit_lattice(position, covariance, index, valid)
    design = _design(index)
    weighted = design * valid[..., None]
    inverse = jnp.linalg.inv(jnp.einsum("yxk,yxl->kl", weighted, weighted))
    own = jnp.einsum("yxk,kl,yxl->yx", design, inverse, design)
    carried = jnp.einsum("yxk,yxl,klij->yxij", design, design, lattice.covariance)
    spread = (1 - 2 * own)[..., None, None] * covariance + carried
    enough = valid & (valid.sum() > MIN_NEIGHBOURS)
    displacement = position - design @ lattice.coefficient
    return jnp.where(enough[..., None], displacement, jnp.nan), jnp.where(enough[..., None, None], spread, jnp.nan)


@eqx.filter_jit
@exact
def _from_near(position: Array, covariance: Array, valid: Array, radius: int) -> tuple[Array, Array]:
    steps = [s for s in itertools.product(range(-radius, radius + 1), repeat=2) if s != (0, 0)]
    offset = jnp.asarray(np.array([(i, j) for j, i in steps], float), position.dtype)
    design = _design(offset)

    def near(grid: Array) -> Array:
        wide = jnp.pad(grid, [(radius, radius)] * 2 + [(0, 0)] * (grid.ndim - 2))
        rows, cols = grid.shape[:2]
        return jnp.stack([wide[radius + j :, radius + i :][:rows, :cols] for j, i in steps], 2)

    there = near(valid)
    normal = jnp.einsum("kp,yxk,kq->yxpq", design, there.astype(position.dtype), design)
    # Three in a line carry no plane: their determinant is an exact zero, and at least 1 otherwise.
    enough = valid & (there.sum(-1) >= MIN_NEIGHBOURS) & (jnp.linalg.det(normal) > 0.5)
    normal = jnp.where(enough[..., None, None], normal, jnp.eye(3, dtype=position.dtype))
    weight = jnp.einsum("yxp,kp->yxk", jnp.linalg.inv(normal)[..., 0], design) * there
    place = near(jnp.where(valid[..., None], position, 0.0))
    # Differences first, so that float32 keeps picometres on large coordinates.
    displacement = -jnp.einsum("yxk,yxki->yxi", weight, place - position[:, :, None])
    carried = jnp.einsum("yxk,yxkij->yxij", weight**2, near(jnp.where(valid[..., None, None], covariance, 0.0)))
    spread = covariance + carried
    return jnp.where(enough[..., None], displacement, jnp.nan), jnp.where(enough[..., None, None], spread, jnp.nan)
