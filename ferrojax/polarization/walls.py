"""Domain walls: where they run to a fraction of a cell, what kind they are, how wide, and what charge they bind."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ferrojax.polarization.domains import NONE, Domains, graph_of
from ferrojax.polarization.graph import CellGraph
from ferrojax.polarization.profile import Profile, fit_profile
from ferrojax.polarization.structure import AnyArray
from ferrojax.polarization.variants import WallKind, angle_between, name_wall

REACH = 5.0
"""Cells on each side that a wall's profile is fitted to; more for walls wider than that."""
PLATEAU = 1.0
"""Cells from the wall beyond which a domain's polarization is taken; for wide walls, their width."""
NEUTRAL_SHARE = 0.1
"""A wall is neutral when it binds less than this share of |P₁| + |P₂|, or less than three standard errors."""
MIN_CONTRAST = 3.0
"""Steps smaller than this many times the cells' scatter are what a gradient or noise leaves between labels."""
_CLOSED = 0.4
_LOCAL = 8


class Wall(NamedTuple):
    """A wall between two domains, d components; normal and charge count from the first domain to the second.

    region, label: of the two domains. position: (m, d) Å, where the field crosses half-way, a point a bond.
    normal: (d,) unit vector, NaN for a wall that closes on itself. angle: degrees between the two polarizations,
    without the offset that the domains share.
    kind: names that fit, such as ("90",) or, where a projection cannot tell, ("71", "109"); empty where the angle
    is none of the family's, the contrast is below MIN_CONTRAST, or a domain ends within the wall's width, so that
    its own polarization is not seen: then this is no wall to believe.
    contrast: |P₂ − P₁| over the rms of the cells about the profile.
    width: Å, 2ξ of tanh(s/ξ) across it; width_error: its standard error. resolved: False where the cells only say
    that it is narrower than their spacing. charge: (P₁ − P₂)·n in C/m², the bound charge; charge_error: from the
    scatter of the cells, as if they were independent, and what its ends leave open of a wall's normal.
    character: "head-to-head", "tail-to-tail", "neutral" or "closed".
    """

    region: tuple[int, int]
    label: tuple[int, int]
    position: np.ndarray
    normal: np.ndarray
    angle: float
    kind: tuple[str, ...]
    contrast: float
    width: float
    width_error: float
    resolved: bool
    charge: float
    charge_error: float
    character: str


class _Frame(NamedTuple):
    """Flat cells and their geometry: position (n, d), lattice (d, d) rows, box (d, d) or None."""

    position: np.ndarray
    lattice: np.ndarray
    box: np.ndarray | None

    def step(self, offset: np.ndarray) -> np.ndarray:
        """Offset through the periodic box, the shortest way."""
        if self.box is None:
            return offset
        return offset - np.round(offset @ np.linalg.inv(self.box)) @ self.box

    @property
    def spacing(self) -> float:
        """Cube root of the cell's volume, square root of its area."""
        return float(abs(np.linalg.det(self.lattice)) ** (1 / len(self.lattice)))


class _Bonds(NamedTuple):
    """Bonds from one domain into another: cells inner -> outer, the step between them and the area it stands for."""

    inner: np.ndarray
    outer: np.ndarray
    step: np.ndarray
    area: np.ndarray


def find_walls(
    domains: Domains,
    polarization: Float[AnyArray, "*cells d"],
    position: Float[AnyArray, "*cells d"],
    kinds: tuple[WallKind, ...],
    *,
    graph: CellGraph | None = None,
    box: Float[AnyArray, "d d"] | None = None,
    core: int = 3,
    minimum_bonds: int = 2,
) -> tuple[Wall, ...]:
    """The walls between domains that touch, or that a core of non-polar cells keeps apart.

    polarization: C/m² (with displacements in Å instead, charges are in Å and have the displacement's sign).
    position: Å. kinds: `wall_kinds` of the crystal's family, in the field's axes or their projection.
    graph: as in `segment_domains`. box: rows are the periodic box vectors, Å, None for an image.
    core: layers of non-polar cells (of a structure also incomplete ones) that each domain is continued through, as
    long as they do not point against it. minimum_bonds: shorter walls are left out.
    The normal and the charge are a straight wall's; of a curved one the
    mean's. Widths come from local normals, so that curvature does not add to them, but a tilt of the wall against
    the beam does.
    """
    shape = domains.label.shape
    d = np.asarray(polarization).shape[-1]
    field = np.asarray(polarization, float).reshape(-1, d)
    graph = graph_of(shape, graph)
    frame = _frame(np.asarray(position, float).reshape(-1, d), graph, None if box is None else np.asarray(box, float))
    field = field - domains.offset  # only differences of domains are seen: an offset would turn every direction
    known = field if box is None else np.nan_to_num(field)
    label = _bridged(domains.label.ravel(), known, domains.variant, graph, core)
    region = graph.regions(label)
    walls = []
    for bonds in _crossings(region, graph, frame):
        if len(bonds.inner) >= minimum_bonds:
            walls.append(_describe(bonds, (label, region), field, frame, kinds))
    return tuple(walls)


def _frame(position: np.ndarray, graph: CellGraph, box: np.ndarray | None) -> _Frame:
    offset = _steps(position, graph, box)
    lattice = np.stack([np.nanmedian(offset[graph.axis == k], 0) for k in range(position.shape[1])])
    return _Frame(position, lattice, box)


def _steps(position: np.ndarray, graph: CellGraph, box: np.ndarray | None) -> np.ndarray:
    through = 0.0 if box is None else graph.image @ box
    return position[graph.second] - position[graph.first] + through


def _bridged(label: np.ndarray, field: np.ndarray, variant: np.ndarray, graph: CellGraph, layers: int) -> np.ndarray:
    """Give cells without a label to the domain beside them that they point along most; layer by layer."""
    label = label.copy()
    for _ in range(layers):
        best, score = label.copy(), np.full(len(label), -1e-9)
        for here, there in ((graph.first, graph.second), (graph.second, graph.first)):
            free = (label[here] == NONE) & (label[there] != NONE) & np.isfinite(field[here]).all(1)
            along = (field[here[free]] * variant[label[there[free]]]).sum(1)
            for cell, other, value in zip(here[free], there[free], along, strict=True):
                if value > score[cell]:
                    best[cell], score[cell] = label[other], value
        label = best
    return label


def _crossings(region: np.ndarray, graph: CellGraph, frame: _Frame) -> list[_Bonds]:
    """Bonds between two regions, split into walls that hang together; the lower region is the inner one."""
    cross = (region[graph.first] != region[graph.second]) & (region[graph.first] >= 0) & (region[graph.second] >= 0)
    dual = np.linalg.inv(frame.lattice).T * abs(np.linalg.det(frame.lattice))
    forward = region[graph.first[cross]] < region[graph.second[cross]]
    inner = np.where(forward, graph.first[cross], graph.second[cross])
    outer = np.where(forward, graph.second[cross], graph.first[cross])
    sign = np.where(forward, 1.0, -1.0)[:, None]
    area, step = sign * dual[graph.axis[cross]], sign * _steps(frame.position, graph, frame.box)[cross]
    walls = []
    pairs = np.stack([region[inner], region[outer]], 1)
    for pair in np.unique(pairs, axis=0):
        mine = np.nonzero((pairs == pair).all(1))[0]
        bonds = _Bonds(*(v[mine] for v in (inner, outer, step, area)))
        piece = _pieces(bonds, frame)
        walls += [_Bonds(*(v[piece == k] for v in bonds)) for k in range(piece.max() + 1)]
    return walls


def _pieces(bonds: _Bonds, frame: _Frame) -> np.ndarray:
    """Number of the wall that each bond belongs to: bonds a cell apart at most that do not face each other."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    to_index = np.linalg.inv(frame.lattice)
    middle = frame.position[bonds.inner] + 0.5 * bonds.step
    if frame.box is None:
        near = KDTree(middle @ to_index).query_pairs(1.3, output_type="ndarray")
    else:
        gap = frame.step(middle[:, None] - middle[None]) @ to_index
        near = np.argwhere(np.triu(np.linalg.norm(gap, axis=-1) < 1.3, 1))
    unit = bonds.area / np.linalg.norm(bonds.area, axis=1, keepdims=True)
    near = near[(unit[near[:, 0]] * unit[near[:, 1]]).sum(1) > -0.5]
    links = coo_array((np.ones(len(near), bool), tuple(near.T)), shape=(len(middle), len(middle)))
    return connected_components(links, directed=False)[1]


def _describe(
    bonds: _Bonds,
    numbers: tuple[np.ndarray, np.ndarray],
    field: np.ndarray,
    frame: _Frame,
    kinds: tuple[WallKind, ...],
) -> Wall:
    """numbers: label and region of every cell. field: without the domains' common offset."""
    label, region = numbers
    pair = int(region[bonds.inner[0]]), int(region[bonds.outer[0]])
    cells = np.nonzero(np.isin(region, pair) & np.isfinite(field).all(1))[0]
    crossing = _crossing_points(bonds, field, frame)
    distance = _signed_distance(frame.position[cells], crossing, bonds.area, frame)
    first, second, profile = _sides_and_profile(field[cells], distance, region[cells] == pair[0], frame.spacing)
    total = bonds.area.sum(0)
    # A straight wall's areas add up, at most to √d of their lengths on a staircase; a closed one's cancel.
    straight = np.linalg.norm(total) > _CLOSED * np.linalg.norm(bonds.area, axis=1).sum() / len(total) ** 0.5
    normal = total / np.linalg.norm(total) if straight else np.full(len(total), np.nan)
    step = first.mean - second.mean
    charge = float(step @ normal)
    # A bond more or less at the wall's ends turns its normal by half a bond's share of the area.
    turn = 0.5 * np.linalg.norm(bonds.area, axis=1).mean() / max(float(np.linalg.norm(total)), 1e-12)
    along = turn**2 * (step @ step - charge**2) if frame.box is None else 0.0
    variance = normal @ (first.covariance + second.covariance) @ normal + along
    charge_error = float(np.sqrt(np.maximum(variance, 0.0)))
    angle = angle_between(first.mean, second.mean)
    jump = float(np.linalg.norm(second.mean - first.mean))
    contrast = jump / profile.scatter if profile.scatter > 0 else float("inf")
    seen = all(np.abs(distance[side.used]).max() > profile.width for side in (first, second))
    return Wall(
        region=pair,
        label=(int(label[bonds.inner[0]]), int(label[bonds.outer[0]])),
        position=crossing,
        normal=normal,
        angle=angle,
        kind=name_wall(angle, kinds) if contrast >= MIN_CONTRAST and (seen or not profile.resolved) else (),
        contrast=contrast,
        width=profile.width,
        width_error=profile.error,
        resolved=profile.resolved,
        charge=charge,
        charge_error=charge_error,
        character=_character(charge, charge_error, float(np.linalg.norm(first.mean) + np.linalg.norm(second.mean))),
    )


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


class _Side(NamedTuple):
    """A domain beside its wall: mean (d,), covariance (d, d) of the mean if cells are independent, cells used."""

    mean: np.ndarray
    covariance: np.ndarray
    used: np.ndarray


def _sides_and_profile(
    field: np.ndarray, distance: np.ndarray, inner: np.ndarray, spacing: float
) -> tuple[_Side, _Side, Profile]:
    """Both domains far from the wall, and the profile between them; once more if the wall is wide."""
    reach, plateau = REACH * spacing, PLATEAU * spacing
    while True:
        near = np.abs(distance) < reach
        first, second = (_side(field, distance, near & side, plateau) for side in (inner, ~inner))
        across = second.mean - first.mean
        profile = fit_profile(distance[near], (field[near] - (first.mean + second.mean) / 2) @ _unit(across), spacing)
        wide = profile.resolved and profile.width > plateau
        if not wide or reach >= 2.5 * profile.width or near.all():
            return *_beyond_the_tail(first, second, distance, profile), profile
        reach, plateau = 2.5 * profile.width, profile.width


def _side(field: np.ndarray, distance: np.ndarray, chosen: np.ndarray, plateau: float) -> _Side:
    """From the cells beyond the plateau's distance, or the outermost third where there are fewer."""
    limit = min(plateau, float(np.quantile(np.abs(distance[chosen]), 0.67)))
    used = chosen & (np.abs(distance) >= limit)
    values = field[used]
    spread = np.atleast_2d(np.cov(values.T)) if len(values) > 2 else np.zeros((values.shape[1],) * 2)
    return _Side(values.mean(0), spread / len(values), used)


def _beyond_the_tail(first: _Side, second: _Side, distance: np.ndarray, profile: Profile) -> tuple[_Side, _Side]:
    """What the means would be far from a wall whose tanh still bends where they were taken."""
    if not profile.resolved:
        return first, second
    low, high = (
        float(np.tanh(2 * (distance[side.used] - profile.centre) / profile.width).mean()) for side in (first, second)
    )
    change = (second.mean - first.mean) / (high - low)
    return first._replace(mean=first.mean - change * (1 + low)), second._replace(mean=second.mean + change * (1 - high))


def _crossing_points(bonds: _Bonds, field: np.ndarray, frame: _Frame) -> np.ndarray:
    """Where on each bond the field passes half-way between the two sides, clipped to the bond."""
    inner, outer = field[bonds.inner], field[bonds.outer]
    known = np.isfinite(inner).all(1) & np.isfinite(outer).all(1)
    if not known.any():
        return frame.position[bonds.inner] + 0.5 * bonds.step
    first, second = inner[known].mean(0), outer[known].mean(0)
    across, middle = second - first, 0.5 * (first + second) @ (second - first)
    low, high = inner @ across - middle, outer @ across - middle
    share = np.where(high > low, -low / np.where(high > low, high - low, 1.0), 0.5)
    return frame.position[bonds.inner] + np.clip(share, 0.0, 1.0)[:, None] * bonds.step


def _signed_distance(position: np.ndarray, crossing: np.ndarray, area: np.ndarray, frame: _Frame) -> np.ndarray:
    """(n,) Å from the wall along its local normal, the mean of the nearest bonds; negative on the inner side."""
    from scipy.spatial import KDTree

    points, count = crossing, len(crossing)
    if frame.box is not None:
        to_box = np.linalg.inv(frame.box)
        shifts = np.array(list(itertools.product((-1, 0, 1), repeat=position.shape[1])))
        inside = np.mod(crossing @ to_box, 1.0)
        points = ((inside[None] + shifts[:, None]) @ frame.box).reshape(-1, position.shape[1])
        position = np.mod(position @ to_box, 1.0) @ frame.box
    nearest = np.asarray(KDTree(points).query(position, k=min(_LOCAL, len(points)))[1]).reshape(len(position), -1)
    normal = area[nearest % count].sum(1)
    offset = position - points[nearest].mean(1)
    size = np.linalg.norm(normal, axis=1)
    return np.where(size > 0, (offset * normal).sum(1) / np.where(size > 0, size, 1.0), np.inf)


def _character(charge: float, error: float, total: float) -> str:
    if not np.isfinite(charge):
        return "closed"
    if abs(charge) <= max(3 * error, NEUTRAL_SHARE * total):
        return "neutral"
    return "head-to-head" if charge > 0 else "tail-to-tail"
