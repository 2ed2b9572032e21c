"""Chemical formulas: of sites, as a file states them, and whether the two agree."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from ferrojax.crystal.elements import HYDROGEN, SYMBOLS

Relation = Literal["agrees", "near", "differs", "other elements", "not stated"]
SAME, NEAR = 0.02, 0.15
"""Relative difference of proportions: up to the first formulas agree, up to the second they differ by vacancies."""


def amounts(elements: Sequence[str], share: np.ndarray) -> dict[str, float]:
    """Atoms of each element, shares counted."""
    found: dict[str, float] = {}
    for symbol, part in zip(elements, share, strict=True):
        found[symbol] = found.get(symbol, 0.0) + float(part)
    return found


def formula_of(elements: Sequence[str], share: np.ndarray) -> str:
    """The smallest formula with whole numbers up to four formula units, else amounts for one anion set."""
    amount = amounts(elements, share)
    least = min(amount.values())
    for scale in (1, 2, 3, 4, 6, 8, 12):
        scaled = {symbol: scale * value / least for symbol, value in amount.items()}
        if all(abs(v - round(v)) < 0.02 for v in scaled.values()) and max(share) - min(share) < 1e-3:
            return "".join(s + ("" if round(v) == 1 else str(round(v))) for s, v in scaled.items())
    most = max(amount.values())
    unit = most / 3 if "O" in amount and amount["O"] == most else least
    return "".join(s + ("" if abs(v / unit - 1) < 5e-3 else f"{v / unit:.3g}") for s, v in amount.items())


def stated_amounts(text: str | None) -> dict[str, float]:
    """Atoms of each element of a formula such as `Bi1 Fe1 O3`, `Ba0.7(1) Sr0.3 Ti O3` or `BIFEO3`; {} if unreadable.

    Capitals are read as symbols where blanks part them. A bracket with a factor behind it is not read.
    """
    plain = re.sub(r"(?<=\d)\(\d+\)", "", text or "")  # uncertainties
    if not plain.strip() or re.search(r"[^A-Za-z0-9.\s]", plain):
        return {}
    found: dict[str, float] = {}
    for word in plain.split():
        whole = re.fullmatch(r"([A-Za-z]{1,2})([0-9.]*)", word)
        alone = whole and _known(whole[1].capitalize())
        parts = [(whole[1].capitalize(), whole[2])] if whole and alone else re.findall(r"([A-Z][a-z]?)([0-9.]*)", word)
        if "".join(symbol + count for symbol, count in parts).lower() != word.lower():
            return {}
        for symbol, count in parts:
            if not _known(symbol) or count.count(".") > 1 or count == ".":
                return {}
            name = "H" if symbol in HYDROGEN else symbol
            found[name] = found.get(name, 0.0) + (float(count) if count else 1.0)
    return {symbol: count for symbol, count in found.items() if count > 0}


def _known(symbol: str) -> bool:
    return symbol in SYMBOLS[1:] or symbol in HYDROGEN


def relation(said: Mapping[str, float], found: Mapping[str, float]) -> Relation:
    """How the proportions of the sites stand to those of a stated formula; hydrogen that was not located is no odds."""
    if not said:
        return "not stated"
    if set(said) - {"H"} != set(found) - {"H"} or ("H" in found and "H" not in said):
        return "other elements"
    ratio = np.array([found[symbol] / said[symbol] for symbol in found])
    off = float(np.ptp(ratio) / ratio.mean())
    if "H" in said and "H" not in found:
        return "near" if off < NEAR else "differs"
    return "agrees" if off < SAME else "near" if off < NEAR else "differs"
