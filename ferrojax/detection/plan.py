"""The plan of a run: route, windows and batch from a model of cost and memory, before anything is computed."""

import dataclasses
import itertools

import jax
import numpy as np

from ferrojax.detection.routes import LOSS_PLANES
from ferrojax.errors import InputError
from ferrojax.grid import Grid, friendly

FFT = 3.1e-10
"""Seconds per pixel and log₂(pixels) of one slice of one wave on two CPU cores; only ratios decide."""
FLOP = 1.2e-11
"""Seconds per floating-point operation of a matrix product on the same machine."""
WORKING = 2**28
"""Bytes of waves in flight that a batch should not exceed."""
FREE_PART = 0.8
"""Of the memory that is free."""


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """How a simulation will run, and what memory (bytes) it takes; `print` it.

    route: "probes" or "matrix". grid: of every window, or of the whole box. tile: (rows, cols) of scan positions that
    share a window. waves: sent through the slices per tile. memory: what, in bytes, per device.
    """

    route: str
    windowed: bool
    grid: Grid
    tile: tuple[int, int]
    tiles: int
    positions: int
    waves: int
    batch: int
    slices: int
    configurations: int
    devices: int
    memory: dict[str, int]

    @property
    def wave_slices(self) -> int:
        """Fourier-transform pairs that the whole run takes."""
        return self.tiles * self.waves * self.slices * self.configurations

    @property
    def seconds(self) -> float:
        """Rough time on two CPU cores."""
        return self.wave_slices * _slice_seconds(self.grid)

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
            f"{self.devices} device{'s' * (self.devices > 1)}; memory {_size(total)} ({parts}); "
            f"{self.wave_slices:.2g} wave-slices, about {_time(self.seconds)} on two CPU cores"
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """What the plan is made for; lengths in Å, frequencies in 1/Å, channels counted per position and exit plane."""

    box: tuple[float, float]
    step: tuple[float, float]
    scan: tuple[int, int]
    sampling: float | Grid
    fraction: float
    aperture: float
    nodes: int
    slices: int
    exits: int
    configurations: int
    atoms_per_area: float
    channels: int
    watched: bool
    devices: int


def choose(job: Job, window: float | None, route: str, batch: int | None) -> RunPlan:
    """The cheapest plan. window: Å that a probe needs around it (None: the whole box); route: "auto" or forced."""
    routes = ("probes", "matrix") if route == "auto" else (route,)
    candidates = []
    for kind, edge in itertools.product(routes, (None, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)):
        plan = _candidate(job, kind, window, edge, batch)
        if plan is not None:
            candidates.append((_seconds(job, plan), plan))
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
    whole = edge is None
    tile = job.scan
    if edge is not None:
        if window is None or isinstance(job.sampling, Grid):
            return None
        tile = tuple(
            min(n, max(1, int(edge / s) if s > 0 else n)) for n, s in zip(job.scan, job.step[::-1], strict=True)
        )
        reach = [window + (n - 1) * s for n, s in zip(tile, job.step[::-1], strict=True)][::-1]
        if all(r >= 0.9 * b for r, b in zip(reach, job.box, strict=True)):
            return None
        grid = _window_grid(reach, job, job.sampling)
    elif isinstance(job.sampling, Grid):
        grid = job.sampling
    else:
        grid = Grid.for_box(*job.box, job.sampling)
    tiles = int(np.prod([-(-n // t) for n, t in zip(job.scan, tile, strict=True)]))
    positions = int(np.prod(tile))
    waves = positions * job.nodes
    if route == "matrix":
        waves = int(np.pi * job.aperture**2 * np.prod(grid.extent)) + 1
    return _with_memory(job, route, not whole, grid, tile, tiles, positions, waves, batch)


def _window_grid(reach: list[float], job: Job, ceiling: float) -> Grid:
    """At least `reach` (x, y) Å at the sampling asked for; an axis that fills the box takes its exact period."""
    shape, sampling = [], []
    for r, b in zip(reach[::-1], job.box[::-1], strict=True):
        full = r >= 0.9 * b
        n = friendly((b if full else r) / ceiling)
        shape.append(n)
        sampling.append(b / n if full else ceiling)
    return Grid((shape[0], shape[1]), (sampling[0], sampling[1]))


def _with_memory(job, route, windowed, grid, tile, tiles, positions, waves, batch) -> RunPlan:
    pixels = int(np.prod(grid.shape))
    seen = int(pixels * min(1.0, 1.1 * job.fraction) ** 2)
    if batch is None:
        batch = int(np.clip(WORKING // (pixels * 8 * 6), 4, 64 if jax.default_backend() == "cpu" else 256))
        batch = min(16, batch) if jax.default_backend() == "cpu" else batch
    stack = job.slices * pixels * (8 + 4 * job.watched)
    memory = {
        "transmission": min(stack, 2**28),
        "waves": min(batch, waves) * pixels * 8 * 5,
        "signals": int(np.prod(job.scan)) * job.exits * job.channels * 4 * 3,
    }
    if route == "matrix":
        atoms = job.slices * max(8, int(2 * job.atoms_per_area * np.prod(grid.extent))) * job.watched
        kept = seen * (job.exits + LOSS_PLANES * job.watched) + atoms
        memory["matrix"] = int(waves) * kept * 8 * 2
        memory["waves"] += min(batch, positions) * kept * 12
    return RunPlan(
        route,
        windowed,
        grid,
        tile,
        tiles,
        positions,
        waves,
        batch,
        job.slices,
        job.configurations,
        job.devices,
        memory,
    )


def _seconds(job: Job, plan: RunPlan) -> float:
    pixels = np.prod(plan.grid.shape)
    stack = 4 * _slice_seconds(plan.grid) + 8 * FLOP * pixels * job.atoms_per_area * np.prod(plan.grid.extent)
    seconds = job.slices * (stack + plan.waves * _slice_seconds(plan.grid))
    if plan.route == "matrix":
        seen = pixels * job.fraction**2 * (job.exits + LOSS_PLANES * job.watched)
        atoms = job.slices * 2 * job.atoms_per_area * np.prod(plan.grid.extent) * job.watched
        seconds += 8 * FLOP * plan.positions * job.nodes * plan.waves * (seen + atoms)
    return plan.tiles * seconds


def _slice_seconds(grid: Grid) -> float:
    pixels = float(np.prod(grid.shape))
    return FFT * pixels * np.log2(pixels)


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
