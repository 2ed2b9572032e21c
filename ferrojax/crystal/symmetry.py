"""Which of the ways to read a file's symmetry is meant, by what else the file says and what a solid can be."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ferrojax.crystal.checks import check_cell
from ferrojax.crystal.formula import Relation, amounts, formula_of, relation
from ferrojax.crystal.orbits import SAME_PLACE, Row, expanded, orbit
from ferrojax.crystal.settings import GIVE_OPERATIONS, Reading, Statement, fits, readings
from ferrojax.crystal.soundness import Structure, check_sound, tightest
from ferrojax.errors import InputError

ROOMIER, CLOSE = 1.15, 0.92
"""Of two choices of origin that nothing else decides, the one with the larger shortest distance (over covalent radii),
where it is larger by the first factor and the other's is below the second figure."""


class Evidence(NamedTuple):
    """What a file says of its content: atoms of each element in a formula unit, formula units in the cell, how often
    each row is in the cell, and the formula as written."""

    said: Mapping[str, float]
    units: float | None
    counts: tuple[float | None, ...]
    formula: str


class _Trial(NamedTuple):
    """A structure by one reading: why it cannot be (None: it can), and how it stands to what the file says."""

    reading: Reading
    orbits: list[np.ndarray]
    structure: Structure
    problem: InputError | None
    formula: Relation
    counted: bool
    whole: bool

    @property
    def confirmed(self) -> bool:
        return self.formula == "agrees" or self.counted

    @property
    def rank(self) -> tuple[bool, bool, bool, bool]:
        return self.formula == "agrees", self.formula != "near", self.counted, self.whole


def settled(
    name: str, stated: Statement, cell: np.ndarray, rows: Sequence[Row], known: Evidence
) -> tuple[str, list[np.ndarray]]:
    """The name of the setting that is meant, and the orbit of every row in it.

    Errors: InputError where no reading gives a solid with the formula that the file states, and where several do and
    nothing tells which is meant.
    """
    check_cell(cell, sum(row.share for row in rows))
    tiers = readings(stated, cell)
    tried = [[_trial(name, reading, cell, rows, known) for reading in tier] for tier in tiers]
    for tier in tried:
        sound = [trial for trial in tier if _holds(trial)]
        if sound:
            best = _best(sound, name)
            return best.reading.name, best.orbits
    raise _refusal(name, [trial for tier in tried for trial in tier], stated, known)


def _trial(name: str, reading: Reading, cell: np.ndarray, rows: Sequence[Row], known: Evidence) -> _Trial:
    orbits = [orbit(row.position, reading) for row in rows]
    structure, _ = expanded(rows, orbits, cell)
    problem = None
    if fits(reading, cell):
        try:
            check_sound(structure, name, _hint(reading))
        except InputError as error:
            problem = error
    else:
        told = f"asks for equal sides or angles that the cell of {name} has not"
        problem = InputError("symmetry", reading.name, told, f"correct the cell, or {GIVE_OPERATIONS}")
    found = amounts(structure.elements, structure.share)
    how = relation(known.said, found)
    whole = how in ("agrees", "near") and known.units is not None and _whole(known, found)
    times = [(count, len(own)) for count, own in zip(known.counts, orbits, strict=True) if count is not None]
    order = len(reading.rotation)
    # Some programs write the order of the site's own symmetry there.
    counted = bool(times) and (all(count == m for count, m in times) or all(count * m == order for count, m in times))
    return _Trial(reading, orbits, structure, problem, how, counted, whole)


def _whole(known: Evidence, found: Mapping[str, float]) -> bool:
    assert known.units is not None
    symbol = next(symbol for symbol in found if symbol in known.said)
    return abs(found[symbol] / (known.said[symbol] * known.units) - 1) < 0.1


def _hint(reading: Reading) -> str:
    if reading.trusted or len(reading.rotation) == 1:
        return ""
    return f"if {reading.name} is not the setting of its coordinates, {GIVE_OPERATIONS}"


def _holds(trial: _Trial) -> bool:
    if trial.problem is not None or (trial.reading.confirm and not trial.confirmed):
        return False
    return trial.reading.trusted or trial.formula != "differs"


def _best(sound: list[_Trial], name: str) -> _Trial:
    """The one that what the file says supports best; equal structures are one, whatever their setting is called."""
    top = max(trial.rank for trial in sound)
    leading = [trial for trial in sound if trial.rank == top]
    distinct = [trial for i, trial in enumerate(leading) if not any(_same(trial, other) for other in leading[:i])]
    if len(distinct) == 1:
        return distinct[0]
    groups = {trial.reading.name.split(":")[0] for trial in distinct}
    room = [contact.ratio if (contact := tightest(trial.structure)) else np.inf for trial in distinct]
    order = np.argsort(room)[::-1]
    if len(groups) == 1 and room[order[0]] > ROOMIER * room[order[1]] and room[order[1]] < CLOSE:
        return distinct[order[0]]
    told = "; ".join(f"{t.reading.name}: {_content(t.structure)}" for t in distinct)
    problem = f"of {name} can be read in {len(distinct)} ways that its formula does not tell apart"
    remedy = f"name the setting (as F d -3 m:2, R 3 c:H) and the formula (_chemical_formula_sum), or {GIVE_OPERATIONS}"
    raise InputError("symmetry", told, problem, remedy)


def _content(structure: Structure) -> str:
    return f"{formula_of(structure.elements, structure.share)}, {structure.share.sum():.4g} atoms"


def _same(one: _Trial, other: _Trial) -> bool:
    """Whether two readings give the same atoms at the same places."""
    a, b = one.structure, other.structure
    if len(a.number) != len(b.number):
        return False
    for symbol in set(a.number.tolist()) | set(b.number.tolist()):
        first, second = a.position[a.number == symbol], b.position[b.number == symbol]
        if len(first) != len(second):
            return False
        gap = first[:, None] - second
        near = np.asarray(np.abs(gap - np.round(gap)) < 2 * SAME_PLACE)
        if not near.all(-1).any(-1).all():
            return False
    return True


def _refusal(name: str, tried: list[_Trial], stated: Statement, known: Evidence) -> InputError:
    """The InputError that fits: of the structure itself, else of the formula."""
    stands = [trial for trial in tried if not trial.reading.confirm] or tried
    first = next((trial for trial in stands if trial.problem is None), stands[0])
    if first.problem is not None:
        return first.problem
    if first.reading.confirm and not first.confirmed and first.formula != "differs":
        shown = stated.names[0] if stated.names else first.reading.name
        problem = f"of {name} is not known as the name of a space group, and its formula does not confirm its number"
        return InputError("symmetry", shown, problem, GIVE_OPERATIONS)
    problem = f"has the formula line {known.formula}, but its sites make {_content(first.structure)}"
    told = f"{problem} by its symmetry ({first.reading.name})"
    remedy = f"correct the formula line, name the setting of its coordinates (as R 3 c:R), or {GIVE_OPERATIONS}"
    return InputError("structure file", name, told, remedy)
