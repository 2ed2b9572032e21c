"""Domains: which variant every cell belongs to, how sure that is, and which cells hang together."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ferrojax.errors import InputError
from ferrojax.polarization.graph import CellGraph, grid_graph
from ferrojax.polarization.mixture import Cells, Mixture, fit_mixture, information_criterion, posterior
from ferrojax.polarization.structure import AnyArray

MIN_CELLS = 4
SWEEPS = 20
NONE = -1


class Domains(NamedTuple):
    """Domains of a map or a structure, cell by cell in the shape of the field, as NumPy arrays.

    label: row of `variant`, −1 in invalid and non-polar cells. confidence: probability of that label (or of being
    non-polar) given the cell's own value and error; NaN where invalid. region: number of the connected domain, −1
    outside all. variant: (k, d) as given. amplitude: a domain's field is offset + amplitude × variant, the field's
    unit; where there is one domain, amplitude along its own direction.
    scatter: rms of the cells about that per component beyond their errors, the field's unit.
    offset: (d,) what all cells share beside their polarization, the field's unit; zeros where none shows.
    """

    label: np.ndarray
    confidence: np.ndarray
    region: np.ndarray
    variant: np.ndarray
    amplitude: float
    scatter: float
    offset: np.ndarray


def segment_domains(
    field: Float[AnyArray, "*cells d"],
    valid: Bool[AnyArray, "*cells"],
    variants: Float[AnyArray, "k axes"],
    covariance: Float[AnyArray, "*cells d d"] | None = None,
    *,
    graph: CellGraph | None = None,
    minimum_cells: int = MIN_CELLS,
    coherence: float = 1.0,
    common_offset: bool | None = None,
) -> Domains:
    """Assign every cell to one of the directions that symmetry allows, or to none.

    A mixture of Gaussians: one on each variant, one about zero for cells that are not polar, with a common scatter
    beyond each cell's own covariance (`mixture`). A field that noise about zero explains better has no domain, and
    one that scatters about a single direction, allowed or not, is one domain.
    common_offset: whether all centres may be shifted alike, as mis-tilt and overlapping columns do; it is taken where
    the cells ask for it. By default in two dimensions, an image's; a structure has no microscope. Then only
    differences count: a domain beside a non-polar region under a small offset and two domains under a larger one look
    the same, and are called two domains.
    variants: (k, d) in the field's axes, from `polar_variants` or `projected_variants`; lengths count relative to
    each other. graph: which cells touch; by default those of a (ny, nx) grid.
    minimum_cells: smaller domains get the label most common around them; their confidence is the probability of
    that label, so it stays low. coherence: how strongly a cell leans on those that touch it, log of the odds per
    neighbour; 0 leaves every cell to itself.
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
    chance = np.full((mask.size, k + 1), np.nan)
    fitted, chance[mask] = _chances(cells, variant, _may_shift(common_offset, d))
    chance[mask] = _leaning(chance, mask, graph, coherence)[mask]
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
        scatter=cells.unit * float(np.trace(fitted.scatter) / d) ** 0.5,
        offset=cells.unit * fitted.offset,
    )


def _chances(cells: Cells, variant: np.ndarray, offset: bool) -> tuple[Mixture, np.ndarray]:
    """The fit and the (n, k + 1) probabilities of all variants, of a single direction, or of none: the simplest."""
    sample, k = cells.sample(), len(variant)
    mean = sample.value.mean(0)
    single = (mean / max(float(np.linalg.norm(mean)), 1e-12))[None]
    sets = {"all": variant, "one": single, "none": single[:0]}
    fits = {name: fit_mixture(sample, v, isotropic=not offset) for name, v in sets.items()}
    free = (variant.shape[1] - 1) * np.log(max(len(sample.value), 2))  # the single direction is fitted, too
    cost = {
        "all": information_criterion(fits["all"], sample, variant),
        "one": information_criterion(fits["one"], sample, single) + free,
        "none": information_criterion(fits["none"], sample, single[:0]),
    }
    if offset:
        fits["shifted"] = fit_mixture(sample, variant, offset=True)
        cost["shifted"] = information_criterion(fits["shifted"], sample, variant)
    best = min(cost, key=lambda name: cost[name])
    if best in ("all", "shifted"):
        return fits[best], posterior(fits[best], cells, variant)[0]
    chance = np.zeros((len(cells.value), k + 1))
    chance[:, k] = 1.0
    if best == "one":
        polar = posterior(fits["one"], cells, single)[0][:, 0]
        nearest = int((variant @ single[0] / np.linalg.norm(variant, axis=1)).argmax())
        chance[:, nearest], chance[:, k] = polar, 1 - polar
    return fits[best], chance


def _leaning(chance: np.ndarray, mask: np.ndarray, graph: CellGraph, coherence: float) -> np.ndarray:
    """Probabilities once every cell also counts those of the cells that touch it (mean field of a Potts model)."""
    from scipy.sparse import coo_array

    own = np.log(np.where(mask[:, None], chance, 1.0) + 1e-30)
    now = np.where(mask[:, None], chance, 0.0)
    apart = graph.first != graph.second  # in a box of one cell a cell would lean on itself
    pair = (
        np.concatenate([graph.first[apart], graph.second[apart]]),
        np.concatenate([graph.second[apart], graph.first[apart]]),
    )
    touch = coo_array((np.ones(len(pair[0])), pair), shape=(len(mask), len(mask))).tocsr()
    for _ in range(SWEEPS if coherence else 0):
        level = own + coherence * (touch @ now)
        weight = np.exp(level - level.max(1, keepdims=True))
        # Half of the old value keeps a chequerboard from swinging for ever.
        now = np.where(mask[:, None], 0.5 * now + 0.5 * weight / weight.sum(1, keepdims=True), 0.0)
    return now


def likeliest_family(
    field: Float[AnyArray, "*cells d"],
    valid: Bool[AnyArray, "*cells"],
    families: Mapping[str, Float[AnyArray, "_ axes"]],
    covariance: Float[AnyArray, "*cells d d"] | None = None,
    expected: str | None = None,
    common_offset: bool | None = None,
) -> str:
    """Name of the set of variants that explains a field best, by the Bayesian information criterion.

    families: name -> variants, such as {"100": projected_variants("100", axes), "111": …}. Each may have an offset
    common to all cells; common_offset as in `segment_domains`. Two domains alone often fit several families, each with
    its own offset: then the smallest decides, or `expected`, the family to take unless another one is likelier.
    """
    cells = _cells(np.asarray(field, float), np.asarray(valid), covariance).sample()

    def criterion(name: str) -> float:
        variants = np.asarray(families[name], float)
        k, d = variants.shape
        cost, shifts = [], _may_shift(common_offset, d)
        for offset in (False, True)[: 1 + shifts]:
            fit = fit_mixture(cells, variants, offset=offset, isotropic=not shifts)
            found = information_criterion(fit, cells, variants)
            # What is expected pays nothing for its parameters: it goes only where the cells speak against it.
            known = k + 1 + d * offset if name == expected else 0
            cost.append(found - known * np.log(max(len(cells.value), 2)))
        return min(cost)

    return min(families, key=criterion)


def graph_of(shape: tuple[int, ...], graph: CellGraph | None) -> CellGraph:
    if graph is not None:
        return graph
    if len(shape) != 2:
        raise InputError("graph", shape, "is needed where the cells are no grid", "give structure_graph(cells)")
    return grid_graph(shape)


def _may_shift(common_offset: bool | None, dimensions: int) -> bool:
    return dimensions == 2 if common_offset is None else common_offset


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
