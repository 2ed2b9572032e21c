"""Polarization, tilts and walls of full structures against what is known of them.

usage: FERROJAX_REFERENCE_DATA=... python benchmarks/bench_polarization_reference.py          (about 20 seconds)
Stored polarization (80 cells of PbTiO3) and stored octahedral tilts (1000 octahedra of SrTiO3) in double precision,
and the walls that are found in eight structures whose file names say what they are. The error of the mean of a real
non-polar image stands beside them: SrTiO3 [110], ADF.
"""

import os
import time
from pathlib import Path

import ase
import ase.io
import jax
import numpy as np
from common import write_result

from ferrojax.crystal import material
from ferrojax.image import Image
from ferrojax.polarization import (
    PerovskiteCells,
    block_bootstrap,
    cell_polarization,
    displacement_statistics,
    distinct_atoms,
    find_walls,
    likeliest_family,
    map_polarization,
    octahedral_tilt,
    perovskite_cells,
    polar_variants,
    segment_domains,
    structure_graph,
    wall_kinds,
)

SITE = {"Pb": "A", "Bi": "A", "Ba": "A", "Sr": "A", "Ti": "B", "Fe": "B", "O": "O"}
CHARGES = {"Pb": (3.44, 5.18), "Ba": (2.75, 7.16), "Bi": (3.0, 3.0)}
"""e, (A, B), O neutralises. Pb: the reference's own, Ba: Zhong et al. (1994), Bi: ionic, for directions only."""
WALLS = (
    ("pto_polarization_reference/PTO-180DW", "180", "neutral"),
    ("pto_polarization_reference/PTO-HH-DW", "180", "charged"),
    ("domain_wall_structures/PbTiO3_T90_supercell", "90", "neutral"),
    ("domain_wall_structures/PbTiO3_T180_supercell", "180", "neutral"),
    ("domain_wall_structures/BaTiO3_R71_supercell", "71", "neutral"),
    ("domain_wall_structures/BiFeO3_R71_supercell", "71", "neutral"),
    ("domain_wall_structures/BiFeO3_R109_supercell", "109", "neutral"),
    ("domain_wall_structures/BiFeO3_R180_supercell", "180", "neutral"),
)


def load(path: Path) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Positions and box in Å, symbols and site labels, atoms that a seam doubles dropped."""
    atoms = ase.io.read(path)
    assert isinstance(atoms, ase.Atoms)
    kept = distinct_atoms(atoms.get_positions(), np.asarray(atoms.cell))
    symbols = [atoms.get_chemical_symbols()[k] for k in kept]
    return atoms.get_positions()[kept], np.asarray(atoms.cell), symbols, [SITE[s] for s in symbols]


def polarization_of(path: Path) -> tuple[np.ndarray, np.ndarray, PerovskiteCells, np.ndarray]:
    """Positions, box, cells and P (n, 3) in C/m² of a structure."""
    position, box, symbols, labels = load(path)
    a, b = CHARGES[next(s for s in symbols if SITE[s] == "A")]
    charge = np.array([{"A": a, "B": b, "O": -(a + b) / 3}[label] for label in labels])
    cells = perovskite_cells(position, box, labels)
    return position, box, cells, np.asarray(cell_polarization(position, box, cells, charge))


def stored_polarization(folder: Path) -> dict[str, object]:
    _, _, _, found = polarization_of(folder / "PTO-180DW.vasp")
    stored = np.load(folder / "PTO-180DW-P.npy")
    return {"cells": len(found), "max_deviation_C_per_m2": float(np.abs(found - stored).max())}


def stored_tilts(folder: Path) -> dict[str, object]:
    """Deviations, apart for the O–O pairs that the box cuts: 100 an axis, stored with the image on the wrong side."""
    position, box, _, labels = load(folder / "STO-50K.vasp")
    cells = perovskite_cells(position, box, labels)
    start = time.perf_counter()
    found = np.asarray(octahedral_tilt(position, box, cells))
    seconds = time.perf_counter() - start
    stored = np.load(folder / "STO-50K_octahedral_tilt.npy")
    pair = position[cells.o[:, 1::2]] - position[cells.o[:, ::2]]
    cut = np.linalg.norm(pair, axis=-1) > 10
    gap, wrong = np.abs(found - stored), reversed_images(position, box, cells)
    return {
        "octahedra": len(found),
        "values": int(gap.size),
        "values_of_pairs_inside_the_box": int((~cut).sum()),
        "max_deviation_inside_deg": float(gap[~cut].max()),
        "values_of_pairs_cut_by_the_box": int(cut.sum()),
        "max_deviation_cut_deg": float(gap[cut].max()),
        "values_beyond_0.01_deg": int((gap > 0.01).sum()),
        "all_of_them_cut": bool(cut[gap > 0.01].all()),
        "max_deviation_with_images_on_the_wrong_side_deg": float(np.abs(wrong - stored).max()),
        "mean_deg": found.mean(0),
        "mean_of_cut_deg": [float(found[cut[:, k], k].mean()) for k in range(3)],
        "stored_mean_deg": stored.mean(0),
        "seconds_with_compilation": seconds,
    }


def reversed_images(position: np.ndarray, box: np.ndarray, cells: PerovskiteCells) -> np.ndarray:
    """Tilts as they come out when atoms behind the box's faces are moved the wrong way, (n, 3) degrees.

    The diagonal along an axis then joins the farthest atoms, whichever they are.
    """
    fraction = (position[cells.o] - position[cells.b][:, None]) @ np.linalg.inv(box)
    bond = (fraction + np.round(fraction)) @ box
    row = np.arange(len(bond))
    diagonal = np.stack([bond[row, b.argmax(1)] - bond[row, b.argmin(1)] for b in np.moveaxis(bond, 2, 0)], 1)
    cosine = np.abs(diagonal.diagonal(axis1=1, axis2=2)) / np.linalg.norm(diagonal, axis=2)
    return np.degrees(np.arccos(cosine))


def walls_of(path: Path, kind: str, character: str) -> dict[str, object]:
    position, box, cells, field = polarization_of(path)
    families = {name: polar_variants(name) @ cells.axes for name in ("100", "110", "111")}
    family = likeliest_family(field, cells.complete, families)
    graph = structure_graph(cells)
    domains = segment_domains(field, cells.complete, families[family], graph=graph)
    walls = find_walls(
        domains, field, position[cells.b], wall_kinds(family), graph=graph, box=box, core=6, minimum_bonds=1
    )
    found = [w.character if w.character == "neutral" else "charged" for w in walls]
    return {
        "structure": path.stem,
        "expected": [kind, character],
        "right": bool(walls) and all(w.kind == (kind,) for w in walls) and set(found) == {character},
        "family": family,
        "cells": len(cells.b),
        "incomplete": int((~cells.complete).sum()),
        "walls": [
            {
                "kind": list(w.kind),
                "angle_deg": w.angle,
                "normal": w.normal @ np.linalg.inv(cells.axes),
                "character": w.character,
                "charge_C_per_m2": w.charge if "BiFeO3" not in path.stem else None,
                "width_A": w.width,
                "width_error_A": w.width_error,
                "resolved": w.resolved,
            }
            for w in walls
        ],
    }


def null_image(data: Path) -> dict[str, object]:
    """Mean displacement of a non-polar image with its block-bootstrap error, against blocks of other sizes."""
    with np.load(data / "sto110_adf_abf" / "sto110_adf_abf.npz") as archive:
        image = Image(archive["adf"], [10 * float(archive["pixel_size_nm"])] * 2)
    pmap = map_polarization(image, material("SrTiO3"), zone=(1, 1, 0))
    found = displacement_statistics(pmap)
    field, valid = 100 * np.asarray(pmap.displacement, float), np.asarray(pmap.valid)
    sides = [b for b in (1, 2, 3, 4, 6, 8) if 2 * b <= max(valid.shape)]
    errors = {str(b): block_bootstrap(field, valid, b).standard_error for b in sides}
    return {
        "cells": found["n"],
        "mean_pm": found["mean"],
        "mean_error_pm": found["mean_error"],
        "block_cells": found["block"],
        "spread_pm": found["spread"],
        "spread_over_root_n_pm": found["spread"] / np.sqrt(found["n"]),
        "mean_error_pm_by_block": errors,
    }


def main() -> None:
    data = Path(os.environ["FERROJAX_REFERENCE_DATA"])
    folder = data / "pto_polarization_reference"
    null = null_image(data)
    with jax.enable_x64(True):
        figures = {
            "polarization": stored_polarization(folder),
            "tilt": stored_tilts(folder),
            "walls": [walls_of(data / f"{name}.vasp", *expected) for name, *expected in WALLS],
            "null_image": null,
        }
    print(write_result("polarization_reference", figures))


if __name__ == "__main__":
    main()
