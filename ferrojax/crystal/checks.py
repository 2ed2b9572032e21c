"""Checks of what a specimen or a crystal is made of, before any compute; values that JAX is tracing are skipped."""

import numpy as np

from ferrojax.crystal.elements import SYMBOLS
from ferrojax.errors import InputError, is_traced

OUTSIDE = 1.0
"""Å; an atom may lie this far outside the box in x or y (thermal and polar motion), because the box is periodic."""
OVERLAP = 0.3
"""Å; atoms closer than this share a site, so their occupancies sum to 1 at most."""
LARGEST_RMS = 0.5
"""Å per axis; solids melt before (Lindemann), so that a larger one is B or something else."""
SHORTEST = 1.0
"""Å; a cell with all its sides below this is given in nm."""
DENSEST, RAREST, FARTHEST = 1.0, 1e-5, 50.0
"""Atoms per Å³ (diamond has 0.18) and Å between neighbours; beyond them lengths are in nm, or in pm."""
LARGEST_SHIFT = 1.0
"""Å; B sites of ferroelectrics are displaced by up to 0.5."""
_RMS_REMEDY = "give the rms displacement per axis in Å, u = sqrt(B/8π²), e.g. 0.08"
_IN_NM, _IN_PM = "looks like nm", "looks like pm"


def check_kind(field: str, value, kind: type, remedy: str) -> None:
    """A value of that class of this package, with what to do with an ASE Atoms and the like instead."""
    if not isinstance(value, kind):
        name = f"{type(value).__module__.split('.')[0]}.{type(value).__name__}"
        raise InputError(field, name, f"is no ferrojax.{kind.__name__}", remedy)


def atomic_numbers(number) -> tuple[int, ...]:
    """One whole number an atom; symbols and fractions are refused, 22.0 is not."""
    try:
        given = np.asarray(number)
    except (TypeError, ValueError):
        given = np.array(None)
    if given.dtype.kind in "US":
        shown = given.ravel()[:6].tolist()
        known = [SYMBOLS.index(s) for s in shown if s in SYMBOLS[1:]]
        remedy = f"give atomic numbers{': ' + ', '.join(map(str, known)) if len(known) == len(shown) else ', as 82'}"
        raise InputError("number", ", ".join(shown), "holds chemical symbols", remedy)
    if given.ndim != 1 or given.size == 0 or given.dtype.kind not in "iuf" or (given != np.floor(given)).any():
        raise InputError("number", number, "needs one whole number an atom", "give atomic numbers such as [82, 22, 8]")
    return tuple(given.astype(int).tolist())


def box_sides(box) -> tuple[float, float, float]:
    """Three positive lengths in Å."""
    remedy = "pass (Lx, Ly, Lz) in Å"
    try:
        sides = np.asarray(box)
    except (TypeError, ValueError):  # traced, or ragged
        sides = np.array(None)
    if sides.shape != (3,) or sides.dtype.kind not in "iuf" or not (np.isfinite(sides).all() and sides.min() > 0):
        raise InputError("box", box, "needs three positive lengths that are known now", remedy)
    if sides.max() < SHORTEST:
        raise InputError("box", box, f"is shorter than {SHORTEST:g} Å all round: it {_IN_NM}", "multiply it by 10")
    x, y, z = sides.astype(float).tolist()
    return x, y, z


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
            raise InputError(name, value.min(), "must not be negative", _RMS_REMEDY)
        if name == "thermal_rms" and (value > LARGEST_RMS).any():
            problem = f"is above {LARGEST_RMS} Å: it looks like B or a mean square"
            raise InputError(name, value.max(), problem, _RMS_REMEDY)
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


def check_unit(position, occupancy, box: tuple[float, float, float]) -> None:
    """Neither more atoms in the box than Å³, nor all of them far from each other: the lengths are in Å."""
    if is_traced(position) or is_traced(occupancy):
        return
    density = float(np.asarray(occupancy, float).sum() / np.prod(box))
    if density > DENSEST:
        problem = f"holds {density:.3g} atoms per Å³, no solid more than 0.2: it {_IN_NM}"
        raise InputError("box", box, problem, "multiply position, box and thermal_rms by 10")
    if density < RAREST and len(position) > 1 and len(close_pairs(position, box, FARTHEST)) == 0:
        problem = f"has no two atoms within {FARTHEST:g} Å: it {_IN_PM}"
        raise InputError("box", box, problem, "divide position, box and thermal_rms by 100")


def check_cell(cell, atoms) -> None:
    """A unit cell (rows, Å) with a volume that fits that many whole atoms."""
    if is_traced(cell) or is_traced(atoms):
        return
    lengths = np.linalg.norm(np.asarray(cell, float), axis=1)
    volume = abs(np.linalg.det(np.asarray(cell, float)))
    shown = np.asarray(cell).round(3).tolist()
    if volume <= 1e-3 * np.prod(lengths):
        raise InputError("cell", shown, "has no volume", "give three lattice vectors as rows, in Å")
    if lengths.max() < SHORTEST:
        raise InputError("cell", shown, f"is shorter than {SHORTEST:g} Å all round: it {_IN_NM}", "multiply it by 10")
    if atoms < RAREST * volume:
        raise InputError("cell", shown, f"has {volume / atoms:.3g} Å³ an atom: it {_IN_PM}", "divide it by 100")


def close_pairs(position, box: tuple[float, float, float], reach: float = OVERLAP) -> np.ndarray:
    """(pairs, 2) indices of atoms closer than `reach` (Å), periodic in x and y."""
    from scipy.spatial import KDTree

    sides = np.array([box[0], box[1], 0.0])  # 0: not periodic
    at = np.array(position, float)
    at[:, :2] = np.mod(at[:, :2], sides[:2])
    at[:, :2] = np.where(at[:, :2] >= sides[:2], 0.0, at[:, :2])
    return KDTree(at, boxsize=sides).query_pairs(reach, output_type="ndarray")


def shared_sites(position, box: tuple[float, float, float], reach: float = OVERLAP, number=None) -> np.ndarray | None:
    """(atoms,) the first atom of the site that each atom shares with those within `reach` Å; None: all have their own.

    number: (atoms,) where given, only atoms of the same one share a site.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = close_pairs(position, box, reach)
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
    """No site with occupancies above 1 in all; atoms within 0.3 Å of each other, or linked by others, share one."""
    if is_traced(position) or is_traced(occupancy):
        return
    share = np.asarray(occupancy, float)
    there = np.flatnonzero(share > 0)  # an atom that is not there is in nobody's way
    site = shared_sites(np.asarray(position, float)[there], box) if len(there) else None
    if site is None:
        return
    around = np.bincount(site, share[there], minlength=len(there))
    worst = int(around.argmax())
    if around[worst] > 1 + 1e-4:
        first, second = there[np.flatnonzero(site == worst)[:2]]
        raise InputError(
            "position",
            f"atoms {first} and {second}, occupancies sum to {around[worst]:.3f}",
            f"atoms closer than {OVERLAP} Å overlap",
            "remove duplicates, or give occupancies that sum to 1 at most",
        )
