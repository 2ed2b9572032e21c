"""The detector as an operator on the illumination: one multislice pass, images under any optics.

A probe is a sum of the plane waves inside the aperture, so the signal at r is Σ_ab c_a* c_b H_ab exp(2πi(k_a−k_b)·r)
with c the probe's spectrum and H_ab = ⟨ψ_a|D|ψ_b⟩ from the exit waves of those plane waves. H knows the specimen,
its tilt and its thickness; semi-angle, defocus and aberrations enter afterwards. This is the scattering matrix of
PRISM without interpolation: exact for the periodic box, and cheaper than scanning wherever the aperture holds
fewer beams than the scan has positions.
"""

from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Complex

from ferrojax.constants import wavelength
from ferrojax.crystal import Atoms, check_atoms
from ferrojax.detection.detectors import AnnularDetector
from ferrojax.detection.reading import detection_grid
from ferrojax.detection.routes import scattering_matrix
from ferrojax.errors import InputError, is_traced
from ferrojax.grid import Grid
from ferrojax.multislice import (
    SlicePlan,
    ThermalModel,
    configuration,
    configurations,
    propagator,
    slab,
    slice_tables,
    weighs,
    weighted_plan,
)
from ferrojax.optics import Probe, probe_spectrum
from ferrojax.products import EXACT

CLEARANCE = 1.45
"""The band limit must clear the inner angle of an unbounded ring by this factor."""
SAMPLING, FRACTION, CARRIED = 0.0625, 0.5, 1.0
"""Å per pixel, and the band limits of wave and slices as parts of Nyquist: the product is exact inside the wave's,
so the operator needs none of the corrections that FastThermal's coarser grid does."""


class DetectorOperator(eqx.Module):
    """H of one specimen. matrix: (exits, beams, beams), Hermitian. beam: (beams, 2) (x, y) grid frequencies."""

    matrix: Complex[Array, "exits beams beams"]
    beam: tuple[tuple[int, int], ...] = eqx.field(static=True)
    grid: Grid = eqx.field(static=True)
    energy: float = eqx.field(static=True)
    max_semiangle: float = eqx.field(static=True)


def detector_operator(
    atoms: Atoms,
    energy: float,
    max_semiangle: float,
    detector: AnnularDetector,
    thermal: ThermalModel,
    plan: SlicePlan,
    *,
    tilt=(0.0, 0.0),
    grid: Grid | None = None,
    batch: int = 16,
) -> DetectorOperator:
    """H for every beam within `max_semiangle` (mrad), thermally averaged, at the plan's exit planes.

    The detector must end within the band limit or be unbounded (outer = inf), because what is scattered beyond an
    outer angle in between is not taken out here.
    """
    check_atoms(atoms)
    grid = Grid.for_box(atoms.box[0], atoms.box[1], SAMPLING) if grid is None else grid
    grid.check_spans(*atoms.box[:2])
    plan.check_specimen(atoms)
    plan = weighted_plan(plan, atoms, thermal)
    illumination = Probe(energy, max_semiangle)
    reach = FRACTION * grid.nyquist * illumination.wavelength * 1e3
    check_band(detector, reach)
    check_beams(max_semiangle, reach)
    limit = grid.band_limit(FRACTION, 0.0)
    partial = weighs(plan, atoms, thermal)
    tables = slice_tables(plan.elements, grid, energy, "renormalised", grid.band_limit(CARRIED, 0.0), partial=partial)
    kernel = propagator(grid, energy, plan.slice_thickness, jnp.asarray(tilt, tables.carried.dtype), limit)
    seen = detection_grid(grid, FRACTION)
    rows, cols = np.nonzero(seen.k * illumination.wavelength * 1e3 < max_semiangle)
    inside = tuple(jnp.asarray(i) for i in np.nonzero(seen.k < FRACTION * grid.nyquist))
    # An unbounded detector collects all but what the wave holds outside the ring: I − ⟨ψ_a|1 − D|ψ_b⟩.
    lost = jnp.asarray(float(detector.outer == np.inf), tables.carried.dtype)
    weight = detector.weights(seen, illumination.wavelength)[inside] - lost
    beams = jnp.asarray(np.stack([rows, cols]))
    lanes = lanes_of(configurations(thermal))
    mesh = mesh_of(lanes)
    total = 0
    for first in range(0, configurations(thermal), lanes):
        shared = plan, tables, kernel, (weight, inside, lost), beams
        total += _matrices(stacked(atoms, thermal, plan, first, lanes), shared, (grid, seen), batch, mesh)
    signed = [np.where(i > n // 2, i - n, i) for i, n in zip((cols, rows), seen.shape[::-1], strict=True)]
    beam = tuple((int(x), int(y)) for x, y in zip(*signed, strict=True))
    matrix = jnp.asarray(total) / configurations(thermal)
    return DetectorOperator(matrix, beam, grid, energy, max_semiangle)


def check_band(detector: AnnularDetector, reach: float) -> None:
    """Its band folds nothing over: rings are right that end within it, or that have no end and start well within."""
    if detector.outer <= reach or (detector.outer == np.inf and detector.inner * CLEARANCE <= reach):
        return
    span = f"{detector.inner:g}–{detector.outer:g} mrad"
    problem = f"neither ends within the band limit of {reach:.0f} mrad nor is unbounded from well within it"
    raise InputError("detector", span, problem, "use outer=inf, or a finer grid")


def operator_sampling(detectors: Iterable[AnnularDetector], energy: float, max_tilt: float = 0.0) -> float:
    """Å per pixel, SAMPLING or finer, at which `check_band` lets unbounded rings pass; a ring that ends has to ask for
    its own."""
    wanted = max((d.inner * CLEARANCE + max_tilt for d in detectors if d.outer == np.inf), default=0.0)
    reach = FRACTION * wavelength(energy) * 1e3 / (2 * SAMPLING)
    return SAMPLING * min(1.0, reach / max(wanted, 1e-9))


def check_beams(max_semiangle: float, reach: float, max_tilt: float = 0.0) -> None:
    """Every beam, tilted too, lies within the band limit (all mrad)."""
    if max_semiangle + max_tilt > reach:
        problem = f"with {max_tilt:g} mrad of tilt reaches beyond the band limit of {reach:.0f} mrad"
        raise InputError("max_semiangle", f"{max_semiangle:g} mrad", problem, "make it smaller, or give a finer grid")


def lanes_of(runs: int) -> int:
    """How many configurations are computed at a time, one a device: as many as devices share evenly."""
    return next(n for n in range(min(runs, len(jax.local_devices())), 0, -1) if runs % n == 0)


def mesh_of(lanes: int) -> Mesh | None:
    """The devices that so many configurations are shared over; None for one."""
    return None if lanes == 1 else Mesh(np.array(jax.local_devices()[:lanes]), ("devices",))


def stacked(atoms: Atoms, thermal: ThermalModel, plan: SlicePlan, first: int, lanes: int):
    """(position, occupancy) of `lanes` configurations from `first` on, along a leading axis."""
    some = zip(*[configuration(atoms, thermal, first + lane, plan) for lane in range(lanes)], strict=True)
    return tuple(jnp.stack(each) for each in some)


def over_lanes(one, specimens, shared, mesh: Mesh | None):
    """The sum of one(specimen, shared) over stacked specimens, one a device where there is a mesh."""

    def of_some(specimens, shared):
        return jax.lax.map(lambda specimen: one(specimen, shared), specimens)

    if mesh is not None:
        split, none = PartitionSpec("devices"), PartitionSpec()
        of_some = jax.shard_map(of_some, mesh=mesh, in_specs=(split, none), out_specs=split, check_vma=False)
    return jax.tree.map(lambda a: a.sum(0), of_some(specimens, shared))


@eqx.filter_jit
def _matrices(specimens, shared, grids, batch, mesh):
    """The sum of H over thermal configurations (position, occupancy), one a device where there is a mesh."""
    return over_lanes(lambda atoms, shared: _matrix(atoms, shared, grids, batch), specimens, shared, mesh)


def _matrix(atoms, shared, grids, batch):
    """H of one thermal configuration; the detector in `shared`: (weight − lost, indices in the band limit, lost)."""
    plan, tables, kernel, (weight, inside, lost), beams = shared
    medium = slab(atoms[0], atoms[1], plan, tables)
    waves, _ = scattering_matrix(medium, kernel, grids, beams, batch, lambda s: s[:, inside[0], inside[1]])
    product = jnp.einsum("aek,k,bek->eab", jnp.conj(waves), weight, waves, precision=EXACT)
    return lost * jnp.eye(beams.shape[1]) + product


def operator_spectrum(operator: DetectorOperator, probe: Probe, size: int) -> Complex[Array, "exits size size"]:
    """Fourier coefficients of the image of the periodic box, FFT order; frequencies beyond size/2 are dropped.

    `ifft2(spectrum) * size²` is the image on size × size positions from the origin.
    Errors: InputError for a probe of another energy or wider than the operator's beams, and for a source size or focal
    spread, which are averages over such images.
    """
    check_probe(probe, operator.energy, operator.max_semiangle)
    for name in ("source_size", "focal_spread"):
        value = getattr(probe, name)
        if not is_traced(value) and np.asarray(value).any():
            raise InputError(name, value, "is not part of one image", "average images over it, or blur them")
    return _spectrum(operator, probe, size)


def check_probe(probe: Probe, energy: float, max_semiangle: float) -> None:
    """Refuse a probe of another energy than operators were made for, or wider than their beams."""
    if probe.energy != energy:
        raise InputError("probe", f"{probe.energy:g} eV", f"the operator is of {energy:g} eV", "make it anew")
    known = [v for v in (probe.semiangle,) if not is_traced(v)]
    if any(float(v) + probe.edge / 2 > max_semiangle * (1 + 1e-6) for v in known):
        problem = f"is wider than the operator's beams, {max_semiangle:g} mrad"
        raise InputError("probe", f"{float(known[0]):g} mrad", problem, "give a larger max_semiangle to the operator")


@eqx.filter_jit
def _spectrum(operator: DetectorOperator, probe: Probe, size: int) -> Complex[Array, "exits size size"]:
    x, y = np.array(operator.beam).T
    spectrum = probe_spectrum(probe, operator.grid)[y, x]
    pair = jnp.conj(spectrum)[:, None] * spectrum[None] * operator.matrix
    qx, qy = x[:, None] - x[None], y[:, None] - y[None]
    most = (size - 1) // 2  # an even size's highest frequency has no partner
    keep = (np.abs(qx) <= most) & (np.abs(qy) <= most)
    flat = (qy % size) * size + qx % size
    exits = operator.matrix.shape[0]
    image = jnp.zeros((exits, size * size), pair.dtype).at[:, flat[keep]].add(pair[:, keep])
    return image.reshape(exits, size, size)
