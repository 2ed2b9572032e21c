"""Words of the command line turned into values, each with a clear refusal."""

import math
import re
from typing import TYPE_CHECKING

from ferrojax.errors import InputError

if TYPE_CHECKING:
    from ferrojax.crystal import Crystal

MODES = ("HAADF", "ABF", "iDPC")
FORMATS = ("hspy", "h5", "zarr")
METHODS = ("columns", "microscope")
ZONE_REMEDY = "write three whole numbers such as 001, 110 or 1,-1,0"


def parse_zone(text: str) -> tuple[int, int, int]:
    """Zone axis from 001, -110, 0,0,1, "[1 -1 0]"; at least one index is not zero."""
    inner = text.strip().strip("[]<>()").strip()
    if re.fullmatch(r"(-?\d){3}", inner):
        found = re.findall(r"-?\d", inner)
    elif re.fullmatch(r"-?\d+([,\s]+-?\d+){2}", inner):
        found = re.split(r"[,\s]+", inner)
    else:
        raise InputError("zone", text, "is no zone axis", ZONE_REMEDY)
    u, v, w = (int(index) for index in found)
    if (u, v, w) == (0, 0, 0):
        raise InputError("zone", text, "has no direction", ZONE_REMEDY)
    return u, v, w


def parse_sampling(text: str | None) -> tuple[float, float] | None:
    """Å per pixel (y, x) from "0.2" or "0.19,0.21"; None stays None."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(math.isfinite(v) and v > 0 for v in values):
        remedy = "write one positive number, or two as y,x, e.g. 0.2 or 0.19,0.21"
        raise InputError("sampling", text, "is no pixel size in Å", remedy)
    return values[0], values[-1]


def parse_drift(text: str | None, frames: bool) -> tuple[float, float]:
    """px a frame (x, y) from "14,-2"; zero where nothing is said."""
    if text is None:
        return 0.0, 0.0
    if not frames:
        raise InputError("drift", text, "is for a series of frames", "add --frames, or leave --drift out")
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x, y = math.nan, math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise InputError("drift", text, "is no drift in px a frame", "write x,y, e.g. --drift=14,-2")
    return x, y


def parse_labels(text: str | None) -> dict[str, str] | None:
    """{"Pb": "A", "Ti": "B"} from "Pb=A,Ti=B" or "Pb:A Ti:B"; None stays None."""
    if text is None:
        return None
    found = [re.fullmatch(r"([A-Za-z]+)[=:]([ABOabo])", part) for part in re.split(r"[,\s]+", text.strip())]
    pairs = {match[1]: match[2].upper() for match in found if match}
    if not pairs or len(pairs) != len(found):
        raise InputError(
            "labels", text, "does not label elements", "write element=site with sites A, B, O: Pb=A,Ti=B,O=O"
        )
    return pairs


def parse_ring(field: str, text: str | None) -> tuple[float, float] | None:
    """Inner and outer angle in mrad from "60:170" or "60:" (all beyond); None stays None."""
    if text is None:
        return None
    inner, colon, outer = text.partition(":")
    try:
        ring = float(inner), float(outer) if outer.strip() else math.inf
    except ValueError:
        ring = math.nan, math.nan
    if not colon or not 0 <= ring[0] < ring[1]:
        raise InputError(field, text, "is no ring", "write inner:outer in mrad, e.g. 60:170, or 60: for all beyond")
    return ring


def parse_known(text: str | None) -> dict[str, tuple[float, float]]:
    """{"thickness": (120.0, 20.0)} from "thickness=120:20,defocus=0:30": values and standard errors."""
    found = {}
    for part in re.split(r"[,\s]+", text.strip()) if text else ():
        name, _, numbers = part.partition("=")
        try:
            value, error = (float(number) for number in numbers.split(":"))
        except ValueError:
            remedy = "write name=value:error, e.g. thickness=120:20,defocus=0:30 (Å, mrad)"
            raise InputError("known", part, "is no value with its error", remedy) from None
        found[name] = (value, error)
    return found


def parse_choice(field: str, text: str | None, choices: tuple[str, ...]) -> str | None:
    """One of the choices, whatever the case; None stays None."""
    if text is None:
        return None
    for choice in choices:
        if text.strip().lower() == choice.lower():
            return choice
    raise InputError(field, text, "is unknown", f"choose one of {', '.join(choices)}")


def parse_signal(text: str | None) -> str | int | None:
    """Name of a signal in a file, or its number; None stays None."""
    return int(text) if text is not None and text.strip().isdigit() else text


def load_crystal(text: str, labels: dict[str, str] | None = None) -> "tuple[Crystal, list[str]]":
    """A material of the library by its name, or a crystal from a structure file by its path, and what to beware of.

    labels: of the file's elements, None infers them.
    """
    import warnings

    from ferrojax.crystal import given_crystal

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        crystal = given_crystal(text, labels)
    return crystal, [str(warning.message) for warning in caught]
