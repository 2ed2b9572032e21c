"""The engine against abTEM on the same grid: exit wave, convergent-beam pattern, HAADF, ABF and BF images at 20 nm.

usage: python benchmarks/bench_abtem_agreement.py [OUT_FOLDER]
Three perovskites, two tilts, transmission "abtem" (that code's potential to the pixel) and "conventional" (exact
structure factor), atoms on pixels; then one case each with atoms between pixels and with Kirkland's parametrization.
"""

import sys
from time import perf_counter

import numpy as np
from common import RESULTS, write_result

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan
from ferrojax.grid import Grid
from ferrojax.interop.agreement import Experiment, bound, relative_differences, snapped, with_abtem, with_ferrojax
from ferrojax.optics import Probe

THICKNESS, SAMPLING = 200.0, 0.036
PROBE = Probe(200e3, 21.4, defocus=20.0, aberrations={"C30": 5e4, "C12": 30.0, "phi12": 0.4})
DETECTORS = {"HAADF": AnnularDetector(60, 170), "ABF": AnnularDetector(11, 21.4), "BF": AnnularDetector(0, 10.7)}
MATERIALS = ("PbTiO3", "BiFeO3", "SrTiO3")
TILTS = ((0.0, 0.0), (5.0, -3.0))


def specimen(name: str) -> tuple[Atoms, str]:
    """One cell wide, 20 nm thick, polar where the library knows a mode; and what it is."""
    if name != "BiFeO3":
        crystal = material(name)
        polar = crystal.soft_mode is not None
        depth = round(THICKNESS / float(crystal.cell[2, 2]))
        field = np.tile(np.array([0.16, -0.08, 0.0]) * polar, (1, 1, 1))
        return displaced_supercell(crystal, field, depth), "library cell" + ", B displaced" * polar
    a, height = 3.965, round(THICKNESS / 3.965)
    cell = np.array([[0, 0, 0], [0.53, 0.47, 0.5], [0.55, 0.45, 0], [0.55, 0, 0.5], [0, 0.45, 0.5]]) * a
    position = np.concatenate([cell + np.array([0, 0, (layer + 0.25) * a]) for layer in range(height)])
    shown = f"pseudo-cubic cell of {a} Å with Fe and O off centre, no octahedral rotation (the library's is not polar)"
    return Atoms(np.mod(position, [a, a, 1e9]), [83, 26, 8, 8, 8] * height, (a, a, height * a)), shown


def experiment(atoms: Atoms, tilt: tuple[float, float], on_pixels: bool, parametrization: str) -> Experiment:
    """12 scan points in the cell, the pattern at a place without symmetry."""
    grid = Grid.for_box(atoms.box[0], atoms.box[1], SAMPLING)
    slice_thickness = atoms.box[2] / round(atoms.box[2] / 2.0)
    if on_pixels:
        atoms, _ = snapped(atoms, grid, slice_thickness)
    width, height, _ = atoms.box
    return Experiment(
        atoms,
        PROBE,
        Scan.grid((0.1, 0.2), (0.1 + width, 0.2 + height), (3, 4)),
        DETECTORS,
        grid,
        cbed_position=(0.27 * width, 0.1 * height),
        tilt=tilt,
        slice_thickness=slice_thickness,
        parametrization=parametrization,
    )


def row(name: str, tilt: tuple[float, float], on_pixels: bool = True, parametrization: str = "lobato") -> list[dict]:
    """One abTEM run and the differences of two transmissions from it."""
    atoms, _ = specimen(name)
    setup = experiment(atoms, tilt, on_pixels, parametrization)
    start = perf_counter()
    theirs = with_abtem(setup)
    seconds = perf_counter() - start
    rows = []
    for transmission in ("abtem", "conventional"):
        differences = relative_differences(with_ferrojax(setup, transmission), theirs)
        case = {"material": name, "tilt_mrad": tilt, "atoms_on_pixels": on_pixels, "parametrization": parametrization}
        within = all(value <= bound(what) for what, value in differences.items())
        rows.append({**case, "transmission": transmission, "relative_L2": differences, "within_bounds": within})
        print({**case, "transmission": transmission}, {k: f"{v:.1e}" for k, v in differences.items()}, flush=True)
    rows[0]["abtem_seconds"] = seconds
    return rows


def main(folder: str) -> None:
    start = perf_counter()
    rows = [r for name in MATERIALS for tilt in TILTS for r in row(name, tilt)]
    rows += row("PbTiO3", TILTS[1], on_pixels=False) + row("PbTiO3", TILTS[1], parametrization="kirkland")
    figures = {
        "specimens": {name: specimen(name)[1] for name in MATERIALS},
        "thickness_A": THICKNESS,
        "sampling_ceiling_A": SAMPLING,
        "bounds": {name: bound(name) for name in ("exit wave", "CBED", *DETECTORS)},
        "rows": rows,
        "worst_mirrored_on_pixels": _worst(rows),
        "seconds": perf_counter() - start,
    }
    print("worst, atoms on pixels, transmission abtem:", figures["worst_mirrored_on_pixels"])
    print("written to", write_result("abtem_agreement", figures, folder))


def _worst(rows: list[dict]) -> dict[str, float]:
    chosen = [r["relative_L2"] for r in rows if r["atoms_on_pixels"] and r["transmission"] == "abtem"]
    return {name: max(r[name] for r in chosen) for name in chosen[0]}


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(RESULTS))
