"""summary.json: the report's figures for a script to read."""

import json
import math
import os
from collections.abc import Mapping

import numpy as np

from ferrojax.files import replacing

DIGITS = 6


def write_summary(path: str | os.PathLike[str], summary: Mapping[str, object]) -> None:
    """Write nested dicts, sequences, numbers and arrays as JSON: floats to six digits, NaN as null."""
    text = json.dumps(plain(summary), indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def plain(value: object) -> object:
    """JSON's own types out of whatever a summary may hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist())
    return str(value)
