"""Reading detectors off exit waves: the detection grid, and what every probe of one simulation shares."""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from ferrojax.detection.detectors import Detector
from ferrojax.detection.request import Request
from ferrojax.detection.response import Response, WeightedSum
from ferrojax.detection.validity import FAST_FRACTION
from ferrojax.errors import is_traced
from ferrojax.grid import Grid
from ferrojax.multislice import (
    FastThermal,
    SlicePlan,
    SliceTables,
    ThermalModel,
    band,
    propagator,
    return_rate,
)
from ferrojax.optics import Probe, probe_spectrum

FAST_CARRIED = 0.95
"""FastThermal's band limit of t, as part of Nyquist: products fold over, but only what was scattered twice far out,
and it stays a loss or lands far out again."""
TAIL = 3.8
"""Of the focal spread, in rms: what lies further out weighs 1e-4."""
TRACED_NODES = 15
"""Defoci for a focal spread or semi-angle that is traced, whose number cannot depend on them."""
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
    propagate: the run's kernel, without tilt where every probe has its own. frequencies: (ky, kx) of the waves' grid,
    seen_frequencies: of the detection grid, 1/Å: arrays, so that grids that differ in their offset share programs.
    """

    spectrum: Complex[Array, "nodes r c"]
    node_weight: Float[Array, " nodes"]
    propagate: Complex[Array, "rows cols"]
    readers: dict[str, Reader]
    frequencies: tuple[Float[Array, " rows"], Float[Array, " cols"]]
    seen_frequencies: tuple[Float[Array, " r"], Float[Array, " c"]]
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


def lost_angles(detectors: Mapping[str, Detector], reach: float) -> tuple[float, ...]:
    """Finite outer angles (mrad) beyond the band limit, up to which lost norm is credited."""
    return tuple(sorted({d.outer for d in detectors.values() if d.takes_lost and reach < d.outer < np.inf}))


def prepare(
    request: Request, plan: SlicePlan, grid: Grid, tilt: Float[Array, "2"], carried: SliceTables, isolated: bool
) -> Optics:
    """Optics on the waves' grid, offset included; `carried`: the slice tables of the run. Eager.

    isolated: a window's pixels are wide, so that detectors' edges share out those that they cross.
    """
    probe, detectors, thermal = request.probe, request.detectors, request.thermal
    fraction, taper, _ = run_band(thermal, request.numerics.transmission)
    limit = grid.band_limit(fraction, taper)
    reach = fraction * grid.nyquist * probe.wavelength * 1e3  # mrad
    outers = lost_angles(detectors, reach)
    seen = detection_grid(grid, fraction)
    inside = seen.k < fraction * grid.nyquist
    offsets, weights = focal_nodes(probe)
    real = carried.carried.dtype
    readers = {}
    for name, d in detectors.items():
        lost, bounded = d.takes_lost and d.outer > reach, d.outer in outers
        leaves = return_rate(request.atoms, probe.energy, reach, d.inner, d.outer) if bounded else 0.0
        readers[name] = Reader(
            _shared_out(d, seen, probe) if isolated else d.response(seen, probe.wavelength),
            jnp.asarray(leaves, real),
            lost,
            outers.index(d.outer) if bounded else -1,
        )
    bare, bare_seen = (Grid(g.shape, g.sampling) for g in (grid, seen))
    return Optics(
        spectrum=jnp.stack([probe_spectrum(probe, seen, o) for o in offsets]) * inside,
        node_weight=jnp.asarray(weights, real),
        propagate=propagator(grid, probe.energy, plan.slice_thickness, tilt, limit),
        readers=readers,
        frequencies=tuple(jnp.asarray(k, real) for k in grid.frequencies),  # pyright: ignore[reportArgumentType]
        seen_frequencies=tuple(jnp.asarray(k, real) for k in seen.frequencies),  # pyright: ignore[reportArgumentType]
        grid=bare,
        seen=bare_seen,
    )


def _shared_out(detector: Detector, grid: Grid, probe: Probe) -> Response:
    """The response of a detector on a window's wide pixels: those that its edges cross are shared out by area.

    Pixels on the edge of the bright disc stay whole, because the aperture takes them whole.
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
        near = jnp.abs(grid.k * probe.wavelength * 1e3 - probe.semiangle) < pixel
        weights = jnp.where(near, response.weights, weights)
    return WeightedSum(weights)


def focal_count(probe: Probe) -> int:
    """How many defoci the focal spread is summed over.

    Two beams of the aperture beat with a phase of at most p·x over a defocus of x times the rms, p = π·rms·α²/λ; the
    trapezoidal rule integrates that against a Gaussian to 1e-3 while its step is below 2π/(p + TAIL).
    """
    if _traces_beat(probe):
        return TRACED_NODES
    beat = _beat(float(probe.focal_spread), float(probe.semiangle), probe)
    return int(np.ceil(2 * TAIL * (beat + TAIL) / (2 * np.pi))) + 1 if beat else 1


def _traces_beat(probe: Probe) -> bool:
    return is_traced(probe.focal_spread) or is_traced(probe.semiangle)


def _beat(spread, semiangle, probe: Probe):
    """p = π·rms·α²/λ."""
    return np.pi * spread * ((semiangle + probe.edge / 2) * 1e-3) ** 2 / probe.wavelength


def focal_nodes(probe: Probe) -> tuple[list[Float[Array, ""]], Float[np.ndarray, " nodes"]]:
    """Offsets of defocus (Å) and weights of the focal spread: an incoherent sum, never an envelope on the wave."""
    spread, count = probe.focal_spread, focal_count(probe)
    if count == 1:
        return [0.0 * spread], np.ones(1)
    if _traces_beat(probe):
        most = 2 * np.pi * (count - 1) / (2 * TAIL) - TAIL
        problem = f"focal_spread: traced, it is summed over {count} defoci, which bear π·spread·α²/λ up to {most:.1f}"
        spread = eqx.error_if(spread, _beat(spread, probe.semiangle, probe) > most, problem)
    x = np.linspace(-TAIL, TAIL, count)
    weight = np.exp(-(x**2) / 2)
    return [spread * at for at in x], weight / weight.sum()
