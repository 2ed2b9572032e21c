"""The recording fitted: thickness, tilt, optics and source that made an image, from its own mean cell, without labels.

Everything that all cells share is fitted at once with what they are displaced by on the mean, because a tilt and a
displacement look alike; what the data leave open stays at what was known beforehand, and its error says so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int
from scipy.optimize import least_squares

from ferrojax.checks import real_number, real_numbers
from ferrojax.crystal import Crystal
from ferrojax.errors import InputError
from ferrojax.optics import Probe
from ferrojax.products import EXACT, exact
from ferrojax.refinement.mean_cell import MeanCell
from ferrojax.refinement.movers import CELLS
from ferrojax.refinement.response import DEGREES, CellResponse
from ferrojax.refinement.scene import Terms, blurred_by, by_node, operators_from, waves_from

PRIORS = {
    "thickness": (120.0, 80.0),
    "tilt_x": (0.0, 3.0), "tilt_y": (0.0, 3.0),
    "defocus": (0.0, 40.0),
    "astigmatism_x": (0.0, 15.0), "astigmatism_y": (0.0, 15.0),
    "coma_x": (0.0, 80.0), "coma_y": (0.0, 80.0),
    "semiangle": (21.0, 0.7),
    "source_x": (0.5, 0.2), "source_y": (0.5, 0.2), "source_xy": (0.0, 0.05),
    "displacement_x": (0.0, 0.15), "displacement_y": (0.0, 0.15),
    "spread": (0.08, 0.06),
    "mode": (1.0, 0.15),
    "registration_x": (0.0, 0.2), "registration_y": (0.0, 0.2),
}  # fmt: skip
"""Name -> (value, standard error) known beforehand. thickness, defocus, astigmatism, coma Å; tilt and semiangle mrad;
source Å rms along the crystal's axes, source_xy its covariance Å²; displacement Å, the cells' mean; spread Å rms per
axis about it; mode: how far oxygen follows B, 1 as the soft mode has it; registration Å,
how far A's centroid as it was measured lies from A's."""
EACH = {"log_gain": (0.0, 1.0), "background": (0.1, 0.15)}
"""Of every detector: the image's mean over the signal's (log), and its share that is no signal."""
UNITS = {
    "thickness": "Å", "tilt_x": "mrad", "tilt_y": "mrad", "defocus": "Å", "semiangle": "mrad", "source_xy": "Å²",
    **{f"{name}_{k}": "Å" for name in ("astigmatism", "coma", "source", "displacement", "registration") for k in "xy"},
    "spread": "Å", "mode": "",
}  # fmt: skip
"""Of the parameters of PRIORS."""
EDGE = 1.0
"""mrad, of the aperture in the model: its semi-angle is then differentiable."""
APART = 0.3
"""Prior standard errors of thickness or tilt by which two ends of a fit are two basins."""
FLAT, POOR = 2.0, 2.0
"""Difference of cost below which a second basin cannot be told from the first; misfit above which none fits."""
FEW, MANY, FOLLOWED = 6, 30, 3
"""Steps of every start, and of the best of them, and how many those are."""
STARTS = {"tilt_x": (-2.5, 2.5), "tilt_y": (-2.5, 2.5), "thickness": (0.3, 0.7)}
"""Where fits are begun: tilts in mrad, thicknesses as shares of the response's range."""


class Recording(NamedTuple):
    """What an image was recorded at.

    value, error, prior, prior_error: (k,) of the parameters `name` (units of PRIORS). covariance: (k, k), Laplace.
    misfit: mean square of what is left of the mean cell over its error, the discrepancy included; depth: how much worse
    the second basin fits (difference of the cost, infinite where there is one; an upper bound where a start was not
    followed to its end). data, model:
    detector -> (n,) coefficients of the mean cell, measured and fitted. notes: why not to believe it, a sentence each.
    """

    name: tuple[str, ...]
    value: Float[np.ndarray, " k"]
    error: Float[np.ndarray, " k"]
    prior: Float[np.ndarray, " k"]
    prior_error: Float[np.ndarray, " k"]
    covariance: Float[np.ndarray, "k k"]
    misfit: float
    depth: float
    data: dict[str, Complex[np.ndarray, " n"]]
    model: dict[str, Complex[np.ndarray, " n"]]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        """The value of one parameter."""
        return float(self.value[self.name.index(name)])

    @property
    def moved(self) -> dict[str, bool]:
        """Whether the data told a parameter better than it was known beforehand."""
        return dict(zip(self.name, (self.error < 0.7 * self.prior_error).tolist(), strict=True))


def alike(response: CellResponse) -> CellResponse:
    """What of a response a lattice of cells that all move alike shows: the clean cell and what follows B, or is B, at
    the lattice's own q (still in steps of 1/box, all even), already summed over the box's cells."""
    even = (response.q % CELLS == 0).all(1)
    term = Terms.made(response)
    kept = np.array([k < 0 or k == term.b or term.mover[k].follows for k in term.of])
    many = np.where(term.of[kept] < 0, 1.0, CELLS**2)[:, None, None, None]
    coefficient = {name: value[kept][..., even] * many for name, value in response.coefficient.items()}
    return replace(
        response,
        coefficient=coefficient,
        noise={name: value[kept] for name, value in response.noise.items()},
        pair=response.pair[even],
        q=response.q[even],
        term=tuple(t for t, k in zip(response.term, kept, strict=True) if k),
    )


def fit_mean_cells(
    cells: Mapping[str, MeanCell],
    crystal: Crystal,
    response: CellResponse,
    *,
    priors: Mapping[str, tuple[float, float]] | None = None,
    discrepancy: float = 0.01,
) -> Recording:
    """Fit what all cells share to the mean cells of one scan, one a detector of the response.

    priors: name -> (value, standard error) for what is known better than PRIORS says. discrepancy: relative error of
    the simulated coefficients, beside the errors of the mean cells.
    Errors: InputError for a detector that the response lacks, mean cells of other sizes or without intensity, an
    unknown or impossible prior.
    """
    remedy = "give the relative error of the simulated coefficients, e.g. 0.01"
    discrepancy = real_number("discrepancy", discrepancy, remedy, above=0.0)
    if crystal.name != response.crystal:
        raise InputError("response", response.crystal, f"is not of {crystal.name}", "make it with cell_response")
    known, part = _priors(priors, cells, response), alike(response)
    _check_cells(cells, part)
    problem = _Problem.of(cells, part, known, discrepancy)
    begun = sorted((problem.solved(start, FEW) for start in problem.starts(response)), key=lambda each: each[1])
    found = sorted((problem.solved(start, MANY) for start, _ in begun[:FOLLOWED]), key=lambda each: each[1])
    found += begun[FOLLOWED:]
    best, cost = found[0]
    other = [c for x, c in found if np.abs((x - best)[:3]).max() > APART]  # thickness and tilt come first
    model, jacobian = problem.model(best), problem.jacobian(best)
    inverse = np.linalg.inv(jacobian.T @ jacobian)
    sd = np.array([e for _, e in known.values()])
    mean = np.array([v for v, _ in known.values()])
    left = problem.residual(best)[: -len(best)]
    predicted, start = {}, 0
    for name, each in cells.items():
        predicted[name] = model[start : start + len(each.q)]
        start += len(each.q)
    value, misfit = mean + sd * best, float((left**2).mean())
    thickness, tilt = _within(part, jnp.asarray(value[:3]))  # where it was evaluated
    value[:3] = float(thickness), *np.asarray(tilt, float)
    depth = float(min(other) - cost) if other else float("inf")
    return Recording(
        name=tuple(known),
        value=value,
        error=sd * np.sqrt(np.diag(inverse)),
        prior=mean,
        prior_error=sd,
        covariance=inverse * sd[:, None] * sd,
        misfit=misfit,
        depth=depth,
        data={name: each.value for name, each in cells.items()},
        model=predicted,
        notes=_notes(dict(zip(known, value, strict=True)), response, misfit, depth),
    )


def _check_cells(cells: Mapping[str, MeanCell], part: CellResponse) -> None:
    if not cells:
        raise InputError("cells", {}, "names no detector", 'give {"haadf": mean_cell(...)}')
    first = next(iter(cells.values()))
    if not {tuple(k) for k in first.q.tolist()} <= {tuple(k) for k in (part.q // CELLS).tolist()}:
        problem = "holds coefficients beyond those of the response"
        raise InputError("cells", f"up to {np.abs(first.q).max()} steps", problem, "make it with a smaller `farthest`")
    for name, cell in cells.items():
        if not np.array_equal(cell.q, first.q):
            problem = "has other coefficients than the first"
            raise InputError("cells", name, problem, "average the same cells of one scan")
        if not np.real(cell.value[0]) > 0:
            remedy = "give an image whose intensities are no less than zero"
            raise InputError("cells", f"{name}: mean {np.real(cell.value[0]):g}", "has no intensity", remedy)


def _notes(value: dict[str, float], response: CellResponse, misfit: float, depth: float) -> tuple[str, ...]:
    """What speaks against a fit."""
    (low, high), widest = _range(response), _widest(response)
    tilt = float(np.hypot(value["tilt_x"], value["tilt_y"]))
    found = []
    if not low < value["thickness"] < high:
        found.append(f"The thickness lies at the end of what was simulated, {low:g} to {high:g} Å.")
    if tilt > widest:
        found.append(f"The tilt of {tilt:.1f} mrad lies beyond what was simulated, {widest:.1f} mrad.")
    if depth < FLAT:
        found.append(f"Another thickness or tilt fits as well (cost {depth:.1f} higher).")
    if misfit > POOR:
        found.append(f"The mean cell is not that of this crystal at any recording: misfit {misfit:.1f} instead of 1.")
    return tuple(found)


def _priors(priors, cells, response: CellResponse) -> dict[str, tuple[float, float]]:
    for name in cells:
        if name not in response.coefficient:
            remedy = f"name it as the response does: {', '.join(response.coefficient)}"
            raise InputError("cells", name, "is no detector of the response", remedy)
    return known_beforehand(priors, cells)


def known_beforehand(priors: Mapping[str, Any] | None, detectors: Iterable[str]) -> dict[str, tuple[float, float]]:
    """PRIORS and those of every detector, with what is known better; InputError for what cannot be meant."""
    known = PRIORS | {f"{key}_{name}": value for name in detectors for key, value in EACH.items()}
    for name, given in (priors or {}).items():
        if name not in known:
            raise InputError("priors", name, "is unknown", f"choose from {', '.join(known)}")
        pair = np.asarray(real_numbers("priors", given, "give (value, standard error)"), float)
        if pair.shape != (2,):
            raise InputError("priors", f"{name}: {given}", "is no pair", "give (value, standard error)")
        value, error = pair.tolist()
        if not np.isfinite(pair).all():
            raise InputError("priors", f"{name}: {given}", "is not finite", "give (value, standard error)")
        if not error > 0:
            raise InputError("priors", f"{name}: {error:g}", "is no standard error", "give one above zero")
        known[name] = (value, error)
    return known


class _Problem(NamedTuple):
    """Residuals, over their errors, of standardised parameters (k,)."""

    model: Any
    residual: Any
    jacobian: Any
    known: dict[str, tuple[float, float]]

    @staticmethod
    def of(cells: Mapping[str, MeanCell], part: CellResponse, known, discrepancy: float) -> "_Problem":
        names = tuple(known)
        mean, sd = (jnp.asarray([v[k] for v in known.values()], jnp.result_type(float)) for k in (0, 1))
        q = next(iter(cells.values())).q
        data = np.concatenate([cell.value / abs(cell.value[0]) for cell in cells.values()])
        scale = np.concatenate([np.full(len(cell.q), abs(cell.value[0])) for cell in cells.values()])
        noise = np.concatenate([cell.error / abs(cell.value[0]) for cell in cells.values()])
        size = np.concatenate([_smooth(cell) / abs(cell.value[0]) for cell in cells.values()])
        error = jnp.asarray(np.sqrt(noise**2 + (discrepancy * size)[:, None] ** 2))
        term, like = Terms.made(part), eqx.tree_at(lambda r: r.coefficient, part, {})
        # an argument of the programs, so that they need not be compiled into them
        tables = {name: by_node(part, name) for name in cells}

        @exact
        def operators(tables, x):
            thickness, tilt = _within(like, mean[:3] + sd[:3] * x)
            return {name: operators_from(tables[name], like, thickness, tilt) for name in cells}

        @exact
        def seen(table, x):
            p = dict(zip(names, mean + sd * x, strict=True))
            return jnp.concatenate([_coefficients(like, table[name], name, p, term, q) for name in cells])

        def off(table, x):
            left = seen(table, x) - data
            return jnp.concatenate([(jnp.stack([left.real, left.imag], -1) / error).ravel(), x])

        @jax.jit
        def model(tables, x):
            return seen(operators(tables, x[:3]), x)

        @jax.jit
        def residual(tables, x):
            return off(operators(tables, x[:3]), x)

        @jax.jit
        def slope(tables, x):
            # Only thickness and tilt change the operators, which are by far the largest part of the work.
            table = operators(tables, x[:3])
            turns = jax.jacfwd(operators, argnums=1)(tables, x[:3])
            optics = jax.jacfwd(off, argnums=1)(table, x)
            specimen = [
                jax.jvp(lambda t: off(t, x), (table,), (jax.tree.map(lambda v, k=k: v[..., k], turns),))[1]
                for k in range(3)
            ]
            return optics.at[:, :3].add(jnp.stack(specimen, -1))

        real = jnp.result_type(float)
        return _Problem(
            lambda x: np.asarray(model(tables, jnp.asarray(x, real)), complex) * scale,
            lambda x: np.asarray(residual(tables, jnp.asarray(x, real)), float),
            lambda x: np.asarray(slope(tables, jnp.asarray(x, real)), float),
            known,
        )

    def starts(self, response: CellResponse):
        """Standardised parameters to begin at."""
        names = list(self.known)
        low, high = _range(response)
        for share in STARTS["thickness"]:
            for x in STARTS["tilt_x"]:
                for y in STARTS["tilt_y"]:
                    at = {"thickness": low + share * (high - low), "tilt_x": x, "tilt_y": y}
                    start = np.full(len(names), 1e-3)
                    for name, value in at.items():
                        mean, sd = self.known[name]
                        start[names.index(name)] = (value - mean) / sd
                    yield start

    def solved(self, start: np.ndarray, steps: int) -> tuple[np.ndarray, float]:
        """Where a fit from there is after so many steps at most, and half the sum of squares."""
        found = least_squares(self.residual, start, self.jacobian, method="lm", xtol=1e-4, ftol=1e-5, max_nfev=steps)
        return found.x, float(found.cost)


def _smooth(cell: MeanCell) -> np.ndarray:
    """(n,) size of a coefficient of about that length, which its discrepancy is a share of: single ones may vanish."""
    length = np.hypot(*cell.q.T)
    size = np.abs(cell.value)
    near = np.exp(-0.5 * (length[:, None] - length) ** 2) * (length > 0)
    return np.where(length > 0, np.sqrt((near * size**2).sum(1) / near.sum(1)), 0.3 * size)


def weights_of_mean(p: Mapping[str, Any], term: Terms) -> Float[Array, " terms"]:
    """What the columns of one cell add on the mean, where cells scatter about their mean displacement.

    Oxygen goes `mode` times as far as the soft mode takes it, and B's column with it, which B by itself takes back to
    first order.
    """
    mean = jnp.stack([jnp.asarray(p["displacement_x"]), jnp.asarray(p["displacement_y"])])
    spread, mode = jnp.asarray(p["spread"]), jnp.asarray(p["mode"])
    weight = jnp.where(term.of < 0, 1.0, jnp.zeros(len(term.of), mean.dtype))
    for k, mover in enumerate(term.mover):
        if not mover.follows:
            continue
        follow = np.array(mover.follow)
        share = np.sqrt(sum(w**2 for _, w in mover.parents()))
        centre = jnp.matmul(jnp.asarray(follow, mean.dtype), mean, precision=EXACT) * mode / mover.unit
        width = np.linalg.norm(follow, axis=1) * share * spread * mode / mover.unit
        moment = jnp.stack([_moments(centre[i], width[i]) for i in (0, 1)])
        weight = weight.at[np.flatnonzero(term.of == k)].set(term.polynomial(k, moment))
    back = 1 - mode if term.follows else 1.0
    return weight.at[np.flatnonzero(term.of == term.b)].set(back * mean / term.mover[term.b].unit)


def source_of(p: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Covariance (xx, yy, xy) Å² of the source that parameters of a recording stand for."""
    return p["source_x"] ** 2, p["source_y"] ** 2, p["source_xy"]


def probe_of(p: Mapping[str, Any], energy: float) -> Probe:
    """The probe that parameters of a recording stand for."""
    astigmatism, coma = (jnp.stack([jnp.asarray(p[f"{n}_{k}"]) for k in "xy"]) for n in ("astigmatism", "coma"))
    aberrations = {
        "C12": jnp.linalg.norm(astigmatism), "phi12": jnp.arctan2(astigmatism[1], astigmatism[0]) / 2,
        "C21": jnp.linalg.norm(coma), "phi21": jnp.arctan2(coma[1], coma[0]),
    }  # fmt: skip
    return Probe(energy, p["semiangle"], p["defocus"], aberrations, edge=EDGE)


def _within(part: CellResponse, at: Float[Array, "3"]) -> tuple[Array, Array]:
    """Thickness (Å) and tilt (mrad) held to what was simulated."""
    tilt = at[1:] * jnp.minimum(1.0, _widest(part) / jnp.sqrt((at[1:] ** 2).sum() + 1e-12))
    return jnp.clip(at[0], *_range(part)), tilt


def _coefficients(
    part: CellResponse, table: Array, detector: str, p: dict, term: Terms, q: Int[np.ndarray, "n 2"]
) -> Array:
    """(n,) of the mean cell, the image's mean 1 but for gain and background. table: operators (terms, pairs)."""
    waves = waves_from(part, table, probe_of(p, part.energy))
    weight = weights_of_mean(p, term)
    place = {tuple(k): i for i, k in enumerate((waves.q // CELLS).tolist())}
    value = jnp.matmul(weight, waves.value, precision=EXACT)[np.array([place[tuple(k)] for k in q.tolist()])]
    k = q / (np.array(waves.box) / CELLS)
    blur = blurred_by(k, source_of(p))
    turn = jnp.exp(2j * jnp.pi * (k[:, 0] * p["registration_x"] + k[:, 1] * p["registration_y"]))
    share, gain = p[f"background_{detector}"], jnp.exp(p[f"log_gain_{detector}"])
    seen = value * blur * turn / jnp.abs(value[0])
    return gain * ((1 - share) * seen + share * jnp.asarray((q == 0).all(1), seen.dtype))


def _range(response: CellResponse) -> tuple[float, float]:
    """Å, thicknesses that were simulated."""
    return float(response.thickness[0]), float(response.thickness[-1])


def _widest(response: CellResponse) -> float:
    """mrad, tilts that were simulated."""
    return float(np.linalg.norm(response.tilt, axis=1).max())


def _moments(mean: Array, spread: Array) -> Float[Array, "6"]:
    """Expected powers 0 to 5 of a Gaussian: E xⁿ = m E xⁿ⁻¹ + (n − 1) v E xⁿ⁻²."""
    found = [jnp.ones_like(mean), mean]
    for n in range(2, max(DEGREES) + 1):
        found.append(mean * found[-1] + (n - 1) * spread**2 * found[-2])
    return jnp.stack(found)
