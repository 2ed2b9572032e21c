"""Position-averaged patterns: against scanned probes, against frozen phonons, gradients, recompilation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.crystal import Atoms, displaced_supercell, material
from ferrojax.detection import AnnularDetector, PixelatedDetector, Scan, simulate
from ferrojax.detection.pacbed import (
    Directions,
    RockingCurves,
    at_thickness,
    beams_within,
    elastic_transmission,
    plan_overlap,
    position_averaged_pattern,
    rocking_curves,
    simulate_pacbed,
)
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.multislice import (
    FrozenPhonons,
    displaced_positions,
    exit_wave,
    multislice,
    plan_slices,
    propagator,
    slab,
    slice_tables,
)
from ferrojax.optics import PlaneWave, Probe, probe_spectrum

ENERGY, CELL, LAYER = 200e3, (3.8392, 5.4294), 1.9196
SITES = np.array([(0.5, 0.625), (0, 0.875), (0.5, 0.375), (0, 0.125)])
GRID = Grid((40, 30), (CELL[1] / 40, CELL[0] / 30))
RUN = eqx.filter_jit(rocking_curves)


def silicon(layers, rms=0.0):
    """[110] silicon: layers of two atoms, alternating."""
    sites = [SITES[:2], SITES[2:]]
    xy = np.concatenate([sites[i % 2] for i in range(layers)]) * CELL
    z = (np.repeat(np.arange(layers), 2) + 0.5) * LAYER
    return Atoms(np.concatenate([xy, z[:, None]], 1), [14] * len(z), (*CELL, layers * LAYER), rms)


def specimen_parts(grid, step):
    atoms = silicon(8, 0.054)
    plan = plan_slices(atoms, LAYER + 1e-4, [LAYER * i for i in range(5, 9)])
    return atoms, Directions.within(7.0, step), plan, slice_tables(plan.elements, grid, ENERGY), grid


@pytest.fixture(scope="module")
def parts():
    return specimen_parts(GRID, 2.0)


@pytest.fixture(scope="module")
def coarse():
    """A grid and directions too coarse to be right, where only consistency is at stake."""
    return specimen_parts(Grid((20, 16), (CELL[1] / 20, CELL[0] / 16)), 3.5)


def curves(parts, tilt=(0.0, 0.0), rms=None, beams=None):
    atoms, directions, plan, tables, grid = parts
    if rms is not None:
        atoms = eqx.tree_at(lambda a: a.thermal_rms, atoms, jnp.full(len(atoms.number), rms))
    beams = beams_within(GRID, ENERGY, 25.0) if beams is None else beams
    return RUN(atoms, ENERGY, directions, plan, tables, grid, beams=beams, tilt=jnp.asarray(tilt))


def test_a_beam_is_that_of_the_exit_wave_under_the_same_tilt(parts):
    found = curves(parts, tilt=(1.0, -2.0), rms=0.0)
    wave = exit_wave(silicon(8), PlaneWave(ENERGY), GRID, slice_thickness=LAYER + 1e-4, tilt=(3.0, 2.0))
    axis = list(found.directions.axis)
    mine = found.intensity[-1, axis.index(4.0), axis.index(2.0)]
    x, y = np.array(found.beam).T
    reference = np.abs(np.fft.fft2(wave)[y, x] / wave.size) ** 2
    # Atoms are band-limited one by one here, together there: their products differ at the band limit.
    assert np.linalg.norm(mine - reference) < 2e-4 * np.linalg.norm(reference)


def test_without_thermal_motion_the_beams_hold_all_but_what_the_band_limit_takes(coarse):
    static = curves(coarse, rms=0.0, beams=beams_within(coarse[-1], ENERGY, 1e3)).intensity[-1].sum(-1)
    np.testing.assert_allclose(static, 1.0, atol=5e-3)


def test_pattern_is_that_of_scanned_probes_averaged_over_the_cell(parts):
    """Four by six probes on a 6 × 4 supercell: the same pattern without any interference between discs."""
    nx, ny, semiangle, depth = 6, 4, 6.7, 8
    small, rows, cols = silicon(depth), GRID.shape[0] * 4, GRID.shape[1] * 6
    xy = np.asarray(small.position)
    big = np.concatenate([xy + np.array([i * CELL[0], j * CELL[1], 0]) for i in range(nx) for j in range(ny)])
    atoms = Atoms(big, [14] * len(big), (nx * CELL[0], ny * CELL[1], depth * LAYER))
    grid = Grid((rows, cols), GRID.sampling)
    plan = plan_slices(atoms, LAYER + 1e-4)
    tables = slice_tables(plan.elements, grid, ENERGY)
    kernel = propagator(grid, ENERGY, plan.slice_thickness, jnp.zeros(2), np.asarray(tables.carried))
    spectrum = probe_spectrum(Probe(ENERGY, semiangle), grid)
    ky, kx = grid.frequencies
    at = np.stack(np.meshgrid(np.arange(4) / 4 * CELL[0], np.arange(6) / 6 * CELL[1]), -1).reshape(-1, 2)
    ramp = np.exp(-2j * np.pi * (at[:, 0, None, None] * kx + at[:, 1, None, None] * ky[:, None]))
    psi = jnp.fft.ifft2(spectrum * jnp.asarray(ramp, jnp.complex64), norm="ortho")
    specimen = slab(atoms.position, atoms.occupancy, plan, tables)
    scanned = multislice(psi, specimen, kernel, lambda p, _: (jnp.abs(jnp.fft.fft2(p, norm="ortho")) ** 2).mean(0))[0]

    found = curves(parts, rms=0.0)
    mrad = Probe(ENERGY, 1.0).wavelength * 1e3
    angle = np.stack(np.meshgrid(kx, ky), -1) * mrad
    near = np.hypot(*np.moveaxis(angle, -1, 0)) < 15.0
    k = angle[near]
    clear = np.abs(np.sort(np.hypot(*np.moveaxis(angle, -1, 0)).ravel()) - semiangle).min()
    assert clear > 0.05  # no incident direction on the aperture's edge
    thickness = found.thickness[-1] - 1e-3
    overlap = plan_overlap(found.beam_angle, k, semiangle + 0.5)
    mine = position_averaged_pattern(found, thickness, semiangle, jnp.asarray(k, jnp.float32), overlap, edge=0.01)
    mine = mine * np.pi * semiangle**2 / (np.asarray(spectrum) != 0).sum()
    reference = np.asarray(scanned)[near]
    assert np.linalg.norm(mine - reference) < 3e-3 * np.linalg.norm(reference)


def test_elastic_wave_is_the_mean_over_frozen_phonons():
    layers, rms, n = 4, 0.1, 300
    atoms, thermal = silicon(layers, rms), FrozenPhonons(n, seed=1, antithetic=False)
    plan = plan_slices(atoms, LAYER + 1e-4)
    tables = slice_tables(plan.elements, GRID, ENERGY)
    kernel = propagator(GRID, ENERGY, LAYER, jnp.zeros(2), np.asarray(tables.carried))
    psi = jnp.ones((1, *GRID.shape), jnp.complex64)

    @jax.jit
    def wave(position):
        specimen = slab(position, atoms.occupancy, plan, tables)
        return jnp.fft.fft2(multislice(psi, specimen, kernel, lambda p, _: p)[0, 0]) / GRID.shape[0] / GRID.shape[1]

    drawn = np.stack([wave(displaced_positions(atoms, thermal, c)) for c in range(n)])
    error = np.sqrt(drawn.var(0) / n)
    steps = jnp.ones(GRID.shape, jnp.complex64)
    for t in elastic_transmission(atoms, plan, tables):
        steps = jnp.fft.ifft2(jnp.fft.fft2(steps * t) * kernel)
    mean = np.fft.fft2(np.asarray(steps)) / steps.size
    ratio = np.abs(drawn.mean(0) - mean) / (error + 1e-5)
    strong = np.abs(mean) > 1e-3
    assert strong.sum() > 30
    assert np.sqrt((ratio[strong] ** 2).mean()) < 1.3
    assert ratio[strong].max() < 5


@pytest.mark.study
def test_gradients_agree_with_finite_differences(coarse):
    k = jnp.asarray(np.random.default_rng(0).uniform(-9, 9, (200, 2)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=200), jnp.float32)
    beams = beams_within(GRID, ENERGY, 16.0)

    @eqx.filter_jit
    def value(p, coarse):
        found = curves(coarse, tilt=p[:2], rms=p[2], beams=beams)
        pattern = position_averaged_pattern(found, p[3], p[4], k + p[5], overlap, edge=0.3)
        return (weight * pattern).sum() * 1e3

    def loss(p):
        return value(p, coarse)

    overlap = plan_overlap(curves(coarse, beams=beams).beam_angle, np.asarray(k), 8.0)
    p = jnp.asarray([0.5, -0.8, 0.06, 12.3, 6.0, 0.05])
    gradient = jax.grad(loss)(p)
    scale = float(jnp.abs(gradient).max())
    for i, h in enumerate((0.1, 0.1, 0.004, 0.3, 0.03, 0.03)):
        step = jnp.zeros(6).at[i].set(h)
        fine, wide = ((loss(p + s * step) - loss(p - s * step)) / (2 * s * h) for s in (1, 2))
        np.testing.assert_allclose(gradient[i], (4 * fine - wide) / 3, rtol=5e-3, atol=2e-4 * scale)


def test_thickness_between_exit_planes_is_a_cubic_through_them():
    depth = np.arange(1, 9) * 2.0
    values = 0.1 + 0.02 * depth - 0.003 * depth**2 + 1e-4 * depth**3
    intensity = jnp.asarray(values, jnp.float32)[:, None, None, None]
    known = RockingCurves(intensity, Directions(1.0, 1.0), ((0, 0),), CELL, tuple(depth.tolist()), ENERGY)
    for t in (2.0, 2.7, 9.1, 15.9, 16.0):
        exact = 0.1 + 0.02 * t - 0.003 * t**2 + 1e-4 * t**3
        assert float(at_thickness(known.intensity, known.thickness, t)[0, 0, 0]) == pytest.approx(exact, rel=1e-5)


def test_a_second_call_compiles_nothing(coarse):
    traces = 0

    @jax.jit
    def run(tilt):
        nonlocal traces
        traces += 1
        return curves(coarse, tilt=tilt, beams=((0, 0),)).intensity

    first = run(jnp.asarray([0.0, 0.0]))
    second = run(jnp.asarray([1.0, 0.5]))
    assert traces == 1
    assert float(jnp.abs(first - second).max()) > 1e-4


def test_bad_input_is_refused(coarse):
    with pytest.raises(InputError, match="step"):
        Directions.within(5.0, 0.0)
    with pytest.raises(InputError, match="beams"):
        curves(coarse, beams=())
    found = curves(coarse, beams=((0, 0),))
    with pytest.raises(InputError, match="thickness"):
        at_thickness(found.intensity, found.thickness, 400.0)


@pytest.mark.study
def test_one_call_gives_the_mean_of_a_camera_over_the_cell():
    """At rest nothing is diffuse, so that the scan's mean is the whole pattern; tilted, so that signs count."""
    atoms = displaced_supercell(material("BaTiO3"), np.full((1, 1, 3), [0.1, -0.05, 0.0]), 12)
    atoms = eqx.tree_at(lambda a: a.thermal_rms, atoms, jnp.zeros_like(atoms.thermal_rms))
    probe, camera, depths = Probe(200e3, 10.0), PixelatedDetector(40, step=2.0), [24.0, 48.0]
    found = simulate_pacbed(atoms, probe, camera, tilt=(6.0, -3.0), thicknesses=depths)
    scan = Scan.grid((0, 0), atoms.box[:2], (12, 12))
    # A soft edge as wide as a pixel: the box has one cell's beams, 6 mrad apart, so a hard one would have none between.
    grid = Grid.for_box(4 * atoms.box[0], 4 * atoms.box[1], 0.09)
    wide = simulate(
        atoms.repeated(4, 4, 1), probe, scan, {"camera": camera}, sampling=grid, window=None, thicknesses=depths,
        tilt=(6.0, -3.0), route="matrix",
    )["camera"]  # fmt: skip
    mean = np.asarray(wide.data).mean((1, 2))
    mine = np.asarray(found.data)[:, 0, 0]
    assert found.data.shape == (2, 1, 1, 39, 39)
    assert found.thickness == wide.thickness
    np.testing.assert_allclose(mine.sum((1, 2)), mean.sum((1, 2)), rtol=3e-3)
    # One mrad of the box's own angular resolution smears the reference's disc edges; moments show side and sign.
    y, x = (np.asarray(a) for a in found.angle)
    for power in (1, 2):
        for axis, angle in ((1, y[:, None]), (2, x[None])):
            first, second = ((p * angle**power).sum((1, 2)) / p.sum((1, 2)) for p in (mine, mean))
            np.testing.assert_allclose(first, second, rtol=0.02, atol=0.02, err_msg=f"axis {axis}, power {power}")
    inside = np.hypot(y[:, None], x[None]) < 7
    np.testing.assert_allclose(mine[:, inside].sum(1), mean[:, inside].sum(1), rtol=0.01)


@pytest.mark.parametrize(("semiangle", "shape"), [(2.0, (60, 60)), (2.0, (61, 60)), (9.0, (60, 60))])
def test_a_pattern_holds_the_whole_beam(semiangle, shape):
    """Hardly a specimen; pixels blur the aperture's edge, which adds to its area: 3 % at 2 mrad."""
    atoms = Atoms([[1.0, 1.0, 1.0]], [1], (4.0, 4.0, 2.0))
    found = simulate_pacbed(atoms, Probe(ENERGY, semiangle), PixelatedDetector(30, shape=shape))
    assert float(np.asarray(found.data).sum()) == pytest.approx(1.0, abs=3e-3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"camera": AnnularDetector(60, 100)}, "camera: is no PixelatedDetector"),
        ({"tilt": 3.0}, "tilt: needs 2 numbers"),
        ({"thicknesses": [1e3]}, "thickness"),
        ({"slice_thickness": -2.0}, "slice_thickness: must be positive"),
        ({"atoms": silicon(2).repeated(40, 40, 1)}, "box: is too large for rocking curves"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_patterns_say_what_they_need(change, match):
    given = {"atoms": silicon(4, 0.05), "probe": Probe(ENERGY, 9.0), "camera": PixelatedDetector(30, step=1.0)} | change
    with pytest.raises(InputError, match=match):
        simulate_pacbed(given.pop("atoms"), given.pop("probe"), given.pop("camera"), **given)


def test_a_pattern_under_jit_is_the_pattern_itself():
    atoms, camera = silicon(4, 0.05), PixelatedDetector(30, step=5.0)

    def total(tilt):
        return simulate_pacbed(atoms, Probe(ENERGY, 9.0), camera, tilt=tilt).data.sum()

    tilt = jnp.array([2.0, -1.0])
    np.testing.assert_allclose(jax.jit(total)(tilt), total(tilt), rtol=1e-5)
    with pytest.raises(Exception, match="tilt: must be finite"):
        jax.jit(total)(tilt * jnp.nan).block_until_ready()
