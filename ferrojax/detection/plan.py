"""The plan of a run: route, windows and batch from a model of cost and memory, before anything is computed."""

import dataclasses
import itertools
import math

import jax
import numpy as np

from ferrojax.detection.routes import LOSS_PLANES
from ferrojax.errors import InputError
from ferrojax.grid import Grid, friendly
from ferrojax.multislice.propagation import STACK_LIMIT

FFT = 4e-10
"""Seconds per pixel and log₂(pixels) of one slice of one wave on two CPU cores; only ratios decide."""
STACK = 2e-8
"""Seconds per pixel and kind of atom to make one slice's transmission function."""
FLOP = 1.2e-11
"""Seconds per floating-point operation of a matrix product on the same machine."""
GROUP = 4
"""Scan positions along each axis that share a window cropped out of their tile's region."""
HALVES = ((0.5, 0.0), (0.0, 0.5))
"""Offsets (y, x) of a window's frequencies, in steps, over which is averaged: the probe's images next door count −1 on
one grid and +1 on the other, so that their interference cancels, which is worth a window of about twice the size. Each
grid is its own mirror image, so that a symmetric specimen gives symmetric patterns (a single grid offset by a quarter,
the mean-value point of Baldereschi (1973), cancels as well but tells left from right: 1 pm in ABF, 0.3 in a pattern's
Friedel asymmetry)."""
PLAIN = ((0.0, 0.0),)
"""A periodic box as it stands."""
RIM = 1.5
"""Å at the edge of a region where the tails of atoms outside are missing: no window reaches there."""
WORKING = 2**28
"""Bytes of waves in flight that a batch should not exceed."""
CACHE = 5 * 2**18
"""Bytes of waves that a processor's caches hold. A larger batch leaves them, and XLA then multiplies on several threads
and transforms on one: twice as slow at 200 × 200 pixels (9 waves against 4), 1.4 times with a device for every core."""
PROGRAM = 200 * 2**20
"""Bytes that compiling and running take whatever the size."""
FULL = 0.9
"""Of a side of the box: a region that needs more of it takes all of it."""
FREE_PART = 0.8
"""Of the memory that is free."""


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """How a simulation will run, and what memory (bytes) it takes; `print` it.

    route: "probes" or "matrix". grid: of the waves, a window or the whole box. tile: (rows, cols) of scan positions
    that share the transmission functions of a region; group: that share a window inside it. waves: sent through
    the slices per tile and run. offsets: (y, x) of the frequencies of the grids averaged, in steps. isolated: whether
    the probe's images next door are kept from interfering with it; in a plain periodic box they do. memory: what, in
    bytes, per device.
    """

    route: str
    windowed: bool
    grid: Grid
    region: Grid
    group: tuple[int, int]
    tile: tuple[int, int]
    tiles: int
    positions: int
    waves: int
    batch: int
    slices: int
    configurations: int
    devices: int
    offsets: tuple[tuple[float, float], ...]
    isolated: bool
    memory: dict[str, int]

    @property
    def by_run(self) -> bool:
        """Whether devices take a run each: the beams of one box cannot be shared out otherwise."""
        return self.route == "matrix" and not self.windowed and self.devices > 1 and len(self.runs) > 1

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(configuration, which of the offset grids) of every run: configurations take the grids in turn where that
        serves all grids alike, else each takes all of them."""
        grids = len(self.offsets)
        if self.configurations % grids == 0:
            return tuple((i, i % grids) for i in range(self.configurations))
        return tuple((i, grid) for i in range(self.configurations) for grid in range(grids))

    @property
    def wave_slices(self) -> int:
        """Fourier-transform pairs that the whole run takes."""
        return self.tiles * self.waves * self.slices * len(self.runs)

    @property
    def seconds(self) -> float:
        """Rough time on two CPU cores."""
        return self.wave_slices * _slice_seconds(self.grid) * 1.2

    def __str__(self) -> str:
        height, width = self.grid.extent
        rows, cols = self.grid.shape
        what = "window" if self.windowed else "whole box"
        total = sum(self.memory.values())
        parts = ", ".join(f"{name} {_size(size)}" for name, size in self.memory.items())
        return (
            f"plan: {self.route} route, {what} {width:.1f} × {height:.1f} Å on {cols} × {rows} px; "
            f"{self.tiles} tile{'s' * (self.tiles > 1)} of {self.tile[1]} × {self.tile[0]} positions, "
            f"{self.waves} waves each in batches of {self.batch}, {self.slices} slices, "
            f"{self.configurations} configuration{'s' * (self.configurations > 1)}, "
            f"{len(self.runs)} run{'s' * (len(self.runs) > 1)}, "
            f"{self.devices} device{'s' * (self.devices > 1)}; memory {_size(total)} ({parts}); "
            f"{self.wave_slices:.2g} wave-slices, about {_time(self.seconds)} on two CPU cores"
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """What the plan is made for; lengths in Å, frequencies in 1/Å, channels counted per position and exit plane."""

    box: tuple[float, float]
    step: tuple[float, float]
    scan: tuple[int, int]
    pixels: tuple[int, int]
    sampling: float | Grid
    fraction: float
    aperture: float
    nodes: int
    slices: int
    exits: int
    configurations: int
    kinds: int
    period: tuple[float, float] | None
    atoms_per_area: float
    channels: int
    watched: bool
    devices: int
    offsets: tuple[tuple[float, float], ...]
    isolated: bool


def choose(job: Job, window: float | None, route: str, batch: int | None, forced: bool = False) -> RunPlan:
    """The cheapest plan. window: Å that a probe needs around it (None: the whole box; forced: even where that is
    cheaper); route: "auto" or forced."""
    routes = ("probes", "matrix") if route == "auto" else (route,)
    candidates = []
    for kind, edge in itertools.product(routes, (None, 0.0, 2.0, 4.0, 8.0, 16.0, 32.0)):
        plan = _candidate(job, kind, window, edge, batch)
        if plan is not None:
            candidates.append((_seconds(job, plan), plan))
    covered = window is not None and all(window >= FULL * side for side in job.box)  # the window is the whole box
    if forced and not covered and any(plan.windowed for _, plan in candidates):
        candidates = [c for c in candidates if c[1].windowed]
    best = min(candidates, key=lambda c: c[0])[1]
    limit = free_memory()
    total = sum(best.memory.values())
    if limit is not None and total > FREE_PART * limit:
        raise InputError(
            "memory",
            _size(total),
            f"is more than {FREE_PART:.0%} of the {_size(limit)} that are free; {best}",
            "use fewer scan positions, exit planes or detector pixels, or a smaller window",
        )
    return best


def _candidate(job: Job, route: str, window: float | None, edge: float | None, batch: int | None) -> RunPlan | None:
    """Tiles of about `edge` Å (None: one, with the whole box)."""
    if edge is None:
        grid = job.sampling if isinstance(job.sampling, Grid) else Grid.for_box(*job.box, job.sampling)
        grid = Grid(grid.shape, grid.sampling)
        return _with_memory(job, route, grid, grid, job.scan, job.scan, batch)
    if window is None or isinstance(job.sampling, Grid):
        return None
    cropped = route == "probes" and job.period is not None
    axes = [_Axis.plan(job, i, window, edge, cropped, job.sampling) for i in (0, 1)]  # y, x
    if route == "matrix" and all(a.full for a in axes):
        return None
    y, x = axes
    region = Grid((y.region, x.region), (y.sampling, x.sampling))
    grid = Grid((y.window, x.window), (y.sampling, x.sampling))
    # Windows are cropped out of kept transmission functions: they must be kept in double precision too.
    stack = job.slices * region.shape[0] * region.shape[1] * 2 * (8 + 4 * job.watched)
    if (region.shape != grid.shape and stack > STACK_LIMIT) or (cropped and region.shape == grid.shape):
        return None
    return _with_memory(job, route, region, grid, (y.tile, x.tile), (y.group, x.group), batch)


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One axis of a windowed plan: scan positions per tile and group, pixels of region and window."""

    tile: int
    group: int
    region: int
    window: int
    sampling: float
    full: bool

    @staticmethod
    def plan(job: Job, axis: int, window: float, edge: float, cropped: bool, ceiling: float) -> "_Axis":
        """axis: 0 for y, 1 for x. A window cropped out of a region spans whole lattice periods, to close on itself."""
        n, step, box = job.scan[axis], job.step[1 - axis], job.box[1 - axis]
        tile = min(n, max(1, int(edge / step) if step > 0 else n))
        if not cropped:
            reach = window + (tile - 1) * step
            full = reach >= FULL * box
            pixels = friendly((box if full else reach) / ceiling)
            return _Axis(tile, tile, pixels, pixels, box / pixels if full else ceiling, full)
        assert job.period is not None
        period = job.period[1 - axis]
        group = min(n, GROUP if step > 0 else n)
        tile = n if tile == n else max(tile // group * group, group)
        per_period = friendly(period / ceiling)
        sampling = period / per_period
        periods = max(1, math.ceil((window + (group - 1) * step) / period))
        reach = periods * period + (tile - group) * step + 2 * RIM
        if reach >= FULL * box:
            pixels = round(box / sampling)
            return _Axis(tile, group, pixels, min(pixels, periods * per_period), sampling, True)
        return _Axis(tile, group, friendly(reach / sampling), periods * per_period, sampling, False)


def _with_memory(
    job: Job, route: str, region: Grid, grid: Grid, tile: tuple[int, int], group: tuple[int, int], batch: int | None
) -> RunPlan:
    pixels = grid.shape[0] * grid.shape[1]
    seen = int(pixels * min(1.0, 1.1 * job.fraction) ** 2)
    positions = tile[0] * tile[1]
    # groups are filled up by repeating positions
    waves = math.prod(math.ceil(t / g) * g for t, g in zip(tile, group, strict=True)) * job.nodes
    if route == "matrix":
        waves = int(np.pi * job.aperture**2 * np.prod(grid.extent)) + 1
    if batch is None:
        batch = int(np.clip(WORKING // (pixels * 8 * 6), 4, 256))
        if jax.default_backend() == "cpu":
            # the sum over a scattering matrix reads the whole of it for every batch of positions
            batch = int(np.clip(CACHE // (pixels * 8), 4 if route == "matrix" else 1, 16))
    stack = job.slices * region.shape[0] * region.shape[1] * (8 + 4 * job.watched)
    memory = {
        "transmission": min(stack, STACK_LIMIT),
        "waves": min(batch, waves) * pixels * 8 * 5,
        "signals": int(_copies(job) * max(math.prod(job.scan), math.prod(job.pixels)) * job.exits * job.channels * 4),
        "program": PROGRAM,
    }
    if route == "matrix":
        atoms = job.slices * max(8, int(2 * job.atoms_per_area * np.prod(grid.extent))) * job.watched
        kept = seen * (job.exits + LOSS_PLANES * job.watched) + atoms
        memory["matrix"] = int(waves) * kept * 8 * 2
        memory["waves"] += min(batch, positions) * kept * 12
    return RunPlan(
        route=route,
        windowed=tile != job.scan or grid.extent[0] * grid.extent[1] < 0.99 * job.box[0] * job.box[1],
        grid=grid,
        region=region,
        group=group,
        tile=tile,
        tiles=int(np.prod([-(-n // t) for n, t in zip(job.scan, tile, strict=True)])),
        positions=positions,
        waves=waves,
        batch=batch,
        slices=job.slices,
        configurations=job.configurations,
        devices=job.devices,
        offsets=job.offsets,
        isolated=job.isolated,
        memory=memory,
    )


def _copies(job: Job) -> float:
    """Of all signals that are held at a time: runs, their mean, and the spread of configurations (measured)."""
    if job.configurations > 1:
        return 5.0
    return 3.5 if len(job.offsets) > 1 else 1.5


def _seconds(job: Job, plan: RunPlan) -> float:
    """On one device: the plan, and with it the result, must not depend on how many share the work."""
    pixels = plan.region.shape[0] * plan.region.shape[1]
    seconds = job.slices * (STACK * job.kinds * pixels + plan.waves * _slice_seconds(plan.grid))
    if plan.route == "matrix":
        seen = pixels * job.fraction**2 * (job.exits + LOSS_PLANES * job.watched)
        atoms = job.slices * 2 * job.atoms_per_area * np.prod(plan.grid.extent) * job.watched
        seconds += 8 * FLOP * plan.positions * job.nodes * plan.waves * (seen + atoms)
    return float(plan.tiles * seconds)


def _slice_seconds(grid: Grid) -> float:
    pixels = float(np.prod(grid.shape))
    return FFT * pixels * math.log2(pixels)


def free_memory() -> int | None:
    """Bytes free on the first device (the machine's, on a CPU); None where it cannot be told."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":") for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 100 else f"{seconds:.0f} s"
