"""The material library: crystals with the source of every value."""

import json
from importlib.resources import files

import numpy as np
from jaxtyping import Float

from ferrojax.crystal.crystal import Crystal
from ferrojax.crystal.elements import atomic_number
from ferrojax.errors import InputError


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
    mode, charge, effective = record["soft_mode"], record["born_charges"], record["mode_charge"]
    cell = np.asarray(record["cell_A"], float)
    occupancy = np.array([site.get("occupancy", 1.0) for site in sites])
    return Crystal(
        np.diag(cell) if cell.ndim == 1 else cell,
        np.array([site["position"] for site in sites], float),
        tuple(atomic_number(site["element"]) for site in sites),
        tuple(site["label"] for site in sites),
        name=record["name"],
        thermal_rms=np.array([record["thermal_rms_A"][site["element"]] for site in sites]),
        occupancy=occupancy,
        soft_mode=None if mode is None else _tensors(sites, {"A": 0.0, "B": 1.0, **mode}),
        born_charge=None if charge is None else _neutral(_tensors(sites, charge), occupancy),
        mode_charge=None if effective is None else np.diag(np.broadcast_to(np.asarray(effective, float), 3)),
        response_error=record["response_error"],
        sources=record["sources"],
    )


def _tensors(sites: list[dict], values: dict[str, float]) -> Float[np.ndarray, "sites 3 3"]:
    """One diagonal tensor a site; oxygen has one value along its B–O bond and another across it.

    A cation takes the value under its element's symbol, or else under its label.
    """
    rows = []
    for site in sites:
        if site["label"] != "O":
            rows.append(np.full(3, values.get(site["element"], values.get(site["label"]))))
        else:
            along = np.arange(3) == site["bond"]
            rows.append(np.where(along, values["O_parallel"], values["O_perpendicular"]))
    return np.stack([np.diag(row) for row in rows]).astype(float)


def _neutral(
    charge: Float[np.ndarray, "sites 3 3"], occupancy: Float[np.ndarray, " sites"]
) -> Float[np.ndarray, "sites 3 3"]:
    """Tables miss the acoustic sum rule by rounding: share the rest equally, so that a rigid shift gives P = 0."""
    return charge - np.average(charge, axis=0, weights=occupancy)
