"""`ferrojax validate`: the engine against abTEM on this machine, on the user's own structure."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import typer

from ferrojax.cli.output import prepared_output
from ferrojax.errors import InputError

if TYPE_CHECKING:
    from ferrojax.crystal import Atoms
    from ferrojax.detection import AnnularDetector
    from ferrojax.grid import Grid
    from ferrojax.interop.agreement import Experiment
    from ferrojax.optics import Probe

LARGEST = 2**20
"""Pixels: a larger grid takes abTEM more than a short check's time."""
SCAN = (2, 3)


def validate(
    structure: str | None = typer.Argument(
        None, metavar="[STRUCTURE]", help="A file that ASE reads, with an orthogonal cell; the beam runs along z."
    ),
    *,
    material: str = typer.Option("PbTiO3", help="Without STRUCTURE: a name of the material library."),
    energy: float = typer.Option(200e3, help="eV."),
    semiangle: float = typer.Option(21.4, help="mrad."),
    thickness: float = typer.Option(100.0, help="Å; the cell is repeated along z until it is reached."),
    tilt: tuple[float, float] = typer.Option((0.0, 0.0), help="mrad, x and y."),
    sampling: float = typer.Option(0.04, help="Å per pixel, a ceiling."),
    out: str | None = typer.Option(None, help="Folder for summary.json; without it nothing is written."),
) -> None:
    """Compare waves, patterns and images with abTEM's on the same grid; exit code 1 if they disagree."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    settings = {
        "structure": structure or material,
        "energy": energy,
        "semiangle": semiangle,
        "thickness": thickness,
        "tilt": list(tilt),
        "sampling": sampling,
    }
    with nullcontext() if out is None else prepared_output(out) as folder:
        with console.status("Reading the structure"):
            atoms = specimen(structure, material, thickness)
            experiment, moved = comparison(atoms, (energy, semiangle), tilt, sampling)
        console.print(described(experiment, moved), markup=False)
        found = differences(experiment, console)
        agreed = all(entry["within_bound"] for entry in found.values())
        console.print(table(found))
        if folder is not None:
            from ferrojax.cli.info import versions
            from ferrojax.report import write_summary

            record = {**settings, "largest_move_onto_grid_A": moved, "agreed": agreed, "differences": found}
            write_summary(folder / "summary.json", record | {"versions": versions()})
    console.print("within bounds" if agreed else "OUT OF BOUNDS: the engines disagree on this machine", markup=False)
    if not agreed:
        raise typer.Exit(1)


def specimen(structure: str | None, material_name: str, thickness: float) -> "Atoms":
    """Atoms of the file or of the library's cell, repeated along z to at least `thickness` (Å)."""
    import math

    import numpy as np

    from ferrojax.crystal import Atoms, displaced_supercell, material

    if not (math.isfinite(thickness) and 0 < thickness <= 1000):
        raise InputError("thickness", thickness, "must be positive and at most 1000 Å", "give Å, e.g. 100")
    if structure is None:
        crystal = material(material_name)
        polar = 0.15 if crystal.soft_mode is not None else 0.0
        cell = displaced_supercell(crystal, np.full((1, 1, 3), [polar, 0.0, 0.0]), 1)
    else:
        cell = Atoms.from_ase(_read(structure))
    depth = max(1, math.ceil(thickness / cell.box[2] - 1e-6))
    layer = np.array([0, 0, cell.box[2]]) * np.arange(depth)[:, None, None]
    position = (np.asarray(cell.position, float)[None] + layer).reshape(-1, 3)
    return Atoms(position, np.tile(cell.number, depth), (*cell.box[:2], depth * cell.box[2]))


def _read(structure: str) -> Any:
    import warnings

    import ase
    import ase.io

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms = ase.io.read(structure)
    except Exception as error:  # ASE's readers raise whatever their parsers do
        problem = f"cannot be read: {error or type(error).__name__}"
        raise InputError("structure", structure, problem, "give a file that ASE reads, e.g. .cif or .xyz") from error
    if not isinstance(atoms, ase.Atoms) or len(atoms) == 0:
        raise InputError("structure", structure, "holds no atoms", "give a file with one structure")
    return atoms


def comparison(
    atoms: "Atoms", beam: tuple[float, float], tilt: tuple[float, float], sampling: float
) -> "tuple[Experiment, float]":
    """The experiment for both engines, atoms on pixels, and the largest move in Å. beam: (eV, mrad)."""
    import math

    from ferrojax.detection import Scan
    from ferrojax.grid import Grid
    from ferrojax.interop.agreement import Experiment, snapped
    from ferrojax.optics import Probe

    if not all(math.isfinite(t) and abs(t) <= 100 for t in tilt):
        raise InputError("tilt", tilt, "must lie within ±100 mrad", "give x and y in mrad, e.g. 5 -3")
    probe = Probe(*beam)
    grid = Grid.for_box(atoms.box[0], atoms.box[1], sampling)
    if grid.shape[0] * grid.shape[1] > LARGEST:
        raise InputError(
            "sampling",
            grid.shape,
            "pixels are too many for a short check",
            "cut a smaller cell, or sample more coarsely",
        )
    detectors = scaled_detectors(probe, grid)
    slice_thickness = atoms.box[2] / math.ceil(atoms.box[2] / 2.0)
    atoms, moved = snapped(atoms, grid, slice_thickness)
    width, height, _ = atoms.box
    experiment = Experiment(
        atoms,
        probe,
        Scan.grid((0.03 * width, 0.05 * height), (1.03 * width, 1.05 * height), SCAN),
        detectors,
        grid,
        cbed_position=(0.27 * width, 0.1 * height),
        tilt=tilt,
        slice_thickness=slice_thickness,
    )
    return experiment, moved


def scaled_detectors(probe: "Probe", grid: "Grid") -> "dict[str, AnnularDetector]":
    """HAADF from three semi-angles on, ABF the outer and BF the inner half of the disc."""
    from ferrojax.detection import AnnularDetector
    from ferrojax.grid import ANTIALIAS_FRACTION

    semiangle = float(probe.semiangle)
    reach = 0.98 * ANTIALIAS_FRACTION * grid.nyquist * probe.wavelength * 1e3
    if reach < 4 * semiangle:
        needed = 0.98 * ANTIALIAS_FRACTION * 0.5 * probe.wavelength * 1e3 / (4 * semiangle)
        raise InputError(
            "sampling",
            f"band limit {reach:.0f} mrad",
            "is too coarse for a high-angle detector at this semi-angle",
            f"use at most {needed:.3f} Å",
        )
    return {
        "HAADF": AnnularDetector(3 * semiangle, min(8 * semiangle, reach)),
        "ABF": AnnularDetector(semiangle / 2, semiangle),
        "BF": AnnularDetector(0, semiangle / 2),
    }


def described(experiment: "Experiment", moved: float) -> str:
    """What is compared, in one paragraph."""
    atoms, grid = experiment.atoms, experiment.grid
    slices = round(atoms.box[2] / experiment.slice_thickness)
    rings = ", ".join(f"{name} {d.inner:.0f}–{d.outer:.0f}" for name, d in experiment.detectors.items())
    return (
        f"{len(atoms.number)} atoms at rest, {atoms.box[0]:.2f} × {atoms.box[1]:.2f} × {atoms.box[2]:.1f} Å, "
        f"{slices} slices, {grid.shape[0]} × {grid.shape[1]} pixels (y, x), {SCAN[0] * SCAN[1]} probes; {rings} mrad.\n"
        f"Atoms are moved onto pixels (by at most {1e2 * moved:.1f} pm), because abTEM spreads those between pixels."
    )


def differences(experiment: "Experiment", console: Any) -> dict[str, dict[str, Any]]:
    """name -> relative differences with bound and verdict."""
    from ferrojax.interop.agreement import bound, relative_differences, with_abtem, with_ferrojax

    with console.status("abTEM"):
        theirs = with_abtem(experiment)
    ours = {}
    for transmission in ("abtem", "conventional", "renormalised"):
        with console.status(f"ferrojax, {transmission}"):
            ours[transmission] = with_ferrojax(experiment, transmission)
    mirrored = relative_differences(ours["abtem"], theirs)
    conventional = relative_differences(ours["conventional"], theirs)
    renormalised = relative_differences(ours["renormalised"], ours["conventional"])
    return {
        name: {
            "relative_difference": value,
            "bound": bound(name),
            "within_bound": bool(value <= bound(name)),
            "conventional_from_abtem": conventional[name],
            "renormalised_from_conventional": renormalised[name],
        }
        for name, value in mirrored.items()
    }


def table(found: Mapping[str, Mapping[str, Any]]) -> Any:
    """The differences as a table."""
    from rich.table import Table

    grid = Table("", "from abTEM", "bound", "", "conventional, from abTEM", "renormalised, from conventional")
    for name, entry in found.items():
        grid.add_row(
            name,
            f"{entry['relative_difference']:.1e}",
            f"{entry['bound']:.0e}",
            "ok" if entry["within_bound"] else "OUT",
            f"{entry['conventional_from_abtem']:.1e}",
            f"{entry['renormalised_from_conventional']:.1e}",
        )
    grid.title = "Relative L2 differences"
    grid.caption = (
        "From abTEM: same grid, its potential mirrored to the pixel; this checks the engine. Conventional: without "
        "abTEM's pixel factor. Renormalised (the default): also without the sampling error of heavy atoms."
    )
    return grid
