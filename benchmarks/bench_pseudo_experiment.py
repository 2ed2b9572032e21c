"""Errors on the pseudo-experiment by column fit, simulation-only and joint network, over training seeds.

usage: python benchmarks/bench_pseudo_experiment.py [SEEDS] [OUT.json]     (about 70 s a seed on 2 cores)
Trains on the shipped set alone, as the demo does with fresh cells added. No label of the scan is used.
"""

import json
import platform
import sys
import time

import jax
import numpy as np

from ferrojax.crystal import material
from ferrojax.data import data_file
from ferrojax.dataset import SimulatedSet
from ferrojax.dataset.patches import extract_patches, whole_patches
from ferrojax.inference import MadeFor, NetworkPredictor, Truth, no_signal, score
from ferrojax.io import read
from ferrojax.polarization import cell_frames, map_polarization, with_prediction
from ferrojax.training import Schedule, train_jointly


def main(seeds: int, out: str) -> None:
    crystal = material("BaTiO3")
    scan, truth = read(data_file("pseudo_experiment.npz")), Truth.load(data_file("pseudo_experiment.npz"))
    classical = map_polarization(scan, crystal)
    cells = cell_frames(classical)
    whole = whole_patches(scan, cells.centre_px, cells.frame)
    patches = extract_patches(scan, cells.centre_px[whole], cells.frame)
    simulated = SimulatedSet.load(data_file("bto_training_set.npz"))
    runs: dict[str, list[dict]] = {"simulation_only": [], "joint": []}
    start = time.time()
    for seed in range(seeds):
        trained = train_jointly(simulated, {"joint": patches}, float(crystal.cell[0, 0]), Schedule(), seed)
        for name, result in trained.items():
            predictor = NetworkPredictor(result.model, result.spread_scale, name, MadeFor("BaTiO3"))
            runs[name].append(score(with_prediction(classical, scan, predictor), truth))
            print(seed, name, {k: v for k, v in runs[name][-1].items() if k != "bias_xy"}, flush=True)
    figures = ("rmse", "bias", "scatter", "slope", "coverage_68", "coverage_95")
    record = {
        "command": f"python benchmarks/bench_pseudo_experiment.py {seeds}",
        "classical": score(classical, truth),
        "no_signal": no_signal(truth),
        "distinct_sites": len(np.unique(truth.displacement.round(5), axis=0)),
        **{
            name: {f: [float(np.mean([r[f] for r in rs])), float(np.std([r[f] for r in rs], ddof=1))] for f in figures}
            for name, rs in runs.items()
        },
        "mean_and_sd_over_seeds": seeds,
        "seconds_per_seed": (time.time() - start) / seeds,
        "versions": {"jax": jax.__version__, "python": platform.python_version(), "device": str(jax.devices()[0])},
    }
    with open(out, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 3,
        sys.argv[2] if len(sys.argv) > 2 else "benchmarks/results/pseudo_experiment.json",
    )
