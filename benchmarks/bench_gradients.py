"""Reverse mode against forward: time, peak memory, and agreement with finite differences.

usage: python benchmarks/bench_gradients.py     (about ten minutes on two busy cores)
Loss: Σ w·HAADF at a continuous thickness (`at_thickness` between the last exit planes) and Σ w·ABF, w random.
Gradient with respect to every atom's position, the tilt, the defocus and the thickness, probes route, whole box.
Each time and peak is of a process of its own (ru_maxrss; without the first call, which compiles).
"""

import json
import resource
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from common import write_result

from ferrojax.crystal import displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, at_thickness, simulate
from ferrojax.grid import Grid
from ferrojax.multislice import plan_slices
from ferrojax.optics import Probe

CASES = {
    "64 probes, 40 slices, 144²": {"cells": 2, "depth": 20, "pixels": 144, "scan": 8},
    "256 probes, 100 slices, 288²": {"cells": 3, "depth": 50, "pixels": 288, "scan": 16},
    "4 probes, 8 slices, 96²": {"cells": 1, "depth": 4, "pixels": 96, "scan": 2},
}
LARGE, SMALL = list(CASES)[:2], list(CASES)[2]
STEPS = {"position": 1e-4, "tilt": 3e-3, "defocus": 1e-2, "thickness": 1e-4}
DETECTORS = {"haadf": AnnularDetector(50, 90), "abf": AnnularDetector(11, 21.4)}


def build(cells: int, depth: int, pixels: int, scan: int):
    """Loss of the parameters, and the parameters."""
    rng = np.random.default_rng(0)
    atoms = displaced_supercell(material("BaTiO3"), rng.normal(size=(cells, cells, 3)) * 0.1, depth)
    count = 2 * depth
    step = atoms.box[2] / count
    planes = [step * n for n in (count - 6, count - 4, count - 2, count)]
    plan = plan_slices(atoms, step + 1e-6, planes)
    width, height, _ = atoms.box
    grid = Grid((pixels, pixels), (height / pixels, width / pixels))
    weight = jnp.asarray(rng.uniform(0.5, 1.5, (scan, scan)))
    positions = Scan.grid((0.1, 0.2), (0.8 * width, 0.8 * height), (scan, scan))

    def loss(p):
        moved = eqx.tree_at(lambda a: a.position, atoms, p["position"])
        probe = Probe(200e3, 21.4, p["defocus"])
        out = simulate(
            moved, probe, positions, DETECTORS, tilt=p["tilt"], sampling=grid, plan=plan,
            route="probes", window=None,
        )  # fmt: skip
        haadf, abf = (at_thickness(out[name], planes, p["thickness"]).data for name in ("haadf", "abf"))
        return (weight * (100 * haadf + abf)).mean()

    parameters = {
        "position": atoms.position,
        "tilt": jnp.array([3.0, -2.0]),
        "defocus": jnp.asarray(20.0),
        "thickness": jnp.asarray(planes[-2] - 0.3 * step),
    }
    return loss, parameters


def measured(kind: str, case: str) -> dict[str, float]:
    """Seconds of the fastest call after the first, of wall and processor (all threads), and peak MiB."""
    loss, parameters = build(**CASES[case])
    function = loss if kind == "forward" else jax.value_and_grad(loss)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, cpu = [], []
    while len(seconds) < 2 or sum(seconds[1:]) < 5:
        start, worked = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(parameters))
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - worked)
    best = int(np.argmin(seconds[1:])) + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": seconds[best], "cpu_seconds": cpu[best], "with_compilation": seconds[0],
        "peak_mib": peak, "peak_before_mib": before,
    }  # fmt: skip


def agreement() -> dict[str, dict[str, float]]:
    """Directional derivatives of the small case: reverse against fourth-order central differences, and forward mode."""
    loss, parameters = build(**CASES[SMALL])
    rng = np.random.default_rng(1)
    out = {}
    gradient = jax.grad(loss)(parameters)
    for name, value in parameters.items():
        along = jnp.asarray(rng.normal(size=value.shape), value.dtype)

        def moved(s, name=name, value=value, along=along):
            return loss({**parameters, name: value + s * along})

        reverse = float((gradient[name] * along).sum())
        forward = float(jax.jvp(moved, (jnp.zeros(()),), (jnp.ones(()),))[1])
        h = STEPS[name]
        near, far = ((float(moved(s)) - float(moved(-s))) / (2 * s) for s in (h, 2 * h))
        out[name] = {"reverse": reverse, "forward_mode": forward, "differences": (4 * near - far) / 3}
    return out


def child(*arguments: str, x64: bool = False) -> dict:
    """This script in a process of its own."""
    import os

    env = {**os.environ, "JAX_ENABLE_X64": "1" if x64 else "0"}
    done = subprocess.run([sys.executable, __file__, *arguments], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(agreement() if sys.argv[1] == "agreement" else measured(sys.argv[1], sys.argv[2])))
        return
    figures = {}
    for case in LARGE:
        forward, gradient = child("forward", case), child("gradient", case)
        ratios = {f"{k}_ratio": gradient[k] / forward[k] for k in ("seconds", "cpu_seconds")}
        figures[case] = {"forward": forward, "gradient": gradient, **ratios}
        print(case, json.dumps(figures[case]))
    single, double = child("agreement"), child("agreement", x64=True)
    relative = {
        name: {
            "float32 gradient against x64 gradient": abs(single[name]["reverse"] / d["reverse"] - 1),
            "x64 gradient against differences": abs(d["reverse"] / d["differences"] - 1),
            "x64 forward against reverse mode": abs(d["forward_mode"] / d["reverse"] - 1),
        }
        for name, d in double.items()
    }
    print(json.dumps(relative, indent=1))
    write_result("gradients", {"cases": figures, "agreement": relative})


if __name__ == "__main__":
    main()
