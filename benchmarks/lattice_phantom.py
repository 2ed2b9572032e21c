"""Images of a crystal with every distortion that indexing must survive, and the exact truth beside them."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from ferrojax.columns.columns import ACCEPTED
from ferrojax.columns.indexing.orientation import equal_view
from ferrojax.columns.indexing.place import inside
from ferrojax.columns.indexing.seeds import Seeds
from ferrojax.crystal.zone import Motif

EXPONENT = {"HAADF": 1.0, "iDPC": 0.55, "ABF": 0.45}
"""Power of the motif's Z^1.7 that a column's contrast follows in each mode."""


@dataclass(frozen=True)
class Scene:
    """What is in the picture. Lengths in Å, angles in degrees, strain and anisotropy as fractions.

    shape: px. sampling: true Å per px along x; `anisotropy` makes y longer. counts: mean counts of the strongest
    column; None: no noise. strain: peak of a smooth field with waves of `wavelength` cells. drift: Å from the first
    row to the last, with a wobble. walls: "none", "180" (B flips), "90" (the tetragonal axis turns), "antiphase"
    (half the cell's diagonal is cut out across one line). vacancies: share of columns missing.
    film: the upper half is a second material, brighter by this factor with a lattice 1.5 % larger; 1: none.
    edge: share of the width taken by an amorphous rim and vacuum. stripes: rms of rows' brightness.
    gradient: brightness change across the picture.
    """

    shape: tuple[int, int] = (400, 420)
    sampling: float = 0.2
    turn: float = 0.0
    mode: str = "HAADF"
    counts: float | None = 1000.0
    strain: float = 0.0
    wavelength: float = 25.0
    anisotropy: float = 0.0
    drift: float = 0.0
    walls: str = "none"
    vacancies: float = 0.0
    film: float = 1.0
    edge: float = 0.0
    stripes: float = 0.0
    gradient: float = 0.0
    background: float = 0.15
    width: float = 0.45
    shift: float = 0.15
    seed: int = 0


class Truth(NamedTuple):
    """Columns that are really there: motif column (n,), cell (n, 2), position (n, 2) px, whether they are within
    1.6 cells of an antiphase boundary (n,), and the vacancies' positions (m, 2)."""

    column: np.ndarray
    index: np.ndarray
    position: np.ndarray
    beside_seam: np.ndarray
    vacancies: np.ndarray


def draw(motif: Motif, scene: Scene) -> tuple[np.ndarray, Truth]:
    """The image (counts, or intensities without noise) and what is in it."""
    rng = np.random.default_rng(scene.seed)
    column, index, position, strength = _columns(motif, scene, rng)
    missing = rng.random(len(column)) < scene.vacancies
    spots = _gaussians(position[~missing], strength[~missing], scene)
    image = spots + scene.background
    rows, cols = scene.shape
    image *= 1 + scene.gradient * np.linspace(-0.5, 0.5, cols)[None]
    image *= 1 + scene.stripes * rng.standard_normal(rows)[:, None]
    if scene.edge:
        image = _with_edge(image, scene, rng)
    if scene.mode == "ABF":
        image = np.maximum(1.0 - 0.6 * image, 0.02)
    if scene.counts is not None:
        area = 2 * np.pi * (scene.width / scene.sampling) ** 2  # px of a column of peak 1
        image = rng.poisson(np.maximum(image, 0) * scene.counts / area).astype(float)
    bright = motif.strength > 0.08 * motif.strength.max()
    visible = (bright | (np.array(motif.label) != "O") | (scene.mode != "HAADF"))[column]
    keep = ~missing & visible & _in_crystal(position, scene)
    cell = np.linalg.norm(motif.lattice, axis=1).max()
    place = (index @ motif.lattice + motif.offset[column])[:, 0] - _boundary(scene)
    beside = (scene.walls == "antiphase") & (np.abs(place) < 1.6 * cell)
    return image, Truth(column[keep], index[keep], position[keep], beside[keep], position[missing & visible])


def _boundary(scene: Scene) -> float:
    """Å along the crystal's x, where an antiphase boundary is."""
    return 0.07 * scene.shape[1] * scene.sampling


def _columns(motif: Motif, scene: Scene, rng) -> tuple[np.ndarray, ...]:
    """Motif column, cell, position px and peak of everything on and near the image."""
    rows, cols = scene.shape
    reach = int(1.2 * np.hypot(rows, cols) * scene.sampling / np.linalg.norm(motif.lattice, axis=1).min()) + 4
    cells = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    column = np.tile(np.arange(len(motif.label)), len(cells))
    index = np.repeat(cells, len(motif.label), 0)
    c, s = np.cos(np.radians(scene.turn)), np.sin(np.radians(scene.turn))
    crystal = index @ motif.lattice + motif.offset[column]
    cell = np.sqrt(abs(np.linalg.det(motif.lattice)))
    span = np.array([cols, rows]) * scene.sampling
    crystal = crystal + _displacement(motif, column, crystal, cell, span, scene)
    place = crystal @ np.array([[c, -s], [s, c]]).T
    near = (np.abs(place) < 0.75 * span).all(1)
    column, index, place = column[near], index[near], place[near]
    place = place + _strain(place, cell, span, scene, rng)
    if scene.film != 1.0:
        upper = place[:, 1] < 0
        place = np.where(upper[:, None], place * [1.0, 1.015], place)
    place = place * [1.0, 1 + scene.anisotropy]
    position = place / scene.sampling + (np.array([cols, rows]) - 1) / 2 + rng.uniform(-3, 3, 2)
    wobble = np.sin(position[:, 1] / rows * 7 + rng.uniform(0, 6)) * 0.2 * scene.drift
    position[:, 0] += (scene.drift * (position[:, 1] / rows - 0.5) + wobble) / scene.sampling
    on = ((position > -20) & (position < np.array([cols, rows]) + 20)).all(1)
    column, index, position = column[on], index[on], position[on]
    peak = (motif.strength / motif.strength.max()) ** EXPONENT[scene.mode]
    strength = peak[column] * (1 + 0.05 * rng.standard_normal(len(column)))
    if scene.film != 1.0:
        strength = strength * np.where(position[:, 1] < rows / 2, scene.film, 1.0)
    return column, index, position, strength


def _displacement(motif: Motif, column, crystal, cell: float, span, scene: Scene) -> np.ndarray:
    """Domains: B flips across walls 9 cells apart, tetragonal axes that turn, or an antiphase boundary."""
    out = np.zeros_like(crystal)
    b = np.array([name == "B" for name in motif.label])[column]
    if scene.walls == "none":
        out[b] += [0.0, scene.shift]
    elif scene.walls == "180":
        sign = np.where(np.floor(crystal[:, 0] / (9 * cell)).astype(int) % 2 == 0, 1.0, -1.0)
        out[b] += np.stack([0 * sign, sign], 1)[b] * scene.shift
    elif scene.walls == "90":
        along = (crystal @ [1.0, 1.0]) / np.sqrt(2)
        period = 12 * cell
        saw = np.abs((along / period) % 2.0 - 1.0) * period  # slope ±1 along the walls' normal
        out += 0.5 * 0.06 * np.stack([saw, -saw], 1)  # c/a of 1.06 turns into a/c at every wall
        out[b] += scene.shift
    elif scene.walls == "antiphase":
        out += np.where((crystal[:, :1] > _boundary(scene)), 0.5 * motif.lattice.sum(0), 0.0)
    return out


def _strain(place, cell: float, span, scene: Scene, rng) -> np.ndarray:
    if not scene.strain:
        return np.zeros_like(place)
    k = 2 * np.pi / (scene.wavelength * cell)
    phase = rng.uniform(0, 2 * np.pi, 4)
    x, y = place.T
    u = np.cos(k * x + phase[0]) + 0.3 * np.cos(k * y + phase[1])
    v = np.cos(k * y + phase[2]) + 0.3 * np.cos(k * x + phase[3])
    return scene.strain / k * np.stack([u, v], 1)


def _gaussians(position: np.ndarray, strength: np.ndarray, scene: Scene) -> np.ndarray:
    rows, cols = scene.shape
    width = scene.width / scene.sampling
    half = int(np.ceil(4 * width))
    image = np.zeros((rows + 2 * half + 60, cols + 2 * half + 60))
    margin = half + 30
    step = np.arange(-half, half + 1)
    corner = np.round(position).astype(int)
    for part in np.array_split(np.arange(len(position)), max(1, len(position) // 4000)):
        dx = step[None] - (position[part, 0] - corner[part, 0])[:, None]
        dy = step[None] - (position[part, 1] - corner[part, 1])[:, None]
        # a pixel collects what falls on it: the mean over its width, by a slightly wider Gaussian
        soft = 2 * (width**2 + 1 / 12)
        spot = np.exp(-(dy**2) / soft)[:, :, None] * np.exp(-(dx**2) / soft)[:, None, :] * strength[part, None, None]
        y = (corner[part, 1] + margin)[:, None, None] + step[None, :, None]
        x = (corner[part, 0] + margin)[:, None, None] + step[None, None, :]
        np.add.at(image, (y, x), spot)
    return image[margin : margin + rows, margin : margin + cols]


def _in_crystal(position: np.ndarray, scene: Scene) -> np.ndarray:
    return position[:, 0] < scene.shape[1] * (1 - scene.edge)


def _with_edge(image: np.ndarray, scene: Scene, rng) -> np.ndarray:
    """The right-hand part becomes an amorphous rim, then vacuum."""
    rows, cols = scene.shape
    start = int(cols * (1 - scene.edge))
    rim = ndimage.gaussian_filter(rng.standard_normal((rows, cols)), 0.6 / scene.sampling)
    rim = 0.3 + 0.08 * rim / rim.std()
    out = image.copy()
    out[:, start:] = rim[:, start:]
    out[:, (start + cols) // 2 :] = 0.02
    return out


def marks(seeds: Seeds, truth: Truth, motif: Motif, scene: Scene) -> dict[str, float]:
    """Numbers of columns that count, that are found, and that are found and indexed right; false positives."""
    gap = seeds.gap * seeds.scale
    regions = 2 if scene.walls == "antiphase" else 1
    size = np.array([scene.shape[1] * (1 - scene.edge), scene.shape[0]]) - 1
    counts = ((truth.position > gap) & (truth.position < size - gap)).all(1)
    shown = np.isin(truth.column, seeds.column)
    counts &= shown & ~truth.beside_seam
    usable = np.nonzero(seeds.rejection == ACCEPTED)[0]
    miss, near = KDTree(seeds.position[usable]).query(truth.position)
    hit = miss < 0.3 * gap
    near = usable[near]
    right = np.zeros(len(hit), bool)
    for _ in range(regions):
        right |= hit & _agrees(seeds, truth, motif, near, hit & ~right)
    on = usable[inside(seeds.position[usable], scene.shape)]
    away, _ = KDTree(truth.position).query(seeds.position[on])
    inner = ((seeds.position[on] > gap) & (seeds.position[on] < size - gap)).all(1)
    inner |= seeds.position[on, 0] > size[0] + gap  # beyond the crystal
    false = inner & (away > 0.3 * gap)
    return {
        "columns": int(counts.sum()),
        "found": int((counts & hit).sum()),
        "right": int((counts & right).sum()),
        "false": int(false.sum()),
    }


def _agrees(seeds: Seeds, truth: Truth, motif: Motif, near: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(n,) where label and cell agree under the symmetry and origin that most of `among` share."""
    best = np.zeros(len(near), bool)
    turns = [np.array(t).reshape(2, 2) for t in itertools.product((-1, 0, 1), repeat=4)]
    for turn in turns:
        if abs(np.linalg.det(turn)) != 1 or np.linalg.det(turn) < 0:
            continue
        frame = np.linalg.inv(motif.lattice) @ turn @ motif.lattice
        if np.abs(frame @ frame.T - np.eye(2)).max() > 0.15 or not equal_view(motif, np.eye(2), frame.T):
            continue
        # index + fraction of a column, turned, against the seed's, up to one shift
        place = (truth.index + motif.position[truth.column]) @ turn
        seen = seeds.index[near] + motif.position[seeds.column[near]]
        offset = np.round((seen - place) * 24).astype(int)
        values, count = np.unique(offset[among], axis=0, return_counts=True)
        if not len(values):
            continue
        agree = (offset == values[np.argmax(count)]).all(1)
        label = np.array(motif.label)
        agree &= label[truth.column] == label[seeds.column[near]]
        if agree.sum() > best.sum():
            best = agree
    return best
