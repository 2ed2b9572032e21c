"""Electron scattering factors and projected potentials of single atoms (eager, float64)."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import numpy as np
from scipy.special import k0, k1

from ferrojax.constants import POTENTIAL_PER_SCATTERING_FACTOR
from ferrojax.errors import InputError

PARAMETRIZATIONS = ("lobato", "kirkland")


@cache
def _table(parametrization: str) -> dict[str, list[list[float]]]:
    if parametrization not in PARAMETRIZATIONS:
        choices = " or ".join(PARAMETRIZATIONS)
        raise InputError("parametrization", parametrization, "unknown", f"choose {choices}")
    text = files("ferrojax.multislice").joinpath("tables", f"{parametrization}.json").read_text(encoding="utf-8")
    return json.loads(text)["elements"]


def _coefficients(symbol: str, parametrization: str) -> np.ndarray:
    table = _table(parametrization)
    if symbol not in table:
        raise InputError("element", symbol, f"is not in the {parametrization} table", "use another element or table")
    return np.array(table[symbol])


def blend(shares: Mapping[str, float]) -> str:
    """The name of an atom that is several elements in shares, as "Bi*0.8+La*0.2"; that of an element alone is its own.

    Its potential, and with it everything that is made of it, is the sum of theirs.
    """
    if len(shares) == 1:
        return next(iter(shares))
    return "+".join(f"{symbol}*{share:.6f}" for symbol, share in sorted(shares.items()))


def _parts(symbol: str) -> list[tuple[str, float]]:
    """(element, share) of a blend."""
    split = [part.split("*") for part in symbol.split("+")]
    return [(part[0], float(part[1]) if len(part) > 1 else 1.0) for part in split]


def scattering_factor(symbol: str, k: np.ndarray, parametrization: str = "lobato") -> np.ndarray:
    """Electron scattering factor in Å at spatial frequency k (1/Å, any shape), without relativistic factor.

    symbol: an element, or a `blend`. Sources: Lobato & Van Dyck (2014); Kirkland, appendix C.
    """
    return sum((share * _element_factor(e, k, parametrization) for e, share in _parts(symbol)), np.zeros(()))


def _element_factor(symbol: str, k: np.ndarray, parametrization: str) -> np.ndarray:
    p, k2 = _coefficients(symbol, parametrization), np.asarray(k, float)[..., None] ** 2
    if parametrization == "lobato":
        a, b = p
        return (a * (2 + b * k2) / (1 + b * k2) ** 2).sum(-1)
    a, b, c, d = p
    return (a / (k2 + b) + c * np.exp(-d * k2)).sum(-1)


def projected_transform(symbol: str, k: np.ndarray, parametrization: str = "lobato") -> np.ndarray:
    """Fourier transform of the projected potential, V·Å³, at k (1/Å)."""
    return POTENTIAL_PER_SCATTERING_FACTOR * scattering_factor(symbol, k, parametrization)


def projected_potential(symbol: str, r: np.ndarray, parametrization: str = "lobato") -> np.ndarray:
    """Projected potential of one atom, V·Å, at distance r > 0 (Å), in closed form (Bessel K0, K1); symbol: an element
    or a `blend`."""
    return sum((share * _element_potential(e, r, parametrization) for e, share in _parts(symbol)), np.zeros(()))


def _element_potential(symbol: str, r: np.ndarray, parametrization: str) -> np.ndarray:
    p, r = _coefficients(symbol, parametrization), np.asarray(r, float)[..., None]
    if parametrization == "lobato":
        a, b = p
        x = 2 * np.pi * r / np.sqrt(b)
        f = (a * (2 * np.pi / b * k0(x) + 2 * np.pi**2 * r / b**1.5 * k1(x))).sum(-1)
    else:
        a, b, c, d = p
        f = (2 * np.pi * a * k0(2 * np.pi * r * np.sqrt(b)) + np.pi * c / d * np.exp(-((np.pi * r) ** 2) / d)).sum(-1)
    return POTENTIAL_PER_SCATTERING_FACTOR * f
