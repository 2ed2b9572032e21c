"""Panels of the local lattice and of domains: one value or one colour a cell."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from ferrojax.polarization import (
    DomainMap,
    LocalLattice,
    PolarizationMap,
    Strain,
    Wall,
    lattice_lengths,
    tetragonality,
)
from ferrojax.report.colour import direction_colours
from ferrojax.report.content import Panel
from ferrojax.report.panels import add_scale_bar, draw_cells, frame_cells, outlines

_SPAN = 2.5
"""Robust standard deviations that the colours of a panel reach to either side of the median."""


class CellQuantity(NamedTuple):
    """A value a cell: name, unit, (ny, nx) value and its standard error, NaN where unknown."""

    name: str
    unit: str
    value: np.ndarray
    error: np.ndarray

    @property
    def spread(self) -> float:
        """Robust standard deviation over the cells."""
        known = self.value[np.isfinite(self.value)]
        return float(1.4826 * np.median(np.abs(known - np.median(known)))) if len(known) else float("nan")


def lattice_quantities(lattice: LocalLattice, strained: Strain) -> list[CellQuantity]:
    """Lengths (pm), their ratio, strain (%) and rotation (degrees) of every cell."""
    length, covariance = (np.asarray(v, float) for v in lattice_lengths(lattice))
    error = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    ratio, variance = (np.asarray(v, float) for v in tetragonality(lattice))
    tensor, turn = np.asarray(strained.tensor, float), np.asarray(strained.rotation, float)
    of_strain = np.sqrt(np.diagonal(np.asarray(strained.covariance, float), axis1=-2, axis2=-1))
    parts = [CellQuantity(f"lattice vector {k + 1}", "pm", 100 * length[..., k], 100 * error[..., k]) for k in (0, 1)]
    parts.append(CellQuantity("vector 2 over vector 1", "", ratio, np.sqrt(variance)))
    names = ("strain along x", "strain along y", "shear strain xy")
    parts += [CellQuantity(n, "%", 100 * tensor[..., k], 100 * of_strain[..., k]) for k, n in enumerate(names)]
    return [*parts, CellQuantity("rotation, clockwise", "°", turn, of_strain[..., 3])]


def quantity_panel(pmap: PolarizationMap, quantity: CellQuantity) -> Panel:
    """The map of one quantity, colours about its median."""
    known = quantity.value[np.isfinite(quantity.value)]
    middle = float(np.median(known)) if len(known) else 0.0
    half = max(_SPAN * quantity.spread, 1e-9) if len(known) else 1.0
    label = f"{quantity.name} ({quantity.unit})" if quantity.unit else quantity.name
    unit = f" {quantity.unit}" if quantity.unit else ""
    typical = float(np.nanmedian(quantity.error)) if len(known) else float("nan")
    return Panel(
        quantity.name.capitalize(),
        f"Spread over cells {quantity.spread:.2g}{unit}, σ of a cell {typical:.2g}{unit}.",
        lambda ax: draw_cells(ax, pmap, quantity.value, label, (middle - half, middle + half), "cmc.vik"),
        on_image=True,
    )


def draw_domains(ax: Axes, pmap: PolarizationMap, found: DomainMap, walls: Sequence[Wall]) -> None:
    """Cells by domain, coloured by its direction (grey: not polar), and the walls, numbered as in their table."""
    at, valid = np.asarray(pmap.position), np.asarray(pmap.valid)
    label = found.domains.label
    variant = found.domains.variant / np.linalg.norm(found.domains.variant, axis=1, keepdims=True)
    colour = np.where((label >= 0)[..., None], direction_colours(variant[np.maximum(label, 0)], 1.0), 0.82)
    ax.add_collection(PolyCollection(list(outlines(at)[valid]), facecolors=colour[valid], linewidths=0))
    for number, wall in enumerate(walls, 1):
        points = wall.position[np.argsort(wall.position @ _along(wall.position))]
        ax.plot(*points.T, color="black", lw=2.2, solid_capstyle="round")
        ax.annotate(
            str(number), points[len(points) // 2], color="white", fontsize=9, ha="center", va="center",
            bbox={"boxstyle": "circle,pad=0.2", "fc": "black", "ec": "none"},
        )  # fmt: skip
    frame_cells(ax, at)
    add_scale_bar(ax, 0.1)


def _along(points: np.ndarray) -> np.ndarray:
    """The direction in which points extend most."""
    return np.linalg.svd(points - points.mean(0), full_matrices=False)[2][0]
