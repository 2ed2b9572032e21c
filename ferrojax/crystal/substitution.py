"""Random realisations of mixed sites: substituted elements and partly occupied sites."""

from collections.abc import Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from ferrojax.crystal.atoms import Atoms
from ferrojax.crystal.checks import close_pairs
from ferrojax.crystal.crystal import Crystal
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
        sites = _host_sites(host, atoms.number)
        share = _checked_shares(host, shares)
        choices = np.array([*(atomic_number(guest) for guest in shares), atomic_number(host)])
        edges = np.cumsum(share)
        new[sites] = choices[np.searchsorted(edges, generator.random(sites.size), side="right")]
    return Atoms(atoms.position, new, atoms.box, atoms.thermal_rms, atoms.occupancy)


def mixed_crystal(crystal: Crystal, fractions: Mapping[str, Mapping[str, float]]) -> Crystal:
    """The average crystal of a solid solution: {"Bi": {"Sm": 0.1}} puts 0.9 Bi and 0.1 Sm on every Bi site.

    Guests take the position, label, thermal rms, mode and charges of the host; cell and charges are not changed.
    `draw_occupancy` of its supercell draws whole atoms. Errors: as `substitute`.
    """
    rows: list[tuple[int, int, float]] = []
    given = {atomic_number(host): (host, shares) for host, shares in fractions.items()}
    for host in fractions:
        _host_sites(host, crystal.number)
    for site, z in enumerate(crystal.number):
        host, shares = given.get(z, (SYMBOLS[z], {}))
        share = _checked_shares(host, shares)
        kinds = [(z, 1 - share.sum()), *zip((atomic_number(guest) for guest in shares), share, strict=True)]
        rows += [(site, number, float(part)) for number, part in kinds if part > 1e-9]
    index, number, part = (np.array(column) for column in zip(*rows, strict=True))
    solution = ", ".join(f"{share:g} {guest} on {host}" for host, s in fractions.items() for guest, share in s.items())

    tensors = {"soft_mode": crystal.soft_mode, "born_charge": crystal.born_charge}
    return replace(
        crystal,
        position=crystal.position[index],
        number=tuple(int(z) for z in number),
        label=tuple(crystal.label[i] for i in index),
        name=f"{crystal.name} with {solution}",
        thermal_rms=crystal.thermal_rms[index],
        occupancy=crystal.occupancy[index] * part,
        response_error=None,
        sources={**dict(crystal.sources), "substitution": f"{solution}, at random; all else as {crystal.name}."},
        **{field: None if tensor is None else tensor[index] for field, tensor in tensors.items()},
    )


def _host_sites(host: str, number: tuple[int, ...]) -> np.ndarray:
    sites = np.flatnonzero(np.array(number) == atomic_number(host))
    if sites.size == 0:
        present = ", ".join(SYMBOLS[z] for z in sorted(set(number)))
        raise InputError("fractions", host, "is not in the specimen", f"replace one of {present}")
    return sites


def _checked_shares(host: str, shares: Mapping[str, float]) -> np.ndarray:
    share = np.array([float(value) for value in shares.values()])
    if not ((share >= 0).all() and share.sum() <= 1 + 1e-9):
        raise InputError("fractions", dict(shares), f"for {host} must be 0 to 1 and sum to at most 1", "lower them")
    return share


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
