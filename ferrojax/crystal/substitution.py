"""Random realisations of mixed sites: substituted elements and partly occupied sites."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from ferrojax.crystal.atoms import Atoms
from ferrojax.crystal.checks import close_pairs
from ferrojax.crystal.elements import SYMBOLS, atomic_number
from ferrojax.errors import InputError


def substitute(atoms: Atoms, fractions: Mapping[str, Mapping[str, float]], seed: int) -> Atoms:
    """Replace elements at random: {"Bi": {"La": 0.2}} makes each Bi a La with probability 0.2, on its own.

    A new atom keeps the position, thermal rms and occupancy of the one it replaces. Elements are static, so that
    every realisation compiles anew. Errors: InputError for an element that is unknown or not in the specimen, and
    for fractions outside [0, 1] or of a sum above 1.
    """
    generator = np.random.default_rng(seed)
    old = np.array(atoms.number)
    new = old.copy()
    for host, shares in fractions.items():
        sites = np.flatnonzero(old == atomic_number(host))
        if sites.size == 0:
            present = ", ".join(SYMBOLS[z] for z in sorted(set(atoms.number)))
            raise InputError("fractions", host, "is not in the specimen", f"replace one of {present}")
        share = np.array([float(value) for value in shares.values()])
        if not ((share >= 0).all() and share.sum() <= 1 + 1e-9):
            raise InputError("fractions", dict(shares), f"for {host} must be 0 to 1 and sum to at most 1", "lower them")
        choices = np.array([*(atomic_number(guest) for guest in shares), atomic_number(host)])
        edges = np.cumsum(share)
        new[sites] = choices[np.searchsorted(edges, generator.random(sites.size), side="right")]
    return Atoms(atoms.position, new, atoms.box, atoms.thermal_rms, atoms.occupancy)


def draw_occupancy(atoms: Atoms, seed: int) -> Atoms:
    """Draw one species, or a vacancy, for every partly occupied site, with its occupancies as probabilities.

    Atoms closer than 0.3 Å share a site. The atoms that stay have occupancy 1. Positions must be concrete.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    generator = np.random.default_rng(seed)
    share = np.asarray(atoms.occupancy, float)
    pairs = close_pairs(atoms.position, atoms.box)
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(share), len(share)))
    _, site = connected_components(links, directed=False)
    order = np.argsort(site, kind="stable")
    total = np.cumsum(share[order])
    start = np.concatenate([[True], np.diff(site[order]) > 0])
    before = total - share[order]
    before = before - before[start][np.cumsum(start) - 1]
    ticket = generator.random(site.max() + 1)[site[order]]
    # Whole sites always stay: rounding of a float32 occupancy must not make a vacancy of one in ten million.
    chosen = (before <= ticket) & ((ticket < before + share[order]) | (before + share[order] > 1 - 1e-5))
    kept = np.sort(order[chosen])
    if kept.size == 0:
        raise InputError("occupancy", share.max(), "left no atom in the specimen", "draw another seed")
    rms = jnp.asarray(atoms.thermal_rms)[kept]
    return Atoms(atoms.position[kept], np.array(atoms.number)[kept], atoms.box, rms, 1.0)
