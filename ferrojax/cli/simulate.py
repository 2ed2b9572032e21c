"""`ferrojax simulate PLAN`: a training set from a plan file, in parts that a second call does not repeat."""

from pathlib import Path
from zlib import crc32

import typer

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

    from ferrojax.dataset import SimulatedSet, generate, read_plan

    settings = read_plan(plan)
    name = Path(plan).stem
    folder = _folder(out)
    mark = f"{crc32(settings.model_dump_json().encode()):08x}"  # parts of another plan are not taken up
    parts = []
    with Progress(console=Console()) as progress:
        task = progress.add_task(f"simulating {settings.count} supercells", total=settings.count)
        for first in range(0, settings.count, PART):
            indices = range(first, min(first + PART, settings.count))
            path = folder / f".{name}-{mark}-{first:05d}.npz"
            if not path.exists():
                partial = path.with_suffix(".partial.npz")
                generate(
                    settings, indices, settings.seed, lambda n, at=first: progress.update(task, completed=at + n)
                ).save(partial)
                partial.rename(path)
            parts.append(path)
            progress.update(task, completed=indices[-1] + 1)
    result = SimulatedSet.load(parts[0])
    for path in parts[1:]:
        result = result.join(SimulatedSet.load(path))
    result.save(folder / f"{name}_set.npz")
    for path in parts:
        path.unlink()
    typer.echo(f"{len(result.image)} images of {settings.count} supercells in {folder / f'{name}_set.npz'}")


def _folder(out: str) -> Path:
    from ferrojax.errors import InputError

    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".ferrojax-write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError("out", out, "cannot be written", str(error)) from error
    return folder
