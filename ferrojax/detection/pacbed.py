"""Position-averaged convergent-beam patterns (PACBED) of a unit cell, differentiable to the last parameter.

Averaged over all probe positions of a periodic cell, different incident directions q no longer interfere, so the
pattern is the incoherent sum over the aperture of plane-wave patterns: I(k) = Σ_g w(k − g)·|ψ_g(q = k − g)|². One
multislice of the *unit cell* per direction gives ψ_g(q), a smooth function of q; the aperture's sharp edge enters
afterwards, exactly. The wave is the elastic one: in the Einstein model atoms move independently, so the mean of the
multislice product is the product of the means, and transmission functions averaged over thermal motion give the
mean wave with all its thermal absorption. Diffuse intensity is not part of it.

`simulate_pacbed` gives a pattern in one call; a fit calls `rocking_curves`, the multislice, where thickness and
semi-angle change alone only `position_averaged_pattern`.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int
from scipy.special import ndtr

from ferrojax.constants import wavelength
from ferrojax.crystal import Atoms, check_atoms
from ferrojax.detection.detectors import PixelatedDetector
from ferrojax.detection.simulate import SLICE
from ferrojax.detection.thickness import at_thickness
from ferrojax.errors import InputError, is_traced
from ferrojax.grid import ANTIALIAS_FRACTION, ANTIALIAS_TAPER, Grid
from ferrojax.image import DiffractionScan
from ferrojax.multislice import (
    SlicePlan,
    SliceTables,
    aligned_slices,
    multislice,
    plan_slices,
    propagator,
    slab,
    slice_tables,
)
from ferrojax.multislice.given import check_tilt, guarded_atoms, guarded_tilt
from ferrojax.multislice.transmission import slice_transmission
from ferrojax.optics import Probe
from ferrojax.products import EXACT

COARSEST = 0.06
"""Å per pixel: the unit cell's grid, finer where the camera reaches further."""
SMOOTH = 600.0
"""Å·mrad: rocking curves of a foil of thickness t are smooth on steps of SMOOTH/t."""
STEPS = (0.25, 2.0)
"""mrad between which that step is kept."""
LARGEST = 2**31
"""Bytes of rocking curves; beyond, the box is no unit cell."""
PIXEL = 12**-0.5
"""Rms width of a pixel, as part of its width."""
STENCIL = 1.6
"""Steps of the direction grid that interpolation needs beyond the last direction asked for."""


def simulate_pacbed(
    atoms: Atoms,
    probe: Probe,
    camera: PixelatedDetector,
    *,
    tilt: Any = (0.0, 0.0),
    thicknesses: Sequence[float] | None = None,
    slice_thickness: float | None = None,
    parametrization: str = "lobato",
) -> DiffractionScan:
    """Elastic position-averaged pattern of a periodic box: what `camera` sees, averaged over a scan of all of it.

    atoms: one unit cell wide, as deep as the foil (`atoms.repeated(1, 1, n)`); `thermal_rms` (Å) enters as absorption
    and Debye-Waller factor, the diffuse background is not in it. probe: energy, semi-angle and its soft edge;
    aberrations, source and defocus do not matter to an average over positions. tilt: mrad (x, y), as in `simulate`.
    thicknesses: Å. Returns a DiffractionScan of one position, (thickness, 1, 1, ky, kx) with `thicknesses`, else
    (1, 1, ky, kx), as fractions of the beam per pixel. Differentiable in occupancy, thermal rms and tilt.
    Errors: InputError for what `simulate` refuses, and a box too large for a unit cell.
    """
    with jax.ensure_compile_time_eval():  # under jit too, what is not traced has a value to plan with
        check_atoms(atoms)
        if not isinstance(probe, Probe):
            raise InputError(
                "probe", type(probe).__name__, "is no Probe", "give fj.Probe(energy in eV, semiangle in mrad)"
            )
        if not isinstance(camera, PixelatedDetector):
            remedy = "give fj.PixelatedDetector(60, shape=(128, 128))"
            raise InputError("camera", type(camera).__name__, "is no PixelatedDetector", remedy)
        if is_traced(atoms.position) or is_traced(probe.semiangle):
            raise InputError(
                "position", "traced", "needs a plan of its own", "use rocking_curves with plan_slices(atoms)"
            )
        check_tilt(tilt)
        step = aligned_slices(atoms, SLICE) if slice_thickness is None else slice_thickness
        plan = plan_slices(atoms, step, thicknesses)
        semiangle, blur = float(probe.semiangle), max(probe.edge, *camera.step) * PIXEL
        reach = ANTIALIAS_FRACTION - ANTIALIAS_TAPER
        finest = probe.wavelength * 1e3 * reach / (2 * (camera.outer + max(camera.step)))
        grid = Grid.for_box(atoms.box[0], atoms.box[1], min(COARSEST, finest))
        tables = slice_tables(plan.elements, grid, probe.energy, parametrization=parametrization)
        inside = semiangle + 4 * blur
        directions = Directions.within(inside, min(max(SMOOTH / plan.depths[-1], STEPS[0]), STEPS[1], inside))
        beams = beams_within(grid, probe.energy, camera.outer + inside)
        each = 8 * int(np.prod(grid.shape))
        size = max(
            4 * len(plan.exits) * directions.axis.size**2 * len(beams), each * (plan.present[0].size + plan.exits[-1])
        )
        if size > LARGEST:
            shown = f"{atoms.box[0]:.1f} × {atoms.box[1]:.1f} Å, {len(beams)} beams, {size / 2**30:.0f} GiB"
            raise InputError(
                "box", shown, "is too large for rocking curves", "give one unit cell, or fewer thicknesses"
            )
    atoms, ramp = guarded_atoms(atoms, plan), guarded_tilt(jnp.asarray(tilt, jnp.result_type(float)))
    curves = _curves(atoms, probe.energy, directions, plan, tables, grid, beams, ramp)
    y, x = ((np.arange(n) - (n - 1) / 2) * d for n, d in zip(camera.shape, camera.step, strict=True))
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    overlap = plan_overlap(curves.beam_angle, points, inside)
    patterns = [
        _pattern(curves, values, semiangle, jnp.asarray(points, values.dtype), overlap, blur)
        for values in curves.intensity
    ]
    data = jnp.stack(patterns).reshape(-1, 1, 1, *camera.shape) * (camera.step[0] * camera.step[1])
    if camera.outer > inside:  # pixels take up no more of the direct disc than there is, however few it has
        disc = ndtr((semiangle - np.hypot(*points.T)) / blur).sum() * camera.step[0] * camera.step[1]
        data = data * (_area(semiangle, blur) / disc)
    data = data if thicknesses is not None else data[0]
    cell = (atoms.box[1], atoms.box[0])
    return DiffractionScan(data, cell, camera.step, None, "pacbed", plan.depths)


@eqx.filter_jit
def _curves(atoms, energy, directions, plan, tables, grid, beams, tilt) -> "RockingCurves":
    return rocking_curves(atoms, energy, directions, plan, tables, grid, beams=beams, tilt=tilt)


@eqx.filter_jit
def _pattern(curves, values, semiangle, points, overlap, edge) -> Float[Array, " points"]:
    return _drawn(curves, values, semiangle, points, overlap, edge)


def elastic_transmission(atoms: Atoms, plan: SlicePlan, tables: SliceTables) -> Complex[Array, "slices rows cols"]:
    """<t(r)> of every slice over independent Gaussian displacements of its sites (`thermal_rms`), band-limited.

    The product over sites of each one's own t, smeared: exact, where a smeared potential would lose the absorption.
    A partly occupied site is the average of its species, or of nothing, at their occupancies: what random composition
    leaves of the elastic wave.
    """
    rms = atoms.thermal_rms if atoms.thermal_rms.ndim == 2 else atoms.thermal_rms[:, None] * jnp.ones(3)
    shape = plan.present.shape[1:]
    alone = np.eye(int(np.prod(shape))).reshape(-1, *shape)

    site = jnp.arange(len(atoms.number)) if plan.site is None else plan.site
    position, occupancy = plan.merged(atoms.position, atoms.occupancy)

    def one_slice(entry):
        index, present = entry
        weight = (occupancy[index] * present).ravel()

        def one_atom(pick):
            t, _ = slice_transmission(tables, position[index][..., :2], present * pick)
            ux, uy = (rms[index] * pick[..., None]).sum((0, 1))[:2]
            smear = jnp.exp(-2 * jnp.pi**2 * ((ux * tables.kx) ** 2 + (uy * tables.ky[:, None]) ** 2))
            return jnp.fft.ifft2(jnp.fft.fft2(t) * smear)

        change = weight[:, None, None] * (jax.lax.map(one_atom, jnp.asarray(alone, rms.dtype)) - 1)
        home = jnp.where(present > 0, site[index], -1 - jnp.arange(present.size).reshape(shape)).ravel()
        same = home[:, None] == home
        first = jnp.argmax(same, axis=1) == jnp.arange(present.size)  # stands for its site
        change = jnp.einsum("ab,byx->ayx", (same & first[:, None]).astype(change.dtype), change, precision=EXACT)
        t = jnp.prod(1 + change, axis=0)
        return jnp.fft.ifft2(jnp.fft.fft2(t) * tables.carried)

    n = max(plan.exits)
    return jax.lax.map(one_slice, (plan.index[:n], plan.present[:n].astype(rms.dtype)))


class Directions(eqx.Module):
    """A square grid of incident directions, −reach to +reach in x and y. reach, step: mrad (static)."""

    reach: float = eqx.field(static=True)
    step: float = eqx.field(static=True)

    @staticmethod
    def within(angle: float, step: float = 1.0) -> "Directions":
        """The grid of this step (mrad) that interpolates everywhere within `angle` (mrad) of the axis."""
        if not (0 < step <= angle < np.inf):
            raise InputError("step", f"{step} mrad within {angle} mrad", "needs 0 < step ≤ angle", "try step=1.0")
        return Directions(float(np.ceil(angle / step) + np.ceil(STENCIL)) * step, step)

    @property
    def axis(self) -> np.ndarray:
        """The grid's values on each axis, mrad."""
        n = round(self.reach / self.step)
        return np.arange(-n, n + 1) * self.step


class RockingCurves(eqx.Module):
    """Elastic intensity of every beam against incident direction and depth, as fractions of the incident beam.

    intensity: (exits, y, x, beams) over `directions`; beam: (beams, 2) (x, y) grid frequencies; cell: (x, y) Å.
    """

    intensity: Float[Array, "exits y x beams"]
    directions: Directions
    beam: tuple[tuple[int, int], ...] = eqx.field(static=True)
    cell: tuple[float, float] = eqx.field(static=True)
    thickness: tuple[float, ...] = eqx.field(static=True)
    energy: float = eqx.field(static=True)

    @property
    def beam_angle(self) -> np.ndarray:
        """Scattering angle (x, y) of every beam, mrad; (beams, 2)."""
        return np.array(self.beam) / np.array(self.cell) * wavelength(self.energy) * 1e3


def beams_within(grid: Grid, energy: float, angle: float) -> tuple[tuple[int, int], ...]:
    """(x, y) grid frequencies of the beams within `angle` (mrad)."""
    signed = [np.fft.fftfreq(n, 1 / n).round().astype(int) for n in grid.shape]
    rows, cols = np.nonzero(grid.k * wavelength(energy) * 1e3 < angle)
    return tuple((int(signed[1][c]), int(signed[0][r])) for r, c in zip(rows, cols, strict=True))


def rocking_curves(
    atoms: Atoms,
    energy: float,
    directions: Directions,
    plan: SlicePlan,
    tables: SliceTables,
    grid: Grid,
    *,
    beams: tuple[tuple[int, int], ...],
    tilt=(0.0, 0.0),
    batch: int = 64,
) -> RockingCurves:
    """Send a plane wave of every direction through the cell; read every beam at the plan's exit planes.

    atoms: one unit cell wide, as deep as the last exit plane. tables: of `slice_tables` on this grid. tilt: of the
    crystal, mrad (x, y), as in `simulate`; a direction q sees the tilt q + tilt. Differentiable in positions,
    occupancy, thermal rms and tilt.
    """
    if not beams:
        raise InputError("beams", beams, "none given", "use beams_within(grid, energy, angle)")
    specimen = slab(atoms.position, atoms.occupancy, plan, tables)
    specimen = eqx.tree_at(lambda s: s.stack, specimen, (elastic_transmission(atoms, plan, tables), None))
    cols, rows = np.array(beams).T
    limit = grid.band_limit()
    axis = jnp.asarray(directions.axis, tables.carried.dtype)
    q = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    psi = jnp.ones((1, *grid.shape), specimen.stack[0].dtype)

    def one_direction(q):
        kernel = propagator(grid, energy, plan.slice_thickness, q + jnp.asarray(tilt, q.dtype), limit)
        return multislice(psi, specimen, kernel, lambda p, _: jnp.abs(jnp.fft.fft2(p[0])[rows, cols] / p[0].size) ** 2)

    n = axis.size
    batch = min(batch, n * n)
    padded = jnp.pad(q, ((0, -n * n % batch), (0, 0)), mode="edge")
    intensity = jax.lax.map(jax.vmap(one_direction), padded.reshape(-1, batch, 2))
    intensity = intensity.reshape(-1, *intensity.shape[2:])[: n * n]
    return RockingCurves(
        jnp.moveaxis(intensity.reshape(n, n, *intensity.shape[1:]), 2, 0),
        directions,
        beams,
        (float(grid.extent[1]), float(grid.extent[0])),
        tuple(float(e * plan.slice_thickness) for e in plan.exits),
        energy,
    )


def _spline_matrix(n: int) -> np.ndarray:
    """Values on n nodes to cubic B-spline coefficients (third difference zero next to both ends)."""
    a = np.diag(np.full(n, 4 / 6)) + np.diag(np.full(n - 1, 1 / 6), 1) + np.diag(np.full(n - 1, 1 / 6), -1)
    a[0, :3] += np.array([3, -3, 1]) / 6
    a[-1, -3:] += np.array([1, -3, 3]) / 6
    return np.linalg.inv(a)


class Overlap(eqx.Module):
    """Which beams' discs may reach each point: (points, most) indices and 1 where one is real (eager, static plan)."""

    beam: Int[np.ndarray, "points most"] | Int[Array, "points most"]
    present: Float[np.ndarray, "points most"] | Float[Array, "points most"]


def plan_overlap(
    beam_angle: Float[np.ndarray, "beams 2"], k: Float[np.ndarray, "points 2"], reach: float, at_least: int = 1
) -> Overlap:
    """The beams within `reach` (mrad) of every point k (mrad): semi-angle plus edge plus what may move in a fit.

    at_least: columns of the plan; plans of one size share compiled code.
    """
    near = np.hypot(*np.moveaxis(k[:, None] - beam_angle[None], -1, 0)) < reach
    most = min(len(beam_angle), max(at_least, int(near.sum(1).max())))
    order = np.argsort(~near, axis=1, kind="stable")[:, :most]
    return Overlap(order, np.take_along_axis(near, order, 1).astype(float))


def position_averaged_pattern(
    curves: RockingCurves,
    thickness,
    semiangle,
    k: Float[Array, "points 2"],
    overlap: Overlap,
    *,
    edge=0.1,
) -> Float[Array, " points"]:
    """Elastic PACBED at points k (mrad, crystal's x and y), as a fraction of the incident beam per mrad².

    thickness: Å, continuous. semiangle: mrad. edge: rms width (mrad) of the Gaussian blur of the aperture's edge.
    All of them and k are differentiable; the directions must reach semiangle + 3 edge.
    """
    values = at_thickness(curves.intensity, curves.thickness, thickness)
    return _drawn(curves, values, semiangle, k, overlap, edge)


def _drawn(
    curves: RockingCurves, values: Float[Array, "y x beams"], semiangle, k, overlap: Overlap, edge
) -> Float[Array, " points"]:
    """The pattern whose beams have these intensities over the directions."""
    n = values.shape[0]
    inverse = jnp.asarray(_spline_matrix(n), values.dtype)
    coefficient = jnp.einsum("iy,jx,yxb->ijb", inverse, inverse, values, precision=EXACT)
    q = k[:, None] - jnp.asarray(curves.beam_angle, k.dtype)[overlap.beam]  # points, most, 2
    radius = jnp.sqrt((q**2).sum(-1) + 1e-12)
    opening = jax.scipy.special.ndtr((semiangle - radius) / edge) * jnp.asarray(overlap.present, k.dtype)
    reach = curves.directions.axis[-2] - 1e-3
    place = (jnp.clip(q, -reach, reach) - curves.directions.axis[0]) / curves.directions.step
    base = jnp.clip(jnp.floor(place).astype(int), 1, n - 3)
    x, y = jnp.moveaxis(place - base, -1, 0)
    wx, wy = _spline_weights(x), _spline_weights(y)
    total = jnp.zeros_like(radius)
    for j in range(4):
        for i in range(4):
            total += wy[j] * wx[i] * coefficient[base[..., 1] + j - 1, base[..., 0] + i - 1, overlap.beam]
    return (opening * total).sum(-1) / _area(semiangle, edge)


def _area(semiangle, edge):
    """mrad² of an aperture whose edge is blurred by a Gaussian of that rms."""
    return np.pi * (semiangle**2 + edge**2)


def _spline_weights(x: Float[Array, "*points"]) -> list[Float[Array, "*points"]]:
    """Cubic B-spline weights of the four coefficients around a point, x in [0, 1] from the second."""
    return [(1 - x) ** 3 / 6, (3 * x**3 - 6 * x**2 + 4) / 6, (-3 * x**3 + 3 * x**2 + 3 * x + 1) / 6, x**3 / 6]
