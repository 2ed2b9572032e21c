"""Output folders: checked before anything is computed, filled at the end or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ferrojax.errors import InputError


@contextmanager
def prepared_output(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A scratch folder whose files move to `path` when the block ends well, and vanish when it does not.

    A file of the same name in `path` is replaced, other files there are left alone. Raises InputError at once
    where `path` cannot be created or written. The scratch folder lies on the same disk, so files move whole.
    """
    if not os.fspath(path):
        raise _unusable(path, "is empty")
    target = Path(path).expanduser().absolute()
    created: list[Path] = []
    scratch = target / f".partial-{secrets.token_hex(4)}"
    try:
        with _as_input_error(target):
            created += [p for p in (target, *target.parents) if not p.exists()]  # innermost first
            scratch.mkdir(parents=True)
        yield scratch
        _move_in(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in created:  # a folder that holds results stays
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _move_in(scratch: Path, target: Path) -> None:
    """Check every destination first, so that a name taken by a folder stops the move before it begins."""
    files = [p for p in sorted(scratch.rglob("*")) if p.is_file()]
    for file in files:
        destination = target / file.relative_to(scratch)
        if destination.is_dir():
            raise _unusable(destination, "is a folder where a result file belongs")
        for parent in destination.parents:
            if parent == target:
                break
            if parent.exists() and not parent.is_dir():
                raise _unusable(parent, "is a file where a result folder belongs")
    with _as_input_error(target):
        for file in files:
            destination = target / file.relative_to(scratch)
            destination.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, destination)


@contextmanager
def _as_input_error(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unusable(target, f"cannot be written: {error.strerror or error}") from error


def _unusable(path: object, problem: str) -> InputError:
    return InputError("out", str(path), problem, "choose a folder that you can write to")
