"""Probe: the convergent beam, its aberrations and partial coherence; PlaneWave."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float, Int

from ferrojax.checks import check_numbers, real_number, real_numbers
from ferrojax.constants import wavelength
from ferrojax.errors import InputError, is_traced
from ferrojax.grid import Grid

ABERRATIONS = {
    "C12": (1, 2), "C21": (2, 1), "C23": (2, 3), "C30": (3, 0), "C32": (3, 2), "C34": (3, 4), "C50": (5, 0),
}  # fmt: skip
"""Coefficient (Å) -> (power n, multiplicity m) of α^(n+1); its azimuth is "phi" + digits, in rad."""

AZIMUTHS = {"phi" + name[1:]: name for name, (_, m) in ABERRATIONS.items() if m}
"""Azimuth -> its coefficient."""
ENERGY, SEMIANGLE = (1e4, 5e6), (0.2, 200.0)
"""eV, mrad; from the lowest to the highest that a STEM has. A semi-angle in rad lies below 0.2: in mrad that would be a
probe of 76 Å at 200 kV."""
FIRST_ORDER, HIGHER_ORDER = 1e5, 1e10
"""Å; no lens for atoms has 10 µm of defocus or twofold astigmatism, or 1 m of any other coefficient."""
SOURCE_SIZE, FOCAL_SPREAD = 10.0, 1e4
"""Å; beyond, no atom is resolved."""


class Probe(eqx.Module):
    """A convergent probe.

    energy: eV (static: it decides tables). semiangle: mrad. defocus: Å, positive is under-focus (crossover
    below the entrance surface). aberrations: e.g. {"C30": 1e4, "C12": 20.0, "phi12": 0.3}, Å and rad, abTEM's
    signs. source_size: rms of the source image in Å, one value or (x, y). focal_spread: rms of defocus in Å.
    edge: width in mrad of a soft aperture edge; 0 is hard (and has no gradient in `semiangle`).
    Errors: InputError for what no microscope has; where JAX traces semi-angle, source size or focal spread, a value out
    of range stops the program as it runs.
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
        source_size: ArrayLike | tuple[ArrayLike, ArrayLike] = 0.0,
        focal_spread: ArrayLike = 0.0,
        edge: float = 0.0,
    ):
        self.energy = _energy(energy)
        aberrations = {} if aberrations is None else aberrations
        _check_lengths(defocus, aberrations)
        self.semiangle = _within("semiangle", semiangle, _SEMIANGLE, "mrad", *SEMIANGLE)
        self.source_size = _within("source_size", source_size, _SOURCE, "Å", 0.0, SOURCE_SIZE, (2,))
        self.focal_spread = _within("focal_spread", focal_spread, _SPREAD, "Å", 0.0, FOCAL_SPREAD)
        self.defocus = _length("defocus", defocus, FIRST_ORDER)
        self.aberrations = {name: _length(name, value, _limit(name)) for name, value in aberrations.items()}
        widest = np.inf if is_traced(self.semiangle) else 2 * float(self.semiangle)
        remedy = "give the width in mrad of the soft edge, 0 for a hard one, at most twice the semi-angle"
        self.edge = real_number("edge", edge, remedy, unit="mrad", low=0.0, high=widest)

    def guarded(self) -> "Probe":
        """The same probe, checked again: its values may have come through JAX, or been replaced in it."""
        _check_lengths(self.defocus, self.aberrations)
        values = (
            _within("semiangle", self.semiangle, _SEMIANGLE, "mrad", *SEMIANGLE),
            _within("source_size", self.source_size, _SOURCE, "Å", 0.0, SOURCE_SIZE, (2,)),
            _within("focal_spread", self.focal_spread, _SPREAD, "Å", 0.0, FOCAL_SPREAD),
            _length("defocus", self.defocus, FIRST_ORDER),
            {name: _length(name, value, _limit(name)) for name, value in self.aberrations.items()},
        )
        fields = ("semiangle", "source_size", "focal_spread", "defocus", "aberrations")
        return eqx.tree_at(lambda p: [getattr(p, f) for f in fields], self, list(values))

    @property
    def wavelength(self) -> float:
        """Å."""
        return wavelength(self.energy)


class PlaneWave(eqx.Module):
    """Parallel illumination. energy: eV."""

    energy: float = eqx.field(static=True)

    def __init__(self, energy: float):
        self.energy = _energy(energy)

    @property
    def wavelength(self) -> float:
        """Å."""
        return wavelength(self.energy)


_SEMIANGLE = "give mrad: 0.0214 rad is 21.4; a parallel beam is a PlaneWave"
_SOURCE = "give the rms in Å, one value or (x, y): 50 pm is 0.5"
_SPREAD = "give the rms of the defocus in Å: 3 nm is 30"


def _energy(value: Any) -> float:
    return real_number("energy", value, "give eV: 200 kV is 200e3", unit="eV", low=ENERGY[0], high=ENERGY[1])


def _array(value: Any, shape: tuple[int, ...] = ()) -> Array:
    with jax.ensure_compile_time_eval():  # so that a plan can read what is not traced, under jit too
        return jnp.broadcast_to(jnp.asarray(value, jnp.result_type(float)), shape)


def _within(
    field: str, value: Any, remedy: str, unit: str, low: float, high: float, shape: tuple[int, ...] = ()
) -> Array:
    """The value, or one value for all, as an array of this shape; refused out of range, and where it is traced as the
    program runs."""
    given = shape if real_numbers(field, value, remedy).ndim else ()
    check_numbers(field, value, remedy, unit=unit, shape=given, low=low, high=high)
    array = _array(value, shape)
    if not is_traced(array):
        return array
    known = jax.lax.stop_gradient(array)
    outside = ~((known >= low) & (known <= high))  # NaN too
    return eqx.error_if(array, outside, f"{field}: must lie between {low:g} and {high:g} {unit}; {remedy}")


def _length(field: str, value: Any, limit: float) -> Array:
    """One number; where it is traced, what is not finite or beyond ± limit is refused as the program runs."""
    array = _array(value)
    if not is_traced(array):
        return array
    bad = ~(jnp.abs(jax.lax.stop_gradient(array)) <= limit)
    return eqx.error_if(array, bad, f"{field}: must be finite and within ± {limit:g}")


def _limit(name: str) -> float:
    """The largest size of a coefficient (Å) or azimuth (rad)."""
    if name in AZIMUTHS:
        return 4 * np.pi
    return FIRST_ORDER if ABERRATIONS[name][0] == 1 else HIGHER_ORDER


def _check_lengths(defocus: Any, aberrations: Any) -> None:
    check_numbers("defocus", defocus, "give Å, not m or pm: 10 nm is 100", unit="Å", low=-FIRST_ORDER, high=FIRST_ORDER)
    if not isinstance(aberrations, Mapping):
        raise InputError("aberrations", aberrations, "is no mapping of names to values", 'e.g. {"C30": 1e4}')
    for name, value in aberrations.items():
        if name == "C10":
            raise InputError(
                "aberrations", name, "is minus the defocus, which has its own argument", "give defocus=−C10"
            )
        if name not in ABERRATIONS and name not in AZIMUTHS:
            known = ", ".join(sorted([*ABERRATIONS, *AZIMUTHS]))
            raise InputError("aberrations", name, "unknown coefficient", f"choose from {known}")
        if name in AZIMUTHS:
            check_numbers(name, value, "give rad: 30° is 0.52", unit="rad", low=-_limit(name), high=_limit(name))
            if AZIMUTHS[name] not in aberrations:
                problem = f"is the azimuth of {AZIMUTHS[name]}, which is not given"
                raise InputError("aberrations", name, problem, f'give "{AZIMUTHS[name]}" in Å as well')
            continue
        limit = _limit(name)
        check_numbers(name, value, "give Å: 1 µm is 1e4, 1 mm is 1e7", unit="Å", low=-limit, high=limit)


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


def beam_spectrum(
    probe: Probe, beam: Int[np.ndarray, "n 2"], aperture: tuple[float, float], box: tuple[float, float]
) -> Complex[Array, " n"]:
    """`probe_spectrum` at waves (x, y) of a box of (x, y) Å alone, in steps of 1/box, that lie off these by `aperture`
    (x, y), with unit norm over all such waves."""
    size = 2 * int(np.abs(beam).max()) + 4
    grid = Grid((size, size), (box[1] / size, box[0] / size), (aperture[1], aperture[0]))
    x, y = beam.T
    return probe_spectrum(probe, grid)[y, x]
