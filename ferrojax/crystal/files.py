"""The sites of structure files: CIF, POSCAR and whatever else ASE reads."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float

from ferrojax.crystal.checks import OVERLAP
from ferrojax.crystal.elements import SYMBOLS, atomic_number
from ferrojax.crystal.labels import inferred_labels, labels_from
from ferrojax.crystal.sites import ase_sites, by_element
from ferrojax.errors import InputError

ASSUMED_RMS = 0.085
"""Å per axis, where a file gives no thermal motion; of the size measured for perovskites at room temperature."""


def read_sites(
    path: Path,
    *,
    labels: Mapping[str, str] | None,
    thermal_rms: float | Mapping[str, float] | None,
    occupancy: Mapping[str, float] | None,
    soft_mode: ArrayLike | Mapping[str, float] | None,
    born_charge: ArrayLike | Mapping[str, float] | None,
    name: str | None,
    index: int | None,
) -> dict[str, Any]:
    """What `Crystal` is made of, by the names of its arguments; see `Crystal.from_file`, which this serves."""
    structure = _one_structure(path, index)
    number, kind, share, fractional = _sites(structure)
    share = _corrected(share, number, occupancy)
    cell = np.asarray(structure.cell.array, float)
    _check(path, cell, structure, share, kind)
    elements = [SYMBOLS[z] for z in number]
    sources = {"cell_A": f"File {path.name}."}
    if labels is None:
        label, sources["labels"] = inferred_labels(cell, fractional, elements, share)
    else:
        label, sources["labels"] = labels_from(labels, elements), "Given."
    formula, sources["sites"] = _named(path, structure, elements, share, label)
    rms, sources["thermal_rms_A"] = _thermal(thermal_rms, elements, structure, kind)
    sources["soft_mode"] = "None: not given." if soft_mode is None else "Given."
    sources["born_charges"] = "None: not given." if born_charge is None else "Given; neutralised."
    charge = _tensors("born_charge", born_charge, elements)
    return {
        "cell": cell,
        "position": fractional,
        "number": tuple(int(z) for z in number),
        "label": label,
        "name": formula if name is None else name,
        "thermal_rms": rms,
        "occupancy": share,
        "soft_mode": _tensors("soft_mode", soft_mode, elements),
        "born_charge": None if charge is None else charge - np.average(charge, axis=0, weights=share),
        "sources": sources,
    }


def _one_structure(path: Path, index: int | None):
    """The ASE Atoms of a file, with the tags of a CIF kept."""
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError, filetype

    if not path.is_file():
        raise InputError("structure file", str(path), "does not exist", "check the path")
    try:
        kind = filetype(str(path))
        tags: dict[str, Any] = {"store_tags": True} if kind == "cif" else {}
        found = read(path, index=":", **tags)
    except UnknownFileTypeError:
        raise InputError(
            "structure file", path.name, "is of no type that ASE knows", "give a CIF or a POSCAR"
        ) from None
    except Exception as error:  # ASE raises whatever its parsers do
        problem = f"cannot be read: {error or type(error).__name__}"
        raise InputError("structure file", path.name, problem, "check it in another program") from error
    structures = found if isinstance(found, list) else [found]
    if not structures or (index is None and len(structures) > 1):
        raise InputError("structure file", path.name, f"holds {len(structures)} structures", "say which with index=0")
    if index is not None and not -len(structures) <= index < len(structures):
        raise InputError(
            "index", index, f"is not among the {len(structures)} structures of {path.name}", "count from 0"
        )
    return structures[0 if index is None else index]


def _sites(structure) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Atomic number, row of the file, occupancy and fractional position, one row a species of a shared site."""
    if abs(np.linalg.det(structure.cell.array)) < 1e-6:
        raise InputError("cell", structure.cell.array.tolist(), "has no volume", "give a file with a unit cell")
    position, number, share = ase_sites(structure)
    kinds = structure.arrays.get("spacegroup_kinds", np.arange(len(structure)))
    # Species of a shared site follow each other at the very place of their site.
    at = position @ np.linalg.inv(structure.cell.array)
    home = [int(np.abs(structure.positions - here).sum(1).argmin()) for here in position]
    return number, kinds[home], share, at


def _corrected(share: np.ndarray, number: np.ndarray, occupancy: Mapping[str, float] | None) -> np.ndarray:
    """Occupancies with those of some elements replaced."""
    share = share.copy()
    for symbol, value in (occupancy or {}).items():
        rows = number == atomic_number(symbol)
        if not rows.any():
            raise InputError("occupancy", symbol, "is not in the file", "name an element of the file")
        if not 0 < float(value) <= 1:
            raise InputError("occupancy", value, f"of {symbol} must lie between 0 and 1", "give a share of the site")
        share[rows] = float(value)
    return share


def _check(path: Path, cell: np.ndarray, structure, share: np.ndarray, kind: np.ndarray) -> None:
    """Finite positions, occupancies of a site that sum to 1 at most, and no two full sites at one place."""
    from ase.neighborlist import neighbor_list

    if not np.isfinite(cell).all() or not np.isfinite(structure.positions).all():
        raise InputError("structure file", path.name, "has positions that are no numbers", "correct the file")
    if (share <= 0).any():
        raise InputError("occupancy", float(share.min()), f"in {path.name} must be above 0", "remove the empty site")
    own = np.asarray(structure.arrays.get("spacegroup_kinds", np.arange(len(structure))))
    full = np.bincount(kind, share, minlength=own.max() + 1) / np.maximum(np.bincount(own), 1)
    if full.max() > 1 + 1e-3:
        raise InputError("occupancy", round(float(full.max()), 3), f"is the sum at a site in {path.name}", "make it 1")
    first, second = neighbor_list("ij", structure, OVERLAP)
    clash = np.flatnonzero(full[own[first]] + full[own[second]] > 1 + 1e-3)
    if len(clash):
        i, j = int(first[clash[0]]), int(second[clash[0]])
        raise InputError(
            "structure file",
            path.name,
            f"has atoms {i} ({structure.symbols[i]}) and {j} ({structure.symbols[j]}) less than {OVERLAP} Å apart",
            "give its coordinates more digits (1/3 as 0.333333), or remove duplicates",
        )


def _thermal(given, elements: list[str], structure, kind: np.ndarray) -> tuple[np.ndarray, str]:
    """Thermal rms (Å per axis) of every site, and where it comes from."""
    if isinstance(given, Mapping):
        return by_element("thermal_rms", given, elements), "Given."
    if given is not None:
        return np.full(len(elements), float(given)), "Given."
    for tag, factor in (("_atom_site_u_iso_or_equiv", 1.0), ("_atom_site_b_iso_or_equiv", 1 / (8 * np.pi**2))):
        values = structure.info.get(tag)
        if isinstance(values, list) and all(isinstance(v, int | float) and v > 0 for v in values):
            square = factor * np.array(values, float)
            return np.sqrt(square[kind]), f"Square roots of {tag} of the file."
    return np.full(len(elements), ASSUMED_RMS), f"Assumed, {ASSUMED_RMS} Å; the file gives none."


def _tensors(field: str, given, elements: list[str]) -> Float[np.ndarray, "n 3 3"] | None:
    """(n, 3, 3) from an array or from one number an element."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        return by_element(field, given, elements)[:, None, None] * np.eye(3)
    tensor = np.asarray(given, float)
    if tensor.shape != (len(elements), 3, 3):
        raise InputError(field, tensor.shape, f"needs shape ({len(elements)}, 3, 3)", "one tensor a site, in order")
    return tensor


def _named(path: Path, structure, elements: list[str], share: np.ndarray, label) -> tuple[str, str]:
    """The formula of the sites, A first, and where they come from; warns where the file's formula line differs."""
    order = sorted(range(len(elements)), key=lambda i: (label[i], -atomic_number(elements[i])))
    formula = _formula([elements[i] for i in order], share[order])
    source = f"File {path.name}."
    stated = _stated_formula(structure)
    if stated is not None and not _agree(stated, elements, share):
        source += f" Its formula line says {stated}, its sites {formula}; the sites are used."
        warnings.warn(f"{path.name}: the formula line says {stated}, the sites are {formula}", stacklevel=4)
    return formula, source


def _formula(elements: list[str], share: np.ndarray) -> str:
    """The smallest formula with whole numbers up to four formula units, else amounts for one anion set."""
    amount = {symbol: float(share[[e == symbol for e in elements]].sum()) for symbol in dict.fromkeys(elements)}
    least = min(amount.values())
    for scale in (1, 2, 3, 4, 6, 8, 12):
        scaled = {symbol: scale * value / least for symbol, value in amount.items()}
        if all(abs(v - round(v)) < 0.02 for v in scaled.values()) and max(share) - min(share) < 1e-3:
            return "".join(s + ("" if round(v) == 1 else str(round(v))) for s, v in scaled.items())
    most = max(amount.values())
    unit = most / 3 if "O" in amount and amount["O"] == most else least
    return "".join(s + ("" if abs(v / unit - 1) < 5e-3 else f"{v / unit:.3g}") for s, v in amount.items())


def _stated_formula(structure) -> str | None:
    """The formula line of a CIF, where it has one that can be read."""
    text = structure.info.get("_chemical_formula_sum")
    return text if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9.\s()]+", text) else None


def _agree(stated: str, elements: list[str], share: np.ndarray) -> bool:
    """Whether a formula has the elements of the sites, in their proportions to 2 %."""
    parts = re.findall(r"([A-Z][a-z]?)\s*([0-9.]*)", stated)
    said: dict[str, float] = {}
    for symbol, count in parts:
        said[symbol] = said.get(symbol, 0.0) + (float(count) if count else 1.0)
    found = {symbol: float(share[[e == symbol for e in elements]].sum()) for symbol in set(elements)}
    if set(said) != set(found):
        return False
    ratio = np.array([found[symbol] / said[symbol] for symbol in found])
    return bool(np.ptp(ratio) < 0.02 * ratio.mean())
