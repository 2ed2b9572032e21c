"""Windows: a tile of scan positions sees only the part of the specimen around it, so that cost grows with area."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ferrojax.crystal import Atoms
from ferrojax.errors import is_traced
from ferrojax.grid import Grid
from ferrojax.multislice import SlicePlan, cut_windows
from ferrojax.optics import Probe
from ferrojax.optics.probe import ABERRATIONS


class Tiles(eqx.Module):
    """Scan positions, tile by tile, with the part of the specimen that each tile sees.

    plan: of the tiles' regions, stacked.
    member: (tiles, groups, most) index of the position, repeated where a group holds fewer.
    origin: (tiles, groups, 2) Å, the corner (x, y) of the window that each group is sent through.
    corner: (tiles, groups, 2) the same in pixels (row, col) from the region's corner; None: the window is the region.
    where: (positions,) place of every position in the flattened groups.
    """

    plan: SlicePlan
    member: Int[Array, "tiles groups most"]
    origin: Float[Array, "tiles groups 2"]
    corner: Int[Array, "tiles groups 2"] | None
    where: Int[np.ndarray, " positions"]


def whole_box(plan: SlicePlan, positions: int, parts: int = 1) -> Tiles:
    """Every position sees the whole periodic box; split into parts only so that devices can share them."""
    most = -(-positions // parts)
    member = np.minimum(np.arange(parts * most).reshape(parts, 1, most), positions - 1)
    index, present = (jnp.broadcast_to(a, (parts, *a.shape)) for a in (plan.index, plan.present))
    stacked = dataclasses.replace(plan, index=index, present=present, site=None, twin=None)
    return Tiles(stacked, jnp.asarray(member), jnp.zeros((parts, 1, 2)), None, np.arange(positions))


def cut_tiles(
    plan: SlicePlan,
    atoms: Atoms,
    position: Float[np.ndarray, "rows cols 2"],
    tile: tuple[int, int],
    group: tuple[int, int],
    region: Grid,
    window: Grid,
    parts: int = 1,
    lean: tuple[float, float] = (0.0, 0.0),
) -> Tiles:
    """Tiles of `tile` (rows, cols) positions (Å) with a region each; groups of `group` with a window inside it.

    parts: the number of tiles is brought to a multiple of it by dividing their groups and repeating the last.
    lean: (x, y) Å from where the beam enters to the middle of its way, along which regions and windows lie.
    """
    rows, cols = position.shape[:2]
    index = np.arange(rows * cols).reshape(rows, cols)
    tiles = [[_padded(g, group) for g in _blocks(t, group)] for t in _blocks(index, tile)]
    ends = position.reshape(-1, 2)[np.array([[np.concatenate(t).min(), np.concatenate(t).max()] for t in tiles])]
    centre = ends.mean(1) + np.array(
        lean
    )  # a tile is a rectangle of positions: its first and last are opposite corners
    share = -(-max(len(t) for t in tiles) // -(-parts // len(tiles)))  # few tiles: devices take some groups of each
    chunks = [(c, t[g : g + share]) for c, t in zip(centre, tiles, strict=True) for g in range(0, len(t), share)]
    chunks += chunks[-1:] * (-len(chunks) % parts)
    centre = np.array([c for c, _ in chunks])
    member = np.array([[*t, *t[-1:] * (share - len(t))] for _, t in chunks])
    where = np.zeros(rows * cols, np.int32)
    where[member.ravel()[::-1]] = np.arange(member.size)[::-1]
    xy = position.reshape(-1, 2)[member]
    height, width = region.extent
    start = centre - np.array((width, height)) / 2
    cut = cut_windows(plan, atoms, centre, (width, height))
    corner, origin = None, np.repeat(start[:, None], member.shape[1], 1)
    if region.shape != window.shape:
        step = np.array(window.sampling[::-1])
        middle = (xy.min(2) + xy.max(2)) / 2 + np.array(lean)  # of every group
        at = np.round((middle - np.array(window.extent[::-1]) / 2 - origin) / step)
        spare = np.array(region.shape[::-1]) - np.array(window.shape[::-1])
        whole = np.abs(np.array((width, height)) - np.array(plan.box)) < 1e-6  # windows may hang over its edge
        at = np.where(whole, at, np.clip(at, 0, spare))
        origin = origin + at * step
        corner = jnp.asarray((at % np.array(region.shape[::-1]))[..., ::-1], jnp.int32)
    return Tiles(cut, jnp.asarray(member), jnp.asarray(origin, jnp.result_type(float)), corner, where)


def _blocks(index: np.ndarray, shape: tuple[int, int]) -> list[np.ndarray]:
    rows, cols = index.shape
    return [
        index[y : y + shape[0], x : x + shape[1]] for y in range(0, rows, shape[0]) for x in range(0, cols, shape[1])
    ]


def _padded(index: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.pad(index.ravel(), (0, shape[0] * shape[1] - index.size), mode="edge")


def lattice_period(atoms: Atoms, most: float = 24.0) -> tuple[float, float] | None:
    """The shortest (x, y) Å, whole parts of the box, that carry nearly every atom near one of its kind; else None.

    Near is 0.7 Å, so that polar displacements and relaxations pass, but 0.1 Å on average. A window of whole
    periods above `most` Å (superlattices have them) would be larger than it needs to be.
    """
    from scipy.spatial import KDTree

    position, number = np.asarray(atoms.position, float), np.array(atoms.number)
    box = np.array([*atoms.box[:2], 4 * atoms.box[2]])

    def wrapped(p):
        return np.mod(np.mod(p, box), box)  # twice: the first of −1e-17 is the box itself

    position = wrapped(position)
    kinds = [k for k in np.unique(number) if (number == k).sum() > 0.05 * len(number)]
    trees = [(position[number == k], KDTree(position[number == k], boxsize=box)) for k in kinds]

    def carries(shift):
        missed, drift = [], []
        for p, tree in trees:
            distance, near = (np.asarray(a) for a in tree.query(wrapped(p + shift), distance_upper_bound=0.7))
            hit = distance < 0.7
            missed.append(1 - hit.mean())
            offset = p[hit] + shift - p[near[hit]]
            drift.append((offset - box * np.round(offset / box)).mean(0) if hit.any() else 1.0)
        return max(missed) < 0.1 and np.abs(drift).max() < 0.1

    period = []
    for axis in (0, 1):
        counts = range(int(box[axis] / 2.5), int(np.ceil(box[axis] / most)) - 1, -1)
        found = [n for n in counts if n >= 1 and carries(box[axis] / n * np.eye(3)[axis])]
        if not found:
            return None
        period.append(float(box[axis] / found[0]))
    return period[0], period[1]


def drift(tilt, depth: float) -> tuple[tuple[float, float], float]:
    """How far (x, y) Å the middle of a tilted beam's way lies from where it enters, and how much wider a window must
    be for it. tilt: (2,) or (rows, cols, 2) mrad; what is traced counts as none, so that a window must be given."""
    if is_traced(tilt):
        return (0.0, 0.0), 0.0
    way = depth * np.tan(np.asarray(tilt, float).reshape(-1, 2) * 1e-3)  # columns lean to −x: the beam meets +x
    mean = way.mean(0)
    return (float(mean[0]) / 2, float(mean[1]) / 2), float((np.abs(mean) + 2 * np.abs(way - mean).max(0)).max())


def window_size(probe: Probe, depth: float) -> float:
    """Å of specimen that a probe needs around it through `depth` Å, for signals within about 0.5 % of a large cell's.

    The probe's diffraction limit and what channelling and scattering spread, as measured on 20 nm of PbTiO3
    (benchmarks/bench_windows.py); where rays end up farther off than 200 Å of defocus would take them, by defocus,
    depth or other aberrations, the window is wider by that. What is traced of those is taken for less.
    """
    alpha = float(probe.semiangle) * 1e-3
    spread = max(_farthest_ray(probe, depth), _farthest_ray(probe, 0.0))
    return 10.0 + 5.0 * probe.wavelength / alpha + 2 * max(0.0, spread - 200.0 * alpha)


def _farthest_ray(probe: Probe, depth: float) -> float:
    """Å from the axis at which the farthest ray of the aperture arrives at `depth`: λ/2π |∇χ|."""
    alpha = np.linspace(0, float(probe.semiangle) * 1e-3, 25)[1:, None]
    azimuth = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    defocus = 0.0 if is_traced(probe.defocus) else float(probe.defocus) - depth
    radial, around = -defocus * alpha * np.ones_like(azimuth), np.zeros((len(alpha), len(azimuth)))
    for name, (n, m) in ABERRATIONS.items():
        size = probe.aberrations.get(name)
        angle = probe.aberrations.get("phi" + name[1:], 0.0)
        if size is None or is_traced(size) or is_traced(angle):
            continue
        turned = m * (azimuth - float(angle))
        radial = radial + float(size) * alpha**n * np.cos(turned)
        around = around - float(size) * alpha**n * m / (n + 1) * np.sin(turned)
    return float(np.hypot(radial, around).max())
