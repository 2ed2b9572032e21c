"""Beam, scan, detectors, thermal models and images: what cannot be meant is refused, with the remedy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferrojax.acquisition import blurred
from ferrojax.detection import (
    AnnularDetector,
    CentreOfMass,
    PixelatedDetector,
    Scan,
    SegmentedDetector,
    differential_phase_contrast,
    integrate_gradient,
    integrated_centre_of_mass,
)
from ferrojax.detection.validity import check_reach
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.image import DiffractionScan, Image
from ferrojax.multislice import FastThermal, FrozenPhonons
from ferrojax.optics import PlaneWave, Probe
from ferrojax.optics.probe import probe_spectrum

pytestmark = pytest.mark.filterwarnings("ignore:detector. .* ends close to the grid's band limit:UserWarning")
"""Small grids: what is compared here is not how bright a ring is."""

NAN, INF = np.nan, np.inf
WORDS: Any = (4.0, 4.0, "fine")


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
        ("energy.*must be real numbers.*'200e3'", lambda: probe(energy="200e3")),
        ("energy.*must be real numbers", lambda: probe(energy=None)),
        ("energy.*must be real numbers", lambda: probe(energy=True)),
        ("energy.*before tracing", lambda: jax.jit(lambda e: probe(energy=e).defocus)(200e3)),
        ("energy.*one number", lambda: probe(energy=[200e3])),
        ("energy.*200e3", lambda: PlaneWave(200)),
        ("energy.*must be real numbers", lambda: PlaneWave("high")),  # pyright: ignore[reportArgumentType]
        (r"semiangle.*at least 0.2, in mrad.*0.0214.*0.0214 rad is 21.4", lambda: probe(0.0214)),
        ("semiangle.*at most 200", lambda: probe(21400.0)),
        ("semiangle.*mrad", lambda: probe(-20.0)),
        ("semiangle.*finite", lambda: probe(NAN)),
        ("semiangle.*one number", lambda: probe([20.0, 20.0])),
        ("semiangle.*must be real numbers", lambda: probe("20")),
        ("semiangle.*must be real numbers", lambda: probe(None)),
        ("semiangle.*must be real numbers", lambda: probe(20 + 1j)),
        ("semiangle.*must be real numbers", lambda: probe({"mrad": 20})),
        ("defocus.*at least -100000, in Å.*pm", lambda: probe(defocus=-2e5)),
        ("defocus.*at most 100000.*pm", lambda: probe(defocus=2e5)),
        ("defocus.*finite", lambda: probe(defocus=NAN)),
        ("defocus.*finite", lambda: probe(defocus=-INF)),
        ("defocus.*must be real numbers", lambda: probe(defocus="auto")),
        ("aberrations.*C10.*defocus=−C10", lambda: probe(aberrations={"C10": -50.0})),
        ("aberrations.*C10.*defocus=−C10", lambda: probe(defocus=20.0, aberrations={"C10": -50.0})),
        ("aberrations.*C99.*choose from C12", lambda: probe(aberrations={"C99": 1.0})),
        ("aberrations.*phi30.*choose from", lambda: probe(aberrations={"C30": 1e4, "phi30": 1.0})),
        ("aberrations.*phi12.*C12", lambda: probe(aberrations={"phi12": 0.3})),
        ("phi12.*rad.*30° is 0.52", lambda: probe(aberrations={"C12": 20.0, "phi12": 30.0})),
        ("C12.*100000, in Å", lambda: probe(aberrations={"C12": 2e5})),
        ("C30.*1e.10, in Å.*1 mm is 1e7", lambda: probe(aberrations={"C30": 1e11})),
        ("C30.*finite", lambda: probe(aberrations={"C30": NAN})),
        ("C30.*must be real numbers", lambda: probe(aberrations={"C30": None})),
        ("C30.*must be real numbers", lambda: probe(aberrations={"C30": True})),
        ("C30.*one number", lambda: probe(aberrations={"C30": (1e4, 1e4)})),
        ("aberrations.*no mapping", lambda: probe(aberrations=[1e4])),
        ("source_size.*not negative, in Å", lambda: probe(source_size=(0.5, -0.5))),
        ("source_size.*at most 10, in Å.*50 pm is 0.5", lambda: probe(source_size=50.0)),
        ("source_size.*2 numbers", lambda: probe(source_size=(0.5, 0.5, 0.5))),
        ("source_size.*2 numbers", lambda: probe(source_size=[0.5])),
        ("source_size.*finite", lambda: probe(source_size=(0.5, NAN))),
        ("source_size.*must be real numbers", lambda: probe(source_size="small")),
        ("source_size.*must be real numbers", lambda: probe(source_size=None)),
        ("focal_spread.*not negative", lambda: probe(focal_spread=-30.0)),
        ("focal_spread.*at most 10000, in Å", lambda: probe(focal_spread=3e4)),
        ("focal_spread.*finite", lambda: probe(focal_spread=INF)),
        ("edge.*not negative, in mrad", lambda: probe(edge=-1.0)),
        ("edge.*at most 40, in mrad", lambda: probe(edge=41.0)),
        ("edge.*finite", lambda: probe(edge=NAN)),
        ("edge.*must be real numbers", lambda: probe(edge="soft")),
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


def scan(start: Any = (0, 0), end: Any = (4.0, 3.0), shape: Any = (6, 8)) -> Scan:
    return Scan.grid(start, end, shape)


@pytest.mark.parametrize(
    ("match", "build"),
    [
        ("scan shape.*whole number.*got 4.5", lambda: scan(shape=(4.5, 4))),
        ("scan.*-4 Å along x.*runs backwards|scan.*runs backwards.*-4 Å along x", lambda: scan((4.0, 0), (0.0, 3.0))),
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
        ("start.*must be real numbers", lambda: scan(start="origin")),
        ("start.*must be real numbers", lambda: scan(start=None)),
        ("start.*must be real numbers", lambda: scan(start=(0, None))),
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
        ("sampling.*must be real numbers", lambda: Image(ONES, "0.2")),
        ("sampling.*must be real numbers", lambda: Image(ONES, None)),
        ("image.*must be real numbers.*complex128.*abs", lambda: Image(ONES * 1j, 0.2)),
        ("image.*must be real numbers.*bool", lambda: Image(ONES > 0, 0.2)),
        ("image.*must be real numbers.*type object", lambda: Image(ONES.astype(object), 0.2)),
        ("image.*no array of numbers", lambda: Image([[1, 2], [3]], 0.2)),
        ("image.*must be real numbers", lambda: Image("scan.dm4", 0.2)),
        ("image.*must be real numbers", lambda: Image(None, 0.2)),
        ("image.*two axes", lambda: Image(np.ones(5), 0.2)),
        ("image.*two axes", lambda: Image(1.0, 0.2)),
        ("image.*no pixel.*0, 5", lambda: Image(np.ones((0, 5)), 0.2)),
        ("image.*no pixel", lambda: Image(np.ones((0, 4, 5)), 0.2)),
        ("image.*mask.*20 masked values", lambda: Image(MASKED, 0.2)),
        (r"standard_error.*shape of the data, \(4, 5\).*got \(5, 4\)", lambda: Image(ONES, 0.2, ONES.T)),
        ("standard_error.*shape of the data", lambda: Image(ONES, 0.2, 0.1)),
        ("standard_error.*must be real numbers", lambda: Image(ONES, 0.2, ONES > 0)),
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


BOX = Grid((40, 40), (0.25, 0.25))  # 10 Å: 2.508 mrad per pixel, reaches 50 mrad, 71 in the corners
WAVELENGTH = PlaneWave(200e3).wavelength


def annular(inner: Any = 60.0, outer: Any = 170.0, edge: Any = 0.0) -> AnnularDetector:
    return AnnularDetector(inner, outer, edge)


def segmented(segments: Any = 4, rotation: Any = 0.0, outer: Any = 30.0) -> SegmentedDetector:
    return SegmentedDetector(5.0, outer, segments, rotation)


def camera(max_angle: Any = 40.0, **change: Any) -> PixelatedDetector:
    return PixelatedDetector(max_angle, **(change or {"step": 1.0}))


@pytest.mark.parametrize(
    ("match", "build"),
    [
        ("detector.*below 0.5 mrad.*0.06–0.17 mrad.*0.06 rad is 60", lambda: annular(0.06, 0.17)),
        ("detector.*below 0.5 mrad.*give mrad", lambda: annular(0.06, INF)),
        ("outer.*at most 1500, in mrad", lambda: annular(60, 17000.0)),
        ("inner.*at most 1500, in mrad", lambda: annular(6000.0, INF)),
        ("inner.*finite", lambda: annular(NAN, 170)),
        ("outer.*finite", lambda: annular(60, NAN)),
        ("outer.*finite", lambda: annular(60, -INF)),
        ("inner.*must be real numbers", lambda: annular("60")),
        ("inner.*must be real numbers", lambda: annular(None)),
        ("outer.*must be real numbers", lambda: annular(60, True)),
        ("outer.*one number", lambda: annular(60, (170, 180))),
        ("inner.*before tracing", lambda: jax.jit(lambda a: annular(a).weights(BOX, WAVELENGTH))(5.0)),
        ("detector.*inner < outer.*30–30", lambda: annular(30, 30)),
        ("detector.*inner < outer", lambda: annular(INF, INF)),
        ("detector.*inner < outer", lambda: annular(-10, 30)),
        ("detector edge.*not negative, in mrad", lambda: annular(10, 30, -1.0)),
        ("detector edge.*width of 20 mrad", lambda: annular(10, 30, 21.0)),
        ("detector edge.*finite", lambda: annular(10, 30, NAN)),
        ("detector edge.*finite", lambda: annular(10, INF, INF)),
        ("detector edge.*must be real numbers", lambda: annular(10, 30, "soft")),
        ("segments.*whole number.*got 4.5", lambda: segmented(4.5)),
        ("segments.*whole number.*got 4.0", lambda: segmented(4.0)),
        ("segments.*whole number.*got True", lambda: segmented(True)),
        ("segments.*whole number.*got 0", lambda: segmented(0)),
        ("segments.*whole number.*'4'", lambda: segmented("4")),
        ("rotation.*rad.*45° is 0.785", lambda: segmented(rotation=45.0)),
        ("rotation.*finite", lambda: segmented(rotation=NAN)),
        ("rotation.*must be real numbers", lambda: segmented(rotation=None)),
        ("detector.*below 0.5 mrad", lambda: CentreOfMass(0.04)),
        ("outer.*must be real numbers", lambda: CentreOfMass([30.0, None])),
        ("detector edge.*not negative", lambda: CentreOfMass(30.0, edge=-1.0)),
        ("detector.*finite", lambda: CentreOfMass(INF)),
        ("max_angle.*at least 0.5, in mrad.*0.06 rad is 60", lambda: camera(0.04, shape=64)),
        ("max_angle.*at most 1500", lambda: camera(4e4, shape=64)),
        ("max_angle.*finite", lambda: camera(INF, shape=64)),
        ("max_angle.*must be real numbers", lambda: camera("all", shape=64)),
        ("detector shape.*whole number.*got 64.5", lambda: camera(shape=(64.5, 64))),
        ("detector shape.*whole number.*got 64.0", lambda: camera(shape=(64, 64.0))),
        ("detector shape.*rows, cols.*got 64.0", lambda: camera(shape=64.0)),
        ("detector shape.*whole number.*got True", lambda: camera(shape=True)),
        ("detector shape.*whole number.*got -64", lambda: camera(shape=-64)),
        ("detector shape.*rows, cols", lambda: camera(shape=(64, 64, 64))),
        ("detector shape.*whole number", lambda: camera(shape="64")),
        ("detector step.*finite, in mrad", lambda: camera(step=(1.0, NAN))),
        ("detector step.*positive, in mrad", lambda: camera(step=-1.0)),
        ("detector step.*at most 80, in mrad", lambda: camera(step=81.0)),
        ("detector step.*2 numbers", lambda: camera(step=(1.0, 1.0, 1.0))),
        ("detector step.*must be real numbers", lambda: camera(step="fine")),
        ("detector.*step and shape", lambda: camera(step=1.0, shape=64)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_detector_that_cannot_be_meant_is_refused(match, build):
    refused(match, build)


@pytest.mark.parametrize(
    "detector",
    [
        AnnularDetector(11.3, 12.4),
        AnnularDetector(80, 170),
        SegmentedDetector(11.3, 12.4),
        SegmentedDetector(2, 3, 32),
    ],
    ids=["thin", "far", "thin sectors", "many sectors"],
)
def test_a_channel_without_a_pixel_is_refused(detector):
    """Between two pixels of the pattern, beyond all of them, or in sectors none of the few pixels reaches."""
    with pytest.raises(
        InputError, match=r"holds none of the pattern's pixels.*2.51 mrad apart up to 70.9.*window or box"
    ):
        detector.response(BOX, WAVELENGTH)


def test_a_disc_without_a_pixel_is_refused():
    """Frequencies half a step off zero: the four nearest lie 1.77 mrad from it."""
    offset = Grid(BOX.shape, BOX.sampling, (0.5, 0.5))
    with pytest.raises(InputError, match="pattern's pixels"):
        CentreOfMass(1.7).response(offset, WAVELENGTH)
    assert CentreOfMass(1.8).response(offset, WAVELENGTH).weights.sum((-2, -1)).tolist()[0] == 4


def test_detectors_take_what_they_can_have():
    assert annular(np.int64(0), np.inf).outer == np.inf
    assert annular(1400, 1500).outer == 1500.0
    assert annular(np.float32(10), 30, 20).edge == 20.0
    assert SegmentedDetector(0, 30, np.int32(4) + 0, -np.pi).segments == 4
    assert camera(shape=np.int64(8)).shape == (8, 8)
    assert camera(step=np.array([1.0, 2.0])).step == (1.0, 2.0)


@pytest.mark.parametrize("model", [FrozenPhonons, FastThermal])
@pytest.mark.parametrize(
    ("match", "change"),
    [
        ("n: .*whole number.*got 2.5.*configurations", {"n": 2.5}),
        ("n: .*whole number.*got 2.0", {"n": 2.0}),
        ("n: .*whole number.*got True", {"n": True}),
        ("n: .*whole number.*'8'", {"n": "8"}),
        ("n: .*whole number.*got None", {"n": None}),
        ("n: .*whole number.*got -2", {"n": -2}),
        ("n: .*even number.*got 3.*independent", {"n": 3, "draws": "antithetic"}),
        ("draws.*choose independent, antithetic", {"draws": "sobol"}),
        ("seed.*whole number from 0.*got 1.5", {"seed": 1.5}),
        ("seed.*whole number from 0.*got -1", {"seed": -1}),
        ("seed.*whole number from 0.*got 4294967296", {"seed": 2**32}),
        ("seed.*whole number.*got None", {"seed": None}),
        ("seed.*whole number.*'0'", {"seed": "0"}),
        ("seed.*whole number.*got True", {"seed": True}),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_thermal_models_that_cannot_be_meant_are_refused(model: Any, match, change):
    refused(match, lambda: model(**{"n": 2, **change}))


QUADRANTS = Image(np.ones((4, 3, 3)), 1.0)
FIELD = Image(np.ones((2, 3, 3)), 1.0)
GRADIENT = jnp.ones((2, 3, 3))


def integrated(wavelength: Any = WAVELENGTH, **change: Any) -> Image:
    return integrated_centre_of_mass(FIELD, wavelength, **change)


@pytest.mark.parametrize(
    ("match", "build"),
    [
        ("semiangle.*finite, in mrad", lambda: differential_phase_contrast(QUADRANTS, segmented(), NAN)),
        ("semiangle.*must be real numbers", lambda: differential_phase_contrast(QUADRANTS, segmented(), "20")),
        ("semiangle.*one number", lambda: differential_phase_contrast(QUADRANTS, segmented(), (20.0, 20.0))),
        ("semiangle.*5–30 mrad", lambda: differential_phase_contrast(QUADRANTS, segmented(), 0.02)),
        ("detector.*CentreOfMass", lambda: differential_phase_contrast(QUADRANTS, CentreOfMass(30), 20.0)),  # pyright: ignore
        ("wavelength.*positive, in Å.*probe.wavelength", lambda: integrated(0.0)),
        ("wavelength.*finite", lambda: integrated(NAN)),
        ("wavelength.*must be real numbers", lambda: integrated("200 kV")),
        ("wavelength.*one number", lambda: integrated((0.02, 0.02))),
        ("boundary.*periodic, mirror", lambda: integrated(boundary="open")),
        ("boundary.*periodic, mirror", lambda: integrated(boundary=None)),
        ("boundary.*periodic, mirror", lambda: integrated(boundary=["mirror"])),
        ("high_pass.*not negative, in 1/Å", lambda: integrated(high_pass=-0.1)),
        ("high_pass.*finite", lambda: integrated(high_pass=NAN)),
        ("high_pass.*finite", lambda: integrated(high_pass=INF)),
        ("high_pass.*must be real numbers", lambda: integrated(high_pass=None)),
        ("high_pass.*must be real numbers", lambda: integrated(high_pass=True)),
        ("high_pass.*one number", lambda: integrated(high_pass=(0.1, 0.1))),
        ("gradient.*rows, cols", lambda: integrate_gradient(jnp.ones((3, 3, 3)), (1.0, 1.0))),
        ("gradient.*rows, cols", lambda: integrate_gradient(jnp.ones((3, 3)), (1.0, 1.0))),
        ("sampling.*positive", lambda: integrate_gradient(GRADIENT, (1.0, 0.0))),
        ("sampling.*2 numbers", lambda: integrate_gradient(GRADIENT, 1.0)),
        ("factor.*whole number.*got 1.5", lambda: blurred(jnp.ones((4, 4)), (1, 1), jnp.zeros(2), 1.5)),  # pyright: ignore
        ("factor.*whole number.*got 0", lambda: blurred(jnp.ones((4, 4)), (1, 1), jnp.zeros(2), 0)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_phase_contrast_that_cannot_be_meant_is_refused(match, build):
    refused(match, build)


@pytest.mark.parametrize(
    ("match", "build"),
    [
        ("shape.*whole number.*got 40.0", lambda: Grid((40.0, 40), (0.1, 0.1))),
        ("shape.*whole number from 1.*got 0", lambda: Grid((0, 40), (0.1, 0.1))),
        ("shape.*two whole numbers", lambda: Grid(40, (0.1, 0.1))),
        ("sampling.*two numbers.*y, x", lambda: Grid((40, 40), 0.1)),
        ("sampling.*positive", lambda: Grid((40, 40), (0.1, -0.1))),
        ("sampling.*finite", lambda: Grid((40, 40), (0.1, NAN))),
        ("sampling.*looks like nm", lambda: Grid((40, 40), (1e-11, 1e-11))),
        ("offset.*finite", lambda: Grid((40, 40), (0.1, 0.1), (INF, 0.0))),
        ("width.*positive", lambda: Grid.for_box(-4.0, 4.0, 0.1)),
        ("height.*finite", lambda: Grid.for_box(4.0, NAN, 0.1)),
        ("sampling.*positive", lambda: Grid.for_box(4.0, 4.0, 0.0)),
        ("sampling.*real numbers", lambda: Grid.for_box(*WORDS)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_grids_that_cannot_be_meant_are_refused(match, build):
    refused(match, build)


@pytest.mark.parametrize("field", ["defocus", "C30", "phi12"])
def test_a_traced_length_that_is_not_finite_stops_the_program(field):
    def spectrum(value):
        aberrations = {"C12": 10.0, "phi12": 0.1, "C30": 1e4} | ({field: value} if field != "defocus" else {})
        built = probe(defocus=value if field == "defocus" else 0.0, aberrations=aberrations)
        return jnp.abs(probe_spectrum(built, BOX)).sum()

    run = jax.jit(spectrum)
    assert jnp.isfinite(run(0.5))
    with pytest.raises(Exception, match=f"{field}: must be finite"):
        run(NAN)
    assert np.isfinite(jax.grad(spectrum)(0.5))


def test_a_soft_edge_is_part_of_what_a_detector_needs():
    """60–120 mrad with edges of 60: half of the outer one lies beyond a band limit of 125, and read 2 % low."""
    hard, soft = ({"adf": AnnularDetector(60, 120, edge)} for edge in (0.0, 60.0))
    check_reach(hard, 125.0, False, probe())
    refused("detector.*beyond the grid's band limit of 125", lambda: check_reach(soft, 125.0, False, probe()))
    check_reach(soft, 151.0, False, probe())
