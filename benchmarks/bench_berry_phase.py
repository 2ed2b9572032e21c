"""Polarization from Born charges along stored distortion paths against their Berry-phase polarization.

usage: FERROJAX_REFERENCE_DATA=FOLDER python benchmarks/bench_berry_phase.py     (a few seconds)
Data: ferroelectric_structures_dft of the reference data: T. E. Smidt, S. A. Mack, S. E. Reyes-Lillo, A. Jain,
J. B. Neaton, Sci. Data 7, 72 (2020), MIT: ten images from non-polar to polar, linear in fractional coordinates.
Charges: those of the cubic phase from the library, turned so that "along the bond" is every oxygen's own B–O bond.
Every change is from the first image, in fractional coordinates times the image's own cell; the charges are neutral, so
that a rigid shift of an image does not count. PBE over-estimates the tetragonality: these are self-consistent pairs of
structure and polarization, not the experimental crystals.
"""

import itertools
import json
import os
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from common import write_result

from ferrojax.constants import POLARIZATION_UNIT
from ferrojax.crystal import Crystal, available_materials, material, polarization_response
from ferrojax.polarization import born_polarization

LABELS = {
    **dict.fromkeys(("Ba", "Pb", "K", "Na", "Bi", "Li", "Mg", "Cr", "Mn"), "A"),
    **dict.fromkeys(("Ti", "Nb", "Fe", "Cl", "I"), "B"),
    **dict.fromkeys(("O", "B"), "O"),
}
"""In the boracites the metal is A and the halogen in its cage of six is B; boron belongs to the framework."""
CHARGE_ERROR = 0.08
"""What the cited charges are allowed to be off at zero displacement: LDA, at other lattice constants than PBE's."""
SMALL = 0.01
"""Å; below this B does not move against A, and there is no mode charge."""


class PathOfImages(NamedTuple):
    """One entry of the set: (images, ...) cells (3, 3) Å, fractional positions, and P (C/m², Cartesian)."""

    name: str
    elements: list[str]
    cell: np.ndarray
    fractional: np.ndarray
    polarization: np.ndarray

    @property
    def label(self) -> np.ndarray:
        return np.array([LABELS[symbol] for symbol in self.elements])

    @property
    def volume(self) -> np.ndarray:
        return np.abs(np.linalg.det(self.cell))

    @property
    def shift(self) -> np.ndarray:
        """(images, sites, 3) Å, of every site from the first image."""
        return np.einsum("tsi,tij->tsj", self.fractional - self.fractional[0], self.cell)


def stored_paths(folder: Path) -> list[PathOfImages]:
    """Every completed entry; positions follow each atom over the cell's edges."""
    entries = json.loads((folder / "ferroelectric_structures_dft" / "smidt2020_selected.json").read_text())
    return [_path(entry) for entry in entries if entry.get("path_10_images")]


def _path(entry: dict) -> PathOfImages:
    images = entry["path_10_images"]
    cell = np.array(images["cell_vectors_A"], float)
    first = images["cartesian_positions_A"][0]
    elements = [symbol for symbol in first for _ in first[symbol]]
    cartesian = [[row for symbol in first for row in image[symbol]] for image in images["cartesian_positions_A"]]
    fractional = np.einsum("tsi,tij->tsj", np.array(cartesian, float), np.linalg.inv(cell))
    step = np.diff(fractional, axis=0)
    steps = np.concatenate([fractional[:1], step - np.round(step)])
    along = np.stack([images["polarization_along_abc_uC_per_cm2"][axis] for axis in "abc"], -1) / 100
    unit = cell / np.linalg.norm(cell, axis=2, keepdims=True)
    polarization = np.einsum("ti,tij->tj", along, unit)
    name = f"{entry['formula']} {entry['polar_spacegroup']} {entry['polar_mp_id']} from {entry['nonpolar_mp_id']}"
    return PathOfImages(name, elements, cell, np.cumsum(steps, axis=0), polarization - polarization[0])


def quantum(path: PathOfImages) -> float:
    """C/m²: the smallest polarization quantum e R/V along a lattice vector of the last image."""
    return float(POLARIZATION_UNIT * np.linalg.norm(path.cell[-1], axis=1).min() / path.volume[-1])


def oriented_charges(path: PathOfImages, crystal: Crystal) -> np.ndarray:
    """(sites, 3, 3) e: the library's charges, oxygen's turned to its nearest B of the first image."""
    tensor = np.asarray(crystal.born_charge, float)
    by_label = {label: tensor[crystal.label.index(label)] for label in "AB"}
    bond_along = tensor[crystal.label.index("O")]
    oxygen = np.asarray(crystal.position, float)[crystal.label.index("O")]
    axis = int(np.abs(oxygen - 0.5).argmax())  # the library's O sits half a cell from B along its bond
    parallel, across = bond_along[axis, axis], bond_along[axis - 1, axis - 1]
    charges = []
    for site, label in enumerate(path.label):
        if label == "O":
            bond = _nearest(path, site)
            charges.append(across * np.eye(3) + (parallel - across) * np.outer(bond, bond))
        else:
            charges.append(by_label[label])
    return np.array(charges)


def _nearest(path: PathOfImages, site: int) -> np.ndarray:
    """Unit vector from a site to its nearest B in the first image."""
    bonds = _bonds(path, 0, site, "B")
    length = np.linalg.norm(bonds, axis=1)
    return bonds[length.argmin()] / length.min()


def _bonds(path: PathOfImages, image: int, site: int, label: str) -> np.ndarray:
    shifts = np.array(list(itertools.product(range(-2, 3), repeat=3)))
    gap = path.fractional[image][path.label == label] - path.fractional[image][site]
    return (gap[:, None] + shifts).reshape(-1, 3) @ path.cell[image]


def born_path(path: PathOfImages, crystal: Crystal) -> np.ndarray:
    """(images, 3) C/m² from the library's charges and the sites' shifts."""
    charges = oriented_charges(path, crystal)
    found = []
    for image in range(len(path.cell)):
        cell = Crystal(
            path.cell[image],
            path.fractional[image],
            tuple(1 for _ in path.elements),
            tuple(path.label.tolist()),
            born_charge=charges - charges.mean(0),
        )
        found.append(np.asarray(born_polarization(cell, jnp.asarray(path.shift[image])), float))
    return np.array(found)


def cage_displacement(path: PathOfImages) -> np.ndarray:
    """(images, 3) Å: mean displacement of B against the centroid of its A cage (8 in perovskites, 6 in boracites)."""
    cage = 8 if path.elements.count("O") == 3 * int((path.label == "A").sum()) else 6
    found = []
    for image in range(len(path.cell)):
        rows = []
        for site in np.flatnonzero(path.label == "B"):
            bonds = _bonds(path, image, int(site), "A")
            rows.append(-bonds[np.argsort(np.linalg.norm(bonds, axis=1))[:cage]].mean(0))
        found.append(np.mean(rows, axis=0))
    return np.array(found)


def slope_at_zero(values: np.ndarray) -> float:
    """Derivative at λ = 0 of an odd function given at λ = 0 … 1: a of P/λ = a + b λ² + c λ⁴, least squares."""
    at = np.linspace(0, 1, len(values))[1:]
    return float(np.linalg.lstsq(np.stack([at**0, at**2, at**4], 1), values[1:] / at, rcond=None)[0][0])


def path_figures(path: PathOfImages) -> dict:
    """Everything that is told of one path; polarizations along the direction of the final one, µC/cm² and Å.

    nonlinearity: Berry-phase P at the end over what its slope at zero extrapolates to, minus 1. The linear-response
    error stated is that of an extrapolation from zero on the very path, and 8 % for the charges.
    """
    polar = path.polarization[-1] / np.linalg.norm(path.polarization[-1])
    berry, cage = path.polarization @ polar, cage_displacement(path) @ polar
    b_sites = int((path.label == "B").sum())
    slope = slope_at_zero(berry)
    figures = {
        "P_end": 100 * berry[-1],
        "largest_step_over_quantum": float(np.abs(np.diff(berry)).max() / quantum(path)),
        "B_displacement_end": cage[-1] - cage[0],
        "sign_of_P_against_B": int(np.sign(cage[-1])) if abs(cage[-1]) > SMALL else 0,
        "nonlinearity": berry[-1] / slope - 1,
    }
    if abs(cage[-1]) > SMALL:
        charge = berry * path.volume / (POLARIZATION_UNIT * b_sites)
        figures["mode_charge_end"] = charge[-1] / cage[-1]
        figures["mode_charge_slope"] = slope_at_zero(charge) / slope_at_zero(cage)
    formula = path.name.split()[0]
    crystal = material(formula) if formula in available_materials() else None
    if crystal is not None and crystal.born_charge is not None:
        born = born_path(path, crystal) @ polar
        figures["born_over_berry_slope"] = slope_at_zero(born) / slope
        figures["born_over_berry"] = born[1:] / berry[1:]
        figures["linear_response_error_stated"] = CHARGE_ERROR + abs(slope / berry[-1] - 1)
    if crystal is not None and (crystal.mode_charge is not None or crystal.soft_mode is not None):
        response = polarization_response(crystal)
        figures["library_kind"] = response.kind
        figures["library_over_berry_end"] = float(response.tensor[2, 2]) * cage[-1] / berry[-1]
        figures["library_stated_error"] = response.relative_error
    return figures


def main() -> None:
    paths = stored_paths(Path(os.environ["FERROJAX_REFERENCE_DATA"]))
    figures = {path.name: path_figures(path) for path in paths}
    for name, row in figures.items():
        print(name, json.dumps({k: np.round(v, 3).tolist() if k != "library_kind" else v for k, v in row.items()}))
    cited = [row for row in figures.values() if "born_over_berry" in row]
    inside = [abs(row["born_over_berry"][-1] - 1) <= row["linear_response_error_stated"] for row in cited]
    print(f"{sum(inside)} of {len(inside)} paths with cited charges within the linear-response error stated")
    head = {"units": "µC/cm², Å, e per B site; ratios", "charge_error": CHARGE_ERROR, "inside_stated": sum(inside)}
    write_result("berry_phase", {**head, "paths_with_cited_charges": len(inside), "paths": figures})


if __name__ == "__main__":
    main()
