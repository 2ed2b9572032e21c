"""The Fisher matrix of an image model in blocks: columns, pairs that overlap, and the background.

A column and the background meet in few numbers, and only neighbours overlap, so the matrix is kept as blocks; products
with it cost little, and the covariance of a column needs its own surroundings only.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ferrojax.columns.fitting.model import ImageModel, Parameters, curvature, profile, quadratic, window_pixels

_BATCH = 256
_INNER = 30
_TINY = 1e-12
_DEGREE = 3
"""Of the background's splines: farther neighbours do not meet."""
GROUND_PRECISION = 1.0
"""What is known of a background coefficient beforehand, on data of unit range."""


class Blocks(eqx.Module):
    """Blocks of the Fisher matrix Jᵀ W J, scaled to a unit diagonal for the columns.

    own: (n, 6, 6) a column with itself (position, amplitude, shape). pair: (pairs, 6, 6) the columns of an edge.
    cross: (n, 6, qy, qx) a column with the background splines it meets. ground: (k, k). scale: (n, 6), and
    ground_scale (k,), the units taken out. edge: (pairs, 2), and at: (n, qy, qx) the splines that a column meets.
    member: (n, groups) and pull: (n, 3), shapes are known beforehand round the mean of their group only: the precision
    of that mean is taken out again.
    """

    own: Float[Array, "n 6 6"]
    pair: Float[Array, "pairs 6 6"]
    cross: Float[Array, "n 6 qy qx"]
    ground: Float[Array, "k k"]
    scale: Float[Array, "n 6"]
    ground_scale: Float[Array, " k"]
    edge: Int[Array, "pairs 2"]
    at: Int[Array, "n qy qx"]
    member: Float[Array, "n groups"]
    pull: Float[Array, "n 3"]


class Normal(Blocks):
    """Blocks with what solves by them. inverse: (n, 6, 6) of own. factor: (k, k) Cholesky factor of the background's
    block once the columns are eliminated, each on its own."""

    inverse: Float[Array, "n 6 6"]
    factor: Float[Array, "k k"]


def to_parameters(p: Parameters) -> Float[Array, "n 6 6"]:
    """(n, 6, 6): the derivative by parameter a is rows[a] · (profile, slope × (dx, dy, dx², dx dy, dy²))."""

    def one(amplitude, shape):
        a, b, c = curvature(shape)
        k, e1, e2 = jnp.exp(-2 * shape[0]), shape[1], shape[2]
        zero = jnp.zeros_like(a)
        rows = [
            [zero, a, b, zero, zero, zero],
            [zero, b, c, zero, zero, zero],
            [zero] * 6,
            [zero, zero, zero, a, 2 * b, c],
            [zero, zero, zero, -k * (1 + e1), zero, k * (1 - e1)],
            [zero, zero, zero, -k * e2, -2 * k, -k * e2],
        ]
        return (amplitude * jnp.stack([jnp.stack(r) for r in rows])).at[2, 0].set(1.0)

    return jax.vmap(one)(p.amplitude, p.shape)


_MONOMIAL = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
"""Powers of dx and dy."""
_PX, _PY = (np.array(power) for power in zip(*_MONOMIAL, strict=True))


def _powers(d: Float[Array, " s"], most: int) -> Float[Array, "s k"]:
    return jnp.stack([d**k for k in range(most + 1)], -1)


def _own_block(position, shape, halo, x, y, w) -> tuple[Array, Array]:
    """Σ w b bᵀ over pixels (6, 6) for b = (profile, slope × (dx, dy, dx², dx dy, dy²)), and w × (slope, profile)."""
    height, slope = profile(quadratic(position, shape, x, y), halo)
    dx, dy = _powers(x - position[0], 4), _powers(y - position[1], 4)
    moments = dy.T @ (w * slope**2) @ dx
    mixed = dy[:, :3].T @ (w * slope * height) @ dx[:, :3]
    block = moments[_PY[:, None] + _PY, _PX[:, None] + _PX]
    edge = mixed[_PY, _PX].at[0].set((w * height**2).sum())
    return block.at[0].set(edge).at[:, 0].set(edge), jnp.stack([w * slope, w * height])


def _cross_block(position, weighted, x, y, splines) -> Float[Array, "6 qy qx"]:
    """Σ b · spline(y) · spline(x) over pixels, for b as in `_own_block`; weighted: what it returned."""
    sy, sx = splines
    dx, dy = _powers(x - position[0], 2), _powers(y - position[1], 2)
    left = (dy[:, :, None] * sy[:, None, :]).reshape(len(sy), -1)
    right = (dx[:, :, None] * sx[:, None, :]).reshape(len(sx), -1)
    table = (left.T @ weighted[0] @ right).reshape(3, sy.shape[1], 3, sx.shape[1])
    return table.transpose(0, 2, 1, 3)[_PY, _PX].at[0].set(sy.T @ weighted[1] @ sx)


def _pair_block(one, other, x, y, w) -> Float[Array, "6 6"]:
    """Σ w b b′ᵀ over pixels for two columns (position, shape, halo), b as in `_own_block`."""
    height, slope = profile(quadratic(one[0], one[1], x, y), one[2])
    height_2, slope_2 = profile(quadratic(other[0], other[1], x, y), other[2])
    dx, dy = _powers(x - one[0][0], 4), _powers(y - one[0][1], 4)
    moments = (dy.T @ (w * slope * slope_2) @ dx)[_PY[:, None] + _PY, _PX[:, None] + _PX]
    first = (dy[:, :3].T @ (w * height * slope_2) @ dx[:, :3])[_PY, _PX]
    last = (dy[:, :3].T @ (w * slope * height_2) @ dx[:, :3])[_PY, _PX]
    block = moments.at[0].set(first) @ _shifted(one[0] - other[0]).T
    return block.at[:, 0].set(last.at[0].set((w * height * height_2).sum()))


def _shifted(by: Float[Array, "2"]) -> Float[Array, "6 6"]:
    """The monomials of d + by as sums of those of d."""
    u, v = by
    one, zero = jnp.ones_like(u), jnp.zeros_like(u)
    rows = [
        [one, zero, zero, zero, zero, zero],
        [u, one, zero, zero, zero, zero],
        [v, zero, one, zero, zero, zero],
        [u**2, 2 * u, zero, one, zero, zero],
        [u * v, v, u, zero, one, zero],
        [v**2, zero, 2 * v, zero, zero, one],
    ]
    return jnp.stack([jnp.stack(r) for r in rows])


def binned(values: Float[Array, "*batch m"], step: int) -> Float[Array, "*batch k"]:
    """Sums of step values each along the last axis."""
    return values.reshape(*values.shape[:-1], -1, step).sum(-1)


def gradient(model: ImageModel, p: Parameters, weighted: Float[Array, "rows cols"]) -> tuple[Array, Array]:
    """Jᵀ of an image of weighted residuals: (n, 6) for the columns, (ky, kx) for the background."""
    x, y = window_pixels(model, p.position.dtype)

    def one(item):
        position, shape, halo, x, y, r = item
        dx, dy = x - position[0], y - position[1]
        height, slope = profile(quadratic(position, shape, x, y), halo)
        e = r * slope
        zeroth, first, second = e.sum(1), e @ dx, e @ dx**2  # moments in x of every row
        return jnp.stack([(r * height).sum(), first.sum(), zeroth @ dy, second.sum(), first @ dy, zeroth @ dy**2])

    moments = jax.vmap(one)((p.position, p.shape, model.halo, x, y, model.cut(weighted)))
    columns = jnp.einsum("nab,nb->na", to_parameters(p), moments) * model.free[:, None]
    return columns, model.rows.T @ weighted @ model.cols


def normal_blocks(
    model: ImageModel,
    p: Parameters,
    weight: Float[Array, "rows cols"],
    precision: Float[Array, "n 6"],
    member: Float[Array, "n groups"] | None = None,
) -> Normal:
    """The blocks at p. weight: inverse variance of every pixel. precision: what is known of the columns beforehand.
    member: as in `Normal`; None: shapes are known round given ones.

    Sums over pixels are taken over squares of stride × stride of them: the integrands are smooth, so little is lost.
    """
    step, dtype = model.stride, p.position.dtype
    x, y = (binned(a, step) / step for a in window_pixels(model, dtype))
    w = binned(jnp.moveaxis(binned(model.cut(weight), step), 1, 2), step).swapaxes(1, 2)
    rows = to_parameters(p) * model.free[:, None, None]

    def column(item):
        position, shape, halo, t, x, y, w, splines = item
        block, weighted = _own_block(position, shape, halo, x, y, w)
        return t @ block @ t.T, jnp.einsum("ab,bpq->apq", t, _cross_block(position, weighted, x, y, splines))

    items = (p.position, p.shape, model.halo, rows, x, y, w, _local_splines(model, step))
    own, cross = lax.map(column, items, batch_size=_BATCH)

    def pair(edge):
        halo = model.halo
        one, other = ((p.position[k], p.shape[k], None if halo is None else halo[k]) for k in edge)
        return rows[edge[0]] @ _pair_block(one, other, x[edge[0]], y[edge[0]], w[edge[0]]) @ rows[edge[1]].T

    pairs = lax.map(pair, model.edge, batch_size=_BATCH)
    own = own.at[:, jnp.arange(6), jnp.arange(6)].add(precision * model.free[:, None])
    diagonal = jnp.diagonal(own, axis1=1, axis2=2)
    scale = jnp.where(diagonal > _TINY * diagonal.max(0), jnp.sqrt(diagonal), jnp.inf)  # inf: not to be moved
    own = own / scale[:, :, None] / scale[:, None, :]
    own = own.at[:, jnp.arange(6), jnp.arange(6)].set(1.0)
    i, j = model.edge.T
    pairs = pairs / scale[i][:, :, None] / scale[j][:, None, :]
    ground = _ground_block(model, weight)
    ground = ground + GROUND_PRECISION * jnp.eye(len(ground))
    ground_diagonal = jnp.diagonal(ground)
    ground_scale = jnp.sqrt(ground_diagonal + 1e-6 * ground_diagonal.max() + _TINY)
    ground = ground / ground_scale[:, None] / ground_scale
    at = _ground_index(model)
    cross = cross / scale[:, :, None, None] / ground_scale[at][:, None]
    member = jnp.zeros((len(own), 1), dtype) if member is None else member
    pull = jnp.sqrt(precision[:, 3:]) / scale[:, 3:]
    return _solvable(Blocks(own, pairs, cross, ground, scale, ground_scale, model.edge, at, member, pull))


def leverage(
    model: ImageModel, p: Parameters, weight: Float[Array, "rows cols"], normal: Normal
) -> Float[Array, "rows cols"]:
    """Share of every pixel's noise that the columns take up, each on its own: the diagonal of J (Jᵀ W J)⁻¹ Jᵀ W.

    Where a column has few pixels the residuals are smaller than the noise, most of all under its peak.
    """
    rows = to_parameters(p) * model.free[:, None, None]
    scale = normal.scale
    x, y = window_pixels(model, p.position.dtype)

    def one(item):
        position, shape, halo, t, inverse, x, y = item
        height, slope = profile(quadratic(position, shape, x, y), halo)
        dx, dy = _powers(x - position[0], 4), _powers(y - position[1], 4)
        covariance = t.T @ inverse @ t
        # bᵀ C b of b as in `_own_block` is a polynomial of dx and dy: two small products instead of 36 for every pixel.
        mixed = jnp.zeros((3, 3)).at[_PY[1:], _PX[1:]].add(2 * covariance[0, 1:])
        square = jnp.zeros((5, 5)).at[_PY[1:, None] + _PY[1:], _PX[1:, None] + _PX[1:]].add(covariance[1:, 1:])
        first = height * (covariance[0, 0] * height + slope * (dy[:, :3] @ mixed @ dx[:, :3].T))
        return first + slope**2 * (dy @ square @ dx.T)

    items = (p.position, p.shape, model.halo, rows, normal.inverse / scale[:, :, None] / scale[:, None, :], x, y)
    return weight * model.add(lax.map(one, items, batch_size=_BATCH))


def _solvable(blocks: Blocks) -> Normal:
    inverse, ground = _inverse(blocks.own), blocks.ground
    n, k = len(blocks.own), len(ground)
    flat, index = blocks.cross.reshape(n, 6, -1), blocks.at.reshape(n, -1)
    taken = jnp.einsum("nap,nab,nbq->npq", flat, inverse, flat)
    reduced = ground.at[index[:, :, None], index[:, None, :]].add(-taken)
    # Columns that overlap are taken out twice; where that is too much, the background counts as if it stood alone.
    factor, alone = (jnp.linalg.cholesky(m + 1e-4 * jnp.eye(k)) for m in (reduced, ground))
    factor = jnp.where(jnp.isfinite(factor).all(), factor, alone)
    return Normal(**vars(blocks), inverse=inverse, factor=factor)


def _inverse(blocks: Float[Array, "n k k"]) -> Float[Array, "n k k"]:
    return jnp.linalg.inv(blocks + 1e-6 * jnp.eye(blocks.shape[-1]))


def _local_splines(model: ImageModel, step: int) -> tuple[Array, Array]:
    """(n, samples, q) background splines along y and x in every column's window, zero outside the image."""
    window, (qx, qy) = model.window, model.splines
    rows, cols = (jnp.pad(s, ((model.pad, model.pad), (0, 0))) for s in (model.rows, model.cols))
    start = model.corner + model.pad

    def one(start, base):
        y = lax.dynamic_slice(rows, (start[1], base[1]), (window, qy))
        x = lax.dynamic_slice(cols, (start[0], base[0]), (window, qx))
        return binned(y.T, step).T / step, binned(x.T, step).T / step

    return jax.vmap(one)(start, model.base)


def _ground_index(model: ImageModel) -> Int[Array, "n qy qx"]:
    qx, qy = model.splines
    row = model.base[:, 1, None] + jnp.arange(qy)
    col = model.base[:, 0, None] + jnp.arange(qx)
    return row[:, :, None] * model.cols.shape[1] + col[:, None, :]


def _ground_block(model: ImageModel, weight: Float[Array, "rows cols"]) -> Float[Array, "k k"]:
    """Sum over pixels of weight × spline × spline: of every spline with the few that it meets, an axis at a time."""
    (y, at_y), (x, at_x) = (_products(splines) for splines in (model.rows, model.cols))
    ky, kx = model.rows.shape[1], model.cols.shape[1]
    block = (y.T @ (weight @ x))[at_y[:, :, None, None], at_x]
    return block.transpose(0, 2, 1, 3).reshape(ky * kx, ky * kx)


def _products(splines: Float[Array, "pixels k"]) -> tuple[Float[Array, "pixels pairs"], Int[np.ndarray, "k k"]]:
    """Every spline times itself and the next three, the last column zero, and where the product of two of them is."""
    k = splines.shape[1]
    one, other = np.triu_indices(k)
    meet = other - one <= _DEGREE
    one, other = one[meet], other[meet]
    at = np.full((k, k), len(one))
    at[one, other] = at[other, one] = np.arange(len(one))
    return jnp.pad(splines[:, one] * splines[:, other], ((0, 0), (0, 1))), at


def solve(
    normal: Normal,
    columns: Float[Array, "n 6"],
    ground: Float[Array, "ky kx"],
    damping,
    *,
    slow: Float[Array, "n 1"] | float = 0.0,
    tolerance: float = 1e-4,
) -> tuple[Array, Array]:
    """Step (n, 6) and (ky, kx) that the normal equations give for a gradient: conjugate gradients with the columns'
    own blocks and the background as preconditioner.

    damping: of all. slow: of columns, at least. tolerance: relative, of the residual.
    """
    brake = jnp.maximum(damping, slow)

    def product(v):
        column, back = v
        i, j = normal.edge.T
        out = jnp.einsum("nab,nb->na", normal.own, column) + brake * column
        common = normal.member @ (normal.member.T @ (normal.pull * column[:, 3:]))
        out = out.at[:, 3:].add(-normal.pull * common)
        out = out.at[i].add(jnp.einsum("eab,eb->ea", normal.pair, column[j]))
        out = out.at[j].add(jnp.einsum("eab,ea->eb", normal.pair, column[i]))
        out = out + jnp.einsum("napq,npq->na", normal.cross, back[normal.at])
        met = jnp.einsum("napq,na->npq", normal.cross, column)
        return out, (normal.ground @ back + damping * back).at[normal.at].add(met)

    def precondition(v):
        column, back = v
        first = jnp.einsum("nab,nb->na", normal.inverse, column)
        met = jnp.einsum("napq,na->npq", normal.cross, first)
        back = jax.scipy.linalg.cho_solve((normal.factor, True), back.at[normal.at].add(-met))
        column = column - jnp.einsum("napq,npq->na", normal.cross, back[normal.at])
        return jnp.einsum("nab,nb->na", normal.inverse, column), back

    right = (columns / normal.scale, ground.ravel() / normal.ground_scale)
    step, back = _conjugate_gradients(product, right, precondition, tolerance)
    return step / normal.scale, (back / normal.ground_scale).reshape(ground.shape)


def _conjugate_gradients(product, right, precondition, tolerance: float):
    """Solution of product(x) = right from x = 0, to a relative residual.

    JAX's own applies each operator at two places of the program, which are compiled twice, and once in vain at zero.
    """

    def dot(a, b):
        return sum(jnp.vdot(u, v) for u, v in zip(a, b, strict=True))

    def along(a, by, b):
        return tuple(u + by * v for u, v in zip(a, b, strict=True))

    def step(state):
        x, rest, way, slope, count = state
        fresh = precondition(rest)
        new = dot(rest, fresh)
        way = along(fresh, new / slope, way)
        across = product(way)
        length = new / dot(way, across)
        return along(x, length, way), along(rest, -length, across), way, new, count + 1

    def unfinished(state):
        _, rest, _, _, count = state
        return (dot(rest, rest) > tolerance**2 * dot(right, right)) & (count < _INNER)

    zero = tuple(jnp.zeros_like(r) for r in right)
    first = (zero, right, zero, jnp.ones((), right[0].dtype), jnp.asarray(0))
    return jax.lax.while_loop(unfinished, step, first)[0]


def position_covariance(normal: Normal) -> Float[Array, "n 2 2"]:
    """(n, 2, 2) px² of every position, its own parameters, its neighbours and the background marginalised.

    A neighbour enters with all its own parameters but without its own neighbours beyond the column, exact to third
    order in the overlap. Infinite where the pixels do not determine a column.
    """
    i, j = normal.edge.T
    n = len(normal.own)
    forward = jnp.einsum("eab,ebc,edc->ead", normal.pair, normal.inverse[j], normal.pair)
    back = jnp.einsum("eba,ebc,ecd->ead", normal.pair, normal.inverse[i], normal.pair)
    reduced = normal.own - jax.ops.segment_sum(forward, i, n) - jax.ops.segment_sum(back, j, n)
    inverse = _inverse(reduced)
    index = normal.at.reshape(n, -1)
    cross = normal.cross.reshape(n, 6, -1)
    ground = jax.scipy.linalg.cho_solve((normal.factor, True), jnp.eye(len(normal.ground), dtype=cross.dtype))

    def one(item):
        inverse, cross, index = item
        lever = (inverse @ cross)[:2]
        return inverse[:2, :2] + lever @ ground[index[:, None], index[None, :]] @ lever.T

    found = lax.map(one, (inverse, cross, index), batch_size=_BATCH)
    scale = normal.scale[:, :2]
    found = found / scale[:, :, None] / scale[:, None, :]
    known = jnp.isfinite(scale).all(1) & (jnp.diagonal(found, axis1=1, axis2=2) > 0).all(1)
    return jnp.where(known[:, None, None], found, jnp.inf)
