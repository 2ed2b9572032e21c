"""Domains: which variant every cell belongs to, how sure that is, and which cells hang together."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ferrojax.errors import InputError
from ferrojax.polarization.graph import CellGraph, grid_graph
from ferrojax.polarization.mixture import Cells, fit_mixture, information_criterion, posterior
from ferrojax.polarization.structure import AnyArray

MIN_CELLS = 4
NONE = -1


class Domains(NamedTuple):
    """Domains of a map or a structure, cell by cell in the shape of the field, as NumPy arrays.

    label: row of `variant`, −1 in invalid and non-polar cells. confidence: probability of that label (or of being
    non-polar) given the cell's own value and error; NaN where invalid. region: number of the connected domain, −1
    outside all. variant: (k, d) as given. amplitude: a domain's field is amplitude × variant, the field's unit.
    scatter: rms of the cells about that per component beyond their errors, the field's unit.
    """

    label: np.ndarray
    confidence: np.ndarray
    region: np.ndarray
    variant: np.ndarray
    amplitude: float
    scatter: float


def segment_domains(
    field: Float[AnyArray, "*cells d"],
    valid: Bool[AnyArray, "*cells"],
    variants: Float[AnyArray, "k axes"],
    covariance: Float[AnyArray, "*cells d d"] | None = None,
    *,
    graph: CellGraph | None = None,
    minimum_cells: int = MIN_CELLS,
) -> Domains:
    """Assign every cell to one of the directions that symmetry allows, or to none.

    A mixture of Gaussians: one on each variant, one about zero for cells that are not polar, with a common scatter
    beyond each cell's own covariance (`mixture`). A field that noise about zero explains better has no domain.
    Domains of fewer than `minimum_cells` cells get the label most common around them; their confidence is the
    probability of that label, so it stays low.
    variants: (k, d) in the field's axes, from `polar_variants` or `projected_variants`; lengths count relative to
    each other. graph: which cells touch; by default those of a (ny, nx) grid.
    Errors: InputError without valid cells, or for variants that do not fit the field.
    """
    values, there = np.asarray(field, float), np.asarray(valid)
    shape, d = there.shape, values.shape[-1]
    variant = np.asarray(variants, float)
    if variant.shape[-1] != d or not len(variant) or not (variant**2).sum(1).all():
        raise InputError("variants", variant.shape, f"must be directions in {d} components", "give (k, d) vectors")
    graph = graph_of(shape, graph)
    cells = _cells(values, there, covariance)
    k, mask = len(variant), there.ravel()
    sample = cells.sample()
    fitted, about_zero = fit_mixture(sample, variant), fit_mixture(sample, variant[:0])
    chance = np.full((mask.size, k + 1), np.nan)
    chance[mask] = posterior(fitted, cells, variant)[0]
    none = information_criterion(about_zero, sample, variant[:0])
    if information_criterion(fitted, sample, variant) > none:
        chance[mask] = np.arange(k + 1) == k
    label = np.where(mask, np.nan_to_num(chance).argmax(1), NONE)
    label = _cleaned(label, chance, graph, minimum_cells)
    confidence = np.where(mask, np.take_along_axis(chance, np.maximum(label, 0)[:, None], 1)[:, 0], np.nan)
    label = np.where(label == k, NONE, label)
    return Domains(
        label=label.reshape(shape),
        confidence=confidence.reshape(shape),
        region=graph.regions(label).reshape(shape),
        variant=variant,
        amplitude=cells.unit * fitted.amplitude if (label >= 0).any() else 0.0,
        scatter=cells.unit * fitted.variance**0.5,
    )


def likeliest_family(
    field: Float[AnyArray, "*cells d"],
    valid: Bool[AnyArray, "*cells"],
    families: Mapping[str, Float[AnyArray, "_ axes"]],
    covariance: Float[AnyArray, "*cells d d"] | None = None,
) -> str:
    """Name of the set of variants that explains a field best, by the Bayesian information criterion.

    families: name -> variants, such as {"100": projected_variants("100", axes), "111": …}.
    """
    cells = _cells(np.asarray(field, float), np.asarray(valid), covariance).sample()

    def criterion(name: str) -> float:
        variants = np.asarray(families[name], float)
        return information_criterion(fit_mixture(cells, variants), cells, variants)

    return min(families, key=criterion)


def graph_of(shape: tuple[int, ...], graph: CellGraph | None) -> CellGraph:
    if graph is not None:
        return graph
    if len(shape) != 2:
        raise InputError("graph", shape, "is needed where the cells are no grid", "give structure_graph(cells)")
    return grid_graph(shape)


def _cells(values: np.ndarray, there: np.ndarray, covariance: AnyArray | None) -> Cells:
    if not there.any():
        raise InputError("valid", "no cell", "has no domain", "map an image with complete cells")
    return Cells.scaled(values[there], None if covariance is None else np.asarray(covariance, float)[there])


def _cleaned(
    label: Int[np.ndarray, " n"], chance: np.ndarray, graph: CellGraph, minimum_cells: int
) -> Int[np.ndarray, " n"]:
    """Give domains that are too small to the label most common among the cells that touch them.

    The more probable of equally common labels wins. Pieces that touch nothing keep theirs.
    """
    label = label.copy()
    for _ in range(4):
        region = graph.regions(label)
        size = np.bincount(region[region >= 0], minlength=1)
        small = np.nonzero((size > 0) & (size < minimum_cells))[0]
        changed = False
        for each in small[np.argsort(size[small], kind="stable")]:
            cells = np.nonzero(region == each)[0]
            around = label[graph.touching(cells)]
            around = around[around >= 0]
            if not len(around):
                continue
            count = np.bincount(around, minlength=chance.shape[1])
            score = np.where(count > 0, count + 0.5 * chance[cells].mean(0), -1.0)
            label[cells], changed = int(score.argmax()), True
        if not changed:
            break
    return label
