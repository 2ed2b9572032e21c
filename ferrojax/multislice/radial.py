"""Radial tables of one element: what a slice's transmission is assembled from (eager, float64).

The core split (`renormalised`): exp(iσV) of a heavy atom is not band-limited, so a coarse grid aliases it.
V_low is the potential low-passed with exp(−k²/q₀²), which the grid can carry, and
c = exp(iσ(V − V_low)) − 1 the atom's compact core factor, transformed here to any frequency and then
placed by the same structure factor as a potential would be: t = exp(iσ ΣV_low) · Π_kinds (1 + Σ c), the product
over kinds of atoms whose cores may overlap in one slice.
"""

from functools import cache

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import j0, roots_legendre

from ferrojax.constants import interaction_constant, wavelength
from ferrojax.multislice.scattering import projected_potential, projected_transform

LOW_PASS = 1.2
"""q₀ in 1/Å: smooth enough for 0.06 Å/px, sharp enough that the core is compact."""
REACH = 9.0
"""Å: beyond it the core factor, a difference of two tails, is below 1e-6."""


@cache
def _nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes and weights on [0, 1]."""
    x, w = roots_legendre(count)[:2]
    return (x + 1) / 2, w / 2


def _radii() -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes in u, r = REACH·u³: dense at the nucleus, where exp(iσV) turns fast."""
    u, w = _nodes(1600)
    return REACH * u**3, 3 * REACH * u**2 * w


def _low_passed_phase(symbol: str, r: np.ndarray, sigma: float, parametrization: str) -> np.ndarray:
    """σ·V_low(r) in rad by quadrature over k, where the Gaussian has ended by 5 q₀."""
    x, w = _nodes(600)
    k = 5 * LOW_PASS * x
    w = 5 * LOW_PASS * w * 2 * np.pi * k
    v = projected_transform(symbol, k, parametrization) * np.exp(-((k / LOW_PASS) ** 2))
    return sigma * (j0(2 * np.pi * np.outer(r, k)) @ (w * v))


@cache
def _core_phase(symbol: str, energy: float, parametrization: str) -> np.ndarray:
    """σ(V − V_low) at the radial nodes, rad."""
    sigma, (r, _) = interaction_constant(energy), _radii()
    phase = sigma * projected_potential(symbol, r, parametrization)
    return phase - _low_passed_phase(symbol, r, sigma, parametrization)


@cache
def core_factor(
    symbol: str, energy: float, k_max: float, parametrization: str = "lobato", share: float = 1.0
) -> CubicSpline:
    """Transform of exp(iσw(V − V_low)) − 1, in Å², as a spline of k in [0, k_max] 1/Å (complex); share: w."""
    r, w = _radii()
    core = np.exp(1j * share * _core_phase(symbol, energy, parametrization)) - 1
    return _hankel_spline(r, 2 * np.pi * r * w * core, k_max)


@cache
def amplitude_factor(symbol: str, energy: float, k_max: float, parametrization: str = "lobato") -> CubicSpline:
    """Transform of exp(iσV) − 1, the atom's scattering amplitude, in Å², as a spline of k in [0, k_max] 1/Å."""
    r, w = _radii()
    full = np.exp(1j * interaction_constant(energy) * projected_potential(symbol, r, parametrization)) - 1
    return _hankel_spline(r, 2 * np.pi * r * w * full, k_max)


@cache
def beyond_factor(
    symbol: str, energy: float, outer: float, k_max: float, parametrization: str = "lobato", share: float = 1.0
) -> CubicSpline:
    """Transform of the local cross-section for scattering beyond `outer` (mrad), in Å², as a spline of k.

    μ(r) = Re[far(r)·conj(f(r))] with f = exp(iσwV) − 1 and far its part beyond the angle: what one atom removes
    from a plane wave to angles beyond the outer edge, resolved over r (used for a small correction only).
    share: the occupancy w.
    """
    sigma = share * interaction_constant(energy)
    r, w = _radii()
    full = np.exp(1j * sigma * projected_potential(symbol, r, parametrization)) - 1
    k_outer = outer * 1e-3 / wavelength(energy)
    x, wk = _nodes(500)
    k, wk = k_outer * x, k_outer * wk
    kernel = j0(2 * np.pi * np.outer(k, r))
    near = kernel.T @ (2 * np.pi * k * wk * (kernel @ (2 * np.pi * r * w * full)))
    mu = ((full - near) * np.conj(full)).real
    return _hankel_spline(r, 2 * np.pi * r * w * mu, k_max)


def _hankel_spline(r: np.ndarray, weighted: np.ndarray, k_max: float) -> CubicSpline:
    k = np.linspace(0, k_max * 1.001, max(64, int(40 * k_max)))
    return CubicSpline(k, j0(2 * np.pi * np.outer(k, r)) @ weighted)
