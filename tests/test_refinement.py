"""Operators under every tilt from one pass, and the response of a cell to its columns' displacements."""

from itertools import product

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.constants import wavelength
from ferrojax.crystal import displaced_supercell, material, mixed_crystal
from ferrojax.detection import AnnularDetector, Scan, detector_operator, operator_spectrum, simulate
from ferrojax.detection.tilted_operator import tilted_operators
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.image import Image
from ferrojax.multislice import FastThermal, plan_slices
from ferrojax.optics import Probe, beam_spectrum
from ferrojax.polarization import CellFrames, map_polarization
from ferrojax.refinement import (
    MeanCell,
    cell_response,
    fit_recording,
    mean_cell,
    scan_recording,
    specimens,
)
from ferrojax.refinement import response as responses
from ferrojax.refinement.mean_cell import harmonics
from ferrojax.refinement.movers import following
from ferrojax.refinement.recording import fit_mean_cells, weights_of_mean
from ferrojax.refinement.scene import Terms, image_of, powers, tilt_weights, waves_of
from ferrojax.refinement.symmetry import beam_pairs, plane_operations
from tests.test_products import products

DETECTORS = {"haadf": AnnularDetector(60, np.inf), "abf": AnnularDetector(11, 21)}
PLANES = [4.0, 8.0, 12.0, 16.0]
SOURCE = 0.4
"""Å rms; what a source this small lets through is what the response keeps."""


def still(name: str):
    """A crystal whose atoms hardly vibrate: what is compared is then free of phonons' noise."""
    crystal = material(name)
    return eqx.tree_at(lambda c: c.thermal_rms, crystal, 0 * crystal.thermal_rms + 1e-4)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.5, 0.25)])
def test_a_tilted_crystal_is_an_upright_one_under_a_tilted_beam(offset):
    """A polar, asymmetric specimen; the sign is abTEM's (the wrong one is off by 20 % and more)."""
    field = np.full((1, 1, 3), [0.16, 0.05, 0.0])
    atoms = displaced_supercell(material("PbTiO3"), field, 12)
    plan = plan_slices(atoms, 2.0, [23.8, 47.6])
    thermal = FastThermal(2, seed=1)
    found = tilted_operators(atoms, 200e3, 22.0, DETECTORS, thermal, plan, max_tilt=6.5, offset=offset)
    for name, bound in (("haadf", 1e-2), ("abf", 6e-4)):
        operators = found[name]
        node = int(np.argmax(np.abs(operators.tilt).sum(1)))
        tilt = operators.tilt[node]
        assert np.abs(tilt).max() > 2
        for sign, near in ((1, True), (-1, False)):
            expected = detector_operator(
                atoms, 200e3, 22.0, DETECTORS[name], thermal, plan, tilt=(sign * tilt[0], sign * tilt[1])
            )
            order = [operators.at(node).beam.index(b) for b in expected.beam]
            matrix = np.asarray(operators.matrix[node])[:, order][:, :, order]
            error = np.linalg.norm(matrix - expected.matrix) / np.linalg.norm(expected.matrix)
            assert (error < bound) == near, (name, sign, error)


def test_a_single_tilt_is_simulated_as_it_is():
    """No node of a lattice: beams stand where the tilt puts them."""
    atoms = displaced_supercell(material("PbTiO3"), np.full((1, 1, 3), [0.16, 0.05, 0.0]), 12)
    plan = plan_slices(atoms, 2.0, [23.8, 47.6])
    thermal, tilt = FastThermal(2, seed=1), (3.3, -1.7)
    step = wavelength(200e3) * 1e3 / np.array(atoms.box[:2])
    offset = (float(tilt[0] / step[0]), float(tilt[1] / step[1]))
    found = tilted_operators(atoms, 200e3, 22.0, DETECTORS, thermal, plan, max_tilt=3.8, offset=offset, single=True)
    for name, bound in (("haadf", 1e-2), ("abf", 6e-4)):
        np.testing.assert_allclose(found[name].tilt, [tilt], atol=1e-9)
        for sign, near in ((1, True), (-1, False)):
            turned = (sign * tilt[0], sign * tilt[1])
            expected = detector_operator(atoms, 200e3, 22.0, DETECTORS[name], thermal, plan, tilt=turned)
            order = [found[name].beam.index(b) for b in expected.beam]
            matrix = np.asarray(found[name].matrix[0])[:, order][:, :, order]
            error = np.linalg.norm(matrix - expected.matrix) / np.linalg.norm(expected.matrix)
            assert (error < bound) == near, (name, sign, error)


def test_beams_between_those_of_a_box_are_those_of_a_longer_one():
    """Every second beam of two cells lies half a step off those of one, upright and tilted."""
    crystal, thermal = material("PbTiO3"), None
    made, tilt, atoms_of_one = {}, np.array([3.3, -1.7]), (float(crystal.cell[0, 0]), float(crystal.cell[1, 1]))
    for cells, aperture in ((1, (0.5, 0.0)), (2, (0.0, 0.0))):
        atoms = displaced_supercell(crystal, np.full((1, cells, 3), [0.16, 0.05, 0.0]), 12)
        step = wavelength(200e3) * 1e3 / np.array(atoms.box[:2])
        grid = Grid((64, 64 * cells), (atoms.box[1] / 64, atoms.box[0] / 64 / cells))
        offset = (float(tilt[0] / step[0]), float(tilt[1] / step[1]))
        made[cells] = tilted_operators(
            atoms, 200e3, 22.0, DETECTORS, thermal, plan_slices(atoms, 2.0), max_tilt=4.0, offset=offset,
            aperture=aperture, grid=grid, single=True,
        )  # fmt: skip
    for name in DETECTORS:
        short, long = made[1][name], made[2][name]
        order = [long.beam.index((2 * x + 1, y)) for x, y in short.beam]
        expected = np.asarray(long.matrix[0])[:, order][:, :, order]
        assert np.linalg.norm(short.matrix[0] - expected) < 2e-3 * np.linalg.norm(expected), name
        # and the probe that an image is made with is taken where the beams are
        spectrum = np.asarray(beam_spectrum(PROBE, np.array(short.beam), (0.5, 0.0), atoms_of_one))
        mean = (spectrum.conj()[:, None] * spectrum * np.asarray(short.matrix[0, 0])).trace()
        assert operator_spectrum(short.at(0), PROBE, 32)[0, 0, 0] == pytest.approx(mean, rel=1e-5)
        other = np.asarray(beam_spectrum(PROBE, np.array(short.beam), (0.0, 0.0), atoms_of_one))
        assert np.linalg.norm(other - spectrum) > 0.1


def test_a_ring_that_a_tilt_takes_beyond_the_band_is_refused():
    atoms = displaced_supercell(material("PbTiO3"), np.zeros((1, 1, 3)), 1)
    plan = plan_slices(atoms, 2.0)
    with pytest.raises(InputError, match=r"neither ends within the band limit of 9\d mrad"):
        tilted_operators(atoms, 200e3, 20.0, {"adf": AnnularDetector(40, 97)}, None, plan, max_tilt=6.5)


def test_the_nodes_own_tilts_are_met_and_a_smooth_function_between_them_is_followed():
    step = 3.15
    nodes = step * np.array([(x, y) for x in range(-2, 3) for y in range(-2, 3) if x * x + y * y < 6], float)

    def smooth(t):
        return np.cos(0.25 * t[..., 0] + 0.1) * np.exp(0.05 * t[..., 1])

    for tilt in (nodes[3], np.array([1.4, -2.2]), np.array([3.0, 3.0])):
        assert abs(float(tilt_weights(nodes, tilt) @ smooth(nodes)) - smooth(tilt)) < 2e-2
    both = np.concatenate([nodes, nodes + step / 2])
    worst = 0.0
    for tilt in np.random.default_rng(0).uniform(-3, 3, (50, 2)):  # turning by 0.8 rad a mrad, as 20 nm of crystal do
        wave = np.exp(0.8j * (both @ [0.6, 0.8]))
        worst = max(
            worst, abs(complex(np.asarray(tilt_weights(both, tilt), float) @ wave) - np.exp(0.8j * (tilt @ [0.6, 0.8])))
        )
    assert worst < 0.06
    with pytest.raises(Exception, match="tilt: lies outside the tilts that were simulated"):
        jax.jit(lambda t: tilt_weights(nodes, t))(jnp.array([15.0, 0.0])).block_until_ready()


@pytest.mark.parametrize(("name", "count"), [("PbTiO3", 8), ("SrTiO3", 8)])
def test_the_point_symmetry_seen_along_the_beam(name, count):
    crystal = material(name)
    b_site = np.full(2, float(crystal.cell[0, 0]) / 2)
    assert len(plane_operations(crystal, b_site)) == count
    shared = mixed_crystal(crystal, {crystal.elements[0]: {"Ca": 0.3}})
    assert len(plane_operations(shared, b_site)) == count
    longer = eqx.tree_at(lambda c: c.cell, crystal, crystal.cell * np.array([1.0, 1.1, 1.0]))
    assert len(plane_operations(longer, b_site * [1.0, 1.1])) == count / 2


def small_boxes(patch: pytest.MonkeyPatch) -> None:
    for name, value in (("FARTHEST", 0.02), ("LIMIT", 0.03), ("SCATTER", (0.004, 0.008)), ("ASIDE", 0.004)):
        patch.setattr(specimens, name, value)
    patch.setattr(specimens, "LEAST", 0.002)


def small_response(**options):
    """Of columns at rest, which are so sharp that polynomials follow displacements of a few pm alone: of such boxes."""
    with pytest.MonkeyPatch.context() as patch:
        small_boxes(patch)
        return cell_response(
            still("BaTiO3"), 200e3, DETECTORS, thicknesses=PLANES, max_semiangle=22.0, configurations=2, **options
        )


@pytest.fixture(scope="module")
def response():
    return small_response(max_tilt=3.2)


@pytest.fixture(scope="module")
def single():
    """At one tilt, for cells that move apart."""
    return small_response(tilt=(0.0, 0.0))


def direct(detector: str, probe: Probe, thickness: float, tilt, field: np.ndarray, size: int = 32) -> np.ndarray:
    """(size, size): the periodic image of a displaced box of 2 × 2 cells, by its own operator, B of cell 0 at 0, 0."""
    atoms = displaced_supercell(still("BaTiO3"), field, 4)
    plan = plan_slices(atoms, 2.001, [thickness])
    operator = detector_operator(atoms, 200e3, 22.0, DETECTORS[detector], FastThermal(2), plan, tilt=tilt)
    spectrum = np.asarray(operator_spectrum(operator, probe, size)[0])
    k = np.fft.fftfreq(size, 1 / size)
    to_b = np.exp(2j * np.pi * (k[:, None] + k[None]) * 0.25)
    blur = np.exp(-2 * np.pi**2 * SOURCE**2 * (k[:, None] ** 2 + k[None] ** 2) / 8.0**2)
    return np.fft.ifft2(spectrum * to_b * blur).real * size**2


PROBE = Probe(200e3, 20.0, 15.0, {"C12": 12.0, "phi12": 0.4, "C21": 100.0, "phi21": 1.0}, edge=3.0)
EVERYWHERE = np.stack(np.meshgrid(*[np.arange(32) * 8.0 / 32] * 2), -1).reshape(-1, 2)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("tilt", [(0.0, 0.0), (-3.13, 0.0)])
def test_cells_that_move_alike_are_the_clean_image_and_the_response(response, detector, tilt):
    """Through symmetry, oxygen between cells, optics and exit planes."""
    tilt = tuple(response.tilt[np.argmin(np.linalg.norm(response.tilt - tilt, axis=1))])
    moved = np.zeros((2, 2, 3))
    moved[..., :2] = 0.003, -0.015
    waves = waves_of(response, detector, PROBE, 12.0, tilt)
    term = Terms.made(response)
    p = {"displacement_x": 0.003, "displacement_y": -0.015, "spread": 0.0, "mode": 1.0}
    weight = np.asarray(weights_of_mean(p, term)) * np.where(term.of < 0, 1, 4)
    source = (SOURCE**2, SOURCE**2, 0.0)
    clean = np.asarray(image_of(waves, np.where(term.of < 0, 1.0, 0.0), EVERYWHERE, source)).reshape(32, 32)
    found = np.asarray(image_of(waves, np.where(term.of < 0, 0.0, weight), EVERYWHERE, source)).reshape(32, 32)
    before = direct(detector, PROBE, 12.0, tilt, np.zeros((2, 2, 3)))
    expected = direct(detector, PROBE, 12.0, tilt, moved) - before
    assert np.linalg.norm(clean - before) < 0.01 * np.linalg.norm(before - before.mean())
    assert np.linalg.norm(found - expected) < 0.06 * np.linalg.norm(expected)
    assert (found * expected).sum() == pytest.approx((expected**2).sum(), rel=0.12)


@pytest.mark.parametrize("detector", DETECTORS)
def test_cells_that_move_apart_are_the_sum_of_their_columns(single, detector):
    """Cell by cell their own displacement; oxygen between two goes by their mean."""
    rng = np.random.default_rng(1)
    term = Terms.made(single)
    waves = waves_of(single, detector, PROBE, 12.0, (0.0, 0.0))
    source = (SOURCE**2, SOURCE**2, 0.0)
    before = direct(detector, PROBE, 12.0, (0.0, 0.0), np.zeros((2, 2, 3)))
    for mean in (np.zeros(2), np.array([0.012, -0.008])):
        field = np.zeros((2, 2, 3))
        field[..., :2] = mean + 0.005 * rng.normal(size=(2, 2, 2))
        shift = following(single.mover, field[..., :2])
        found = np.zeros(len(EVERYWHERE))
        for (y, x), (k, mover) in product(np.ndindex(2, 2), enumerate(single.mover)):
            weight = np.zeros(len(term.of))
            weight[term.of == k] = term.polynomial(k, powers(jnp.asarray(shift[y, x, k] / mover.unit)))
            found += np.asarray(image_of(waves, weight, EVERYWHERE - 4.0 * np.array([x, y]), source))
        expected = direct(detector, PROBE, 12.0, (0.0, 0.0), field) - before
        found = found.reshape(32, 32)
        assert np.linalg.norm(found - expected) < 0.25 * np.linalg.norm(expected)
        assert (found * expected).sum() == pytest.approx((expected**2).sum(), rel=0.25)


@pytest.mark.study
def test_a_response_samples_the_aperture_as_a_box_of_thrice_the_side_does():
    """ABF of the clean cell against nine times as many cells; the box's own beams are far off."""
    with pytest.MonkeyPatch.context() as patch:
        small_boxes(patch)
        patch.setattr(responses, "DEGREES", (1, 1))
        patch.setattr(responses, "BOXES", 18)
        found = {
            n: cell_response(
                still("BaTiO3"), 200e3, DETECTORS, thicknesses=PLANES, max_semiangle=22.0, configurations=n,
                tilt=(0.0, 0.0),
            )
            for n in (2, 18)
        }  # fmt: skip
    assert len(found[18].aperture) == 9
    atoms = displaced_supercell(still("BaTiO3"), np.zeros((6, 6, 3)), 4)
    scan = Scan.grid((2.0, 2.0), (10.0, 10.0), (32, 32))
    expected = simulate(
        atoms, PROBE, scan, DETECTORS, thermal=FastThermal(2), slice_thickness=2.001, window=None, sampling=0.1
    )
    exact = np.fft.fft2(np.asarray(expected["abf"].data))
    low = np.abs(np.fft.fftfreq(32, 1 / 8)) < 1.02  # the response keeps no finer detail
    seen = np.outer(low, low)
    seen[0, 0] = False
    error = {}
    for n, response in found.items():
        waves = waves_of(response, "abf", PROBE, 16.0, (0.0, 0.0))
        clean = np.where(Terms.made(response).of < 0, 1.0, 0.0)
        image = np.fft.fft2(np.asarray(image_of(waves, clean, EVERYWHERE)).reshape(32, 32))
        error[n] = np.linalg.norm((image - exact)[seen]) / np.linalg.norm(exact[seen])
    assert error[2] > 0.08
    assert error[18] < 0.02


def test_products_are_in_full_precision(response):
    """A GPU would round the weights of tilts, whose terms cancel, to three digits."""

    def signal(tilt):
        waves = waves_of(response, "haadf", Probe(200e3, 20.0, edge=3.0), 12.0, tilt)
        return image_of(waves, jnp.ones(len(response.term)), np.zeros((3, 2)))

    found = products(jax.make_jaxpr(signal)(jnp.array([1.0, -2.0])).jaxpr)
    assert len(found) >= 4
    for equation in found:
        assert equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2, equation


def test_a_column_by_itself_moves_its_own_image(single):
    """A of the first cell along x: the response lies about its place and is odd in x for an upright crystal."""
    waves = waves_of(single, "haadf", Probe(200e3, 20.0, edge=3.0), 12.0, (0.0, 0.0))
    coefficient = np.array([t == ("0:A", 1, 0) for t in single.term], float)
    offset = np.arange(-1.5, 1.6, 0.25)
    at = np.stack([-2.0 + offset, np.full(len(offset), -2.0)], -1)
    line = np.asarray(image_of(waves, coefficient, at))
    np.testing.assert_allclose(line, -line[::-1], atol=0.02 * np.abs(line).max())
    assert line[offset > 0].sum() > 0  # moved to the right: brighter on the right
    elsewhere = np.asarray(image_of(waves, coefficient, at + np.array([4.0, 0.0])))
    assert np.abs(elsewhere).max() < 0.2 * np.abs(line).max()


@pytest.mark.parametrize(
    ("probe", "thickness", "tilt", "match"),
    [
        (Probe(300e3, 20.0), 12.0, (0.0, 0.0), "probe: the operator is of 200000 eV"),
        (Probe(200e3, 23.0), 12.0, (0.0, 0.0), "probe: is wider than the operator's beams, 22 mrad"),
        (Probe(200e3, 20.0), 20.0, (0.0, 0.0), "thickness: lies outside"),
        (Probe(200e3, 20.0), 12.0, (4.0, -4.0), "tilt: lies outside the tilts that were simulated, up to 3.1 mrad"),
    ],
)
def test_what_was_not_simulated_is_refused(response, probe, thickness, tilt, match):
    with pytest.raises(InputError, match=match):
        waves_of(response, "abf", probe, thickness, tilt)


def test_a_single_tilt_has_all_the_weight():
    assert np.asarray(tilt_weights(np.zeros((1, 2)), (0.0, 0.0))) == pytest.approx([1.0])


def test_pairs_of_beams_reach_equally_far_along_both_sides_of_a_box():
    beam = np.stack(np.meshgrid(np.arange(-6, 7), np.arange(-6, 7)), -1).reshape(-1, 2)
    q = beam_pairs(beam, np.array([8.0, 4.0]), 1.0).q
    assert tuple(np.abs(q).max(0)) == (8, 4)


def test_groups_of_beams_that_show_other_waves_add_up():
    """At 120 kV a single group lacks some q: the image holds those of all."""
    with pytest.MonkeyPatch.context() as patch:
        small_boxes(patch)
        patch.setattr(responses, "DEGREES", (1, 1))
        patch.setattr(responses, "BOXES", 18)
        found = cell_response(
            still("BaTiO3"), 120e3, DETECTORS, thicknesses=PLANES, max_semiangle=23.0, configurations=20,
            tilt=(1.0, 0.5),
        )  # fmt: skip
    q = [{tuple(v) for v in found.q[found.group[found.pair[:, 0]] == k].tolist()} for k in range(9)]
    assert any(each != q[0] for each in q)
    waves = waves_of(found, "abf", Probe(120e3, 21.0, edge=1.0), 12.0, (1.0, 0.5))
    assert len(waves.q) == len(set.union(*q)) == found.scatter.shape[2]
    assert np.isfinite(found.missed["abf"])
    # at rest the pair that sees the beams of another again sees the same: what groups differ by is no noise
    assert found.noise["abf"][0] < 1e-3


def test_tilts_closer_than_the_nodes_are_refused():
    with pytest.raises(InputError, match=r"max_tilt: is less than half a step between tilts, 2\.2 mrad"):
        cell_response(material("BaTiO3"), 200e3, DETECTORS, thicknesses=PLANES, max_tilt=1.0)


def test_configurations_are_pairs():
    with pytest.raises(InputError, match="configurations: are antithetic pairs"):
        cell_response(material("BaTiO3"), 200e3, DETECTORS, thicknesses=PLANES, configurations=3)


def known_mean_cell(detector: str, probe: Probe, thickness: float, tilt, shift) -> MeanCell:
    """Of a box whose cells are all displaced alike, by its own operator."""
    field = np.zeros((2, 2, 3))
    field[..., :2] = shift
    coefficient = np.fft.fft2(direct(detector, probe, thickness, tilt, field)) / 32**2
    q = harmonics((4.0, 4.0), 1.0)
    return MeanCell(coefficient[2 * q[:, 1], 2 * q[:, 0]], np.full((len(q), 2), 2e-5), q, 100)


def test_the_recording_of_a_known_cell_is_found(response):
    """Nothing of it is told: the prior of every parameter lies elsewhere."""
    probe = Probe(200e3, 20.0, 15.0, {"C12": 12.0, "phi12": 0.4}, edge=1.0)
    tilt = tuple(response.tilt[np.argmax(response.tilt @ [1.0, 0.2])])
    shift = (0.012, -0.012)
    cells = {name: known_mean_cell(name, probe, 12.0, tilt, shift) for name in DETECTORS}
    priors = {"thickness": (9.0, 4.0), "semiangle": (20.3, 0.5), "spread": (1e-3, 1e-3)}
    priors |= {f"displacement_{k}": (0.0, 0.015) for k in "xy"}  # what the small boxes reach
    found = fit_mean_cells(cells, still("BaTiO3"), response, priors=priors, discrepancy=2e-3)
    truth = {
        "thickness": 12.0, "tilt_x": tilt[0], "tilt_y": tilt[1], "defocus": 15.0, "semiangle": 20.0,
        "astigmatism_x": 12.0 * np.cos(0.8), "astigmatism_y": 12.0 * np.sin(0.8),
        "source_x": SOURCE, "source_y": SOURCE, "displacement_x": shift[0], "displacement_y": shift[1],
        "registration_x": 0.0, "registration_y": 0.0,
    }  # fmt: skip
    for name, value in truth.items():
        at = found.name.index(name)
        assert abs(found.value[at] - value) < max(3.5 * found.error[at], 0.02 * abs(value)), (name, found[name], value)
    assert found.misfit < 1.5
    for name, bound in (("defocus", 5.0), ("thickness", 1.0), ("displacement_x", 0.02), ("source_x", 0.02)):
        assert found.error[found.name.index(name)] < bound, name
    assert found.moved["defocus"]
    assert not found.moved["spread"]
    assert found.notes == ()


@pytest.mark.study
def test_a_scan_is_mapped_through_the_recording_that_was_found_in_it(response):
    """From two images to the map, nothing told but the priors; a tilt that shifts columns as a polarization would."""
    probe = Probe(200e3, 20.0, 15.0, edge=1.0)
    tilt = tuple(response.tilt[np.argmax(response.tilt @ [1.0, 0.2])])
    shift, crystal = np.array([0.012, -0.012]), still("BaTiO3")
    field = np.concatenate([np.tile(shift, (2, 2, 1)), np.zeros((2, 2, 1))], -1)
    images = {}
    for name in DETECTORS:
        data = np.tile(direct(name, probe, 12.0, tilt, field), (6, 6))
        images[name] = Image(data / data.mean() * 2000, (0.25, 0.25), name=name)
    priors = {"thickness": (9.0, 4.0), "spread": (1e-3, 1e-3)} | {f"displacement_{k}": (0.0, 0.015) for k in "xy"}
    found = fit_recording(
        images, crystal, detectors=DETECTORS, energy=200e3, semiangle=20.3, priors=priors, response=response
    )
    assert abs(found.value["thickness"] - 12.0) < 1.0
    assert abs(found.value["tilt_x"] - tilt[0]) < 3 * found.error["tilt_x"] < 3.0
    assert found.identified["defocus"]
    for k, true in zip("xy", shift, strict=True):
        assert abs(found.value[f"displacement_{k}"] - true) < 3 * found.error[f"displacement_{k}"] < 0.015
    columns = map_polarization(images["haadf"], crystal)
    with pytest.MonkeyPatch.context() as patch:
        small_boxes(patch)
        # the images are of a box's own beams alone, as the response that the recording was found with
        patch.setattr(responses, "CONFIGURATIONS", 2)
        patch.setattr(scan_recording, "THINNEST", 2)
        patch.setattr(scan_recording, "NEAR", (-1, 0, 1))
        pmap = map_polarization(images["haadf"], crystal, method="microscope", recording=found)
    good = np.asarray(pmap.valid)
    error = [np.linalg.norm(np.asarray(m.displacement)[good].mean(0) - shift) for m in (columns, pmap)]
    assert pmap.structural_covariance is not None
    assert pmap.common_covariance is not None
    assert error[1] < error[0]
    assert error[1] < 3 * np.sqrt(np.trace(np.asarray(pmap.common_covariance))) < 0.03, error
    total, part = (np.linalg.eigvalsh(np.asarray(v)[good]) for v in (pmap.covariance, pmap.structural_covariance))
    assert (part > 0).all()
    assert (part <= total * (1 + 1e-5)).all()
    assert np.linalg.eigvalsh(np.asarray(pmap.common_covariance)).min() > 0
    assert dict(pmap.provenance)["method"] == "read through the microscope"
    other = Image(np.asarray(images["haadf"].data) + 1.0, (0.25, 0.25))
    with pytest.raises(InputError, match="image: is none that the recording was fitted to"):
        map_polarization(other, crystal, method="microscope", recording=found)
    with pytest.raises(InputError, match="recording: is of another crystal than PbTiO3"):
        map_polarization(images["haadf"], "PbTiO3", method="microscope", recording=found)
    poor = found._replace(fit=found.fit._replace(misfit=5.0))
    with pytest.raises(InputError, match=r"recording: does not explain its images: misfit 5\.0"):
        map_polarization(images["haadf"], crystal, method="microscope", recording=poor)


@pytest.mark.parametrize("known", [(120.0, 80.0), (140.0, 2.0), (5.0, 1.0)])
def test_planes_hold_the_thickness_that_is_known(known):
    """As many as an interpolation needs, however well it is known."""
    planes = scan_recording._planes(known, 4.0)
    assert len(planes) >= 4
    assert planes[0] <= max(known[0] - 2.4 * known[1], 32.0)
    assert planes[-1] >= known[0] + 2.4 * known[1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "microscop"}, "method: is unknown .*choose from columns, microscope"),
        ({"method": "microscope"}, "recording: is no recording that was fitted"),
        ({"recording": 3}, "recording: is what columns do not use"),
    ],
)
def test_a_method_without_what_it_needs_is_refused(options, match):
    with pytest.raises(InputError, match=match):
        map_polarization(Image(np.zeros((64, 64)), (0.2, 0.2)), "PbTiO3", **options)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"images": {}}, "images: names no image"),
        ({"detectors": {"abf": AnnularDetector(11, 21)}}, "detectors: has none for the image 'haadf'"),
        ({"zone": (1, 1, 0)}, "zone: is not fitted yet"),
        ({"semiangle": -2.0}, "semiangle: must be positive"),
        ({"priors": {"thickness": (np.nan, 1.0)}}, "priors: "),
        ({"priors": {"thicknes": (1.0, 1.0)}}, "priors: is unknown"),
        ({"energy": 300e3}, "response: is of 200000 eV, not of 300000"),
        (
            {"images": {k: Image(np.zeros((n, 64)), (0.2, 0.2)) for k, n in (("haadf", 64), ("abf", 32))}},
            r"images: has shape \(32, 64\), not \(64, 64\)",
        ),
    ],
)
def test_scans_that_cannot_be_fitted_are_refused(response, given, match):
    blank = {"haadf": Image(np.zeros((64, 64)), (0.2, 0.2))}
    options = {"images": blank, "detectors": DETECTORS, "energy": 200e3, "response": response} | given
    with pytest.raises(InputError, match=match):
        fit_recording(crystal="BaTiO3", **options)


@pytest.mark.parametrize(
    ("priors", "match"),
    [
        ({"thicknes": (10.0, 1.0)}, "priors: is unknown .*thicknes.*choose from thickness"),
        ({"thickness": (10.0, 0.0)}, "priors: is no standard error"),
        ({"thickness": (10.0, np.nan)}, "priors: "),
    ],
)
def test_priors_that_say_nothing_are_refused(response, priors, match):
    q = harmonics((4.0, 4.0), 1.0)
    cell = MeanCell(np.ones(len(q), complex), np.ones((len(q), 2)), q, 10)
    with pytest.raises(InputError, match=match):
        fit_mean_cells({"haadf": cell}, material("BaTiO3"), response, priors=priors)


def test_a_detector_that_was_not_simulated_is_refused(response):
    q = harmonics((4.0, 4.0), 1.0)
    cell = MeanCell(np.ones(len(q), complex), np.ones((len(q), 2)), q, 10)
    with pytest.raises(InputError, match=r"cells: is no detector of the response .*bf.*haadf, abf"):
        fit_mean_cells({"bf": cell}, material("BaTiO3"), response)


def test_mean_cells_of_other_scans_or_without_intensity_are_refused(response):
    q = harmonics((4.0, 4.0), 1.0)
    cell = MeanCell(np.ones(len(q), complex), np.ones((len(q), 2)), q, 10)
    for other, match in (
        (cell._replace(q=q[:-1], value=cell.value[:-1]), "cells: has other coefficients"),
        (cell._replace(value=-cell.value), "cells: has no intensity"),
    ):
        with pytest.raises(InputError, match=match):
            fit_mean_cells({"haadf": cell, "abf": other}, material("BaTiO3"), response)
    wide = harmonics((4.0, 4.0), 2.0)
    wide = MeanCell(np.ones(len(wide), complex), np.ones((len(wide), 2)), wide, 10)
    with pytest.raises(InputError, match="cells: holds coefficients beyond those of the response"):
        fit_mean_cells({"haadf": wide}, material("BaTiO3"), response)
    with pytest.raises(InputError, match="response: is not of PbTiO3"):
        fit_mean_cells({"haadf": cell}, material("PbTiO3"), response)
    with pytest.raises(InputError, match="discrepancy: must be positive"):
        fit_mean_cells({"haadf": cell}, material("BaTiO3"), response, discrepancy=0.0)
    with pytest.raises(InputError, match="cells: names no detector"):
        fit_mean_cells({}, material("BaTiO3"), response)


def test_a_cell_that_no_recording_makes_is_told(response):
    """Coefficients turned by phases that no centre of symmetry, tilt or displacement gives."""
    cell = known_mean_cell("haadf", Probe(200e3, 20.0, edge=1.0), 12.0, (0.0, 0.0), (0.0, 0.0))
    turn = np.exp(1j * np.random.default_rng(0).uniform(-3, 3, len(cell.q)) * cell.q.any(1))
    strange = cell._replace(value=cell.value * turn)
    found = fit_mean_cells({"haadf": strange}, still("BaTiO3"), response, discrepancy=2e-3)
    assert any("misfit" in note for note in found.notes)


def test_the_mean_cell_of_an_image():
    """Known waves on a turned, strained lattice, a scatter that is known, and cells that reach beyond the image."""
    q = harmonics((4.0, 3.9), 0.6)
    rng = np.random.default_rng(0)
    wave = rng.normal(size=(2, len(q))) * np.exp(-np.hypot(*q.T))
    wave[1, 0] = 0.0
    frame = np.array([[5.1, 0.4], [-0.5, 5.0]])  # px per Å
    index = np.stack(np.meshgrid(np.arange(-1, 12), np.arange(-1, 12)), -1).reshape(-1, 2)
    centre = index * (4.0, 3.9) @ frame.T + (12.3, 15.7)
    px = np.stack(np.meshgrid(np.arange(200), np.arange(210)), -1)
    place = (px - (12.3, 15.7)) @ np.linalg.inv(frame).T / (4.0, 3.9)
    phase = np.einsum("yxi,ni->yxn", place, q) * 2 * np.pi
    twice = np.where((q == 0).all(1), 1.0, 2.0)
    clean = (np.cos(phase) * wave[0] - np.sin(phase) * wave[1]) @ twice
    image = Image(jnp.asarray(clean + 0.1 * rng.normal(size=clean.shape)), (0.2, 0.2))
    unit, none = jnp.eye(2), jnp.zeros((len(centre), 2))
    cells = CellFrames(jnp.asarray(centre), jnp.asarray(frame), unit, none, jnp.tile(unit, (len(centre), 1, 1)))
    found = mean_cell(image, cells, (4.0, 3.9), 0.6)
    assert 40 < found.cells < len(centre)
    pull = np.stack([np.real(found.value) - wave[0], np.imag(found.value) - wave[1]], -1)[1:] / found.error[1:]
    assert 0.6 < np.sqrt((pull**2).mean()) < 1.4
    keep = np.zeros(len(centre), bool)
    with pytest.raises(InputError, match="image: cells lie on it as a whole, of 9 at least"):
        mean_cell(image, cells, (4.0, 3.9), 0.6, keep)
