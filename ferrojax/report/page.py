"""One HTML file that holds the whole report: pictures inside it, nothing fetched."""

import base64
import io
import os
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from matplotlib.figure import Figure

from ferrojax.report.content import Curve, MapReport, Panel, Section, Table
from ferrojax.report.figure import figure_style, flatness, image_panels, map_panels, panel_figure
from ferrojax.report.panels import FLAT, MAP_COLOUR

DPI = 150
WIDE = 12.0  # inches


def write_html(path: str | os.PathLike[str], report: MapReport) -> None:
    """Write the report as one page that opens anywhere, readable on a phone and on a desktop."""
    template = Template(files("ferrojax.report").joinpath("page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(report.title),
        lead=escape(report.lead),
        notes=_notes(report.notes),
        tables="".join(_table(table) for table in report.tables),
        maps=_maps(report),
        sections="".join(_written(section, flatness(report)) for section in report.sections),
        curves=_section("Curves", "".join(_curve(curve) for curve in report.curves)),
        pictures=_section("More pictures", "".join(_picture(*each) for each in report.pictures)),
        facts=_facts(report.facts),
    )
    Path(path).write_text(page, encoding="utf-8")


def _maps(report: MapReport) -> str:
    """The arrows of a map get twice the width of its other panels, and a row of their own where the image is flat."""
    flat = flatness(report)
    sections = [_section("The image", _drawn(image_panels(report), flat))]
    for name, (arrows, *others) in map_panels(report).items():
        if flat >= FLAT:
            sections.append(_section(name, _drawn([arrows, *others], flat)))
            continue
        figures = _picture(arrows.title, arrows.caption, panel_figure(arrows, width=7.5)) + _drawn(others, flat)
        sections.append(_section(name, figures, "grid map"))
    return "".join(sections)


def _drawn(panels: Iterable[Panel], flat: float) -> str:
    """Figures of panels; those on a flat image take a row each."""
    parts = []
    for panel in panels:
        wide = panel.on_image and flat >= FLAT
        figure = panel_figure(panel, width=WIDE, flat=flat) if wide else panel_figure(panel)
        parts.append(_picture(panel.title, panel.caption, figure, "wide" if wide else ""))
    return "".join(parts)


def _written(section: Section, flat: float) -> str:
    text = "".join(f'<p class="text">{escape(line)}</p>' for line in section.text)
    tables = "".join(_table(table, "h3") for table in section.tables)
    figures = _drawn(section.panels, flat)
    grid = f'<div class="grid">{figures}</div>' if figures else ""
    return f"<section><h2>{escape(section.title)}</h2>{text}{tables}{grid}</section>"


def _section(title: str, figures: str, layout: str = "grid") -> str:
    if not figures:
        return ""
    return f'<section><h2>{escape(title)}</h2><div class="{layout}">{figures}</div></section>'


def _picture(title: str, caption: str, figure: Figure, kind: str = "") -> str:
    return _figure(title, caption, ("png", _rendered(figure, "png")), kind)


def _curve(curve: Curve) -> str:
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
    return _figure(curve.title, "", ("svg+xml", drawn))


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata, bbox_inches="tight", pad_inches=0.06)
    return buffer.getvalue()


def _figure(title: str, caption: str, drawn: tuple[str, bytes], kind: str = "") -> str:
    """drawn: format and content of the picture; kind: class of the figure."""
    source = f"data:image/{drawn[0]};base64,{base64.b64encode(drawn[1]).decode()}"
    words = f"<strong>{escape(title)}</strong> {escape(caption)}"
    opening = f'<figure class="{kind}">' if kind else "<figure>"
    return f'{opening}<img alt="{escape(title)}" src="{source}"><figcaption>{words}</figcaption></figure>'


def _table(table: Table, heading: str = "h2") -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f"<section><{heading}>{escape(table.title)}</{heading}>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{note}</section>"
    )


def _cell(value: object) -> str:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return f'<td class="number">{escape(shown(value))}</td>' if number else f"<td>{escape(shown(value))}</td>"


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


def _facts(facts: Iterable[tuple[str, object]]) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(shown(value))}</dd>" for name, value in facts)
    return f"<section><h2>Calibration, settings, versions</h2><dl>{rows}</dl></section>" if rows else ""


def _notes(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""
