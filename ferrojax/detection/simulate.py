"""simulate: atoms, probe, scan and detectors in, images out."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from ferrojax.crystal import Atoms
from ferrojax.detection.detectors import Detector
from ferrojax.detection.numerics import NumericOptions, Numerics
from ferrojax.detection.plan import HALVES, PLAIN, Job, RunPlan, choose
from ferrojax.detection.reading import Optics, Signals, focal_count, lost_angles, prepare, run_band
from ferrojax.detection.request import Request, guarded
from ferrojax.detection.routes import Specimen, matrix_signals, probe_signals
from ferrojax.detection.sampling import ScanSampling, scan_sampling
from ferrojax.detection.scan import Scan
from ferrojax.detection.validity import (
    CLEAR,
    check_combination,
    check_lit,
    check_reach,
    check_window,
    explicit_sampling,
    fast_sampling,
)
from ferrojax.detection.windows import Tiles, cut_tiles, drift, lattice_period, whole_box, window_size
from ferrojax.errors import is_traced
from ferrojax.grid import Grid
from ferrojax.multislice import (
    FastThermal,
    SlicePlan,
    SliceTables,
    ThermalModel,
    aligned_slices,
    configuration,
    configurations,
    plan_slices,
    slice_tables,
    weighs,
    weighted_plan,
)
from ferrojax.optics import Probe

SAMPLING = 0.045
"""Default ceiling in Å per pixel for explicit detectors; FastThermal finds its own (`fast_sampling`)."""
SLICE = 2.1
"""Default ceiling of the slice thickness in Å. FastThermal bears slices of one cell for intensities, not for shifts."""
TRACED_WINDOW = 16.0
"""Å around a probe whose semi-angle is traced, so that the window cannot depend on it: as for 20 mrad at 200 kV."""
LONG = 60.0
"""Seconds (rough) beyond which the plan of a run is printed before it starts."""


def simulate(
    atoms: Atoms,
    probe: Probe,
    scan: Scan,
    detectors: Mapping[str, Detector],
    *,
    thermal: ThermalModel = None,
    tilt: Any = (0.0, 0.0),
    thicknesses: Sequence[float] | None = None,
    plan: SlicePlan | None = None,
    devices: Sequence[Any] | None = None,
    **numerics: Unpack[NumericOptions],
) -> dict[str, Any]:
    """Scan a probe over a specimen and record every detector from one propagation.

    Returns name -> Image (DiffractionScan for a PixelatedDetector), .data (rows, cols) or, with `thicknesses` (Å),
    (thickness, rows, cols), as a fraction of the incident beam; .thickness, the depths (Å) of the slice edges where
    they were read; .standard_error over thermal configurations where at least two draws are independent.

    thermal: None (at rest), FrozenPhonons(n, seed) or FastThermal(n, seed); each configuration also draws who sits on
    partly occupied sites. Without one, and where occupancies are traced, their phases are weighted instead.
    tilt: mrad (x, y), abTEM's sign: a positive tx makes columns lean towards −x with depth; one for the run, or
    (rows, cols, 2), one a position. devices: share the work (None: all local ones). Numerical settings, each with a
    good default (`Numerics`): sampling, slice_thickness, transmission, parametrization, window, route, batch.

    Every probe sees `window` Å of specimen around it; "auto": for an error of about 0.5 % in 20 nm of crystal, 1.2 %
    for a ring that starts at the bright disc's edge, 2 % in one cell and 10 % in a disordered layer of 2 Å (give more
    there), wider by the way of a tilted beam, of a traced tilt not. A smaller box is repeated. With window=None, and on
    a Grid given as sampling, the periodic box is computed as it stands.
    Windows average two grids of frequencies: thermal configurations take them in turn where their number is even,
    else each is run on both.

    Pass a `plan` (`plan_slices`) when positions are traced; positions, occupancy, thermal rms, tilt, probe and scan
    are differentiable. Errors: InputError for detectors, sampling or memory that cannot hold the run, before it.
    """
    with jax.ensure_compile_time_eval():  # under jit too, what is not traced has a value to plan with
        settings = Numerics.of(numerics)
        request = Request.of((atoms, probe, scan, detectors), thermal, tilt, thicknesses, settings, plan, devices)
        layout = _laid_out(request)
        run = layout.run
        if run.seconds > LONG and not is_traced(atoms.position):
            print(run, file=sys.stderr)
        tables = _tables(layout.request, layout.slices, run)
        tiles = _tiles(layout)
    sampled = layout.sampled.guarded()
    request = guarded(layout.request, layout.slices, sampled.barred, sampled.widest)
    layout = eqx.tree_at(lambda x: (x.request, x.sampled), layout, (request, sampled))
    signals = partial(_signals, layout, tiles, _Shared(_beam(layout), tables))
    mean, error = _average(_each_configuration(signals, layout), thermal)
    depths = layout.slices.depths
    keep = slice(None) if len(depths) > 1 or thicknesses is not None else 0
    return {
        name: replace(
            d.result(mean[name][keep], None if error is None else error[name][keep], scan.sampling, name),
            thickness=depths,
        )
        for name, d in detectors.items()
    }


def plan_simulation(
    atoms: Atoms,
    probe: Probe,
    scan: Scan,
    detectors: Mapping[str, Detector],
    *,
    thermal: ThermalModel = None,
    tilt: Any = (0.0, 0.0),
    thicknesses: Sequence[float] | None = None,
    plan: SlicePlan | None = None,
    devices: Sequence[Any] | None = None,
    **numerics: Unpack[NumericOptions],
) -> RunPlan:
    """What `simulate` would do with the same arguments, and the memory it takes; nothing is computed."""
    return _laid_out(
        Request.of((atoms, probe, scan, detectors), thermal, tilt, thicknesses, Numerics.of(numerics), plan, devices)
    ).run


class _Layout(eqx.Module):
    """A request made ready: the specimen as it is sent through, its slices, the positions to compute, the plan."""

    request: Request
    slices: SlicePlan
    sampled: ScanSampling
    run: RunPlan = eqx.field(static=True)

    @property
    def lanes(self) -> int:
        """Configurations computed at a time."""
        return self.run.devices if self.run.by_run else 1


def _laid_out(request: Request) -> _Layout:
    check_combination(request)
    atoms, probe, numerics = request.atoms, request.probe, request.numerics
    sampled = scan_sampling(request.scan, probe, atoms.box[:2], request.tilt.ndim > 1)
    slices = request.plan
    if slices is None:
        step = numerics.slice_thickness
        step = aligned_slices(atoms, SLICE) if step is None else step
        slices = plan_slices(atoms, step, request.thicknesses)
    slices = weighted_plan(slices, atoms, request.thermal)
    window = _window(request, slices)
    if window is not None:
        # As many whole periods as a window of a large crystal has: the probe stands anywhere in one of them.
        nx, ny = (int(np.ceil(window / side + 0.5)) if side < window else 1 for side in atoms.box[:2])
        if nx * ny > 1:
            slices = slices.repeated(nx, ny, len(atoms.number))
            request = eqx.tree_at(lambda r: r.atoms, request, atoms.repeated(nx, ny, 1))
    job = _job(request, slices, sampled, window)
    route = numerics.route
    if request.tilt.ndim > 1 or is_traced(probe.semiangle):
        route = "probes"
    fixed = is_traced(request.atoms.position) or is_traced(sampled.position)
    run = choose(job, None if fixed else window, route, numerics.batch, numerics.window != "auto")
    reach = run_band(request.thermal, numerics.transmission)[0] * run.grid.nyquist * probe.wavelength * 1e3
    clear = CLEAR if numerics.transmission == "renormalised" else 1.0  # the other modes mirror other codes
    check_reach(request.detectors, reach, isinstance(request.thermal, FastThermal), probe, clear)
    check_lit([Grid(run.grid.shape, run.grid.sampling, offset) for offset in run.offsets], probe)
    return _Layout(request, slices, sampled, run)


def _window(request: Request, slices: SlicePlan) -> float | None:
    """Å of specimen that every probe sees around it; None: the periodic box as it stands."""
    probe, window = request.probe, request.numerics.window
    if isinstance(request.numerics.sampling, Grid) or window is None:
        return None
    if window != "auto":
        check_window(float(window), probe)
        return float(window)
    depth = slices.depths[-1]
    return drift(request.tilt, depth)[1] + (TRACED_WINDOW if is_traced(probe.semiangle) else window_size(probe, depth))


def _job(request: Request, slices: SlicePlan, sampled: ScanSampling, window: float | None) -> Job:
    atoms, probe, detectors, thermal = request.atoms, request.probe, request.detectors, request.thermal
    sampling = request.numerics.sampling
    if sampling is None:
        fraction = run_band(thermal, request.numerics.transmission)[0]
        fast = isinstance(thermal, FastThermal)
        waves = probe.wavelength
        sampling = fast_sampling(detectors, waves) if fast else explicit_sampling(detectors, waves, fraction, SAMPLING)
    shape = sampled.position.shape[:2]
    step = (0.0, 0.0)
    if not is_traced(sampled.position):
        corner = np.asarray(sampled.position, float)
        dx = abs(corner[0, 1, 0] - corner[0, 0, 0]) if shape[1] > 1 else 0.0
        dy = abs(corner[1, 0, 1] - corner[0, 0, 1]) if shape[0] > 1 else 0.0
        step = (float(dx), float(dy))
    semiangle = 0.0 if is_traced(probe.semiangle) else float(probe.semiangle)
    wide = window is not None and min(atoms.box[:2]) > window and not is_traced(atoms.position)
    area = atoms.box[0] * atoms.box[1]
    return Job(
        box=atoms.box[:2],
        step=step,
        scan=(shape[0], shape[1]),
        pixels=request.scan.shape,
        sampling=sampling,
        fraction=run_band(thermal, request.numerics.transmission)[0],
        aperture=(semiangle + probe.edge / 2) * 1e-3 / probe.wavelength,
        nodes=focal_count(probe),
        slices=slices.exits[-1],
        exits=len(slices.exits),
        configurations=configurations(thermal),
        kinds=slices.index.shape[-2],
        period=lattice_period(atoms) if wide else None,
        atoms_per_area=len(atoms.number) / slices.index.shape[0] / area,
        channels=sum(int(np.prod(d.channels)) for d in detectors.values()),
        watched=isinstance(thermal, FastThermal),
        devices=len(jax.local_devices() if request.devices is None else request.devices),
        offsets=(sampling.offset,) if isinstance(sampling, Grid) else PLAIN if window is None else HALVES,
        isolated=window is not None,
    )


def _tables(request: Request, slices: SlicePlan, run: RunPlan) -> SliceTables:
    """Slice tables on the region's grid."""
    numerics, thermal, energy = request.numerics, request.thermal, request.probe.energy
    fraction, taper, carried = run_band(thermal, numerics.transmission)
    reach = fraction * run.grid.nyquist * request.probe.wavelength * 1e3
    return slice_tables(
        slices.elements,
        run.region,
        energy,
        numerics.transmission,
        run.region.band_limit(carried, taper),
        lost_angles(request.detectors, reach),
        parametrization=numerics.parametrization,
        partial=weighs(slices, request.atoms, thermal),
    )


class _Beam(eqx.Module):
    """Optics on every averaged grid, stacked, and on the matrix route the plane waves (grids, 2, beams) inside the
    aperture."""

    optics: Optics
    beams: Any


def _beam(layout: _Layout) -> _Beam:
    request, run = layout.request, layout.run
    tilt = request.tilt if request.tilt.ndim == 1 else jnp.zeros(2)
    grids = tuple(Grid(run.grid.shape, run.grid.sampling, offset) for offset in run.offsets)
    optics = prepare(request, layout.slices, grids, tilt, run.isolated)
    if run.route == "probes":
        return _Beam(optics, None)
    limit = (float(request.probe.semiangle) + request.probe.edge / 2) * 1e-3 / request.probe.wavelength
    radius = [Grid(optics.seen.shape, optics.seen.sampling, offset).k for offset in run.offsets]
    # From the angles alone, because the spectrum may be traced; as many on every grid, so that they share a program:
    # a beam outside the aperture weighs nothing.
    count = max(int((k < limit * (1 + 1e-6)).sum()) for k in radius)
    inside = [np.unravel_index(np.sort(np.argsort(k, axis=None, kind="stable")[:count]), k.shape) for k in radius]
    return _Beam(optics, jnp.asarray(np.array(inside)))


def _tiles(layout: _Layout) -> Tiles:
    run, slices, position = layout.run, layout.slices, layout.sampled.position
    if run.windowed:
        lean = drift(layout.request.tilt, slices.depths[-1])[0]
        return cut_tiles(
            slices, layout.request.atoms, np.asarray(position, float), run.tile, run.group, run.region, run.grid,
            run.devices, lean,
        )  # fmt: skip
    parts = 1 if run.by_run else run.devices
    return whole_box(slices, position.shape[0] * position.shape[1], parts)


def _signals(layout: _Layout, tiles: Tiles, shared: "_Shared", runs: list[tuple[Array, Array, int]]) -> list[Signals]:
    """Of as many runs (position, occupancy, grid) as there are lanes; name -> (exits, rows, cols, *channels)."""
    run, sampled = layout.run, layout.sampled
    mesh = _mesh(run, layout.request.devices)
    position, occupancy, grid = zip(*runs, strict=True)
    lanes = list(position), list(occupancy), jnp.asarray(np.array(grid, np.int32))
    scanned = (sampled.position, layout.request.tilt)
    out = _run(tiles, scanned, lanes, shared, run.route, run.batch, mesh, len(runs) > 1)
    shape = (sampled.position.shape[0], sampled.position.shape[1])
    return [_images(out, i, tiles.where, sampled, shape) for i in range(len(runs))]


@eqx.filter_jit
def _images(out: Signals, lane: int, where, sampled: ScanSampling, shape: tuple[int, int]) -> Signals:
    """One lane's signals on the scan; name -> (exits, rows, cols, *channels)."""

    def image(s):
        s = s[lane].reshape(-1, *s.shape[4:])[where]
        return jnp.moveaxis(sampled.resample(s.reshape(*shape, *s.shape[1:])), 2, 0)

    return jax.tree.map(image, out)


def _mesh(run: RunPlan, devices) -> Mesh | None:
    devices = jax.local_devices() if devices is None else devices
    return None if run.devices == 1 else Mesh(np.array(devices), ("devices",))


class _Shared(eqx.Module):
    """What every tile of every configuration uses."""

    beam: _Beam
    tables: SliceTables


@eqx.filter_jit
def _run(
    where: Tiles, scanned: tuple[Array, Array], lanes: tuple[list[Array], list[Array], Int[Array, " lanes"]],
    shared: _Shared, route: str, batch: int, mesh, by_run,
) -> Signals:  # fmt: skip
    """Every tile of every run given; name -> (lanes, tiles, groups, most, exits, *channels).

    scanned: position (rows, cols, 2) Å and tilt ((2,), or like them). lanes: positions and occupancies of the atoms,
    and the grid.
    """
    place, tilt = scanned[0].reshape(-1, 2), scanned[1]
    xy = place[where.member] - where.origin[:, :, None].astype(place.dtype)
    own_tilt = None if tilt.ndim == 1 else tilt.reshape(-1, 2)[where.member]
    tiles = (where.plan, xy, own_tilt, where.corner)
    specimens = (jnp.stack(lanes[0]), jnp.stack(lanes[1]), lanes[2])

    def one_tile(specimen, beam, tile):
        plan, xy, tilt, corner = tile
        if route == "matrix":
            signals = matrix_signals(specimen, plan, beam.optics, xy.reshape(-1, 2), beam.beams, batch)
            return jax.tree.map(lambda s: s.reshape(*xy.shape[:2], *s.shape[1:]), signals)
        return probe_signals(specimen, plan, beam.optics, xy, tilt, corner, batch)

    def everything(tiles, lanes, shared):
        def one_run(lane):
            position, occupancy, grid = lane
            beam = jax.tree.map(lambda a: a[grid], shared.beam)
            return jax.lax.map(partial(one_tile, Specimen(position, occupancy, shared.tables), beam), tiles)

        return jax.lax.map(one_run, lanes)

    if mesh is not None:
        first, second, none = PartitionSpec("devices"), PartitionSpec(None, "devices"), PartitionSpec()
        split = (none, first) if by_run else (first, none)
        everything = jax.shard_map(
            everything,
            mesh=mesh,
            in_specs=(*split, none),
            out_specs=first if by_run else second,
            check_vma=False,
        )
    return everything(tiles, specimens, shared)


def _each_configuration(
    signals: Callable[[list[tuple[Array, Array, int]]], list[Signals]], layout: _Layout
) -> Iterator[Signals]:
    """Signals of one configuration after the other, the mean over its grids, as many runs at a time as lanes."""
    atoms, thermal, runs = layout.request.atoms, layout.request.thermal, layout.run.runs
    grids = len(runs) // layout.run.configurations
    done: list[Signals] = []
    for start in range(0, len(runs), layout.lanes):
        some = [runs[min(start + lane, len(runs) - 1)] for lane in range(layout.lanes)]
        made = [(*configuration(atoms, thermal, i, layout.slices), grid) for i, grid in some]
        done += signals(made)[: len(runs) - start]
        while len(done) >= grids:
            yield jax.tree.map(lambda *s: sum(s) / grids, *done[:grids])
            del done[:grids]


def _average(each: Iterator[Signals], thermal: ThermalModel) -> tuple[Signals, Signals | None]:
    """Mean over configurations and its standard error, from the spread of independent draws, updated as they come."""
    pair = 2 if thermal is not None and thermal.antithetic else 1
    draws = configurations(thermal) // pair
    mean = spread = None
    for i in range(draws):
        value = next(each)
        if pair > 1:
            value = _halfway(value, next(each))
        if mean is None:
            mean = value
        elif spread is None:
            mean, spread = _first_two(mean, value)
        else:
            mean, spread = _update(mean, spread, value, i + 1)
    assert mean is not None
    return mean, None if spread is None else _standard_error(spread, draws)


# Compiled, so that a camera's patterns are added up where they are and never held as differences of all of them.


@jax.jit
def _halfway(a: Signals, b: Signals) -> Signals:
    return jax.tree.map(lambda x, y: (x + y) / 2, a, b)


@jax.jit
def _first_two(a: Signals, b: Signals) -> tuple[Signals, Signals]:
    """Mean of two values and sum of their squared deviations."""
    return jax.tree.map(lambda x, y: (x + y) / 2, a, b), jax.tree.map(lambda x, y: (x - y) ** 2 / 2, a, b)


@partial(jax.jit, donate_argnums=0)
def _standard_error(spread: Signals, draws) -> Signals:
    return jax.tree.map(lambda s: jnp.sqrt(s / (draws - 1) / draws), spread)


@partial(jax.jit, donate_argnums=(0, 1))
def _update(mean: Signals, spread: Signals, value: Signals, count) -> tuple[Signals, Signals]:
    """Mean and sum of squared deviations with one more value (Welford)."""
    new = jax.tree.map(lambda m, v: m + (v - m) / count, mean, value)
    return new, jax.tree.map(lambda s, m, n, v: s + (v - m) * (v - n), spread, mean, new, value)
