"""Render the sets of polar_truth.yaml: explicit phonons, HAADF and ABF from one propagation, whole periodic boxes.

usage: python simulations/render_polar_truth.py render FOLDER [SET ...]   (about 35 minutes a box on one core)
       python simulations/render_polar_truth.py pack FOLDER OUT [SET ...] (OUT/SET.npz of the boxes that are whole)
       python simulations/render_polar_truth.py check FOLDER SET          (one configuration beside abTEM's)
FOLDER holds one file a box, written again after every pair of configurations: the same command goes on where it was
interrupted. A packed set holds, for the boxes in order, `haadf` and `abf` (box, quarter, rows, cols) as the fraction of
the beam, each the mean of a quarter of the pairs, so that any reading of the quarters tells the phonon error of a site;
`displacement_A`, `_B` and `_O` (box, ny, nx, ..., 3) Å, and the settings that made it.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from ferrojax.crystal import Atoms, Crystal, displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.grid import Grid
from ferrojax.interop.agreement import Experiment, with_abtem, with_ferrojax
from ferrojax.multislice import FrozenPhonons, displaced_positions
from ferrojax.optics import Probe

PLAN = Path(__file__).with_name("polar_truth.yaml")
QUARTERS = 4
OFFSETS = ((0.0, 0.0), (0.5, 0.5), (0.0, 0.5), (0.5, 0.0))
"""Of the waves' frequencies, pair by pair in turn: four together sample the aperture as a box of twice the side does. A
box of 3 × 3 cells alone has so few waves at its edge that an annular bright field is 8 % of its contrast off."""
FULL_SCALE = 2**16 - 1


def column_shifts(plan: dict, study: dict, box: int, crystal: Crystal) -> np.ndarray:
    """(ny, nx, site, 3) Å by which every column leaves its clean place; constant along the beam."""
    n, rms = plan["cells"], plan["scatter_pm"] | {"B": study["scatter_B_pm"]}
    shifts = np.zeros((n, n, len(crystal.label), 3))
    if crystal.soft_mode is None:
        return shifts
    rng = np.random.default_rng([study["seed"], box])
    field = np.append(study["mean_pm"][box], 0.0) + rng.normal(size=(n, n, 3)) * [rms["B"], rms["B"], rms["beam"]]
    still = displaced_supercell(crystal, np.zeros((n, n, 3)), 1, study["mode_scale"])
    moved = displaced_supercell(crystal, field / 100, 1, study["mode_scale"])
    shifts += np.asarray(moved.position - still.position, float).reshape(shifts.shape)
    own = rng.normal(size=shifts.shape) / 100
    own[..., 2] = 0.0
    return shifts + own * np.array([rms.get(label, 0.0) if label != "B" else 0.0 for label in crystal.label])[:, None]


def specimen(study: dict, crystal: Crystal, shifts: np.ndarray) -> Atoms:
    n, depth = shifts.shape[0], study["depth"]
    clean = displaced_supercell(crystal, np.zeros((n, n, 3)), depth)
    position = np.asarray(clean.position, float) + np.tile(shifts.reshape(-1, 3), (depth, 1))
    return Atoms(position, clean.number, clean.box, clean.thermal_rms * study["thermal_scale"], clean.occupancy)


def render_box(plan: dict, name: str, box: int, path: Path) -> None:
    study, crystal = plan["sets"][name], material(name)
    shifts = column_shifts(plan, study, box, crystal)
    atoms = specimen(study, crystal, shifts)
    points = plan["points"] * plan["cells"]
    scan = Scan.grid((0.0, 0.0), np.asarray(atoms.box[:2], float), (points, points))
    detectors = {k: AnnularDetector(*ring) for k, ring in study["detectors"].items()}
    total, done = np.zeros((len(detectors), QUARTERS, points, points)), 0
    if path.exists():
        with np.load(path) as z:
            if json.loads(str(z["settings"])) != settings(plan, name):
                sys.exit(f"{path} was made with other settings: move it away, or render into another folder")
            total, done = z["total"], int(z["done"])
    whole = Grid.for_box(float(atoms.box[0]), float(atoms.box[1]), plan["sampling"])
    for pair in range(done, plan["pairs"]):
        start = time.time()
        grid = Grid(whole.shape, whole.sampling, OFFSETS[pair % len(OFFSETS)])
        out = simulate(
            atoms,
            Probe(**study["probe"]),
            scan,
            detectors,
            thermal=FrozenPhonons(2, seed=1000 * study["seed"] + 100 * box + pair, antithetic=True),
            tilt=study["tilt"],
            sampling=grid,
            slice_thickness=plan["slice_thickness"],
            window=None,
            route="matrix",
        )
        total[:, pair * QUARTERS // plan["pairs"]] += [np.asarray(out[k].data, float) for k in detectors]
        part = path.with_suffix(".part.npz")
        np.savez(part, total=total, done=pair + 1, shifts=shifts, settings=json.dumps(settings(plan, name)))
        os.replace(part, path)
        print(f"{path.stem}: pair {pair + 1} of {plan['pairs']}, {time.time() - start:.0f} s", flush=True)


def settings(plan: dict, name: str) -> dict:
    return {k: v for k, v in plan.items() if k != "sets"} | plan["sets"][name] | {"offsets": [list(o) for o in OFFSETS]}


def pack(plan: dict, name: str, folder: Path, out: Path) -> None:
    """One file of the boxes that are whole; signals as 16 bit of their largest value."""
    boxes = []
    for box in range(len(plan["sets"][name]["mean_pm"])):
        path = folder / f"{name}_{box}.npz"
        if path.exists():
            with np.load(path) as z:
                if int(z["done"]) == plan["pairs"] and json.loads(str(z["settings"])) == settings(plan, name):
                    boxes.append((z["total"] * QUARTERS / plan["pairs"], z["shifts"]))
    if not boxes:
        print(f"{name}: no whole box")
        return
    label = material(name).label
    signals, shifts = (np.stack(each) for each in zip(*boxes, strict=True))
    data: dict = {"settings": json.dumps(settings(plan, name))}
    for i, detector in enumerate(plan["sets"][name]["detectors"]):
        scale = signals[:, i].max() / FULL_SCALE
        data |= {detector: np.round(signals[:, i] / scale).astype(np.uint16), f"{detector}_scale": scale}
    data |= {f"displacement_{k}": shifts[..., label.index(k), :].astype(np.float32) for k in "AB"}
    data["displacement_O"] = shifts[..., [i for i, k in enumerate(label) if k == "O"], :].astype(np.float32)
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / f"{name}.npz", **data)
    print(f"{name}: {len(boxes)} boxes, {(out / f'{name}.npz').stat().st_size / 1e3:.0f} kB")


def check(plan: dict, name: str) -> None:
    """One frozen configuration, atoms on the pixels of both engines (abTEM is wrong off them), a coarse scan."""
    study, crystal = plan["sets"][name], material(name)
    atoms = specimen(study, crystal, column_shifts(plan, study, 0, crystal))
    grid = Grid.for_box(float(atoms.box[0]), float(atoms.box[1]), plan["sampling"])
    position = np.array(displaced_positions(atoms, FrozenPhonons(1, seed=study["seed"]), 0), float)
    pixel = np.array(grid.sampling[::-1])
    position[:, :2] = np.round(position[:, :2] / pixel) * pixel
    frozen = Atoms(position, atoms.number, atoms.box)
    experiment = Experiment(
        frozen,
        Probe(**study["probe"]),
        Scan.grid((0.0, 0.0), np.asarray(atoms.box[:2], float), (9, 9)),
        {k: AnnularDetector(*ring) for k, ring in study["detectors"].items()},
        grid,
        (2.0, 2.0),
        tuple(study["tilt"]),
        plan["slice_thickness"],
    )
    theirs, ours = with_abtem(experiment), with_ferrojax(experiment, "conventional")
    for k in study["detectors"]:
        print(
            f"{name} {k}: relative L2 difference {np.linalg.norm(ours[k] - theirs[k]) / np.linalg.norm(theirs[k]):.1e}"
        )


def main(task: str, folder: Path, rest: list[str]) -> None:
    plan = yaml.safe_load(PLAN.read_text())
    out = Path(rest.pop(0)) if task == "pack" else None
    names = rest or list(plan["sets"])
    if task == "check":
        for name in names:
            check(plan, name)
    elif out is not None:
        for name in names:
            pack(plan, name, folder, out)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        boxes = [(box, name) for name in names for box in range(len(plan["sets"][name]["mean_pm"]))]
        for box, name in sorted(boxes, key=lambda each: each[0]):  # every set has a box before any has two
            render_box(plan, name, box, folder / f"{name}_{box}.npz")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("render", "pack", "check"):
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
