"""Symmetry operations of a space group in the setting that a file's coordinates are in.

A group has several settings: hexagonal and rhombohedral axes, two choices of origin, permuted axes. gemmi knows 564 of
them by Hermann–Mauguin name, number and Hall symbol, finds the group of a list of operations and, being one compiled
package without dependencies, reads CIF as well. (ASE knows one or two settings a group and takes the first where a
file names another; spglib knows the settings, but neither names as files write them nor CIF.)
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ferrojax.errors import InputError

if TYPE_CHECKING:
    import gemmi

GIVE_OPERATIONS = "give the symmetry operations of its coordinates (_space_group_symop_operation_xyz)"
NOT_STATED = "none stated, P 1"
STRAIN = 0.01
"""Relative; a cell that fits the operations less well has another symmetry or is in another setting."""


class Statement(NamedTuple):
    """What a file says of its symmetry; all of it as text, but the number of the group."""

    operations: Sequence[str]
    names: Sequence[str]
    hall: str
    number: int | None


class Reading(NamedTuple):
    """One way to take what a file says: operations x -> rotation @ x + translation, fractional.

    name: of the setting. trusted: the file states these very operations. confirm: to be believed only where the
    formula or the multiplicities of the file agree.
    """

    name: str
    rotation: np.ndarray
    translation: np.ndarray
    trusted: bool = False
    confirm: bool = False


def readings(stated: Statement, cell: np.ndarray) -> list[list[Reading]]:
    """The ways to read a file's symmetry: those of the first list stand before those of the second.

    Several in one list are equal rivals: two origins that the name leaves open, or operations and a name that
    contradict each other. cell: (3, 3) Å.
    Errors: InputError for operations or names that cannot be understood, where nothing else tells.
    """
    named, late = _named(stated, cell)
    listed = _listed(stated)
    if listed is None:
        if not named and not late:
            raise InputError("symmetry", stated.hall, "is no Hall symbol that is known", GIVE_OPERATIONS)
        return [tier for tier in (named, late) if tier]
    found, group = listed
    rivals = [reading for reading in [*named, *late] if not reading.confirm]
    if not rivals or _consistent(group, stated):
        return [[found]]
    return [[found._replace(trusted=False), *rivals]]


def fits(reading: Reading, cell: np.ndarray) -> bool:
    """Whether the operations leave the lengths and angles of a cell (3, 3) as they are, to 1 %."""
    metric = cell @ cell.T
    turned = np.einsum("nki,kl,nlj->nij", reading.rotation, metric, reading.rotation)
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    return bool((np.abs(turned - metric) < 2 * STRAIN * scale).all())


def _reading(operations: "gemmi.GroupOps", name: str, **kind: bool) -> Reading:
    listed = list(operations)
    rotation = np.array([op.rot for op in listed], float) / listed[0].DEN
    translation = np.array([op.tran for op in listed], float) / listed[0].DEN
    return Reading(name, rotation, translation, **kind)


def _listed(stated: Statement) -> "tuple[Reading, gemmi.GroupOps] | None":
    """The operations that a file lists or its Hall symbol stands for, completed to a group."""
    import gemmi

    if stated.operations:
        group = gemmi.GroupOps([_operation(text) for text in stated.operations])
        group.add_missing_elements()
        return _reading(group, f"operations listed ({len(stated.operations)})", trusted=True), group
    hall = " ".join(stated.hall.replace("_", " ").split())
    if hall:
        try:
            group = gemmi.symops_from_hall(hall)
        except RuntimeError:
            return None  # the name has to do
        return _reading(group, f"Hall symbol {hall}", trusted=True), group
    return None


def _operation(text: str) -> "gemmi.Op":
    import gemmi

    # A number before it, and the reversal of time behind it.
    plain = re.sub(r"^\s*\d+\s+(?=[-+\dxyzXYZ])", "", text.strip())
    plain = re.sub(r",\s*[+-]?1\s*$", "", plain).replace("−", "-")
    try:
        operation = gemmi.Op(plain)
    except (RuntimeError, ValueError):
        remedy = "write it as x,y,z with fractions, such as -y,x,z+1/2"
        raise InputError("symmetry", text, "is no symmetry operation", remedy) from None
    if abs(round(float(np.linalg.det(np.array(operation.rot) / operation.DEN)), 6)) != 1:
        raise InputError("symmetry", text, "is no symmetry operation: it changes volumes", "correct the file")
    return operation


def _consistent(group: "gemmi.GroupOps", stated: Statement) -> bool:
    """Whether listed operations make up the group that the file names, in whatever setting."""
    import gemmi

    known = gemmi.find_spacegroup_by_ops(group)
    named = {setting.number for name in stated.names if (setting := _by_name(name)[0]) is not None}
    if not named and stated.number is not None:
        named = {stated.number}
    if known is not None:
        return known.number in named
    orders = {len(list(gemmi.find_spacegroup_by_number(number).operations().sym_ops)) for number in named}
    return len(list(group.sym_ops)) in orders


def _named(stated: Statement, cell: np.ndarray) -> tuple[list[Reading], list[Reading]]:
    """Readings of the name and of the number of a group, and those that only the formula can confirm."""
    import gemmi

    named: list[gemmi.SpaceGroup] = []
    for name in stated.names:
        setting, choice = _by_name(name)
        if setting is not None:
            named = _choices(setting, choice, cell)
            break
    else:
        if stated.number is None and not stated.operations:
            if stated.names and not stated.hall:
                raise InputError("symmetry", stated.names[0], "is no space group that is known", GIVE_OPERATIONS)
            return ([] if stated.hall else [_reading(gemmi.GroupOps([gemmi.Op()]), NOT_STATED)]), []
    number = stated.number
    if number is not None and not 1 <= number <= 230:
        raise InputError("symmetry", number, "is no number of a space group", "give 1 to 230, or the operations")
    if number is None or number in {setting.number for setting in named}:
        return _all(named), []
    settings = [setting for setting in gemmi.spacegroup_table() if setting.number == number]
    standard = next(setting for setting in settings if setting.is_reference_setting())
    first = [setting for setting in settings if setting.hm == standard.hm]
    if named:  # the name and the number contradict each other
        return _all([*named, *first]), []
    late = _all([setting for setting in settings if setting.hm != standard.hm], confirm=True)
    # Where a name was there and was not understood, the setting is not the standard one for certain.
    return _all(first, confirm=bool(stated.names)), [reading for reading in late if fits(reading, cell)]


def _all(settings: "Sequence[gemmi.SpaceGroup]", **kind: bool) -> list[Reading]:
    return [_reading(setting.operations(), setting.xhm(), **kind) for setting in settings]


def _choices(setting: "gemmi.SpaceGroup", choice: str, cell: np.ndarray) -> "list[gemmi.SpaceGroup]":
    """The settings that a name leaves open: the one chosen, unless the cell says that it is another; else all."""
    import gemmi

    same = [s for s in gemmi.spacegroup_table() if s.number == setting.number and s.hm == setting.hm]
    chosen = [s for s in same if s.ext == choice]
    if chosen and any(fits(reading, cell) for reading in _all(chosen)):
        return chosen
    return [s for s in same if fits(_all([s])[0], cell)] or chosen or same


_SUFFIXES = (
    (r"(?::|\s|\(|,)\s*(?:origin|o)\s*(?:choice|at|no\.?)?\s*:?\s*([12])\s*\)?$", None),
    (r":\s*([12])$", None),
    (r"[\s:(]\s*(?:rhombohedral(?:\s+axes)?|RS|R)\s*\)?$", "R"),
    (r"[\s:(]\s*(?:hexagonal(?:\s+axes)?|HS|H)\s*\)?$", "H"),
    (r"[\s:]\s*Z$", "2"),
    (r"[\s:]\s*S$", "1"),
)
"""Endings that choose a setting: the origin as written by the International Tables, ICSD (S, Z) and programs."""


def _by_name(text: str) -> "tuple[gemmi.SpaceGroup | None, str]":
    """The group of a Hermann–Mauguin name as files write it, and the choice of setting in it, "" where there is none.

    With or without blanks, underscores, brackets (P2(1)/c), minus signs of typography, its number behind it.
    """
    import gemmi

    name = re.sub(r"</?su[bp]>|[_~$\\{}]", "", text).replace("−", "-").replace("–", "-")
    name = re.sub(r"\s*[,(#]?\s*(?:no\.?|nr\.?|#)\s*\d+\s*\)?\s*$", "", name.strip(), flags=re.IGNORECASE)
    name = re.sub(r"\s*\(\s*\d{2,3}\s*\)\s*$", "", name)
    name = re.sub(r"(.)\u0304|(.)\u0305", lambda m: f"-{m[1] or m[2]}", name)
    choice = ""
    for pattern, meant in _SUFFIXES:
        found = re.search(pattern, name, flags=re.IGNORECASE)
        if found:
            choice, name = meant or found[1], name[: found.start()]
            break
    name = re.sub(r"\((\d)\)", r"\1", name).strip()
    setting = gemmi.find_spacegroup_by_name(name) if name else None
    if setting is None and not choice and name[-1:] in ("S", "Z"):  # Fd-3mZ
        setting, choice = gemmi.find_spacegroup_by_name(name[:-1]), "1" if name[-1] == "S" else "2"
    if setting is not None and not choice:
        glued = re.search(r"[hr]$", name, flags=re.IGNORECASE)  # R3cH
        choice = glued[0].upper() if glued and len(name) > 1 and setting.ext in ("H", "R") else ""
        if re.match(r"h", name, flags=re.IGNORECASE):  # H 3 c: a rhombohedral group in hexagonal axes
            choice = "H"
    return setting, choice
