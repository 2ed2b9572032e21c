"""`ferrojax simulate PLAN`: a training set from a plan file, in parts that a second call does not repeat."""

from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile
from zlib import crc32

import typer

if TYPE_CHECKING:
    from ferrojax.dataset import SimulatedSet

PART = 8
"""Supercells per part."""


def simulate_plan(
    plan: str = typer.Argument(metavar="PLAN", help="A YAML plan, such as simulations/bto_training.yaml."),
    *,
    out: str = typer.Option("out", help="Folder for NAME_set.npz and, while it runs, its parts."),
) -> None:
    """Simulate the supercells of a training plan by multislice; an interrupted run goes on where it stopped."""
    from rich.console import Console
    from rich.progress import Progress

    from ferrojax.dataset import generate, read_plan

    settings = read_plan(plan)
    name = Path(plan).stem
    mark = f"{crc32(settings.model_dump_json().encode()):08x}"  # parts of another plan are not taken up
    folder = _folder(out, f"{name}_set.npz")
    target = folder / f"{name}_set.npz"
    sets: list[SimulatedSet] = []
    parts: list[Path] = []
    with Progress(console=Console()) as progress:
        task = progress.add_task(f"simulating {settings.count} supercells", total=settings.count)
        for first in range(0, settings.count, PART):
            indices = range(first, min(first + PART, settings.count))
            path = folder / f".{name}-{mark}-{first:05d}.npz"
            part = _finished(path)
            if part is None:
                part = generate(
                    settings, indices, settings.seed, lambda n, at=first: progress.update(task, completed=at + n)
                )
                _save(part, path)
            sets.append(part)
            parts.append(path)
            progress.update(task, completed=indices[-1] + 1)
    result = sets[0]
    for part in sets[1:]:
        result = result.join(part)
    _save(result, target)
    for path in parts:
        path.unlink()
    typer.echo(f"{len(result.image)} images of {settings.count} supercells in {target}")


def _finished(path: Path) -> "SimulatedSet | None":
    """A part that an earlier run left whole, or None."""
    from ferrojax.dataset import SimulatedSet

    try:
        return SimulatedSet.load(path)
    except (OSError, ValueError, KeyError, BadZipFile):
        return None


def _save(simulated: "SimulatedSet", path: Path) -> None:
    """All of the file or nothing."""
    from ferrojax.files import replacing

    with replacing(path, "out") as partial:
        simulated.save(partial)


def _folder(out: str, result: str) -> Path:
    """The output folder, made and tried before anything is computed."""
    from ferrojax.errors import InputError

    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".ferrojax-write-test"
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        raise InputError("out", out, f"cannot be written: {error}", "choose a folder that you can write to") from error
    if (folder / result).is_dir():
        raise InputError("out", str(folder / result), "is a folder where the result belongs", "choose another folder")
    return folder
