"""POSCAR and XYZ as people and programs write them, brought to what ASE reads.

Symbols in capitals, with charges or site numbers, and deuterium are understood; a count of atoms that is not that of
the lines is refused, where ASE would leave the last ones out.
"""

import re

from ferrojax.crystal.elements import symbol_in
from ferrojax.errors import InputError


def looks_like_poscar(text: str) -> bool:
    """A scale in the second line and three vectors behind it."""
    lines = [line.split() for line in text.splitlines()[1:5]]
    numbers = [len(_numbers(line)) for line in lines]
    return len(lines) == 4 and numbers[0] in (1, 3) and min(numbers[1:]) >= 3


def plain_poscar(text: str, name: str) -> str:
    """The text with plain symbols. InputError where it names no elements, or counts other atoms than it lists."""
    lines = text.splitlines()
    if len(lines) < 8:
        raise InputError("structure file", name, "ends before its first atom", "give a whole POSCAR")
    words = re.split(r"[!#]", lines[5])[0].split()
    at = 5
    if words and not words[0].isdigit():
        lines[5] = "  ".join(_symbol(word, name) for word in words)
        at = 6
    else:
        titled = [symbol_in(word) for word in lines[0].split()] or [None]
        if not re.match(r"\s*(?:[A-Z][a-z]?\d*)+(?:\s|$)", lines[0]) and None in titled:
            remedy = "write their symbols in a line above the counts"
            raise InputError("structure file", name, "names no elements", remedy)
    counts = [int(word) for word in re.split(r"[!#]", lines[at])[0].split() if word.isdigit()]
    _check_count(lines, at + 1, sum(counts), name)
    return "\n".join(lines) + "\n"


def _check_count(lines: list[str], start: int, count: int, name: str) -> None:
    if lines[start].strip()[:1].lower() == "s":
        start += 1
    listed = 0
    for line in lines[start + 1 :]:
        if len(_numbers(line.split()[:3])) < 3:
            break
        listed += 1
    if listed != count:
        problem = f"counts {count} atoms and lists {listed} coordinates"
        raise InputError("structure file", name, problem, "correct its line of counts")


def plain_xyz(text: str, name: str) -> str:
    """The text with plain symbols, where the first word of every atom's line is one."""
    lines, at = text.splitlines(), 0
    while at + 1 < len(lines) and lines[at].strip().isdigit():
        count = int(lines[at])
        columns = re.search(r'[Pp]roperties=["\']?(\w+):', lines[at + 1])
        if columns is None or columns[1].lower() == "species":
            for i in range(at + 2, min(at + 2 + count, len(lines))):
                first, rest = [*lines[i].split(None, 1), "", ""][:2]
                if first and not first.isdigit() and first != "X":
                    lines[i] = f"{_symbol(first, name)} {rest}"
        at += 2 + count
    return "\n".join(lines) + "\n"


def _symbol(word: str, name: str) -> str:
    symbol = symbol_in(re.sub(r"(?<=[A-Za-z])\d+[A-Za-z]?$", "", word))
    if symbol is None:
        raise InputError("element", word, f"of {name} is no chemical element", "use symbols such as Sr, Ti, O")
    return symbol


def _numbers(words: list[str]) -> list[float]:
    """The numbers that a line begins with."""
    found: list[float] = []
    for word in words:
        try:
            found.append(float(word))
        except ValueError:
            break
    return found
