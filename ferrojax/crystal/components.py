"""What each projected column is made of: its elements, where they sit and how they follow the displacement."""

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.zone import Z_CONTRAST_EXPONENT, Motif

ALIKE = 1e-3
"""Å, and Å per Å; atoms of a column that agree so well are one component."""


class ColumnComponents(eqx.Module):
    """The atoms of one projected column, alike ones together; in NumPy, because it plans the work.

    number: (m,) atomic numbers. offset: (m, 2) Å from the column's position, in the projection's axes.
    density: (m,) atoms per Å of depth, occupancy included. share: (m,) of the column's HAADF strength
    (∝ density · Z^1.7), sums to 1.
    response: (m, 2, 2), in the projection's axes; the component moves by response @ d when B is displaced in the
    plane by d (Å) against A along the soft mode. None where the crystal has no soft mode.
    label: site labels.
    """

    number: Int[np.ndarray, " m"]
    offset: Float[np.ndarray, "m 2"]
    density: Float[np.ndarray, " m"]
    share: Float[np.ndarray, " m"]
    response: Float[np.ndarray, "m 2 2"] | None
    label: tuple[str, ...] = eqx.field(static=True)


def column_components(crystal: Crystal, motif: Motif) -> tuple[ColumnComponents, ...]:
    """The components of every column of a motif, in the motif's order; motif: `projected_motif(crystal, zone)`.

    The first component of a column is one that gives it its label. Only the displacement in the plane is
    answered: what the invisible part along the beam moves in the plane is left out.
    """
    offset = _offsets(crystal, motif)
    number = np.asarray(crystal.number)
    density = np.asarray(crystal.occupancy, float) / (motif.depth * motif.alike)
    response = None
    if crystal.soft_mode is not None:
        response = np.einsum("ai,sij,bj->sab", motif.axes, np.asarray(crystal.soft_mode, float), motif.axes)
    return tuple(_column(group, number, offset, density, response, crystal.label) for group in motif.members)


def _offsets(crystal: Crystal, motif: Motif) -> Float[np.ndarray, "sites 2"]:
    """Å from every site to its column, by the nearest image; NaN for sites that repeat another by translation."""
    plane = np.asarray(crystal.position, float) @ np.asarray(crystal.cell, float) @ motif.axes.T
    plane = plane @ np.linalg.inv(motif.lattice)
    offset = np.full((len(crystal.number), 2), np.nan)
    for column, group in enumerate(motif.members):
        gap = plane[list(group)] - motif.position[column]
        offset[list(group)] = (gap - np.round(gap)) @ motif.lattice
    return offset


def _column(group, number, offset, density, response, label) -> ColumnComponents:
    """One column's sites with like ones merged."""
    rows: dict[tuple, list[int]] = {}
    for i in group:
        values = [offset[i], np.zeros(0) if response is None else response[i].ravel()]
        key = (int(number[i]), label[i], tuple(np.round(np.concatenate(values) / ALIKE).astype(int).tolist()))
        rows.setdefault(key, []).append(i)
    sites = list(rows.values())
    first = [alike[0] for alike in sites]
    count = np.array([density[alike].sum() for alike in sites])
    strength = count * number[first].astype(float) ** Z_CONTRAST_EXPONENT
    return ColumnComponents(
        number[first],
        np.array([offset[alike].mean(0) for alike in sites]),
        count,
        strength / strength.sum(),
        None if response is None else response[first],
        label=tuple(label[i] for i in first),
    )
