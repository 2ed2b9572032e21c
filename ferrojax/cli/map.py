"""`ferrojax map IMAGE`: the classical polarization map of a user's own image."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from ferrojax.cli.options import parse_sampling, parse_zone
from ferrojax.cli.output import prepared_output

if TYPE_CHECKING:
    from pathlib import Path

    from ferrojax.image import Image
    from ferrojax.polarization import PolarizationMap
    from ferrojax.report import MapReport

RESULTS = ("report.html", "map.png", "map.hspy", "map.csv", "summary.json")


def map_image(
    image: str = typer.Argument(metavar="IMAGE", help=".npz, .tif, .dm3, .dm4, .emd, .hspy, .mrc or .ser"),
    *,
    crystal: str = typer.Option(..., help="A name of the material library; `ferrojax info` lists them."),
    zone: str = typer.Option("001", help="Zone axis, pseudo-cubic for perovskites: 001, 110 or 0,0,1."),
    sampling: str | None = typer.Option(None, help="Å per pixel, one value or y,x; replaces the file's."),
    out: str = typer.Option("out", help="Folder for the maps, the report and summary.json."),
    seed: int = typer.Option(0, min=0, help="Recorded with the results; a column fit draws no numbers."),
) -> None:
    """Map the displacement of B columns against their A neighbours, with an error bar per cell."""
    from time import perf_counter

    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    axis, step = parse_zone(zone), parse_sampling(sampling)
    settings = {"image": image, "crystal": crystal, "zone": list(axis), "sampling": step, "seed": seed}
    start = perf_counter()
    with prepared_output(out) as folder, console.status("Loading") as status:
        from ferrojax.crystal import material
        from ferrojax.io import read
        from ferrojax.polarization import map_polarization

        reference = material(crystal)
        picture = read(image, step)
        status.update("Finding and fitting columns")
        pmap = map_polarization(picture, reference, zone=axis)
        status.update("Writing the report")
        report = map_report(picture, pmap, settings)
        write_results(folder, report, settings | {"seconds": perf_counter() - start})
    for name, value in summed_up(pmap):
        console.print(f"{name}: {value}", markup=False)
    console.print(f"written to {out}: {', '.join(RESULTS)}", markup=False)


def summed_up(pmap: "PolarizationMap") -> list[tuple[str, str]]:
    """Calibration and result in words."""
    from ferrojax.report import calibration_facts, map_facts

    return [*calibration_facts(pmap.calibration), *map_facts(pmap)]


def map_report(image: "Image", pmap: "PolarizationMap", settings: Mapping[str, object]) -> "MapReport":
    """The report of one classical map."""
    from ferrojax.cli.info import versions
    from ferrojax.report import MapReport, map_facts

    crystal = settings["crystal"]
    zone = dict(pmap.provenance)["zone"]
    numbers = dict(map_facts(pmap))
    lead = (
        f"Displacement of the B columns of {crystal} against their A neighbours, seen along [{zone}], "
        f"by column fitting: {numbers['cells mapped']} cells, mean {numbers['mean displacement (x, y)']}."
    )
    facts = [*summed_up(pmap), *settings.items(), *versions().items()]
    notes = (
        "Nothing is subtracted: sample mis-tilt and overlapping oxygen columns shift the map as a whole.",
        "The affine calibration takes the crystal's mean strain for distortion of the scan.",
    )
    title = f"{image.name}: {crystal} [{zone}]"
    return MapReport(title, lead, image, {"Column fit": pmap}, columns=pmap.columns, facts=facts, notes=notes)


def write_results(folder: "Path", report: "MapReport", settings: Mapping[str, object]) -> None:
    """Map, table, picture, page and summary of a report with one map."""
    from ferrojax.cli.info import versions
    from ferrojax.io import write_csv, write_map
    from ferrojax.report import map_statistics, polarization_figure, write_html, write_summary

    (pmap,) = report.maps.values()
    write_map(folder / "map.hspy", pmap)
    write_csv(folder / "map.csv", pmap)
    polarization_figure(report).savefig(folder / "map.png", dpi=130)
    write_html(folder / "report.html", report)
    found = {"calibration": pmap.calibration.summary(), "versions": versions()}
    write_summary(folder / "summary.json", {**settings, **map_statistics(pmap), **found})
