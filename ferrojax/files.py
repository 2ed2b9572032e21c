"""Files and folders that are there whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ferrojax.errors import InputError


@contextmanager
def replacing(path: str | os.PathLike[str], field: str = "path") -> Iterator[Path]:
    """A path beside `path`, of the same extension, to write a file or folder to; it takes that place when the block
    ends well, and what was there before stays when it does not. Missing folders are made.

    Errors: InputError of `field` where that cannot be written.
    """
    target = Path(path).expanduser().absolute()
    partial = target.with_name(f".{target.stem.lstrip('.')}-{secrets.token_hex(4)}.partial{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if target.is_dir() and not target.is_symlink():  # a folder cannot be replaced in one step
            old = target.with_name(f"{partial.name}.replaced")
            target.rename(old)
            partial.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.replace(target)
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise InputError(field, str(target), problem, "choose a folder that you can write to") from error
    finally:
        remove(partial)


def remove(path: Path) -> None:
    """A file or a folder, if it is there and can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
