"""How the image of a cell changes with the displacement of its columns, as detector operators.

Boxes of 2 × 2 cells whose columns are all displaced (`specimens`), each against the clean box with the same phonons,
so that the difference is the response alone (independent phonons would drown it). Every box gives, from one multislice
pass, its operator at every exit plane and for a lattice of tilts (`tilted_operators`); the optics are multiplied in
afterwards, exactly. Phonons scatter the response of a column by a tenth from one pair of configurations to the next
(PbTiO3, 8 nm), so the boxes are shared out over many pairs; a box's few beams at the rim of the aperture scatter an
annular bright field alike, so the pairs take beams between its own in turn. The terms of all columns come from all
boxes by least squares, with what lattice translations and the point symmetry of the clean crystal make of each: a
signal is a sum over beams, so that every box adds its own beams' share of the solution.

B's column enters as a polynomial along the soft mode, every other oxygen column as one of its own displacement: where B
moves by 16 pm, oxygen moves by 47 in PbTiO3. What leaves the mode by a few pm enters linearly.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from ferrojax.constants import wavelength
from ferrojax.crystal import Crystal
from ferrojax.detection import AnnularDetector
from ferrojax.detection.operator import operator_sampling
from ferrojax.detection.tilted_operator import TiltedOperators, tilted_operators
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice import FastThermal, plan_slices
from ferrojax.optics import Probe, beam_spectrum
from ferrojax.refinement.movers import CELLS, Mover, displaced_box, movers_of
from ferrojax.refinement.specimens import PARITIES, design, specimens, terms_of, turns_of, weights
from ferrojax.refinement.symmetry import Pairs, beam_pairs, plane_operations, turned_pairs

FINEST = 1.35
"""1/Å: detail beyond it is blurred away by any source (0.4 Å rms leaves 0.3 %)."""
DEGREES = (5, 4)
"""Of the polynomials of B's column and of oxygen's."""
OFFSETS = ((0.0, 0.0), (0.5, 0.5))
"""Of the lattices of tilts that pairs of configurations see in turn, in steps: both have the symmetry of a square."""
THIRDS = (0.0, 1 / 3, -1 / 3)
APERTURES, EVEN_APERTURES = tuple((x, y) for y in THIRDS for x in THIRDS), ((0.0, 0.0), (0.5, 0.5))
"""Where between the box's own a specimen's beams lie, pair by pair of configurations in turn: nine are a box of thrice
the side. Under a lattice of tilts those with the symmetry of a square."""
BOXES, EVEN_BOXES = 120, 160
"""Displaced boxes of a response at a single tilt; and under a lattice of tilts, those that symmetry makes included."""
CONFIGURATIONS, EVEN_CONFIGURATIONS = 36, 8
FIRST, GROWTH = (1e-3, 1e-1, 1.0, 10.0, 100.0), (1.0, 2.0, 4.0, 8.0)
"""Penalties of linear terms and by how much those of the next degree are larger, of which the pair is taken that
predicts the boxes of other phonons best: what phonons and joint motions scatter makes polynomials swing."""
NOMINAL = 0.9, 0.4
"""The probe and the source under which noise is measured: of the largest semi-angle, and Å rms."""


class CellResponse(eqx.Module):
    """The operators of a clean cell and of what its columns' displacements add, for pairs of beams.

    coefficient: detector -> (terms, nodes, exits, pairs), the image's Fourier coefficient at q once multiplied by the
        spectrum of the probe at both beams; the origin lies on B of the displaced cell. Half of the plane of q.
    term: what each adds: ("clean", 0, 0), or (mover, power of x, power of y), with displacements in the mover's unit.
    mover: all that moves, each a column or B with the oxygen on its axis.
    noise: detector -> (terms,) relative standard error of a term in an image, from what the boxes leave (phonons, and
        what columns do together); of the clean cell from the scatter of pairs that see the same beams, NaN where none
        do. missed: detector -> what the terms of the other pairs' boxes miss of a displaced box's image, relative.
        scatter: (detectors, detectors, q) covariance of what the terms themselves are off in the image of a box whose
        columns are displaced by 1 Å rms; detectors sorted by name, q as `np.unique` has them.
    thickness: (exits,) Å. tilt: (nodes, 2) mrad. beam: (beams, 2) and q: (pairs, 2) in steps of 1/box; the beams of
        a group (beams,) lie off them by its `aperture` (x, y). pair: (pairs, 2) of beams of one group. Under a lattice
        of tilts only q of the crystal's lattice, which cells that move alike show.
    """

    coefficient: dict[str, Complex[Array, "terms nodes exits pairs"]]
    noise: dict[str, Float[np.ndarray, " terms"]]
    missed: dict[str, float]
    scatter: Complex[np.ndarray, "detectors detectors q"]
    thickness: Float[np.ndarray, " exits"]
    tilt: Float[np.ndarray, "nodes 2"]
    beam: Int[np.ndarray, "beams 2"]
    group: Int[np.ndarray, " beams"]
    pair: Int[np.ndarray, "pairs 2"]
    q: Int[np.ndarray, "pairs 2"]
    aperture: tuple[tuple[float, float], ...] = eqx.field(static=True)
    term: tuple[tuple[str, int, int], ...] = eqx.field(static=True)
    mover: tuple[Mover, ...] = eqx.field(static=True)
    box: tuple[float, float] = eqx.field(static=True)
    energy: float = eqx.field(static=True)
    max_semiangle: float = eqx.field(static=True)
    crystal: str = eqx.field(static=True)


def cell_response(
    crystal: Crystal,
    energy: float,
    detectors: Mapping[str, AnnularDetector],
    *,
    thicknesses: Sequence[float],
    max_semiangle: float = 25.0,
    max_tilt: float = 7.0,
    tilt: tuple[float, float] | None = None,
    configurations: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> CellResponse:
    """The response of a crystal with an orthogonal cell, seen along its third axis.

    thicknesses: Å, exit planes. max_semiangle, max_tilt: mrad.
    tilt: (x, y) mrad, the only one that is simulated, and exactly: of a recording that is known, to read single cells
    with. Without it a lattice of tilts up to max_tilt, for cells that move alike: to fit a recording with.
    configurations: of phonons, antithetic pairs that the boxes are shared out over (36, under a lattice of tilts 8, of
    which every second pair sees the tilts halfway between those of the first: operators turn within 3 mrad).
    progress: called with (specimens done, of how many).
    Errors: InputError for a crystal without B, configurations that are not pairs, and as `displaced_supercell` and
    `tilted_operators`.
    """
    if "B" not in crystal.label:
        raise InputError("crystal", crystal.name, "has no B site to displace", "label one B")
    single = tilt is not None
    movers = movers_of(crystal, DEGREES)
    cell = np.diag(np.asarray(crystal.cell, float))
    b_site = np.asarray(crystal.position, float)[crystal.label.index("B"), :2] * cell[:2]
    operations = [np.eye(2, dtype=int)] if single else plane_operations(crystal, b_site)
    turns = turns_of(crystal, movers, operations)
    shifts = specimens(movers, BOXES if single else -(-EVEN_BOXES // len(turns)), turns)
    images = np.stack([turn.image(one) for one in shifts for turn in turns])
    seen = design(movers, images), weights(images)
    degree = np.array([sum(power) for _, *power in terms_of(movers)])
    draws = _draws(configurations, len(shifts), single)
    depth = int(np.ceil(max(thicknesses) / cell[2] - 1e-6))
    still = displaced_box(crystal, depth, movers, np.zeros_like(shifts[0]))
    plan = plan_slices(still, cell[2] / 2 + 1e-3, list(thicknesses))
    step = wavelength(energy) * 1e3 / (CELLS * cell[:2])
    if tilt is not None:
        max_tilt = float(np.hypot(*tilt))
    lattices = _lattices(step, len(draws), tilt, max_tilt)
    sampling = operator_sampling(detectors.values(), energy, max_tilt)
    grid = Grid.for_box(CELLS * float(cell[0]), CELLS * float(cell[1]), sampling)
    many, done, number = sum(len(part) + 1 for lattice in draws for part in lattice), 0, 0
    apertures, pairs = APERTURES if single else EVEN_APERTURES, min(len(parts) for parts in draws)
    apertures = apertures if pairs >= len(apertures) else apertures[:1]  # some of them would lie to one side
    tables: list[list[_Table]] = [[] for _ in draws]
    fits: dict[str, list[_Fit]] = {name: [_Fit(*seen, degree) for _ in draws] for name in detectors}
    for lattice, (offset, parts) in enumerate(zip(lattices, draws, strict=True)):
        for turn, part in enumerate(parts):
            thermal, number, group = FastThermal(2, seed=_seed(seed, number)), number + 1, turn % len(apertures)
            clean: dict[str, np.ndarray] = {}
            for box in (None, *part):
                atoms = still if box is None else displaced_box(crystal, depth, movers, shifts[box])
                found = tilted_operators(
                    atoms, energy, max_semiangle, detectors, thermal, plan,
                    max_tilt=max_tilt, offset=offset, aperture=apertures[group], grid=grid, single=single,
                )  # fmt: skip
                if len(tables[lattice]) == group:
                    shape = next(iter(found.values()))
                    tables[lattice].append(_Table.of(crystal, shape, operations, b_site, not single))
                table = tables[lattice][group]
                for name, operators in found.items():
                    value = table.centred(operators)
                    if box is None:
                        clean[name] = value
                        fits[name][lattice].add_clean(value, table, group)
                    else:
                        # differences before any mean: phonons cancel where they are the same
                        fits[name][lattice].add(box, value - clean[name], table, group)
                done += 1
                if progress is not None:
                    progress(done, many)
    made = {k: [f.solved(t) for f, t in zip(each, tables, strict=True)] for k, each in fits.items()}
    first = np.cumsum([0, *[len(t.beam) for t in tables[0]]])
    return CellResponse(
        {k: jnp.asarray(np.concatenate([t.coefficient for t in each], axis=1)) for k, each in made.items()},
        {k: np.sqrt(sum(t.error for t in each) / sum(t.size for t in each)) for k, each in made.items()},
        {k: float(np.sqrt(sum(t.missed for t in each) / sum(t.power for t in each))) for k, each in made.items()},
        _scatter([made[name] for name in sorted(made)]),
        np.array(plan.exits) * plan.slice_thickness,
        np.concatenate([t[0].tilt for t in tables]),
        np.concatenate([t.beam for t in tables[0]]),
        np.concatenate([np.full(len(t.beam), k) for k, t in enumerate(tables[0])]),
        np.concatenate(
            [np.stack([t.pairs.first, t.pairs.second], -1) + n for n, t in zip(first[:-1], tables[0], strict=True)]
        ),
        np.concatenate([t.pairs.q for t in tables[0]]),
        apertures,
        (("clean", 0, 0), *terms_of(movers)),
        movers,
        (CELLS * float(cell[0]), CELLS * float(cell[1])),
        energy,
        max_semiangle,
        crystal.name,
    )


def _draws(configurations: int | None, boxes: int, single: bool) -> list[list[list[int]]]:
    """Lattice by lattice of tilts, and pair by pair of phonons, the boxes that see them."""
    count = (CONFIGURATIONS if single else EVEN_CONFIGURATIONS) if configurations is None else configurations
    if count < 2 or count % 2:
        raise InputError("configurations", count, "are antithetic pairs", "give an even number")
    pairs = count // 2
    lattices = 1 if single else min(len(OFFSETS), pairs)
    shares = [len(range(k, pairs, lattices)) for k in range(lattices)]
    return [[list(range(boxes))[k::share] for k in range(min(share, boxes))] for share in shares]


def _lattices(
    step: np.ndarray, count: int, tilt: tuple[float, float] | None, max_tilt: float
) -> list[tuple[float, float]]:
    """Offsets of the lattices of tilts, in steps (mrad, (x, y))."""
    if tilt is not None:
        return [(float(tilt[0] / step[0]), float(tilt[1] / step[1]))]
    least = float(np.hypot(*step)) / 2
    if max_tilt < least:
        problem = f"is less than half a step between tilts, {least:.1f} mrad"
        raise InputError("max_tilt", f"{max_tilt:g} mrad", problem, "give more, or the tilt itself")
    return list(OFFSETS[:count])


def _seed(seed: int, pair: int) -> int:
    """Of one pair: none that another seed has."""
    return int(np.random.SeedSequence([seed, pair]).generate_state(1)[0] >> 1)


class _Table:
    """Pairs of beams under one lattice of tilts (mrad), and what the point symmetry makes of them."""

    def __init__(self, tilt: np.ndarray, pairs: Pairs, beam: np.ndarray, origin: np.ndarray, turns: list, probe):
        """probe: (pairs,) what a nominal probe and source make of each pair, in an image."""
        self.tilt, self.pairs, self.beam, self.origin, self.turns = tilt, pairs, beam, origin, turns
        self.probe = probe
        self.q, self.place = np.unique(pairs.q, axis=0, return_inverse=True)

    @staticmethod
    def of(crystal: Crystal, shape: TiltedOperators, operations, b_site: np.ndarray, even: bool) -> "_Table":
        cell = np.diag(np.asarray(crystal.cell, float))[:2]
        beam = np.array(shape.beam)
        step = wavelength(shape.energy) * 1e3 / (CELLS * cell)
        node = np.round(2 * shape.tilt / step).astype(int)  # in half steps, the offset included
        pairs = beam_pairs(beam, CELLS * cell, FINEST)
        if even:
            kept = (pairs.q % CELLS == 0).all(1)
            pairs = Pairs(pairs.first[kept], pairs.second[kept], pairs.q[kept])
        place = {tuple(n): i for i, n in enumerate(node.tolist())}
        halves = np.round(2 * (beam + np.array(shape.aperture))).astype(int)
        turns = []
        for g in operations:
            back = np.round(np.linalg.inv(g)).astype(int)
            nodes = np.arange(len(node))
            if len(operations) > 1:
                nodes = np.array([place[tuple(n)] for n in (node @ back.T).tolist()])
            turns.append((nodes, *turned_pairs(pairs, halves, back)))
        nominal, source = Probe(shape.energy, NOMINAL[0] * shape.max_semiangle, edge=1.0), NOMINAL[1]
        spectrum = np.asarray(
            beam_spectrum(nominal, beam, shape.aperture, (CELLS * float(cell[0]), CELLS * float(cell[1])))
        )
        blur = np.exp(-2 * np.pi**2 * source**2 * ((pairs.q / (CELLS * cell)) ** 2).sum(1))
        probe = spectrum[pairs.first].conj() * spectrum[pairs.second] * blur
        return _Table(shape.tilt, pairs, beam, b_site / (CELLS * cell), turns, probe)

    def centred(self, operators: TiltedOperators) -> np.ndarray:
        """(nodes, exits, pairs) about B of the first cell."""
        matrix = np.asarray(operators.matrix)[:, :, self.pairs.first, self.pairs.second]
        return (matrix * np.exp(2j * np.pi * self.pairs.q @ self.origin)).astype(np.complex64)

    def turned(self, value: np.ndarray) -> np.ndarray:
        """(operations, nodes, exits, pairs): what every operation makes of (nodes, exits, pairs)."""
        found = []
        for nodes, at, conjugate in self.turns:
            image = value[nodes][:, :, at]
            found.append(np.where(conjugate, image.conj(), image))
        return np.stack(found)

    def image(self, value: np.ndarray) -> np.ndarray:
        """(q, ...) of (..., pairs): the image that a nominal probe makes, every q of `self.q`."""
        by_pair = np.moveaxis(value * self.probe, -1, 0)
        found = np.zeros((len(self.q), *by_pair.shape[1:]), complex)
        np.add.at(found, self.place.ravel(), by_pair)
        return found


class _Fit:
    """The terms of one detector under one lattice of tilts, from the boxes that come in."""

    def __init__(self, design: Float[np.ndarray, "4 images terms"], weight: np.ndarray, degree: np.ndarray):
        """design, weight: of the images of all boxes; degree: of every term."""
        self.rows, self.weight, self.degree = design * weight[:, None], weight, degree
        self.still: list[tuple[int, np.ndarray]] = []
        self.clean: list[tuple[int, np.ndarray]] = []
        self.box: dict[int, tuple[int, np.ndarray]] = {}
        self.image: dict[int, np.ndarray] = {}
        self.pair: dict[int, int] = {}

    def add_clean(self, value: np.ndarray, table: _Table, group: int) -> None:
        """One draw of the clean box (nodes, exits, pairs): the mean over operations and the box's cells."""
        found, even = np.zeros(value.shape, np.complex64), (table.pairs.q % CELLS == 0).all(1)
        found[..., even] = table.turned(value).mean(0)[..., even]
        self.still.append((group, found))
        self.clean.append((group, table.image(found)))

    def add(self, box: int, difference: np.ndarray, table: _Table, group: int) -> None:
        """What a displaced box has beyond the clean one with its phonons, which was the last that came in."""
        self.box[box], self.pair[box] = (group, difference), len(self.clean)
        self.image[box] = table.image(table.turned(difference))

    def solved(self, tables: Sequence[_Table]) -> "_Terms":
        """tables: of the groups."""
        order = sorted(self.box)
        q = np.unique(np.concatenate([t.q for t in tables]), axis=0)  # beams of another group may lack some
        shown = [np.flatnonzero((q[:, None] == t.q).all(2).any(1)) for t in tables]

        def spread(image: np.ndarray, group: int) -> np.ndarray:
            found = np.zeros((len(q), *image.shape[1:]), complex)
            found[shown[group]] = image
            return found

        turns = len(self.weight) // len(order)
        image = np.concatenate([np.moveaxis(spread(self.image[b], self.box[b][0]), 1, 0) for b in order])
        image *= self.weight[:, None, None, None]
        several = len(set(self.pair.values())) > 1
        left_out = np.repeat([self.pair[box] if several else box for box in order], turns)
        parts = [image[:, (q % CELLS == p).all(1)].reshape(len(image), -1) for p in PARITIES]
        power = sum(float((np.abs(part) ** 2).sum()) for part in parts)
        penalties = [first * growth ** (self.degree - 1.0) for first in FIRST for growth in GROWTH]
        missing = [
            sum(
                float((np.abs(_left(r, part, p, left_out)) ** 2).sum())
                for r, part in zip(self.rows, parts, strict=True)
            )
            for p in penalties
        ]
        best = int(np.argmin(missing))
        solve = [_solution(r, penalties[best]) for r in self.rows]
        unsure = np.zeros((len(image), len(q), image[0, 0].size), complex)
        for r, s, part, parity in zip(self.rows, solve, parts, PARITIES, strict=True):
            at = np.flatnonzero((q % CELLS == parity).all(1))
            left = _left(r, part, penalties[best], left_out) * np.sqrt((r * s.T).sum(1))[:, None]
            unsure[:, at] = left.reshape(len(image), len(at), unsure.shape[2])
        error, size = np.zeros(len(self.degree)), np.zeros(len(self.degree))
        for r, s, part in zip(self.rows, solve, parts, strict=True):
            term = s @ part
            free = max(len(r) - np.trace(r @ s), 1.0)
            error += (s**2).sum(1) * float((np.abs(part - r @ term) ** 2).sum()) / free
            size += (np.abs(term) ** 2).sum(1)
        groups, draws = len(tables), len(self.clean)
        mean = sum(spread(np.mean([v for k, v in self.clean if k == g], axis=0), g) for g in range(groups)) / groups
        # about the mean of its own group: what beams of another group show belongs to the sum
        still = [[v for k, v in self.clean if k == g] for g in range(groups)]
        off = sum(float((np.abs(np.array(each) - np.mean(each, axis=0)) ** 2).sum()) for each in still)
        error = np.append(off / (draws - groups) / draws if draws > groups else np.nan, error)
        size = np.append((np.abs(mean) ** 2).sum(), size)
        found = [self._group(k, solve, table, len(tables)) for k, table in enumerate(tables)]
        return _Terms(np.concatenate(found, axis=-1), error, size, missing[best], unsure, power)

    def _group(self, group: int, solve: list[np.ndarray], table: _Table, groups: int) -> np.ndarray:
        """(terms, nodes, exits, pairs) of one group of beams, the clean cell first."""
        clean = np.mean([value for k, value in self.still if k == group], axis=0) / groups
        moved = np.zeros((len(self.degree), *clean.shape), np.complex64)
        for box, (k, difference) in self.box.items():
            if k != group:
                continue
            turned = table.turned(difference)
            row = slice(box * len(turned), (box + 1) * len(turned))
            turned *= self.weight[row][:, None, None, None].astype(np.float32)
            for s, parity in zip(solve, PARITIES, strict=True):
                at = np.flatnonzero((table.pairs.q % CELLS == parity).all(1))
                moved[..., at] += np.tensordot(s[:, row].astype(np.float32), turned[..., at], 1)
        return np.concatenate([clean[None], moved])


class _Terms(NamedTuple):
    """coefficient: (terms, nodes, exits, pairs). error, size: (terms,) squares of every term's image. missed, power:
    squares of what the other pairs' boxes miss of all displaced ones by their weights, and of these. unsure: (images,
    q, nodes × exits) the part of what is missed that is the terms' scatter, not the box's own."""

    coefficient: np.ndarray
    error: np.ndarray
    size: np.ndarray
    missed: float
    unsure: np.ndarray
    power: float


def _solution(rows: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """(terms, images): what images that hold so much of each term make of the terms."""
    return np.linalg.solve(rows.T @ rows + np.diag(penalty), rows.T)


def _left(rows: np.ndarray, image: np.ndarray, penalty: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """What terms miss of the images that are left out together, once the terms come from all others."""
    hat = rows @ _solution(rows, penalty)
    left = image - hat @ image
    for k in np.unique(left_out):
        at = np.flatnonzero(left_out == k)
        left[at] = np.linalg.solve(np.eye(len(at)) - hat[np.ix_(at, at)], left[at])
    return left


def _scatter(made: Sequence[Sequence[_Terms]]) -> np.ndarray:
    """(detectors, detectors, q) covariance of what the terms are off, over boxes, nodes, exits and lattices of tilts.

    A box that is left out is missed by its own scatter σ² and by that of the terms, σ² h / (1 − h) with h its leverage:
    the share h of it is theirs.
    """
    every = [np.stack(each) for each in zip(*[[t.unsure for t in terms] for terms in made], strict=True)]
    many = sum(each.shape[1] * each.shape[3] for each in every)
    return np.sum([np.einsum("aiqn,biqn->abq", each, each.conj()) for each in every], axis=0) / many
