"""The HDF5 layout of the published Sm-doped BiFeO3 images (doi 10.5281/zenodo.4555979): one table of cells an image.

`NAME_HAADF.h5` holds `MainImage`; `NAME_UCParameterization.h5` holds `ab` (2, n), `xy_COM` (2, n), `Pxy` (2, n), `a`,
`alpha`, `Vol`, `I1` (A cations) and `I5` (B cations), n values each. NAME is such as `Sm_7_2`: dopant, per cent,
number; capitals differ within the set (`SM_10_0`). The files state neither pixel size nor units: the pixel size must
be given, and lengths are taken to be pixels.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial import KDTree

from ferrojax.columns import SITES, Columns
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.io.read import checked_sampling
from ferrojax.polarization import PolarizationMap

_CELLS, _IMAGE = "_UCParameterization.h5", "_HAADF.h5"
_PAIRS, _SINGLES = ("ab", "xy_COM", "Pxy"), ("a", "alpha", "Vol", "I1", "I5")
_UNITS = {"ab": "cell", "xy_COM": "px", "Pxy": "px", "a": "px", "alpha": "degree", "Vol": "px²"}
_LAYOUT = f"give a file NAME{_CELLS} with {', '.join(_PAIRS)}"
_SHELL = 1.25


class UnitCells(eqx.Module):
    """Cells of an image, one row each; a quantity that the file lacks is NaN.

    index: (n, 2) along the lattice vectors a and b. position_px, displacement_px: (n, 2) px (x, y), B against A.
    length_px, angle, area_px: (n,) px, as stored (degrees where ferrojax wrote them) and px².
    intensity_a, intensity_b: (n,) intensity unit of the image. sampling: (2,) Å per pixel (y, x), as given.
    """

    index: Int[Array, "n 2"]
    position_px: Float[Array, "n 2"]
    displacement_px: Float[Array, "n 2"]
    length_px: Float[Array, " n"]
    angle: Float[Array, " n"]
    area_px: Float[Array, " n"]
    intensity_a: Float[Array, " n"]
    intensity_b: Float[Array, " n"]
    sampling: Float[Array, "2"]

    @property
    def position(self) -> Float[Array, "n 2"]:
        """(n, 2) Å (x, y)."""
        return self.position_px * self.sampling[::-1]

    @property
    def displacement(self) -> Float[Array, "n 2"]:
        """(n, 2) Å (x, y)."""
        return self.displacement_px * self.sampling[::-1]


class UnitCellImage(NamedTuple):
    """An image, its cells, and the dopant's share in per cent (None where the name says none)."""

    image: Image
    cells: UnitCells
    percent: float | None


def read_unit_cells(
    path: str | os.PathLike[str], sampling: float | Sequence[float] | np.ndarray | None = None
) -> UnitCells:
    """Read `NAME_UCParameterization.h5`; sampling: Å per pixel, a number or (y, x), required.

    Errors: InputError without a sampling, or for a file that is missing, broken or of another layout.
    """
    step = _required(sampling)
    found = _arrays(Path(path))
    missing = [key for key in _PAIRS if key not in found]
    if missing:
        raise InputError("unit-cell file", Path(path).name, f"has no {', '.join(missing)}", _LAYOUT)
    pairs = {key: _pair(found[key], key, Path(path).name) for key in _PAIRS}
    n = len(pairs["ab"])
    values = [pairs["xy_COM"], pairs["Pxy"]]
    values += [np.ravel(found[key]) if key in found else np.full(n, np.nan) for key in _SINGLES]
    wrong = [key for key, value in zip((*_PAIRS[1:], *_SINGLES), values, strict=True) if len(value) != n]
    if wrong:
        raise InputError("unit-cell file", Path(path).name, f"has not {n} values of {', '.join(wrong)}", _LAYOUT)
    kind = jnp.result_type(float)
    position, shift, *singles = (jnp.asarray(np.asarray(value, float), kind) for value in values)
    length, angle, area, a, b = singles
    index = jnp.asarray(np.rint(pairs["ab"]).astype(int))
    return UnitCells(index, position, shift, length, angle, area, a, b, jnp.asarray(step, kind))


def read_unit_cell_folder(
    folder: str | os.PathLike[str],
    sampling: float | Sequence[float] | np.ndarray | None = None,
    transposed: bool = False,
) -> dict[str, UnitCellImage]:
    """Every image of a folder that has a table of cells, by NAME as the table spells it, sorted.

    Names are paired whatever their capitals. transposed: `MainImage` is stored (columns, rows).
    Errors: InputError as `read_unit_cells`, for a folder without a pair, an image or a table that stands alone, and
    cells that lie outside their image.
    """
    step, folder = _required(sampling), Path(folder)
    if not folder.is_dir():
        raise InputError("folder", str(folder), "does not exist", f"give the folder of the {_IMAGE} files")
    tables, images = (_by_name(folder, ending) for ending in (_CELLS, _IMAGE))
    alone = sorted(path.name for key, path in {**tables, **images}.items() if (key in tables) != (key in images))
    if alone or not tables:
        problem = f"has no partner for {', '.join(alone)}" if alone else "holds no pair of files"
        raise InputError("folder", folder.name, problem, f"put NAME{_IMAGE} beside NAME{_CELLS}")
    result = {}
    for key in sorted(tables, key=_natural):
        name = tables[key].name[: -len(_CELLS)]
        cells = read_unit_cells(tables[key], step)
        image = _main_image(images[key], step, transposed, name)
        _check_inside(cells, image)
        share = re.match(r"[a-z]+_(\d+(?:\.\d+)?)_", key + "_")
        result[name] = UnitCellImage(image, cells, float(share.group(1)) if share else None)
    return result


def write_unit_cells(path: str | os.PathLike[str], pmap: PolarizationMap, image: Image | None = None) -> None:
    """Write the valid cells of a map as `NAME_UCParameterization.h5`, and an image beside it as `NAME_HAADF.h5`.

    a is the length of the first lattice vector at the cell, alpha its angle with the second (degrees), Vol the area
    of the cell, from the cell's neighbours: NaN where they are invalid. I1 is the mean intensity of the A columns
    around, I5 that of the B column. Lengths are px, and every array carries its unit in an attribute.
    Errors: InputError for a path of another name, or an image that is a stack.
    """
    import h5py

    path = Path(path)
    if not path.name.lower().endswith(_CELLS.lower()):
        raise InputError("path", path.name, "is not named as the layout asks", f"name the file NAME{_CELLS}")
    if image is not None and image.data.ndim != 2:
        raise InputError("image", image.data.shape, "is a stack of images", "give the one that was mapped")
    with h5py.File(path, "w") as file:
        for key, values in _table(pmap).items():
            file.create_dataset(key, data=values).attrs["units"] = _UNITS.get(key, "image unit px²")
    if image is not None:
        with h5py.File(path.with_name(path.name[: -len(_CELLS)] + _IMAGE), "w") as file:
            file["MainImage"] = np.asarray(image.data)


def _required(sampling) -> np.ndarray:
    if sampling is None:
        raise InputError("sampling", None, "is not in the files of this layout", "give it, in Å per pixel")
    return checked_sampling(sampling)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    import h5py

    if not path.is_file():
        raise InputError("unit-cell file", str(path), "does not exist", _LAYOUT)
    try:
        with h5py.File(path, "r") as file:
            return {key: np.asarray(item) for key, item in file.items() if isinstance(item, h5py.Dataset)}
    except OSError as problem:
        raise InputError("unit-cell file", path.name, f"cannot be read: {problem}"[:120], _LAYOUT) from None


def _pair(values: np.ndarray, key: str, name: str) -> np.ndarray:
    """(n, 2) from (2, n), as the layout has it."""
    if values.ndim != 2 or values.shape[0] != 2:
        raise InputError("unit-cell file", f"{name}: {key} {values.shape}", "needs the shape (2, cells)", _LAYOUT)
    return values.T


def _by_name(folder: Path, ending: str) -> dict[str, Path]:
    """Lower-case NAME -> file."""
    paths = [path for path in folder.iterdir() if path.name.lower().endswith(ending.lower())]
    return {path.name[: -len(ending)].lower(): path for path in paths}


def _natural(text: str) -> list:
    """Sort key that puts 7 before 10."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", text)]


def _main_image(path: Path, step: np.ndarray, transposed: bool, name: str) -> Image:
    found = _arrays(path)
    if "MainImage" not in found or found["MainImage"].ndim != 2:
        raise InputError("image file", path.name, "has no two-dimensional MainImage", "give the published file")
    data = found["MainImage"].T if transposed else found["MainImage"]
    return Image(data.astype(np.float32), step, name=name)


def _check_inside(cells: UnitCells, image: Image) -> None:
    low, high = np.asarray(cells.position_px).min(0), np.asarray(cells.position_px).max(0)
    if (low < -1).any() or (high > np.array(image.data.shape[::-1])).any():
        shown = f"{image.name}: x to {high[0]:.0f}, y to {high[1]:.0f} in {image.data.shape}"
        raise InputError("unit-cell file", shown, "has cells outside its image", "try transposed=True")


def _table(pmap: PolarizationMap) -> dict[str, np.ndarray]:
    """Key -> values of the valid cells, in px."""
    rows, cols = np.nonzero(np.asarray(pmap.valid))
    place = np.asarray(pmap.position_px, float)
    to_px = np.linalg.inv(np.asarray(pmap.calibration.affine, float))
    shift = np.asarray(pmap.displacement, float)[rows, cols] @ to_px.T
    first, second = (_step(place, axis)[rows, cols] for axis in (1, 0))
    cross = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    around, own = _intensities(pmap.columns, place[rows, cols], shift)
    return {
        "ab": np.stack([cols, rows]).astype(float),
        "xy_COM": place[rows, cols].T,
        "Pxy": shift.T,
        "a": np.linalg.norm(first, axis=1),
        "alpha": np.degrees(np.arctan2(np.abs(cross), (first * second).sum(1))),
        "Vol": np.abs(cross),
        "I1": around,
        "I5": own,
    }


def _step(place: np.ndarray, axis: int) -> np.ndarray:
    """(ny, nx, 2) px: lattice vector along an axis of the grid, mean of the steps to the neighbours that are valid."""
    step = np.diff(place, axis=axis)
    pad = np.full_like(np.take(place, [0], axis), np.nan)
    both = np.stack([np.concatenate([pad, step], axis), np.concatenate([step, pad], axis)])
    known = np.isfinite(both)
    total = np.where(known, both, 0.0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def _intensities(columns: Columns, centre: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) mean intensity of the A columns nearest to each centre, and that of the B column at centre + shift."""
    position, intensity = np.asarray(columns.position_px, float), np.asarray(columns.intensity, float)
    here = [np.nonzero((np.asarray(columns.site) == SITES.index(s)) & columns.accepted)[0] for s in "AB"]
    if not all(len(h) for h in here):
        return np.full(len(centre), np.nan), np.full(len(centre), np.nan)
    trees = [KDTree(position[h]) for h in here]
    near, _ = trees[0].query(centre)
    around = trees[0].query_ball_point(centre, _SHELL * near)
    mean_a = np.array([intensity[here[0][list(found)]].mean() for found in around])
    _, own = trees[1].query(centre + shift)
    return mean_a, intensity[here[1][own]]
