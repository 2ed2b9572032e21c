"""What the unit of an axis in a file means."""

import re
from math import isfinite, pi

from ferrojax.errors import InputError

_ANGSTROM = {
    "å": 1.0, "\u212b": 1.0, "a": 1.0, "ang": 1.0, "angstrom": 1.0, "angstroms": 1.0,
    "pm": 0.01, "picometer": 0.01, "picometers": 0.01, "picometre": 0.01,
    "nm": 10.0, "nanometer": 10.0, "nanometers": 10.0, "nanometre": 10.0,
    "um": 1e4, "µm": 1e4, "μm": 1e4, "\\u00b5m": 1e4, "\\u03bcm": 1e4, "micron": 1e4, "microns": 1e4,
    "micrometer": 1e4, "micrometre": 1e4, "mm": 1e7, "cm": 1e8, "m": 1e10,
}  # fmt: skip
_MILLIRADIAN = {"mrad": 1.0, "millirad": 1.0, "milliradian": 1.0, "milliradians": 1.0, "rad": 1000.0, "µrad": 1e-3}
_DEGREE = 1000 * pi / 180
_MILLIRADIAN |= {
    "deg": _DEGREE,
    "degree": _DEGREE,
    "degrees": _DEGREE,
    "°": _DEGREE,
    "2thdeg": _DEGREE,
    "2thrad": 1000.0,
}
_INVERSE = (
    re.compile(r"^1/\(?(.+?)\)?$"),
    re.compile(r"^(.+?)(?:\^|\*\*)?\(?[-−]1\)?$"),
    re.compile(r"^(.+?)⁻¹$"),
)
_TEX = (
    (re.compile(r"\\(?:mathrm|mathring|text|textrm|rm|,|;|!)"), ""),
    (re.compile(r"\\(?:AA|angstrom|r\{?A\}?)"), "Å"),
    (re.compile(r"\\(?:mu|micro)"), "µ"),
    (re.compile(r"[$~{}]"), ""),
)
"""What pyxem and others write for their plots: $A^{-1}$, $\\mathrm{nm}^{-1}$, \\AA$^{-1}$."""
_SCATTERING = (("k", 1.0), ("q", 1 / (2 * pi)), ("s", 1.0))
"""Names before a unit (k_A^-1, q_nm^-1) and what the number is of 1/wavelength: q has the 2π."""


def plain_unit(unit: object) -> str:
    """The unit as text without blanks, brackets and TeX; "" for what is no text or stands for none."""
    if isinstance(unit, bytes):
        unit = unit.decode("utf-8", "replace")
    text = "".join(unit.split()) if isinstance(unit, str) else ""
    for pattern, plain in _TEX:
        text = pattern.sub(plain, text)
    text = text.strip("[]() \x00").replace("_", "")
    return "" if text.lower() in ("none", "<undefined>", "undefined", "px", "pixel", "pixels") else text


def length_factor(unit: object) -> float | None:
    """Å per unit of length, None for any other unit."""
    return _ANGSTROM.get(plain_unit(unit).lower())


def reciprocal_factor(unit: object) -> float | None:
    """Å⁻¹ per unit of reciprocal length (1/nm, nm^-1, Å⁻¹, $A^{-1}$, k_A^-1, q_nm^-1), None for any other unit."""
    text = plain_unit(unit).lower()
    for pattern in _INVERSE:
        found = pattern.match(text)
        if found is None:
            continue
        base = found.group(1)
        factor = length_factor(base)
        if factor is not None:
            return 1 / factor
        for letter, share in _SCATTERING:
            factor = length_factor(base.removeprefix(letter)) if base.startswith(letter) else None
            if factor is not None:
                return share / factor
    return None


def angle_factor(unit: object) -> float | None:
    """mrad per unit of angle, None for any other unit."""
    return _MILLIRADIAN.get(plain_unit(unit).lower())


def checked_number(value: object, field: str, remedy: str) -> float:
    """A finite number above zero, or an InputError."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = float("nan")
    if not (isfinite(number) and number > 0):
        raise InputError(field, value, "must be a positive number", remedy)
    return number
