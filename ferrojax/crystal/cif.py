"""The structure in a CIF: its text, the sites that it lists, and their equivalents by its symmetry."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ferrojax.crystal.elements import SYMBOLS, atomic_number, symbol_in
from ferrojax.crystal.formula import amounts, relation, stated_amounts
from ferrojax.crystal.orbits import Row, expanded
from ferrojax.crystal.settings import NOT_STATED, Statement
from ferrojax.crystal.soundness import Structure
from ferrojax.crystal.symmetry import Evidence, settled
from ferrojax.errors import InputError

Tags = Mapping[str, Sequence[str]]
"""Values of a data block by tag, in lower case and with `_` for the `.` of mmCIF."""
_FRACTION = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
_CARTESIAN = ("_atom_site_cartn_x", "_atom_site_cartn_y", "_atom_site_cartn_z")
_OPERATIONS = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_magn_operation_xyz",
)
_NAMES = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_full",
    "_symmetry_space_group_name_h-m_full",
    "_space_group_name_h-m_ref",
    "_space_group_name_h-m",
    "_parent_space_group_name_h-m_alt",
)
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NUMBER = ("_space_group_it_number", "_symmetry_int_tables_number")
_MULTIPLICITY = ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity")
_B_OVER_U = 8 * np.pi**2


def looks_like_cif(path: Path) -> bool:
    """By the name, or by the first line that is no comment."""
    if path.suffix.lower() in (".cif", ".mcif", ".mmcif"):
        return True
    with path.open("rb") as file:
        head = decoded(file.read(4096))
    lines = [line for line in head.splitlines() if line.strip() and not line.startswith("#")]
    return bool(lines) and lines[0].lower().startswith("data_")


def decoded(raw: bytes) -> str:
    """Text in UTF-8 or UTF-16 with its mark, else in Latin-1; without the mark of the byte order."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", "replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1").removeprefix("ï»¿")


def cif_structures(path: Path) -> list[tuple[str, Tags]]:
    """Name and tags of every data block with sites; InputError for what is no CIF or has none."""
    blocks = [(name, tags) for name, tags in _blocks(path) if {_FRACTION[0], _CARTESIAN[0]} & set(tags)]
    if not blocks:
        problem = "lists no sites (_atom_site_fract_x, y and z)"
        raise InputError("structure file", path.name, problem, "give a CIF with the atoms of a cell")
    return blocks


def _blocks(path: Path) -> list[tuple[str, Tags]]:
    import gemmi

    text = decoded(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")
    try:
        document = gemmi.cif.read_string(text, check_level=0)
    except (ValueError, RuntimeError):
        try:
            document = gemmi.cif.read_string(_quoted(text), check_level=0)
        except (ValueError, RuntimeError) as error:
            told = re.sub(r"^string:(\d+):?\S*", r"line \1:", str(error))
            problem = f"cannot be read: {told}"
            raise InputError("structure file", path.name, problem, "check it in another program") from None
    found: list[tuple[str, Tags]] = []
    for block in document:
        tags: dict[str, list[str]] = {}
        for item in block:
            pair: Any = item.pair
            if pair is not None:
                tags.setdefault(_tag(pair[0]), [_plain(pair[1])])
            elif item.loop is not None:
                width = item.loop.width()
                for i, tag in enumerate(item.loop.tags):
                    tags.setdefault(_tag(tag), [_plain(v) for v in item.loop.values[i::width]])
        found.append((block.name, tags))
    return found


def _quoted(text: str) -> str:
    """Values of several words that lack their quotes, as people type `_tag P m -3 m`, with quotes."""
    return re.sub(r"(?m)^(_\S+[ \t]+)([^'\";\s#][^\n'\"#]*[ \t][^\n'\"#]*?)[ \t]*$", r"\1'\2'", text)


def _tag(text: str) -> str:
    return text.lower().replace(".", "_")


def _plain(value: str) -> str:
    """A value without its quotes; the unquoted `?` and `.` stay, which stand for unknown and for the default."""
    import gemmi

    return value if value in ("?", ".") else gemmi.cif.as_string(value)


def cif_structure(path: Path, tags: Tags, occupancy: Mapping[str, float]) -> Structure:
    """The cell with all its sites; the symmetry is settled among the ways to read it by what else the file says.

    occupancy: by element, in place of what the file says.
    """
    cell = _cell(path, tags)
    rows, notes = _rows(path, tags, cell)
    rows = _corrected(rows, occupancy)
    known = Evidence(
        said=stated_amounts(_first(tags, ("_chemical_formula_sum",))),
        units=_number(path, tags, "_cell_formula_units_z"),
        counts=tuple(row.multiplicity for row in rows),
        formula=_first(tags, ("_chemical_formula_sum",)),
    )
    number = _value(path, _NUMBER[0], _first(tags, _NUMBER))
    names = [name for tag in _NAMES if (name := _first(tags, (tag,)))]
    stated = Statement(_operations(tags), names, _first(tags, _HALL), None if number is None else int(number))
    setting, orbits = settled(path.name, stated, cell, rows, known)
    structure, repeated = expanded(rows, orbits, cell)
    notes.append(f"Symmetry: {setting}.")
    if setting == NOT_STATED and relation(known.said, amounts(structure.elements, structure.share)) != "agrees":
        warnings.warn(f"{path.name} states no symmetry: the sites that it lists are taken for all", stacklevel=2)
    if repeated:
        shown = ", ".join(repeated[:6])
        warnings.warn(f"{path.name}: {shown} repeat sites that it lists before; they are taken once", stacklevel=2)
        notes.append(f"Taken once: {shown}.")
    return structure._replace(formula=known.formula or None, notes=tuple(notes))


def _first(tags: Tags, names: Sequence[str]) -> str:
    """The first value that is there of the first of these tags that has one; "" for none."""
    for name in names:
        for value in tags.get(name, ()):
            if value.strip() not in ("", "?", "."):
                return " ".join(value.split())
    return ""


def _number(path: Path, tags: Tags, *names: str) -> float | None:
    """A figure that helps, where it is one: the file can be read without it."""
    try:
        return _value(path, names[0], _first(tags, names))
    except InputError:
        return None


def _value(path: Path, tag: str, text: str) -> float | None:
    """A number without its uncertainty, None for `?`, `.` and nothing; InputError for anything else."""
    plain = text.strip()
    if plain in ("", "?", "."):
        return None
    found = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:\(\d*\.?\d*\))?", plain.replace("−", "-"))
    if found:
        return float(found[1])
    ratio = re.fullmatch(r"([+-]?\d+)/([1-9]\d*)", plain)
    if ratio:
        return int(ratio[1]) / int(ratio[2])
    raise InputError(tag, text, f"in {path.name} is no number", "correct the file")


def _cell(path: Path, tags: Tags) -> np.ndarray:
    from ase.geometry import cellpar_to_cell

    figures: list[float] = []
    for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"):
        tag = f"_cell_{name}"
        value = _value(path, tag, _first(tags, (tag,)))
        if value is None and "length" in name:
            raise InputError(tag, "?", f"is missing in {path.name}", "give a file with a unit cell")
        figures.append(90.0 if value is None else value)  # the dictionary's default
    a, b, c = np.cos(np.radians(figures[3:]))
    if min(figures) <= 0 or max(figures[3:]) >= 180 or 1 - a * a - b * b - c * c + 2 * a * b * c < 1e-9:
        raise InputError("cell", figures, f"of {path.name} has no volume", "give a file with a unit cell")
    return np.asarray(cellpar_to_cell(figures), float)


def _operations(tags: Tags) -> list[str]:
    """The listed symmetry operations, those without quotes and with blanks put together again."""
    for tag in _OPERATIONS:
        given = [value for value in tags.get(tag, ()) if value.strip() not in ("", "?", ".")]
        if not given:
            continue
        if any(value.count(",") < 2 for value in given):
            given = re.sub(r"\s*,\s*", ",", " ".join(given)).split()
        if tag.startswith("_space_group_symop_magn"):
            given = [*given, *tags.get("_space_group_symop_magn_centering_xyz", ())]
        return given
    return []


class _Columns(NamedTuple):
    """The columns of a file's list of sites, each as long as the list, "?" for what is not there."""

    label: Sequence[str]
    kind: Sequence[str]
    share: Sequence[str]
    multiplicity: Sequence[str]
    dummy: Sequence[str]


def _rows(path: Path, tags: Tags, cell: np.ndarray) -> tuple[list[Row], list[str]]:
    """What the file lists, a row a species, and what had to be taken for granted."""
    place = _FRACTION if _FRACTION[0] in tags else _CARTESIAN
    count = len(tags[place[0]])

    def column(*names: str) -> Sequence[str]:
        return next((tags[name] for name in names if len(tags.get(name, ())) == count), ["?"] * count)

    at = _Columns(
        column("_atom_site_label", "_atom_site_label_atom_id", "_atom_site_type_symbol"),
        column("_atom_site_type_symbol"),
        column("_atom_site_occupancy"),
        column(*_MULTIPLICITY),
        column("_atom_site_calc_flag"),
    )
    square = _mean_squares(path, tags, at.label, cell)
    expected = set(stated_amounts(_first(tags, ("_chemical_formula_sum",))))
    rows, unknown = [], []
    for i in range(count):
        if at.dummy[i].lower() == "dum":
            continue
        where = [_value(path, tag, column(tag)[i]) for tag in place]
        if any(value is None for value in where):
            problem = f"gives no coordinates of {at.label[i]}"
            raise InputError("structure file", path.name, problem, "give them, or remove the site")
        position = np.array(where, float)
        if place is _CARTESIAN:
            position = position @ np.linalg.inv(cell)
        share = _value(path, "_atom_site_occupancy", at.share[i])
        if at.share[i].strip() == "?" and "_atom_site_occupancy" in tags:
            unknown.append(at.label[i])
        number = atomic_number(_symbol(path, at.kind[i], at.label[i], expected))
        times = _number(path, {"_": [at.multiplicity[i]]}, "_")
        rows.append(Row(at.label[i], number, 1.0 if share is None else share, position, square[i], times))
    if not rows:
        raise InputError("structure file", path.name, "lists no sites", "give a CIF with the atoms of a cell")
    return rows, [f"Occupancy unknown, taken as 1: {', '.join(unknown)}."] if unknown else []


def _corrected(rows: list[Row], occupancy: Mapping[str, float]) -> list[Row]:
    """The rows with the occupancies of some elements replaced; one row of an element that a site has twice."""
    kept: list[Row] = []
    for row in rows:
        share = occupancy.get(SYMBOLS[row.number])
        if share is None:
            kept.append(row)
        elif not any(row.number == other.number and np.allclose(row.position, other.position) for other in kept):
            kept.append(row._replace(share=share))
    for row in kept:
        if row.share <= 0:
            raise InputError("occupancy", row.share, f"of {row.label} must be above 0", "remove the empty site")
    return kept


def _symbol(path: Path, kind: str, label: str, expected: set[str]) -> str:
    """The element of a site from its type (Sr2+, O-2, SR) or, where that is missing, its label (Sr1, Fe3+_a, OW).

    A label in capitals may stand for two elements (CO1: cobalt, or carbon beside O1); that of the formula is taken,
    else the one of two letters.
    """
    if kind.strip() not in ("", "?", "."):
        named = symbol_in(kind)
        names, text = ([named] if named else []), kind
    else:
        found = re.match(r"([A-Za-z]+)(?![^\n]*[/,])", label)
        letters, text = (found[1] if found else ""), label
        names = [letters[:2].capitalize(), letters[:1].upper()] if len(letters) > 1 else [letters.upper()]
    names = [symbol for name in names if (symbol := symbol_in(name))]
    if not names:
        told = "is no chemical element" if kind is text else f"does not begin with a chemical element in {path.name}"
        raise InputError("element", text, f"of site {label} {told}", "use symbols such as Sr, Ti, O")
    return next((name for name in names if name in expected), names[0])


def _mean_squares(path: Path, tags: Tags, label: Sequence[str], cell: np.ndarray) -> list[float]:
    """Å² of thermal motion per axis of every row: of its isotropic figure, else the mean of its tensor, else NaN."""
    isotropic = [float("nan")] * len(label)
    for tag, factor in (("_atom_site_u_iso_or_equiv", 1.0), ("_atom_site_b_iso_or_equiv", 1 / _B_OVER_U)):
        values = tags.get(tag, ())
        if len(values) == len(label):
            found = [_value(path, tag, value) for value in values]
            isotropic = [
                factor * new if new is not None and new > 0 and np.isnan(old) else old
                for old, new in zip(isotropic, found, strict=True)
            ]
    tensor = _tensors(path, tags, cell)
    return [tensor.get(name, old) if np.isnan(old) else old for name, old in zip(label, isotropic, strict=True)]


def _tensors(path: Path, tags: Tags, cell: np.ndarray) -> dict[str, float]:
    """Equivalent mean square (Å²) of every label of the list of anisotropic figures, from U, B or beta."""
    import gemmi
    from ase.geometry import cell_to_cellpar

    labels = tags.get("_atom_site_aniso_label", ())
    unit = gemmi.UnitCell(*cell_to_cellpar(cell).tolist())
    reciprocal = np.linalg.norm(np.linalg.inv(cell), axis=0)
    found: dict[str, float] = {}
    for letter in ("u", "b", "beta"):
        names = [f"_atom_site_aniso_{letter}_{pair}" for pair in ("11", "22", "33", "12", "13", "23")]
        columns = [tags.get(name, ()) for name in names]
        for i, label in enumerate(labels):
            if label in found or any(len(column) != len(labels) for column in columns):
                continue
            parts = [_value(path, name, column[i]) for name, column in zip(names, columns, strict=True)]
            figures = [part for part in parts if part is not None]
            if len(figures) < len(parts):
                continue
            if letter == "beta":
                axes = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
                scale = [1 / (2 * np.pi**2 * reciprocal[j] * reciprocal[k]) for j, k in axes]
            else:
                scale = [1.0 if letter == "u" else 1 / _B_OVER_U] * 6
            mean = unit.calculate_u_eq(gemmi.SMat33d(*[f * s for f, s in zip(figures, scale, strict=True)]))
            if mean > 0:
                found[label] = mean
    return found
