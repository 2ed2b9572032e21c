"""Electron waves on disk: HDF5 or Zarr 3, with the grid they live on."""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from ferrojax.errors import InputError
from ferrojax.files import replacing
from ferrojax.grid import Grid
from ferrojax.io.archive import put_array
from ferrojax.optics import PlaneWave

_FORMAT = "ferrojax wave"
_SUFFIXES = (".h5", ".hdf5", ".zarr")


def write_wave(
    path: str | os.PathLike[str], wave: Complex[Array, "*stack rows cols"] | np.ndarray, grid: Grid, energy: float
) -> Path:
    """Write a wave, such as `exit_wave` gives, into an HDF5 (`.h5`) or Zarr (`.zarr`) file; returns its path.

    wave: (*stack, rows, cols) complex, on `grid`. energy: eV. The array "wave" carries them as attributes: sampling_A
    (y, x), offset (of the frequencies, in steps) and energy_eV. A file of this name is replaced when the new one is
    whole. Errors: InputError for another extension, a wave that is real or of another shape, a folder that cannot be
    written.
    """
    target = _checked(path)
    data = np.asarray(wave)
    if not isinstance(grid, Grid):
        raise InputError("grid", type(grid).__name__, "is no Grid", "give the one that the wave was computed on")
    if not np.iscomplexobj(data) or data.shape[-2:] != grid.shape:
        shown = f"{data.dtype} {data.shape}"
        raise InputError("wave", shown, f"is no complex array of the grid's {grid.shape}", "give the wave and its grid")
    if not np.isfinite(data).all():
        raise InputError("wave", "NaN or infinity", "must be finite", "check the simulation it is from")
    energy = PlaneWave(energy).energy
    with replacing(target) as partial:
        if target.suffix == ".zarr":
            import zarr  # slow to import

            _fill(zarr.open_group(partial, mode="w-", zarr_format=3), data, grid, energy)
        else:
            import h5py

            with h5py.File(partial, "w") as file:
                _fill(file, data, grid, energy)
    return target


def read_wave(path: str | os.PathLike[str]) -> tuple[Complex[Array, "*stack rows cols"], Grid, float]:
    """(wave, grid, energy in eV) that `write_wave` wrote; InputError for any other file."""
    source = _checked(path)
    remedy = "give a file that write_wave wrote"
    if not source.exists():
        raise InputError("path", source.name, "does not exist", remedy)
    try:
        if source.suffix == ".zarr":
            import zarr

            return _read(zarr.open_group(source, mode="r"))
        import h5py

        with h5py.File(source, "r") as file:
            return _read(file)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError("path", source.name, f"holds no wave of ferrojax: {error}", remedy) from None


def _checked(path: str | os.PathLike[str]) -> Path:
    target = Path(path).expanduser().absolute()
    if target.suffix not in _SUFFIXES:
        raise InputError("path", target.name, "is no .h5 or .zarr file", "give the file one of these extensions")
    if target.is_dir() and not (target / "zarr.json").is_file():
        raise InputError("path", target.name, "exists and is no Zarr store", "give a new name")
    return target


def _fill(group: Any, data: np.ndarray, grid: Grid, energy: float) -> None:
    group.attrs["format"] = _FORMAT
    put_array(group, "wave", data, "1")
    where = {"sampling_A": list(grid.sampling), "offset": list(grid.offset), "energy_eV": energy}
    group["wave"].attrs.update(where)


def _read(group: Any) -> tuple[Array, Grid, float]:
    if group.attrs.get("format") != _FORMAT:
        raise ValueError(f"its format is {group.attrs.get('format')}")
    found = group["wave"]
    rows, cols = found.shape[-2:]
    grid = Grid((rows, cols), tuple(map(float, found.attrs["sampling_A"])), tuple(map(float, found.attrs["offset"])))
    return jnp.asarray(found[()]), grid, float(found.attrs["energy_eV"])
