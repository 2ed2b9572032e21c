"""Whose displacement against whose centroid is mapped: "B:A", "Fe:Bi", "Al:N", "Mg1:Mg2"."""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from ferrojax.crystal.crystal import Crystal
from ferrojax.errors import InputError

SITES_OF_B = "B:A"
"""The displacement of a perovskite: what is labelled B against what is labelled A."""
_REMEDY = "write who moves and against whom, such as Fe:Bi, Al:N or Mg1:Mg2; + joins several, as in Ti:O1+O2"


class Roles(NamedTuple):
    """moving, around: (sites,) bool, the sublattice whose displacement is meant and that of its neighbours."""

    moving: Bool[np.ndarray, " sites"]
    around: Bool[np.ndarray, " sites"]


def usual_displacement(crystal: Crystal) -> str:
    """What is meant where nothing is said: B against A, and cations against anions (A:O) where the crystal has no B."""
    return "A:O" if "B" not in crystal.label and "O" in crystal.label else SITES_OF_B


def displacement_roles(crystal: Crystal, displacement: str) -> Roles:
    """The sites that a displacement such as "Fe:Bi" names: Fe against the centroid of the Bi around it.

    A name is an element, one of its sites by number in the crystal's order (Mg2), or a label (A, B, O) where no element
    of the crystal is called so. "B:A" and "A:O" always mean the labels.
    Errors: InputError for a text of another form, names that the crystal does not have, and a site on both sides.
    """
    parts = displacement.split(":") if isinstance(displacement, str) else []
    if len(parts) != 2 or not all(part.strip() for part in parts):
        raise InputError("displacement", displacement, "does not say what moves against what", _REMEDY)
    labels_only = displacement.replace(" ", "") in (SITES_OF_B, "A:O")
    moving, around = (
        np.any([_sites(crystal, name.strip(), displacement, labels_only) for name in part.split("+")], axis=0)
        for part in parts
    )
    if (moving & around).any():
        raise InputError("displacement", displacement, "names the same sites twice", _REMEDY)
    return Roles(moving, around)


def _sites(crystal: Crystal, name: str, text: str, labels_only: bool) -> Bool[np.ndarray, " sites"]:
    elements, labels = np.array(crystal.elements), np.array(crystal.label)
    if not labels_only:
        if (elements == name).any():
            return elements == name
        numbered = re.fullmatch(r"([A-Z][a-z]?)([1-9]\d*)", name)
        if numbered:
            of_element = np.nonzero(elements == numbered[1])[0]
            if int(numbered[2]) <= len(of_element):
                return np.arange(len(labels)) == of_element[int(numbered[2]) - 1]
    if labels_only or (labels == name).any():
        return labels == name
    known = ", ".join(f"{e} ({(elements == e).sum()} sites)" for e in dict.fromkeys(crystal.elements))
    raise InputError(
        "displacement", text, f"names {name or 'nothing'}, which {crystal.name} does not have", f"use {known}"
    )
