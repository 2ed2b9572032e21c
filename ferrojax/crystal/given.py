"""A crystal as people give it: itself, a name of the library, or the path of a structure file."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.materials import available_materials, material
from ferrojax.errors import InputError


def given_crystal(value: Crystal | str | PathLike[str], labels: Mapping[str, str] | None = None) -> Crystal:
    """The crystal meant by a name of the library ("PbTiO3") or the path of a CIF or POSCAR; a Crystal is itself.

    labels: of a file's elements, as `Crystal.from_file` takes them.
    Errors: InputError for anything else, a name or a file that is not there, and labels for what has its own.
    """
    if isinstance(value, Crystal):
        return value
    if not isinstance(value, str | PathLike):
        remedy = 'pass a Crystal, a name of the library such as "PbTiO3", or the path of a CIF or POSCAR'
        raise InputError("crystal", value, "is no crystal", remedy)
    text, path = str(value), Path(value).expanduser()
    if text in available_materials() or not (path.is_file() or path.suffix or "/" in text):
        if labels is not None:
            problem = "are for a structure file; the library's are fixed"
            raise InputError("labels", dict(labels), problem, "leave them out")
        return material(text)
    if not path.is_file():
        raise InputError("crystal", text, "does not exist", "give the path of a CIF or POSCAR, or a library name")
    return Crystal.from_file(path, labels=labels)
