"""One HTML file that holds the whole report: pictures inside it, nothing fetched."""

import base64
import io
import os
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from ferrojax.files import replacing
from ferrojax.report.content import Curve, MapReport, Panel, Section, Table
from ferrojax.report.figure import figure_style, flatness, image_panels, map_panels, panel_figure
from ferrojax.report.panels import FLAT, MAP_COLOUR

DPI = 150
WIDE = 12.0  # inches


class Picture(NamedTuple):
    """A figure of the page; source: the picture itself, as a data URL. kind: class of the figure, "" for none."""

    title: str
    caption: str
    source: str
    kind: str = ""


class Block(NamedTuple):
    """A part of the page under a heading; layout: class of its figures' grid."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Picture] = ()
    layout: str = "grid"


def write_html(path: str | os.PathLike[str], report: MapReport) -> None:
    """Write the report as one page that opens anywhere, readable on a phone and on a desktop.

    Errors: InputError where the path cannot be written.
    """
    source = files("ferrojax.report").joinpath("page.html").read_text(encoding="utf-8")
    pages = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    pages.filters["shown"] = shown
    pages.tests["numeric"] = _numeric
    flat = flatness(report)
    blocks = [*_maps(report, flat), *(_written(section, flat) for section in report.sections)]
    blocks.append(Block("Curves", figures=[_curve(curve) for curve in report.curves]))
    blocks.append(Block("More pictures", figures=[_picture(*each) for each in report.pictures]))
    page = pages.from_string(source).render(report=report, blocks=blocks)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _maps(report: MapReport, flat: float) -> list[Block]:
    """The arrows of a map get twice the width of its other panels, and a row of their own where the image is flat."""
    blocks = [Block("The image", figures=_drawn(image_panels(report), flat))]
    for name, (arrows, *others) in map_panels(report).items():
        if flat >= FLAT:
            blocks.append(Block(name, figures=_drawn([arrows, *others], flat)))
            continue
        first = _picture(arrows.title, arrows.caption, panel_figure(arrows, width=7.5))
        blocks.append(Block(name, figures=[first, *_drawn(others, flat)], layout="grid map"))
    return blocks


def _drawn(panels: Iterable[Panel], flat: float) -> list[Picture]:
    """Figures of panels; those on a flat image take a row each."""
    parts = []
    for panel in panels:
        wide = panel.on_image and flat >= FLAT
        figure = panel_figure(panel, width=WIDE, flat=flat) if wide else panel_figure(panel)
        parts.append(_picture(panel.title, panel.caption, figure, "wide" if wide else ""))
    return parts


def _written(section: Section, flat: float) -> Block:
    return Block(section.title, section.text, section.tables, _drawn(section.panels, flat))


def _picture(title: str, caption: str, figure: Figure, kind: str = "") -> Picture:
    return Picture(title, caption, _data_url("png", _rendered(figure, "png")), kind)


def _curve(curve: Curve) -> Picture:
    with figure_style():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        ax = figure.subplots()
        for number, (name, (x, y)) in enumerate(curve.series.items()):
            colour = MAP_COLOUR[number % len(MAP_COLOUR)]
            ax.plot(np.asarray(x), np.asarray(y), color=colour, label=name, lw=1.7)
        ax.set(xlabel=curve.xlabel, ylabel=curve.ylabel, yscale="log" if curve.log_y else "linear")
        ax.grid(color="0.9", lw=0.7)
        ax.legend(frameon=False)
        drawn = _rendered(figure, "svg")
    return Picture(curve.title, "", _data_url("svg+xml", drawn))


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata, bbox_inches="tight", pad_inches=0.06)
    return buffer.getvalue()


def _data_url(kind: str, drawn: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(drawn).decode()}"


def _numeric(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value as a reader wants it: four significant digits, a dash for what is not known."""
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if np.isfinite(value) else "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(shown(item) for item in value)
    if hasattr(value, "__array__"):
        return shown(np.asarray(value).tolist())
    return "–" if value is None else str(value)
