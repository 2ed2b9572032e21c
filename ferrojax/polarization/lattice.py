"""Local lattice vectors of a sublattice and what follows: lengths, angle, c/a, strain, rotation, with covariances."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ferrojax.errors import InputError
from ferrojax.polarization.structure import AnyArray
from ferrojax.products import exact

PLAQUETTE = np.array([[-0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5]])
CROSS = np.array([[-0.5, 0.5, 0.0, 0.0], [0.0, 0.0, -0.5, 0.5]])
"""Weights of four columns in the two local lattice vectors; see `local_lattice`."""


class LocalLattice(eqx.Module):
    """Two lattice vectors a cell; `covariance` is that of (x₁, y₁, x₂, y₂).

    vectors: (…, 2, 2) Å, rows are the vectors as (x, y). covariance: (…, 4, 4) Å². valid: (…).
    Invalid cells are NaN. Cells that touch share columns, so their errors correlate: a mean over cells needs
    `block_bootstrap`.
    """

    vectors: Float[Array, "*batch 2 2"]
    covariance: Float[Array, "*batch 4 4"]
    valid: Bool[Array, "*batch"]


class Strain(eqx.Module):
    """Strain and rotation against a reference cell, in image axes (+y down).

    tensor: (…, 3), (ε_xx, ε_yy, ε_xy), the left stretch minus one. rotation: (…) degrees from +x towards +y, so
    that a positive one is clockwise on the screen. covariance: (…, 4, 4) of (ε_xx, ε_yy, ε_xy, rotation).
    """

    tensor: Float[Array, "*batch 3"]
    rotation: Float[Array, "*batch"]
    covariance: Float[Array, "*batch 4 4"]


@exact
def local_lattice(
    position: Float[AnyArray, "ny nx 2"],
    covariance: Float[AnyArray, "ny nx 2 2"],
    valid: Bool[AnyArray, "ny nx"],
    stencil: Literal["plaquette", "cross"] = "plaquette",
) -> LocalLattice:
    """Local lattice vectors of the columns of one sublattice on their index grid.

    plaquette: from the four corners of every cell, (ny − 1, nx − 1) cells: cell [j, i] lies between columns
    [j, i] and [j + 1, i + 1]. cross: central differences at every column, (ny, nx).
    """
    if stencil not in ("plaquette", "cross"):
        raise InputError("stencil", stencil, "is unknown", "choose plaquette or cross")
    return _local_lattice(jnp.asarray(position), jnp.asarray(covariance), jnp.asarray(valid), stencil == "cross")


@eqx.filter_jit
@exact
def _local_lattice(position: Array, covariance: Array, valid: Array, cross: bool) -> LocalLattice:
    weight = jnp.asarray(CROSS if cross else PLAQUETTE, position.dtype)
    around = _cross if cross else _corners
    whole = jnp.stack(around(valid, False), -1).all(-1)
    columns = jnp.stack(around(jnp.where(valid[..., None], position, 0.0), 0.0), -2)
    spread = jnp.stack(around(jnp.where(valid[..., None, None], covariance, 0.0), 0.0), -3)
    vectors = jnp.einsum("vk,...ki->...vi", weight, columns)
    joint = jnp.einsum("vk,wk,...kij->...viwj", weight, weight, spread)
    joint = joint.reshape(*whole.shape, 4, 4)
    return LocalLattice(
        jnp.where(whole[..., None, None], vectors, jnp.nan), jnp.where(whole[..., None, None], joint, jnp.nan), whole
    )


def _corners(grid: Array, fill) -> list[Array]:
    del fill
    return [grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]]


def _cross(grid: Array, fill) -> list[Array]:
    padding = [(1, 1), (1, 1)] + [(0, 0)] * (grid.ndim - 2)
    wide = jnp.pad(grid, padding, constant_values=fill)
    return [wide[1:-1, :-2], wide[1:-1, 2:], wide[:-2, 1:-1], wide[2:, 1:-1]]


@exact
def propagate(
    function: Callable[[Array], Array], value: Float[Array, "*batch n"], covariance: Float[Array, "*batch n n"]
) -> tuple[Float[Array, "*batch m"], Float[Array, "*batch m m"]]:
    """function(value) and its covariance J C Jᵀ to first order; the function maps (n,) to (m,)."""
    batch, n = value.shape[:-1], value.shape[-1]
    flat = value.reshape(-1, n)
    jacobian = jax.vmap(jax.jacfwd(function))(flat)
    result = jax.vmap(function)(flat)
    spread = jnp.einsum("bmi,bij,bkj->bmk", jacobian, covariance.reshape(-1, n, n), jacobian)
    m = result.shape[-1]
    return result.reshape(*batch, m), spread.reshape(*batch, m, m)


@eqx.filter_jit
@exact
def lattice_lengths(lattice: LocalLattice) -> tuple[Float[Array, "*batch 2"], Float[Array, "*batch 2 2"]]:
    """Lengths of the two vectors (Å) and their covariance (Å²)."""
    return _derived(lattice, lambda v: jnp.linalg.norm(v.reshape(2, 2), axis=1))


@eqx.filter_jit
@exact
def lattice_angle(lattice: LocalLattice) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Angle between the two vectors and its variance (degrees, degrees²)."""

    def angle(v: Array) -> Array:
        cross, dot = v[0] * v[3] - v[1] * v[2], v[0] * v[2] + v[1] * v[3]
        return jnp.degrees(jnp.arctan2(jnp.abs(cross), dot))[None]

    return _scalar(lattice, angle)


@eqx.filter_jit
@exact
def tetragonality(lattice: LocalLattice, long_axis: int = 1) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """c/a, the length of vector `long_axis` (0 or 1) over the other's, and its variance.

    The axis is chosen for the whole map: the longer one of each cell would make noise look like tetragonality.
    """

    def ratio(v: Array) -> Array:
        length = jnp.linalg.norm(v.reshape(2, 2), axis=1)
        return (length[long_axis] / length[1 - long_axis])[None]

    return _scalar(lattice, ratio)


@eqx.filter_jit
@exact
def strain(lattice: LocalLattice, reference: Float[AnyArray, "2 2"]) -> Strain:
    """Strain and rotation of every cell against a reference cell, exact for large ones.

    reference: rows are the reference's lattice vectors in image axes, Å (`mean_lattice` of a region, or the
    crystal's own). F carries the reference on the cell, F = V R: V − 1 is the strain, R the rotation.
    """
    inverse = jnp.linalg.inv(jnp.asarray(reference, lattice.vectors.dtype))

    def polar(v: Array) -> Array:
        f = (inverse @ v.reshape(2, 2)).T
        angle = jnp.arctan2(f[1, 0] - f[0, 1], f[0, 0] + f[1, 1])
        c, s = jnp.cos(angle), jnp.sin(angle)
        stretch = f @ jnp.array([[c, s], [-s, c]])
        return jnp.stack([stretch[0, 0] - 1, stretch[1, 1] - 1, stretch[0, 1], jnp.degrees(angle)])

    value, covariance = _derived(lattice, polar)
    return Strain(value[..., :3], value[..., 3], covariance)


@exact
def mean_lattice(lattice: LocalLattice, region: Bool[AnyArray, "*batch"] | None = None) -> Float[Array, "2 2"]:
    """Mean lattice vectors (Å) of the valid cells, of a region if one is given."""
    chosen = lattice.valid if region is None else lattice.valid & jnp.asarray(region)
    if not bool(chosen.any()):
        raise InputError("region", "no valid cell", "has no lattice", "choose a region with fitted columns")
    return lattice.vectors[chosen].mean(0)


def _derived(lattice: LocalLattice, function: Callable[[Array], Array]) -> tuple[Array, Array]:
    """`propagate` where the lattice is valid; NaN elsewhere, with gradients that stay finite."""
    there = lattice.valid[..., None]
    flat = jnp.where(there, lattice.vectors.reshape(*lattice.valid.shape, 4), jnp.array([1.0, 0, 0, 1.0]))
    value, spread = propagate(function, flat, jnp.where(there[..., None], lattice.covariance, 0.0))
    return jnp.where(there, value, jnp.nan), jnp.where(there[..., None], spread, jnp.nan)


def _scalar(lattice: LocalLattice, function: Callable[[Array], Array]) -> tuple[Array, Array]:
    value, spread = _derived(lattice, function)
    return value[..., 0], spread[..., 0, 0]
