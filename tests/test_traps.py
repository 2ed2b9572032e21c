"""Beam, scan, detectors, thermal models and images: what cannot be meant is refused, with the remedy."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from ferrojax.detection import Scan
from ferrojax.errors import InputError
from ferrojax.image import DiffractionScan, Image
from ferrojax.optics import PlaneWave, Probe

NAN, INF = np.nan, np.inf


@pytest.fixture
def unchecked():
    """As users run it: without the type checker that the tests put before every call."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def refused(match: str, build) -> None:
    with pytest.raises(InputError, match=match) as caught:
        build()
    assert "\n" not in str(caught.value)


def probe(semiangle: Any = 20.0, *, energy: Any = 200e3, **change: Any) -> Probe:
    return Probe(energy, semiangle, **change)


@pytest.mark.parametrize(
    ("match", "build"),
    [
        ("energy.*at least 10000, in eV.*got 200.0.*200e3", lambda: probe(energy=200.0)),
        ("energy.*at most 5e.06.*got 200000000", lambda: probe(energy=200000000)),
        ("energy.*200e3", lambda: probe(energy=-200e3)),
        ("energy.*finite", lambda: probe(energy=NAN)),
        ("energy.*finite", lambda: probe(energy=INF)),
        ("energy.*no real number.*'200e3'", lambda: probe(energy="200e3")),
        ("energy.*no real number", lambda: probe(energy=None)),
        ("energy.*no real number", lambda: probe(energy=True)),
        ("energy.*before tracing", lambda: jax.jit(lambda e: probe(energy=e).defocus)(200e3)),
        ("energy.*one number", lambda: probe(energy=[200e3])),
        ("energy.*200e3", lambda: PlaneWave(200)),
        ("energy.*no real number", lambda: PlaneWave("high")),  # pyright: ignore[reportArgumentType]
        (r"semiangle.*at least 0.2, in mrad.*0.0214.*0.0214 rad is 21.4", lambda: probe(0.0214)),
        ("semiangle.*at most 200", lambda: probe(21400.0)),
        ("semiangle.*mrad", lambda: probe(-20.0)),
        ("semiangle.*finite", lambda: probe(NAN)),
        ("semiangle.*one number", lambda: probe([20.0, 20.0])),
        ("semiangle.*no real number", lambda: probe("20")),
        ("semiangle.*no real number", lambda: probe(None)),
        ("semiangle.*no real number", lambda: probe(20 + 1j)),
        ("semiangle.*no real number", lambda: probe({"mrad": 20})),
        ("defocus.*at least -100000, in Å.*pm", lambda: probe(defocus=-2e5)),
        ("defocus.*at most 100000.*pm", lambda: probe(defocus=2e5)),
        ("defocus.*finite", lambda: probe(defocus=NAN)),
        ("defocus.*finite", lambda: probe(defocus=-INF)),
        ("defocus.*no real number", lambda: probe(defocus="auto")),
        ("aberrations.*C10.*defocus=−C10", lambda: probe(aberrations={"C10": -50.0})),
        ("aberrations.*C10.*defocus=−C10", lambda: probe(defocus=20.0, aberrations={"C10": -50.0})),
        ("aberrations.*C99.*choose from C12", lambda: probe(aberrations={"C99": 1.0})),
        ("aberrations.*phi30.*choose from", lambda: probe(aberrations={"C30": 1e4, "phi30": 1.0})),
        ("aberrations.*phi12.*C12", lambda: probe(aberrations={"phi12": 0.3})),
        ("phi12.*rad.*30° is 0.52", lambda: probe(aberrations={"C12": 20.0, "phi12": 30.0})),
        ("C12.*100000, in Å", lambda: probe(aberrations={"C12": 2e5})),
        ("C30.*1e.10, in Å.*1 mm is 1e7", lambda: probe(aberrations={"C30": 1e11})),
        ("C30.*finite", lambda: probe(aberrations={"C30": NAN})),
        ("C30.*no real number", lambda: probe(aberrations={"C30": None})),
        ("C30.*no real number", lambda: probe(aberrations={"C30": True})),
        ("C30.*one number", lambda: probe(aberrations={"C30": (1e4, 1e4)})),
        ("aberrations.*no mapping", lambda: probe(aberrations=[1e4])),
        ("source_size.*not negative, in Å", lambda: probe(source_size=(0.5, -0.5))),
        ("source_size.*at most 10, in Å.*50 pm is 0.5", lambda: probe(source_size=50.0)),
        ("source_size.*2 numbers", lambda: probe(source_size=(0.5, 0.5, 0.5))),
        ("source_size.*2 numbers", lambda: probe(source_size=[0.5])),
        ("source_size.*finite", lambda: probe(source_size=(0.5, NAN))),
        ("source_size.*no real number", lambda: probe(source_size="small")),
        ("source_size.*no real number", lambda: probe(source_size=None)),
        ("focal_spread.*not negative", lambda: probe(focal_spread=-30.0)),
        ("focal_spread.*at most 10000, in Å", lambda: probe(focal_spread=3e4)),
        ("focal_spread.*finite", lambda: probe(focal_spread=INF)),
        ("edge.*not negative, in mrad", lambda: probe(edge=-1.0)),
        ("edge.*at most 40, in mrad", lambda: probe(edge=41.0)),
        ("edge.*finite", lambda: probe(edge=NAN)),
        ("edge.*no real number", lambda: probe(edge="soft")),
        ("edge.*before tracing", lambda: jax.jit(lambda e: probe(edge=e).defocus)(1.0)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_beam_that_cannot_be_meant_is_refused(match, build):
    refused(match, build)


@pytest.mark.usefixtures("unchecked")
def test_what_a_microscope_can_have_is_taken():
    """Every limit itself, arrays of NumPy and JAX, integers, negative and large aberrations."""
    for energy, semiangle in [(1e4, 0.2), (5e6, 200), (np.float32(2e5), np.int64(20)), (200_000, jnp.asarray(20.0))]:
        assert float(probe(semiangle, energy=energy).semiangle) == pytest.approx(float(semiangle))
    made = Probe(200e3, 20, -1e5, {"C30": -1.3e7, "C50": 1e9, "C12": 20, "phi12": -np.pi}, (0.5, 0), np.array(30), 40)
    assert made.source_size.tolist() == [0.5, 0.0]
    assert Probe(200e3, 20, source_size=np.float32(0.25)).source_size.tolist() == [0.25, 0.25]


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
    for value in (bad, jnp.asarray(NAN)):
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


def scan(start: Any = (0, 0), end: Any = (4.0, 3.0), shape: Any = (6, 8)) -> Scan:
    return Scan.grid(start, end, shape)


@pytest.mark.parametrize(
    ("match", "build"),
    [
        ("scan shape.*whole number.*got 4.5", lambda: scan(shape=(4.5, 4))),
        ("scan shape.*whole number.*got 4.0", lambda: scan(shape=(4, 4.0))),
        ("scan shape.*whole number.*got True", lambda: scan(shape=(True, 4))),
        ("scan shape.*whole number.*got -3.*at least", lambda: scan(shape=(-3, 4))),
        ("scan shape.*whole number.*got 0", lambda: scan(shape=(4, 0))),
        ("scan shape.*whole number.*'4'", lambda: scan(shape="44")),
        ("scan shape.*rows, cols.*got 64", lambda: scan(shape=64)),
        ("scan shape.*rows, cols", lambda: scan(shape=(4, 4, 4))),
        ("scan shape.*rows, cols", lambda: scan(shape=None)),
        ("scan shape.*before tracing", lambda: jax.jit(lambda n: scan(shape=(n, 4)).position)(4)),
        ("start.*finite, in Å", lambda: scan(start=(NAN, 0))),
        ("end.*finite, in Å", lambda: scan(end=(4.0, INF))),
        ("end.*2 numbers, in Å.*got 4.0", lambda: scan(end=4.0)),
        ("end.*2 numbers", lambda: scan(end=(4.0, 3.0, 5.0))),
        ("start.*no real number", lambda: scan(start="origin")),
        ("start.*no real number", lambda: scan(start=None)),
        ("start.*no real number", lambda: scan(start=(0, None))),
        ("start.*real number", lambda: scan(start=np.array([0, 1j]))),
        ("end.*at most 100000, in Å.*0.4 nm is 4", lambda: scan(end=(4e5, 3e5))),
        ("start.*at least -100000", lambda: scan(start=(-4e5, 0))),
        ("scan.*one place.*0 Å along x for 8 positions.*move", lambda: scan((1, 1), (1, 1))),
        ("scan.*one place.*0 Å along y for 6 positions", lambda: scan((0, 1), (4, 1))),
        ("scan.*below 0.0001 Å.*4e-10 Å along x for 8.*in Å", lambda: scan(end=(4e-10, 3e-10))),
        ("scan shape", lambda: Scan(jnp.zeros(2), jnp.ones(2), (0, 4))),
        ("scan.*one place", lambda: Scan(jnp.ones(2), jnp.ones(2), (2, 2))),
        ("end.*finite", lambda: Scan(jnp.zeros(2), jnp.full(2, jnp.nan), (2, 2))),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_scan_that_cannot_be_meant_is_refused(match, build):
    refused(match, build)


@pytest.mark.usefixtures("unchecked")
def test_a_line_and_a_point_are_scans():
    assert scan((0, 1), (4, 1), (1, 8)).sampling == (0.5, 0.5)
    assert scan((1, 0), (1, -3), (6, 1)).sampling == (0.5, 0.5)
    assert scan((1, 1), (1, 1), (1, 1)).sampling == (1.0, 1.0)
    assert scan(shape=np.array([6, 8])).shape == (6, 8)
    np.testing.assert_allclose(Scan((0, 0), (4, 3), (6, 8)).position, scan().position)


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


ONES = np.ones((4, 5))
MASKED = np.ma.masked_array(ONES, ONES > 0)


@pytest.mark.parametrize(
    ("match", "build"),
    [
        ("sampling.*finite, in Å per pixel.*0.2, 0.2", lambda: Image(ONES, (NAN, 0.2))),
        ("sampling.*positive, in Å per pixel", lambda: Image(ONES, -0.2)),
        ("sampling.*positive", lambda: Image(ONES, (0.2, 0))),
        ("sampling.*at least 0.0001, in Å per pixel", lambda: Image(ONES, 2e-11)),
        ("sampling.*2 numbers", lambda: Image(ONES, (0.2, 0.2, 0.2))),
        ("sampling.*2 numbers", lambda: Image(ONES, jnp.ones(3))),
        ("sampling.*finite", lambda: Image(ONES, jnp.array([jnp.nan, 1.0]))),
        ("sampling.*no real number", lambda: Image(ONES, "0.2")),
        ("sampling.*no real number", lambda: Image(ONES, None)),
        ("image.*no real numbers.*array of complex128.*abs", lambda: Image(ONES * 1j, 0.2)),
        ("image.*no real numbers.*array of bool", lambda: Image(ONES > 0, 0.2)),
        ("image.*no real numbers.*array of object", lambda: Image(ONES.astype(object), 0.2)),
        ("image.*no real number", lambda: Image([[1, 2], [3]], 0.2)),
        ("image.*no real number", lambda: Image("scan.dm4", 0.2)),
        ("image.*no real number", lambda: Image(None, 0.2)),
        ("image.*two axes", lambda: Image(np.ones(5), 0.2)),
        ("image.*two axes", lambda: Image(1.0, 0.2)),
        ("image.*no pixel.*0, 5", lambda: Image(np.ones((0, 5)), 0.2)),
        ("image.*no pixel", lambda: Image(np.ones((0, 4, 5)), 0.2)),
        ("image.*mask.*20 masked values", lambda: Image(MASKED, 0.2)),
        (r"standard_error.*shape of the data, \(4, 5\).*got \(5, 4\)", lambda: Image(ONES, 0.2, ONES.T)),
        ("standard_error.*shape of the data", lambda: Image(ONES, 0.2, 0.1)),
        ("standard_error.*no real numbers", lambda: Image(ONES, 0.2, ONES > 0)),
        ("standard_error.*mask", lambda: Image(ONES, 0.2, MASKED)),
        ("diffraction scan.*four axes", lambda: DiffractionScan(np.ones((4, 5, 6)), 0.2, 1.0)),
        ("diffraction scan.*no pixel", lambda: DiffractionScan(np.ones((4, 5, 0, 6)), 0.2, 1.0)),
        ("angular_sampling.*positive, in mrad per pixel", lambda: DiffractionScan(np.ones((2, 2, 2, 2)), 0.2, 0.0)),
        ("angular_sampling.*finite", lambda: DiffractionScan(np.ones((2, 2, 2, 2)), 0.2, (1.0, NAN))),
        ("sampling.*positive, in Å", lambda: DiffractionScan(np.ones((2, 2, 2, 2)), -0.2, 1.0)),
        ("standard_error.*shape", lambda: DiffractionScan(np.ones((2, 2, 2, 2)), 0.2, 1.0, np.ones((2, 2)))),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_data_that_are_no_image_are_refused(match, build):
    refused(match, build)


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
