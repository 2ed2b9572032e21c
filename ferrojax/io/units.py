"""What the unit of an axis in a file means."""

import re

from ferrojax.errors import InputError

_ANGSTROM = {
    "å": 1.0, "\u212b": 1.0, "a": 1.0, "ang": 1.0, "angstrom": 1.0, "angstroms": 1.0,
    "pm": 0.01, "picometer": 0.01, "picometers": 0.01, "picometre": 0.01,
    "nm": 10.0, "nanometer": 10.0, "nanometers": 10.0, "nanometre": 10.0,
    "um": 1e4, "µm": 1e4, "μm": 1e4, "\\u00b5m": 1e4, "\\u03bcm": 1e4, "micron": 1e4, "microns": 1e4,
    "micrometer": 1e4, "micrometre": 1e4, "mm": 1e7, "cm": 1e8, "m": 1e10,
}  # fmt: skip
_MILLIRADIAN = {"mrad": 1.0, "millirad": 1.0, "milliradian": 1.0, "milliradians": 1.0, "rad": 1000.0, "µrad": 1e-3}
_INVERSE = (re.compile(r"^1/(.+)$"), re.compile(r"^(.+?)(?:\^|\*\*)?[-−]1$"), re.compile(r"^(.+?)⁻¹$"))


def plain_unit(unit: object) -> str:
    """The unit as text without blanks and brackets; "" for what is no text or stands for none."""
    if isinstance(unit, bytes):
        unit = unit.decode("utf-8", "replace")
    text = "".join(unit.split()).strip("[]() \x00").replace("_", "") if isinstance(unit, str) else ""
    return "" if text.lower() in ("none", "<undefined>", "undefined", "px", "pixel", "pixels") else text


def length_factor(unit: object) -> float | None:
    """Å per unit of length, None for any other unit."""
    return _ANGSTROM.get(plain_unit(unit).lower())


def reciprocal_factor(unit: object) -> float | None:
    """Å⁻¹ per unit of reciprocal length (1/nm, nm^-1, Å⁻¹, 1 / nm), None for any other unit."""
    text = plain_unit(unit).lower()
    for pattern in _INVERSE:
        found = pattern.match(text)
        if found:
            factor = length_factor(found.group(1))
            return None if factor is None else 1 / factor
    return None


def angle_factor(unit: object) -> float | None:
    """mrad per unit of angle, None for any other unit."""
    return _MILLIRADIAN.get(plain_unit(unit).lower())


def checked_number(value: object, field: str, remedy: str) -> float:
    """A finite number above zero, or an InputError."""
    from math import isfinite

    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = float("nan")
    if not (isfinite(number) and number > 0):
        raise InputError(field, value, "must be a positive number", remedy)
    return number
