"""Reading detectors off exit waves: the detection grid, and what every probe of one simulation shares."""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from ferrojax.crystal import Atoms
from ferrojax.detection.detectors import CentreOfMass, Detector
from ferrojax.detection.response import Response, WeightedSum
from ferrojax.errors import InputError, is_traced
from ferrojax.grid import Grid
from ferrojax.multislice import (
    FastThermal,
    SlicePlan,
    SliceTables,
    ThermalModel,
    band,
    propagator,
    return_rate,
    slice_tables,
)
from ferrojax.optics import Probe, probe_spectrum

FAST_FRACTION, FAST_CARRIED = 0.9, 0.95
"""FastThermal's band limits of the wave and of t, as parts of Nyquist: products fold over, but only what was
scattered twice far out, and it stays a loss or lands far out again."""
CLEARANCE = 1.45
"""FastThermal: the band limit must clear the inner angle by this factor to stay accurate to three percent."""
FINEST = 1500
"""Pixels along an axis of a diffraction pattern up to which detectors' edges are shared out; beyond, pixels are small.
"""

Signals = dict[str, Float[Array, "..."]]


def run_band(thermal: ThermalModel, transmission: str) -> tuple[float, float, float]:
    """Band limit of the wave, its taper and the limit of t, as parts of the Nyquist frequency."""
    return (FAST_FRACTION, 0.0, FAST_CARRIED) if isinstance(thermal, FastThermal) else band(transmission)


def detection_grid(grid: Grid, fraction: float) -> Grid:
    """The smallest grid of the same extent that holds every frequency within the band limit."""
    shape = []
    for n, extent in zip(grid.shape, grid.extent, strict=True):
        shape.append(min(n, 2 * int(np.floor(fraction * grid.nyquist * extent)) + 2))
    rows, cols = shape
    return Grid((rows, cols), (grid.extent[0] / rows, grid.extent[1] / cols), grid.offset)


def crop(spectrum: Inexact[Array, "*batch rows cols"], grid: Grid) -> Inexact[Array, "*batch r c"]:
    """The frequencies of the smaller `grid` out of a spectrum, both in FFT order."""
    for axis, n in zip((-2, -1), grid.shape, strict=True):
        size = spectrum.shape[axis]
        low = jnp.take(spectrum, jnp.arange((n + 1) // 2), axis)
        high = jnp.take(spectrum, jnp.arange(size - n // 2, size), axis)
        spectrum = jnp.concatenate([low, high], axis)
    return spectrum


def embed(spectrum: Complex[Array, "*batch r c"], grid: Grid) -> Complex[Array, "*batch rows cols"]:
    """The spectrum on the larger `grid`, zero where it was not known, both in FFT order."""
    for axis, n in zip((-2, -1), grid.shape, strict=True):
        size = spectrum.shape[axis]
        low, high = jnp.split(spectrum, [(size + 1) // 2], axis)
        gap = list(spectrum.shape)
        gap[axis] = n - size
        spectrum = jnp.concatenate([low, jnp.zeros(gap, spectrum.dtype), high], axis)
    return spectrum


class Reader(eqx.Module):
    """One detector on the detection grid.

    takes_lost: whether the norm that left the band limit belongs to it. edge: which of the outer angles in the
    tables ends it (−1: none). leaves: part of that norm that leaves the detector again, per Å (`return_rate`).
    """

    response: Response
    leaves: Float[Array, ""]
    takes_lost: bool = eqx.field(static=True)
    edge: int = eqx.field(static=True)

    def __call__(self, pattern, lost, beyond) -> Float[Array, "batch *channels"]:
        signal = self.response(pattern)
        if self.takes_lost:
            signal = signal + lost - (beyond[:, self.edge] if self.edge >= 0 else 0) - self.leaves * beyond[:, -1]
        return signal


class Optics(eqx.Module):
    """What every probe of one simulation shares on its grid.

    spectrum: the probe at the origin for every node of the focal spread, on the detection grid.
    propagate: the run's kernel, without tilt where every probe has its own.
    """

    spectrum: Complex[Array, "nodes r c"]
    node_weight: Float[Array, " nodes"]
    propagate: Complex[Array, "rows cols"]
    readers: dict[str, Reader]
    grid: Grid = eqx.field(static=True)
    seen: Grid = eqx.field(static=True)

    @property
    def loses(self) -> bool:
        """Whether any detector counts on the norm lost beyond the band limit."""
        return any(r.takes_lost for r in self.readers.values())

    def read(self, pattern: Float[Array, "batch r c"], beyond: Float[Array, "batch edges"]) -> Signals:
        """Every detector's signal from diffraction patterns of unit incident intensity; name -> (batch, *channels)."""
        lost = 1 - pattern.sum((-1, -2))
        return {name: reader(pattern, lost, beyond) for name, reader in self.readers.items()}


def prepare(
    atoms: Atoms,
    plan: SlicePlan,
    grid: Grid,
    region: Grid,
    probe: Probe,
    tilt: Float[Array, "2"],
    detectors: Mapping[str, Detector],
    thermal: ThermalModel,
    transmission: str,
    parametrization: str,
    windowed: bool = False,
) -> tuple[Optics, SliceTables]:
    """Optics on the waves' grid, slice tables on the region's (eager); refuses detectors they cannot represent."""
    fraction, taper, carried = run_band(thermal, transmission)
    limit = grid.band_limit(fraction, taper)
    reach = fraction * grid.nyquist * probe.wavelength * 1e3  # mrad
    fast = isinstance(thermal, FastThermal)
    check_reach(detectors, reach, fast, probe)
    outers = tuple(sorted({d.outer for d in detectors.values() if d.takes_lost and reach < d.outer < np.inf}))
    carry = region.band_limit(carried, taper)
    tables = slice_tables(
        plan.elements, region, probe.energy, transmission, carry, outers, parametrization=parametrization
    )
    seen = detection_grid(grid, fraction)
    inside = seen.k < fraction * grid.nyquist
    offsets, weights = _focal_nodes(probe)
    readers = {}
    for name, d in detectors.items():
        lost, bounded = d.takes_lost and d.outer > reach, d.outer in outers
        leaves = return_rate(atoms, probe.energy, reach, d.inner, d.outer) if bounded else 0.0
        readers[name] = Reader(
            _windowed(d, seen, probe) if windowed else d.response(seen, probe.wavelength),
            jnp.asarray(leaves, tables.carried.dtype),
            lost,
            outers.index(d.outer) if bounded else -1,
        )
    return Optics(
        spectrum=jnp.stack([probe_spectrum(probe, seen, o) for o in offsets]) * inside,
        node_weight=jnp.asarray(weights, tables.carried.dtype),
        propagate=propagator(grid, probe.energy, plan.slice_thickness, tilt, limit),
        readers=readers,
        grid=grid,
        seen=seen,
    ), tables


def _windowed(detector: Detector, grid: Grid, probe: Probe) -> Response:
    """The response of a detector on a window's wide pixels: those that its edges cross are shared out by area.

    Pixels on the edge of the bright disc stay whole, because the aperture takes them whole; moments count from the
    centroid of the incident beam, which an offset grid puts a little off zero.
    """
    response = detector.response(grid, probe.wavelength)
    if not isinstance(response, WeightedSum):
        return response
    weights = response.weights
    parts = next((n for n in (5, 3) if max(grid.shape) * n <= FINEST), 1)
    if parts > 1:
        rows, cols = grid.shape
        y, x = grid.offset
        finer = Grid((rows * parts, cols * parts), grid.sampling, (parts * y, parts * x))
        fine = detector.response(finer, probe.wavelength)
        assert isinstance(fine, WeightedSum)
        weights = jnp.roll(fine.weights, (parts // 2, parts // 2), (-2, -1))
        weights = weights.reshape(*weights.shape[:-2], rows, parts, cols, parts).mean((-3, -1))
    if not probe.edge:
        pixel = probe.wavelength * 1e3 / min(grid.extent)
        near = np.abs(grid.k * probe.wavelength * 1e3 - float(probe.semiangle)) < pixel
        weights = jnp.where(near, response.weights, weights)
    if isinstance(detector, CentreOfMass):
        beam = jnp.abs(probe_spectrum(probe, grid)) ** 2
        ky, kx = grid.frequencies
        centroid = [(k * beam).sum() * probe.wavelength * 1e3 for k in (kx[None], ky[:, None])]
        weights = weights.at[1:].add(-jnp.stack(centroid)[:, None, None] * weights[0])
    return WeightedSum(weights)


def check_reach(detectors: Mapping[str, Detector], reach: float, fast: bool, probe: Probe) -> None:
    """Refuse angles that the grid's band limit (mrad) and the thermal model cannot represent."""
    for name, d in detectors.items():
        span = f"{name} {d.inner:g}–{d.outer:g} mrad"
        if d.outer <= reach or (fast and d.takes_lost and d.inner * CLEARANCE <= reach):
            continue
        if fast and d.takes_lost:
            remedy = f"use a sampling {reach / (d.inner * CLEARANCE):.2f} times this one, or FrozenPhonons"
            raise InputError("detector", span, f"starts too close to the band limit of {reach:.0f} mrad", remedy)
        remedy = (
            f"use a sampling {reach / d.outer:.2f} times this one" if d.outer < np.inf else "give a finite outer angle"
        )
        remedy += ", or FastThermal" if d.takes_lost and not fast else ""
        raise InputError("detector", span, f"reaches beyond the grid's band limit of {reach:.0f} mrad", remedy)
    semiangle = probe.semiangle
    if not is_traced(semiangle) and float(semiangle) + probe.edge / 2 > reach:
        remedy = f"use a sampling {reach / float(semiangle):.2f} times this one"
        raise InputError("sampling", f"band limit {reach:.0f} mrad", "too coarse for the semi-angle", remedy)


def _focal_nodes(probe: Probe):
    """Offsets of defocus and weights: Gauss–Hermite, an incoherent sum, never an envelope on the wave."""
    spread = probe.focal_spread
    if not is_traced(spread) and float(spread) == 0:
        return [0.0], np.ones(1)
    x, w = np.polynomial.hermite_e.hermegauss(7)
    return [spread * xi for xi in x], w / w.sum()
