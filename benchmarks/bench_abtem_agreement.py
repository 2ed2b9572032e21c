"""The engine against abTEM on the same grid: exit wave, convergent-beam pattern, HAADF, ABF and BF images at 20 nm.

usage: python benchmarks/bench_abtem_agreement.py [OUT_FOLDER]
Three perovskites, two tilts, atoms where the structure has them, transmission "abtem" (that code's potential on and off
the pixels) and "conventional" (atoms placed exactly); one case with Kirkland's parametrization. Then HAADF on two
columns when crystal and probe move together by parts of a pixel, which must change nothing.
"""

import sys
from time import perf_counter

import numpy as np
from common import RESULTS, write_result

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import AnnularDetector, Scan, simulate
from ferrojax.grid import Grid
from ferrojax.interop.abtem import scan_annular
from ferrojax.interop.agreement import (
    Experiment,
    bound,
    clear_of_slice_edges,
    relative_differences,
    with_abtem,
    with_ferrojax,
)
from ferrojax.optics import Probe

THICKNESS, SAMPLING = 200.0, 0.036
PROBE = Probe(200e3, 21.4, defocus=20.0, aberrations={"C30": 5e4, "C12": 30.0, "phi12": 0.4})
DETECTORS = {"HAADF": AnnularDetector(60, 170), "ABF": AnnularDetector(11, 21.4), "BF": AnnularDetector(0, 10.7)}
MATERIALS = ("PbTiO3", "BiFeO3", "SrTiO3")
TILTS = ((0.0, 0.0), (5.0, -3.0))
SHIFTS, SHIFT_SAMPLINGS, CELLS = (0.0, 0.25, 0.5), (0.0414, 0.0207), 10


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


def experiment(atoms: Atoms, tilt: tuple[float, float], parametrization: str) -> Experiment:
    """12 scan points in the cell, the pattern at a place without symmetry."""
    grid = Grid.for_box(atoms.box[0], atoms.box[1], SAMPLING)
    slice_thickness = atoms.box[2] / round(atoms.box[2] / 2.0)
    width, height, _ = atoms.box
    return Experiment(
        clear_of_slice_edges(atoms, slice_thickness),
        PROBE,
        Scan.grid((0.1, 0.2), (0.1 + width, 0.2 + height), (3, 4)),
        DETECTORS,
        grid,
        cbed_position=(0.27 * width, 0.1 * height),
        tilt=tilt,
        slice_thickness=slice_thickness,
        parametrization=parametrization,
    )


def row(name: str, tilt: tuple[float, float], parametrization: str = "lobato") -> list[dict]:
    """One abTEM run and the differences of two transmissions from it."""
    atoms, _ = specimen(name)
    setup = experiment(atoms, tilt, parametrization)
    start = perf_counter()
    theirs = with_abtem(setup)
    seconds = perf_counter() - start
    rows = []
    for transmission in ("abtem", "conventional"):
        differences = relative_differences(with_ferrojax(setup, transmission), theirs)
        case = {"material": name, "tilt_mrad": tilt, "parametrization": parametrization}
        within = all(value <= bound(what) for what, value in differences.items())
        rows.append({**case, "transmission": transmission, "relative_L2": differences, "within_bounds": within})
        print({**case, "transmission": transmission}, {k: f"{v:.1e}" for k, v in differences.items()}, flush=True)
    rows[0]["abtem_seconds"] = seconds
    return rows


def off_the_pixels(sampling: float) -> list[dict]:
    """HAADF on the Pb and the Ti/O column of straight PbTiO3, crystal and probe moved by parts of a pixel (x and y)."""
    crystal = material("PbTiO3")
    atoms = displaced_supercell(crystal, np.zeros((1, 1, 3)), CELLS)
    grid = Grid.for_box(atoms.box[0], atoms.box[1], sampling)
    lead, titanium = (np.asarray(atoms.position, float)[crystal.label.index(label), :2] for label in "AB")
    detectors, step = {"HAADF": DETECTORS["HAADF"]}, atoms.box[2] / CELLS / 2
    probe, rows = Probe(PROBE.energy, PROBE.semiangle), []
    for shift in SHIFTS:
        by = shift * np.array(grid.sampling[::-1])
        moved = Atoms(np.asarray(atoms.position) + np.append(by, 0.0), atoms.number, atoms.box)
        scan = Scan.grid(lead + by, 2 * titanium - lead + by, (2, 2))  # the columns lie on its diagonal
        signals = {"abTEM": scan_annular(moved, probe, scan, detectors, grid, step)["HAADF"]}
        for mode in ("renormalised", "conventional", "abtem"):
            options = {"sampling": grid, "slice_thickness": step, "transmission": mode, "window": None}
            image = simulate(moved, probe, scan, detectors, **options)
            signals[mode] = np.asarray(image["HAADF"].data)
        columns = {who: dict(zip(("Pb", "Ti/O"), np.diag(s).tolist(), strict=True)) for who, s in signals.items()}
        first = columns if not rows else rows[0]["HAADF"]
        ratio = {who: {c: value / first[who][c] for c, value in of.items()} for who, of in columns.items()}
        rows.append({"sampling_A": grid.sampling, "shift_pixels": shift, "HAADF": columns, "from_unmoved": ratio})
        print(
            f"{grid.sampling[0]:.4f} Å/px, {shift} px:",
            {w: {c: round(v, 5) for c, v in of.items()} for w, of in ratio.items()},
            flush=True,
        )
    return rows


def main(folder: str) -> None:
    start = perf_counter()
    rows = [r for name in MATERIALS for tilt in TILTS for r in row(name, tilt)]
    rows += row("PbTiO3", TILTS[1], parametrization="kirkland")
    figures = {
        "specimens": {name: specimen(name)[1] for name in MATERIALS},
        "thickness_A": THICKNESS,
        "sampling_ceiling_A": SAMPLING,
        "bounds": {name: bound(name) for name in ("exit wave", "CBED", *DETECTORS)},
        "rows": rows,
        "worst_mirrored": _worst(rows),
        "off_the_pixels": [each for sampling in SHIFT_SAMPLINGS for each in off_the_pixels(sampling)],
        "seconds": perf_counter() - start,
    }
    print("worst, transmission abtem:", figures["worst_mirrored"])
    print("written to", write_result("abtem_agreement", figures, folder))


def _worst(rows: list[dict]) -> dict[str, float]:
    chosen = [r["relative_L2"] for r in rows if r["transmission"] == "abtem"]
    return {name: max(r[name] for r in chosen) for name in chosen[0]}


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(RESULTS))
