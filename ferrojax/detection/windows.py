"""Windows: a tile of scan positions sees only the part of the specimen around it, so that cost grows with area."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ferrojax.crystal import Atoms
from ferrojax.grid import Grid
from ferrojax.multislice import SlicePlan, cut_windows
from ferrojax.optics import Probe


class Tiles(eqx.Module):
    """Scan positions, tile by tile, with the window that each tile sees.

    plan: of the windows, stacked; origin: (tiles, 2) Å, their corners (x, y).
    member: (tiles, most) index of the position, repeated where a tile holds fewer.
    where: (positions,) place of every position in the flattened tiles.
    """

    plan: SlicePlan
    origin: Float[Array, "tiles 2"]
    member: Int[Array, "tiles most"]
    where: Int[np.ndarray, " positions"] = eqx.field(static=False)


def whole_box(plan: SlicePlan, positions: int, parts: int = 1) -> Tiles:
    """Every position sees the whole periodic box; split into parts only so that devices can share them."""
    most = -(-positions // parts)
    member = np.minimum(np.arange(parts * most).reshape(parts, most), positions - 1)
    stacked = eqx.tree_at(
        lambda p: (p.index, p.present),
        plan,
        tuple(jnp.broadcast_to(a, (parts, *a.shape)) for a in (plan.index, plan.present)),
    )
    return Tiles(stacked, jnp.zeros((parts, 2)), jnp.asarray(member), np.arange(positions))


def cut_tiles(
    plan: SlicePlan, atoms: Atoms, position: np.ndarray, block: tuple[int, int], grid: Grid, parts: int = 1
) -> Tiles:
    """Tiles of `block` (rows, cols) scan positions out of position (rows, cols, 2) Å, each with a window of `grid`.

    parts: the number of tiles is rounded up to a multiple of it by repeating the last.
    """
    rows, cols = position.shape[:2]
    by, bx = block
    starts = [(y, x) for y in range(0, rows, by) for x in range(0, cols, bx)]
    index = np.arange(rows * cols).reshape(rows, cols)
    member = np.zeros((len(starts), by * bx), np.int32)
    where = np.zeros(rows * cols, np.int32)
    for t, (y, x) in enumerate(starts):
        own = index[y : y + by, x : x + bx].ravel()
        member[t] = np.pad(own, (0, by * bx - len(own)), mode="edge")
        where[own] = t * by * bx + np.arange(len(own))
    starts += starts[-1:] * (-len(starts) % parts)
    member = np.pad(member, ((0, len(starts) - len(member)), (0, 0)), mode="edge")
    flat = position.reshape(-1, 2)[member]
    centre = (flat.min(1) + flat.max(1)) / 2
    height, width = grid.extent
    window = (width, height)
    return Tiles(
        cut_windows(plan, atoms, centre, window),
        jnp.asarray(centre - np.array(window) / 2, jnp.result_type(float)),
        jnp.asarray(member),
        where,
    )


def window_size(probe: Probe, depth: float) -> float:
    """Å of specimen that a probe needs around it through `depth` Å, for signals within about 0.5 % of the whole cell.

    The probe's diffraction limit and what channelling and scattering spread, as measured on 20 nm of PbTiO3
    (benchmarks/bench_windows.py); defocus or depth beyond that spread it by the cone of the semi-angle.
    """
    alpha, defocus = float(probe.semiangle) * 1e-3, float(probe.defocus)
    cone = max(0.0, max(abs(defocus), abs(depth - defocus)) - 200.0)
    return 8.0 + 3.4 * probe.wavelength / alpha + 2 * alpha * cone
