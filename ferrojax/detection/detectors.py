"""Detectors: what is recorded of every diffraction pattern."""

import abc
from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.checks import check_numbers, real_number, real_numbers, whole_number, whole_pair
from ferrojax.detection.response import Rebinning, Response, WeightedSum
from ferrojax.errors import InputError
from ferrojax.grid import Grid
from ferrojax.image import DiffractionScan, Image

MOST_PIXELS = 16384
"""Along a side of a camera."""
LEAST_OUTER, WIDEST = 0.5, 1500.0
"""mrad; a detector that ends below the first is given in rad, and the second is nearly a right angle."""


_MRAD = "give mrad: 0.06 rad is 60"


def _angle(field: str, value: Any) -> float:
    """mrad, or inf."""
    if isinstance(value, float | np.floating) and value == np.inf:
        return float(value)
    return real_number(field, value, _MRAD, unit="mrad", high=WIDEST)


def _width(value: Any) -> float:
    return real_number(
        "detector edge", value, "give the width of the soft edge, 0 for a hard one", unit="mrad", low=0.0
    )


def _count(value: Any) -> int:
    return whole_number("segments", value, "give the number of sectors, e.g. segments=4")


def _azimuth(value: Any) -> float:
    remedy = "give the first boundary's azimuth in rad: 45° is 0.785"
    return real_number("rotation", value, remedy, unit="rad", low=-4 * np.pi, high=4 * np.pi)


class Detector(eqx.Module):
    """What every detector offers. inner, outer: the angles (mrad) between which it needs the pattern to be right."""

    inner: eqx.AbstractVar[float]
    outer: eqx.AbstractVar[float]

    @property
    def soft(self) -> float:
        """mrad, half the width of soft edges: how far it reaches beyond `inner` and `outer`."""
        return getattr(self, "edge", 0.0) / 2

    @property
    @abc.abstractmethod
    def takes_lost(self) -> bool:
        """Whether intensity that is only known to lie beyond the grid's angles may be credited to it."""

    @property
    @abc.abstractmethod
    def channels(self) -> tuple[int, ...]:
        """Shape of what it records per probe position."""

    @abc.abstractmethod
    def response(self, grid: Grid, wavelength: float) -> Response:
        """The linear map on diffraction patterns of a grid; wavelength in Å."""

    @abc.abstractmethod
    def result(self, signal, error, sampling, name: str) -> Image | DiffractionScan:
        """What the user gets from averaged signals.

        signal: (*stack, rows, cols, *channels); error: its standard error or None; sampling: scan step Å (y, x).
        """


class AnnularDetector(Detector):
    """A ring from `inner` to `outer` (mrad; inf: all that is scattered further); inner = 0 is bright field.

    edge: width in mrad of linear ramps centred on both angles (none at the zero beam); 0 is hard.
    """

    inner: float = eqx.field(static=True, converter=partial(_angle, "inner"))
    outer: float = eqx.field(static=True, converter=partial(_angle, "outer"))
    edge: float = eqx.field(static=True, converter=_width, default=0.0)

    def __check_init__(self):
        _check_ring(self.inner, self.outer, self.edge)

    @property
    def channels(self) -> tuple[int, ...]:
        return ()

    @property
    def takes_lost(self) -> bool:
        return True

    def weights(self, grid: Grid, wavelength: float) -> Float[Array, "rows cols"]:
        """Weight of every diffraction pixel, FFT order."""
        ring = _ring(grid.k * wavelength * 1e3, self.inner, self.outer, self.edge)
        return _collecting(ring, self, grid, wavelength)

    def response(self, grid: Grid, wavelength: float) -> WeightedSum:
        """One channel; what lies beyond the grid is left to the caller."""
        return WeightedSum(self.weights(grid, wavelength))

    def result(self, signal, error, sampling, name: str) -> Image:
        """Image of the collected fraction of the beam, (*stack, rows, cols)."""
        return Image(signal, sampling, error, name)


class SegmentedDetector(Detector):
    """A ring from `inner` to `outer` (mrad) cut into equal sectors.

    Sector s covers the azimuths atan2(ky, kx) from rotation + s·2π/segments (rad), towards +y (down the rows). A
    boundary shares out the pixels it crosses by the part of their width on either side, so a symmetric pattern gives
    equal signals; sectors add up to the AnnularDetector of the same angles. edge: width of soft edges, mrad, of the
    ring and (where wider than a pixel) of the boundaries.
    """

    inner: float = eqx.field(static=True, converter=partial(_angle, "inner"))
    outer: float = eqx.field(static=True, converter=partial(_angle, "outer"))
    segments: int = eqx.field(static=True, converter=_count, default=4)
    rotation: float = eqx.field(static=True, converter=_azimuth, default=0.0)
    edge: float = eqx.field(static=True, converter=_width, default=0.0)

    def __check_init__(self):
        _check_ring(self.inner, self.outer, self.edge)
        _check_finite(self.outer)

    @property
    def channels(self) -> tuple[int, ...]:
        return (self.segments,)

    @property
    def takes_lost(self) -> bool:
        return False

    @property
    def azimuth(self) -> np.ndarray:
        """Middle of every sector, rad, (segments,)."""
        return self.rotation + (np.arange(self.segments) + 0.5) * 2 * np.pi / self.segments

    def weights(self, grid: Grid, wavelength: float) -> Float[Array, "segments rows cols"]:
        """Weight of every diffraction pixel in every sector, FFT order."""
        ky, kx = grid.frequencies
        azimuth = np.arctan2(np.broadcast_to(ky[:, None], grid.shape), kx[None])
        across = np.abs(np.cos(azimuth)) / grid.extent[0] + np.abs(np.sin(azimuth)) / grid.extent[1]
        across = np.maximum(across, self.edge / (wavelength * 1e3))  # width of a pixel along the azimuth, 1/Å
        k = np.where(grid.k > 0, grid.k, 1.0)
        width = np.where(grid.k > 0, np.minimum(across / k, 2 * np.pi), 2 * np.pi)  # the zero beam: all the way round
        start = azimuth - self.rotation - width / 2
        share = (self._covered(start + width) - self._covered(start)) / width
        ring = _ring(grid.k * wavelength * 1e3, self.inner, self.outer, self.edge)
        return _collecting(share * ring, self, grid, wavelength)

    def _covered(self, azimuth: np.ndarray) -> np.ndarray:
        """∫ of every sector's indicator from 0 to an azimuth of any number of turns, (segments, ...)."""
        sector = 2 * np.pi / self.segments
        turns = np.floor(azimuth / (2 * np.pi))
        first = sector * np.arange(self.segments).reshape(-1, *[1] * azimuth.ndim)
        return turns * sector + np.clip(azimuth - turns * 2 * np.pi - first, 0, sector)

    def response(self, grid: Grid, wavelength: float) -> WeightedSum:
        """Channels (segments,)."""
        check_grid(self.outer + self.edge / 2, grid, wavelength)
        return WeightedSum(self.weights(grid, wavelength))

    def result(self, signal, error, sampling, name: str) -> Image:
        """Image of every sector's fraction of the beam, (*stack, segments, rows, cols)."""
        return Image(_channels_first(signal), sampling, None if error is None else _channels_first(error), name)


class CentreOfMass(Detector):
    """First moments (x, y) in mrad of the pattern within `outer` (mrad), over the intensity collected there.

    A beam deflected to +x has a positive x. edge: width in mrad of a soft edge, 0 is hard.
    """

    outer: float = eqx.field(static=True)
    edge: float = eqx.field(static=True)

    def __init__(self, outer, edge=0.0):
        self.outer, self.edge = _angle("outer", outer), _width(edge)
        _check_ring(self.inner, self.outer, self.edge)
        _check_finite(self.outer)

    @property
    def inner(self) -> float:
        return 0.0

    @property
    def channels(self) -> tuple[int, ...]:
        return (3,)

    @property
    def takes_lost(self) -> bool:
        return False

    def response(self, grid: Grid, wavelength: float) -> WeightedSum:
        """Channels (3,): intensity, and its moments along x and y in mrad."""
        check_grid(self.outer + self.edge / 2, grid, wavelength)
        ky, kx = (k * wavelength * 1e3 for k in grid.frequencies)
        disc = _ring(grid.k * wavelength * 1e3, 0.0, self.outer, self.edge)
        _collecting(disc, self, grid, wavelength)
        return WeightedSum(_real(np.stack([disc, disc * kx[None], disc * ky[:, None]])))

    def result(self, signal, error, sampling, name: str) -> Image:
        """Image in mrad with the components as an axis before the scan's, (*stack, 2, rows, cols), x first.

        The standard error takes the moments and the intensity as uncorrelated.
        """
        total = signal[..., :1]
        centre = signal[..., 1:] / total
        if error is not None:
            error = _channels_first(jnp.hypot(error[..., 1:], centre * error[..., :1]) / total)
        return Image(_channels_first(centre), sampling, error, name)


class PixelatedDetector(Detector):
    """A camera: 4D-STEM at any angular sampling, the zero beam in the centre of the array.

    max_angle: mrad from the zero beam to the outer edge of the array, along rows and columns; corners reach further,
    which `outer` tells. Give either `step`, mrad per pixel or (y, x): the largest odd number of pixels within
    max_angle, one of them centred on the zero beam; or `shape`, pixels or (rows, cols), which then end at max_angle;
    where that count is even the zero beam falls between two pixels. Every pixel of the simulated pattern is shared
    out by area, so intensity is conserved; a step below the grid's adds no detail.
    """

    step: tuple[float, float] = eqx.field(static=True)
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(self, max_angle, step=None, shape=None):
        max_angle = real_number("max_angle", max_angle, _MRAD, unit="mrad", low=LEAST_OUTER, high=WIDEST)
        if (step is None) == (shape is None):
            raise InputError("detector", f"step={step}, shape={shape}", "needs one of step and shape", "give either")
        if step is None:
            remedy = "give a whole number of pixels, or (rows, cols), from 1"
            pair = (shape, shape) if isinstance(shape, int | np.integer) else shape
            rows, cols = whole_pair("detector shape", pair, remedy)
            self.shape, self.step = (rows, cols), (2 * max_angle / rows, 2 * max_angle / cols)
            return
        remedy = f"give mrad per pixel, one value or (y, x), up to {2 * max_angle:g} mrad, e.g. 1.0"
        given = real_numbers("detector step", step, remedy)
        limits = {"shape": (2,) if given.ndim else (), "above": 0.0, "high": 2 * max_angle}
        check_numbers("detector step", step, remedy, unit="mrad", **limits)
        y, x = (float(s) for s in np.broadcast_to(given, 2))
        rows, cols = (2 * int((max_angle / s - 0.5) * (1 + 1e-9)) + 1 for s in (y, x))
        if max(rows, cols) > MOST_PIXELS:
            problem = f"makes a camera of {max(rows, cols)} pixels a side, more than {MOST_PIXELS}"
            raise InputError("detector step", step, problem, remedy)
        self.shape, self.step = (rows, cols), (y, x)

    @property
    def inner(self) -> float:
        return 0.0

    @property
    def outer(self) -> float:
        """mrad to the corner of the array."""
        return float(np.hypot(*self.half_width))

    @property
    def half_width(self) -> tuple[float, float]:
        """mrad from the zero beam to the edge of the array (y, x)."""
        return self.shape[0] * self.step[0] / 2, self.shape[1] * self.step[1] / 2

    @property
    def channels(self) -> tuple[int, ...]:
        return self.shape

    @property
    def takes_lost(self) -> bool:
        return False

    def response(self, grid: Grid, wavelength: float) -> Rebinning:
        """Channels (rows, cols) of the array, zero beam in the centre."""
        matrices = []
        axes = zip(grid.frequencies, grid.extent, self.shape, self.step, self.half_width, strict=True)
        for k, extent, n, step, half in axes:
            angle, pixel = k * wavelength * 1e3, wavelength * 1e3 / extent
            check_grid(half, grid, wavelength, reach=angle.max() + pixel / 2)
            low = (np.arange(n) * step - half)[:, None]
            overlap = np.minimum(low + step, angle + pixel / 2) - np.maximum(low, angle - pixel / 2)
            matrices.append(_real(np.maximum(overlap, 0) / pixel))
        return Rebinning(*matrices)

    def result(self, signal, error, sampling, name: str) -> DiffractionScan:
        """DiffractionScan of fractions of the beam per pixel, (*stack, rows, cols, ky, kx)."""
        return DiffractionScan(signal, sampling, self.step, error, name)


def check_grid(angle: float, grid: Grid, wavelength: float, reach: float | None = None) -> None:
    """Refuse an angle (mrad) that the grid's frequencies do not reach."""
    reach = grid.nyquist * wavelength * 1e3 if reach is None else reach
    if angle > reach * (1 + 1e-6):
        problem = f"lies beyond the {reach:.1f} mrad that the grid reaches"
        raise InputError("detector", f"{angle:.1f} mrad", problem, "use a finer sampling or a smaller angle")


def _ring(angle: np.ndarray, inner: float, outer: float, edge: float) -> np.ndarray:
    if edge == 0:
        return ((angle >= inner) & (angle < outer)).astype(float)
    rise = np.clip((angle - inner) / edge + 0.5, 0, 1) if inner > 0 else 1.0
    return rise * np.clip((outer - angle) / edge + 0.5, 0, 1)


def _collecting(weights: np.ndarray, detector: Detector, grid: Grid, wavelength: float) -> Array:
    """The weights (*channels, rows, cols), refused where a channel has none: its signal would be zero everywhere."""
    if (weights.sum((-2, -1)) == 0).any():
        wide, reach = (n * wavelength * 1e3 for n in (1 / min(grid.extent), grid.k.max()))
        shown = f"{detector.inner:g}–{detector.outer:g} mrad"
        problem = (
            f"a channel holds none of the pattern's pixels, which are {wide:.3g} mrad apart up to {reach:.3g} mrad"
        )
        raise InputError("detector", shown, problem, "widen the ring, or simulate a larger window or box")
    return _real(weights)


def _check_ring(inner: float, outer: float, edge: float) -> None:
    span = f"{inner:g}–{outer:g} mrad"
    if 0 < outer < LEAST_OUTER or (outer == np.inf and 0 < inner < LEAST_OUTER):
        raise InputError("detector", span, f"angles below {LEAST_OUTER:g} mrad are none of a STEM's", _MRAD)
    if not 0 <= inner < outer:
        raise InputError("detector", span, "needs 0 ≤ inner < outer", "swap or correct the angles")
    if edge > outer - inner:
        problem = f"must lie between 0 and the width of {outer - inner:g} mrad"
        raise InputError("detector edge", edge, problem, "give the width of the soft edge in mrad")


def _check_finite(outer: float) -> None:
    if outer == np.inf:
        problem = "must be finite, because the pattern itself is needed up to there"
        raise InputError("detector", "outer = inf", problem, "give mrad, or use an AnnularDetector")


def _real(values: np.ndarray) -> Array:
    return jnp.asarray(values.astype(jnp.result_type(float)))  # cast first, so that nothing is compiled for it


def _channels_first(signal: Float[Array, "*stack rows cols channels"]) -> Float[Array, "*stack channels rows cols"]:
    return jnp.moveaxis(signal, -1, -3)
