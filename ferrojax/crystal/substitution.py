"""Random realisations of mixed sites: substituted elements, vacancies and partly occupied sites."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ferrojax.checks import generator, real_number
from ferrojax.crystal.atoms import Atoms, check_specimen
from ferrojax.crystal.checks import check_kind, shared_sites
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.elements import SYMBOLS, atomic_number
from ferrojax.crystal.sites import chosen_on_site
from ferrojax.errors import InputError, is_traced

VACANCY = "vacancy"
"""The guest that is no atom."""
_REMEDY = 'give {host: {guest: share}}, such as {"Bi": {"La": 0.2}, "O": {"vacancy": 0.05}}'


def substitute(atoms: Any, fractions: Any, seed: Any) -> Atoms:
    """Replace elements at random: {"Bi": {"La": 0.2}} makes each Bi a La with probability 0.2, on its own.

    {"O": {"vacancy": 0.05}} leaves sites empty. A new atom keeps the position, thermal rms and occupancy of the one
    it replaces. The layout depends on the specimen and on the elements, never on the seed, so that no realisation
    compiles anew: every site of a host holds the host and then each of its guests at one place, and all but the one
    drawn have an occupancy of 0. `Atoms.present` drops those.
    seed: a whole number, or several, such as (seed, index). Errors: InputError for an element that is unknown or
    not in the specimen, and for fractions outside [0, 1] or of a sum above 1.
    """
    check_specimen(atoms)
    draw, number = generator(seed), np.array(atoms.number)
    shares = _checked(fractions, atoms.number)
    chosen = number.copy()
    for host, guests in shares.items():
        sites = np.flatnonzero(number == host)
        kinds = np.array([*guests, host])
        chosen[sites] = kinds[np.searchsorted(np.cumsum([*guests.values()]), draw.random(sites.size), side="right")]
    rows = [(site, z) for site, own in enumerate(atoms.number) for z in (own, *shares.get(own, {})) if z]
    index, kind = np.array(rows).T
    there = jnp.asarray(kind == chosen[index], atoms.occupancy.dtype)
    occupancy = atoms.occupancy[index] * there
    return Atoms(atoms.position[index], kind, atoms.box, atoms.thermal_rms[index], occupancy)


def mixed_crystal(crystal: Any, fractions: Any) -> Crystal:
    """The average crystal of a solid solution: {"Bi": {"Sm": 0.1}} puts 0.9 Bi and 0.1 Sm on every Bi site.

    {"O": {"vacancy": 0.05}} leaves 0.95 O. Guests take the position, label, thermal rms, mode and charges of the
    host; cell and charges are not changed. `draw_occupancy` of its supercell draws whole atoms.
    Errors: as `substitute`.
    """
    check_kind("crystal", crystal, Crystal, "for a specimen use ferrojax.substitute")
    shares = _checked(fractions, crystal.number)
    rows: list[tuple[int, int, float]] = []
    for site, own in enumerate(crystal.number):
        guests = shares.get(own, {})
        kinds = [(own, 1 - sum(guests.values())), *guests.items()]
        rows += [(site, z, part) for z, part in kinds if z and part > 1e-9]
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


def _checked(fractions, number: tuple[int, ...]) -> dict[int, dict[int, float]]:
    """Atomic number of a host -> that of a guest -> its share; a vacancy has the number 0."""
    if not isinstance(fractions, Mapping) or not all(isinstance(shares, Mapping) for shares in fractions.values()):
        raise InputError("fractions", fractions, "must name the guests of every host", _REMEDY)
    found: dict[int, dict[int, float]] = {}
    for host, shares in fractions.items():
        own = atomic_number(host)
        if own not in number:
            present = ", ".join(SYMBOLS[z] for z in sorted(set(number)))
            raise InputError("fractions", host, "is not in the specimen", f"replace one of {present}")
        if host in shares:
            raise InputError("fractions", dict(shares), f"makes {host} its own guest", "name what replaces it")
        guests = {
            0 if g == VACANCY else atomic_number(g): real_number("fractions", s, _REMEDY) for g, s in shares.items()
        }
        if min(guests.values(), default=0.0) < 0 or sum(guests.values()) > 1 + 1e-9:
            raise InputError("fractions", dict(shares), f"for {host} must be 0 to 1 and sum to at most 1", "lower them")
        found[own] = guests
    return found


def draw_occupancy(atoms: Any, seed: Any) -> Atoms:
    """Draw one species, or a vacancy, for every partly occupied site, with its occupancies as probabilities.

    Atoms closer than 0.3 Å share a site. The atoms drawn have occupancy 1 and the others 0, so that another seed
    compiles nothing anew; `Atoms.present` drops those. Positions and occupancies must be concrete.
    seed: as in `substitute`.
    """
    check_specimen(atoms)
    for name, value in (("position", atoms.position), ("occupancy", atoms.occupancy)):
        if is_traced(value):
            raise InputError(name, "traced", "is being traced, so that there is nothing to draw by", "draw before jit")
    draw = generator(seed)
    share = np.asarray(atoms.occupancy, float)
    site = shared_sites(atoms.position, atoms.box)
    site = np.arange(len(share)) if site is None else site
    kept = chosen_on_site(site, share, draw.random(len(share))[site])
    return eqx.tree_at(lambda a: a.occupancy, atoms, jnp.asarray(kept, atoms.occupancy.dtype))
