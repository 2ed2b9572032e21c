"""How the image of a cell changes with the displacement of its columns, as detector operators.

Columns of a box of 2 × 2 cells are moved, with the same phonons in every specimen, so that the difference to the clean
box is the response alone (independent phonons would drown it). Every specimen gives, from one multislice pass, its
operator at every exit plane and for a lattice of tilts (`tilted_operators`); the optics are multiplied in afterwards,
exactly. Phonons scatter the response of a column by a tenth from one antithetic pair to the next (PbTiO3, 8 nm), so all
four cells move at once, each by its own displacement: their responses add up, and what lattice translations and the
point symmetry of the clean crystal make of a specimen takes them apart again.

A displacement of the soft mode enters as a polynomial of degree 4: where B moves by 16 pm, oxygen moves by 47, and the
cubic term is 38 % of the linear one in BaTiO3. Columns that leave the mode by a few pm enter linearly.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from ferrojax.constants import wavelength
from ferrojax.crystal import Atoms, Crystal, displaced_supercell, shared_sites
from ferrojax.detection import AnnularDetector
from ferrojax.detection.operator import operator_sampling
from ferrojax.detection.tilted_operator import TiltedOperators, tilted_operators
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice import FastThermal, plan_slices
from ferrojax.refinement.symmetry import Pairs, beam_pairs, plane_operations, turned_pairs

CELLS = 2
"""Cells along each side of the box: a column's response ends within a cell's length of it."""
FINEST = 1.35
"""1/Å: detail beyond it is blurred away by any source (0.4 Å rms leaves 0.3 %)."""
REACH = 0.16
"""Å: the displacement of B up to which the soft mode's polynomial is determined, and its unit."""
FARTHER = 0.24
"""The same for a response at a single tilt."""
ASIDE = 0.08
"""Å: displacement of a column by itself."""
MODE_POWERS = ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3), (4, 0), (2, 2), (0, 4))
"""Powers of (x, y) of the soft mode's polynomial; x³y and xy³ are not told from xy by the displacements used under a
lattice of tilts."""
DEGREE = 6
"""Of the polynomial at a single tilt: to 0.24 Å, 16 nm of BaTiO3 leave 20 to 30 % of the response at a third of that to
degree 4, and 1 to 4 % to degree 6 (within 0.16 Å degree 4 leaves 1 to 6 %)."""
ALL_POWERS = tuple((n - y, y) for n in range(1, DEGREE + 1) for y in range(n + 1))
LINEAR = ((1, 0), (0, 1))
MODE = "mode"
MODE_SPECIMENS, TRIED = 5, 100
"""Boxes displaced along the mode, and random choices of their displacements, of which the best is taken."""
OFFSETS = ((0.0, 0.0), (0.5, 0.5))
"""Of the lattices of tilts that pairs of configurations see in turn, in steps: both have the symmetry of a square."""
SQUARE = 8
"""Operations of a square, for which MODE_SPECIMENS are enough."""
CLEAN = 32
"""Configurations of the clean cell at a single tilt, whose phonons no symmetry averages."""
SINGLE_MODE, SINGLE_ASIDE = 36, 14
"""Boxes displaced along the mode, and by single columns, for a response at a single tilt."""
PARITIES = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Of q, which decide the signs with which the cells of the box add up."""


class CellResponse(eqx.Module):
    """The operators of a clean cell and of what its columns' displacements add, for pairs of beams.

    coefficient: detector -> (terms, nodes, exits, pairs), the image's Fourier coefficient at q once multiplied by the
        spectrum of the probe at both beams; the origin lies on B of the displaced cell. Half of the plane of q.
    term: what each adds: ("clean", 0, 0), or (mover, power of x, power of y) with displacements in units of REACH;
        movers are "mode" (B and its oxygen together) and sites ("0:A") that leave it by themselves, B among them.
    noise: detector -> (terms,) relative standard error of a term from its phonons, over all nodes, exits and pairs; NaN
        of a single pair of configurations.
    thickness: (exits,) Å. tilt: (nodes, 2) mrad. beam: (beams, 2), pair: (pairs, 2), q: (pairs, 2) in steps of 1/box.
    """

    coefficient: dict[str, Complex[Array, "terms nodes exits pairs"]]
    noise: dict[str, Float[np.ndarray, " terms"]]
    thickness: Float[np.ndarray, " exits"]
    tilt: Float[np.ndarray, "nodes 2"]
    beam: Int[np.ndarray, "beams 2"]
    pair: Int[np.ndarray, "pairs 2"]
    q: Int[np.ndarray, "pairs 2"]
    term: tuple[tuple[str, int, int], ...] = eqx.field(static=True)
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
    configurations: int = 4,
    clean_configurations: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> CellResponse:
    """The response of a crystal with an orthogonal cell, seen along its third axis.

    thicknesses: Å, exit planes. max_semiangle, max_tilt: mrad. tilt: (x, y) mrad, the only one that is simulated, and
    exactly: of a recording that is known, where a lattice of tilts up to max_tilt finds one. configurations: of
    phonons, antithetic pairs, the same in all specimens; every second pair sees the tilts halfway between those of the
    first, so that two are enough for thick crystals, whose operators turn within 3 mrad. clean_configurations: of the
    clean cell, whose error all cells share, and which costs little; 32 at a single tilt, else as many as the others.
    progress: called with (specimens done, of how many).
    Errors: InputError for a crystal without B, and as `displaced_supercell` and `tilted_operators`.
    """
    if "B" not in crystal.label:
        raise InputError("crystal", crystal.name, "has no B site to displace", "label one B")
    counts = _counts(configurations, clean_configurations, tilt is not None)
    cell = np.diag(np.asarray(crystal.cell, float))
    b_site = np.asarray(crystal.position, float)[crystal.label.index("B"), :2] * cell[:2]
    operations = plane_operations(crystal, b_site) if tilt is None else [np.eye(2, dtype=int)]
    term = (("clean", 0, 0), *_terms(crystal, tilt is not None))
    specimens = [(), *(_specimens(crystal, operations, b_site) if tilt is None else _asymmetric(crystal))]
    depth = int(np.ceil(max(thicknesses) / cell[2] - 1e-6))
    plan = plan_slices(_moved(crystal, depth, ()), cell[2] / 2 + 1e-3, list(thicknesses))
    if tilt is None:
        lattices = list(OFFSETS[: counts[0]])
    else:
        max_tilt, step = float(np.hypot(*tilt)), wavelength(energy) * 1e3 / (CELLS * cell[:2])
        lattices = [(float(tilt[0] / step[0]), float(tilt[1] / step[1]))]
    drawn: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in lattices] for name in detectors}
    tables: list[_Table] = []
    sampling = operator_sampling(detectors.values(), energy, max_tilt)
    grid = Grid.for_box(CELLS * float(cell[0]), CELLS * float(cell[1]), sampling)
    still: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in lattices] for name in detectors}
    pairs = [specimens] * counts[0] + [specimens[:1]] * (counts[1] - counts[0])
    many, done = sum(len(some) for some in pairs), 0
    for pair, some in enumerate(pairs):
        lattice = pair % len(lattices)
        values: dict[str, list[np.ndarray]] = {name: [] for name in detectors}
        for specimen in some:
            thermal = FastThermal(2, seed=_seed(seed, pair))
            found = tilted_operators(
                _moved(crystal, depth, specimen), energy, max_semiangle, detectors, thermal, plan,
                max_tilt=max_tilt, offset=lattices[lattice], grid=grid, single=tilt is not None,
            )  # fmt: skip
            if len(tables) == lattice:
                tables.append(_Table.of(crystal, next(iter(found.values())), operations, b_site, term, specimens))
            for name, operators in found.items():
                values[name].append(tables[lattice].centred(operators))
            done += 1
            if progress is not None:
                progress(done, many)
        for name, value in values.items():
            still[name][lattice].append(tables[lattice].clean(value[0])[None])
            if len(value) > 1:
                drawn[name][lattice].append(tables[lattice].fitted(value))
    table = tables[0]
    found_still, found_moved = ({k: _averaged(draws) for k, draws in each.items()} for each in (still, drawn))
    return CellResponse(
        {k: jnp.asarray(np.concatenate([found_still[k], found_moved[k]])) for k in detectors},
        {k: np.concatenate([_scatter(still[k]), _scatter(drawn[k])]) for k in detectors},
        np.array(plan.exits) * plan.slice_thickness,
        np.concatenate([t.tilt for t in tables]),
        table.beam,
        np.stack([table.pairs.first, table.pairs.second], -1),
        table.pairs.q,
        term,
        (CELLS * float(cell[0]), CELLS * float(cell[1])),
        energy,
        max_semiangle,
        crystal.name,
    )


def _counts(configurations: int, clean: int | None, single: bool) -> tuple[int, int]:
    """Pairs of configurations of all specimens, and of the clean one."""
    if clean is None:
        clean = max(configurations, CLEAN) if single else configurations
    for name, count in (("configurations", configurations), ("clean_configurations", clean)):
        if count < 2 or count % 2:
            raise InputError(name, count, "are antithetic pairs", "give an even number")
    return configurations // 2, max(configurations, clean) // 2


def _averaged(drawn: list[list[np.ndarray]]) -> np.ndarray:
    """(terms, nodes, exits, pairs), the means over draws, lattice by lattice of nodes."""
    return np.concatenate([np.mean(each, axis=0) for each in drawn], axis=1)


def _seed(seed: int, pair: int) -> int:
    """Of one pair: none that another seed has."""
    return int(np.random.SeedSequence([seed, pair]).generate_state(1)[0] >> 1)


class Moved(NamedTuple):
    """One displaced column, or cell along its mode: who, in which cell of the box, by how much (Å)."""

    mover: str
    cell: tuple[int, int]
    by: tuple[float, float]


def _moved_by(mover: str, cell, by) -> Moved:
    x, y = (round(float(v), 6) + 0.0 for v in by)
    return Moved(mover, (int(cell[0]) % CELLS, int(cell[1]) % CELLS), (x, y))


def _movers(crystal: Crystal) -> list[str]:
    """Sites that may leave the mode, each with all species on it: B too, so that oxygen may follow it more or less."""
    home = _home(crystal)
    return [f"{i}:{label}" for i, label in enumerate(crystal.label) if home[i] == i]


def _home(crystal: Crystal) -> np.ndarray:
    """(sites,) the first of the species that share each one's place."""
    position = np.asarray(crystal.position, float) * np.diag(np.asarray(crystal.cell, float))
    box = np.diag(np.asarray(crystal.cell, float))
    shared = shared_sites(position, (box[0], box[1], box[2]))
    return np.arange(len(position)) if shared is None else shared


def _terms(crystal: Crystal, every: bool = False) -> tuple[tuple[str, int, int], ...]:
    powers = ALL_POWERS if every else MODE_POWERS
    mode = tuple((MODE, x, y) for x, y in powers) if crystal.soft_mode is not None else ()
    return mode + tuple((mover, x, y) for mover in _movers(crystal) for x, y in LINEAR)


def _specimens(crystal: Crystal, operations: list, b_site: np.ndarray) -> list[tuple[Moved, ...]]:
    """Boxes that determine every term: all cells along the mode, then one column of every kind by itself."""
    found = [] if crystal.soft_mode is None else _mode_specimens(crystal, operations, b_site)
    made: set[tuple[str, tuple[float, float]]] = set()
    for mover in _movers(crystal):
        for by in ((ASIDE, 0.0), (-ASIDE, 0.0), (0.0, ASIDE), (0.0, -ASIDE)):
            if (mover, by) in made:
                continue
            specimen = (_moved_by(mover, (0, 0), by),)
            found.append(specimen)
            images = [_image(crystal, specimen, g, b_site)[0] for g in operations]
            made |= {(image.mover, image.by) for image in images}
    return found


def _asymmetric(crystal: Crystal) -> list[tuple[Moved, ...]]:
    """Boxes that determine every term without any symmetry: every cell along the mode by its own displacement, then a
    single column, one way or the other, in each."""
    angle = np.arange(16) * np.pi / 8  # eight would not tell x³y from xy³
    ring = np.stack([np.cos(angle), np.sin(angle)], -1)
    along = [(MODE, by) for by in (np.zeros(2), *(FARTHER / 3 * ring[::2]), *(FARTHER / 1.5 * ring), *(FARTHER * ring))]
    aside = [
        (who, np.array(by)) for who in _movers(crystal) for by in ((ASIDE, 0), (-ASIDE, 0), (0, ASIDE), (0, -ASIDE))
    ]
    term = _terms(crystal, every=True)
    found = [] if crystal.soft_mode is None else _told_apart(SINGLE_MODE, along, [t for t in term if t[0] == MODE])
    return found + _told_apart(SINGLE_ASIDE, aside, [t for t in term if t[0] != MODE])


def _told_apart(
    count: int, choices: list[tuple[str, np.ndarray]], term: Sequence, images: Callable = lambda some: some
) -> list[tuple[Moved, ...]]:
    """The best of many random choices of what every cell of so many boxes does: all terms are told apart.

    images: what symmetry makes of these boxes.
    """
    cells = [(x, y) for y in range(CELLS) for x in range(CELLS)]
    rng = np.random.default_rng(0)
    best, least = None, np.inf
    for _ in range(TRIED):
        drawn = rng.integers(len(choices), size=(count, len(cells)))
        some = [
            tuple(_moved_by(choices[i][0], c, choices[i][1]) for c, i in zip(cells, row, strict=True)) for row in drawn
        ]
        known_by = images(some)
        size = 0.0
        for parity in PARITIES:
            design = _design(known_by, term, parity)
            known = np.linalg.matrix_rank(design) == len(term)
            size += float(np.trace(np.linalg.inv(design.T @ design))) if known else np.inf
        if size < least:
            best, least = some, size
    assert best is not None
    return best


def _mode_specimens(crystal: Crystal, operations: list, b_site: np.ndarray) -> list[tuple[Moved, ...]]:
    """Boxes of which each cell goes one of twelve displacements, or none, along the mode."""
    axes, diagonal = ((1, 0), (-1, 0), (0, 1), (0, -1)), ((1, 1), (1, -1), (-1, 1), (-1, -1))
    points = [np.array(v) * r for r in (REACH / 2, REACH) for v in axes]
    points += [np.array(v) * REACH / 2**0.5 for v in diagonal]
    points += [np.zeros(2)]  # a polynomial that is the same on all the others is seen against it
    count = MODE_SPECIMENS * SQUARE // len(operations)  # what symmetry does not make has to be simulated
    term = [t for t in _terms(crystal) if t[0] == MODE]

    def images(some):
        return [_image(crystal, s, g, b_site) for s in some for g in operations]

    return _told_apart(count, [(MODE, point) for point in points], term, images)


def _image(crystal: Crystal, specimen: tuple[Moved, ...], g: np.ndarray, b_site: np.ndarray) -> tuple[Moved, ...]:
    """What the operation g about B of the first cell makes of a specimen."""
    cell = np.diag(np.asarray(crystal.cell, float))
    position = np.asarray(crystal.position, float) * cell
    found = []
    for mover, at, by in specimen:
        there, image = g @ np.array(at), mover
        if mover != MODE:
            site = int(mover.split(":")[0])
            moved = np.append(g @ (position[site, :2] - b_site) + b_site, position[site, 2])
            apart = (moved - position) / cell
            j = int(_home(crystal)[np.argmin(np.linalg.norm((apart - np.round(apart)) * cell, axis=1))])
            image, there = f"{j}:{crystal.label[j]}", there + np.round(apart[j, :2])
        found.append(_moved_by(image, there, g @ np.array(by)))
    return tuple(found)


def _design(images: list[tuple[Moved, ...]], term: Sequence[tuple[str, int, int]], parity) -> np.ndarray:
    """(images, terms): how much of each term, as one cell has it, an image holds at frequencies of one parity."""
    design = np.zeros((len(images), len(term)))
    for row, specimen in enumerate(images):
        for mover, at, by in specimen:
            sign = (-1.0) ** (parity[0] * at[0] + parity[1] * at[1])
            for i, (who, x, y) in enumerate(term):
                if who == mover:
                    design[row, i] += sign * (by[0] / REACH) ** x * (by[1] / REACH) ** y
    return design


def _moved(crystal: Crystal, depth: int, specimen: tuple[Moved, ...]) -> Atoms:
    """The box of CELLS × CELLS cells with columns displaced."""
    field = np.zeros((CELLS, CELLS, 3))
    for mover, (x, y), by in specimen:
        if mover == MODE:
            field[y, x, :2] = by
    atoms = displaced_supercell(crystal, field, depth)
    sites = len(crystal.label)
    position = np.array(atoms.position, float).reshape(depth, CELLS, CELLS, sites, 3)
    for mover, (x, y), by in specimen:
        if mover != MODE:
            position[:, y, x, _home(crystal) == int(mover.split(":")[0]), :2] += by
    return eqx.tree_at(lambda a: a.position, atoms, jnp.asarray(position.reshape(-1, 3), atoms.position.dtype))


class _Table(NamedTuple):
    """From the operators of all specimens to the terms, for one lattice of tilts (mrad)."""

    tilt: np.ndarray
    pairs: Pairs
    beam: np.ndarray
    origin: np.ndarray
    turns: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    solve: list[tuple[np.ndarray, np.ndarray]]

    @staticmethod
    def of(crystal, shape: TiltedOperators, operations, b_site, term, specimens) -> "_Table":
        cell = np.diag(np.asarray(crystal.cell, float))[:2]
        beam = np.array(shape.beam)
        step = wavelength(shape.energy) * 1e3 / (CELLS * cell)
        node = np.round(2 * shape.tilt / step).astype(int)  # in half steps, the offset included
        pairs = beam_pairs(beam, CELLS * cell, FINEST)
        place = {tuple(n): i for i, n in enumerate(node.tolist())}
        turns = []
        for g in operations:
            back = np.round(np.linalg.inv(g)).astype(int)
            nodes = np.array([place[tuple(n)] for n in (node @ back.T).tolist()])
            turns.append((nodes, *turned_pairs(pairs, beam, back)))
        images = [_image(crystal, s, g, b_site) for s in specimens[1:] for g in operations]
        solve = []
        for parity in PARITIES:
            of_parity = np.flatnonzero((pairs.q % CELLS == parity).all(1))
            solve.append((of_parity, np.linalg.pinv(_design(images, term[1:], parity))))
        return _Table(shape.tilt, pairs, beam, b_site / (CELLS * cell), turns, solve)

    def centred(self, operators: TiltedOperators) -> np.ndarray:
        """(nodes, exits, pairs) about B of the first cell."""
        matrix = np.asarray(operators.matrix)[:, :, self.pairs.first, self.pairs.second]
        return (matrix * np.exp(2j * np.pi * self.pairs.q @ self.origin)).astype(np.complex64)

    def turned(self, value: np.ndarray) -> list[np.ndarray]:
        """What every operation makes of (nodes, exits, pairs)."""
        found = []
        for nodes, at, conjugate in self.turns:
            image = value[nodes][:, :, at]
            found.append(np.where(conjugate, image.conj(), image))
        return found

    def clean(self, value: np.ndarray) -> np.ndarray:
        """(nodes, exits, pairs) of one draw of the clean specimen: the mean over operations and the box's cells."""
        found, even = np.zeros(value.shape, np.complex64), self.solve[0][0]
        found[..., even] = np.mean(self.turned(value), axis=0)[..., even]
        return found

    def fitted(self, values: list[np.ndarray]) -> np.ndarray:
        """(terms, nodes, exits, pairs) of what moves, of one draw of phonons; values: the clean specimen first."""
        # differences before any mean: phonons cancel where they are the same
        images = [image for value in values[1:] for image in self.turned(value - values[0])]
        found = np.zeros((self.solve[0][1].shape[0], *values[0].shape), np.complex64)
        for of_parity, solve in self.solve:
            some = np.stack([image[..., of_parity] for image in images])
            found[..., of_parity] = np.tensordot(solve, some, 1)
        return found


def _scatter(drawn: list[list[np.ndarray]]) -> np.ndarray:
    """(terms,) relative standard error of the mean over draws (lattice by lattice); NaN where one has a single draw."""
    spread = size = np.zeros(len(drawn[0][0]))
    for draws in drawn:
        if len(draws) < 2:
            return np.full(len(spread), np.nan)
        mean = np.mean(draws, axis=0)
        off = sum((np.abs(d - mean) ** 2).sum((1, 2, 3)) for d in draws)
        spread = spread + off / (len(draws) - 1) / len(draws)
        size = size + (np.abs(mean) ** 2).sum((1, 2, 3))
    return np.sqrt(spread / size)
