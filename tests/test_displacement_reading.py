"""Displacements read through a response: images made of it cell by cell, by sums of their own."""

from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.crystal import material
from ferrojax.detection import AnnularDetector
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.optics import Probe
from ferrojax.polarization import CellFrames
from ferrojax.refinement import Microscope, Recording, cell_response
from ferrojax.refinement import response as responses
from ferrojax.refinement.cell_model import OXYGEN_ENDS
from ferrojax.refinement.recording import EACH, PRIORS
from ferrojax.refinement.response import CellResponse
from ferrojax.refinement.scene import waves_of

A = float(material("BaTiO3").cell[0, 0])
DETECTORS = {"haadf": AnnularDetector(60, np.inf), "abf": AnnularDetector(11, 21)}
TILT, THICKNESS, SOURCE, DOSE = (2.0, -1.5), 16.0, 0.5, 2000.0
CELLS, TURN, STEP = 8, 17.0, 0.24
PROBE = {"semiangle": 20.0, "defocus": 20.0, "astigmatism_x": 8.0, "astigmatism_y": 3.0}


@pytest.fixture(scope="module")
def response() -> CellResponse:
    """Of half the boxes: the images are drawn by this very response, whatever it is worth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responses, "BOXES", 60)
        return cell_response(
            material("BaTiO3"), 200e3, DETECTORS, thicknesses=[8.0, 12.0, 16.0, 20.0], max_semiangle=22.0, tilt=TILT,
            configurations=2,
        )  # fmt: skip


def recording(names, mode: float = 1.0) -> Recording:
    value = {k: v for k, (v, _) in PRIORS.items()} | PROBE
    value |= {"thickness": THICKNESS, "tilt_x": TILT[0], "tilt_y": TILT[1], "mode": mode}
    value |= {"source_x": SOURCE, "source_y": SOURCE, "spread": 0.05, "displacement_x": 0.0, "displacement_y": 0.0}
    value |= {f"{key}_{name}": 0.0 for name in names for key in EACH}
    k = len(value)
    data = {name: np.array([DOSE], complex) for name in names}
    numbers = np.array(list(value.values()))
    return Recording(tuple(value), numbers, np.zeros(k), numbers, np.ones(k), np.zeros((k, k)), 1.0, np.inf, data, {})


def drawn(response: CellResponse, detector: str, shift: np.ndarray, seed: int | None):
    """An image of CELLS × CELLS displaced cells (shift: (cells, cells, 2) Å), and its cells.

    Cells beyond are displaced, too, by the mean.
    """
    astigmatism = complex(PROBE["astigmatism_x"], PROBE["astigmatism_y"])
    aberrations = {"C12": abs(astigmatism), "phi12": np.angle(astigmatism) / 2}
    probe = Probe(200e3, PROBE["semiangle"], PROBE["defocus"], aberrations, edge=1.0)
    waves = waves_of(response, detector, probe, THICKNESS, TILT)
    k = waves.q / np.array(waves.box)
    value = np.asarray(waves.value) * np.exp(-2 * np.pi**2 * SOURCE**2 * (k**2).sum(1))
    value = value * np.where((waves.q == 0).all(1), 1, 2)
    turn = np.radians(TURN)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    size = int(CELLS * A / STEP * 1.7)  # cells of the rim lie on it as a whole
    index = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS)), -1).reshape(-1, 2)
    centre = ((index - (CELLS - 1) / 2) * A) @ rotation.T / STEP + size / 2
    y, x = np.mgrid[:size, :size]
    at = (np.stack([x, y], -1).reshape(-1, 2) - centre[0]) * STEP @ rotation  # Å along the crystal, from the first B
    image = (np.exp(2j * np.pi * at @ k.T) @ value[0]).real
    around = np.pad(shift - shift.mean((0, 1)), ((3, 3), (3, 3), (0, 0))) + shift.mean((0, 1))
    everywhere = np.stack(np.meshgrid(np.arange(-2, CELLS + 2), np.arange(-2, CELLS + 2)), -1).reshape(-1, 2)
    for mover in response.mover:
        if not np.any(mover.follow):
            continue
        rows = [i for i, t in enumerate(response.term) if t[0] == mover.name]
        power = np.array([response.term[i][1:] for i in rows])
        before = [0 if o == 0 else -1 for o in mover.offset]  # an oxygen half a cell before B is between two
        assert np.allclose(mover.offset, np.array(before) / 2)
        for i, j in everywhere:
            of = (around[j + 3, i + 3] + around[j + 3 + before[1], i + 3 + before[0]]) / 2
            by = np.array(mover.follow) @ of / mover.unit
            off = at - A * np.array([i, j])
            ends = 1.0 if mover.name == "mode" else OXYGEN_ENDS
            near = (np.abs(off - A * np.array(mover.offset)) < ends * A).all(1)
            weight = by[0] ** power[:, 0] * by[1] ** power[:, 1]
            image[near] += (np.exp(2j * np.pi * off[near] @ k.T) @ (weight @ value[rows])).real
    image = image.reshape(size, size) / np.asarray(waves.value)[0, (waves.q == 0).all(1)].real[0] * DOSE
    if seed is not None:
        image = np.random.default_rng(seed).poisson(image).astype(float)
    many = len(index)
    frames = CellFrames(
        jnp.asarray(centre),
        jnp.asarray(rotation / STEP),
        jnp.asarray(rotation),
        jnp.zeros((many, 2)),
        jnp.tile(1e-4 * jnp.eye(2), (many, 1, 1)),
    )
    return Image(image, (STEP, STEP)), frames


def field(seed: int = 3) -> np.ndarray:
    mean = np.array([0.08, -0.05])
    return np.random.default_rng(seed).normal(0, 0.05, (CELLS, CELLS, 2)) + mean


INNER, DEEP = (np.zeros((CELLS, CELLS), bool) for _ in range(2))
INNER[1:-1, 1:-1] = True
DEEP[2:-2, 2:-2] = True  # of the cells around, all are read


def test_without_noise_every_displacement_is_read(response):
    """Neighbours that move as well, a turned lattice, optics and tilt; the prior of 0.4 Å pulls by nothing."""
    shift = field()
    image, cells = drawn(response, "haadf", shift, None)
    found = Microscope(recording(["haadf"]), response, material("BaTiO3")).read(image, cells)
    error = (found.displacement - shift.reshape(-1, 2))[DEEP.ravel()]
    assert np.abs(error).max() < 1e-4
    assert np.polyfit(shift[DEEP].ravel(), (error + shift[DEEP]).ravel(), 1)[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.study
def test_errors_are_those_that_are_stated(response):
    shift = field()
    rows = {}
    for some in (("haadf",), ("haadf", "abf")):
        both = {name: drawn(response, name, shift, 7 + i) for i, name in enumerate(some)}
        image, cells = both[some[0]]
        beside = {name: both[name][0] for name in some[1:]}
        found = Microscope(recording(some), response, material("BaTiO3"), some[0], beside).read(image, cells)
        error = (found.displacement - shift.reshape(-1, 2))[INNER.ravel()]
        stated = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))[INNER.ravel()]
        assert 0.7 < np.sqrt(((error / stated) ** 2).mean()) < 1.25
        assert np.all(np.abs(error.mean(0)) < 4 * stated.mean(0) / len(error) ** 0.5)
        assert found.gain == pytest.approx(1, abs=0.05)
        rows[some] = stated.mean()
    assert rows["haadf", "abf"] < 1.02 * rows["haadf",]


def test_a_predictor_answers_in_the_frame_of_the_image(response):
    shift = field()
    image, cells = drawn(response, "haadf", shift, None)
    microscope = Microscope(recording(["haadf"]), response, material("BaTiO3"))
    found, covariance, structural, common, _ = microscope.predict(image, cells)
    own = microscope.read(image, cells)
    turn = np.asarray(cells.rotation)
    np.testing.assert_allclose(np.asarray(found), own.displacement @ turn.T, atol=1e-5)
    np.testing.assert_allclose(np.asarray(covariance), turn @ (own.covariance + own.structural) @ turn.T, atol=1e-6)
    np.testing.assert_allclose(np.asarray(structural), turn @ own.structural @ turn.T, atol=1e-6)
    assert np.asarray(common) == pytest.approx(0)  # the recording is known


def test_cells_that_reach_beyond_the_image_are_not_read(response):
    image, cells = drawn(response, "haadf", field(), None)
    cut = Image(np.asarray(image.data)[60:], image.sampling)
    moved = eqx.tree_at(lambda c: c.centre_px, cells, cells.centre_px - jnp.array([0.0, 60.0]))
    found = Microscope(recording(["haadf"]), response, material("BaTiO3")).read(cut, moved)
    gone = ~np.isfinite(found.displacement).all(1)
    assert 0 < gone.sum() < gone.size / 2
    assert (np.asarray(moved.centre_px)[~gone][:, 1] > 0.4 * A / STEP).all()


def test_what_the_recording_was_not_fitted_to_is_refused(response):
    image, cells = drawn(response, "haadf", field(), None)
    crystal = material("BaTiO3")
    with pytest.raises(InputError, match=r"detector: is none that the recording was fitted to .*haadf"):
        Microscope(recording(["haadf"]), response, crystal, "abf").read(image, cells)
    other = Image(np.asarray(image.data)[:-1], image.sampling)
    with pytest.raises(InputError, match="beside: has shape"):
        Microscope(recording(["haadf", "abf"]), response, crystal, "haadf", {"abf": other}).read(image, cells)
    foreign = replace(cells, crystal="PbTiO3")
    with pytest.raises(InputError, match="cells: are not those of BaTiO3 along 0 0 1"):
        Microscope(recording(["haadf"]), response, crystal).read(image, foreign)
