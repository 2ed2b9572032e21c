"""Curl, divergence, winding numbers and skyrmion density of a vector field on a grid of cells.

Image axes: +y points down. A positive curl turns from +x towards +y, clockwise on the screen. Winding numbers do
not depend on that: a vortex is +1 and an antivortex −1 in any axes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ferrojax.polarization.structure import AnyArray


@jax.jit
def field_gradient(
    field: Float[AnyArray, "ny nx k"], position: Float[AnyArray, "ny nx 2"], valid: Bool[AnyArray, "ny nx"]
) -> Float[Array, "ny nx k 2"]:
    """∂(component)/∂(x, y) at every cell, field's unit per Å; the grid may be rotated, sheared or strained.

    Central differences between the neighbours along the two grid directions, one-sided where one is invalid, both
    of the field and of the positions. NaN where a direction has no valid neighbour.
    """
    valid = jnp.asarray(valid)
    both = jnp.concatenate([jnp.asarray(field), jnp.asarray(position)], -1)
    both = jnp.where(valid[..., None], both, 0.0)
    across, ok_x = _difference(both, valid, 1)
    down, ok_y = _difference(both, valid, 0)
    there = ok_x & ok_y
    step = jnp.stack([across, down], -1)  # (ny, nx, k + 2, 2): change for one index along x and along y
    frame = jnp.where(there[..., None, None], step[..., -2:, :], jnp.eye(2, dtype=both.dtype))
    gradient = step[..., :-2, :] @ jnp.linalg.inv(frame)
    return jnp.where(there[..., None, None], gradient, jnp.nan)


def _difference(values: Array, valid: Array, axis: int) -> tuple[Array, Array]:
    """Mean of the forward and backward differences that exist, and whether there is one."""
    forward_ok = valid & _shifted(valid, -1, axis)
    backward_ok = valid & _shifted(valid, 1, axis)
    forward = jnp.where(forward_ok[..., None], _shifted(values, -1, axis) - values, 0.0)
    backward = jnp.where(backward_ok[..., None], values - _shifted(values, 1, axis), 0.0)
    count = forward_ok.astype(values.dtype) + backward_ok
    return (forward + backward) / jnp.maximum(count, 1)[..., None], count > 0


def _shifted(values: Array, by: int, axis: int) -> Array:
    """Values moved along an axis, zeros (False) coming in."""
    moved = jnp.roll(values, by, axis)
    edge = jnp.arange(values.shape[axis]) == (0 if by > 0 else values.shape[axis] - 1)
    edge = edge.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return jnp.where(edge, jnp.zeros((), values.dtype), moved)


@jax.jit
def divergence(
    field: Float[AnyArray, "ny nx 2"], position: Float[AnyArray, "ny nx 2"], valid: Bool[AnyArray, "ny nx"]
) -> Float[Array, "ny nx"]:
    """∂P_x/∂x + ∂P_y/∂y; −1 times it is the bound charge density of a polarization."""
    gradient = field_gradient(field, position, valid)
    return gradient[..., 0, 0] + gradient[..., 1, 1]


@jax.jit
def curl(
    field: Float[AnyArray, "ny nx 2"], position: Float[AnyArray, "ny nx 2"], valid: Bool[AnyArray, "ny nx"]
) -> Float[Array, "ny nx"]:
    """∂P_y/∂x − ∂P_x/∂y in image axes: positive where the field turns clockwise on the screen (+y down)."""
    gradient = field_gradient(field, position, valid)
    return gradient[..., 1, 0] - gradient[..., 0, 1]


@jax.jit
def winding_number(
    field: Float[AnyArray, "ny nx 2"],
    valid: Bool[AnyArray, "ny nx"],
    max_turn: float | Float[AnyArray, ""] = 180.0,
) -> Float[Array, "less_y less_x"]:
    """Turns of the field around every plaquette of four cells: +1 in a vortex, −1 in an antivortex, 0 elsewhere.

    (ny − 1, nx − 1), whole numbers; NaN where a corner is invalid or has no direction. The sense of the loop and
    the sense of the angle change together when an axis is turned over, so the number stays, provided the grid's
    indices run along the field's axes with the same handedness, as in `PolarizationMap`. Summed over a region it
    is the winding along the region's rim (Poincaré–Hopf).
    max_turn: degrees; plaquettes with two neighbours further apart than this are NaN. Across a 180° wall the field
    turns without a sense, and noise then makes pairs of +1 and −1 along it: 135 removes those, and with them
    vortices whose core lies close to a bond.
    """
    field = jnp.asarray(field)
    pointing = jnp.asarray(valid) & ((field != 0).any(-1))
    field = jnp.where(pointing[..., None], field, 1.0)
    angle = jnp.arctan2(field[..., 1], field[..., 0])
    # Once a bond, so that the two plaquettes beside it count the same turn with opposite sign.
    across, down = _wrapped(angle[:, 1:] - angle[:, :-1]), _wrapped(angle[1:] - angle[:-1])
    turns = across[:-1] + down[:, 1:] - across[1:] - down[:, :-1]
    # A little over the limit, so that 180 lets every bond pass.
    limit = jnp.radians(max_turn) + 1e-3
    clear_x, clear_y = jnp.abs(across) < limit, jnp.abs(down) < limit
    whole = pointing[:-1, :-1] & pointing[:-1, 1:] & pointing[1:, 1:] & pointing[1:, :-1]
    whole &= clear_x[:-1] & clear_x[1:] & clear_y[:, :-1] & clear_y[:, 1:]
    return jnp.where(whole, jnp.round(turns / (2 * np.pi)), jnp.nan)


def _wrapped(angle: Array) -> Array:
    """Into [−π, π)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


@jax.jit
def skyrmion_density(
    field: Float[AnyArray, "ny nx 3"], valid: Bool[AnyArray, "ny nx"]
) -> Float[Array, "less_y less_x"]:
    """Solid angle of the field's directions over every plaquette, over 4π; its sum is the skyrmion number.

    (ny − 1, nx − 1), NaN where a corner is invalid or zero. Field (x, y, z) in axes whose handedness the grid's
    indices share. Source: B. Berg, M. Lüscher, Nucl. Phys. B 190, 412 (1981).
    """
    field = jnp.asarray(field)
    size = jnp.linalg.norm(jnp.where(jnp.asarray(valid)[..., None], field, 0.0), axis=-1)
    pointing = size > 0
    up = jnp.array([0.0, 0.0, 1.0], field.dtype)
    unit = jnp.where(pointing[..., None], field, up) / jnp.where(pointing, size, 1.0)[..., None]
    a, b, c, d = unit[:-1, :-1], unit[:-1, 1:], unit[1:, 1:], unit[1:, :-1]
    whole = pointing[:-1, :-1] & pointing[:-1, 1:] & pointing[1:, 1:] & pointing[1:, :-1]
    return jnp.where(whole, (_solid_angle(a, b, c) + _solid_angle(a, c, d)) / (4 * np.pi), jnp.nan)


def _solid_angle(a: Array, b: Array, c: Array) -> Array:
    """Signed solid angle of three unit vectors (A. van Oosterom, J. Strackee, IEEE Trans. Biomed. Eng. 30, 125)."""
    volume = (a * jnp.cross(b, c)).sum(-1)
    base = 1 + (a * b).sum(-1) + (b * c).sum(-1) + (c * a).sum(-1)
    return 2 * jnp.arctan2(volume, base)
