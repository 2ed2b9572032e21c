"""Domains and walls of a map from an image, with the directions and walls that the crystal allows in projection."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.zone import projected_motif
from ferrojax.errors import InputError
from ferrojax.polarization.born import is_perovskite
from ferrojax.polarization.domains import MIN_CELLS, Domains, likeliest_family, segment_domains
from ferrojax.polarization.map import PolarizationMap
from ferrojax.polarization.variants import FAMILIES, projected_variants, wall_kinds
from ferrojax.polarization.walls import Wall, find_walls


class DomainMap(NamedTuple):
    """domains: on the map's grid. walls: between them. family: "100", "110" or "111". quantity: what was segmented,
    "polarization" (C/m²), or "displacement" (Å) where the crystal has no response; then the walls' charge is the
    displacement's, in Å, and says nothing about the sign of bound charge.
    """

    domains: Domains
    walls: tuple[Wall, ...]
    family: str
    quantity: str


def domain_map(
    pmap: PolarizationMap,
    crystal: Crystal,
    zone: Sequence[int] = (0, 0, 1),
    family: str | None = None,
    minimum_cells: int = MIN_CELLS,
) -> DomainMap:
    """Segment a map of a perovskite into domains and describe the walls between them.

    family: pseudo-cubic directions of the polarization; by default the one that explains the map best, which a map
    with a single domain does not tell. A projection
    shows only the in-plane part: domains that differ along the beam are not told apart, and a wall's kind may have
    several names. Charges carry the response's relative error on top of their own, common to all walls.
    Errors: InputError for an unknown family, a crystal that is no perovskite of five sites, or an empty map.
    """
    if not is_perovskite(crystal):
        raise InputError("crystal", crystal.name, "is no perovskite of five sites", "use segment_domains with variants")
    if family is not None and family not in FAMILIES:
        raise InputError("family", family, "is unknown", f"choose one of {', '.join(FAMILIES)}")
    axes = projected_motif(crystal, zone).axes
    turn = np.asarray(pmap.calibration.rotation, float)
    variants = {name: projected_variants(name, axes) @ turn.T for name in FAMILIES}
    polar = pmap.polarization is not None
    field = np.asarray(pmap.polarization if polar else pmap.displacement)
    covariance = pmap.polarization_covariance(0.0) if polar else pmap.covariance
    valid = np.asarray(pmap.valid)
    family = likeliest_family(field, valid, variants, covariance) if family is None else family
    domains = segment_domains(field, valid, variants[family], covariance, minimum_cells=minimum_cells)
    walls = find_walls(domains, field, np.asarray(pmap.position), wall_kinds(family, axes))
    return DomainMap(domains, walls, family, "polarization" if polar else "displacement")
