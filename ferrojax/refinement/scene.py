"""Images of cells under one recording, from the response of their crystal."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from ferrojax.detection import at_thickness
from ferrojax.detection.operator import check_probe
from ferrojax.errors import InputError, is_traced
from ferrojax.optics import Probe, beam_spectrum
from ferrojax.products import EXACT
from ferrojax.refinement.movers import Mover
from ferrojax.refinement.response import DEGREES, CellResponse

LENGTH = 1.4
"""Steps between neighbouring nodes of tilt: the length of the Gaussian that interpolates operators between them."""
NUGGET = 1e-4
"""Keeps the interpolation within what single precision bears (1e-4 for the nodes of two lattices)."""


class Waves(eqx.Module):
    """The terms of a response under one microscope: Fourier coefficients about B, half of the plane of q.

    value: (terms, n), fractions of the beam; displacements in their mover's unit. q: (n, 2) in steps of 1/box.
    """

    value: Complex[Array, "terms n"]
    q: Int[np.ndarray, "n 2"]
    box: tuple[float, float] = eqx.field(static=True)


class Terms(NamedTuple):
    """What displacements make of the terms of a response.

    mover: all that moves. of: (terms,) rows of it, -1 of the clean cell. power: (terms, 2).
    """

    mover: tuple[Mover, ...]
    of: Int[np.ndarray, " terms"]
    power: Int[np.ndarray, "terms 2"]

    @staticmethod
    def made(response: CellResponse) -> "Terms":
        names = [m.name for m in response.mover]
        of = np.array([-1 if who == "clean" else names.index(who) for who, _, _ in response.term])
        return Terms(response.mover, of, np.array([power for _, *power in response.term]))

    def rows(self, name: str) -> Int[np.ndarray, " n"]:
        """The terms of one mover."""
        return np.flatnonzero([k >= 0 and self.mover[k].name == name for k in self.of])

    def polynomial(self, k: int, moment: Float[Array, "2 n"]) -> Float[Array, " powers"]:
        """The weights of the terms of mover k, for powers 0, 1, … of its displacement (x and y, in its unit), or for
        their mean over cells."""
        power = self.power[self.of == k]
        return moment[0, power[:, 0]] * moment[1, power[:, 1]]

    @property
    def b(self) -> int:
        """The row of B by itself."""
        return next(k for k, m in enumerate(self.mover) if m.name.endswith(":B"))

    @property
    def follows(self) -> bool:
        """Whether oxygen follows B: the crystal has a soft mode."""
        return any(m.follows for m in self.mover)


def powers(displacement: Float[Array, "2"]) -> Float[Array, "2 6"]:
    """Powers 0 to 5 of a displacement in its unit."""
    return displacement[:, None] ** np.arange(max(DEGREES) + 1)


def waves_of(response: CellResponse, detector: str, probe: Probe, thickness, tilt) -> Waves:
    """Every term at one thickness (Å), tilt (mrad, (x, y)) and probe (its source size is not applied here).

    Differentiable in all three (semi-angle: with a soft edge).
    Errors: InputError for a probe of another energy or wider than the response's beams, and for a thickness or a tilt
    outside what was simulated (where they are not traced).
    """
    check_probe(probe, response.energy, response.max_semiangle)
    return waves_from(response, operators_at(response, detector, thickness, tilt), probe)


def operators_at(response: CellResponse, detector: str, thickness, tilt) -> Complex[Array, "terms pairs"]:
    """Every term's operator at one thickness (Å) and tilt (mrad), whatever the optics."""
    return operators_from(by_node(response, detector), response, thickness, tilt)


def by_node(response: CellResponse, detector: str) -> Float[Array, "nodes 2 exits terms pairs"]:
    """Real and imaginary parts, laid out for `operators_from`, which is asked for many tilts: a product of matrices."""
    value = jnp.moveaxis(response.coefficient[detector], 0, 2)
    return jnp.stack([value.real, value.imag], 1)


def operators_from(
    table: Float[Array, "nodes 2 exits terms pairs"], response: CellResponse, thickness, tilt
) -> Complex[Array, "terms pairs"]:
    """`operators_at`, from what `by_node` laid out."""
    _check_tilt(response.tilt, tilt)
    # the tilt comes first: it leaves a single node of all, and its derivatives are rows of the same product
    part = jnp.tensordot(tilt_weights(response.tilt, tilt).astype(table.dtype), table, 1, precision=EXACT)
    return at_thickness(jax.lax.complex(part[0], part[1]), response.thickness, thickness)


def waves_from(response: CellResponse, table: Complex[Array, "terms pairs"], probe: Probe) -> Waves:
    """What `operators_at` gave, under a probe."""
    unique, place = np.unique(response.q, axis=0, return_inverse=True)
    spectrum = jnp.concatenate(
        [beam_spectrum(probe, response.beam[response.group == k], aperture, response.box)
         for k, aperture in enumerate(response.aperture)]
    )  # fmt: skip
    pair = jnp.conj(spectrum[response.pair[:, 0]]) * spectrum[response.pair[:, 1]]
    value = jnp.zeros((len(response.term), len(unique)), table.dtype).at[:, place.ravel()].add(table * pair)
    return Waves(value, unique, response.box)


def _step(nodes: np.ndarray) -> float:
    """mrad between neighbouring nodes; infinite for a single one."""
    apart = np.linalg.norm(nodes[:, None] - nodes[None], axis=-1)
    return float(apart[apart > 0].min(initial=np.inf))


def _slack(nodes: np.ndarray) -> float:
    """mrad beyond the outermost node that are still interpolated."""
    return _step(nodes) / 2 if len(nodes) > 1 else 1e-6


def _check_tilt(nodes: np.ndarray, tilt) -> None:
    """Between nodes, or within half a step of one."""
    if is_traced(tilt):
        return
    x, y = (float(v) for v in np.asarray(tilt, float))
    farthest = np.linalg.norm(nodes, axis=1).max()
    if np.hypot(x, y) > farthest + _slack(nodes):
        problem = f"lies outside the tilts that were simulated, up to {farthest:.1f} mrad"
        raise InputError("tilt", f"({x:g}, {y:g}) mrad", problem, "make the response with a larger max_tilt")


def tilt_weights(nodes: Float[np.ndarray, "nodes 2"], tilt) -> Float[Array, " nodes"]:
    """Weights of the nodes at one tilt: a Gaussian process through them (radial basis functions).

    A tilt that is traced and lies outside the nodes stops the program as it runs.
    """
    tilt = jnp.asarray(tilt, jnp.result_type(float))
    if is_traced(tilt):
        known = jax.lax.stop_gradient(tilt)
        farthest = np.linalg.norm(nodes, axis=1).max() + _slack(nodes)
        problem = f"tilt: lies outside the tilts that were simulated, up to {farthest:.1f} mrad"
        tilt = eqx.error_if(tilt, ~((known**2).sum() <= farthest**2 + 1e-6), problem)
    apart = np.linalg.norm(nodes[:, None] - nodes[None], axis=-1)
    scale = 1 / (2 * (LENGTH * _step(nodes)) ** 2)
    inverse = np.linalg.inv(np.exp(-(apart**2) * scale) + NUGGET * np.eye(len(nodes)))
    near = jnp.exp(-((tilt - nodes) ** 2).sum(-1) * scale)
    weight = jnp.matmul(near, jnp.asarray(inverse, near.dtype), precision=EXACT)
    return weight / weight.sum()


def blurred_by(k: Float[np.ndarray, "n 2"], source) -> Float[Array, " n"]:
    """What a source of covariance (xx, yy, xy) Å² leaves of waves k (n, 2) 1/Å."""
    xx, yy, xy = source
    return jnp.exp(-2 * jnp.pi**2 * (xx * k[:, 0] ** 2 + yy * k[:, 1] ** 2 + 2 * xy * k[:, 0] * k[:, 1]))


def image_of(waves: Waves, coefficient, at: Float[Array | np.ndarray, "n 2"], source=(0.0, 0.0, 0.0)):
    """Signal (n,) at places (Å, (x, y) from B): terms times `coefficient` (terms,), under a source (xx, yy, xy) Å²."""
    q = waves.q / np.array(waves.box)
    blur = blurred_by(q, source)
    twice = np.where((waves.q == 0).all(1), 1.0, 2.0)
    total = jnp.matmul(jnp.asarray(coefficient), waves.value, precision=EXACT) * blur * twice
    phase = jnp.exp(2j * jnp.pi * jnp.matmul(jnp.asarray(at), jnp.asarray(q.T, blur.dtype), precision=EXACT))
    return jnp.matmul(phase, total, precision=EXACT).real
