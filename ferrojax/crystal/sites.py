"""The sites of an ASE structure, and values that are given one an element."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ferrojax.checks import real_number
from ferrojax.crystal.elements import SYMBOLS, atomic_number
from ferrojax.errors import InputError

WHOLE = 1 - 1e-5
"""Occupancy from which an atom is whole: rounding of a float32 must not make a vacancy of one in ten million."""


def by_element(field: str, values: Mapping[str, float], symbols: Sequence[str]) -> np.ndarray:
    """One number a site from one an element; InputError where an element of the sites lacks one."""
    missing = sorted(set(symbols) - set(values))
    if missing:
        raise InputError(field, dict(values), f"lacks {', '.join(missing)}", "give every element")
    return np.array([real_number(field, values[symbol], f"give a number for {symbol}") for symbol in symbols])


def element_rms(number: np.ndarray, thermal_rms) -> np.ndarray:
    """Thermal rms (Å per axis) of every atom from one value or from one an element."""
    if not isinstance(thermal_rms, Mapping):
        remedy = 'give Å per axis, one value or one an element, such as {"Pb": 0.1}'
        return np.full(len(number), real_number("thermal_rms", thermal_rms, remedy))
    return by_element("thermal_rms", thermal_rms, [SYMBOLS[z] for z in number])


def ase_sites(atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position (Å), atomic number and occupancy of an ASE Atoms, with one atom per species of a shared site."""
    position, number = atoms.get_positions(), atoms.get_atomic_numbers()
    table = atoms.info.get("occupancy")
    if not table or "spacegroup_kinds" not in atoms.arrays:
        return position, number, np.ones(len(number))
    rows = []
    for i, kind in enumerate(atoms.arrays["spacegroup_kinds"]):
        species = table.get(str(kind), table.get(kind, {atoms.symbols[i]: 1.0}))
        rows += [(i, atomic_number(symbol), float(share)) for symbol, share in species.items()]
    index, numbers, shares = zip(*rows, strict=True)
    return position[list(index)], np.array(numbers), np.array(shares)


def chosen_on_site(site: np.ndarray, share: np.ndarray, ticket) -> Any:
    """(atoms,) whether each atom is the one drawn on its site, its occupancies (atoms,) the probabilities.

    site: (atoms,) the atom that stands for the site of each; ticket: (atoms,) uniform on [0, 1), alike on a site.
    """
    order = np.argsort(site, kind="stable")
    total = np.cumsum(share[order]) - share[order]
    before = np.empty(len(share))
    before[order] = total
    before -= total[np.searchsorted(site[order], site)]  # of the first of every atom's site
    return (share > 0) & (ticket >= before) & ((ticket < before + share) | (before + share > WHOLE))
