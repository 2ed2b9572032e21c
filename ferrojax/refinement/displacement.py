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
from ferrojax.polarization import CellFrames
from ferrojax.products import exact
from ferrojax.refinement.recording import Recording, probe_of, source_of, weights_of_mean
from ferrojax.refinement.response import CELLS, REACH, CellResponse
from ferrojax.refinement.scene import Terms, Waves, blurred_by, powers, waves_of

HALF = 0.62
"""Cell sides from its middle within which pixels belong to a cell: its A columns are among them."""
KNOWN = {
    "displacement": 0.4, "shift": 0.03, "gain": 0.1, "ground": 0.1, "oxygen": 0.03, "A": 0.02, "around": 0.05,
}  # fmt: skip
"""Standard errors known beforehand, per axis. displacement, shift of the lattice, oxygen off its mode, A by itself,
displacement of the cells around as a reading before left it: Å; gain: relative; ground: of the image's mean."""
SWEEPS, STEPS = 3, 4
"""Readings of all cells, each with the cells around as the one before found them; Gauss–Newton steps of each."""
BATCH = 32
_AROUND = np.array([(i, j) for j in (-1, 0, 1) for i in (-1, 0, 1) if (i, j) != (0, 0)])
_CORNERS = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
"""Cells whose A column, by itself, is at a corner of this one."""
_TRIED = np.stack(np.meshgrid(*[np.linspace(-0.24, 0.24, 9)] * 2), -1).reshape(-1, 2)
"""Å, displacements of which the best is where a reading begins."""
_PARITY = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])


class Reading(NamedTuple):
    """What was read of n cells.

    displacement: (n, 2) Å along the crystal's axes, B against the centroid of its A; covariance: (n, 2, 2) Å², of
    counting and of what was fitted beside. oxygen: (n, oxygens, 2) Å by which each leaves the mode, oxygen_error alike.
    shift: (n, 2) Å by which the lattice lies off the centroid given. misfit: (n,) mean square residual over its
    variance; gain: counts of variance for a count of signal, as all cells' residuals show it.
    """

    displacement: Float[np.ndarray, "n 2"]
    covariance: Float[np.ndarray, "n 2 2"]
    oxygen: Float[np.ndarray, "n oxygens 2"]
    oxygen_error: Float[np.ndarray, "n oxygens 2"]
    shift: Float[np.ndarray, "n 2"]
    misfit: Float[np.ndarray, " n"]
    gain: float


class _View(eqx.Module):
    """One detector at the recording. value: (terms, q), blurred, half of the plane counted twice; level: counts of the
    image's mean, share of which is no signal; mean: of the signal."""

    value: Complex[Array, "terms q"]
    level: Float[Array, ""]
    share: Float[Array, ""]
    mean: Float[Array, ""]


class Microscope(NamedTuple):
    """A `Predictor` that reads displacements at a recording.

    recording, response, crystal: as of `fit_recording`. detector: of the image that is read, a name of the response.
    beside: detector -> image of the same scan, read together with it.
    """

    recording: Recording
    response: CellResponse
    crystal: Crystal
    detector: str = "haadf"
    beside: Mapping[str, Image] = {}

    def predict(self, image: Image, cells: CellFrames) -> tuple[Array, Array]:
        """Displacements (n, 2) Å and covariances (n, 2, 2) Å² in the image frame, NaN where a cell's pixels are not all
        on the image."""
        found = self.read(image, cells)
        turn = np.asarray(cells.rotation, float)
        covariance = turn @ found.covariance @ turn.T
        return jnp.asarray(found.displacement @ turn.T), jnp.asarray(covariance)

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


def views(microscope: Microscope) -> tuple[dict[str, _View], Waves]:
    """Every detector at the recording, and waves for their q."""
    p = dict(zip(microscope.recording.name, microscope.recording.value.tolist(), strict=True))
    response, probe = microscope.response, probe_of(p, microscope.response.energy)
    term, found, waves = Terms.of(response), {}, None
    for name, data in microscope.recording.data.items():
        waves = waves_of(response, name, probe, p["thickness"], (p["tilt_x"], p["tilt_y"]))
        blur = blurred_by(waves.q / np.array(waves.box), source_of(p))
        zero = int(np.flatnonzero((waves.q == 0).all(1))[0])
        many = np.array([1.0 if t[0] == "clean" else CELLS**2 for t in response.term])
        mean = jnp.asarray(abs((np.asarray(weights_of_mean(p, term)) * many) @ np.asarray(waves.value)[:, zero]))
        twice = np.where((waves.q == 0).all(1), 1.0, 2.0)
        level = abs(data[0]) * np.exp(p[f"log_gain_{name}"])
        found[name] = _View(
            waves.value * (blur * twice), jnp.asarray(level), jnp.asarray(p[f"background_{name}"]), mean
        )
    assert waves is not None
    return found, waves


class _Layout(eqx.Module):
    """What all cells share, known as programs are compiled: q (n, 2), the terms, rows of oxygen and of A by themselves,
    sides of a cell (Å), and the standard errors known beforehand of all parameters of a cell."""

    q_: tuple[tuple[int, int], ...] = eqx.field(static=True)
    power: tuple[tuple[int, int], ...] = eqx.field(static=True)
    lead: tuple[tuple[float, float], ...] = eqx.field(static=True)
    follows: bool = eqx.field(static=True)
    oxygen: tuple[int, ...] = eqx.field(static=True)
    a: tuple[int, ...] = eqx.field(static=True)
    side_: tuple[float, float] = eqx.field(static=True)
    known: tuple[float, ...] = eqx.field(static=True)
    detectors: int = eqx.field(static=True)

    @property
    def q(self) -> np.ndarray:
        return np.array(self.q_)

    @property
    def side(self) -> np.ndarray:
        return np.array(self.side_)

    @property
    def term(self) -> Terms:
        return Terms(np.array(self.power), np.array(self.lead), self.follows)

    @staticmethod
    def of(microscope: Microscope, waves: Waves) -> "_Layout":
        response, term = microscope.response, Terms.of(microscope.response)
        mover = [t[0] for t in response.term]
        oxygen = np.array([i for i, who in enumerate(mover) if who.endswith(":O")], int)
        a = np.array([i for i, who in enumerate(mover) if who.endswith(":A")], int)
        if len(a) != 2:
            problem = f"has {len(a) // 2} A sites in its cell, and cells of one are read"
            raise InputError("crystal", microscope.crystal.name, problem, "map it by the column fit")
        many = len(microscope.recording.data)
        known = np.concatenate(
            [
                np.repeat([KNOWN["displacement"], KNOWN["shift"]], 2),
                np.repeat([KNOWN["gain"], KNOWN["ground"]], many),
                np.full(len(oxygen), KNOWN["oxygen"]),
                np.full(2 * len(_CORNERS), KNOWN["A"]),
                np.full(2 * len(_AROUND), KNOWN["around"]),
            ]
        )
        side = (response.box[0] / CELLS, response.box[1] / CELLS)
        q, power, lead = (tuple(map(tuple, v.tolist())) for v in (waves.q, term.power, term.lead))
        return _Layout(
            q, power, lead, term.follows, tuple(oxygen.tolist()), tuple(a.tolist()), side, tuple(known.tolist()), many
        )

    def parts(self, x: Array) -> tuple[Array, ...]:
        """Displacement, shift, gains, grounds, oxygen (o, 1), A (4, 2), and displacements around (8, 2) of (k,)."""
        m, o = self.detectors, len(self.oxygen)
        at = np.cumsum([2, 2, m, m, o, 2 * len(_CORNERS)])
        d, shift, gain, ground, oxygen, a, around = jnp.split(x, at)
        return d, shift, gain, ground, oxygen, a.reshape(-1, 2), around.reshape(-1, 2)


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
    wanted = centre[:, None] + (_AROUND * side) @ frame.T
    distance, found = KDTree(centre).query(wanted, distance_upper_bound=near)
    return np.where(np.isfinite(distance), found, -1)


def _read(microscope: Microscope, images: Mapping[str, Image], cells: CellFrames) -> Reading:
    data = {name: microscope.recording.data[name] for name in images}
    microscope = microscope._replace(recording=microscope.recording._replace(data=data))
    seen, waves = views(microscope)
    layout = _Layout.of(microscope, waves)
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
    gain, stacked = 1.0, tuple(seen.values())
    for _ in range(SWEEPS):
        read = np.where(whole[:, None], read, read[whole].mean(0))  # cells at the rim go like the others
        around = np.where(neighbour[..., None] >= 0, read[neighbour], read[whole].mean(0))
        inputs = (offset, counts & whole[:, None], data, read, shift, around)
        x, covariance, square = _swept(stacked, layout, mode, inputs, gain)
        gain *= float(square[whole].sum()) / _freedom(counts[whole], len(images))
        read = x[:, :2]
    return _reading(layout, x, covariance, square, shift + x[:, 2:4], (whole, counts, gain))


def _freedom(counts: np.ndarray, detectors: int) -> float:
    """Pixels less what the data tell of each cell for certain: its displacement, shift, gain and ground."""
    return float(np.maximum(counts.sum(1) * detectors - 4 - 2 * detectors, 1).sum())


def _swept(seen, layout: _Layout, mode: float, inputs, gain: float):
    """Parameters (n, k), their covariances, and χ² of the cells, a batch at a time, all of one shape."""
    n = len(inputs[0])
    many = -(-n // BATCH) * BATCH
    padded = [np.concatenate([v, np.repeat(v[:1], many - n, 0)]) for v in inputs]
    batches = [v.reshape(many // BATCH, BATCH, *v.shape[1:]) for v in padded]
    found = [_batch(seen, layout, mode, gain, *each) for each in zip(*batches, strict=True)]
    return tuple(np.concatenate([np.asarray(f[k], float) for f in found])[:n] for k in range(3))


@eqx.filter_jit
@exact
def _batch(seen, layout: _Layout, mode, gain, offset, counts, data, read, shift, around):
    real = jnp.result_type(float)
    args = [jnp.asarray(v, real) for v in (offset, data, read, shift, around)]
    return jax.vmap(lambda o, c, d, r, s, a: _cell(seen, layout, mode, gain, o, c, d, r, s, a))(
        args[0], jnp.asarray(counts), *args[1:]
    )


def _cell(seen, layout: _Layout, mode, gain, offset, counts, data, read, shift, around):
    """One cell: parameters, covariance, χ²; everything is linear but the displacements' polynomials.

    shift: of the lattice, where it is expected; what it lies off that is linear, too.
    """
    at = offset - shift
    box = CELLS * layout.side
    turn = 2 * jnp.pi * jnp.matmul(at / box, layout.q.T)
    wave = jnp.exp(1j * turn)
    parity = [np.flatnonzero((layout.q % CELLS == p).all(1)) for p in _PARITY]
    images = [jnp.stack([(wave[:, p] @ v.value[:, p].T).real.T for p in parity]) for v in seen]  # (4, terms, p)
    slopes = [
        jnp.stack([(wave * (2j * jnp.pi * layout.q[:, k] / box[k])) @ v.value[0] for k in (0, 1)]).real for v in seen
    ]

    def moved(table, cell):
        """(terms, p) of the cell so many cells away, which ends a cell's length from its middle."""
        sign = np.where((_PARITY @ cell) % 2 == 0, 1.0, -1.0)
        near = (jnp.abs(at - cell * layout.side) <= layout.side).all(-1)
        return jnp.tensordot(sign, table, 1) * near

    own = [moved(t, np.zeros(2, int)) for t in images]
    clean = [t.sum(0)[0] for t in images]
    beside = [jnp.stack([moved(t, c)[1:] for c in _AROUND]) for t in images]
    term, oxygens, a_rows = layout.term, np.array(layout.oxygen), np.array(layout.a)
    corner = [jnp.stack([moved(t, c)[a_rows] for c in _CORNERS]) for t in images]

    def model(x):
        d, by, gains, grounds, oxygen, a, off = layout.parts(x)
        weight = term.weights(powers(d / REACH), mode)[1:]
        others = jax.vmap(lambda u: term.weights(powers(u / REACH), mode)[1:])(around + off)
        found = []
        for k, v in enumerate(seen):
            signal = clean[k] + weight @ own[k][1:] - by @ slopes[k]
            signal = signal + (oxygen / REACH) @ own[k][oxygens]
            signal = signal + jnp.tensordot(others, beside[k], 2) + jnp.tensordot(a / REACH, corner[k], 2)
            level = v.level * (1 + gains[k])
            found.append(level * ((1 - v.share) * signal / v.mean + v.share) + v.level * grounds[k])
        return jnp.stack(found)

    start = jnp.zeros(len(layout.known), at.dtype).at[:2].set(read)
    level = jnp.stack([v.level for v in seen])[:, None]
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
    tried = jnp.concatenate([read[None], jnp.asarray(_TRIED, read.dtype)])
    shared = slice(2, 4 + 2 * layout.detectors)  # shift, gains, grounds
    easy = jax.jacfwd(model)(start)[..., shared]
    held = jnp.einsum("dpa,dp,dpb->ab", easy, weight, easy) + precision[shared, shared]

    def cost(d):
        left = data - model(start.at[:2].set(d))
        pull = jnp.einsum("dpa,dp,dp->a", easy, weight, left)
        return (weight * left**2).sum() - pull @ jnp.linalg.solve(held, pull)

    start = start.at[:2].set(tried[jnp.argmin(jax.lax.map(cost, tried))])
    x, normal = jax.lax.scan(step, start, None, length=STEPS)
    return x, jnp.linalg.inv(normal[-1]), (weight * (data - model(x)) ** 2).sum()


def _reading(layout: _Layout, x, covariance, square, shift, facts) -> Reading:
    whole, counts, gain = facts
    k = x.shape[1]
    first = 4 + 2 * layout.detectors
    o, corners = len(layout.oxygen), len(_CORNERS)
    against = np.zeros((2, k))
    against[:, :2] = np.eye(2)
    against[:, first + o : first + o + 2 * corners] = -np.tile(np.eye(2), corners) / corners
    unknown = np.where(whole, 1.0, np.nan)
    oxygen = x[:, first : first + o]
    error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)[:, first : first + o])
    pixels = np.maximum(counts.sum(1) * layout.detectors, 1)
    return Reading(
        displacement=(x @ against.T) * unknown[:, None],
        covariance=(against @ covariance @ against.T) * unknown[:, None, None],
        oxygen=oxygen.reshape(len(x), -1, 2),
        oxygen_error=error.reshape(len(x), -1, 2),
        shift=shift,
        misfit=square / pixels * unknown,
        gain=gain,
    )
