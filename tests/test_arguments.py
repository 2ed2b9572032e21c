"""Beam, scan, seed and phase contrast as arguments of jit, grad and vmap, and the kinds of numbers that data may be."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.crystal import Atoms
from ferrojax.detection import Scan, SegmentedDetector, differential_phase_contrast, integrated_centre_of_mass
from ferrojax.errors import InputError
from ferrojax.image import DiffractionScan, Image
from ferrojax.multislice import FrozenPhonons, displaced_positions
from ferrojax.optics import Probe


def probe(semiangle: Any = 20.0, **change: Any) -> Probe:
    return Probe(200e3, semiangle, **change)


def scan(start: Any = (0, 0), end: Any = (4.0, 3.0), shape: Any = (6, 8)) -> Scan:
    return Scan.grid(start, end, shape)


def test_what_is_not_traced_stays_known_inside_jit():
    """A plan reads semi-angle, source and aberrations of a beam that is built inside."""

    def inside(defocus):
        made = Probe(200e3, 20.0, defocus, {"C30": 1e4}, 0.5, 30.0)
        known = (
            float(made.semiangle),
            float(np.asarray(made.source_size)[0]),
            float(made.focal_spread),
            float(made.aberrations["C30"]),
        )
        assert known == (20.0, 0.5, 30.0, 1e4)
        return made.defocus

    assert float(jax.jit(inside)(7.0)) == 7.0


RANGES = {"semiangle": (20.0, -20.0), "source_size": (0.5, -0.5), "focal_spread": (30.0, -30.0)}


def squared(value, field: str):
    return (getattr(probe(**{"semiangle": 20.0, field: value}), field) ** 2).sum()


@pytest.mark.parametrize("field", RANGES)
def test_traced_values_out_of_range_stop_the_program(field):
    good, bad = (jnp.asarray(v) for v in RANGES[field])
    run = eqx.filter_jit(lambda v: squared(v, field))
    for value in (bad, jnp.asarray(jnp.nan)):
        with pytest.raises(eqx.EquinoxRuntimeError, match=f"{field}: must lie between"):
            run(value)
    assert float(run(good)) == pytest.approx(float(good) ** 2 * (2 if field == "source_size" else 1))


@pytest.mark.parametrize("field", RANGES)
def test_the_check_of_traced_values_leaves_transformations_alone(field):
    """Slopes, curvature and maps are those of the plain value; nothing is compiled twice."""
    good = jnp.asarray(RANGES[field][0])
    times = 2 if field == "source_size" else 1

    def f(v):
        return squared(v, field)

    def everything(v):
        return (
            jax.grad(f)(v), jax.jvp(f, (v,), (jnp.ones(()),))[1], jax.jit(jax.hessian(f))(v),
            jax.vmap(jax.grad(f))(jnp.stack([v, 2 * v])), jax.grad(jax.checkpoint(f))(v),  # pyright: ignore
        )  # fmt: skip

    slope = 2 * times * good
    for found, exact in zip(everything(good), (slope, slope, 2 * times, [slope, 2 * slope], slope), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-6)
    compiled, run, more, most = [], jax.jit(jax.value_and_grad(f)), 1.1 * good, 1.2 * good
    run(good)
    jax.monitoring.register_event_duration_secs_listener(lambda event, duration_secs, **kwargs: compiled.append(event))
    run(more)
    jax.grad(f)(most)
    jax.monitoring.clear_event_listeners()
    assert not [name for name in compiled if "backend_compile" in name]


@pytest.mark.parametrize(
    "ends", [((0.0, 0.0), (4.0, 3.0), (6, 4)), ((0.0, 1.0), (4.0, 1.0), (1, 4))], ids=["area", "line"]
)
def test_a_scan_is_an_argument_of_jit_and_vmap(ends):
    """Positions and step of a traced scan are those of the known one, and an image takes the step."""
    given = scan(*ends)

    def used(there):
        return there.position, Image(jnp.ones(there.shape), there.sampling)

    position, image = jax.jit(used)(given)
    np.testing.assert_allclose(position, given.position, atol=1e-6)
    np.testing.assert_allclose(image.sampling, given.sampling, rtol=1e-6)
    moved = jnp.stack([given.start, given.start - 1.0])
    steps = jax.vmap(lambda s: Image(jnp.ones(given.shape), scan(s, ends[1], ends[2]).sampling).sampling)(moved)
    for step, start in zip(steps, moved, strict=True):
        np.testing.assert_allclose(step, scan(start, ends[1], ends[2]).sampling, rtol=1e-6)


def test_slopes_with_respect_to_the_corner_of_a_scan():
    """x runs from s to 4 in steps of (4 − s)/8: column 3 moves by 5/8 of s, and the step falls by 1/8."""
    where = jax.grad(lambda s: scan((s, 0.0)).position[0, 3, 0])(0.5)
    step = jax.jit(jax.grad(lambda s: Image(jnp.ones((6, 8)), scan((s, 0.0)).sampling).sampling[1]))(0.5)
    assert float(where) == pytest.approx(5 / 8)
    assert float(step) == pytest.approx(-1 / 8)
    assert jax.grad(lambda there: there.sampling[0])(scan()).end.tolist() == pytest.approx([0, 1 / 6])


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float16, np.float32, np.float64, jnp.bfloat16, list])
def test_intensities_of_any_real_kind_become_single_precision(kind):
    """The step with them: half a precision would have moved 0.2 Å by 0.05 pm."""
    values = np.arange(6).reshape(2, 3)
    data = values.tolist() if kind is list else values.astype(kind)
    image = Image(data, 0.2, data)
    assert image.data.dtype == image.sampling.dtype == np.float32
    np.testing.assert_array_equal(image.data, values)
    np.testing.assert_array_equal(image.standard_error, values)
    assert image.sampling.tolist() == [np.float32(0.2)] * 2
    np.testing.assert_array_equal(Image(np.ma.masked_array(values), (0.1, 0.3)).data, values)


def test_one_step_stands_for_both_axes():
    found = DiffractionScan(np.ones((2, 2, 3, 3)), 0.5, np.float64(2))
    assert (found.sampling.tolist(), found.angular_sampling.tolist()) == ([0.5, 0.5], [2.0, 2.0])


def test_a_seed_is_an_array_so_that_another_compiles_nothing():
    """Drawn inside jit from a traced seed: the displacements of that seed, and one program for all seeds."""
    atoms = Atoms(np.zeros((3, 3)) + 1, [8, 8, 8], (4.0, 4.0, 4.0), thermal_rms=0.1, occupancy=0.3)
    compiled = []

    @eqx.filter_jit
    def drawn(thermal):
        compiled.append(1)
        return displaced_positions(atoms, thermal, 1)

    made_inside = jax.jit(lambda seed: displaced_positions(atoms, FrozenPhonons(2, seed), 1))
    for seed in (0, 7, 2**32 - 1):
        expected = displaced_positions(atoms, FrozenPhonons(2, seed), 1)
        np.testing.assert_allclose(drawn(FrozenPhonons(2, seed)), expected, rtol=1e-6)
        np.testing.assert_allclose(made_inside(jnp.asarray(seed, jnp.uint32)), expected, rtol=1e-6)
    assert len(compiled) == 1
    assert np.abs(drawn(FrozenPhonons(2, 1)) - drawn(FrozenPhonons(2, 0))).min() > 0
    with pytest.raises(InputError, match=r"seed.*whole number"):
        made_inside(1.5)


def test_phase_contrast_takes_traced_arguments():
    """Semi-angle, wavelength and high-pass are differentiable; a disc whose rim leaves the detector stops the run."""
    rng = np.random.default_rng(3)
    quadrants, field = Image(1 + rng.random((4, 6, 6)), 0.5), Image(rng.normal(size=(2, 6, 6)), 0.5)

    def contrast(semiangle):
        return (differential_phase_contrast(quadrants, SegmentedDetector(5.0, 30.0), semiangle).data ** 2).sum()

    def phase(wavelength, high_pass):
        return (integrated_centre_of_mass(field, wavelength, high_pass=high_pass).data ** 2).sum()

    at, step = jnp.asarray(20.0), 0.05
    difference = (contrast(at + step) - contrast(at - step)) / (2 * step)
    assert float(eqx.filter_jit(jax.grad(contrast))(at)) == pytest.approx(float(difference), rel=1e-3)
    assert float(jax.jit(phase)(0.02, 0.3)) == pytest.approx(float(phase(0.02, 0.3)), rel=1e-5)
    slope = jax.jit(jax.grad(phase))(0.02, 0.3)
    assert float(slope) == pytest.approx(-2 * float(phase(0.02, 0.3)) / 0.02, rel=1e-4)  # as 1/wavelength²
    with pytest.raises(eqx.EquinoxRuntimeError, match="semiangle: the rim of the disc must lie on the detector, 5–30"):
        eqx.filter_jit(contrast)(jnp.asarray(31.0))
