"""FastThermal against converged frozen phonons with the same displacements; and what that reference is worth.

usage: python benchmarks/bench_thermal.py model [CONFIGURATIONS] | sweep | reference     (5 to 10 minutes on a core)
model: the default FastThermal, HAADF 60–170 and ABF 11–21.4 mrad, 200 kV, 21.4 mrad, 5 to 20 nm, PbTiO3 (polar,
cubic cell) and BiFeO3 (R3c, pseudo-cubic box). sweep: sampling against accuracy. reference: renormalised at 0.0375 and
0.045 Å per pixel against conventional multislice down to 0.0062 Å per pixel, on six probes.
"""

import json
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.grid import Grid
from ferrojax.multislice import FastThermal, FrozenPhonons
from ferrojax.optics import Probe

DETECTORS = {"haadf": AnnularDetector(60, 170), "abf": AnnularDetector(11, 21.4)}
PROBE = Probe(200e3, 21.4)
REFERENCE = {"sampling": 0.0375}
BISMUTH_FERRITE_RMS = {"Bi": 0.10, "Fe": 0.07, "O": 0.09}
"""Å per axis. Assumed; no cited value."""


def record(name: str, figures: dict) -> None:
    """Write figures with what they were measured on to results/<name>.json."""

    def plain(value) -> Any:
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple | np.ndarray):
            return [plain(v) for v in value]
        return value if isinstance(value, str | int | bool) or value is None else float(f"{float(value):.5g}")

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    head = {
        "command": "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "date": date.today().isoformat(),
        "versions": {"jax": jax.__version__, "python": platform.python_version(), "device": str(jax.devices()[0])},
    }
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.write_text(json.dumps({**head, **plain(figures)}, indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


def lead_titanate(depth: int) -> Atoms:
    """2 × 2 columns of cells, B displaced by 0.1 Å along x."""
    field = np.zeros((2, 2, 3))
    field[..., 0] = 0.1
    return displaced_supercell(material("PbTiO3"), field, depth)


def bismuth_ferrite(depth: int) -> Atoms:
    """R3c along pseudo-cubic [001]: 2 × 2 columns of cells, `depth` (even) cells, the 89.1° angles made right.

    Cell and sites: mp-24932 in T. E. Smidt et al., Sci. Data 7, 72 (2020).
    """
    from ase.build import make_supercell
    from ase.spacegroup import crystal

    sites = [(0, 0, 0.280741), (0, 0, 0.002054), (0.017902, 0.432932, 0.048735)]
    cell = [5.637121, 5.637121, 14.116986, 90, 90, 120]
    primitive = crystal(["Fe", "Bi", "O"], sites, spacegroup=161, cellpar=cell, primitive_cell=True)
    hexagonal = crystal(["Fe", "Bi", "O"], sites, spacegroup=161, cellpar=cell).cell.array
    rhombohedral = np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3 @ hexagonal
    double = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) @ rhombohedral
    box = make_supercell(primitive, np.rint(double @ np.linalg.inv(primitive.cell.array)).astype(int))
    length = float(np.linalg.norm(double, axis=1).mean())
    at = np.linalg.solve(double.T, box.positions.T).T  # fractions of two pseudo-cubic cells
    phase = np.exp(4j * np.pi * at[box.numbers == 83]).mean(0)
    at = (at - np.angle(phase) / (4 * np.pi) + [0, 0, 0.125]) % 1
    layers = np.arange(depth // 2)
    position = (at[None] + np.stack([0 * layers, 0 * layers, layers], -1)[:, None]).reshape(-1, 3) * length
    rms = np.array([BISMUTH_FERRITE_RMS[s] for s in box.get_chemical_symbols() * len(layers)])
    return Atoms(position, np.tile(box.numbers, len(layers)), (length, length, length * len(layers)), rms)


def difference(image, reference) -> tuple[list[float], list[float]]:
    """Relative L2 and relative difference of the mean, in percent, per thickness."""
    x, r = (np.asarray(a, float).reshape(len(a), -1) for a in (image, reference))
    return (
        (100 * np.linalg.norm(x - r, axis=1) / np.linalg.norm(r, axis=1)).tolist(),
        (100 * (x.mean(1) / r.mean(1) - 1)).tolist(),
    )


def specimens() -> dict[str, tuple[Atoms, float]]:
    found = {"PbTiO3": lead_titanate(51), "BiFeO3": bismuth_ferrite(50)}
    return {name: (atoms, atoms.box[0] / 2) for name, atoms in found.items()}


def compare(atoms: Atoms, cell: float, configurations: int, choices: dict[str, dict]) -> dict:
    """Each choice of FastThermal's options against the reference, with seconds of a second, compiled run."""
    depths = [cell * round(t / cell) for t in (50, 100, 150, 200)]
    scan = Scan.grid((0, 0), (cell, cell), (4, 4))

    def run(thermal, options):
        return simulate(atoms, PROBE, scan, DETECTORS, thermal=thermal, thicknesses=depths, window=None, **options)

    reference = run(FrozenPhonons(configurations), REFERENCE)
    rows = {}
    for name, options in choices.items():
        thermal = FastThermal(configurations, antithetic=False)
        out, start = run(thermal, options), time.time()
        run(thermal, options)["haadf"].data.block_until_ready()
        rows[name] = {"seconds_per_configuration": (time.time() - start) / configurations}
        for d in DETECTORS:
            rows[name][d] = dict(
                zip(("l2_percent", "mean_percent"), difference(out[d].data, reference[d].data), strict=True)
            )
        print(name, rows[name], flush=True)
    start = time.time()
    run(FrozenPhonons(configurations), REFERENCE)["haadf"].data.block_until_ready()
    return {"depth_A": depths, "reference_seconds_per_configuration": (time.time() - start) / configurations, **rows}


def model(configurations: int) -> None:
    figures = {
        name: compare(
            atoms, cell, configurations, {"default": {}, "slices of one cell": {"slice_thickness": cell + 1e-3}}
        )
        for name, (atoms, cell) in specimens().items()
    }
    record("thermal_model", {"configurations": configurations, **figures})


def sweep() -> None:
    pixels = (108, 90, 80, 72, 70)
    figures = {}
    for name, (atoms, cell) in specimens().items():
        grids = {f"{2 * cell / n:.4f} Å/px": Grid((n, n), (2 * cell / n, 2 * cell / n)) for n in pixels}
        choices = {f"{k}, 4 Å slices": {"sampling": g} for k, g in grids.items()}
        choices |= {f"{k}, 2 Å slices": {"sampling": g, "slice_thickness": cell / 2 + 1e-3} for k, g in grids.items()}
        figures[name] = compare(atoms, cell, 2, choices)
    record("thermal_sweep", {"configurations": 2, **figures})


def reference() -> None:
    """Six probes on and between columns of 20 nm PbTiO3, one frozen configuration."""
    atoms, thermal = lead_titanate(51), FrozenPhonons(1)
    cell = atoms.box[0] / 2
    depths = [cell * round(t / cell) for t in (50, 100, 150, 200)]
    scan = Scan.grid((0, 0), (0.75 * cell, cell), (2, 3))  # (0, ¼, ½) × (0, ½) of the cell
    runs = {}
    for kind, sampling in (
        ("conventional", 0.0062),
        ("conventional", 0.01),
        ("conventional", 0.0156),
        ("conventional", 0.025),
        ("conventional", 0.0375),
        ("renormalised", 0.025),
        ("renormalised", 0.0375),
        ("renormalised", 0.045),
    ):
        start = time.time()
        how = {"sampling": sampling, "transmission": kind, "window": None}
        out = simulate(atoms, PROBE, scan, DETECTORS, thermal=thermal, thicknesses=depths, **how)
        runs[f"{kind} {sampling}"] = {d: np.asarray(out[d].data) for d in DETECTORS} | {"seconds": time.time() - start}
    first = runs["conventional 0.0062"]
    table = {
        name: {"seconds": out["seconds"]}
        | {d: dict(zip(("l2_percent", "mean_percent"), difference(out[d], first[d]), strict=True)) for d in DETECTORS}
        for name, out in runs.items()
    }
    record("thermal_reference", {"against": "conventional 0.0062", "depth_A": depths, **table})


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else "model"
    if what == "model":
        model(int(sys.argv[2]) if len(sys.argv) > 2 else 8)
    else:
        {"sweep": sweep, "reference": reference}[what]()
