"""The one error that bad input ends in."""

import sys


class InputError(ValueError):
    """Bad input: names the field, the value and the remedy in one line.

    The command line prints it and exits with code 2; the Python API raises it.
    """

    def __init__(self, field: str, value: object, problem: str, remedy: str):
        shown = repr(value) if isinstance(value, str) else str(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        message = f"{field}: {problem} (got {shown}); {remedy}"
        super().__init__(" ".join(message.split()))
        self.field = field


def is_traced(value: object) -> bool:
    """Whether a value is being traced by JAX, so that it has no number to check yet."""
    jax = sys.modules.get("jax")  # where JAX is not loaded nothing is traced, and this module must not load it
    return jax is not None and isinstance(value, jax.core.Tracer)
