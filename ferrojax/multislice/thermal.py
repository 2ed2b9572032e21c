"""Thermal models: how the atoms' thermal motion enters a simulation."""

from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32
from scipy.signal import fftconvolve

from ferrojax.checks import any_traced, real_numbers, whole_number
from ferrojax.constants import wavelength
from ferrojax.crystal import Atoms
from ferrojax.crystal.elements import SYMBOLS
from ferrojax.crystal.sites import WHOLE, chosen_on_site
from ferrojax.errors import InputError, is_traced
from ferrojax.multislice.radial import amplitude_factor
from ferrojax.multislice.slices import SlicePlan, plan_slices

DRAWS = ("independent", "antithetic", "stratified")
"""How the displacements of several configurations depend on each other; see FrozenPhonons."""


class FrozenPhonons(eqx.Module):
    """Einstein model: every site displaced independently, intensities averaged over n configurations.

    A configuration also draws one species, or none, for every partly occupied site, its occupancies the
    probabilities (unless occupancies are traced).

    draws: "independent"; "antithetic", pairs (u, −u): the best for the position of a column, worse than
    independent for its intensity, which is even in u; "stratified": every coordinate of every atom takes each of
    n equally probable intervals once (Latin hypercube), better than independent for the position and no worse for
    the intensity (figures in benchmarks/). antithetic=True is short for draws="antithetic". seed: 0 to 2³² − 1, may be
    traced.
    """

    n: int = eqx.field(static=True)
    seed: UInt32[Array, ""]
    draws: str = eqx.field(static=True)

    def __init__(self, n: int, seed: Any = 0, draws: str = "independent", *, antithetic: bool | None = None):
        self.n, self.draws = _checked_draws(n, draws, antithetic)
        self.seed = _checked_seed(seed)

    @property
    def antithetic(self) -> bool:
        """Whether configurations 2i and 2i + 1 are one draw, u and −u."""
        return self.draws == "antithetic"


class FastThermal(eqx.Module):
    """Frozen phonons on a coarse grid, with HAADF read from the norm that leaves the band limit.

    Multislice conserves the norm except for what leaves the band limit K (0.9 of Nyquist here), so 1 − ‖wave‖² is
    what was scattered beyond K, less what would have scattered back (`return_rate`). Valid for detectors with
    inner < K < outer (or outer ≤ K). Same arguments as FrozenPhonons.
    """

    n: int = eqx.field(static=True)
    seed: UInt32[Array, ""]
    draws: str = eqx.field(static=True)

    def __init__(self, n: int, seed: Any = 0, draws: str = "antithetic", *, antithetic: bool | None = None):
        self.n, self.draws = _checked_draws(n, draws, antithetic)
        self.seed = _checked_seed(seed)

    @property
    def antithetic(self) -> bool:
        """Whether configurations 2i and 2i + 1 are one draw, u and −u."""
        return self.draws == "antithetic"


ThermalModel = FrozenPhonons | FastThermal | None


def _checked_draws(n: Any, draws: Any, antithetic: bool | None) -> tuple[int, str]:
    """How many configurations, and how they depend on each other."""
    if antithetic is not None:
        draws = "antithetic" if antithetic else "independent"
    if draws not in DRAWS:
        raise InputError("draws", draws, "unknown", f"choose {', '.join(DRAWS)}")
    n = whole_number("n", n, "give the number of configurations, at least 1")
    if draws == "antithetic" and n % 2:
        need = "configurations must be an even number of at least 2 (pairs)"
        raise InputError("n", n, need, 'change n, or set draws="independent"')
    return n, draws


def _checked_seed(seed: Any) -> UInt32[Array, ""]:
    """An array, so that another seed compiles nothing anew; a key holds 32 bits, and more would be cut off."""
    remedy = "give an integer from 0 to 2**32 - 1"
    if not any_traced(seed):
        seed = whole_number("seed", seed, remedy, low=0, high=2**32 - 1)
    elif not jnp.issubdtype((traced := real_numbers("seed", seed, remedy)).dtype, jnp.integer) or traced.ndim:
        raise InputError("seed", f"traced {traced.dtype} of shape {traced.shape}", "must be one whole number", remedy)
    with jax.ensure_compile_time_eval():
        return jnp.asarray(seed, jnp.uint32)


def configurations(thermal: ThermalModel) -> int:
    """How many displaced specimens the model averages over."""
    return 1 if thermal is None else thermal.n


def displaced_positions(
    atoms: Atoms, thermal: ThermalModel, index: int, site: Int[Array, " atoms"] | None = None
) -> Float[Array, "atoms 3"]:
    """Positions (Å) in configuration `index`; the same seed and index give the same displacements.

    site: the atom whose displacement each atom shares (`SlicePlan.site`): species of one site vibrate as one.
    """
    return atoms.position if thermal is None else _displaced(atoms, thermal, jnp.asarray(np.int32(index)), site)


@eqx.filter_jit
def _displaced(atoms: Atoms, thermal: FrozenPhonons | FastThermal, index: Int[Array, ""], site):
    """As one program for all configurations."""
    u = _standard_displacements(thermal, index, atoms.position)
    u = u if site is None else u[site]
    rms = atoms.thermal_rms if atoms.thermal_rms.ndim == 2 else atoms.thermal_rms[:, None]
    return atoms.position + rms * u


def is_partial(atoms: Atoms) -> bool:
    """Whether any occupancy lies between 0 and 1, or is traced, so that it may."""
    if is_traced(atoms.occupancy):
        return True
    share = np.asarray(atoms.occupancy)
    return bool(((share > 0) & (share < WHOLE)).any())


def draws_composition(atoms: Atoms, thermal: ThermalModel) -> bool:
    """Whether every configuration draws who sits on partly occupied sites; without phonons, and where occupancies are
    traced, their phases are weighted instead."""
    return thermal is not None and not is_traced(atoms.occupancy) and is_partial(atoms)


def weighs(plan: SlicePlan, atoms: Atoms, thermal: ThermalModel) -> bool:
    """Whether any atom that this plan places is weighted with an occupancy between 0 and 1, or one that is traced."""
    if not is_partial(atoms) or draws_composition(atoms, thermal):
        return False
    if is_traced(atoms.occupancy):
        return True
    total = np.asarray(plan.totals(np.asarray(atoms.occupancy)))
    return bool(((total > 0) & (total < WHOLE)).any())


def weighted_plan(plan: SlicePlan, atoms: Atoms, thermal: ThermalModel) -> SlicePlan:
    """The plan as these atoms need it: blended (`plan_slices`) where occupancies are weighted and known, else not.

    Errors: InputError for a blended plan whose positions are traced, so that it cannot be made anew, with occupancies
    that are drawn, traced or other ones than it was made with.
    """
    traced = is_traced(atoms.occupancy)
    wanted = not traced and is_partial(atoms) and not draws_composition(atoms, thermal)
    if plan.site is None or (not wanted and not plan.blended):
        return plan
    if is_traced(atoms.position):
        if plan.blended and not (wanted and plan.has_shares_of(atoms)):
            problem = "has shares of its own for sites whose occupancies are drawn, traced or others"
            raise InputError("plan", "blended", problem, "make it with plan_slices(atoms), not blended")
        return plan
    with jax.ensure_compile_time_eval():
        return plan_slices(atoms, plan.slice_thickness * (1 + 1e-9), plan.depths, blended=wanted)


def drawn_occupancy(
    atoms: Atoms, thermal: ThermalModel, index: int, site: Int[Array, " atoms"] | None = None
) -> Float[Array, " atoms"]:
    """Occupancies in configuration `index`: 1 for the one species drawn on every partial site, or none, as given else.

    site: the atom that stands for the site each atom shares (`SlicePlan.site`). Antithetic pairs share their draw.
    """
    if thermal is None or not draws_composition(atoms, thermal):
        return atoms.occupancy
    share, count = np.asarray(atoms.occupancy, float), len(atoms.number)
    home = np.arange(count) if site is None else np.asarray(site)
    ticket = _uniform(thermal, jnp.asarray(np.int32(index)), (count,), "occupancy")[home]
    return chosen_on_site(home, share, ticket).astype(atoms.occupancy.dtype)


def configuration(
    atoms: Atoms, thermal: ThermalModel, index: int, plan: SlicePlan
) -> tuple[Float[Array, "atoms 3"], Float[Array, " atoms"]]:
    """Position (Å) and occupancy of every atom in configuration `index`, as the plan's slices place them."""
    position = displaced_positions(atoms, thermal, index, plan.site)
    return plan.merged(position, drawn_occupancy(atoms, thermal, index, plan.site))


def _standard_displacements(
    thermal: FrozenPhonons | FastThermal, index: Int[Array, ""], like: Float[Array, "atoms 3"]
) -> Float[Array, "atoms 3"]:
    """Normal deviates of unit variance for configuration `index`; the same where x64 is enabled."""
    if thermal.draws == "stratified":
        uniform = _uniform(thermal, index, like.shape, "displacement")
        return jax.scipy.special.ndtri(jnp.clip(uniform, 1e-6, 1 - 1e-6)).astype(like.dtype)
    key = jax.random.fold_in(jax.random.key(thermal.seed), _draw(thermal, index))
    sign = 1 - 2 * (index % 2) if thermal.antithetic else 1
    return sign * jax.random.normal(key, like.shape, jnp.float32).astype(like.dtype)


def _draw(thermal: FrozenPhonons | FastThermal, index: Int[Array, ""]) -> Int[Array, ""]:
    """Which draw configuration `index` belongs to."""
    return index // 2 if thermal.antithetic else index


@eqx.filter_jit
def _uniform(thermal: FrozenPhonons | FastThermal, index: Int[Array, ""], shape: tuple[int, ...], what: str):
    """Uniform deviates on [0, 1) for configuration `index`, stratified over configurations if the draws are."""
    key = jax.random.key(thermal.seed)
    key = key if what == "displacement" else jax.random.fold_in(key, 2**31 - 1)
    if thermal.draws != "stratified":
        return jax.random.uniform(jax.random.fold_in(key, _draw(thermal, index)), shape, jnp.float32)
    drawn = jax.random.uniform(jax.random.fold_in(key, thermal.n), (thermal.n, *shape), jnp.float32)
    interval = jnp.argsort(drawn, axis=0)
    within = jax.random.uniform(jax.random.fold_in(key, index), shape, jnp.float32)
    return (interval[index] + within) / thermal.n


def standard_error(values: Float[Array, "configs *rest"], thermal: ThermalModel) -> Float[Array, "*rest"] | None:
    """Of the mean over configurations, from their spread (of pair means where the draws are antithetic).

    An upper bound where the draws are stratified, because they differ from each other more than they would by chance.
    """
    if thermal is not None and thermal.antithetic:
        values = values.reshape(-1, 2, *values.shape[1:]).mean(1)
    n = values.shape[0]
    return None if n < 2 else jnp.std(values, axis=0, ddof=1) / n**0.5


def return_rate(atoms: Atoms, energy: float, reach: float, inner: float, outer: float) -> float:
    """Part of the norm beyond `reach` (mrad) that leaves the ring inner–outer again, per Å travelled.

    What FastThermal lost is counted on the ring for good; scattered once more, it may end inside `inner` or beyond
    `outer`, or come back from there. The balance of those, and of what the ring's part within `reach` scatters
    beyond `outer` more than the local cross-section says, over all single-scattered electrons of a random medium
    of these atoms. First order: times the path, it must stay small against 1.
    """
    volume, count = float(np.prod(atoms.box)), dict.fromkeys(atoms.number, 0.0)
    share = np.ones(len(atoms.number)) if is_traced(atoms.occupancy) else np.asarray(atoms.occupancy, float)
    for z, part in zip(atoms.number, share, strict=True):
        count[z] += float(part)
    density = tuple(sorted((SYMBOLS[z], round(n / volume, 6)) for z, n in count.items()))
    return _balance(density, energy, reach, inner, outer)


@cache
def _balance(density: tuple[tuple[str, float], ...], energy: float, reach: float, inner: float, outer: float) -> float:
    span = 2.5 * max(reach, outer if np.isfinite(outer) else 1.5 * reach)
    mrad = 1e-3 / wavelength(energy)
    axis = np.linspace(-span, span, 301) * mrad
    k = np.hypot(axis[:, None], axis[None])
    per_path = sum(n * np.abs(amplitude_factor(e, energy, float(k.max()))(k)) ** 2 for e, n in density)
    per_path = per_path * (axis[1] - axis[0]) ** 2  # part of a wave scattered into each pixel, per Å
    low, ring, far = k < inner * mrad, (k >= inner * mrad) & (k < outer * mrad), k >= outer * mrad
    to_low, to_ring = (np.asarray(fftconvolve(part.astype(float), per_path, mode="same")) for part in (low, ring))
    to_far = per_path.sum() - to_low - to_ring if far.any() and np.isfinite(outer) else np.zeros_like(k)
    lost = k >= reach * mrad
    leaves = np.where(lost, to_low + to_far, to_far - per_path[far].sum())
    balance = (per_path * leaves)[ring].sum() - (per_path * to_ring)[far].sum()
    return float(balance / per_path[lost].sum())
