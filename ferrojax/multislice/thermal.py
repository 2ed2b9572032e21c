"""Thermal models: how the atoms' thermal motion enters a simulation."""

from collections import Counter
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.signal import fftconvolve

from ferrojax.constants import wavelength
from ferrojax.crystal import Atoms
from ferrojax.crystal.elements import SYMBOLS
from ferrojax.errors import InputError
from ferrojax.multislice.radial import amplitude_factor


class FrozenPhonons(eqx.Module):
    """Einstein model: every atom displaced independently, intensities averaged over n configurations.

    antithetic: draw pairs (u, −u). On the position of a column they converge faster than independent draws,
    on its intensity slower, because the intensity is even in u.
    """

    n: int = eqx.field(static=True)
    seed: int = eqx.field(static=True, default=0)
    antithetic: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        _check_count(self.n, self.antithetic)


class FastThermal(eqx.Module):
    """Frozen phonons on a coarse grid, with HAADF read from the norm that leaves the band limit.

    Multislice conserves the norm except for what leaves the band limit K, half the Nyquist frequency here; the
    slices carry all components up to 2K, so 1 − ‖wave‖² is what was scattered beyond K. Valid for detectors
    with inner < K < outer (or outer ≤ K). Same arguments as FrozenPhonons.
    """

    n: int = eqx.field(static=True)
    seed: int = eqx.field(static=True, default=0)
    antithetic: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        _check_count(self.n, self.antithetic)


ThermalModel = FrozenPhonons | FastThermal | None


def _check_count(n: int, antithetic: bool) -> None:
    if n < 1 or (antithetic and n % 2):
        need = "an even number of at least 2 (pairs)" if antithetic else "at least 1"
        raise InputError("n", n, f"configurations must be {need}", "change n, or set antithetic=False")


def configurations(thermal: ThermalModel) -> int:
    """How many displaced specimens the model averages over."""
    return 1 if thermal is None else thermal.n


def displaced_positions(atoms: Atoms, thermal: ThermalModel, index: int) -> Float[Array, "atoms 3"]:
    """Positions (Å) in configuration `index`; the same seed and index give the same displacements."""
    if thermal is None:
        return atoms.position
    draw, sign = (index // 2, 1 - 2 * (index % 2)) if thermal.antithetic else (index, 1)
    key = jax.random.fold_in(jax.random.key(thermal.seed), draw)
    u = jax.random.normal(key, atoms.position.shape, atoms.position.dtype)
    rms = atoms.thermal_rms if atoms.thermal_rms.ndim == 2 else atoms.thermal_rms[:, None]
    return atoms.position + sign * rms * u


def standard_error(values: Float[Array, "configs *rest"], thermal: ThermalModel) -> Float[Array, "*rest"] | None:
    """Of the mean over configurations, from their spread (of pair means where the draws are antithetic)."""
    if thermal is not None and thermal.antithetic:
        values = values.reshape(-1, 2, *values.shape[1:]).mean(1)
    n = values.shape[0]
    return None if n < 2 else jnp.std(values, axis=0, ddof=1) / n**0.5


def return_rate(atoms: Atoms, energy: float, reach: float, inner: float, outer: float) -> float:
    """Part of the norm beyond `reach` (mrad) that leaves the ring inner–outer again, per Å travelled.

    What FastThermal lost is counted on the ring for good; scattered once more, it may end inside `inner` or beyond
    `outer`, or come back from there. The balance of those, and of what the ring's part within `reach` scatters
    beyond `outer` more than the local cross-section says, over all single-scattered electrons of a random medium
    of these atoms. First order: times the path, it must stay small against 1.
    """
    volume = float(np.prod(atoms.box))
    density = tuple(sorted((SYMBOLS[z], round(n / volume, 6)) for z, n in Counter(atoms.number).items()))
    return _balance(density, energy, reach, inner, outer)


@cache
def _balance(density: tuple[tuple[str, float], ...], energy: float, reach: float, inner: float, outer: float) -> float:
    span = 2.5 * max(reach, outer if np.isfinite(outer) else 1.5 * reach)
    mrad = 1e-3 / wavelength(energy)
    axis = np.linspace(-span, span, 301) * mrad
    k = np.hypot(axis[:, None], axis[None])
    per_path = sum(n * np.abs(amplitude_factor(e, energy, float(k.max()))(k)) ** 2 for e, n in density)
    per_path = per_path * (axis[1] - axis[0]) ** 2  # part of a wave scattered into each pixel, per Å
    low, ring, far = k < inner * mrad, (k >= inner * mrad) & (k < outer * mrad), k >= outer * mrad
    to_low, to_ring = (np.asarray(fftconvolve(part.astype(float), per_path, mode="same")) for part in (low, ring))
    to_far = per_path.sum() - to_low - to_ring if far.any() and np.isfinite(outer) else np.zeros_like(k)
    lost = k >= reach * mrad
    leaves = np.where(lost, to_low + to_far, to_far - per_path[far].sum())
    balance = (per_path * leaves)[ring].sum() - (per_path * to_ring)[far].sum()
    return float(balance / per_path[lost].sum())
