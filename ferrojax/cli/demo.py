"""`ferrojax demo`: from a real image to a polarization map that was learned from simulation."""

from time import perf_counter
from typing import TYPE_CHECKING, Any

from ferrojax.cli.output import prepared_output

if TYPE_CHECKING:
    import numpy as np

    from ferrojax.dataset import SimulatedSet
    from ferrojax.image import Image
    from ferrojax.polarization import PolarizationMap
    from ferrojax.training import Schedule, Trained

FRESH = 26
"""Supercells of four cells that the demo simulates itself, beside the shipped set."""
RESULTS = ("report.html", "map.png", "map.hspy", "map_classical.hspy", "map.csv", "model", "summary.json")


class Stopwatch:
    """Seconds per stage."""

    def __init__(self):
        self.start = self.last = perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = perf_counter()
        self.seconds[stage], self.last = now - self.last, now

    def total(self) -> float:
        """Since the start."""
        return perf_counter() - self.start


def demo(out: str, seed: int, fresh: int = FRESH, schedule: "Schedule | None" = None) -> None:
    """Run the whole line and write its results to `out`; fewer fresh supercells and steps make a trial run."""
    from rich.console import Console
    from rich.progress import Progress

    from ferrojax.training import Schedule

    console = Console(highlight=False, soft_wrap=True)
    watch, schedule = Stopwatch(), schedule or Schedule()
    with prepared_output(out) as folder:
        with Progress(console=console, transient=True) as progress:
            scans, classical = map_classically(progress, watch)
            simulated = simulate_cells(progress, watch, seed, fresh)
            targets = {n: patches_of(scans[n], classical[n]) for n in ("pseudo", "real")}
            trained = train_networks(progress, watch, simulated, targets, schedule, seed)
        maps = map_with_networks(scans, classical, trained)
        watch.lap("mapping with the networks")
        from ferrojax.cli.demo_report import Outcome, printed, write_demo

        outcome = Outcome(scans, maps, trained, simulated, schedule, watch, seed)
        write_demo(folder, outcome)
        for line in printed(outcome):
            console.print(line, markup=False)
    console.print(f"written to {out}: {', '.join(RESULTS)}", markup=False)


def map_classically(progress: Any, watch: Stopwatch) -> "tuple[dict[str, Image], dict[str, PolarizationMap]]":
    """The three scans (real, pseudo-experiment, non-polar control) and their column fits."""
    from ferrojax.crystal import material
    from ferrojax.data import data_file
    from ferrojax.io import read
    from ferrojax.polarization import map_polarization

    files = {
        "real": ("BTO_crystal_1.dm4", "BaTiO3", (0, 0, 1)),
        "pseudo": ("pseudo_experiment.npz", "BaTiO3", (0, 0, 1)),
        "null": ("sto110_adf_crop.npz", "SrTiO3", (1, 1, 0)),
    }
    task = progress.add_task("reading and fitting columns", total=len(files))
    scans, maps = {}, {}
    for name, (file, crystal, zone) in files.items():
        scans[name] = read(data_file(file))
        maps[name] = map_polarization(scans[name], material(crystal), zone)
        progress.advance(task)
    watch.lap("reading and column fits")
    return scans, maps


def simulate_cells(progress: Any, watch: Stopwatch, seed: int, fresh: int) -> "SimulatedSet":
    """The shipped training set and `fresh` supercells more, from the same plan."""
    from ferrojax.data import data_file
    from ferrojax.dataset import SimulatedSet, generate, read_plan

    task = progress.add_task("multislice simulation of training cells", total=fresh)
    plan = read_plan(data_file("bto_training.yaml"))
    more = generate(plan, range(fresh), plan.seed + 1 + seed, lambda done: progress.update(task, completed=done))
    watch.lap("simulation")
    return SimulatedSet.load(data_file("bto_training_set.npz")).join(more)


def patches_of(image: "Image", pmap: "PolarizationMap") -> "np.ndarray":
    """Normalised patches of the valid cells that have a whole one."""
    from ferrojax.dataset.patches import extract_patches, whole_patches
    from ferrojax.polarization import cell_frames

    cells = cell_frames(pmap)
    centre = cells.centre_px[whole_patches(image, cells.centre_px, cells.frame)]
    return extract_patches(image, centre, cells.frame)


def train_networks(
    progress: Any, watch: Stopwatch, simulated: "SimulatedSet", targets: dict, schedule: "Schedule", seed: int
) -> "dict[str, Trained]":
    """The simulation-only network and one joint network for each of the two BaTiO3 scans."""
    from ferrojax.crystal import material
    from ferrojax.training import train_jointly

    names = {"base": schedule.base, "simulation_only": schedule.final} | dict.fromkeys(targets, schedule.final)
    tasks = {n: progress.add_task(f"training: {n.replace('_', ' ')}", total=steps) for n, steps in names.items()}
    cell = float(material("BaTiO3").cell[0, 0])
    trained = train_jointly(
        simulated,
        targets,
        cell,
        schedule,
        seed,
        lambda name, step: progress.update(tasks[name], completed=step),
    )
    watch.lap("training")
    return trained


def map_with_networks(scans: dict, classical: dict, trained: "dict[str, Trained]") -> dict[str, dict]:
    """scan -> method -> map, for the real image and the pseudo-experiment; the control keeps its column fit."""
    from ferrojax.inference import MadeFor, NetworkPredictor
    from ferrojax.polarization import with_prediction

    maps: dict[str, dict] = {"null": {"classical": classical["null"]}}
    for scan in ("pseudo", "real"):
        maps[scan] = {"classical": classical[scan]}
        for method, which in (("simulation_only", "simulation_only"), ("joint", scan)):
            result = trained[which]
            name = f"network, {method.replace('_', ' ')}"
            predictor = NetworkPredictor(result.model, result.spread_scale, name, MadeFor("BaTiO3"))
            maps[scan][method] = with_prediction(classical[scan], scans[scan], predictor)
    return maps
