"""`ferrojax map IMAGE`: the polarization map of a user's own image, by columns or through the microscope."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from ferrojax.cli.mapped import Mapped, MapSettings, MicroscopeSettings
from ferrojax.cli.options import (
    FORMATS,
    METHODS,
    MODES,
    load_crystal,
    parse_choice,
    parse_drift,
    parse_known,
    parse_labels,
    parse_ring,
    parse_sampling,
    parse_signal,
    parse_zone,
)
from ferrojax.cli.output import prepared_output

if TYPE_CHECKING:
    from pathlib import Path

    from ferrojax.columns import FrameAlignment
    from ferrojax.crystal import Crystal
    from ferrojax.image import Image
    from ferrojax.refinement import ScanRecording

RESULTS = ("report.html", "map.png", "map.{format}", "map.csv", "columns.csv", "summary.json")
_STAGES = {
    "reading": 0, "finding": 2, "fitting": 8, "checking": 52, "measuring the scan": 60,
    "simulating": 62, "looking": 74, "measuring the local": 77, "writing": 84,
}  # fmt: skip
"""First words of a stage -> per cent of the time that is over when it begins, on an image of 1000 × 1000 px."""


def map_image(
    image: str = typer.Argument(metavar="IMAGE", help=".npz, .tif, .dm3, .dm4, .emd, .hspy, .mrc or .ser"),
    *,
    crystal: str = typer.Option(..., help="Material of the library (`ferrojax info` lists them), or a CIF or POSCAR."),
    displacement: str | None = typer.Option(
        None, help="What moves against what, by elements: Fe:Bi, Al:N, Mg1:Mg2; by default B against A."
    ),
    labels: str | None = typer.Option(None, help="Sites of a structure file: Pb=A,Ti=B,O=O; by default inferred."),
    zone: str = typer.Option("001", help="Zone axis, pseudo-cubic for perovskites: 001, 110 or 0,0,1."),
    sampling: str | None = typer.Option(None, help="Å per pixel, one value or y,x; replaces the file's."),
    mode: str | None = typer.Option(None, help="HAADF, ABF or iDPC; by default told from the image."),
    oxygen: bool = typer.Option(False, help="Draw oxygen hidden under B along the soft mode, so that it pulls B less."),
    signal: str | None = typer.Option(None, help="Name or number of one of several signals in the file."),
    frames: bool = typer.Option(False, "--frames", help="The file is a series: align its frames and average them."),
    drift: str | None = typer.Option(None, help="First guess of the frames' drift, px a frame as x,y; see --frames."),
    correct_drift: bool = typer.Option(
        False, "--correct-drift", help="Take the scan's slow drift out of the positions; a strain gradient goes, too."
    ),
    method: str = typer.Option(
        "columns", help="columns, or microscope: read through the recording fitted to the image."
    ),
    energy: float | None = typer.Option(None, help="Beam energy in eV, for --method microscope."),
    detector: str | None = typer.Option(
        None, help="Ring that recorded the image, mrad: 60:170, or 60: for all beyond."
    ),
    semiangle: float | None = typer.Option(None, help="Convergence semi-angle in mrad; left out, 21 ± 0.7."),
    known: str | None = typer.Option(
        None, help="What is known of the recording, value:error in Å and mrad: thickness=120:20,defocus=0:30."
    ),
    beside: str | None = typer.Option(None, help="File of a second signal of the same scan, read together with it."),
    beside_detector: str | None = typer.Option(None, help="Ring that recorded --beside, mrad: 11:22."),
    format: str = typer.Option("hspy", help="File format of the map: hspy (HyperSpy), h5 or zarr."),
    out: str = typer.Option("out", help="Folder for the maps, the report and summary.json."),
) -> None:
    """Map the displacement of B columns against their A neighbours, with an error bar per cell."""
    from time import perf_counter

    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    step, axis = parse_sampling(sampling), parse_zone(zone)
    shown, kind = parse_choice("mode", mode, MODES), parse_choice("format", format, FORMATS)
    moved = parse_drift(drift, frames)
    settings = MapSettings(
        image,
        crystal,
        axis,
        step,
        shown,
        oxygen,
        parse_signal(signal),
        frames,
        moved,
        correct_drift,
        displacement,
        parse_labels(labels),
        microscope_settings(method, displacement, energy, detector, semiangle, known, beside, beside_detector),
    )
    start = perf_counter()
    results = [name.format(format=kind) for name in RESULTS]
    with prepared_output(out, results) as folder, progress_display(console) as progress:
        mapped = map_file(settings, progress)
        progress("writing the report")
        write_results(folder, mapped, settings, str(kind), lambda: perf_counter() - start)
    from ferrojax.cli.map_report import summed_up

    for line in mapped.pmap.notes:
        console.print(f"note: {line}", markup=False)
    for name, value in summed_up(mapped):
        console.print(f"{name}: {value}", markup=False)
    console.print(f"written to {out}: {', '.join(results)}", markup=False)


def microscope_settings(
    method: str,
    displacement: str | None,
    energy: float | None,
    detector: str | None,
    semiangle: float | None,
    known: str | None,
    beside: str | None,
    beside_detector: str | None,
) -> MicroscopeSettings | None:
    """What --method microscope needs; None for a column fit."""
    from ferrojax.crystal.roles import SITES_OF_B
    from ferrojax.errors import InputError

    ring, other = parse_ring("detector", detector), parse_ring("beside-detector", beside_detector)
    given = {"energy": energy, "detector": detector, "semiangle": semiangle, "known": known, "beside": beside}
    given["beside-detector"] = beside_detector
    if parse_choice("method", method, METHODS) == METHODS[0]:
        for name, value in given.items():
            if value is not None:
                raise InputError(name, value, "is not used by a column fit", "add --method microscope, or leave it out")
        return None
    if displacement not in (None, SITES_OF_B):
        remedy = "leave it out, or map it by the column fit"
        raise InputError("displacement", displacement, "is not what --method microscope reads: B against A", remedy)
    if energy is None or ring is None:
        field = "energy" if energy is None else "detector"
        remedy = "say how the image was recorded, e.g. --energy 200000 --detector 60:170"
        raise InputError(field, None, "is needed by --method microscope", remedy)
    if (beside is None) != (other is None):
        remedy = "give both: --beside abf.dm4 --beside-detector 11:22"
        raise InputError("beside", beside, "and --beside-detector belong together", remedy)
    return MicroscopeSettings(energy, ring, semiangle, parse_known(known), beside, other)


@contextmanager
def progress_display(console) -> Iterator[Callable[[str], None]]:
    """Called with a word before every stage, shows it with the share of the time that is over; only in a terminal."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    parts = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*parts, console=console, transient=True, disable=not console.is_terminal) as display:
        task = display.add_task("starting", total=100)

        def show(stage: str) -> None:
            reached = max((v for k, v in _STAGES.items() if stage.startswith(k)), default=None)
            display.update(task, description=stage, completed=reached)

        yield show


def map_file(settings: MapSettings, progress: Callable[[str], None]) -> Mapped:
    """Read, find, fit, map and analyse; everything but files."""
    progress("reading")
    from ferrojax.polarization import analyse_map, map_with_model, with_prediction

    crystal, remarks = load_crystal(settings.crystal, settings.labels)
    image, alignment = read_image(settings)
    made = map_with_model(
        image,
        crystal,
        settings.zone,
        displacement=settings.displacement,
        correct_drift=settings.correct_drift,
        mode=settings.mode,
        oxygen=settings.oxygen,
        progress=progress,
    )
    if settings.microscope is None:
        analysis = analyse_map(image, made, crystal, settings.zone, progress)
        return Mapped(image, crystal, made[0], analysis, alignment, remarks)
    recording = fitted_recording(settings, image, crystal, progress)
    pmap = with_prediction(made[0], image, recording.predictor(image, crystal))
    analysis = analyse_map(image, (pmap, made[1]), crystal, settings.zone, progress)
    return Mapped(image, crystal, pmap, analysis, alignment, remarks, made[0], recording)


def fitted_recording(
    settings: MapSettings, image: "Image", crystal: "Crystal", progress: Callable[[str], None]
) -> "ScanRecording":
    """What the image, and a second signal beside it, were recorded at."""
    from dataclasses import replace

    from ferrojax.detection import AnnularDetector
    from ferrojax.refinement import fit_recording

    asked = settings.microscope
    assert asked is not None
    images, rings = {"image": image}, {"image": AnnularDetector(*asked.detector)}
    if asked.beside is not None and asked.beside_detector is not None:
        images["beside"], _ = read_image(replace(settings, image=asked.beside))
        rings["beside"] = AnnularDetector(*asked.beside_detector)

    def told(done: int, many: int) -> None:
        progress(f"simulating the response, {done} of {many}")

    return fit_recording(
        images, crystal, settings.zone, detectors=rings, energy=asked.energy, semiangle=asked.semiangle,
        priors=asked.known, on_specimen=told, mode=settings.mode,
    )  # fmt: skip


def read_image(settings: MapSettings) -> "tuple[Image, FrameAlignment | None]":
    """The image of the file, or the average of its aligned frames."""
    from ferrojax.columns import average_frames
    from ferrojax.errors import InputError
    from ferrojax.image import Image
    from ferrojax.io import read

    found = read(settings.image, settings.sampling, signal=settings.signal, stack=settings.frames)
    if not isinstance(found, Image):
        shape = f"shape {tuple(found.data.shape)}"
        raise InputError("image", shape, "is a diffraction scan", "make an image of it first, or choose a signal")
    return average_frames(found, drift=settings.drift) if settings.frames else (found, None)


def write_results(
    folder: "Path", mapped: Mapped, settings: MapSettings, kind: str, seconds: Callable[[], float]
) -> None:
    """Map, tables, picture, page and summary."""
    from ferrojax.cli.map_report import map_report, map_summary
    from ferrojax.io import write_columns_csv, write_csv, write_map
    from ferrojax.report import polarization_figure, write_html, write_summary

    pmap, found = mapped.pmap, mapped.analysis.domains
    domains = None if found is None else found.domains
    write_map(folder / f"map.{kind}", pmap, domains)
    write_csv(folder / "map.csv", pmap, domains)
    write_columns_csv(folder / "columns.csv", pmap.columns)
    report = map_report(mapped, settings)
    polarization_figure(report).savefig(folder / "map.png", dpi=130)
    write_html(folder / "report.html", report)
    write_summary(folder / "summary.json", map_summary(mapped, settings) | {"seconds": seconds()})
