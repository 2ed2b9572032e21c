"""What a report holds: plain data, gathered by a command and drawn by the figure and page writers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ferrojax.columns import Columns
from ferrojax.image import Image
from ferrojax.polarization import PolarizationMap


@dataclass(frozen=True)
class Table:
    """A titled table; cells are text or numbers (shown to four significant digits), note a line below it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """Lines over a common axis: series maps a name to its (x, y)."""

    title: str
    xlabel: str
    ylabel: str
    series: Mapping[str, tuple[np.ndarray | Sequence[float], np.ndarray | Sequence[float]]]
    log_y: bool = False


@dataclass(frozen=True)
class Panel:
    """One drawing with its words, for the composed figure and for the page alike.

    on_image: it covers the area of the image, and gets a row of its own where that is flat.
    """

    title: str
    caption: str
    draw: Callable[[Axes], None]
    on_image: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page: sentences, then tables, then panels."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    panels: Sequence[Panel] = ()


@dataclass(frozen=True)
class MapReport:
    """Everything that the figure and the page of a polarization map show.

    maps: name -> map of the same image, e.g. "classical fit" and "joint network"; drawn in this order.
    columns: the fitted columns to draw on the image; None takes those of the first map.
    facts: (name, value) pairs: calibration, settings, versions, seeds.
    pictures: (title, caption, figure), shown after the maps.
    sections: shown after the maps. checks: panels that the composed figure adds as a last row, three at most.
    """

    title: str
    lead: str
    image: Image
    maps: Mapping[str, PolarizationMap]
    columns: Columns | None = None
    tables: Sequence[Table] = ()
    curves: Sequence[Curve] = ()
    facts: Sequence[tuple[str, object]] = ()
    notes: Sequence[str] = ()
    pictures: Sequence[tuple[str, str, Figure]] = field(default=())
    sections: Sequence[Section] = ()
    checks: Sequence[Panel] = ()
