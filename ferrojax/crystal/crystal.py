"""Crystal: the ideal (non-polar) cell, its sites and what is known of their charges and soft mode."""

import json
from importlib.resources import files

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.crystal.elements import SYMBOLS, atomic_number
from ferrojax.errors import InputError


class Crystal(eqx.Module):
    """A reference cell with the tensors that turn displacement into atom shifts and polarization.

    The cell is the non-polar one where there is a soft mode to displace along.
    cell: (3, 3) Å, rows are the lattice vectors (orthogonal axes for the library's pseudo-cubic perovskites).
    position: (n, 3) fractional.
    thermal_rms: (n,) Å, root mean square per axis.
    soft_mode: (n, 3, 3); site i moves by soft_mode[i] @ d when B is displaced by d (Å) against A. None: not polar.
    born_charge: (n, 3, 3) e, neutral by construction; None where no cited table exists.
    number, label: atomic numbers and site labels ("A", "B", "O"), static.
    sources: field -> citation.
    """

    cell: Float[Array, "3 3"]
    position: Float[Array, "sites 3"]
    thermal_rms: Float[Array, " sites"]
    soft_mode: Float[Array, "sites 3 3"] | None
    born_charge: Float[Array, "sites 3 3"] | None
    number: tuple[int, ...] = eqx.field(static=True)
    label: tuple[str, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True)
    sources: tuple[tuple[str, str], ...] = eqx.field(static=True)

    @property
    def elements(self) -> tuple[str, ...]:
        return tuple(SYMBOLS[z] for z in self.number)


def available_materials() -> tuple[str, ...]:
    """Names that `material` knows."""
    folder = files("ferrojax.crystal").joinpath("library")
    return tuple(sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json")))


def material(name: str) -> Crystal:
    """The crystal of that name from the library, with its citations in `sources`."""
    if name not in available_materials():
        known = ", ".join(available_materials())
        raise InputError("crystal", name, "no such name in the material library", f"choose one of {known}")
    text = files("ferrojax.crystal").joinpath("library", f"{name}.json").read_text(encoding="utf-8")
    record = json.loads(text)
    sites = record["sites"]
    mode, charge = record["soft_mode"], record["born_charges"]
    cell = np.asarray(record["cell_A"], np.float32)
    return Crystal(
        cell=jnp.asarray(np.diag(cell) if cell.ndim == 1 else cell),
        position=jnp.asarray(np.array([s["position"] for s in sites], np.float32)),
        thermal_rms=jnp.asarray(np.array([record["thermal_rms_A"][s["element"]] for s in sites], np.float32)),
        soft_mode=None if mode is None else _tensors(sites, {"A": 0.0, "B": 1.0, **mode}),
        born_charge=None if charge is None else _neutral(_tensors(sites, charge)),
        number=tuple(atomic_number(s["element"]) for s in sites),
        label=tuple(s["label"] for s in sites),
        name=record["name"],
        sources=tuple(sorted(record["sources"].items())),
    )


def _tensors(sites: list[dict], values: dict[str, float]) -> Float[Array, "sites 3 3"]:
    """One diagonal tensor a site; oxygen has one value along its B–O bond and another across it."""
    rows = []
    for site in sites:
        if site["label"] != "O":
            rows.append(np.full(3, values[site["label"]]))
        else:
            along = np.arange(3) == site["bond"]
            rows.append(np.where(along, values["O_parallel"], values["O_perpendicular"]))
    return jnp.asarray(np.stack([np.diag(r) for r in rows]).astype(np.float32))


def _neutral(charge: Float[Array, "sites 3 3"]) -> Float[Array, "sites 3 3"]:
    """Tables miss the acoustic sum rule by rounding: share the rest equally, so that a rigid shift gives P = 0."""
    return charge - charge.mean(0)
