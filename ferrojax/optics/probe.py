"""Probe: the convergent beam, its aberrations and partial coherence; PlaneWave."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from ferrojax.constants import wavelength
from ferrojax.errors import InputError, is_traced
from ferrojax.grid import Grid

ABERRATIONS = {
    "C12": (1, 2), "C21": (2, 1), "C23": (2, 3), "C30": (3, 0), "C32": (3, 2), "C34": (3, 4), "C50": (5, 0),
}  # fmt: skip
"""Coefficient (Å) -> (power n, multiplicity m) of α^(n+1); its azimuth is "phi" + digits, in rad."""


class Probe(eqx.Module):
    """A convergent probe.

    energy: eV (static: it decides tables). semiangle: mrad. defocus: Å, positive is under-focus (crossover
    below the entrance surface). aberrations: e.g. {"C30": 1e4, "C12": 20.0, "phi12": 0.3}, Å and rad, abTEM's
    signs. source_size: rms of the source image in Å, one value or (x, y). focal_spread: rms of defocus in Å.
    edge: width in mrad of a soft aperture edge; 0 is hard (and has no gradient in `semiangle`).
    """

    semiangle: Float[Array, ""]
    defocus: Float[Array, ""]
    aberrations: dict[str, Float[Array, ""]]
    source_size: Float[Array, "2"]
    focal_spread: Float[Array, ""]
    energy: float = eqx.field(static=True)
    edge: float = eqx.field(static=True)

    def __init__(
        self,
        energy: float,
        semiangle: ArrayLike,
        defocus: ArrayLike = 0.0,
        aberrations: Mapping[str, ArrayLike] | None = None,
        source_size: ArrayLike | tuple[float, float] = 0.0,
        focal_spread: ArrayLike = 0.0,
        edge: float = 0.0,
    ):
        real = jnp.result_type(float)
        self.energy, self.edge = float(energy), float(edge)
        with jax.ensure_compile_time_eval():  # so that a plan can read what is not traced, under jit too
            self.semiangle = jnp.asarray(semiangle, real)
            self.defocus = jnp.asarray(defocus, real)
            self.source_size = jnp.broadcast_to(jnp.asarray(source_size, real), (2,))
            self.focal_spread = jnp.asarray(focal_spread, real)
            self.aberrations = {name: jnp.asarray(v, real) for name, v in (aberrations or {}).items()}
        if not (np.isfinite(self.energy) and self.energy > 0):
            raise InputError("energy", energy, "must be positive", "give the accelerating energy in eV, e.g. 200e3")
        known = set(ABERRATIONS) | {"phi" + name[1:] for name in ABERRATIONS if ABERRATIONS[name][1]}
        for name in self.aberrations:
            if name not in known:
                raise InputError("aberrations", name, "unknown coefficient", f"choose from {', '.join(sorted(known))}")
        for field in ("semiangle", "source_size", "focal_spread"):
            _check_not_negative(field, getattr(self, field), strict=field == "semiangle")

    @property
    def wavelength(self) -> float:
        """Å."""
        return wavelength(self.energy)


class PlaneWave(eqx.Module):
    """Parallel illumination. energy: eV."""

    energy: float = eqx.field(static=True)

    @property
    def wavelength(self) -> float:
        """Å."""
        return wavelength(self.energy)


def _check_not_negative(field: str, value, strict: bool) -> None:
    if is_traced(value):
        return
    value = np.asarray(value)
    if not np.isfinite(value).all() or (value < 0).any() or (strict and (value == 0).any()):
        raise InputError(field, value, "must be positive" if strict else "must not be negative", "see Probe's units")


def probe_spectrum(probe: Probe, grid: Grid, defocus_offset: float | Array = 0.0) -> Complex[Array, "rows cols"]:
    """Aperture times exp(−iχ) on the grid in FFT order, with unit norm; the probe sits at the origin.

    χ = 2π/λ Σ C_nm α^(n+1)/(n+1) cos m(φ − φ_nm) with C10 = −defocus. defocus_offset in Å is added.
    """
    ky, kx = grid.frequencies
    k = grid.k
    alpha = jnp.asarray(k * probe.wavelength, probe.semiangle.dtype)
    azimuth = jnp.asarray(np.arctan2(np.broadcast_to(ky[:, None], k.shape), kx[None]), alpha.dtype)
    phase = -(probe.defocus + defocus_offset) * alpha**2 / 2
    for name, (n, m) in ABERRATIONS.items():
        if name in probe.aberrations:
            angle = probe.aberrations.get("phi" + name[1:], jnp.zeros((), alpha.dtype))
            phase += probe.aberrations[name] * alpha ** (n + 1) / (n + 1) * jnp.cos(m * (azimuth - angle))
    limit = probe.semiangle * 1e-3
    if probe.edge:
        aperture = jnp.clip((limit - alpha) / (probe.edge * 1e-3) + 0.5, 0, 1)
    else:
        aperture = (alpha < limit).astype(alpha.dtype)
    wave = aperture * jnp.exp(-2j * jnp.pi / probe.wavelength * phase)
    return wave / jnp.sqrt((aperture**2).sum())
