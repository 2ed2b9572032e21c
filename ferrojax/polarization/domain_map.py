"""Domains and walls of a map from an image, with the directions and walls that the crystal allows in projection."""

from collections.abc import Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np

from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.given import given_crystal
from ferrojax.crystal.zone import projected_motif
from ferrojax.errors import InputError
from ferrojax.polarization.born import is_perovskite
from ferrojax.polarization.domains import MIN_CELLS, Domains, likeliest_family, segment_domains
from ferrojax.polarization.polarization_map import PolarizationMap
from ferrojax.polarization.variants import FAMILIES, ROOM_TEMPERATURE, projected_variants, wall_kinds
from ferrojax.polarization.walls import Wall, find_walls


class DomainMap(NamedTuple):
    """domains: on the map's grid. walls: between them. family: "100", "110" or "111". quantity: what was segmented,
    "polarization" (C/m²), or "displacement" (Å) where the crystal has no response; then the walls' charge is the
    displacement's, in Å, and says nothing about the sign of bound charge. offset: (2,) Å, displacement that all cells
    share beside their polarization; zeros where none shows. notes: what a reader must know of them.
    """

    domains: Domains
    walls: tuple[Wall, ...]
    family: str
    quantity: str
    offset: np.ndarray
    notes: tuple[str, ...] = ()


def domain_map(
    pmap: PolarizationMap,
    crystal: Crystal | str | PathLike[str],
    zone: Sequence[int] = (0, 0, 1),
    family: str | None = None,
    minimum_cells: int = MIN_CELLS,
) -> DomainMap:
    """Segment a map of a perovskite into domains and describe the walls between them.

    family: pseudo-cubic directions of the polarization; by default the one that explains the map best, which a map
    with a single domain does not tell; where several do it as well, that of the crystal's phase at room temperature.
    A projection shows only the in-plane part: domains that differ along the beam are not told apart, and a wall's
    kind may have several names. An offset that all cells share, such as mis-tilt, does not enter the walls: they are
    read from the difference of their sides. Charges carry the response's relative error on top of their own, common
    to all walls.
    Errors: InputError for an unknown family, a crystal that is no perovskite of five sites, or an empty map.
    """
    crystal = given_crystal(crystal)
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
    if family is None:
        family = likeliest_family(field, valid, variants, covariance, ROOM_TEMPERATURE.get(crystal.name))
    domains = segment_domains(field, valid, variants[family], covariance, minimum_cells=minimum_cells)
    walls = find_walls(domains, field, np.asarray(pmap.position), wall_kinds(family, axes))
    quantity = "polarization" if polar else "displacement"
    shared = np.asarray(domains.offset, float)
    if pmap.response is not None and polar:
        shared = np.linalg.solve(np.asarray(pmap.response, float), shared)
    return DomainMap(domains, walls, family, quantity, shared, _offset_notes(domains, polar))


def _offset_notes(domains: Domains, polar: bool) -> tuple[str, ...]:
    """That the domains share an offset, and what that leaves open."""
    if not domains.offset.any():
        return ()
    (x, y), size = 100 * domains.offset, 100 * domains.amplitude  # C/m² to µC/cm², or Å to pm
    unit = "µC/cm²" if polar else "pm"
    lines = [
        f"All domains share an offset of ({x:+.1f}, {y:+.1f}) {unit} beside an amplitude of {size:.1f}: mis-tilt and "
        "overlapping columns make one. Walls are read from the difference of their sides."
    ]
    if len(np.unique(domains.label[domains.label >= 0])) == 2:
        lines.append(
            "With two directions alone the offset is not certain: one domain beside a region that is not polar, or "
            "another family of directions, would look the same under another offset."
        )
    return tuple(lines)
