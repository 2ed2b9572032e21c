"""What lies on a specimen, and how thick it is: amorphous layers, stacks and wedges."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ferrojax.checks import check_array, check_numbers, generator, positive, real_number, whole_pair
from ferrojax.crystal.atoms import Atoms, check_specimen
from ferrojax.crystal.elements import atomic_number
from ferrojax.errors import InputError

DALTON = 1.66053907
"""g/cm³ of one dalton per Å³."""
DENSEST_PACKING = 0.45
"""Part of the volume in spheres of the least distance that pushing apart reaches."""
PASSES = 2000


def amorphous_layer(
    extent, thickness, *, element: Any = "C", density: Any = 2.0, seed: Any = 0, least_distance=1.3, thermal_rms=0.08
) -> Atoms:
    """A layer of one element without order: atoms at random, pushed apart until none is closer than least_distance.

    extent: (x, y) and thickness: Å, the box; x and y are periodic. density: g/cm³, reached to the nearest atom.
    seed: a whole number, or several. Only the density and the shortest distance are those of the material; bonds
    and their angles are not. Errors: InputError for a density that leaves no room for the distance, and for a box
    too small to hold the density within 2 %.
    """
    box = _lengths(extent, thickness)
    number = atomic_number(element)
    density, reach = positive("density", density, "g/cm³"), positive("least_distance", least_distance, "Å")
    wanted = density / (_mass(number) * DALTON) * np.prod(box)
    count = round(wanted)
    if not 0.98 < count / wanted < 1.02:
        raise InputError("extent", f"{wanted:.2f} atoms", "holds no whole number of atoms", "enlarge the layer")
    if min(box[:2]) < 2 * reach:
        raise InputError("extent", extent, "is below twice the least distance", "enlarge the layer")
    if np.pi / 6 * reach**3 * count / np.prod(box) > DENSEST_PACKING:
        remedy = f"choose less than {(6 / np.pi * DENSEST_PACKING * np.prod(box) / count) ** (1 / 3):.2f} Å"
        raise InputError("least_distance", reach, "Å leaves no room at this density", remedy)
    return Atoms(_apart(generator(seed).random((count, 3)) * box, box, reach), [number] * count, box, thermal_rms)


def _apart(position: np.ndarray, box: np.ndarray, reach: float) -> np.ndarray:
    """Positions pushed apart in pairs, x and y periodic and z inside the box, until none is closer than reach (Å)."""
    from scipy.spatial import KDTree

    sides = np.array([box[0], box[1], 0.0])
    for _ in range(PASSES):
        position[:, :2] = np.mod(np.mod(position[:, :2], box[:2]), box[:2])  # twice: the first may round up
        # The margin keeps the distance when positions are rounded to float32.
        first, second = KDTree(position, boxsize=sides).query_pairs(reach * (1 + 1e-4) + 1e-4, output_type="ndarray").T
        if len(first) == 0:
            return position
        gap = position[second] - position[first]
        gap[:, :2] -= box[:2] * np.round(gap[:, :2] / box[:2])
        length = np.linalg.norm(gap, axis=1, keepdims=True)
        push = (1.02 * reach - length) / 2 * gap / np.maximum(length, 1e-9)
        np.add.at(position, first, -push)
        np.add.at(position, second, push)
        position[:, 2] = np.clip(position[:, 2], 0, box[2])
    raise InputError("least_distance", reach, "Å was not reached at this density", "lower one of them")


def stacked(upper: Any, lower: Any, *, least_distance=1.5) -> Atoms:
    """One specimen on another; the beam meets `upper` first.

    Their boxes must agree in x and y. `lower` begins where the box of `upper` ends, or deeper if atoms of the two
    would else be closer than least_distance (Å).
    """
    check_specimen(upper)
    check_specimen(lower)
    if np.abs(np.subtract(upper.box[:2], lower.box[:2])).max() > 1e-3:
        remedy = "make both with the same extent in x and y"
        raise InputError("box", f"{upper.box[:2]} and {lower.box[:2]} Å", "differs in x or y", remedy)
    depth = upper.box[2] + _gap(upper, lower, positive("least_distance", least_distance, "Å"))
    below = lower.position + jnp.array([0.0, 0.0, depth], lower.position.dtype)
    rms = [one.thermal_rms for one in (upper, lower)]
    if {each.ndim for each in rms} == {1, 2}:
        rms = [jnp.broadcast_to(each.reshape(len(each), -1), (len(each), 3)) for each in rms]
    return Atoms(
        jnp.concatenate([upper.position, below]),
        (*upper.number, *lower.number),
        (*upper.box[:2], depth + lower.box[2]),
        jnp.concatenate(rms),
        jnp.concatenate([upper.occupancy, lower.occupancy]),
    )


def _gap(upper: Atoms, lower: Atoms, reach: float) -> float:
    """Å between the two boxes that keep their atoms `reach` apart; those of zero occupancy do not count."""
    from scipy.spatial import KDTree

    sides = np.array(upper.box[:2])
    above, below = (np.asarray(one.present().position, float) for one in (upper, lower))
    above = above - np.array([0, 0, upper.box[2]])
    above, below = above[above[:, 2] > below[:, 2].min() - reach], below[below[:, 2] < above[:, 2].max() + reach]
    if len(above) == 0 or len(below) == 0:
        return 0.0
    trees = [KDTree(np.mod(np.mod(at[:, :2], sides), sides), boxsize=sides) for at in (above, below)]
    flat = trees[0].sparse_distance_matrix(trees[1], reach, output_type="ndarray")
    need = np.sqrt(np.maximum(reach**2 - flat["v"] ** 2, 0)) - (below[flat["j"], 2] - above[flat["i"], 2])
    return max(0.0, float(need.max(initial=0.0)))


def wedge_thickness(shape, mean, slope, *, angle=0.0, sampling: Any = 1.0) -> Float[np.ndarray, "rows cols"]:
    """Thickness (Å) of a wedge at every pixel of a scan.

    shape: (rows, cols). mean: Å, at the scan's centre. slope: Å of thickness per Å, rising in the direction `angle`
    (degrees from +x towards +y). sampling: Å per pixel, one value or (y, x).
    Errors: InputError where the wedge ends inside the scan.
    """
    rows, cols = whole_pair("shape", shape, "give (rows, cols)")
    remedy = "give Å per pixel, one value or (y, x)"
    check_array("sampling", sampling, [(), (2,)], remedy)
    check_numbers("sampling", sampling, remedy, unit="Å per pixel", shape=np.shape(sampling), above=0.0)
    step_y, step_x = np.broadcast_to(np.asarray(sampling, float), (2,))
    turned = np.radians(real_number("angle", angle, "give degrees from +x towards +y"))
    y, x = np.mgrid[:rows, :cols].astype(float)
    along = (x - (cols - 1) / 2) * step_x * np.cos(turned) + (y - (rows - 1) / 2) * step_y * np.sin(turned)
    found = positive("mean", mean, "Å") + real_number("slope", slope, "give Å per Å, e.g. 0.1") * along
    if found.min() <= 0:
        raise InputError("slope", slope, f"leaves {found.min():.1f} Å at the thin end", "lower it, or raise the mean")
    return found


def _lengths(extent, thickness) -> np.ndarray:
    check_array("extent", extent, [(2,)], "give (x, y) in Å")
    return np.array([positive("extent", side, "Å") for side in extent] + [positive("thickness", thickness, "Å")])


def _mass(number: int) -> float:
    from ase.data import atomic_masses

    return float(atomic_masses[number])
