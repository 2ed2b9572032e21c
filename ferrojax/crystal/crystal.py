"""Crystal: a reference cell, its sites and what is known of their charges and soft mode."""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ferrojax.checks import check_array, real_number
from ferrojax.crystal.checks import atomic_numbers, check_cell, check_values
from ferrojax.crystal.elements import SYMBOLS
from ferrojax.errors import InputError, is_traced


class Crystal(eqx.Module):
    """A reference cell with the tensors that turn displacement into atom shifts and polarization.

    The cell is the non-polar one where there is a soft mode to displace along.
    cell: (3, 3) Å, rows are the lattice vectors (orthogonal axes for the library's pseudo-cubic perovskites).
    position: (n, 3) fractional. occupancy: (n,) in (0, 1]; species of a shared site have the same position.
    thermal_rms: (n,) Å, root mean square per axis.
    soft_mode: (n, 3, 3); site i moves by soft_mode[i] @ d when B is displaced by d (Å) against A. None: not polar.
    born_charge: (n, 3, 3) e, neutral by construction; None where no cited table exists.
    mode_charge: (3, 3) e per B site, mode-effective: P = e n_B/V mode_charge @ d for the cell's n_B sites B
    displaced by d (Å) against A with every other site following. Stands in for Born charges. None: unknown.
    response_error: the relative uncertainty of polarization per displacement; None: unknown.
    number, label: atomic numbers and site labels: "A" (the cages), "B" (inside them, what is displaced) and "O"
    (all the rest). Static.
    sources: field -> citation.
    """

    cell: Float[Array, "3 3"]
    position: Float[Array, "sites 3"]
    thermal_rms: Float[Array, " sites"]
    occupancy: Float[Array, " sites"]
    soft_mode: Float[Array, "sites 3 3"] | None
    born_charge: Float[Array, "sites 3 3"] | None
    mode_charge: Float[Array, "3 3"] | None
    response_error: float | None = eqx.field(static=True)
    number: tuple[int, ...] = eqx.field(static=True)
    label: tuple[str, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True)
    sources: tuple[tuple[str, str], ...] = eqx.field(static=True)

    def __init__(
        self,
        cell,
        position,
        number,
        label,
        *,
        name: str = "crystal",
        thermal_rms: Any = 0.0,
        occupancy: Any = 1.0,
        soft_mode: Any = None,
        born_charge: Any = None,
        mode_charge: Any = None,
        response_error: Any = None,
        sources: Mapping[str, str] | tuple[tuple[str, str], ...] = (),
    ):
        self.number, self.label, self.name = atomic_numbers(number), tuple(label), name
        dtype, n = jnp.result_type(float), len(self.number)
        each = [(), (1,), (n,)]
        check_array("cell", cell, [(3, 3)], "give three lattice vectors as rows, in Å")
        check_array("position", position, [(n, 3)], "give fractional coordinates, one row a site")
        check_array("thermal_rms", thermal_rms, each, "give Å per axis")
        check_array("occupancy", occupancy, each, "give one share a site, above 0 and up to 1")
        if len(self.label) != n or not set(self.label) <= {"A", "B", "O"}:
            shown = " ".join(map(str, self.label))
            raise InputError("label", shown, f"must be A, B or O for each of {n} sites", "label the rest O")
        self.cell, self.position = jnp.asarray(cell, dtype), jnp.asarray(position, dtype)
        self.thermal_rms = jnp.broadcast_to(jnp.asarray(thermal_rms, dtype), (n,))
        self.occupancy = jnp.broadcast_to(jnp.asarray(occupancy, dtype), (n,))
        self.soft_mode = _tensor("soft_mode", soft_mode, (n, 3, 3))
        self.born_charge = _tensor("born_charge", born_charge, (n, 3, 3))
        self.mode_charge = _tensor("mode_charge", mode_charge, (3, 3))
        remedy = "give a relative error such as 0.1, or None"
        self.response_error = None if response_error is None else real_number("response_error", response_error, remedy)
        self.sources = tuple(sorted(dict(sources).items()))
        check_values(self.position, self.thermal_rms, self.occupancy, self.number)
        if not is_traced(self.occupancy) and bool((self.occupancy <= 0).any()):
            raise InputError("occupancy", self.occupancy.min(), "must be above 0", "leave out a site that is empty")
        check_cell(self.cell, self.occupancy.sum())

    @property
    def elements(self) -> tuple[str, ...]:
        return tuple(SYMBOLS[z] for z in self.number)

    def with_lengths(self, a: float, b: float, c: float) -> "Crystal":
        """The same crystal with cell vectors of these lengths (Å); angles and fractional positions stay.

        For a measured cell where a file or the library has a calculated or a wrong one.
        """
        check_array("lengths", (a, b, c), [(3,)], "give Å")
        lengths = jnp.asarray([a, b, c], self.cell.dtype)
        if not bool((lengths > 0).all()):
            raise InputError("lengths", (a, b, c), "must be positive", "give Å")
        cell = self.cell * (lengths / jnp.linalg.norm(self.cell, axis=1))[:, None]
        told = dict(self.sources)
        told["cell_A"] = f"{told.get('cell_A', '')} Rescaled to {a:g}, {b:g}, {c:g} Å.".strip()
        return replace(self, cell=cell, sources=told)

    @staticmethod
    def from_file(
        path: str | PathLike,
        *,
        labels: Mapping[str, str] | None = None,
        thermal_rms: float | Mapping[str, float] | None = None,
        occupancy: Mapping[str, float] | None = None,
        soft_mode: ArrayLike | Mapping[str, float] | None = None,
        born_charge: ArrayLike | Mapping[str, float] | None = None,
        name: str | None = None,
        index: int | None = None,
    ) -> "Crystal":
        """A crystal from a CIF, a POSCAR or another file that ASE reads, symmetry expanded, one site a species.

        The symmetry of a CIF is that of its listed operations, its Hall symbol, or the name or number of its space
        group in the setting that the name, the cell, the formula and the distances between atoms leave.

        labels: {"Pb": "A", "Ti": "B", "O": "O"}; without it they are inferred from the coordination, where that
        decides. thermal_rms: Å per axis, one value or one an element; without it that of the file (U or B of a CIF,
        of tensors the mean over directions), else 0.085 Å, which `sources` call assumed, site by site.
        occupancy: {"Mg": 1/3, "Nb": 2/3} puts right what the file says of an element that shares its sites.
        soft_mode, born_charge: (n, 3, 3) for the sites in their order, or one number an element; None: unknown.
        index: which structure of a file that holds several. The name is the formula unless given.
        Warns where a CIF's formula is not that of its sites, it lists sites twice or states no symmetry. Errors:
        InputError for what cannot be read, or in several ways; for what no solid can be (no cell, atoms too close for
        their size, more than 0.25 per Å³, none that touch, occupancies above 1, a formula that its symmetry cannot
        make); for labels that cannot be inferred.
        """
        from ferrojax.crystal.files import read_sites

        sites = read_sites(
            Path(path),
            labels=labels,
            thermal_rms=thermal_rms,
            occupancy=occupancy,
            soft_mode=soft_mode,
            born_charge=born_charge,
            name=name,
            index=index,
        )
        return Crystal(**sites)


def _tensor(field: str, value, shape: tuple[int, ...]) -> Array | None:
    """An array of that shape, or None."""
    if value is None:
        return None
    check_array(field, value, [shape], "give one tensor a site, in order" if len(shape) == 3 else "give one tensor")
    return jnp.asarray(value, jnp.result_type(float))
