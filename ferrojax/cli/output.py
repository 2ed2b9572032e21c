"""Output folders: checked before anything is computed, filled at the end or not at all."""

import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ferrojax.errors import InputError


@contextmanager
def prepared_output(path: str | os.PathLike[str], results: Sequence[str] = ()) -> Iterator[Path]:
    """A scratch folder whose files move to `path` when the block ends well, and vanish when it does not.

    A file of the same name in `path` is replaced, other files there are left alone. Raises InputError at once
    where `path` cannot be created or written, or something else stands where one of the `results` belongs. The scratch
    folder lies on the same disk, so files move whole.
    A request to terminate (SIGTERM) ends the block as an error does; Ctrl-C is one anyway.
    """
    if not os.fspath(path):
        raise _unusable(path, "is empty")
    target = Path(path).expanduser().absolute()
    created: list[Path] = []
    scratch = target / f".partial-{secrets.token_hex(4)}"
    with _termination_as_exit():
        try:
            with _as_input_error(target):
                for name in results:
                    _check_free(target / name)
                created += [p for p in (target, *target.parents) if not p.exists()]  # innermost first
                scratch.mkdir(parents=True)
            yield scratch
            with _undisturbed():
                _move_in(scratch, target)
        finally:
            with _undisturbed():
                shutil.rmtree(scratch, ignore_errors=True)
                for folder in created:  # a folder that holds results stays
                    if folder.is_dir() and not any(folder.iterdir()):
                        folder.rmdir()


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """SIGTERM raises SystemExit(143), so that what is half done is cleared away."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is done, where the system can hold them back."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_free(path: Path) -> None:
    """Refuse a folder where a file belongs, or a store."""
    if path.suffix == ".zarr":
        if path.exists() and not (path / "zarr.json").is_file():
            raise _unusable(path, "is no Zarr store, where one belongs")
    elif path.is_dir():
        raise _unusable(path, "is a folder where a result file belongs")


def _move_in(scratch: Path, target: Path) -> None:
    """Check every destination first, so that a name taken by a folder stops the move before it begins."""
    files = [p for p in sorted(scratch.rglob("*")) if p.is_file()]
    stores = [p.relative_to(scratch) for p in scratch.iterdir() if p.suffix == ".zarr"]
    for store in stores:
        _check_free(target / store)
    for file in files:
        destination = target / file.relative_to(scratch)
        _check_free(destination)
        for parent in destination.parents:
            if parent == target:
                break
            if parent.exists() and not parent.is_dir():
                raise _unusable(parent, "is a file where a result folder belongs")
    with _as_input_error(target):
        for store in stores:  # a store is replaced as a whole: arrays of an older one would look like the new one's
            shutil.rmtree(target / store, ignore_errors=True)
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
