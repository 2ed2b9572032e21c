"""What can be told of a classical map beyond the map: its fit's residual, its scan, its lattice, its domains."""

from collections import Counter
from collections.abc import Callable, Sequence
from os import PathLike
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from ferrojax.columns import (
    Columns,
    FoundColumns,
    ScanDistortion,
    VarianceSplit,
    displacement_jitter,
    scan_distortion,
    variance_split,
)
from ferrojax.columns.columns import ACCEPTED, OFF_LATTICE, REJECTIONS
from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.given import given_crystal
from ferrojax.crystal.zone import Motif, projected_motif
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.polarization.cells import crystal_lattice, map_lattice
from ferrojax.polarization.domain_map import DomainMap, domain_map
from ferrojax.polarization.lattice import LocalLattice, Strain, strain
from ferrojax.polarization.map import cell_members, upright
from ferrojax.polarization.notes import SIGNIFICANT
from ferrojax.polarization.polarization_map import PolarizationMap
from ferrojax.polarization.rotation import OctahedralRotation, octahedral_rotation_map
from ferrojax.polarization.topology import winding_number
from ferrojax.polarization.walls import Wall

MAX_TURN = 135.0
"""Degrees; see `winding_number`."""
T = TypeVar("T")
A_NEIGHBOUR = "an A neighbour is refused or outside the image"


class Winding(NamedTuple):
    """Plaquettes of four significant cells: vortices (+1), antivortices (−1), and how many there are at all."""

    vortices: int
    antivortices: int
    plaquettes: int


class MapAnalysis(NamedTuple):
    """All of it; None where it cannot be told, and then `reasons` says why under the same name.

    residual: (rows, cols) data − model over the standard deviation that noise leaves there, NaN where a pixel did not
        count.
    rotation: of the octahedra, where the image shows their oxygen. unmapped: why cells are not mapped, and how many.
    """

    found: FoundColumns
    residual: np.ndarray
    lattice: LocalLattice
    strain: Strain
    winding: Winding
    distortion: ScanDistortion | None
    split: VarianceSplit | None
    domains: DomainMap | None
    rotation: OctahedralRotation | None
    unmapped: dict[str, int]
    reasons: dict[str, str]

    @property
    def walls(self) -> tuple[Wall, ...]:
        """The walls to believe, longest first: of a kind that the crystal has, and clear of the cells' scatter."""
        every = () if self.domains is None else self.domains.walls
        return tuple(sorted((wall for wall in every if wall.kind), key=lambda wall: -len(wall.position)))


def analyse_map(
    image: Image,
    made: tuple[PolarizationMap, FoundColumns],
    crystal: Crystal | str | PathLike[str],
    zone: Sequence[int],
    progress: Callable[[str], None] = lambda _: None,
) -> MapAnalysis:
    """Look at a map as its report shows it: scan, local lattice, domains and walls, vortices, what the fit leaves.

    made: what `map_with_model` returned for that image. progress: called with a word before every stage.
    Errors: none for what a map cannot tell; `MapAnalysis.reasons` says why.
    """
    pmap, found = made
    crystal = given_crystal(crystal)
    reasons: dict[str, str] = {}
    progress("measuring the scan")
    shown = upright(image, found)
    distortion = _or_reason(lambda: scan_distortion(shown, pmap.columns, ~found.blank), "distortion", reasons)
    motif = projected_motif(crystal, zone, displacement=":".join(pmap.displacement_of))
    split = None if distortion is None else spread_split(pmap, distortion, motif)
    progress("looking for domains")
    domains = _or_reason(lambda: domain_map(pmap, crystal, zone), "domains", reasons)
    progress("measuring the local lattice")
    lattice = map_lattice(pmap, "A" if motif.sites("A") else "B")
    return MapAnalysis(
        found=found,
        residual=normalised_residual(image, found),
        lattice=lattice,
        strain=strain(lattice, crystal_lattice(pmap)),
        winding=significant_winding(pmap, np.zeros(2) if domains is None else domains.offset),
        distortion=distortion,
        split=split,
        domains=domains,
        rotation=octahedral_rotation_map(pmap, motif),
        unmapped=unmapped_cells(pmap, motif),
        reasons=reasons,
    )


def _or_reason(compute: Callable[[], T], name: str, reasons: dict[str, str]) -> T | None:
    try:
        return compute()
    except InputError as error:
        reasons[name] = str(error)
        return None


def normalised_residual(image: Image, found: FoundColumns) -> np.ndarray:
    """(rows, cols) data − model in standard deviations of what the fit leaves of the noise, single precision; NaN where
    not counted."""
    z = (np.asarray(image.data, float) - found.model) / np.sqrt(np.maximum(found.variance * found.left, 1e-300))
    return np.where(found.seen, z, np.nan).astype(np.float32)


def spread_split(pmap: PolarizationMap, distortion: ScanDistortion, motif: Motif) -> VarianceSplit:
    """Scatter of the cells' displacements (Å²) split into counting, line jitter and the rest.

    Variation of the displacement itself, from domains to gradients, is in the rest.
    """
    columns, weight = pmap.columns, np.asarray(motif.shell.weight, float)
    _, b, a = cell_members(columns, motif)
    at = np.nonzero(np.asarray(pmap.valid))
    displacement = np.asarray(pmap.displacement, float)[at]
    alone = np.asarray(columns.own_covariance, float)
    counting = alone[b].mean(1) / b.shape[1] + np.einsum("k,nkij->nij", weight**2, alone[a])
    y = np.asarray(columns.position_px, float)[:, 1]
    scale = float(np.sqrt(np.linalg.det(np.asarray(pmap.calibration.affine, float))))
    width = np.asarray(columns.width, float) / scale
    of_b, of_a = float(np.median(width[b])), float(np.median(width[a]))
    jitter = displacement_jitter(distortion.jitter, (y[b[:, 0]], of_b), (y[a], of_a), weight)
    return variance_split(displacement, counting, jitter * scale**2)


def significant_winding(
    pmap: PolarizationMap, offset: Float[np.ndarray, "2"] | tuple[float, float] = (0.0, 0.0)
) -> Winding:
    """Vortices and antivortices among cells whose own displacement is significant, so that noise makes none.

    offset: Å (x, y) that all cells share, as mis-tilt fakes it; it is taken away first, because it moves the cores, or
    hides them.
    """
    shift, valid = np.asarray(pmap.displacement, float) - np.asarray(offset), np.asarray(pmap.valid)
    covariance = np.where(valid[..., None, None], np.asarray(pmap.covariance, float), np.eye(2))
    # Standard errors of a cell's own displacement, beyond which its direction counts.
    square = np.einsum(
        "yxi,yxi->yx", np.nan_to_num(shift), np.linalg.solve(covariance, np.nan_to_num(shift)[..., None])[..., 0]
    )
    turns = np.asarray(winding_number(shift, valid & (square > SIGNIFICANT**2), MAX_TURN))
    return Winding(int((turns > 0).sum()), int((turns < 0).sum()), int(np.isfinite(turns).sum()))


def refused_columns(found: FoundColumns) -> dict[str, int]:
    """Reason -> number of columns, in the order of REJECTIONS; reasons that did not occur are left out."""
    count = Counter(np.asarray(found.columns.rejection).tolist())
    count[OFF_LATTICE] += len(found.stray)
    return {REJECTIONS[k]: count[k] for k in range(len(REJECTIONS)) if k != ACCEPTED and count[k]}


def unmapped_cells(pmap: PolarizationMap, motif: Motif) -> dict[str, int]:
    """Reason -> number of cells whose column (B, or what else moves) was sought but that have no displacement."""
    columns: Columns = pmap.columns
    if pmap.first_cell is None or columns.column is None:
        return {}
    moving, around = pmap.displacement_of
    reason: dict[tuple[int, int], int] = {}
    of_motif, index, refused = (np.asarray(v) for v in (columns.column, columns.lattice_index, columns.rejection))
    for k in np.nonzero(np.isin(of_motif, motif.moving))[0]:
        cell = (int(index[k, 0]) - pmap.first_cell[0], int(index[k, 1]) - pmap.first_cell[1])
        reason[cell] = max(reason.get(cell, ACCEPTED), int(refused[k]))  # one column refused is enough
    valid = np.asarray(pmap.valid)
    rows, cols = valid.shape
    beside = A_NEIGHBOUR if around == "A" else f"a neighbour of {around} is refused or outside the image"
    return dict(
        Counter(
            beside if why == ACCEPTED else f"{moving} column: {REJECTIONS[why]}"
            for (x, y), why in reason.items()
            if not (0 <= x < cols and 0 <= y < rows and valid[y, x])
        )
    )
