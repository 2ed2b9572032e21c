"""Detector operators of one specimen under a whole lattice of tilts, from one multislice pass.

To tilt a specimen is to tilt illumination and detector together the other way (but for foreshortening, 1e-5). The plane
waves inside a tilted aperture are plane waves of a wider one, shifted by whole steps of the box's reciprocal lattice:
H^τ_ab = ⟨ψ_(a+m)|D(k − m)|ψ_(b+m)⟩ for the tilt τ = λ(m + o)/L, with o the offset of the waves' frequencies. Exit waves
of one aperture of max_semiangle + max_tilt therefore hold the operators of every tilt of that lattice. Only the band
limit of the waves does not turn with the beam: 1 % of an unbounded ring's operator at 6 mrad, 6e-4 of a bright field's.
"""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ferrojax.constants import wavelength
from ferrojax.crystal import Atoms, check_atoms
from ferrojax.detection.detectors import AnnularDetector
from ferrojax.detection.operator import (
    CARRIED,
    FRACTION,
    SAMPLING,
    DetectorOperator,
    check_band,
    check_beams,
    lanes_of,
    mesh_of,
    over_lanes,
    stacked,
)
from ferrojax.detection.reading import detection_grid
from ferrojax.detection.routes import scattering_matrix
from ferrojax.grid import Grid
from ferrojax.multislice import (
    SlicePlan,
    ThermalModel,
    configurations,
    propagator,
    slab,
    slice_tables,
    weighs,
    weighted_plan,
)
from ferrojax.products import EXACT


class TiltedOperators(eqx.Module):
    """H of one specimen and detector under several tilts; fields as in DetectorOperator.

    matrix: (nodes, exits, beams, beams). tilt: (nodes, 2) mrad (x, y). node: the same in steps of the box's
    reciprocal lattice, without the offset. aperture: (x, y), by which part of a step the beams lie off `beam`.
    """

    matrix: Complex[Array, "nodes exits beams beams"]
    tilt: Float[np.ndarray, "nodes 2"]
    node: tuple[tuple[int, int], ...] = eqx.field(static=True)
    beam: tuple[tuple[int, int], ...] = eqx.field(static=True)
    grid: Grid = eqx.field(static=True)
    energy: float = eqx.field(static=True)
    max_semiangle: float = eqx.field(static=True)
    aperture: tuple[float, float] = eqx.field(static=True, default=(0.0, 0.0))

    def at(self, index: int) -> DetectorOperator:
        """The operator of one node."""
        grid = Grid(self.grid.shape, self.grid.sampling, self.aperture[::-1])
        return DetectorOperator(self.matrix[index], self.beam, grid, self.energy, self.max_semiangle)


def tilted_operators(
    atoms: Atoms,
    energy: float,
    max_semiangle: float,
    detectors: Mapping[str, AnnularDetector],
    thermal: ThermalModel,
    plan: SlicePlan,
    *,
    max_tilt: float,
    offset: tuple[float, float] = (0.0, 0.0),
    aperture: tuple[float, float] = (0.0, 0.0),
    grid: Grid | None = None,
    single: bool = False,
    batch: int = 16,
) -> dict[str, TiltedOperators]:
    """H of every detector for every tilt of the lattice within `max_tilt` (mrad), thermally averaged.

    offset: (x, y) of the lattice of tilts, in steps of λ / box (3.1 mrad for 8 Å at 200 kV). single: the tilt `offset`
    alone, whatever its size. aperture: (x, y), where between the box's own beams the probe's are taken, in parts of a
    step: the mean over n × n such samples the aperture as a box of n times the side does. Detectors as in
    `detector_operator`; a finite outer angle must lie within the band limit by max_tilt as well.
    """
    check_atoms(atoms)
    grid = Grid.for_box(atoms.box[0], atoms.box[1], SAMPLING) if grid is None else grid
    grid.check_spans(*atoms.box[:2])
    plan.check_specimen(atoms)
    plan = weighted_plan(plan, atoms, thermal)
    step = wavelength(energy) * 1e3 / np.array(grid.extent[::-1])  # mrad (x, y)
    reach = FRACTION * grid.nyquist * wavelength(energy) * 1e3
    for detector in detectors.values():
        check_band(detector, reach - max_tilt)
    check_beams(max_semiangle, reach, max_tilt)
    whole = np.array(offset) + aperture
    offset_grid = Grid(grid.shape, grid.sampling, (float(whole[1]), float(whole[0])))
    seen = detection_grid(offset_grid, FRACTION)
    shifts = np.array(offset), np.array(aperture)
    waves, nodes, beam = _lattice(seen.shape, step, shifts, max_semiangle, None if single else max_tilt)
    partial = weighs(plan, atoms, thermal)
    tables = slice_tables(plan.elements, grid, energy, "renormalised", grid.band_limit(CARRIED, 0.0), partial=partial)
    upright = jnp.zeros(2, tables.carried.dtype)
    limit = offset_grid.band_limit(FRACTION, 0.0)
    kernel = propagator(offset_grid, energy, plan.slice_thickness, upright, limit)
    band = FRACTION * grid.nyquist
    rings = tuple(_ring(d, seen, nodes, wavelength(energy), band, aperture) for d in detectors.values())
    number = {tuple(w): i for i, w in enumerate(waves)}
    members = jnp.asarray([[number[tuple(a + m)] for a in beam] for m in nodes])
    rows_cols = jnp.asarray(waves[:, ::-1].T % np.array(seen.shape)[:, None])
    total: list = [0] * len(rings)
    lanes = lanes_of(configurations(thermal))
    for first in range(0, configurations(thermal), lanes):
        some = stacked(atoms, thermal, plan, first, lanes)
        shared = (plan, tables, kernel), rings, (rows_cols, members)
        found = _matrices(some, shared, (offset_grid, seen), batch, mesh_of(lanes))
        total = [t + jnp.asarray(np.asarray(f)) for t, f in zip(total, found, strict=True)]
    made = {}
    for name, matrix in zip(detectors, total, strict=True):
        made[name] = TiltedOperators(
            matrix / configurations(thermal),
            (nodes + np.array(offset)) * step,
            tuple((int(x), int(y)) for x, y in nodes),
            tuple((int(x), int(y)) for x, y in beam),
            grid,
            energy,
            max_semiangle,
            aperture,
        )
    return made


def _lattice(shape, step, shifts, max_semiangle: float, max_tilt: float | None):
    """Integers (n, 2) (x, y) of the waves to propagate, of the nodes of tilt (of none but the first without
    max_tilt), and of the beams of an aperture. shifts: parts of a step of the tilts, and of the beams."""
    most = (np.array(shape[::-1]) - 1) // 2
    every = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in most], indexing="ij"), -1).reshape(-1, 2)
    tilted, angle = (np.hypot(*((every + shift) * step).T) for shift in shifts)
    nodes = np.zeros((1, 2), int) if max_tilt is None else every[tilted <= max_tilt]
    beam = every[angle < max_semiangle]
    waves = np.unique((beam[:, None] + nodes[None]).reshape(-1, 2), axis=0)
    return waves, nodes, beam


def _ring(detector: AnnularDetector, seen: Grid, nodes: np.ndarray, length: float, band: float, aperture):
    """Pixels that the detector weighs under any tilt, and its weights there less those of what is lost, (nodes, n)."""
    lost = float(detector.outer == np.inf)
    upright = detector.weights(Grid(seen.shape, seen.sampling, (float(aperture[1]), float(aperture[0]))), length)
    weight = np.stack([(np.roll(upright, (y, x), (0, 1)) - lost) * (seen.k < band) for x, y in nodes])
    pixels = np.nonzero((weight != 0).any(0))
    return jnp.asarray(weight[:, *pixels]), tuple(jnp.asarray(i) for i in pixels), jnp.asarray(lost)


@eqx.filter_jit
def _matrices(specimens, shared, grids, batch: int, mesh):
    """The sum over thermal configurations: a list of (nodes, exits, beams, beams), one a detector."""
    return over_lanes(lambda specimen, shared: _of_one(specimen, shared, grids, batch), specimens, shared, mesh)


def _of_one(specimen, shared, grids, batch: int):
    (plan, tables, kernel), rings, (rows_cols, members) = shared
    material = slab(specimen[0], specimen[1], plan, tables)

    def read(spectrum):
        return [spectrum[:, *pixels] for _, pixels, _ in rings]

    waves, _ = scattering_matrix(material, kernel, grids, rows_cols, batch, read)
    found = []
    for (weight, _, lost), wave in zip(rings, waves, strict=True):

        def one(node, wave=wave, lost=lost):
            member, w = node
            inside = wave[member]
            product = jnp.einsum("aek,k,bek->eab", jnp.conj(inside), w, inside, precision=EXACT)
            return lost * jnp.eye(member.shape[0]) + product

        found.append(jax.lax.map(one, (members, weight.astype(wave.real.dtype))))
    return found
