"""Lattices in whole numbers: the primitive cell of a structure, and the smallest orthogonal box along a zone axis."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

SAME_SITE = 5e-3
"""Å; sites closer than this after a translation are the same site (structure files round their coordinates)."""


def primitive_cell(
    cell: Float[np.ndarray, "3 3"], position: Float[np.ndarray, "sites 3"], kind: Sequence
) -> tuple[Float[np.ndarray, "3 3"], Int[np.ndarray, " kept"]]:
    """A basis (rows) of all translations that map the structure onto itself, and one site of each set they relate.

    cell: rows, Å. position, basis: multiples of the cell's vectors. kind: one hashable a site; a translation
    maps every site onto one of its kind.
    """
    whole_cell = np.eye(3), np.arange(len(position))
    shifts, images = _translations(cell, position, kind)
    order = len(shifts)
    whole = np.round(shifts * order).astype(int)
    first = np.flatnonzero(images.min(0) == np.arange(len(position)))
    if np.abs(shifts - whole / order).max() > 0.5 / order or len(first) * order != len(position):
        return whole_cell
    basis = _row_echelon(np.concatenate([whole, order * np.eye(3, dtype=int)])) / order
    # Rounded coordinates can make a set of translations that is no group; then the cell as given is kept.
    return (basis, first) if abs(abs(np.linalg.det(basis)) * order - 1) < 1e-6 else whole_cell


def _translations(cell, position, kind) -> tuple[np.ndarray, np.ndarray]:
    """Translations (order, 3) that map the structure onto itself, and which site each takes every site to."""
    from scipy.spatial import KDTree

    names = {name: i for i, name in enumerate(dict.fromkeys(kind))}
    label = np.array([names[name] for name in kind])
    members = [np.flatnonzero(label == i) for i in range(len(names))]
    wrapped = _unit(position)
    trees = [KDTree(wrapped[group], boxsize=1.0) for group in members]
    rarest = min(members, key=len)
    shifts, images = [], []
    for candidate in position[rarest] - position[rarest[0]]:
        image = np.empty(len(position), int)
        for group, tree in zip(members, trees, strict=True):
            image[group] = group[tree.query(_unit(wrapped[group] + candidate))[1]]
        gap = position + candidate - position[image]
        if np.linalg.norm((gap - np.round(gap)) @ cell, axis=1).max() < SAME_SITE:
            shifts.append(candidate)
            images.append(image)
    return np.array(shifts), np.array(images)


def _unit(fractional: np.ndarray) -> np.ndarray:
    """Fractions wrapped into [0, 1), never 1 by rounding."""
    wrapped = np.mod(fractional, 1.0)
    return np.where(wrapped >= 1.0, 0.0, wrapped)


def _row_echelon(rows: Int[np.ndarray, "n 3"]) -> Int[np.ndarray, "3 3"]:
    """Three rows that span the same lattice of whole numbers, by Euclid's algorithm in each column."""
    left, found = list(rows), []
    for column in range(3):
        while True:
            active = [row for row in left if row[column]]
            pivot = active[int(np.argmin([abs(row[column]) for row in active]))]
            if len(active) == 1:
                break
            left = [r if r is pivot else r - r[column] // pivot[column] * pivot for r in left]
        found.append(pivot)
        left = [row for row in left if row is not pivot]
    return np.array(found)


def completed_basis(vector: Int[np.ndarray, "3"]) -> Int[np.ndarray, "3 3"]:
    """Three rows of whole numbers that span all of them, the last one `vector` (which must be coprime)."""
    basis, left = np.eye(3, dtype=int), np.array(vector)
    while np.count_nonzero(left) > 1:
        i = min(np.flatnonzero(left), key=lambda k: abs(left[k]))
        for j in range(3):
            if j != i:
                ratio = left[j] // left[i]
                left[j] -= ratio * left[i]
                basis[i] += ratio * basis[j]
    i = int(np.flatnonzero(left)[0])
    return np.array([*np.delete(basis, i, axis=0), np.array(vector)])


def plane_vectors(
    cell: Float[np.ndarray, "3 3"], beam: Int[np.ndarray, "3"], max_edge: float
) -> Int[np.ndarray, "n 3"]:
    """All lattice vectors up to `max_edge` (Å) long across the beam, one of each ±, as whole numbers.

    Of the vectors that project onto the same point the one closest to the plane across the beam is taken.
    """
    first, second, _ = completed_basis(beam)
    axis = beam @ cell
    axis_length = np.linalg.norm(axis)
    across = np.eye(3) - np.outer(axis, axis) / axis_length**2
    first, second = _reduced(first, second, cell @ across)
    flat = np.array([first, second]) @ cell @ across
    heights = np.linalg.norm(np.cross(*flat)) / np.linalg.norm(flat[::-1], axis=1)
    most = [math.floor(max_edge / height) for height in heights]
    # (i, j) with i > 0, or i = 0 and j > 0: one of each ±.
    pairs = [(i, j) for i in range(most[0] + 1) for j in range(-most[1], most[1] + 1) if i > 0 or j > 0]
    vectors = np.array(pairs, int).reshape(-1, 2) @ np.array([first, second])
    offset = np.round(vectors @ cell @ axis / axis_length**2).astype(int)
    vectors = vectors - offset[:, None] * beam
    return vectors[np.linalg.norm(vectors @ cell, axis=1) <= max_edge]


def plane_basis(
    cell: Float[np.ndarray, "3 3"], beam: Int[np.ndarray, "3"], basis: Float[np.ndarray, "3 3"]
) -> Int[np.ndarray, "2 3"]:
    """Two lattice vectors whose projections along the beam are the shortest pair, right-handed about it.

    cell: primitive, rows, Å. basis: its rows in units of a conventional cell; among equally long vectors those of
    the shortest and most positive conventional indices are taken, so that [001] of a cubic cell gives [100], [010].
    """
    across = np.eye(3) - np.outer(beam @ cell, beam @ cell) / float((beam @ cell) @ (beam @ cell))
    one, two, _ = completed_basis(beam)
    first, second = _reduced(one, two, cell @ across)
    small = np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3) if i or j])
    lifted = (small @ np.array([first, second]))[:, None] + np.arange(-6, 7)[:, None] * beam
    vectors = lifted.reshape(-1, 3)
    given = (vectors @ basis).round(4)
    length = np.linalg.norm(vectors @ cell @ across, axis=1).round(3)
    vectors = vectors[np.lexsort([*(-given.T[::-1]), np.abs(given).sum(1).round(3), length])]
    flat = vectors @ cell @ across
    area = np.linalg.norm(np.cross(first @ cell @ across, second @ cell @ across))
    signed = np.cross(flat[0], flat) @ (beam @ cell) / np.linalg.norm(beam @ cell)
    partner = int(np.flatnonzero(np.abs(signed / area - 1) < 1e-3)[0])
    return np.array([vectors[0], vectors[partner]])


def _reduced(first: np.ndarray, second: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lagrange's reduction of a plane lattice to its shortest pair."""
    while True:
        if np.linalg.norm(first @ cell) > np.linalg.norm(second @ cell):
            first, second = second, first
        short, long = first @ cell, second @ cell
        steps = round(float(long @ short / (short @ short)))
        if steps == 0 or np.linalg.norm(long - steps * short) > np.linalg.norm(long) - 1e-9:
            return first, second
        second = second - steps * first


def principal_strain(edges: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch"]:
    """The largest principal strain, as a magnitude, that makes three vectors (rows) orthogonal at their lengths."""
    unit = edges / np.linalg.norm(edges, axis=-1, keepdims=True)
    overlap = np.linalg.eigvalsh(unit @ np.swapaxes(unit, -1, -2))
    return np.asarray(np.abs(1 / np.sqrt(np.maximum(overlap, 1e-12)) - 1).max(-1))


def lattice_points(corner: Int[np.ndarray, "3 3"]) -> Int[np.ndarray, "n 3"]:
    """The lattice points in the box that three vectors of whole numbers span (rows): exactly |det| of them."""
    volume = round(float(np.linalg.det(corner)))
    adjugate = np.round(np.linalg.inv(corner) * volume).astype(int)
    corners = np.array(list(itertools.product((0, 1), repeat=3))) @ corner
    axes = [np.arange(low, high + 1) for low, high in zip(corners.min(0), corners.max(0), strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    inside = np.sign(volume) * points @ adjugate
    return points[((inside >= 0) & (inside < abs(volume))).all(1)]


def images_within(
    cell: Float[np.ndarray, "3 3"], fractional: Float[np.ndarray, "sites 3"], reach: float
) -> tuple[Int[np.ndarray, " images"], Float[np.ndarray, "images 3"]]:
    """The sites and all their images less than `reach` (Å) outside the cell: which site, and where (Å)."""
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    margin = reach / heights
    axes = [np.arange(-math.ceil(m), math.ceil(m) + 1) for m in margin]
    shifts = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, 3)
    images = (np.mod(fractional, 1.0) + shifts).reshape(-1, 3)
    inside = ((images > -margin) & (images < 1 + margin)).all(1)
    return np.tile(np.arange(len(fractional)), len(shifts))[inside], images[inside] @ cell
