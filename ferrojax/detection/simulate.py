"""simulate: atoms, probe, scan and detectors in, images out."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from ferrojax.crystal import Atoms, check_atoms
from ferrojax.detection.detectors import Detector
from ferrojax.detection.plan import Job, RunPlan, choose
from ferrojax.detection.reading import Optics, Signals, prepare, run_band
from ferrojax.detection.routes import Specimen, matrix_signals, probe_signals
from ferrojax.detection.sampling import ScanSampling, scan_sampling
from ferrojax.detection.scan import Scan
from ferrojax.detection.windows import Tiles, cut_tiles, lattice_period, whole_box, window_size
from ferrojax.errors import InputError, is_traced
from ferrojax.grid import Grid
from ferrojax.multislice import (
    FastThermal,
    SlicePlan,
    ThermalModel,
    aligned_slices,
    configurations,
    displaced_positions,
    plan_slices,
)
from ferrojax.optics import Probe

SAMPLING, FAST_SAMPLING = 0.045, 0.1
"""Default ceilings in Å per pixel: for explicit detectors, and for FastThermal."""
SLICE = 2.1
"""Default ceiling of the slice thickness in Å. FastThermal bears slices of one cell for intensities, not for shifts."""
LONG = 60.0
"""Seconds (rough) beyond which the plan of a run is printed before it starts."""


def simulate(
    atoms: Atoms,
    probe: Probe,
    scan: Scan,
    detectors: Mapping[str, Detector],
    *,
    thermal: ThermalModel = None,
    tilt=(0.0, 0.0),
    thicknesses: Sequence[float] | None = None,
    sampling: float | Grid | None = None,
    slice_thickness: float | None = None,
    transmission: str = "renormalised",
    parametrization: str = "lobato",
    window: float | str | None = "auto",
    route: str = "auto",
    plan: SlicePlan | None = None,
    batch: int | None = None,
    devices: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """Scan a probe over a specimen and record every detector from one propagation.

    Returns name -> Image (DiffractionScan for a PixelatedDetector), .data (rows, cols) or, with `thicknesses` (Å),
    (thickness, rows, cols), as a fraction of the incident beam; .standard_error over thermal configurations where
    there are at least two.

    tilt: mrad (x, y), abTEM's sign: a positive tx makes columns lean towards −x with depth; one for the run, or
    (rows, cols, 2), one a position. sampling: a ceiling in Å per pixel, or a Grid of the whole box. slice_thickness:
    a ceiling in Å (None: 2.1, in step with the atomic layers). window: Å of specimen that every probe sees around it
    ("auto": chosen for an error of about 0.5 %, 1.2 % for a ring that starts at the bright disc's edge; None: the whole
    periodic box, which is also taken where positions, scan or semi-angle are traced, or defocus under "auto").
    route: "probes", "matrix" (the aperture's plane waves once, for any number of positions) or "auto", the cheaper.
    batch: waves propagated together (None: from the memory plan). devices: share the work (None: all local ones).
    Pass a `plan` (`plan_slices`) when positions are traced; positions, occupancy, thermal rms, tilt, probe and scan
    are differentiable. Errors: InputError for detectors, sampling or memory that cannot hold the run, before it.
    """
    with jax.ensure_compile_time_eval():  # under jit too, what is not traced has a value to plan with
        run, slices = _plan(
            atoms, probe, scan, detectors, thermal, tilt, thicknesses, sampling, slice_thickness, transmission, window,
            route, plan, batch, devices,
        )  # fmt: skip
        sampled = scan_sampling(scan, probe, atoms.box[:2], np.ndim(tilt) > 1)
        tiles = _tiles(run, slices, atoms, sampled)
    if run.seconds > LONG and not is_traced(atoms.position):
        print(run, file=sys.stderr)
    tilt = jnp.asarray(tilt, jnp.result_type(float))
    common = tilt if tilt.ndim == 1 else jnp.zeros(2)
    optics, tables = prepare(
        atoms, slices, run.grid, run.region, probe, common, detectors, thermal, transmission,
        parametrization, run.windowed,
    )  # fmt: skip
    shared = _Shared(optics, atoms.occupancy, tables, _beams(run, optics, probe))
    own_tilt = None if tilt.ndim == 1 else tilt.reshape(-1, 2)[tiles.member]
    xy = sampled.position.reshape(-1, 2)[tiles.member] - tiles.origin[:, :, None].astype(sampled.position.dtype)
    lanes = run.devices if run.by_configuration else 1
    mesh = _mesh(run, devices)

    def signals(positions):
        """Of as many configurations as there are lanes; name -> (lanes, exits, rows, cols, *channels)."""
        out = _run((tiles.plan, xy, own_tilt, tiles.corner), positions, shared, run.route, run.batch, mesh, lanes > 1)
        shape = sampled.position.shape[:2]

        def image(s):
            s = s.reshape(-1, *s.shape[3:])[tiles.where]
            return jnp.moveaxis(sampled.resample(s.reshape(*shape, *s.shape[1:])), 2, 0)

        return [jax.tree.map(lambda s: image(s[i]), out) for i in range(lanes)]  # noqa: B023

    mean, error = _average(_each_configuration(signals, atoms, thermal, lanes), thermal)
    keep = slice(None) if len(slices.exits) > 1 or thicknesses is not None else 0
    return {
        name: d.result(mean[name][keep], None if error is None else error[name][keep], scan.sampling, name)
        for name, d in detectors.items()
    }


def plan_simulation(
    atoms: Atoms,
    probe: Probe,
    scan: Scan,
    detectors: Mapping[str, Detector],
    *,
    thermal: ThermalModel = None,
    tilt=(0.0, 0.0),
    thicknesses: Sequence[float] | None = None,
    sampling: float | Grid | None = None,
    slice_thickness: float | None = None,
    transmission: str = "renormalised",
    window: float | str | None = "auto",
    route: str = "auto",
    batch: int | None = None,
    devices: Sequence[Any] | None = None,
) -> RunPlan:
    """What `simulate` would do with the same arguments, and the memory it takes; nothing is computed."""
    return _plan(
        atoms, probe, scan, detectors, thermal, tilt, thicknesses, sampling, slice_thickness, transmission, window,
        route, None, batch, devices,
    )[0]  # fmt: skip


def _plan(
    atoms: Atoms, probe: Probe, scan: Scan, detectors: Mapping[str, Detector], thermal: ThermalModel, tilt,
    thicknesses, sampling, slice_thickness: float | None, transmission: str, window, route: str,
    plan: SlicePlan | None, batch, devices,
) -> tuple[RunPlan, SlicePlan]:  # fmt: skip
    if not detectors:
        raise InputError("detectors", dict(detectors), "none given", "e.g. {'haadf': AnnularDetector(60, 170)}")
    if route not in ("auto", "probes", "matrix"):
        raise InputError("route", route, "unknown", 'choose "auto", "probes" or "matrix"')
    _check_choices(window, batch, tilt)
    traced = is_traced(atoms.position)
    if traced and plan is None:
        raise InputError("position", "traced", "cannot be sorted into slices", "pass plan=plan_slices(atoms)")
    check_atoms(atoms)
    slices = plan
    if slices is None:
        step = aligned_slices(atoms, SLICE) if slice_thickness is None else slice_thickness
        slices = plan_slices(atoms, step, thicknesses)
    tilt_shape = np.shape(tilt)
    if tilt_shape not in ((2,), (*scan.shape, 2)):
        raise InputError("tilt", tilt_shape, f"needs (x, y) in mrad, or one for each of {scan.shape}", "e.g. (3.0, 0)")
    if len(tilt_shape) > 1 or is_traced(probe.semiangle):
        if route == "matrix":
            raise InputError("route", route, "takes one tilt and a fixed semi-angle", 'use route="probes"')
        route = "probes"
    if sampling is None:
        sampling = FAST_SAMPLING if isinstance(thermal, FastThermal) else SAMPLING
    forced = window != "auto"
    if traced or any(is_traced(v) for v in (scan.start, scan.end, probe.semiangle)):
        window = None
    elif window == "auto":
        depth = slices.exits[-1] * slices.slice_thickness
        window = None if is_traced(probe.defocus) else window_size(probe, depth)
    wide = window is not None and min(atoms.box[:2]) > window
    period = lattice_period(atoms) if wide else None
    job = _job(atoms, probe, scan, detectors, thermal, tilt_shape, slices, sampling, transmission, period, devices)
    return choose(job, window, route, batch, forced), slices  # pyright: ignore[reportArgumentType]


def _check_choices(window: Any, batch, tilt) -> None:
    """Refuse windows, batches and tilts that mean nothing."""
    number = isinstance(window, int | float | np.number) and not isinstance(window, bool)
    if window is not None and window != "auto" and not (number and 0 < float(window) < np.inf):
        raise InputError("window", window, 'must be positive, in Å, "auto" or None', "e.g. 20.0")
    if batch is not None and not (batch >= 1 and int(batch) == batch):
        raise InputError("batch", batch, "must be a whole number from 1", "leave it out to take the plan's")
    known = not any(is_traced(t) for t in jax.tree.leaves(tilt))
    if known and not np.isfinite(np.asarray(tilt, float)).all():
        raise InputError("tilt", "NaN or infinity", "must be finite", "give (x, y) in mrad")


def _job(atoms, probe, scan, detectors, thermal, tilt_shape, slices, sampling, transmission, period, devices) -> Job:
    sampled = scan_sampling(scan, probe, atoms.box[:2], len(tilt_shape) > 1)
    shape = sampled.position.shape[:2]
    traced = is_traced(sampled.position)
    corner = None if traced else np.asarray(sampled.position, float)
    step = (0.0, 0.0)
    if corner is not None:
        dx = abs(corner[0, 1, 0] - corner[0, 0, 0]) if shape[1] > 1 else 0.0
        dy = abs(corner[1, 0, 1] - corner[0, 0, 1]) if shape[0] > 1 else 0.0
        step = (float(dx), float(dy))
    semiangle = 0.0 if is_traced(probe.semiangle) else float(probe.semiangle)
    spread = is_traced(probe.focal_spread) or float(probe.focal_spread) > 0
    area = atoms.box[0] * atoms.box[1]
    return Job(
        box=atoms.box[:2],
        step=step,
        scan=(shape[0], shape[1]),
        sampling=sampling,
        fraction=run_band(thermal, transmission)[0],
        aperture=(semiangle + probe.edge / 2) * 1e-3 / probe.wavelength,
        nodes=7 if spread else 1,
        slices=slices.exits[-1],
        exits=len(slices.exits),
        configurations=configurations(thermal),
        kinds=slices.index.shape[-2],
        period=period,
        atoms_per_area=len(atoms.number) / slices.index.shape[0] / area,
        channels=sum(int(np.prod(d.channels)) for d in detectors.values()),
        watched=isinstance(thermal, FastThermal),
        devices=len(jax.local_devices() if devices is None else devices),
    )


def _tiles(run: RunPlan, slices: SlicePlan, atoms: Atoms, sampled: ScanSampling) -> Tiles:
    if run.windowed:
        return cut_tiles(
            slices, atoms, np.asarray(sampled.position, float), run.tile, run.group, run.region, run.grid, run.devices
        )
    parts = 1 if run.by_configuration else run.devices
    return whole_box(slices, sampled.position.shape[0] * sampled.position.shape[1], parts)


def _beams(run: RunPlan, optics: Optics, probe: Probe) -> Int[Array, "2 beams"] | None:
    """Indices (row, col) on the detection grid of the plane waves inside the aperture.

    From the angles alone, because the spectrum may be traced; one beam too many only costs time.
    """
    if run.route == "probes":
        return None
    limit = (float(probe.semiangle) + probe.edge / 2) * 1e-3 / probe.wavelength
    return jnp.asarray(np.stack(np.nonzero(optics.seen.k < limit * (1 + 1e-6))))


def _mesh(run: RunPlan, devices) -> Mesh | None:
    devices = jax.local_devices() if devices is None else devices
    return None if run.devices == 1 else Mesh(np.array(devices), ("devices",))


class _Shared(eqx.Module):
    """What every tile of every configuration uses."""

    optics: Optics
    occupancy: Float[Array, " atoms"]
    tables: Any
    beams: Any


@eqx.filter_jit
def _run(
    tiles, positions: Float[Array, "lanes atoms 3"], shared: _Shared, route: str, batch: int, mesh, by_configuration
) -> Signals:
    """Every tile of every configuration given; name -> (lanes, tiles, groups, most, exits, *channels)."""

    def one_tile(shared, position, tile):
        plan, xy, tilt, corner = tile
        specimen = Specimen(position, shared.occupancy, shared.tables)
        if route == "matrix":
            signals = matrix_signals(specimen, plan, shared.optics, xy.reshape(-1, 2), shared.beams, batch)
            return jax.tree.map(lambda s: s.reshape(*xy.shape[:2], *s.shape[1:]), signals)
        return probe_signals(specimen, plan, shared.optics, xy, tilt, corner, batch)

    def everything(tiles, positions, shared):
        def one_configuration(position):
            return jax.lax.map(partial(one_tile, shared, position), tiles)

        return jax.lax.map(one_configuration, positions)

    if mesh is not None:
        first, second, none = PartitionSpec("devices"), PartitionSpec(None, "devices"), PartitionSpec()
        split = (none, first) if by_configuration else (first, none)
        everything = jax.shard_map(
            everything,
            mesh=mesh,
            in_specs=(*split, none),
            out_specs=first if by_configuration else second,
            check_vma=False,
        )
    return everything(tiles, positions, shared)


def _each_configuration(signals, atoms: Atoms, thermal: ThermalModel, lanes: int) -> Iterator[Signals]:
    """Signals of one configuration after the other, computed `lanes` at a time."""
    n = configurations(thermal)
    for start in range(0, n, lanes):
        wanted = [displaced_positions(atoms, thermal, min(start + i, n - 1)) for i in range(lanes)]
        yield from signals(jnp.stack(wanted))[: n - start]


def _average(each: Iterator[Signals], thermal: ThermalModel) -> tuple[Signals, Signals | None]:
    """Mean over configurations and its standard error, from the spread of independent draws, updated as they come."""
    pair = 2 if thermal is not None and thermal.antithetic else 1
    draws = configurations(thermal) // pair
    mean = spread = None
    for i in range(draws):
        members = [next(each) for _ in range(pair)]
        value = jax.tree.map(lambda *s: sum(s) / pair, *members)
        if mean is None:
            mean, spread = value, jax.tree.map(jnp.zeros_like, value)
            continue
        delta = jax.tree.map(jnp.subtract, value, mean)
        mean = jax.tree.map(lambda m, d: m + d / (i + 1), mean, delta)  # noqa: B023
        spread = jax.tree.map(lambda s, d, v, m: s + d * (v - m), spread, delta, value, mean)
    assert mean is not None
    if draws < 2:
        return mean, None
    return mean, jax.tree.map(lambda s: jnp.sqrt(s / (draws - 1) / draws), spread)
