"""The PACBED model against abTEM: probes scanned over a cell of a frozen-phonon supercell of silicon [110].

usage: python benchmarks/check_pacbed.py [CONFIGURATIONS] [LAYERS]        (4 configurations of 62 layers by default)
Both are read at the same points k of the supercell's reciprocal lattice. abTEM's pattern holds the diffuse intensity
too, the model does not: the difference is stated as it is, and after a least-squares gain and constant.
"""

import json
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import abtem
import ase
import jax.numpy as jnp
import numpy as np
from bench_pacbed import commit
from pacbed_fit import CELL, ENERGY, RMS, SITES

from ferrojax.constants import wavelength
from ferrojax.crystal import Atoms
from ferrojax.detection.pacbed import (
    Directions,
    beams_within,
    plan_overlap,
    position_averaged_pattern,
    rocking_curves,
)
from ferrojax.grid import Grid
from ferrojax.multislice import plan_slices, slice_tables

REPEAT = (6, 4)
SEMIANGLE, REACH = 8.85, 17.7


def supercell(cells: int, layers: int) -> ase.Atoms:
    """REPEAT cells wide, with the first `layers` atomic layers."""
    unit = ase.Atoms("Si4", scaled_positions=SITES, cell=CELL, pbc=True)
    atoms = unit * (*REPEAT, cells)
    del atoms[[i for i, z in enumerate(atoms.positions[:, 2]) if z > layers * CELL[2] / 2]]
    atoms.set_cell([REPEAT[0] * CELL[0], REPEAT[1] * CELL[1], layers * CELL[2] / 2])
    return atoms


def abtem_pattern(layers: int, configurations: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean CBED over 4 × 6 positions of a cell, (kx, ky) centred, and its angles in mrad; fraction of the beam."""
    phonons = abtem.FrozenPhonons(supercell((layers + 1) // 2, layers), configurations, RMS, seed=1)
    potential = abtem.Potential(phonons, gpts=(192, 180), slice_thickness=CELL[2] / 2, parametrization="lobato")
    probe = abtem.Probe(energy=ENERGY, semiangle_cutoff=SEMIANGLE, soft=False)
    grid_scan = abtem.GridScan((0, 0), (CELL[0], CELL[1]), gpts=(4, 6), endpoint=False)
    detector = abtem.PixelatedDetector(max_angle=REACH + 3)
    waiting = probe.scan(potential, scan=grid_scan, detectors=detector)
    measured = waiting.compute(progress_bar=False)  # pyright: ignore[reportAttributeAccessIssue]
    array = np.asarray(measured.array, float)  # pyright: ignore[reportAttributeAccessIssue]
    array = array.reshape(-1, *array.shape[-2:]).mean(0)
    n = array.shape
    k = [(np.arange(m) - m // 2) / (r * c) for m, r, c in zip(n, REPEAT, CELL, strict=False)]
    return array, np.stack(np.meshgrid(*k, indexing="ij"), -1) * wavelength(ENERGY) * 1e3


def model_pattern(layers: int, k: np.ndarray, absorbing: bool = True) -> np.ndarray:
    """The elastic pattern at points k (mrad), per point of the supercell's reciprocal lattice."""
    cells = (layers + 4) // 2
    position = np.concatenate([(SITES + np.array([0, 0, c])) * CELL for c in range(cells)])
    atoms = Atoms(position, [14] * len(position), (CELL[0], CELL[1], CELL[2] * cells), RMS if absorbing else 0.0)
    plan = plan_slices(atoms, CELL[2] / 2 + 1e-4, [float(CELL[2] / 2 * n) for n in range(layers - 2, layers + 2)])
    grid = Grid((64, 48), (float(CELL[1] / 64), float(CELL[0] / 48)))
    tables = slice_tables(plan.elements, grid, ENERGY)
    beams = beams_within(grid, ENERGY, REACH + SEMIANGLE + 3)
    curves = rocking_curves(atoms, ENERGY, Directions.within(SEMIANGLE + 0.2, 1.0), plan, tables, grid, beams=beams)
    overlap = plan_overlap(curves.beam_angle, k, SEMIANGLE + 0.3)
    thickness = layers * float(CELL[2]) / 2
    pattern = position_averaged_pattern(curves, thickness, SEMIANGLE, jnp.asarray(k, jnp.float32), overlap, edge=0.003)
    return np.asarray(pattern, float) * np.pi * SEMIANGLE**2


def main(configurations: int, layers: int) -> None:
    begun = time.time()
    array, angle = abtem_pattern(layers, configurations)
    seconds = time.time() - begun
    radius = np.hypot(angle[..., 0], angle[..., 1])
    directions = (radius < SEMIANGLE).sum()
    clearance = np.abs(radius - SEMIANGLE).min()
    near = radius < REACH
    reference, k = array[near], angle[near]
    figures = {"layers": layers, "thickness": layers * float(CELL[2]) / 2, "configurations": configurations}
    figures |= {"clearance_of_the_aperture_edge_mrad": float(clearance), "seconds_abtem": seconds}
    for name, absorbing in (("elastic", True), ("static", False)):
        begun = time.time()
        model = model_pattern(layers, k, absorbing) / directions
        a = np.stack([model, np.ones_like(model)], -1)
        gain, constant = np.linalg.lstsq(a, reference, rcond=None)[0]
        norm = np.linalg.norm(reference)
        figures[name] = {
            "correlation": float(np.corrcoef(model, reference)[0, 1]),
            "relative_l2": float(np.linalg.norm(model - reference) / norm),
            "relative_l2_after_gain_and_constant": float(np.linalg.norm(gain * model + constant - reference) / norm),
            "gain": float(gain),
            "share_of_beam_in_mask": float(model.sum()),
            "share_of_beam_in_mask_abtem": float(reference.sum()),
            "seconds": time.time() - begun,
        }
        print(name, figures[name], flush=True)
    record = {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": "cpu",
        "command": f"python benchmarks/check_pacbed.py {configurations} {layers}",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in ("jax", "numpy", "abtem")},
        **figures,
    }
    out = Path(__file__).parent / "results" / "pacbed_check.json"
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    given = [int(a) for a in sys.argv[1:]]
    main(*(given + [4, 62][len(given) :]))
