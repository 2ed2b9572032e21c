"""Chemical symbols by atomic number, so that the core needs no structure library."""

import re

from ferrojax.errors import InputError

SYMBOLS = tuple(
    [
        "X",
        "H",
        "He",
        "Li",
        "Be",
        "B",
        "C",
        "N",
        "O",
        "F",
        "Ne",
        "Na",
        "Mg",
        "Al",
        "Si",
        "P",
        "S",
        "Cl",
        "Ar",
        "K",
        "Ca",
        "Sc",
        "Ti",
        "V",
        "Cr",
        "Mn",
        "Fe",
        "Co",
        "Ni",
        "Cu",
        "Zn",
        "Ga",
        "Ge",
        "As",
        "Se",
        "Br",
        "Kr",
        "Rb",
        "Sr",
        "Y",
        "Zr",
        "Nb",
        "Mo",
        "Tc",
        "Ru",
        "Rh",
        "Pd",
        "Ag",
        "Cd",
        "In",
        "Sn",
        "Sb",
        "Te",
        "I",
        "Xe",
        "Cs",
        "Ba",
        "La",
        "Ce",
        "Pr",
        "Nd",
        "Pm",
        "Sm",
        "Eu",
        "Gd",
        "Tb",
        "Dy",
        "Ho",
        "Er",
        "Tm",
        "Yb",
        "Lu",
        "Hf",
        "Ta",
        "W",
        "Re",
        "Os",
        "Ir",
        "Pt",
        "Au",
        "Hg",
        "Tl",
        "Pb",
        "Bi",
        "Po",
        "At",
        "Rn",
        "Fr",
        "Ra",
        "Ac",
        "Th",
        "Pa",
        "U",
        "Np",
        "Pu",
        "Am",
        "Cm",
        "Bk",
        "Cf",
        "Es",
        "Fm",
        "Md",
        "No",
        "Lr",
    ]
)

HYDROGEN = frozenset({"H", "D", "T"})
"""Symbols that structure files have for hydrogen."""


def atomic_number(symbol) -> int:
    """Atomic number of a chemical symbol."""
    if symbol not in SYMBOLS[1:]:
        raise InputError("element", symbol, "unknown chemical symbol", "use symbols such as 'Ba', 'Ti', 'O'")
    return SYMBOLS.index(symbol)


def symbol_in(text: str) -> str | None:
    """The chemical symbol in what a structure file writes: Sr, SR, sr2+, O-2, Fe_oct, Pb_d/3a4f; D is H; else None."""
    found = re.fullmatch(r"([A-Za-z]{1,2})(?:[\d.]*[+-]?[\d.]*)(?:[_/ ].*)?", text.strip())
    symbol = found[1].capitalize() if found else ""
    return "H" if symbol in HYDROGEN else symbol if symbol in SYMBOLS[1:] else None
