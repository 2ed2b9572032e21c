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
ASIDE = 0.08
"""Å: displacement of a column by itself."""
MODE_POWERS = ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3), (4, 0), (2, 2), (0, 4))
"""Powers of (x, y) of the soft mode's polynomial; x³y and xy³ are not told from xy by the displacements used."""
LINEAR = ((1, 0), (0, 1))
MODE = "mode"
MODE_SPECIMENS, TRIED = 5, 100
"""Boxes displaced along the mode, and random choices of their displacements, of which the best is taken."""
OFFSETS = ((0.0, 0.0), (0.5, 0.5))
"""Of the lattices of tilts that pairs of configurations see in turn, in steps: both have the symmetry of a square."""
SQUARE = 8
"""Operations of a square, for which MODE_SPECIMENS are enough."""
PARITIES = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Of q, which decide the signs with which the cells of the box add up."""


class CellResponse(eqx.Module):
    """The operators of a clean cell and of what its columns' displacements add, for pairs of beams.

    coefficient: detector -> (terms, nodes, exits, pairs), the image's Fourier coefficient at q once multiplied by the
        spectrum of the probe at both beams; the origin lies on B of the displaced cell. Half of the plane of q.
    term: what each adds: ("clean", 0, 0), or (mover, power of x, power of y) with displacements in units of REACH;
        movers are "mode" (B and its oxygen together) and sites ("0:A") that leave it by themselves.
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
    configurations: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> CellResponse:
    """The response of a crystal with an orthogonal cell, seen along its third axis.

    thicknesses: Å, exit planes. max_semiangle, max_tilt: mrad. configurations: of phonons, antithetic pairs, the same
    in all specimens; every second pair sees the tilts halfway between those of the first, so that two are enough for
    thick crystals, whose operators turn within 3 mrad. progress: called with (specimens done, of how many).
    Errors: InputError for a crystal without B, and as `displaced_supercell` and `tilted_operators`.
    """
    if "B" not in crystal.label:
        raise InputError("crystal", crystal.name, "has no B site to displace", "label one B")
    if configurations < 2 or configurations % 2:
        raise InputError("configurations", configurations, "are antithetic pairs", "give an even number")
    cell = np.diag(np.asarray(crystal.cell, float))
    b_site = np.asarray(crystal.position, float)[crystal.label.index("B"), :2] * cell[:2]
    operations = plane_operations(crystal, b_site)
    term = (("clean", 0, 0), *_terms(crystal))
    specimens = [(), *_specimens(crystal, operations, b_site)]
    depth = int(np.ceil(max(thicknesses) / cell[2] - 1e-6))
    plan = plan_slices(_moved(crystal, depth, ()), cell[2] / 2 + 1e-3, list(thicknesses))
    lattices = OFFSETS[: configurations // 2]
    drawn: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in lattices] for name in detectors}
    tables: list[_Table] = []
    sampling = operator_sampling(detectors.values(), energy, max_tilt)
    grid = Grid.for_box(CELLS * float(cell[0]), CELLS * float(cell[1]), sampling)
    for pair in range(configurations // 2):
        lattice = pair % len(lattices)
        values: dict[str, list[np.ndarray]] = {name: [] for name in detectors}
        for done, specimen in enumerate(specimens):
            thermal = FastThermal(2, seed=_seed(seed, pair))
            found = tilted_operators(
                _moved(crystal, depth, specimen), energy, max_semiangle, detectors, thermal, plan,
                max_tilt=max_tilt, offset=lattices[lattice], grid=grid,
            )  # fmt: skip
            if len(tables) == lattice:
                tables.append(_Table.of(crystal, next(iter(found.values())), operations, b_site, term, specimens))
            for name, operators in found.items():
                values[name].append(tables[lattice].centred(operators))
            if progress is not None:
                progress(pair * len(specimens) + done + 1, configurations // 2 * len(specimens))
        for name, value in values.items():
            drawn[name][lattice].append(tables[lattice].fitted(value))
    table = tables[0]
    return CellResponse(
        {
            name: jnp.asarray(np.concatenate([np.mean(each, axis=0) for each in draws], axis=1))
            for name, draws in drawn.items()
        },
        {name: _scatter(draws) for name, draws in drawn.items()},
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
    """Sites that may leave the mode, each with all species on it: all but B, which leads it."""
    home = _home(crystal)
    return [f"{i}:{label}" for i, label in enumerate(crystal.label) if label != "B" and home[i] == i]


def _home(crystal: Crystal) -> np.ndarray:
    """(sites,) the first of the species that share each one's place."""
    position = np.asarray(crystal.position, float) * np.diag(np.asarray(crystal.cell, float))
    box = np.diag(np.asarray(crystal.cell, float))
    shared = shared_sites(position, (box[0], box[1], box[2]))
    return np.arange(len(position)) if shared is None else shared


def _terms(crystal: Crystal) -> tuple[tuple[str, int, int], ...]:
    mode = tuple((MODE, x, y) for x, y in MODE_POWERS) if crystal.soft_mode is not None else ()
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


def _mode_specimens(crystal: Crystal, operations: list, b_site: np.ndarray) -> list[tuple[Moved, ...]]:
    """The best of many random choices: each cell along one of twelve displacements or still, all terms told apart."""
    axes, diagonal = ((1, 0), (-1, 0), (0, 1), (0, -1)), ((1, 1), (1, -1), (-1, 1), (-1, -1))
    points = [np.array(v) * r for r in (REACH / 2, REACH) for v in axes]
    points += [np.array(v) * REACH / 2**0.5 for v in diagonal]
    points += [np.zeros(2)]  # a polynomial that is the same on all the others is seen against it
    cells = [(x, y) for y in range(CELLS) for x in range(CELLS)]
    term = [t for t in _terms(crystal) if t[0] == MODE]
    rng = np.random.default_rng(0)
    count = MODE_SPECIMENS * SQUARE // len(operations)  # what symmetry does not make has to be simulated
    best, least = None, np.inf
    for _ in range(TRIED):
        drawn = rng.integers(len(points), size=(count, len(cells)))
        some = [tuple(_moved_by(MODE, c, points[i]) for c, i in zip(cells, row, strict=True)) for row in drawn]
        images = [_image(crystal, s, g, b_site) for s in some for g in operations]
        size = 0.0
        for parity in PARITIES:
            design = _design(images, term, parity)
            gram = design.T @ design
            size += np.inf if np.linalg.matrix_rank(design) < len(term) else np.trace(np.linalg.inv(gram))
        if size < least:
            best, least = some, size
    assert best is not None
    return best


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

    def fitted(self, values: list[np.ndarray]) -> np.ndarray:
        """(terms, nodes, exits, pairs) of one draw of phonons, the clean specimen first."""
        clean = np.mean(self.turned(values[0]), axis=0)
        # differences before any mean: phonons cancel where they are the same
        images = [image for value in values[1:] for image in self.turned(value - values[0])]
        terms = self.solve[0][1].shape[0]
        found = np.zeros((terms + 1, *clean.shape), np.complex64)
        even = self.solve[0][0]
        found[0][..., even] = clean[..., even]  # the mean over the cells of the box
        for of_parity, solve in self.solve:
            some = np.stack([image[..., of_parity] for image in images])
            found[1:, ..., of_parity] = np.tensordot(solve, some, 1)
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
