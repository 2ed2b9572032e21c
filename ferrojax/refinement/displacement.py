"""Displacement read through the microscope: the pixels of every cell against the response of its crystal at the
recording that was found.

A cell is read by Gauss–Newton on its own pixels. What it does not ask for, but which its pixels show as well, is fitted
with it and held by what is known beforehand: where the lattice lies, gain and ground, oxygen that leaves the soft mode,
A columns by themselves, and the displacements of the cells around, which a reading before gave.
"""

from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float
from scipy.spatial import KDTree

from ferrojax.crystal import Crystal
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.polarization import CellFrames, Prediction
from ferrojax.products import exact
from ferrojax.refinement.cell_model import AROUND, CORNERS, Layout, View, signals, tables_of
from ferrojax.refinement.movers import CELLS, REACH
from ferrojax.refinement.recording import Recording, probe_of, source_of, weights_of_mean
from ferrojax.refinement.response import NOMINAL, CellResponse
from ferrojax.refinement.scene import Terms, Waves, blurred_by, waves_of
from ferrojax.refinement.specimens import LEAST

HALF = 0.62
"""Cell sides from its middle within which pixels belong to a cell: its A columns are among them."""
SWEEPS, STEPS = 3, 4
"""Readings of all cells, each with the cells around as the one before found them; Gauss–Newton steps of each."""
BATCH = 32
TRIED = np.stack(np.meshgrid(*[np.linspace(-0.24, 0.24, 9)] * 2), -1).reshape(-1, 2)
"""Å, displacements of which the best is where a reading begins."""


class Reading(NamedTuple):
    """What was read of n cells.

    displacement: (n, 2) Å along the crystal's axes, B against the centroid of its A; covariance: (n, 2, 2) Å², of
    counting and of what was fitted beside; structural: alike, of what the response itself is off (phonons,
    joint motions). oxygen: (n, oxygens, 2) Å by which each leaves the mode, with its error of both kinds.
    shift: (n, 2) Å by which the lattice lies off the centroid given. misfit: (n,) mean square residual over its
    variance; gain: counts of variance for a count of signal, as all cells' residuals show it.
    """

    displacement: Float[np.ndarray, "n 2"]
    covariance: Float[np.ndarray, "n 2 2"]
    structural: Float[np.ndarray, "n 2 2"]
    oxygen: Float[np.ndarray, "n oxygens 2"]
    oxygen_error: Float[np.ndarray, "n oxygens 2"]
    shift: Float[np.ndarray, "n 2"]
    misfit: Float[np.ndarray, " n"]
    gain: float


class _Seen(NamedTuple):
    """All detectors at the recording. scatter: (detectors, detectors, q) counts², covariance of what the response
    misses of columns displaced by 1 Å rms, half of the plane."""

    view: tuple[View, ...]
    scatter: Complex[Array, "d d q"]


class Microscope(NamedTuple):
    """A `Predictor` that reads displacements at a recording.

    recording, response, crystal: as of `fit_mean_cells`. detector: of the image that is read, a name of the response.
    beside: detector -> image of the same scan, read together with it.
    """

    recording: Recording
    response: CellResponse
    crystal: Crystal
    detector: str = "haadf"
    beside: Mapping[str, Image] = {}
    name: str = "read through the microscope"
    """Of the method, in a map's provenance."""

    def predict(self, image: Image, cells: CellFrames) -> Prediction:
        """Displacements and covariances in the image frame, NaN where a cell's pixels are not all on the image."""
        found = self.read(image, cells)
        turn = np.asarray(cells.rotation, float)
        structural = turn @ found.structural @ turn.T
        return Prediction(
            jnp.asarray(found.displacement @ turn.T),
            jnp.asarray(turn @ found.covariance @ turn.T + structural),
            jnp.asarray(structural),
            jnp.asarray(turn @ common_covariance(self.recording) @ turn.T),
            self.recording.notes,
        )

    def read(self, image: Image, cells: CellFrames) -> Reading:
        """Everything that is read of the cells."""
        seen = (cells.crystal or self.crystal.name, cells.zone or "0 0 1")
        if seen != (self.crystal.name, "0 0 1"):
            remedy = f"map {self.crystal.name} along 0 0 1, or fit the recording of this crystal"
            raise InputError("cells", " along ".join(seen), f"are not those of {self.crystal.name} along 0 0 1", remedy)
        images = {self.detector: image, **self.beside}
        for name, one in images.items():
            if name not in self.recording.data:
                remedy = f"choose from {', '.join(self.recording.data)}, or fit the recording with it"
                raise InputError("detector", name, "is none that the recording was fitted to", remedy)
            if one.data.shape != image.data.shape:
                raise InputError("beside", name, f"has shape {one.data.shape}, not {image.data.shape}", "give one scan")
        return _read(self, images, cells)


def common_covariance(recording: Recording) -> Float[np.ndarray, "2 2"]:
    """(2, 2) Å² along the crystal's axes, what not knowing the recording adds to the displacement of all cells alike.

    Of the errors of the mean displacement, those that would be gone if thickness, tilt, optics and the rest were known:
    what they are beyond the inverse of their own block of the precision.
    """
    at = [recording.name.index(f"displacement_{k}") for k in "xy"]
    covariance = recording.covariance[np.ix_(at, at)]
    if not np.any(recording.covariance):
        return np.zeros((2, 2))
    return covariance - np.linalg.inv(np.linalg.inv(recording.covariance)[np.ix_(at, at)])


def views(microscope: Microscope) -> tuple[dict[str, View], Waves]:
    """Every detector at the recording, and waves for their q."""
    p = dict(zip(microscope.recording.name, microscope.recording.value.tolist(), strict=True))
    response, probe = microscope.response, probe_of(p, microscope.response.energy)
    term, found, waves = Terms.made(response), {}, None
    for name, data in microscope.recording.data.items():
        waves = waves_of(response, name, probe, p["thickness"], (p["tilt_x"], p["tilt_y"]))
        blur = blurred_by(waves.q / np.array(waves.box), source_of(p))
        zero = int(np.flatnonzero((waves.q == 0).all(1))[0])
        many = np.where(term.of < 0, 1.0, CELLS**2)
        mean = jnp.asarray(abs((np.asarray(weights_of_mean(p, term)) * many) @ np.asarray(waves.value)[:, zero]))
        twice = np.where((waves.q == 0).all(1), 1.0, 2.0)
        level = abs(data[0]) * np.exp(p[f"log_gain_{name}"])
        found[name] = View(waves.value * (blur * twice), jnp.asarray(level), jnp.asarray(p[f"background_{name}"]), mean)
    assert waves is not None
    return found, waves


def _pixels(image: Image, cells: CellFrames, side: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, p, 2) integer px of every cell's window, (n, p, 2) Å from its centroid, and (n, p) whether it counts."""
    frame, centre = np.asarray(cells.frame, float), np.asarray(cells.centre_px, float)
    reach = np.abs(frame) @ (HALF * side)
    wide = np.arange(-int(np.ceil(reach[0])), int(np.ceil(reach[0])) + 1)
    high = np.arange(-int(np.ceil(reach[1])), int(np.ceil(reach[1])) + 1)
    step = np.stack(np.meshgrid(wide, high), -1).reshape(-1, 2)
    pixel = np.round(centre).astype(int)[:, None] + step
    offset = (pixel - centre[:, None]) @ np.linalg.inv(frame).T
    counts = np.all(np.abs(offset) <= HALF * side, axis=-1)
    shown = np.any(counts, axis=0)
    return pixel[:, shown], offset[:, shown], counts[:, shown]


def _around(cells: CellFrames, side: np.ndarray) -> np.ndarray:
    """(n, 8) which cell lies on each side of each, −1 for none."""
    centre, frame = np.asarray(cells.centre_px, float), np.asarray(cells.frame, float)
    near = 0.3 * float(np.linalg.norm(frame @ np.diag(side), axis=0).min())
    wanted = centre[:, None] + (AROUND * side) @ frame.T
    distance, found = KDTree(centre).query(wanted, distance_upper_bound=near)
    return np.where(np.isfinite(distance), found, -1)


def _read(microscope: Microscope, images: Mapping[str, Image], cells: CellFrames) -> Reading:
    data = {name: microscope.recording.data[name] for name in images}
    microscope = microscope._replace(recording=microscope.recording._replace(data=data))
    found, waves = views(microscope)
    seen = _Seen(tuple(found.values()), _scatter(microscope, found, waves))
    layout = Layout.made(microscope.response, waves, len(data))
    mode = microscope.recording["mode"]
    first = next(iter(images.values()))
    pixel, offset, counts = _pixels(first, cells, layout.side)
    size = np.array(first.data.shape[::-1])
    whole = np.all(np.all((pixel >= 0) & (pixel < size), axis=-1) | ~counts, axis=1)
    if not whole.any():
        raise InputError("image", "no cell", "lies on it as a whole", "give a larger field")
    at = np.clip(pixel, 0, size - 1)
    data = np.stack([np.asarray(one.data, float)[at[..., 1], at[..., 0]] for one in images.values()], 1)
    turn = np.asarray(cells.rotation, float)
    read = np.asarray(cells.classical, float) @ turn  # the inverse of a rotation is its transpose
    read = np.where(np.isfinite(read), read, 0.0)
    read = np.clip(read, -REACH, REACH)
    registration = np.array([microscope.recording[f"registration_{k}"] for k in "xy"])
    shift = np.tile(-registration, (len(read), 1))
    neighbour = _around(cells, layout.side)
    gain = 1.0
    for _ in range(SWEEPS):
        read = np.where(whole[:, None], read, read[whole].mean(0))  # cells at the rim go like the others
        around = np.where(neighbour[..., None] >= 0, read[neighbour], read[whole].mean(0))
        inputs = (offset, counts & whole[:, None], data, read, shift, around)
        x, covariance, structural, square = _swept(seen, layout, mode, inputs, gain)
        # pixels less how many parameters the data tell beyond what is known beforehand are free
        told = len(layout.known) - (np.diagonal(covariance, axis1=1, axis2=2) / layout.known**2).sum(1)
        gain *= float(square[whole].sum()) / float(np.maximum(counts.sum(1) * len(images) - told, 1)[whole].sum())
        read = x[:, :2]
    return _reading(layout, x, (covariance, structural), square, shift + x[:, 2:4], (whole, counts, gain))


def _scatter(microscope: Microscope, found: dict[str, View], waves: Waves) -> Array:
    """What the response misses, in counts and under the recording's source."""
    p = dict(zip(microscope.recording.name, microscope.recording.value.tolist(), strict=True))
    order = sorted(microscope.response.coefficient)
    rows = [order.index(name) for name in found]
    k = waves.q / np.array(waves.box)
    blur = blurred_by(k, source_of(p)) / blurred_by(k, (NOMINAL[1] ** 2, NOMINAL[1] ** 2, 0.0))
    counts = jnp.stack([v.level * (1 - v.share) / v.mean for v in found.values()])
    return (
        jnp.asarray(microscope.response.scatter[np.ix_(rows, rows)]) * counts[:, None, None] * counts[:, None] * blur**2
    )


def _swept(seen, layout: Layout, mode: float, inputs, gain: float):
    """Parameters (n, k), their covariances of counting and of structure, and χ² of the cells, a batch at a time, all of
    one shape."""
    n = len(inputs[0])
    many = -(-n // BATCH) * BATCH
    facts = np.asarray(mode), np.asarray(gain)  # numbers would be known as programs are compiled, once for each
    padded = [np.concatenate([v, np.repeat(v[:1], many - n, 0)]) for v in inputs]
    batches = [v.reshape(many // BATCH, BATCH, *v.shape[1:]) for v in padded]
    found = [_batch(seen, layout, *facts, *each) for each in zip(*batches, strict=True)]
    return tuple(np.concatenate([np.asarray(f[k], float) for f in found])[:n] for k in range(4))


@eqx.filter_jit
@exact
def _batch(seen, layout: Layout, mode, gain, offset, counts, data, read, shift, around):
    real = jnp.result_type(float)
    args = [jnp.asarray(v, real) for v in (offset, data, read, shift, around)]
    return jax.vmap(lambda o, c, d, r, s, a: _cell(seen, layout, mode, gain, o, c, d, r, s, a))(
        args[0], jnp.asarray(counts), *args[1:]
    )


def _cell(seen, layout: Layout, mode, gain, offset, counts, data, read, shift, around):
    """One cell: parameters, covariance, χ²; everything is linear but the displacements' polynomials.

    shift: of the lattice, where it is expected; what it lies off that is linear, too.
    """
    at = offset - shift
    tables = tuple(tables_of(view, layout, at) for view in seen.view)

    def model(x):
        _, _, gains, grounds, *_ = layout.parts(x)
        found = []
        for k, signal in enumerate(signals(tables, layout, mode, around, x)):
            v = seen.view[k]
            level = v.level * (1 + gains[k])
            found.append(level * ((1 - v.share) * signal / v.mean + v.share) + v.level * grounds[k])
        return jnp.stack(found)

    start = jnp.zeros(len(layout.known), at.dtype).at[:2].set(read)
    level = jnp.stack([v.level for v in seen.view])[:, None]
    variance = gain * jnp.maximum(model(start), 0.02 * level)
    weight = jnp.where(counts, 1 / variance, 0.0)
    precision = jnp.diag(1 / jnp.asarray(layout.known, at.dtype) ** 2)

    def step(x, _):
        left, slope = data - model(x), jax.jacfwd(model)(x)
        normal = jnp.einsum("dpa,dp,dpb->ab", slope, weight, slope) + precision
        pull = jnp.einsum("dpa,dp,dp->a", slope, weight, left) - precision @ x
        x = x + jnp.linalg.solve(normal, pull)
        return x.at[:2].set(jnp.clip(x[:2], -2 * REACH, 2 * REACH)), normal

    # Thick cells answer to a displacement and its opposite much alike: the best of many places is where steps begin.
    tried = jnp.concatenate([read[None], jnp.asarray(TRIED, read.dtype)])
    shared = slice(2, 4 + 2 * layout.detectors)  # shift, gains, grounds
    easy = jax.jacfwd(model)(start)[..., shared]
    held = jnp.einsum("dpa,dp,dpb->ab", easy, weight, easy) + precision[shared, shared]

    def cost(d):
        left = data - model(start.at[:2].set(d))
        pull = jnp.einsum("dpa,dp,dp->a", easy, weight, left)
        return (weight * left**2).sum() - pull @ jnp.linalg.solve(held, pull)

    start = start.at[:2].set(tried[jnp.argmin(jax.lax.map(cost, tried))])
    x, normal = jax.lax.scan(step, start, None, length=STEPS)
    covariance = jnp.linalg.inv(normal[-1])
    pull = jnp.einsum("ab,dpb,dp->dap", covariance, jax.jacfwd(model)(x), weight)
    wave = jnp.matmul(pull, jnp.exp(2j * jnp.pi * jnp.matmul(at / (CELLS * layout.side), layout.q.T)))
    cells = jnp.concatenate([x[None, :2], around])
    size = (cells**2).sum(1).mean() + LEAST**2
    twice = jnp.where((layout.q == 0).all(1), 1.0, 2.0)
    structural = size * jnp.einsum("daq,deq,ebq,q->ab", wave, seen.scatter, jnp.conj(wave), twice).real
    return x, covariance, structural, (weight * (data - model(x)) ** 2).sum()


def _reading(layout: Layout, x, covariances, square, shift, facts) -> Reading:
    (covariance, structural), (whole, counts, gain) = covariances, facts
    k = x.shape[1]
    first = 4 + 2 * layout.detectors
    o, corners = 2 * (len(layout.string) + len(layout.free)), len(CORNERS)
    against = np.zeros((2, k))
    against[:, :2] = np.eye(2)
    against[:, first + o : first + o + 2 * corners] = -np.tile(np.eye(2), corners) / corners
    unknown = np.where(whole, 1.0, np.nan)
    own = layout.own(first)
    oxygen, error = x[:, own], np.sqrt(np.diagonal(covariance + structural, axis1=1, axis2=2)[:, own])
    pixels = np.maximum(counts.sum(1) * layout.detectors, 1)
    return Reading(
        displacement=(x @ against.T) * unknown[:, None],
        covariance=(against @ covariance @ against.T) * unknown[:, None, None],
        structural=(against @ structural @ against.T) * unknown[:, None, None],
        oxygen=oxygen,
        oxygen_error=error,
        shift=shift,
        misfit=square / pixels * unknown,
        gain=gain,
    )
