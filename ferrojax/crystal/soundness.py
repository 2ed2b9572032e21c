"""A structure as a file gives it, and whether a solid can be like that: occupancies, distances, atoms per volume."""

from typing import NamedTuple

import numpy as np

from ferrojax.crystal.checks import OVERLAP
from ferrojax.crystal.elements import SYMBOLS
from ferrojax.crystal.lattice import images_within
from ferrojax.errors import InputError

TIGHT = 0.6
"""Distance over the sum of covalent radii below which no two atoms of a solid come: uranyl's U=O, the shortest bond by
this measure, has 0.67, hydrogen molecules 1.2; a structure read in the wrong setting has 0.1 to 0.5."""
LOOSE = 1.4
"""The same from which no two sites of several elements touch: salts and metals have 0.7 to 1.2 between neighbours."""
CROWDED = 0.25
"""Atoms per Å³; diamond has 0.18, the most of all solids at ambient pressure."""
FULL = 1 + 1e-3
ROUNDED = 1.01
"""Sum of the shares of a site up to which they are rounded figures of one that is full."""


class Structure(NamedTuple):
    """The sites of a file, one row a species of a site.

    cell: (3, 3) Å. position: (n, 3) fractional. number, share, site: (n,) atomic number, occupancy and which site.
    mean_square: (n,) Å² of thermal motion per axis, NaN where the file has none.
    origin: where in the file each row comes from, its label. formula: what the file's formula line says.
    notes: what a reader of the result should know.
    """

    cell: np.ndarray
    position: np.ndarray
    number: np.ndarray
    share: np.ndarray
    site: np.ndarray
    mean_square: np.ndarray
    origin: tuple[str, ...]
    formula: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def elements(self) -> list[str]:
        return [SYMBOLS[z] for z in self.number]


def rounded_off(structure: Structure) -> Structure:
    """The structure with sites that hold a little more than one atom, as refined or rounded shares do, made whole."""
    full = np.bincount(structure.site, structure.share)
    full = np.where((full > 1) & (full <= ROUNDED), full, 1.0)
    return structure._replace(share=structure.share / full[structure.site])


def check_sound(structure: Structure, name: str, remedy: str = "") -> None:
    """InputError for a structure that cannot be; `remedy`: what else to do about atoms too close to each other.

    Refused are positions that are no numbers, occupancies that are not above 0 or sum to more than 1 at a site, sites
    closer than 0.3 Å or than 0.6 of the sum of their covalent radii (two that are never both there may be closer),
    more than 0.25 atoms per Å³, and several elements of which no two sites are within 1.4 of that sum.
    """
    if not np.isfinite(structure.cell).all() or not np.isfinite(structure.position).all():
        raise InputError("structure file", name, "has positions that are no numbers", "correct the file")
    if (structure.share <= 0).any():
        least = float(structure.share.min())
        raise InputError("occupancy", least, f"in {name} must be above 0", "remove the empty site")
    full = np.bincount(structure.site, structure.share)
    if full.max() > FULL:
        raise InputError("occupancy", round(float(full.max()), 3), f"is the sum at a site in {name}", "make it 1")
    closest = tightest(structure)
    if closest is not None and (closest.distance < OVERLAP or closest.ratio < TIGHT):
        raise _too_close(structure, closest, name, remedy)
    density = float(structure.share.sum() / abs(np.linalg.det(structure.cell)))
    if density > CROWDED:
        problem = f"has {density:.2g} atoms per Å³, no solid more than 0.18"
        raise InputError("structure file", name, problem, remedy or "check its cell and its symmetry")
    if len(set(structure.number.tolist())) > 1 and tightest(structure, never_both=True) is None:
        problem = f"has {1 / density:.3g} Å³ an atom and no two that touch"
        raise InputError("structure file", name, problem, remedy or "check its cell, its scale and its symmetry")


def _too_close(structure: Structure, closest: "Contact", name: str, remedy: str) -> InputError:
    elements = structure.elements
    pair = " and ".join(f"{i} ({elements[i]})" for i in (closest.first, closest.second))
    if closest.distance < OVERLAP:
        problem = f"has atoms {pair} less than {OVERLAP} Å apart"
        advice = "give its coordinates more digits (1/3 as 0.333333), or remove duplicates"
    else:
        least = TIGHT * closest.distance / closest.ratio
        problem = f"has atoms {pair} {closest.distance:.2f} Å apart, no solid less than {least:.2f} Å"
        advice = "check its cell and its coordinates"
    return InputError("structure file", name, problem, f"{advice}; {remedy}" if remedy else advice)


class Contact(NamedTuple):
    """Two rows of a structure, how far apart in Å, and that over the sum of their covalent radii."""

    first: int
    second: int
    distance: float
    ratio: float


def tightest(structure: Structure, *, never_both: bool = False) -> Contact | None:
    """The two sites that are closest for their size; None: no two are within 1.4 of the sum of their radii.

    never_both: also among sites that are never both occupied, as their occupancies sum to 1 at most.
    """
    from ase.data import covalent_radii
    from scipy.spatial import KDTree

    # A site is as large as the smallest of its species, so that none is called too close for another's sake.
    radius = np.full(structure.site.max() + 1, np.inf)
    np.minimum.at(radius, structure.site, covalent_radii[structure.number])
    head = np.unique(structure.site, return_index=True)[1]
    full = np.bincount(structure.site, structure.share)
    home = np.mod(structure.position[head], 1.0)
    reach = 2 * LOOSE * float(radius.max())
    image, around = images_within(structure.cell, home, reach)
    pairs = KDTree(home @ structure.cell).sparse_distance_matrix(KDTree(around), reach, output_type="coo_matrix")
    first, second, distance = pairs.row, image[pairs.col], pairs.data
    itself = (first == second) & (distance < 1e-6)
    near = distance < LOOSE * (radius[first] + radius[second])
    counted = ~itself & near & (never_both | (full[first] + full[second] > FULL))
    if not counted.any():
        return None
    first, second, distance = first[counted], second[counted], distance[counted]
    ratio = distance / (radius[first] + radius[second])
    # Rows on top of each other come first, whatever their size.
    worst = int(np.where(distance < OVERLAP, distance - 1.0, ratio).argmin())
    return Contact(int(head[first[worst]]), int(head[second[worst]]), float(distance[worst]), float(ratio[worst]))
