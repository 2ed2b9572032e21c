"""Detectors as linear maps on diffraction patterns, and phase contrast from their signals."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.constants import wavelength
from ferrojax.crystal import Atoms
from ferrojax.detection import (
    AnnularDetector,
    CentreOfMass,
    PixelatedDetector,
    SegmentedDetector,
    differential_phase_contrast,
    integrate_gradient,
    integrated_centre_of_mass,
)
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.image import DiffractionScan, Image
from ferrojax.multislice import exit_wave
from ferrojax.optics import PlaneWave, Probe, probe_spectrum

WAVELENGTH = wavelength(200e3)
SQUARE = Grid((96, 96), (0.25, 0.25))  # 24 Å: 1.045 mrad per pixel, reaches 50.2 mrad
OBLONG = Grid((60, 96), (0.3, 0.2))  # 18 × 19.2 Å, reaches 41.8 mrad
DETECTORS = [
    AnnularDetector(10, 30),
    SegmentedDetector(5, 30, 6, 0.3),
    CentreOfMass(30),
    PixelatedDetector(25, step=2.0),
]


def angles(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """mrad along y (rows, 1) and x (1, cols), FFT order."""
    ky, kx = grid.frequencies
    return ky[:, None] * WAVELENGTH * 1e3, kx[None] * WAVELENGTH * 1e3


def disc(grid: Grid, radius: float, centre=(0.0, 0.0)) -> jax.Array:
    """A uniform disc of unit sum at centre (x, y), mrad, its rim a pixel wide; (1, rows, cols)."""
    y, x = angles(grid)
    pixel = WAVELENGTH * 1e3 / max(grid.extent)
    value = np.clip((radius - np.hypot(y - centre[1], x - centre[0])) / pixel + 0.5, 0, 1)
    return jnp.asarray(value / value.sum(), jnp.float32)[None]


def noise(grid: Grid, batch: int = 2) -> jax.Array:
    pattern = np.random.default_rng(0).random((batch, *grid.shape))
    return jnp.asarray(pattern / pattern.sum((-2, -1), keepdims=True), jnp.float32)


def seen(detector, pattern, grid):
    """What the detector gives for patterns scanned in one row."""
    signal = detector.response(grid, WAVELENGTH)(pattern)[None]
    return detector.result(signal, None, (0.5, 0.5), "test")


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_responses_are_linear_differentiable_and_compiled_once(detector):
    response = detector.response(OBLONG, WAVELENGTH)
    compiled = []

    @eqx.filter_jit
    def energy(response, pattern):
        compiled.append(1)
        return (response(pattern) ** 2).sum()

    a, b = noise(OBLONG), jnp.flip(noise(OBLONG), -1)
    np.testing.assert_allclose(response(2 * a + b), 2 * response(a) + response(b), rtol=1e-4, atol=1e-6)
    energy(response, a)
    energy(detector.response(OBLONG, WAVELENGTH), b)
    assert len(compiled) == 1
    slope = jnp.vdot(jax.grad(lambda p: energy(response, p))(a), b)
    step = 0.5  # the energy is quadratic, so the central difference is exact
    difference = (energy(response, a + step * b) - energy(response, a - step * b)) / (2 * step)
    assert float(slope) == pytest.approx(float(difference), rel=1e-3)


def test_annular_collects_the_area_of_its_ring():
    for detector in (AnnularDetector(8, 20, edge=2), AnnularDetector(8, np.inf)):
        share = (min(detector.outer, 30) ** 2 - 8**2) / 30**2
        assert float(seen(detector, disc(SQUARE, 30), SQUARE).data[0, 0]) == pytest.approx(share, rel=0.01)
    assert AnnularDetector(60, 170).takes_lost
    assert not any(d.takes_lost for d in DETECTORS[1:])


@pytest.mark.parametrize("edge", [0.0, 3.0])
@pytest.mark.parametrize("inner", [0.0, 6.0])
def test_sectors_add_up_to_the_ring(inner, edge):
    whole = AnnularDetector(inner, 30, edge).weights(OBLONG, WAVELENGTH)
    for segments in (1, 2, 3, 4, 16):
        parts = SegmentedDetector(inner, 30, segments, 0.7, edge).weights(OBLONG, WAVELENGTH)
        assert float(parts.min()) >= -1e-6
        np.testing.assert_allclose(parts.sum(0), whole, atol=2e-6)


def test_sectors_share_a_symmetric_pattern_equally_and_turn_towards_y():
    image = seen(SegmentedDetector(0, 30), disc(OBLONG, 20), OBLONG)
    assert image.data.shape == (4, 1, 1)
    np.testing.assert_allclose(image.data[:, 0, 0], 0.25, rtol=1e-5)
    spot = disc(SQUARE, 2, (5.0, 12.0))  # azimuth 67 degrees, down the rows
    for rotation, sector in ((0.0, 0), (np.pi / 4, 0), (np.pi / 2, 3), (-np.pi / 4, 1)):
        signal = seen(SegmentedDetector(0, 30, 4, rotation), spot, SQUARE).data[:, 0, 0]
        np.testing.assert_allclose(signal, np.eye(4)[sector], atol=1e-3)


def test_a_boundary_shares_a_pixel_by_its_width_on_either_side():
    """A quarter of a row beside the boundary: three quarters of the pixel lie on its own side."""
    tall = Grid((60, 96), (0.6, 0.2))  # 36 × 19.2 Å: rows of frequencies half as far apart as columns
    row, col = (WAVELENGTH * 1e3 / extent for extent in tall.extent)
    weights = SegmentedDetector(0, 20, 4, np.arctan(0.25 * row / (10 * col))).weights(tall, WAVELENGTH)
    np.testing.assert_allclose(weights[:, 0, 10], [0.25, 0, 0, 0.75], atol=2e-3)
    np.testing.assert_allclose(weights[:, 10, 0], [0.571, 0.429, 0, 0], atol=2e-3)  # 0.071 of a column beside it
    np.testing.assert_allclose(weights[:, 1, 10], [1, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("grid", [SQUARE, OBLONG], ids=["square", "oblong"])
def test_centre_of_a_shifted_pattern(grid):
    pattern = noise(grid) * (AnnularDetector(0, 15).weights(grid, WAVELENGTH))
    y, x = angles(grid)
    shifted = jnp.roll(pattern, (-4, 7), (-2, -1))
    moved = (seen(CentreOfMass(38), shifted, grid).data - seen(CentreOfMass(38), pattern, grid).data)[:, 0]
    np.testing.assert_allclose(moved.T, [[x[0, 7], -y[4, 0]]] * 2, atol=2e-4)


def test_a_beam_deflected_to_positive_x_has_positive_x():
    wave = np.exp(2j * np.pi * (3 * np.arange(96)[None] - np.arange(60)[:, None] * 96 / 60) / 96)
    pattern = jnp.abs(jnp.fft.fft2(wave) / wave.size) ** 2
    y, x = angles(OBLONG)
    centre = seen(CentreOfMass(38), pattern[None], OBLONG).data[:, 0, 0]
    np.testing.assert_allclose(centre, [x[0, 3], -y[1, 0]], rtol=1e-5)


def test_standard_error_of_the_centre_against_sampling():
    """Averages of independent draws scatter as the error given for them."""
    rng = np.random.default_rng(1)
    draws = rng.normal([0.9, 1.8, -0.9], [0.02, 0.1, 0.05], (4000, 3))
    signal, error = jnp.asarray([[[0.9, 1.8, -0.9]]]), jnp.asarray([[[0.02, 0.1, 0.05]]])
    image = CentreOfMass(20).result(signal, error, (0.5, 0.5), "com")
    np.testing.assert_allclose(image.data[:, 0, 0], [2, -1], rtol=1e-6)
    assert image.standard_error is not None
    np.testing.assert_allclose(image.standard_error[:, 0, 0], (draws[:, 1:] / draws[:, :1]).std(0), rtol=0.05)


@pytest.mark.parametrize(
    "camera",
    [
        PixelatedDetector(35, step=2.3),
        PixelatedDetector(30, step=(0.4, 3.1)),
        PixelatedDetector(35, shape=(8, 31)),
        PixelatedDetector(35, shape=64),
    ],
    ids=["coarse", "fine-y", "even", "fine"],
)
def test_camera_conserves_intensity_and_centre(camera):
    pattern = disc(OBLONG, 15, (5.0, -3.0))
    scan = seen(camera, pattern, OBLONG)
    assert isinstance(scan, DiffractionScan)
    assert scan.data.shape == (1, 1, *camera.shape)
    assert float(scan.data.sum()) == pytest.approx(1, abs=2e-6)
    centre = seen(CentreOfMass(40), pattern, OBLONG).data
    np.testing.assert_allclose(scan.centre_of_mass().data, centre, atol=0.06 * max(camera.step))


def test_camera_at_the_grids_own_step_is_the_pattern_itself():
    pixel = WAVELENGTH * 1e3 / np.array(OBLONG.extent)
    camera = PixelatedDetector(35, step=tuple(pixel))
    pattern = noise(OBLONG)
    rows, cols = camera.shape
    centre = np.fft.fftshift(pattern, (-2, -1))[..., 30 - rows // 2 :, 48 - cols // 2 :][..., :rows, :cols]
    assert rows % 2 == cols % 2 == 1
    assert rows * pixel[0] <= 70 < (rows + 2) * pixel[0]
    np.testing.assert_allclose(seen(camera, pattern, OBLONG).data[0], centre, rtol=1e-4, atol=1e-9)


def test_camera_keeps_the_axes_of_stacks_and_errors():
    signal = jnp.ones((3, 4, 5, 6, 7))
    scan = PixelatedDetector(10, shape=(6, 7)).result(signal, 0.1 * signal, (0.2, 0.3), "camera")
    assert scan.standard_error is not None
    assert scan.data.shape == scan.standard_error.shape == (3, 4, 5, 6, 7)
    assert scan.centre_of_mass().data.shape == (3, 2, 4, 5)
    np.testing.assert_allclose(scan.angular_sampling, [20 / 6, 20 / 7], rtol=1e-6)


@pytest.mark.parametrize(
    "detector",
    [
        SegmentedDetector(0, 30),
        SegmentedDetector(8, 30, 4, 0.4),
        SegmentedDetector(8, 30, 8),
        SegmentedDetector(0, 30, 5, edge=2),
    ],
    ids=["disc", "ring", "eight", "five"],
)
def test_differential_phase_contrast_measures_the_shift_of_a_disc(detector):
    shifts = [(0.8, 0.0), (0.0, 0.8), (-0.5, 0.4), (0.0, 0.0)]
    pattern = jnp.concatenate([disc(SQUARE, 20, shift) for shift in shifts])
    image = seen(detector, pattern, SQUARE)
    deflection = differential_phase_contrast(image, detector, 20.0)
    np.testing.assert_allclose(deflection.data[:, 0].T, shifts, atol=0.02)


def spectral_gradient(image, step):
    k = [np.where((f := np.fft.fftfreq(n, d)) == -0.5 / d, 0, f) for n, d in zip(image.shape, step, strict=True)]
    spectrum = np.fft.fft2(image) * 2j * np.pi
    return np.stack([np.fft.ifft2(spectrum * k[1][None]).real, np.fft.ifft2(spectrum * k[0][:, None]).real])


@pytest.mark.parametrize("shape", [(15, 21), (16, 20)], ids=["odd", "even"])
def test_integration_undoes_the_gradient_of_a_periodic_image(shape):
    step, image = (0.3, 0.2), np.random.default_rng(2).normal(size=shape)
    gradient = jnp.asarray(spectral_gradient(image, step), jnp.float32)
    found = np.asarray(integrate_gradient(jnp.stack([gradient, 2 * gradient]), step))
    np.testing.assert_allclose(spectral_gradient(found[0], step), gradient, atol=1e-4)
    np.testing.assert_allclose(found[1], 2 * found[0], atol=1e-5)
    np.testing.assert_allclose(found.mean((-2, -1)), 0, atol=1e-6)


def test_high_pass_damps_by_the_stated_factor():
    y, x = np.arange(16)[:, None] * 0.3, np.arange(20)[None] * 0.2  # 4.8 × 4 Å
    waves = [np.cos(2 * np.pi * x / 4) + 0 * y, np.cos(2 * np.pi * (y / 2.4 + x / 2))]
    for wave, square in zip(waves, (1 / 16, 1 / 2.4**2 + 1 / 4), strict=True):
        gradient = jnp.asarray(spectral_gradient(wave, (0.3, 0.2)), jnp.float32)
        found = integrate_gradient(gradient, (0.3, 0.2), high_pass=0.4)
        np.testing.assert_allclose(found, wave * square / (square + 0.16), atol=1e-5)


def test_integration_with_mirrored_edges():
    """Cosines of whole half-periods are their own reflections; a ramp is one up to the ripple of its kinks."""
    y, x = np.arange(24)[:, None] + 0.5, np.arange(32)[None] + 0.5
    image = np.cos(np.pi * 3 * y / 24) * np.cos(np.pi * 5 * x / 32)
    gx = -np.pi * 5 / 32 * np.cos(np.pi * 3 * y / 24) * np.sin(np.pi * 5 * x / 32) / 0.2
    gy = -np.pi * 3 / 24 * np.sin(np.pi * 3 * y / 24) * np.cos(np.pi * 5 * x / 32) / 0.3
    found = integrate_gradient(jnp.asarray(np.stack([gx, gy]), jnp.float32), (0.3, 0.2), boundary="mirror")
    np.testing.assert_allclose(found, image, atol=2e-5)
    ramp = jnp.stack([jnp.ones((24, 32)), jnp.zeros((24, 32))])
    found = integrate_gradient(ramp, (0.3, 0.2), boundary="mirror")
    np.testing.assert_allclose(found, np.broadcast_to(0.2 * (x - 16), (24, 32)), atol=0.06)
    assert np.abs(integrate_gradient(ramp, (0.3, 0.2))).max() == 0  # no periodic image has this mean gradient


BOX = Grid((36, 48), (0.25, 0.2))  # 9 × 9.6 Å, reaches 50 mrad


def scanned(object_wave, probe: Probe):
    """Patterns with the probe on every pixel of the box, and the probe's intensity at the origin."""
    spectrum = np.asarray(probe_spectrum(probe, BOX), complex)
    wave = np.fft.ifft2(spectrum, norm="ortho")
    shifted = [np.roll(wave, (i, j), (0, 1)) for i in range(36) for j in range(48)]
    pattern = np.abs(np.fft.fft2(np.stack(shifted) * object_wave, norm="ortho")) ** 2
    return jnp.asarray(pattern, jnp.float32), np.abs(wave) ** 2


def integrated(pattern, detector) -> Image:
    signal = detector.response(BOX, WAVELENGTH)(pattern).reshape(36, 48, 3)
    return integrated_centre_of_mass(detector.result(signal, None, BOX.sampling, "com"), WAVELENGTH)


def test_integrated_centre_of_mass_is_the_phase_seen_through_the_probe():
    """A smooth phase object of 0.3 rad under a comatic probe: exact for all that the detector collects."""
    y, x = np.arange(36)[:, None] * 0.25, np.arange(48)[None] * 0.2
    phase = 0.2 * np.exp(5 * (np.cos(2 * np.pi * (x - 3) / 9.6) + np.cos(2 * np.pi * (y - 6) / 9) - 2))
    phase = phase + 0.1 * np.cos(2 * np.pi * (2 * x / 9.6 + y / 9))
    pattern, intensity = scanned(np.exp(1j * phase), Probe(200e3, 12, 60, {"C21": 2e3, "phi21": 0.4}))
    found = integrated(pattern, CentreOfMass(49.9)).data
    expected = np.fft.ifft2(np.fft.fft2(phase) * np.conj(np.fft.fft2(intensity))).real
    np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-5 * np.ptp(expected))
    sectors = SegmentedDetector(0, 49.9)
    signal = sectors.response(BOX, WAVELENGTH)(pattern).reshape(36, 48, 4)
    field = differential_phase_contrast(sectors.result(signal, None, BOX.sampling, "quadrants"), sectors, 12.0)
    quadrants = integrated_centre_of_mass(field, WAVELENGTH).data  # four sectors only approximate the moment
    assert np.corrcoef(np.ravel(quadrants), np.ravel(expected))[0, 1] > 0.995
    assert float(np.ptp(quadrants)) == pytest.approx(np.ptp(expected), rel=0.3)


def test_integrated_centre_of_mass_is_brightest_on_the_atom():
    atoms = Atoms([[4.0, 2.5, 0.5]], [6], (9.6, 9.0, 1.0))
    wave = exit_wave(atoms, PlaneWave(200e3), BOX, slice_thickness=1.0, transmission="conventional")
    pattern, _ = scanned(np.asarray(wave), Probe(200e3, 20))
    found = np.asarray(integrated(pattern, CentreOfMass(45)).data)
    assert np.unravel_index(found.argmax(), found.shape) == (10, 20)
    assert found.max() > 4 * -found.min()


def behind_one_atom():
    """abTEM's waves at three probe positions: |FFT|², its camera, that camera's angles (y, x), its four sectors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import abtem
        import ase

        with abtem.config.set({"precision": "float64", "diagnostics.progress_bar": False}):
            cell = ase.Atoms("Si", positions=[(9.6, 9, 1)], cell=(19.2, 18, 2), pbc=True)
            potential = abtem.Potential(cell, gpts=(96, 60), slice_thickness=2, projection="infinite")
            where = abtem.CustomScan([(9.4, 9.3), (9.9, 9.0), (8.9, 8.2)])
            probe = abtem.Probe(energy=200e3, semiangle_cutoff=15, soft=False)
            waves: Any = probe.multislice(potential, scan=where)
            waves = waves.compute()
            camera = waves.diffraction_patterns(max_angle=None)
            sectors: Any = abtem.SegmentedDetector(1, 4, 0, 20, rotation=0.35).detect(waves)
            pattern = np.swapaxes(np.abs(np.fft.fft2(waves.array)) ** 2, -1, -2)
            x, y = camera.angular_coordinates
            return pattern, np.swapaxes(camera.array, -1, -2), y, x, sectors.array.reshape(3, 4).T


@pytest.mark.study
def test_same_numbers_as_abtem():
    """Camera, moments and sectors by abTEM of the same waves behind one silicon atom."""
    patterns, theirs, y, x, expected = behind_one_atom()
    pattern = jnp.asarray(patterns / patterns.sum((-2, -1), keepdims=True) * theirs.sum((-2, -1), keepdims=True))
    array = seen(PixelatedDetector(40, step=(y[1] - y[0], x[1] - x[0])), pattern, OBLONG).data[0]
    rows, cols = (np.flatnonzero(np.abs(v) < 40 - (v[1] - v[0]) / 2) for v in (y, x))
    np.testing.assert_allclose(array, theirs[:, rows][:, :, cols], atol=1e-7)
    rim = np.hypot(y[:, None], x[None]) < 25
    moments = np.stack([(theirs * rim * v).sum((-2, -1)) for v in (x[None], y[:, None])])
    ours = seen(CentreOfMass(25), pattern, OBLONG).data[:, 0]
    np.testing.assert_allclose(ours, moments / (theirs * rim).sum((-2, -1)), atol=1e-4)
    quadrants = seen(SegmentedDetector(0, 20, 4, 0.35), pattern, OBLONG).data[:, 0]
    # abTEM deals out whole pixels, which leaves a constant imbalance of up to 0.006; what the probe's position adds:
    np.testing.assert_allclose(quadrants - quadrants[:, :1], expected - expected[:, :1], atol=6e-4)
    np.testing.assert_allclose(quadrants.sum(0), expected.sum(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AnnularDetector(30, 10), "inner < outer"),
        (lambda: AnnularDetector(np.nan, 10), "inner.*finite"),
        (lambda: AnnularDetector(5, 10, -1), "edge"),
        (lambda: AnnularDetector(5, 10, 6), "edge"),
        (lambda: SegmentedDetector(-1, 10), "inner < outer"),
        (lambda: SegmentedDetector(0, np.inf), "finite"),
        (lambda: SegmentedDetector(0, 10, 0), "segments"),
        (lambda: SegmentedDetector(0, 10, 4, np.nan), "rotation"),
        (lambda: CentreOfMass(np.nan), "outer.*finite"),
        (lambda: CentreOfMass(np.inf), "finite"),
        (lambda: PixelatedDetector(np.nan, step=1), "max_angle"),
        (lambda: PixelatedDetector(10, step=0), "step"),
        (lambda: PixelatedDetector(10, step=(1, -1)), "step"),
        (lambda: PixelatedDetector(10, step=21), "step"),
        (lambda: PixelatedDetector(10, shape=0), "whole number"),
        (lambda: PixelatedDetector(10), "step and shape"),
        (lambda: PixelatedDetector(10, step=1, shape=5), "step and shape"),
        (lambda: SegmentedDetector(0, 60).response(SQUARE, WAVELENGTH), "60.0 mrad.*50.2|50.2 mrad.*60.0"),
        (lambda: CentreOfMass(50, edge=4).response(SQUARE, WAVELENGTH), "52.0 mrad"),
        (lambda: PixelatedDetector(50, shape=9).response(SQUARE, WAVELENGTH), "49.6 mrad"),
        (lambda: DiffractionScan(np.ones((3, 3, 3)), (1, 1), (1, 1)), "four axes"),
        (lambda: DiffractionScan(np.ones((3, 3, 3, 3)), (1, 1), (1, 0)), "angular_sampling"),
        (lambda: differential_phase_contrast(QUADRANTS, SegmentedDetector(0, 30, 3), 20), "4 or more"),
        (lambda: differential_phase_contrast(QUADRANTS, SegmentedDetector(0, 30, 8), 20), "needs 8 sectors"),
        (lambda: differential_phase_contrast(QUADRANTS, SegmentedDetector(0, 30), 40), "rim"),
        (lambda: integrated_centre_of_mass(QUADRANTS, WAVELENGTH), "deflections"),
        (lambda: integrated_centre_of_mass(FIELD, 0.0), "wavelength"),
        (lambda: integrated_centre_of_mass(FIELD, WAVELENGTH, boundary="open"), "periodic, mirror"),
        (lambda: integrated_centre_of_mass(FIELD, WAVELENGTH, high_pass=-1), "high_pass"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


QUADRANTS = Image(np.ones((4, 3, 3), np.float32), (1, 1))
FIELD = Image(np.ones((2, 3, 3), np.float32), (1, 1))
