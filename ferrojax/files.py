"""Files and folders that are there whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ferrojax.errors import InputError

_LONGEST = 180
"""Characters of a name that are kept in that of the partial file."""


@contextmanager
def replacing(path: str | os.PathLike[str], field: str = "path") -> Iterator[Path]:
    """A path beside `path`, of the same extension, to write a file or folder to; it takes that place when the block
    ends well, and what was there before stays when it does not. Missing folders are made. A link is followed; what is
    neither file nor folder, such as a pipe, is written to as it is.

    Errors: InputError of `field` where that cannot be written, or a file would take the place of a folder.
    """
    if not os.fspath(path):
        raise InputError(field, path, "is empty", "give the name of a file")
    target = Path(path).expanduser().absolute()
    target = target.resolve() if target.is_symlink() else target
    if target.exists() and not (target.is_file() or target.is_dir()):
        yield target
        return
    partial = target.with_name(f".{target.stem.lstrip('.')[:_LONGEST]}-{secrets.token_hex(4)}.partial{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if target.is_dir():
            _replace_folder(target, partial, field)
            return
        if target.is_file() and partial.is_file():
            shutil.copymode(target, partial)
        partial.replace(target)
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise InputError(field, str(target), problem, "choose a folder that you can write to") from error
    finally:
        remove(partial)


def _replace_folder(target: Path, partial: Path, field: str) -> None:
    """In two steps, of which the first is taken back where the second fails."""
    if not partial.is_dir():
        raise InputError(field, str(target), "is a folder", "give the name of a file, or move the folder away")
    old = partial.with_name(f"{partial.name}.replaced")
    target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove(path: Path) -> None:
    """A file or a folder, if it is there and can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
