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
THICKEST = 1000.0
"""Å."""
SCAN = (2, 3)
SEED = 0
"""Of the one drawing of shared and partly occupied sites."""


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
            atoms, drawn = whole(specimen(structure, material, thickness))
            experiment = comparison(atoms, (energy, semiangle), tilt, sampling)
        console.print(described(experiment, drawn), markup=False)
        found, pixels = differences(experiment, console)
        agreed = all(entry["within_bound"] for entry in found.values())
        console.print(table(found))
        console.print(told(pixels), markup=False)
        if folder is not None:
            from ferrojax.cli.info import versions
            from ferrojax.report import write_summary

            record = {**settings, "occupancy_seed": SEED if drawn else None, "agreed": agreed, "differences": found}
            write_summary(folder / "summary.json", record | {"abtem_pixels": pixels, "versions": versions()})
    console.print("within bounds" if agreed else "OUT OF BOUNDS: the engines disagree on this machine", markup=False)
    if not agreed:
        raise typer.Exit(1)


def specimen(structure: str | None, material_name: str, thickness: float) -> "Atoms":
    """Atoms of the file or of the library's cell, at rest, repeated along z to at least `thickness` (Å)."""
    import math
    from pathlib import Path

    import numpy as np

    from ferrojax.crystal import Atoms, check_atoms, displaced_supercell, material
    from ferrojax.crystal.cif import looks_like_cif

    if not (math.isfinite(thickness) and 0 < thickness <= THICKEST):
        raise InputError("thickness", thickness, f"must be positive and at most {THICKEST:g} Å", "give Å, e.g. 100")
    if structure is None:
        crystal = material(material_name)
        polar = 0.15 if crystal.soft_mode is not None else 0.0
        cell = displaced_supercell(crystal, np.full((1, 1, 3), [polar, 0.0, 0.0]), 1)
    else:
        path = Path(structure)
        cell = Atoms.from_file(path) if path.is_file() and looks_like_cif(path) else Atoms.from_ase(_read(structure))
    if cell.box[2] > THICKEST:
        remedy = f"cut the cell to at most {THICKEST:g} Å along z"
        raise InputError("structure", f"{cell.box[2]:.0f} Å", "is too thick for a short check", remedy)
    # An atom on the cell's face belongs to its entrance side, whatever the rounding.
    wrapped = np.mod(np.asarray(cell.position, float) + 1e-4, cell.box) - 1e-4
    cell = Atoms(wrapped, cell.number, cell.box, 0.0, cell.occupancy)
    check_atoms(cell)
    return cell.repeated(1, 1, max(1, math.ceil(thickness / cell.box[2] - 1e-6)))


def whole(atoms: "Atoms") -> "tuple[Atoms, bool]":
    """The specimen with every shared or partly occupied site drawn once, and whether there was one."""
    from ferrojax.crystal import draw_occupancy
    from ferrojax.multislice import is_partial

    drawn = is_partial(atoms)
    return (draw_occupancy(atoms, SEED).present() if drawn else atoms), drawn


def _read(structure: str) -> Any:
    import warnings
    from pathlib import Path

    import ase
    import ase.io

    remedy = "give a file that ASE reads, e.g. .cif or .xyz"
    if not Path(structure).is_file():
        raise InputError("structure", structure, "cannot be read: no such file", remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms = ase.io.read(structure)
    except Exception as error:  # ASE's readers raise whatever their parsers do
        raise InputError("structure", structure, f"cannot be read: {error or type(error).__name__}", remedy) from error
    if not isinstance(atoms, ase.Atoms) or len(atoms) == 0:
        raise InputError("structure", structure, "holds no atoms", "give a file with one structure")
    return atoms


def comparison(atoms: "Atoms", beam: tuple[float, float], tilt: tuple[float, float], sampling: float) -> "Experiment":
    """The experiment for both engines, on the atoms' own positions across the beam. beam: (eV, mrad)."""
    import math

    from ferrojax.detection import Scan
    from ferrojax.grid import Grid
    from ferrojax.interop.agreement import Experiment, clear_of_slice_edges
    from ferrojax.optics import Probe

    if not all(math.isfinite(t) and abs(t) <= 100 for t in tilt):
        raise InputError("tilt", tilt, "must lie within ±100 mrad", "give x and y in mrad, e.g. 5 -3")
    probe = Probe(*beam)
    width, height, depth = atoms.box
    if sampling > 0 and width * height > LARGEST * sampling**2:
        remedy = "cut a smaller cell, or sample more coarsely (Å, not nm)"
        problem = f"makes more than {LARGEST} pixels of {width:.2f} × {height:.2f} Å, too many for a short check"
        raise InputError("sampling", f"{sampling:g} Å", problem, remedy)
    grid = Grid.for_box(width, height, sampling)
    slice_thickness = depth / math.ceil(depth / 2.0)
    return Experiment(
        clear_of_slice_edges(atoms, slice_thickness),
        probe,
        Scan.grid((0.03 * width, 0.05 * height), (1.03 * width, 1.05 * height), SCAN),
        scaled_detectors(probe, grid),
        grid,
        cbed_position=(0.27 * width, 0.1 * height),
        tilt=tilt,
        slice_thickness=slice_thickness,
    )


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
    detectors = {
        "HAADF": AnnularDetector(3 * semiangle, min(8 * semiangle, reach)),
        "ABF": AnnularDetector(semiangle / 2, semiangle),
        "BF": AnnularDetector(0, semiangle / 2),
    }
    for name, d in detectors.items():
        angle = grid.k * probe.wavelength * 1e3
        if not ((angle >= d.inner) & (angle < d.outer)).any():
            spacing = probe.wavelength * 1e3 / max(grid.extent)
            raise InputError(
                "energy and semiangle",
                f"{probe.energy:g} eV and {semiangle:g} mrad",
                f"leave {name} ({d.inner:g}–{d.outer:g} mrad) without a beam of this cell, {spacing:.3g} mrad apart",
                "give eV, e.g. 200e3, and mrad, e.g. 21.4, or a wider cell",
            )
    return detectors


def described(experiment: "Experiment", drawn: bool) -> str:
    """What is compared, in one paragraph."""
    atoms, grid = experiment.atoms, experiment.grid
    slices = round(atoms.box[2] / experiment.slice_thickness)
    rings = ", ".join(f"{name} {d.inner:.0f}–{d.outer:.0f}" for name, d in experiment.detectors.items())
    occupancies = (
        f"Shared and partly occupied sites are drawn once (draw_occupancy, seed {SEED}): "
        "both engines see the same whole atoms.\n"
    )
    return (
        f"{len(atoms.number)} atoms at rest, {atoms.box[0]:.2f} × {atoms.box[1]:.2f} × {atoms.box[2]:.1f} Å, "
        f"{slices} slices, {grid.shape[0]} × {grid.shape[1]} pixels (y, x), {SCAN[0] * SCAN[1]} probes; {rings} mrad.\n"
        f"{occupancies * drawn}Across the beam atoms keep their places; along it those on the edge of a slice are "
        "moved clear of it, because abTEM may put them into either."
    )


def differences(experiment: "Experiment", console: Any) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """name -> relative differences with bound and verdict; and what abTEM's pixels do to its HAADF."""
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
    haadf, exact = ours["abtem"]["HAADF"], ours["conventional"]["HAADF"]
    pixels = {
        "HAADF_relative_difference": relative_differences({"HAADF": haadf}, {"HAADF": exact})["HAADF"],
        "HAADF_mean_change": float(haadf.mean() / exact.mean() - 1),
    }
    found = {
        name: {
            "relative_difference": value,
            "bound": bound(name),
            "within_bound": bool(value <= bound(name)),
            "conventional_from_abtem": conventional[name],
            "renormalised_from_conventional": renormalised[name],
        }
        for name, value in mirrored.items()
    }
    return found, pixels


def told(pixels: Mapping[str, float]) -> str:
    """What abTEM's own pixels do to its HAADF, which is no matter of the verdict."""
    return (
        "For information: abTEM shares every atom out linearly among four pixels. On this structure and grid its "
        f"pixels change its HAADF by {pixels['HAADF_relative_difference']:.1e} (relative L2; "
        f"{1e2 * pixels['HAADF_mean_change']:+.2f} % on the mean) against atoms placed exactly. That is no fault of "
        "the structure and no part of the verdict; finer sampling makes it smaller: lower --sampling."
    )


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
        "From abTEM: same grid, its potential mirrored on and off the pixels; this checks the engine. Conventional: "
        "atoms placed exactly, without abTEM's pixels. Renormalised (the default): also without the sampling error of "
        "heavy atoms."
    )
    return grid
