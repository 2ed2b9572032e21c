"""Thermal models: how the atoms' thermal motion enters a simulation."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ferrojax.crystal import Atoms
from ferrojax.errors import InputError


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
