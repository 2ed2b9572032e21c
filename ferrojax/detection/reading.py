"""Reading detectors off exit waves: the detection grid, and what every probe of one simulation shares."""

from collections.abc import Mapping

import equinox as eqx
import jax
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
    leaves: Float[Array, "*grids"]
    takes_lost: bool = eqx.field(static=True)
    edge: int = eqx.field(static=True)

    def __call__(self, pattern, lost, beyond) -> Float[Array, "batch *channels"]:
        signal = self.response(pattern)
        if self.takes_lost:
            signal = signal + lost - (beyond[:, self.edge] if self.edge >= 0 else 0) - self.leaves * beyond[:, -1]
        return signal


class Optics(eqx.Module):
    """What every probe of one simulation shares on its grid.

    spectrum: the probe at the origin for every node of the focal spread, on the detection grid. `prepare` stacks one
    for every averaged grid along a leading axis.
    propagate: the run's kernel, without tilt where every probe has its own. frequencies: (ky, kx) of the waves' grid,
    seen_frequencies: of the detection grid, 1/Å: arrays, so that grids that differ in their offset share programs.
    """

    spectrum: Complex[Array, "*grids nodes r c"]
    node_weight: Float[Array, "*grids nodes"]
    propagate: Complex[Array, "*grids rows cols"]
    readers: dict[str, Reader]
    frequencies: tuple[Float[Array, "*grids rows"], Float[Array, "*grids cols"]]
    seen_frequencies: tuple[Float[Array, "*grids r"], Float[Array, "*grids c"]]
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
    request: Request, plan: SlicePlan, grids: tuple[Grid, ...], tilt: Float[Array, "2"], isolated: bool
) -> Optics:
    """Optics on the waves' grids, offsets included, stacked along a leading axis.

    isolated: a window's pixels are wide, so that detectors' edges share out those that they cross.
    """
    probe, thermal = request.probe, request.thermal
    fraction, taper, _ = run_band(thermal, request.numerics.transmission)
    real = jnp.result_type(float)
    seen = tuple(detection_grid(grid, fraction) for grid in grids)
    offsets, weights = focal_nodes(probe)
    band = (fraction, taper)
    spectrum, propagate = _waves(probe, offsets, tilt, grids, seen, band, plan.slice_thickness)
    reach = fraction * grids[0].nyquist * probe.wavelength * 1e3  # mrad
    bare, bare_seen = (Grid(g.shape, g.sampling) for g in (grids[0], seen[0]))
    return Optics(
        spectrum=spectrum,
        node_weight=jnp.asarray(np.tile(weights, (len(grids), 1)).astype(real)),
        propagate=propagate,
        readers={name: _reader(request, d, reach, seen, isolated) for name, d in request.detectors.items()},
        frequencies=_stacked_frequencies(grids),
        seen_frequencies=_stacked_frequencies(seen),
        grid=bare,
        seen=bare_seen,
    )


@eqx.filter_jit
def _waves(
    probe: Probe, offsets: Float[Array, " nodes"], tilt: Float[Array, "2"], grids: tuple[Grid, ...],
    seen: tuple[Grid, ...], band: tuple[float, float], step: float,
) -> tuple[Complex[Array, "grids nodes r c"], Complex[Array, "grids rows cols"]]:  # fmt: skip
    """Spectra of the probe and propagators on every grid, as one program."""
    spectrum, propagate = [], []
    for grid, small in zip(grids, seen, strict=True):
        inside = small.k < band[0] * grid.nyquist
        spectrum.append(jax.vmap(lambda o, g=small: probe_spectrum(probe, g, o))(offsets) * inside)
        propagate.append(propagator(grid, probe.energy, step, tilt, grid.band_limit(*band)))
    return jnp.stack(spectrum), jnp.stack(propagate)


def _stacked_frequencies(grids: tuple[Grid, ...]) -> tuple[Float[Array, "grids rows"], Float[Array, "grids cols"]]:
    real = jnp.result_type(float)
    ky, kx = (np.stack([grid.frequencies[axis] for grid in grids]).astype(real) for axis in (0, 1))
    return jnp.asarray(ky), jnp.asarray(kx)


def _reader(request: Request, detector: Detector, reach: float, seen: tuple[Grid, ...], isolated: bool) -> Reader:
    """One detector on every grid, stacked."""
    probe = request.probe
    outers = lost_angles(request.detectors, reach)
    lost, bounded = detector.takes_lost and detector.outer > reach, detector.outer in outers
    ends = bounded or (lost and detector.outer == np.inf)
    leaves = return_rate(request.atoms, probe.energy, reach, detector.inner, detector.outer) if ends else 0.0
    with jax.ensure_compile_time_eval():  # what is known under jit too is worked out in NumPy
        each = [
            _shared_out(detector, grid, probe) if isolated else detector.response(grid, probe.wavelength)
            for grid in seen
        ]
        response = jax.tree.map(lambda *w: _stack(w), *each)
    leaves = jnp.asarray(np.full(len(seen), leaves, jnp.result_type(float)))
    return Reader(response, leaves, lost, outers.index(detector.outer) if bounded else -1)


def _stack(arrays: tuple[Array, ...]) -> Array:
    """Without a program of its own where the values are known."""
    if any(is_traced(a) for a in arrays):
        return jnp.stack(arrays)
    return jnp.asarray(np.stack([np.asarray(a) for a in arrays]))


def _shared_out(detector: Detector, grid: Grid, probe: Probe) -> Response:
    """The response of a detector on a window's wide pixels: those that its edges cross are shared out by area.

    The aperture takes pixels on the edge of the bright disc whole: only the part of them counts that lies on the side
    of that edge where their middle is. Where the semi-angle is traced, they stay whole.
    """
    response = detector.response(grid, probe.wavelength)
    parts = next((n for n in (5, 3) if max(grid.shape) * n <= FINEST), 1)
    if not isinstance(response, WeightedSum) or parts == 1:
        return response
    y, x = grid.offset
    finer = Grid((grid.shape[0] * parts, grid.shape[1] * parts), grid.sampling, (parts * y, parts * x))
    fine = detector.response(finer, probe.wavelength)
    assert isinstance(fine, WeightedSum)
    angle, fine_angle = (g.k * probe.wavelength * 1e3 for g in (grid, finer))
    split = _in_pixels(np.asarray(fine.weights), parts)
    if probe.edge:
        return _weighted(split.mean((-3, -1)))
    if is_traced(probe.semiangle):
        on_edge = jnp.abs(angle - probe.semiangle) < probe.wavelength * 1e3 / min(grid.extent)
        return WeightedSum(jnp.where(on_edge, response.weights, split.mean((-3, -1))))
    inside = angle < float(probe.semiangle)
    counts = _in_pixels(fine_angle < float(probe.semiangle), parts) == inside[:, None, :, None]
    return _weighted((split * counts).sum((-3, -1)) / counts.sum((-3, -1)))


def _in_pixels(fine: np.ndarray, parts: int) -> np.ndarray:
    """(..., rows, parts, cols, parts): the parts of every pixel, from those of all, in FFT order."""
    fine = np.roll(fine, (parts // 2, parts // 2), (-2, -1))
    rows, cols = fine.shape[-2] // parts, fine.shape[-1] // parts
    return fine.reshape(*fine.shape[:-2], rows, parts, cols, parts)


def _weighted(weights: np.ndarray) -> WeightedSum:
    return WeightedSum(jnp.asarray(weights.astype(jnp.result_type(float))))


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


def focal_nodes(probe: Probe) -> tuple[Float[Array, " nodes"], Float[np.ndarray, " nodes"]]:
    """Offsets of defocus (Å) and weights of the focal spread: an incoherent sum, never an envelope on the wave."""
    spread, count = probe.focal_spread, focal_count(probe)
    if _traces_beat(probe):
        most = 2 * np.pi * (count - 1) / (2 * TAIL) - TAIL
        problem = f"focal_spread: traced, it is summed over {count} defoci, which bear π·spread·α²/λ up to {most:.1f}"
        spread = eqx.error_if(spread, _beat(spread, probe.semiangle, probe) > most, problem)
    x = np.linspace(-TAIL, TAIL, count) if count > 1 else np.zeros(1)
    weight = np.exp(-(x**2) / 2)
    return spread * jnp.asarray(x.astype(spread.dtype)), weight / weight.sum()
