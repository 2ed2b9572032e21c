"""Matrix products in full precision: GPUs and TPUs otherwise round the factors of a product to 8 or 10 bits."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")
EXACT = jax.lax.Precision.HIGHEST
"""Of one product."""


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """The function with every product that it calls for in full precision, whatever is set for the process."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped
