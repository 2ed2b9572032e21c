"""The `ferrojax` command. One file a command; nothing heavy is imported until a command runs."""

import os
import signal
import sys
from collections.abc import Sequence

import typer

from ferrojax.cli.info import info
from ferrojax.cli.map import map_image
from ferrojax.cli.simulate import simulate_plan
from ferrojax.cli.validate import validate
from ferrojax.devices import keep_compiled, use_all_cores
from ferrojax.errors import InputError

_INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # Typer hands on no other name for it
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
    """Run the command line; bad input and bad options end in one line on stderr and exit code 2.

    Interrupted, it returns 130 (Ctrl-C) or 143 (SIGTERM), or ends the process where no arguments are given.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # the process is this command's own, so that its settings are nobody else's
        prepare(words[0] if words else "")
    code = _code_of(words)
    if code in _INTERRUPTED:
        print("stopped", file=sys.stderr)
        if arguments is None:  # JAX may still compute in threads; an interpreter taken down under them crashes
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def prepare(command: str) -> None:
    """Before JAX starts: all cores for the commands that share their work over them, and compiled programs kept where
    FERROJAX_CACHE asks for it (1, or a folder); a folder that cannot be used is told and left alone."""
    if command in ("simulate", "validate"):
        use_all_cores()
    asked = os.environ.get("FERROJAX_CACHE", "")
    if asked and not command.startswith("-"):
        try:
            keep_compiled(None if asked == "1" else asked)
        except InputError as error:
            print(f"FERROJAX_CACHE: compiled programs are not kept: {error}", file=sys.stderr)


def _code_of(words: list[str]) -> int:
    """Exit code of a command."""
    try:
        finished = app(args=words or ["--help"], standalone_mode=False)
    except InputError as error:
        return _refused(str(error))
    except _UsageError as error:
        return _refused(_one_line(error))
    except (KeyboardInterrupt, typer.Abort):
        return 128 + signal.SIGINT
    except SystemExit as stopped:
        finished = stopped.code
    return finished if isinstance(finished, int) else int(bool(finished))


def _refused(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return 2


def _one_line(error: Exception) -> str:
    """What is wrong with the words of the command line, and where help is."""
    message = " ".join(str(getattr(error, "format_message", lambda: error)()).split())
    path = getattr(getattr(error, "ctx", None), "command_path", "") or "ferrojax"
    return f"{message.rstrip('.')}; see {'ferrojax ' + path.split(' ', 1)[1] if ' ' in path else 'ferrojax'} --help"
