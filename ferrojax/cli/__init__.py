"""The `ferrojax` command. One file a command; nothing heavy is imported until a command runs."""

import sys
from collections.abc import Sequence

import typer

from ferrojax.cli.info import info
from ferrojax.cli.map import map_image
from ferrojax.cli.simulate import simulate_plan
from ferrojax.cli.validate import validate
from ferrojax.errors import InputError

app = typer.Typer(
    name="ferrojax",
    help="Polarization maps of ferroelectrics from STEM images.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("map")(map_image)
app.command("simulate")(simulate_plan)
app.command("validate")(validate)
app.command("info")(info)


@app.command("demo")
def demo(
    out: str = typer.Option("demo-out", help="Folder for the maps, the report and summary.json."),
    seed: int = typer.Option(0, min=0, max=2**31 - 1, help="Same seed and device, same numbers."),
) -> None:
    """Train on simulations and on the embedded real image, then map it and report the errors."""
    from ferrojax.cli.demo import demo as run

    run(out, seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; bad input ends in one line on stderr and exit code 2."""
    try:
        app(args=None if arguments is None else list(arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else int(bool(finished.code))
    return 0
