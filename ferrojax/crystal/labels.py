"""Site labels A, B and O from a structure."""

from collections.abc import Mapping, Sequence

import numpy as np

from ferrojax.errors import InputError

ANIONS = frozenset({"O", "F", "Cl", "Br", "I", "S", "Se", "Te", "N"})
A_BELOW, B_ABOVE = 1.30, 1.40
"""Mean distance of the twelve nearest anions over that of the six nearest: 1.00 for the A site and 1.62 for the B
site of a cubic perovskite, 1.21 and 1.48 in BiFeO3 (R3c), 1.29 and 1.41 in LiNbO3."""
NEIGHBOURS = 7.0
"""Å; far enough for twelve anions."""
_REMEDY = 'give labels, such as labels={"Pb": "A", "Ti": "B", "O": "O"}'


def labels_from(labels: Mapping[str, str], elements: Sequence[str]) -> tuple[str, ...]:
    """Every site's label from one an element; InputError where an element lacks one or it is not A, B or O."""
    missing = sorted(set(elements) - set(labels))
    if missing:
        raise InputError("labels", dict(labels), f"lacks {', '.join(missing)}", "give every element")
    wrong = sorted(set(labels.values()) - {"A", "B", "O"})
    if wrong:
        raise InputError("labels", ", ".join(map(str, wrong)), "is no site label", 'use "A", "B" and "O"')
    if "A" not in {labels[symbol] for symbol in elements}:
        raise InputError("labels", dict(labels), "has no A site", "label the lattice that images are indexed on A")
    return tuple(labels[symbol] for symbol in elements)


def inferred_labels(
    cell: np.ndarray, fractional: np.ndarray, elements: Sequence[str], occupancy: np.ndarray
) -> tuple[tuple[str, ...], str]:
    """Every site's label and the rule that gave it.

    Anions (oxygen, halogens, chalcogens, nitrogen) are O. With one element besides, or several at random on the same
    sites, that is A. A perovskite ABX3
    has its twelve-coordinated cations on A and its six-coordinated ones on B: an element is A where its twelve
    nearest anions are on average less than 1.30 times as far as its six nearest, B where more than 1.40 times.
    Errors: InputError where that does not decide, or the sites are not in proportion 1:1:3.
    """
    present = list(dict.fromkeys(elements))
    cations = [symbol for symbol in present if symbol not in ANIONS]
    if len(present) == 1 or not cations:
        if len(present) > 1:
            raise InputError("labels", ", ".join(present), "cannot be inferred: no cation among them", _REMEDY)
        return ("A",) * len(elements), "Inferred: one element, A."
    if len(cations) == 1 or _share_all_sites(fractional, elements):
        return tuple("O" if e in ANIONS else "A" for e in elements), "Inferred: one cation, A; anions O."
    spread = _coordination(cell, fractional, elements)
    kind = {s: "A" if v < A_BELOW else "B" if v > B_ABOVE else "?" for s, v in spread.items()}
    label = tuple("O" if e in ANIONS else kind[e] for e in elements)
    amount = {name: sum(o for o, own in zip(occupancy, label, strict=True) if own == name) for name in "ABO"}
    unclear = [symbol for symbol, name in kind.items() if name == "?"]
    formula_unit = max(amount["O"] / 3, 1e-9)
    if unclear or max(abs(amount[name] / formula_unit - 1) for name in "AB") > 0.1:
        shown = ", ".join(f"{symbol} {value:.2f}" for symbol, value in spread.items())
        problem = f"cannot be inferred: no perovskite ABX3 by the coordination of its cations ({shown})"
        raise InputError("labels", ", ".join(present), problem, _REMEDY)
    return label, "Inferred: twelve-coordinated cations A, six-coordinated ones B, anions O."


def _share_all_sites(fractional: np.ndarray, elements: Sequence[str]) -> bool:
    """Whether every place of a cation holds the same elements."""
    cation = np.array([symbol not in ANIONS for symbol in elements])
    place = np.mod(np.round(np.mod(fractional[cation], 1.0), 3), 1.0)
    symbols = np.array(elements)[cation]
    held = {tuple(at): frozenset(symbols[(place == at).all(1)].tolist()) for at in np.unique(place, axis=0)}
    return len(set(held.values())) == 1


def _coordination(cell: np.ndarray, fractional: np.ndarray, elements: Sequence[str]) -> dict[str, float]:
    """Median over an element's sites of the mean distance of the 12 nearest anions over that of the 6 nearest."""
    from scipy.spatial import KDTree

    from ferrojax.crystal.lattice import images_within

    anion = np.array([symbol in ANIONS for symbol in elements])
    _, around = images_within(cell, fractional[anion], NEIGHBOURS)
    tree = KDTree(around)
    found: dict[str, float] = {}
    for symbol in dict.fromkeys(elements):
        if symbol in ANIONS:
            continue
        own = np.mod(fractional[[e == symbol for e in elements]], 1.0) @ cell
        distance, _ = tree.query(own, k=12)
        found[symbol] = float(np.median(distance.mean(1) / distance[:, :6].mean(1)))
    return found
