"""The sites of structure files: CIF, POSCAR and whatever else ASE reads."""

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float

from ferrojax.crystal.cif import cif_structure, cif_structures, decoded, looks_like_cif
from ferrojax.crystal.dialects import looks_like_poscar, plain_poscar, plain_xyz
from ferrojax.crystal.elements import SYMBOLS, atomic_number
from ferrojax.crystal.formula import amounts, formula_of, relation, stated_amounts
from ferrojax.crystal.labels import inferred_labels, labels_from
from ferrojax.crystal.sites import ase_sites, by_element
from ferrojax.crystal.soundness import Structure, check_sound, rounded_off
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
    structure = read_structure(path, occupancy, index)
    elements, share = structure.elements, structure.share
    sources = {"cell_A": f"File {path.name}."}
    if labels is None:
        label, sources["labels"] = inferred_labels(structure.cell, structure.position, elements, share)
    else:
        label, sources["labels"] = labels_from(labels, elements), "Given."
    formula, sources["sites"] = _named(path, structure, label)
    rms, sources["thermal_rms_A"] = _thermal(thermal_rms, structure)
    sources["soft_mode"] = "None: not given." if soft_mode is None else "Given."
    sources["born_charges"] = "None: not given." if born_charge is None else "Given; neutralised."
    charge = _tensors("born_charge", born_charge, elements)
    return {
        "cell": structure.cell,
        "position": structure.position,
        "number": tuple(int(z) for z in structure.number),
        "label": label,
        "name": formula if name is None else name,
        "thermal_rms": rms,
        "occupancy": share,
        "soft_mode": _tensors("soft_mode", soft_mode, elements),
        "born_charge": None if charge is None else charge - np.average(charge, axis=0, weights=share),
        "sources": sources,
    }


def read_structure(path: Path, occupancy: Mapping[str, float] | None = None, index: int | None = None) -> Structure:
    """One structure of a file, symmetry expanded, checked to be one that a solid can have.

    occupancy: by element, in place of what the file says. index: which of several structures.
    Errors: InputError for what cannot be read, or read in one way only; see `check_sound`.
    """
    if not path.is_file():
        raise InputError("structure file", str(path), "does not exist", "check the path")
    if looks_like_cif(path):
        blocks = cif_structures(path)
        tags = blocks[_chosen(path, len(blocks), index)][1]
        structure = cif_structure(path, tags, _occupancies(occupancy))
    else:
        found = _by_ase(path)
        listed = _from_ase(path, found[_chosen(path, len(found), index)])
        structure = rounded_off(_corrected(listed, _occupancies(occupancy)))
    for symbol in occupancy or {}:
        if symbol not in structure.elements:
            raise InputError("occupancy", symbol, "is not in the file", "name an element of the file")
    check_sound(structure, path.name)
    return structure


def _chosen(path: Path, count: int, index: int | None) -> int:
    if count == 0 or (index is None and count > 1):
        raise InputError("structure file", path.name, f"holds {count} structures", "say which with index=0")
    if index is not None and not -count <= index < count:
        raise InputError("index", index, f"is not among the {count} structures of {path.name}", "count from 0")
    return 0 if index is None else index


def _by_ase(path: Path) -> list:
    """The ASE Atoms of a file, whatever marks, accents and spellings its text has."""
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError, filetype

    raw = path.read_bytes()
    text = "" if b"\0" in raw else decoded(raw)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on tags that play no part here
        try:
            kind = "vasp" if looks_like_poscar(text) else filetype(str(path))
            plain = _in_plain_text(path, text, kind, Path(folder)) if text else path
            found = read(plain, index=":", format=kind)
        except InputError:
            raise
        except UnknownFileTypeError:
            raise InputError(
                "structure file", path.name, "is of no type that ASE knows", "give a CIF or a POSCAR"
            ) from None
        except Exception as error:  # ASE raises whatever its parsers do
            problem = f"cannot be read: {error or type(error).__name__}"
            raise InputError("structure file", path.name, problem, "check it in another program") from error
    return found if isinstance(found, list) else [found]


def _in_plain_text(path: Path, text: str, kind: str, folder: Path) -> Path:
    """A copy under the same name of a text that ASE would stumble over; the file itself where it would not."""
    plain = {"vasp": plain_poscar, "xyz": plain_xyz, "extxyz": plain_xyz}.get(kind, lambda given, _: given)(
        text, path.name
    )
    if plain.encode() == path.read_bytes():
        return path
    copy = folder / path.name
    copy.write_text(plain, encoding="utf-8")
    return copy


def _from_ase(path: Path, atoms) -> Structure:
    if abs(np.linalg.det(atoms.cell.array)) < 1e-6:
        raise InputError("cell", atoms.cell.array.tolist(), "has no volume", "give a file with a unit cell")
    cell = np.asarray(atoms.cell.array, float)
    place, number, share = ase_sites(atoms)
    unknown = sorted({i for i, z in enumerate(number) if not 0 < z < len(SYMBOLS)})
    if unknown:
        shown = f"{atoms.symbols[unknown[0]]} (atom {unknown[0]})"
        raise InputError("element", shown, f"of {path.name} is no chemical element", "use symbols such as Sr, Ti, O")
    # Species of a shared site follow each other at the very place of their site.
    home = np.array([int(np.abs(atoms.positions - here).sum(1).argmin()) for here in place])
    position = place @ np.linalg.inv(cell)
    origin = tuple(f"{SYMBOLS[z]} {i}" for i, z in enumerate(number))
    return Structure(cell, position, number, share, home, np.full(len(number), np.nan), origin)


def _occupancies(given: Mapping[str, float] | None) -> dict[str, float]:
    """Occupancies by element, in (0, 1]."""
    for symbol, value in (given or {}).items():
        atomic_number(symbol)
        if not 0 < float(value) <= 1:
            raise InputError("occupancy", value, f"of {symbol} must lie between 0 and 1", "give a share of the site")
    return {symbol: float(value) for symbol, value in (given or {}).items()}


def _corrected(structure: Structure, occupancy: Mapping[str, float]) -> Structure:
    share = [occupancy.get(symbol, old) for symbol, old in zip(structure.elements, structure.share, strict=True)]
    return structure._replace(share=np.array(share))


def _thermal(given, structure: Structure) -> tuple[np.ndarray, str]:
    """Thermal rms (Å per axis) of every site, and where it comes from."""
    elements = structure.elements
    if isinstance(given, Mapping):
        return by_element("thermal_rms", given, elements), "Given."
    if given is not None:
        return np.full(len(elements), float(given)), "Given."
    known = np.isfinite(structure.mean_square)
    if not known.any():
        return np.full(len(elements), ASSUMED_RMS), f"Assumed, {ASSUMED_RMS} Å; the file gives none."
    rms = np.sqrt(np.where(known, structure.mean_square, ASSUMED_RMS**2))
    source = (
        "Square roots of the mean squares U (or B/8π²) of the file, of the mean over directions where it has tensors."
    )
    missing = list(dict.fromkeys(at for at, there in zip(structure.origin, known, strict=True) if not there))
    if missing:
        source += f" Assumed, {ASSUMED_RMS} Å, for {', '.join(missing)}: the file gives none."
    return rms, source


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


def _named(path: Path, structure: Structure, label) -> tuple[str, str]:
    """The formula of the sites, A first, and where they come from; warns where the file's formula line differs."""
    elements, share = structure.elements, structure.share
    order = sorted(range(len(elements)), key=lambda i: (label[i], -atomic_number(elements[i])))
    formula = formula_of([elements[i] for i in order], share[order])
    source = " ".join([f"File {path.name}.", *structure.notes])
    how = relation(stated_amounts(structure.formula), amounts(elements, share))
    if how not in ("agrees", "not stated"):
        source += f" Its formula line says {structure.formula}, its sites {formula}; the sites are used."
        warnings.warn(f"{path.name}: the formula line says {structure.formula}, the sites are {formula}", stacklevel=4)
    return formula, source
