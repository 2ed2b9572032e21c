"""simulate: atoms, probe, scan and detectors in, images out."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ferrojax.crystal import Atoms
from ferrojax.detection.detectors import AnnularDetector
from ferrojax.detection.scan import Scan
from ferrojax.errors import InputError, is_traced
from ferrojax.grid import ANTIALIAS_FRACTION, ANTIALIAS_TAPER, Grid
from ferrojax.image import Image
from ferrojax.multislice import (
    FastThermal,
    SlicePlan,
    SliceTables,
    ThermalModel,
    aligned_slices,
    configurations,
    displaced_positions,
    multislice,
    plan_slices,
    propagator,
    return_rate,
    slab,
    slice_tables,
    standard_error,
)
from ferrojax.optics import Probe, probe_spectrum

SAMPLING, FAST_SAMPLING = 0.045, 0.1
"""Default ceilings in Å per pixel: for explicit detectors, and for FastThermal."""
SLICE = 2.1
"""Default ceiling of the slice thickness in Å. FastThermal bears slices of one cell for intensities, not for shifts."""
FAST_FRACTION, FAST_CARRIED = 0.9, 0.95
"""FastThermal's band limits of the wave and of t, as parts of Nyquist: products fold over, but only what was
scattered twice far out, and it stays a loss or lands far out again."""
CLEARANCE = 1.45
"""FastThermal: the band limit must clear the inner angle by this factor to stay accurate to three percent."""


class Optics(eqx.Module):
    """What every probe of one simulation shares on its grid."""

    spectrum: Complex[Array, "nodes rows cols"]
    node_weight: Float[Array, " nodes"]
    propagate: Complex[Array, "rows cols"]
    masks: Float[Array, "detectors rows cols"]
    lost: Float[Array, " detectors"]
    """1 where the norm that left the band limit belongs to the detector."""
    edge: Float[Array, "detectors removals"]
    """What each detector takes out: what went beyond its outer angle, and last what left it again later."""


def simulate(
    atoms: Atoms,
    probe: Probe,
    scan: Scan,
    detectors: Mapping[str, AnnularDetector],
    *,
    thermal: ThermalModel = None,
    tilt=(0.0, 0.0),
    thicknesses: list[float] | None = None,
    sampling: float | Grid | None = None,
    slice_thickness: float | None = None,
    transmission: str = "renormalised",
    plan: SlicePlan | None = None,
    batch: int = 16,
) -> dict[str, Image]:
    """Scan a probe over a specimen and record every detector from one propagation.

    Returns name -> Image, .data (rows, cols) or, with `thicknesses` (Å), (thickness, rows, cols), as a fraction
    of the incident beam; .standard_error over thermal configurations where there are at least two.
    tilt: mrad (x, y), abTEM's sign: a positive tx makes columns lean towards −x with depth. sampling: a ceiling
    in Å per pixel, or a Grid. slice_thickness: a ceiling in Å (None: 2.1, in step with the layers). batch: probes
    propagated together. Pass a `plan` (`plan_slices`) when positions
    are traced; positions, occupancy, thermal rms, tilt, probe and scan are differentiable.
    """
    if not detectors:
        raise InputError("detectors", dict(detectors), "none given", "e.g. {'haadf': AnnularDetector(60, 170)}")
    if plan is None:
        step = aligned_slices(atoms, SLICE) if slice_thickness is None else slice_thickness
        plan = plan_slices(atoms, step, thicknesses)
    grid = _grid(atoms, sampling, thermal)
    optics, tables = _prepare(plan, grid, probe, tilt, detectors, thermal, transmission, atoms)
    position = scan.position.reshape(-1, 2)
    runs = [
        _signals(displaced_positions(atoms, thermal, c), atoms.occupancy, plan, tables, optics, position, batch)
        for c in range(configurations(thermal))
    ]
    signals = jnp.stack(runs)  # configurations, probes, exits, detectors
    shape = (*signals.shape[:1], *scan.shape, *signals.shape[2:])
    signals = jnp.moveaxis(signals.reshape(shape), (3, 4), (2, 1))  # configurations, detectors, exits, rows, cols
    signals = _source_blur(signals, probe, scan, atoms)
    error = standard_error(signals, thermal)
    keep = slice(None) if len(plan.exits) > 1 or thicknesses is not None else 0
    return {
        name: Image(signals[:, i].mean(0)[keep], scan.sampling, None if error is None else error[i][keep], name)
        for i, name in enumerate(detectors)
    }


def _grid(atoms: Atoms, sampling: float | Grid | None, thermal: ThermalModel) -> Grid:
    if isinstance(sampling, Grid):
        return sampling
    if sampling is None:
        sampling = FAST_SAMPLING if isinstance(thermal, FastThermal) else SAMPLING
    return Grid.for_box(atoms.box[0], atoms.box[1], sampling)


def _prepare(
    plan: SlicePlan,
    grid: Grid,
    probe: Probe,
    tilt,
    detectors: Mapping[str, AnnularDetector],
    thermal: ThermalModel,
    transmission: str,
    atoms: Atoms,
) -> tuple[Optics, SliceTables]:
    fast = isinstance(thermal, FastThermal)
    fraction, taper = (FAST_FRACTION, 0.0) if fast else (ANTIALIAS_FRACTION, ANTIALIAS_TAPER)
    limit = grid.band_limit(fraction, taper)
    reach = fraction * grid.nyquist * probe.wavelength * 1e3  # mrad
    check_reach(detectors, reach, fast, probe)
    outers = tuple(sorted({d.outer for d in detectors.values() if reach < d.outer < np.inf}))
    carried = grid.band_limit(FAST_CARRIED, 0.0) if fast else limit
    tables = slice_tables(plan.elements, grid, probe.energy, transmission, carried, outers)
    real = tables.carried.dtype
    edge = [
        [
            *(float(d.outer == o) for o in outers),
            plan.slice_thickness * return_rate(atoms, probe.energy, reach, d.inner, d.outer)
            if d.outer in outers
            else 0.0,
        ]
        for d in detectors.values()
    ]
    offsets, weights = _focal_nodes(probe)
    optics = Optics(
        spectrum=jnp.stack([probe_spectrum(probe, grid, o) for o in offsets]) * (limit > 0),
        node_weight=jnp.asarray(weights, real),
        propagate=propagator(grid, probe.energy, plan.slice_thickness, jnp.asarray(tilt, real), limit),
        masks=jnp.stack([d.weights(grid, probe.wavelength) for d in detectors.values()]),
        lost=jnp.asarray([float(d.outer > reach) for d in detectors.values()], real),
        edge=jnp.asarray(edge, real),
    )
    return optics, tables


def check_reach(detectors: Mapping[str, AnnularDetector], reach: float, fast: bool, probe: Probe) -> None:
    for name, d in detectors.items():
        span = f"{name} {d.inner}–{d.outer} mrad"
        if not fast and d.outer > reach:
            factor = reach / d.outer
            remedy = f"use a finer sampling ({factor:.2f} of this one), or FastThermal"
            raise InputError("detector", span, f"reaches beyond the grid's band limit of {reach:.0f} mrad", remedy)
        if fast and d.outer > reach and d.inner * CLEARANCE > reach:
            remedy = "use a finer sampling or FrozenPhonons"
            raise InputError("detector", span, f"starts too close to the band limit of {reach:.0f} mrad", remedy)
    semiangle = probe.semiangle
    if not is_traced(semiangle) and float(semiangle) > reach:
        raise InputError("sampling", f"band limit {reach:.0f} mrad", "too coarse for the semi-angle", "refine it")


def _focal_nodes(probe: Probe):
    """Offsets of defocus and weights: Gauss–Hermite, an incoherent sum, never an envelope on the wave."""
    spread = probe.focal_spread
    if not is_traced(spread) and float(spread) == 0:
        return [0.0], np.ones(1)
    x, w = np.polynomial.hermite_e.hermegauss(7)
    return [spread * xi for xi in x], w / w.sum()


@eqx.filter_jit
def _signals(
    atom_position: Float[Array, "atoms 3"],
    occupancy: Float[Array, " atoms"],
    plan: SlicePlan,
    tables: SliceTables,
    optics: Optics,
    probe_position: Float[Array, "probes 2"],
    batch: int,
) -> Float[Array, "probes exits detectors"]:
    def read(psi, beyond):
        pattern = jnp.abs(jnp.fft.fft2(psi, norm="ortho")) ** 2
        inside = jnp.einsum("byx,dyx->bd", pattern, optics.masks)
        lost = 1 - pattern.sum((-1, -2))
        return inside + optics.lost * lost[:, None] - beyond @ optics.edge.T

    def one_batch(xy):
        ramp_x = jnp.exp(-2j * jnp.pi * xy[:, 0, None] * tables.kx)
        ramp_y = jnp.exp(-2j * jnp.pi * xy[:, 1, None] * tables.ky)
        total = 0
        for spectrum, weight in zip(optics.spectrum, optics.node_weight, strict=True):
            psi = jnp.fft.ifft2(spectrum * ramp_y[:, :, None] * ramp_x[:, None, :], norm="ortho")
            total += weight * multislice(psi, specimen, optics.propagate, read)
        return jnp.swapaxes(total, 0, 1)  # pyright: ignore[reportArgumentType]

    specimen = slab(atom_position, occupancy, plan, tables)
    n = probe_position.shape[0]
    batch = min(batch, n)
    padded = jnp.pad(probe_position, ((0, -n % batch), (0, 0)), mode="edge")
    out = jax.lax.map(one_batch, padded.reshape(-1, batch, 2))
    return out.reshape(-1, *out.shape[2:])[:n]


def _source_blur(
    signals: Float[Array, "*stack rows cols"], probe: Probe, scan: Scan, atoms: Atoms
) -> Float[Array, "*stack rows cols"]:
    """Convolve the intensity with the source over a scan that spans the periodic box."""
    if not is_traced(probe.source_size) and not np.asarray(probe.source_size).any():
        return signals
    span = np.asarray(scan.end, float) - np.asarray(scan.start, float)
    if np.abs(span - np.array(atoms.box[:2])).max() > 1e-3:
        raise InputError(
            "source_size",
            np.asarray(probe.source_size),
            "needs a scan that spans the periodic box",
            f"scan {atoms.box[:2]} Å",
        )
    rows, cols = scan.shape
    fy, fx = np.fft.fftfreq(rows, span[1] / rows), np.fft.rfftfreq(cols, span[0] / cols)
    sx, sy = probe.source_size
    envelope = jnp.exp(-2 * jnp.pi**2 * ((sy * fy[:, None]) ** 2 + (sx * fx[None]) ** 2))
    return jnp.fft.irfft2(jnp.fft.rfft2(signals) * envelope, s=(rows, cols))
