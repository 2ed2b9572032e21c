"""How the image of a cell changes with the displacement of its columns, as detector operators.

Boxes of 2 × 2 cells whose columns are all displaced (`specimens`), each against the clean box with the same phonons,
so that the difference is the response alone (independent phonons would drown it). Every box gives, from one multislice
pass, its operator at every exit plane and for a lattice of tilts (`tilted_operators`); the optics are multiplied in
afterwards, exactly. Phonons scatter the response of a column by a tenth from one pair of configurations to the next
(PbTiO3, 8 nm), so the boxes are shared out over many pairs. The terms of all columns come from all boxes by least
squares, with what lattice translations and the point symmetry of the clean crystal make of each.

B's column enters as a polynomial along the soft mode, every other oxygen column as one of its own displacement: where B
moves by 16 pm, oxygen moves by 47 in PbTiO3. What leaves the mode by a few pm enters linearly.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
from ferrojax.refinement.movers import CELLS, Mover, displaced_box, movers_of
from ferrojax.refinement.specimens import PARITIES, design, specimens, terms_of, turns_of, weights
from ferrojax.refinement.symmetry import Pairs, beam_pairs, plane_operations, turned_pairs

FINEST = 1.35
"""1/Å: detail beyond it is blurred away by any source (0.4 Å rms leaves 0.3 %)."""
DEGREES = (5, 4)
"""Of the polynomials of B's column and of oxygen's."""
OFFSETS = ((0.0, 0.0), (0.5, 0.5))
"""Of the lattices of tilts that pairs of configurations see in turn, in steps: both have the symmetry of a square."""
BOXES, EVEN_BOXES = 120, 160
"""Displaced boxes of a response at a single tilt; and under a lattice of tilts, those that symmetry makes included."""
CONFIGURATIONS, EVEN_CONFIGURATIONS = 32, 8


class CellResponse(eqx.Module):
    """The operators of a clean cell and of what its columns' displacements add, for pairs of beams.

    coefficient: detector -> (terms, nodes, exits, pairs), the image's Fourier coefficient at q once multiplied by the
        spectrum of the probe at both beams; the origin lies on B of the displaced cell. Half of the plane of q.
    term: what each adds: ("clean", 0, 0), or (mover, power of x, power of y), with displacements in the mover's unit.
    mover: all that moves, each a column or B with the oxygen on its axis.
    noise: detector -> (terms,) relative standard error of a term, from what the boxes leave (phonons, and what columns
        do together), over all nodes, exits and pairs; of the clean cell from its own scatter, NaN of a single pair.
    thickness: (exits,) Å. tilt: (nodes, 2) mrad. beam: (beams, 2), pair: (pairs, 2), q: (pairs, 2) in steps of 1/box;
        under a lattice of tilts only those of the crystal's lattice, which cells that move alike show.
    """

    coefficient: dict[str, Complex[Array, "terms nodes exits pairs"]]
    noise: dict[str, Float[np.ndarray, " terms"]]
    thickness: Float[np.ndarray, " exits"]
    tilt: Float[np.ndarray, "nodes 2"]
    beam: Int[np.ndarray, "beams 2"]
    pair: Int[np.ndarray, "pairs 2"]
    q: Int[np.ndarray, "pairs 2"]
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
    configurations: of phonons, antithetic pairs that the boxes are shared out over (32, under a lattice of tilts 8, of
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
    draws = _draws(configurations, len(shifts), single)
    depth = int(np.ceil(max(thicknesses) / cell[2] - 1e-6))
    still = displaced_box(crystal, depth, movers, np.zeros_like(shifts[0]))
    plan = plan_slices(still, cell[2] / 2 + 1e-3, list(thicknesses))
    if tilt is None:
        lattices = list(OFFSETS[: len(draws)])
    else:
        max_tilt, step = float(np.hypot(*tilt)), wavelength(energy) * 1e3 / (CELLS * cell[:2])
        lattices = [(float(tilt[0] / step[0]), float(tilt[1] / step[1]))]
    sampling = operator_sampling(detectors.values(), energy, max_tilt)
    grid = Grid.for_box(CELLS * float(cell[0]), CELLS * float(cell[1]), sampling)
    many, done, number = sum(len(part) + 1 for lattice in draws for part in lattice), 0, 0
    tables: list[_Table] = []
    fits: dict[str, list[_Fit]] = {name: [] for name in detectors}
    for lattice, (offset, parts) in enumerate(zip(lattices, draws, strict=True)):
        for part in parts:
            thermal, number = FastThermal(2, seed=_seed(seed, number)), number + 1
            clean: dict[str, np.ndarray] = {}
            for box in (None, *part):
                atoms = still if box is None else displaced_box(crystal, depth, movers, shifts[box])
                found = tilted_operators(
                    atoms, energy, max_semiangle, detectors, thermal, plan,
                    max_tilt=max_tilt, offset=offset, grid=grid, single=single,
                )  # fmt: skip
                if len(tables) == lattice:
                    tables.append(_Table.of(crystal, next(iter(found.values())), operations, b_site, not single))
                for name, operators in found.items():
                    value = tables[lattice].centred(operators)
                    if len(fits[name]) == lattice:
                        fits[name].append(_Fit(*seen, tables[lattice], value.shape))
                    if box is None:
                        clean[name] = value
                        fits[name][lattice].add_clean(value)
                    else:
                        # differences before any mean: phonons cancel where they are the same
                        fits[name][lattice].add(box, value - clean[name])
                done += 1
                if progress is not None:
                    progress(done, many)
    table = tables[0]
    return CellResponse(
        {k: jnp.asarray(np.concatenate([f.coefficient() for f in each], axis=1)) for k, each in fits.items()},
        {k: _noise(each) for k, each in fits.items()},
        np.array(plan.exits) * plan.slice_thickness,
        np.concatenate([t.tilt for t in tables]),
        table.beam,
        np.stack([table.pairs.first, table.pairs.second], -1),
        table.pairs.q,
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


def _seed(seed: int, pair: int) -> int:
    """Of one pair: none that another seed has."""
    return int(np.random.SeedSequence([seed, pair]).generate_state(1)[0] >> 1)


class _Table:
    """Pairs of beams under one lattice of tilts (mrad), and what the point symmetry makes of them."""

    def __init__(self, tilt: np.ndarray, pairs: Pairs, beam: np.ndarray, origin: np.ndarray, turns: list):
        self.tilt, self.pairs, self.beam, self.origin, self.turns = tilt, pairs, beam, origin, turns

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
        turns = []
        for g in operations:
            back = np.round(np.linalg.inv(g)).astype(int)
            nodes = np.arange(len(node))
            if len(operations) > 1:
                nodes = np.array([place[tuple(n)] for n in (node @ back.T).tolist()])
            turns.append((nodes, *turned_pairs(pairs, beam, back)))
        return _Table(shape.tilt, pairs, beam, b_site / (CELLS * cell), turns)

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


class _Fit:
    """The terms of one detector under one lattice of tilts, as boxes come in."""

    def __init__(
        self, design: Float[np.ndarray, "4 images terms"], weight: np.ndarray, table: _Table, shape: tuple[int, ...]
    ):
        """design, weight: of the images of all boxes; shape: nodes, exits, pairs."""
        self.rows, self.weight, self.table = design * weight[:, None], weight, table
        self.parity = [np.flatnonzero((table.pairs.q % CELLS == p).all(1)) for p in PARITIES]
        self.solve = [np.linalg.pinv(part) for part in self.rows]
        self.moved = np.zeros((design.shape[2], *shape), np.complex64)
        self.power = np.zeros(len(PARITIES))
        self.still: list[np.ndarray] = []

    def add_clean(self, value: np.ndarray) -> None:
        """One draw of the clean box (nodes, exits, pairs): the mean over operations and the box's cells."""
        found, even = np.zeros(value.shape, np.complex64), self.parity[0]
        found[..., even] = self.table.turned(value).mean(0)[..., even]
        self.still.append(found)

    def add(self, box: int, difference: np.ndarray) -> None:
        """What a displaced box has beyond the clean one with its phonons."""
        turned = self.table.turned(difference)
        row = slice(box * len(turned), (box + 1) * len(turned))
        turned *= self.weight[row][:, None, None, None].astype(np.float32)
        for k, at in enumerate(self.parity):
            some = turned[..., at]
            self.moved[..., at] += np.tensordot(self.solve[k][:, row].astype(np.float32), some, 1)
            self.power[k] += float((np.abs(some) ** 2).sum())

    def coefficient(self) -> np.ndarray:
        """(terms, nodes, exits, pairs), the clean cell first."""
        return np.concatenate([np.mean(self.still, axis=0)[None], self.moved])

    def variance(self) -> tuple[np.ndarray, np.ndarray]:
        """(terms,) squared error of every term, and its square, summed over nodes, exits and pairs."""
        draws = len(self.still)
        mean = np.mean(self.still, axis=0)
        off = sum(float((np.abs(d - mean) ** 2).sum()) for d in self.still)
        clean = off / (draws - 1) / draws if draws > 1 else np.nan
        moved = self.moved.reshape(*self.moved.shape[:1], -1, self.moved.shape[-1])
        error, size = np.zeros(len(moved)), (np.abs(moved) ** 2).sum((1, 2))
        for part, power, at in zip(self.rows, self.power, self.parity, strict=True):
            normal = part.T @ part
            some = moved[..., at].reshape(len(moved), -1)
            told = (some.conj() * (normal @ some)).real.sum()
            free = max(len(part) - part.shape[1], 0)
            left = max(power - float(told), 0.0) / free if free else np.nan
            error = error + np.diag(np.linalg.inv(normal)) * left
        return np.append(clean, error), np.append((np.abs(mean) ** 2).sum(), size)


def _noise(fits: Sequence[_Fit]) -> np.ndarray:
    """(terms,) relative standard errors of all nodes."""
    error, size = np.sum([f.variance() for f in fits], axis=0)
    return np.sqrt(error / size)
