"""The sites of a cell from those that a file lists and operations of symmetry."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ferrojax.crystal.settings import Reading
from ferrojax.crystal.soundness import Structure, rounded_off

SAME_PLACE = 2.5e-3
"""Fractional; equivalents closer than this along every axis are one atom on a special position: 1/3 written 0.333
puts them 0.001 apart."""
WHOLE = 1 - 1e-3


class Row(NamedTuple):
    """One line of a file's list of sites.

    share: occupancy. position: (3,) fractional. mean_square: Å², NaN where unknown. multiplicity: how often the file
    says it is in the cell, None: it does not.
    """

    label: str
    number: int
    share: float
    position: np.ndarray
    mean_square: float
    multiplicity: float | None


def orbit(position: np.ndarray, reading: Reading) -> np.ndarray:
    """(m, 3) fractional, all equivalents of a position; on special positions the mean of those that fall together."""
    images = np.mod(reading.rotation @ position + reading.translation, 1.0)
    if len(images) == 1:
        return images
    gap = images[:, None] - images
    gap -= np.round(gap)
    home = (np.abs(gap) < SAME_PLACE).all(-1).argmax(1)
    return np.array([np.mod(image - gap[i, home == i].mean(0), 1.0) for i, image in enumerate(images) if home[i] == i])


def expanded(rows: Sequence[Row], orbits: Sequence[np.ndarray], cell: np.ndarray) -> tuple[Structure, list[str]]:
    """The structure of all equivalents, and the labels of rows that only repeat others.

    Rows at one place share its site; the same element twice on a site, as of two valences, is one species with the
    sum of the shares, unless both are whole: then one repeats the other.
    """
    places = np.zeros((0, 3))
    species: list[dict[int, list[float]]] = []  # of every site: atomic number -> share, mean square · share, first row
    repeated = []
    for at, (row, own) in enumerate(zip(rows, orbits, strict=True)):
        site = _shared(places, own)
        if site is None:
            site = np.arange(len(places), len(places) + len(own))
            places = np.concatenate([places, own])
            species += [{} for _ in own]
        before = species[site[0]].get(row.number)
        if before is not None and min(before[0], row.share) >= WHOLE:
            repeated.append(row.label)
            continue
        for i in site:
            share, square, first = species[i].get(row.number, (0.0, 0.0, float(at)))
            species[i][row.number] = [share + row.share, square + row.share * row.mean_square, first]
    listed = [(i, z, *figures) for i, there in enumerate(species) for z, figures in there.items()]
    site, number, share, square, first = (np.array(column) for column in zip(*listed, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_square = square / share
    origin = tuple(rows[int(i)].label for i in first)
    return rounded_off(Structure(cell, places[site], number, share, site, mean_square, origin)), repeated


def _shared(places: np.ndarray, own: np.ndarray) -> np.ndarray | None:
    """The sites that an orbit falls on, one each; None where it has places of its own."""
    if len(places) == 0:
        return None
    if len(own) == 1:
        gap = places - own[0]
        near = np.flatnonzero((np.abs(gap - np.round(gap)) < SAME_PLACE).all(1))
        return near[:1] if len(near) else None
    gap = own[:, None] - places
    near = np.asarray((np.abs(gap - np.round(gap)) < SAME_PLACE).all(-1))
    site = near.argmax(-1)
    return site if near.any(-1).all() and len(set(site.tolist())) == len(own) else None
