"""Beam, scan, detectors, thermal models and images: what cannot be meant is refused, with the remedy."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from ferrojax.errors import InputError
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
