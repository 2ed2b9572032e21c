"""Tilts and rotations of oxygen octahedra: from structures in three dimensions, and from O columns in projection."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.polarization.structure import AnyArray, PerovskiteCells, ligand_bonds
from ferrojax.products import exact


@exact
def octahedral_tilt(
    position: Float[AnyArray, "atoms 3"], cell: Float[AnyArray, "3 3"], cells: PerovskiteCells
) -> Float[Array, "n 3"]:
    """Angle in degrees (0 to 90, no sign) between each octahedron's O–O diagonals and the pseudo-cubic axes.

    A rotation about one axis turns the diagonals along the two others. Incomplete cells are NaN.
    """
    diagonal = _diagonals(position, cell, cells)
    axes = jnp.asarray(cells.axes, diagonal.dtype)
    along = jnp.abs(jnp.einsum("nki,ki->nk", diagonal, axes))
    across = jnp.linalg.norm(jnp.cross(diagonal, axes), axis=-1)
    return jnp.degrees(jnp.arctan2(across, along))


@exact
def octahedral_rotation(
    position: Float[AnyArray, "atoms 3"], cell: Float[AnyArray, "3 3"], cells: PerovskiteCells
) -> Float[Array, "n 3"]:
    """Signed rotation in degrees of every octahedron about the pseudo-cubic axes (right-handed), to first order.

    About z: the mean of how far the x diagonal turns towards +y and the y diagonal towards −x, so that a shear
    of the octahedron drops out. Neighbours of opposite sign are Glazer's "−". Incomplete cells are NaN.
    """
    diagonal = _diagonals(position, cell, cells)
    component = diagonal @ jnp.linalg.inv(jnp.asarray(cells.axes, diagonal.dtype))
    about = []
    for axis in range(3):
        x, y = (axis + 1) % 3, (axis + 2) % 3
        first = jnp.arctan2(component[:, x, y], component[:, x, x])
        second = jnp.arctan2(-component[:, y, x], component[:, y, y])
        about.append(0.5 * (first + second))
    return jnp.degrees(jnp.stack(about, -1))


def _diagonals(position, cell, cells: PerovskiteCells) -> Float[Array, "n 3 3"]:
    """Vectors from the − to the + oxygen along every axis; NaN in incomplete cells."""
    bond = ligand_bonds(position, cell, cells)
    return jnp.where(cells.complete[:, None, None], bond[:, 1::2] - bond[:, ::2], jnp.nan)


@jax.jit
@exact
def projected_rotation(
    pair: Float[AnyArray, "*batch k 2 2"],
    covariance: Float[AnyArray, "*batch k 2 2 2"],
    reference: Float[AnyArray, "k 2"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Rotation of an octahedron's projection and its variance (degrees, degrees²), from +x towards +y.

    In image axes +y points down, so a positive rotation is clockwise on the screen. The mean over k pairs of
    opposite O columns of the angle between the pair and its reference direction: two pairs at right angles in
    [001] (a shear drops out), one in [110], where it is the tilt of the octahedron out of the reference line.
    pair: (…, k, 2, 2) Å, the two columns of each pair as (x, y). covariance: (…, k, 2, 2, 2) Å², one a column.
    reference: (k, 2), direction from the first to the second column without rotation. NaN columns give NaN.
    """
    vector = pair[..., 1, :] - pair[..., 0, :]
    spread = covariance[..., 0, :, :] + covariance[..., 1, :, :]
    reference = jnp.asarray(reference, vector.dtype)
    cross = reference[:, 0] * vector[..., 1] - reference[:, 1] * vector[..., 0]
    angle = jnp.arctan2(cross, (reference * vector).sum(-1))
    turned = jnp.stack([-vector[..., 1], vector[..., 0]], -1) / (vector**2).sum(-1, keepdims=True)
    variance = jnp.einsum("...ki,...kij,...kj->...k", turned, spread, turned)
    degree = 180 / np.pi
    return degree * angle.mean(-1), degree**2 * variance.mean(-1) / pair.shape[-3]
