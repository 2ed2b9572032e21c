"""Directions that a crystal's symmetry allows for the polarization, and the walls that pairs of them make."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ferrojax.errors import InputError
from ferrojax.polarization.structure import AnyArray

FAMILIES = {"100": ((1, 0, 0), 3), "110": ((1, 1, 0), 6), "111": ((1, 1, 1), 4)}
"""Pseudo-cubic family -> one member and the number of its axes: tetragonal, orthorhombic, rhombohedral."""
ROOM_TEMPERATURE = {
    "PbTiO3": "100", "BaTiO3": "100", "BiFeO3": "111", "KNbO3": "110", "K0.5Na0.5NbO3": "110",
}  # fmt: skip
"""Name of a crystal -> family of its phase at room temperature, whose space groups are P4mm, P4mm, R3c, Amm2, Amm2."""
SAME = 1e-3


def polar_variants(family: str) -> Float[np.ndarray, "k 3"]:
    """Unit vectors of a pseudo-cubic family, both signs: "100" (6), "110" (12) or "111" (8)."""
    if family not in FAMILIES:
        raise InputError("family", family, "is unknown", f"choose one of {', '.join(FAMILIES)}")
    signed = itertools.product(*[(v, -v) if v else (0,) for v in FAMILIES[family][0]])
    found = {p for vector in signed for p in itertools.permutations(vector)}
    directions = np.array(sorted(found, reverse=True), float)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def projected_variants(family: str, axes: Float[AnyArray, "2 3"]) -> Float[np.ndarray, "k 2"]:
    """What the unit vectors of a family show in a projection, without those that point along the beam.

    axes: the projection's x and y in the crystal, as in `Motif.axes`; for a map's image axes multiply by the
    transposed rotation of its calibration. Variants that look alike are given once; lengths are the projected ones.
    """
    flat = polar_variants(family) @ np.asarray(axes, float).T
    flat = flat[np.linalg.norm(flat, axis=1) > SAME]
    _, first = np.unique(flat.round(4) + 0.0, axis=0, return_index=True)
    return flat[np.sort(first)]


class WallKind(NamedTuple):
    """Nominal angle between two variants of a family, degrees, and the angle at which the projection shows it."""

    family: str
    angle: int
    shown: float


def wall_kinds(family: str, axes: Float[AnyArray, "2 3"] | None = None) -> tuple[WallKind, ...]:
    """Walls of a family: 90 and 180 of "100"; 71, 109 and 180 of "111"; 60, 90, 120 and 180 of "110".

    axes: of a projection, as in `projected_variants`; then a wall may be shown at several angles, and one between
    variants that differ only along the beam at 0. Without axes the angle itself is shown.
    """
    variants = polar_variants(family)
    shown = variants if axes is None else variants @ np.asarray(axes, float).T
    kinds = set()
    for i, j in itertools.combinations(range(len(variants)), 2):
        nominal = angle_between(variants[i], variants[j])
        seen = angle_between(shown[i], shown[j])
        if np.isfinite(seen):
            kinds.add(WallKind(family, round(nominal), round(seen, 1)))
    return tuple(sorted(kinds))


def angle_between(first: np.ndarray, second: np.ndarray) -> float:
    """Degrees, 0 to 180; NaN where one has no direction."""
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    if size < SAME**2:
        return float("nan")
    return float(np.degrees(np.arccos(np.clip(first @ second / size, -1, 1))))


def name_wall(angle: float, kinds: tuple[WallKind, ...]) -> tuple[str, ...]:
    """Names of the walls whose shown angle is nearest to a measured one, such as ("71", "109"); one if it is clear.

    Empty where the nearest is further off than a third of the smallest step between shown angles: not a wall of
    this family. Errors: InputError for an angle without a value.
    """
    if not np.isfinite(angle) or not kinds:
        raise InputError("angle", angle, "has no value", "give the angle between the domains' polarizations")
    shown = np.array([kind.shown for kind in kinds])
    steps = np.diff(np.unique(shown))
    nearest = np.abs(shown - angle).min()
    if nearest > steps[steps > 1].min(initial=90.0) / 3:
        return ()
    return tuple(dict.fromkeys(str(k.angle) for k in kinds if abs(k.shown - angle) < nearest + 0.2))
