"""Fit of a measured PACBED pattern of silicon [110] by Gauss–Newton steps through the multislice."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from ferrojax.crystal import Atoms
from ferrojax.detection.pacbed import (
    Directions,
    Overlap,
    RockingCurves,
    beams_within,
    plan_overlap,
    position_averaged_pattern,
    rocking_curves,
)
from ferrojax.grid import Grid
from ferrojax.multislice import plan_slices, slice_tables

ENERGY = 200e3
CELL = np.array([3.8392, 5.4294, 3.8392])
SITES = np.array([(0.5, 0.625, 0.25), (0, 0.875, 0.25), (0.5, 0.375, 0.75), (0, 0.125, 0.75)])
RMS = 0.00292**0.5
CENTRE, RADIUS, MRAD_PER_PX = np.array([303.5, 302.9]), 128.8, 0.0706
"""Centre (x, y) and radius of the bright disc in px, and angle per px, as the data's README states them: the start."""
SLACK = 0.9
"""mrad by which discs may move in a fit before a pixel could miss one."""
MULTISLICE = ("tilt_x", "tilt_y", "rms")
OTHERS = {
    "thickness": 150.0, "semiangle": 9.1, "edge": 0.15, "centre_x": 0.0, "centre_y": 0.0, "rotation": 114.0,
    "scale": 0.99, "stretch": 0.0, "shear": 0.0, "gain": 1.0, "constant": 20.0, "tail": 0.1, "tail_width": 3.0,
}  # fmt: skip
START = {"tilt_x": 0.0, "tilt_y": 0.0, "rms": RMS, **OTHERS}
NAMES = tuple(START)
BOUNDS = {
    "thickness": (37.0, 318.0), "semiangle": (8.6, 9.6), "edge": (0.02, 0.4), "gain": (0.1, 10.0),
    "tail": (0.0, 0.9), "tail_width": (0.3, 30.0), "rms": (0.02, 0.12), "constant": (-100.0, 300.0),
    "tilt_x": (-4.0, 4.0), "tilt_y": (-4.0, 4.0),
}  # fmt: skip
SIZE = {
    "tilt_x": 0.3, "tilt_y": 0.3, "rms": 0.01, "thickness": 10.0, "semiangle": 0.1, "edge": 0.05, "centre_x": 2.0,
    "centre_y": 2.0, "rotation": 1.0, "scale": 0.01, "stretch": 0.01, "shear": 0.01, "gain": 0.1, "constant": 20.0,
    "tail": 0.1, "tail_width": 1.0,
}  # fmt: skip
"""Natural step of every parameter, so that the solver sees numbers of order one."""


ROUND = {"tilt_x": 1.0, "tilt_y": 1.0, "rms": 0.02, "thickness": 30.0}


@dataclass(frozen=True)
class Choice:
    """What a fit takes for granted."""

    parametrization: str = "lobato"
    absorption: bool = True
    rms: float = RMS
    shape: tuple[int, int] = (48, 32)
    step: float = 2.0
    binning: int = 3
    mask: float = 2.0
    weighting: str = "poisson"
    fixed: tuple[str, ...] = ("rms",)


@dataclass
class Fit:
    """Parameters, their residuals (weighted) and Jacobian at the end of a fit."""

    value: dict[str, float]
    residual: np.ndarray
    jacobian: np.ndarray
    image: np.ndarray
    free: tuple[str, ...]
    correlation: float


class Specimen:
    """The rocking curves of a foil, and their derivatives through the multislice, as functions of tilt and rms."""

    def __init__(self, choice: Choice, cells: int = 84, first: int = 36):
        layers = 2 * cells
        position = np.concatenate([(SITES + np.array([0, 0, c])) * CELL for c in range(cells)])
        atoms = Atoms(position, [14] * len(position), (CELL[0], CELL[1], CELL[2] * cells), choice.rms)
        grid = Grid(choice.shape, (float(CELL[1] / choice.shape[0]), float(CELL[0] / choice.shape[1])))
        layer = CELL[2] / 2
        plan = plan_slices(atoms, layer + 1e-4, [float(layer * (i + 1)) for i in range(first // 2, layers)])
        kind = "renormalised" if choice.absorption else "conventional"
        tables = slice_tables(plan.elements, grid, ENERGY, kind, parametrization=choice.parametrization)
        beams = tuple(b for b in beams_within(grid, ENERGY, 34.0) if (b[0] + b[1]) % 2 == 0)  # centred cell
        directions = Directions.within(9.1 + SLACK, choice.step)
        k2 = tables.kx**2 + tables.ky[:, None] ** 2

        def curves(p) -> RockingCurves:
            placed, rms = tables, p[2]
            if not choice.absorption:  # the mean potential instead of the mean transmission: nothing is lost
                placed = eqx.tree_at(lambda t: t.phase, tables, tables.phase * jnp.exp(-2 * jnp.pi**2 * rms**2 * k2))
                rms = 0.0 * rms
            moved = eqx.tree_at(lambda a: a.thermal_rms, atoms, jnp.full(len(atoms.number), rms))
            return rocking_curves(moved, ENERGY, directions, plan, placed, grid, beams=beams, tilt=p[:2], batch=32)

        moving = 2 if "rms" in choice.fixed else 3

        def expand(p):
            def along(direction):
                return jax.jvp(lambda p: curves(p).intensity, (p,), (direction,))[1]

            slope = jnp.stack([along(d) for d in jnp.eye(3)[:moving]], -1)
            return curves(p), jnp.pad(slope, ((0, 0),) * 4 + ((0, 3 - moving),))

        self._expand = eqx.filter_jit(expand)
        self._known: dict = {}

    def expand(self, p: tuple[float, ...]) -> tuple[RockingCurves, jax.Array]:
        """Curves at p = (tilt_x, tilt_y, rms) and their exact derivatives (…, 3); zero for an rms that is fixed."""
        if p not in self._known:
            self._known[p] = self._expand(jnp.asarray(p, jnp.float32))
        return self._known[p]


class Picture(eqx.Module):
    """The measured pattern, binned, with what a model of it needs to be drawn on the same pixels."""

    data: jax.Array
    weight: jax.Array
    x: jax.Array
    y: jax.Array
    spread_k: jax.Array
    used: "Hashed" = eqx.field(static=True)
    drawn: "Hashed" = eqx.field(static=True)
    pad: int = eqx.field(static=True)

    @staticmethod
    def of(counts: np.ndarray, choice: Choice, sector: np.ndarray | None = None) -> "Picture":
        """Bin the counts and weight them within the mask; the convolution needs the model in a margin around it."""
        b = choice.binning
        n = counts.shape[0] // b
        data = counts.reshape(n, b, n, b).mean((1, 3))
        centre = (np.arange(n) + 0.5) * b - 0.5
        x, y = np.meshgrid(centre - CENTRE[0], centre - CENTRE[1])
        used = np.hypot(x, y) < choice.mask * RADIUS
        sigma = np.sqrt(data + 20.0) if choice.weighting == "poisson" else np.full(data.shape, 30.0)
        weight = used / sigma if sector is None else used * sector / sigma
        drawn = np.hypot(x, y) < 2.3 * RADIUS
        pad = int(1.4 * n) // 16 * 16
        f = np.fft.fftfreq(pad, b * MRAD_PER_PX)
        k = np.hypot(f[:, None], f[None, : pad // 2 + 1])
        data, weight, x, y, k = (jnp.asarray(a, jnp.float32) for a in (data, weight, x, y, k))
        return Picture(data, weight, x, y, k, Hashed(used), Hashed(drawn), pad)

    def angles(self, p: dict) -> jax.Array:
        """(x, y) in mrad along the crystal's axes of every drawn pixel."""
        dx, dy = self.x[self.drawn.rows, self.drawn.cols], self.y[self.drawn.rows, self.drawn.cols]
        dx, dy = dx - p["centre_x"], dy - p["centre_y"]
        dx, dy = dx * (1 + p["stretch"]) + dy * p["shear"], dy * (1 - p["stretch"]) + dx * p["shear"]
        a = jnp.deg2rad(p["rotation"])
        x, y = jnp.cos(a) * dx + jnp.sin(a) * dy, jnp.cos(a) * dy - jnp.sin(a) * dx
        return jnp.stack([x, y], -1) * MRAD_PER_PX * p["scale"]

    def model(self, p: dict, curves: RockingCurves, overlap) -> jax.Array:
        """Counts: elastic pattern, a share `tail` of it spread by a two-dimensional Lorentzian, and a constant."""
        pattern = position_averaged_pattern(
            curves, p["thickness"], p["semiangle"], self.angles(p), overlap, edge=p["edge"]
        )
        image = jnp.zeros(self.data.shape).at[self.drawn.rows, self.drawn.cols].set(pattern)
        spread = 1 - p["tail"] + p["tail"] * jnp.exp(-2 * jnp.pi * p["tail_width"] * self.spread_k)
        size = (self.pad, self.pad)
        image = jnp.fft.irfft2(jnp.fft.rfft2(image, s=size) * spread, s=size)
        return 1e6 * p["gain"] * image[: self.data.shape[0], : self.data.shape[1]] + p["constant"]


class Hashed:
    """Where a mask is true, hashable so that compiled code can hold it."""

    def __init__(self, mask: np.ndarray):
        self.rows, self.cols = np.nonzero(mask)
        self.key = mask.tobytes()

    def __hash__(self):
        return hash(self.key)

    def __eq__(self, other):
        return isinstance(other, Hashed) and self.key == other.key


class Frame(eqx.Module):
    """A fit's model, with the multislice expanded to first order about `at` (exact there in value and derivative)."""

    x0: jax.Array
    at: jax.Array
    curves: RockingCurves
    slope: jax.Array
    overlap: Overlap
    picture: Picture
    columns: tuple[int, ...] = eqx.field(static=True)

    def image(self, z: jax.Array) -> jax.Array:
        """Counts for these values of the free parameters (in units of SIZE)."""
        x = self.x0.at[np.array(self.columns)].set(z)
        p = {name: x[i] * SIZE[name] for i, name in enumerate(NAMES)}
        shift = jnp.stack([p[name] for name in MULTISLICE]) - self.at
        moved = eqx.tree_at(lambda c: c.intensity, self.curves, self.curves.intensity + self.slope @ shift)
        return self.picture.model(p, moved, self.overlap)

    def residual(self, z: jax.Array) -> jax.Array:
        """Weighted difference within the mask."""
        used = self.picture.used
        return ((self.image(z) - self.picture.data) * self.picture.weight)[used.rows, used.cols]


@eqx.filter_jit
def image_of(frame: Frame, z):
    return frame.image(z)


@eqx.filter_jit
def residual_of(frame: Frame, z):
    return frame.residual(z)


@eqx.filter_jit
def jacobian_of(frame: Frame, z):
    return jax.jacfwd(frame.residual)(z)


def make_frame(value: dict, specimen: "Specimen", picture: Picture, free: tuple[str, ...]) -> Frame:
    """Expand the multislice at these values and plan which discs cover which pixel."""
    at = tuple(float(value[n]) for n in MULTISLICE)
    curves, slope = specimen.expand(at)
    k = np.asarray(picture.angles({n: jnp.asarray(v) for n, v in value.items()}))
    overlap = plan_overlap(curves.beam_angle, k, value["semiangle"] + SLACK, 8)
    overlap = Overlap(jnp.asarray(overlap.beam), jnp.asarray(overlap.present, jnp.float32))
    x0 = jnp.asarray([value[n] / SIZE[n] for n in NAMES], jnp.float32)
    columns = tuple(NAMES.index(n) for n in free)
    return Frame(x0, jnp.asarray(at, jnp.float32), curves, slope, overlap, picture, columns)


def fit(
    start: dict, specimen: Specimen, picture: Picture, choice: Choice, *, rounds: int = 4, done: float = 3e-3
) -> Fit:
    """Least squares with Jacobians in forward mode; the multislice is expanded anew in every round."""
    free = tuple(n for n in NAMES if n not in choice.fixed)
    value = dict(start)
    for turn in range(rounds):
        frame = make_frame(value, specimen, picture, free)
        z0 = np.asarray(frame.x0)[list(frame.columns)].astype(float)
        if turn == 0:
            gain = _gain(image_of(frame, jnp.asarray(z0, jnp.float32)), picture, value)
            value |= {n: g for n, g in zip(("gain", "constant"), gain, strict=True) if n in free}
            z0 = np.array([value[n] / SIZE[n] for n in free])
        low, high = _limits(free, value)
        solved = least_squares(
            lambda z, frame=frame: np.asarray(residual_of(frame, jnp.asarray(z, jnp.float32)), float),
            np.clip(z0, low + 1e-6, high - 1e-6),
            jac=lambda z, frame=frame: np.asarray(jacobian_of(frame, jnp.asarray(z, jnp.float32)), float),  # pyright: ignore
            bounds=(low, high),
            max_nfev=12,
            ftol=1e-5,
            xtol=1e-5,
        )
        moved = {n: float(solved.x[i] * SIZE[n]) for i, n in enumerate(free)}
        change = max(abs(moved[n] - value[n]) / SIZE[n] for n in free)
        value |= moved
        if change < done:
            break
    final = np.asarray(image_of(frame, jnp.asarray(solved.x, jnp.float32)), float)
    return Fit(value, np.asarray(solved.fun), np.asarray(solved.jac), final, free, correlation(final, picture))


def correlation(image: np.ndarray, picture: Picture) -> float:
    """Pearson's, over the mask."""
    at = picture.used.rows, picture.used.cols
    return float(np.corrcoef(image[at], np.asarray(picture.data)[at])[0, 1])


def _gain(image, picture: Picture, value: dict) -> np.ndarray:
    """Gain and constant by linear least squares."""
    at = picture.used.rows, picture.used.cols
    w = np.asarray(picture.weight)[at]
    shape = (np.asarray(image, float)[at] - value["constant"]) / value["gain"]
    return np.linalg.lstsq(np.stack([shape * w, w], -1), np.asarray(picture.data)[at] * w, rcond=None)[0]


def _limits(free: tuple[str, ...], value: dict) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of one round: the physical ones, and no further than the expansion of the multislice holds."""
    edges = []
    for n in free:
        a, b = BOUNDS.get(n, (-np.inf, np.inf))
        r = ROUND.get(n, np.inf)
        edges.append((max(a, value[n] - r) / SIZE[n], min(b, value[n] + r) / SIZE[n]))
    return np.array(edges).T  # pyright: ignore
