"""Checks of a specimen's values before any compute; values that JAX is tracing are skipped."""

import numpy as np

from ferrojax.crystal.elements import SYMBOLS
from ferrojax.errors import InputError, is_traced

OUTSIDE = 1.0
"""Å; an atom may lie this far outside the box in x or y (thermal and polar motion), because the box is periodic."""
OVERLAP = 0.3
"""Å; atoms closer than this share a site, so their occupancies sum to 1 at most."""


def check_values(position, thermal_rms, occupancy, number: tuple[int, ...]) -> None:
    """Elements are known; positions, rms and occupancies are finite; rms is not negative, occupancy in [0, 1]."""
    for z in set(number):
        if not 0 < z < len(SYMBOLS):
            raise InputError("number", z, "is no atomic number", f"use 1 to {len(SYMBOLS) - 1}")
    for name, given in (("position", position), ("thermal_rms", thermal_rms), ("occupancy", occupancy)):
        if is_traced(given):
            continue
        value = np.asarray(given)
        if not np.isfinite(value).all():
            raise InputError(name, "NaN or infinity", "must be finite", "check the structure file")
        if name == "thermal_rms" and (value < 0).any():
            raise InputError(name, value.min(), "must not be negative", "give the rms displacement per axis in Å")
        # Occupancies that sum to one in float32 may exceed it by rounding.
        if name == "occupancy" and ((value < 0) | (value > 1 + 1e-5)).any():
            worst = value[np.argmax(np.abs(value - 0.5))]
            raise InputError(name, worst, "must lie between 0 and 1", "give the fraction of cells with the atom")


def check_inside(position, box: tuple[float, float, float]) -> None:
    """No atom lies more than 1 Å outside the box in x or y."""
    if is_traced(position):
        return
    plane, sides = np.asarray(position, float)[:, :2], np.array(box[:2])
    beyond = np.maximum(-plane, plane - sides)
    if (beyond > OUTSIDE).any():
        atom, axis = np.unravel_index(beyond.argmax(), beyond.shape)
        raise InputError(
            "position",
            f"{'xy'[axis]} = {plane[atom, axis]:.3f} Å of atom {atom}",
            f"lies outside the box of {box[axis]:.3f} Å",
            "wrap the atoms with atoms.wrapped(), or give the box that holds them",
        )


def close_pairs(position, box: tuple[float, float, float], within: float = OVERLAP) -> np.ndarray:
    """(pairs, 2) indices of atoms closer than `within` Å, periodic in x and y."""
    from scipy.spatial import KDTree

    sides = np.array([box[0], box[1], 0.0])  # 0: not periodic
    at = np.array(position, float)
    at[:, :2] = np.mod(at[:, :2], sides[:2])
    at[:, :2] = np.where(at[:, :2] >= sides[:2], 0.0, at[:, :2])
    return KDTree(at, boxsize=sides).query_pairs(within, output_type="ndarray")


def shared_sites(position, box: tuple[float, float, float], within: float = OVERLAP, number=None) -> np.ndarray | None:
    """(atoms,) the first atom of the site that each atom shares with those within 0.3 Å; None: all have their own.

    number: (atoms,) where given, only atoms of the same one share a site.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = close_pairs(position, box, within)
    if number is not None:
        pairs = pairs[np.asarray(number)[pairs[:, 0]] == np.asarray(number)[pairs[:, 1]]]
    if len(pairs) == 0:
        return None
    count = len(position)
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, site = connected_components(links, directed=False)
    first = np.unique(site, return_index=True)[1]
    return first[site]


def check_overlap(position, occupancy, box: tuple[float, float, float]) -> None:
    """No atom whose occupancy, with those of the atoms within 0.3 Å of it, sums to more than 1."""
    if is_traced(position) or is_traced(occupancy):
        return
    pairs, share = close_pairs(position, box), np.asarray(occupancy, float)
    if len(pairs) == 0:
        return
    around = share + np.bincount(pairs.ravel(), share[pairs[:, ::-1]].ravel(), minlength=len(share))
    worst = int(around.argmax())
    if around[worst] > 1 + 1e-4:
        first, second = pairs[(pairs == worst).any(1)][0]
        raise InputError(
            "position",
            f"atoms {first} and {second}, occupancies sum to {around[worst]:.3f}",
            f"atoms closer than {OVERLAP} Å overlap",
            "remove duplicates, or give occupancies that sum to 1 at most",
        )
