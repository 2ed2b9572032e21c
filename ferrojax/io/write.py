"""Write a polarization map: one HyperSpy file with every channel, or a table with one row a cell."""

import csv
import dataclasses
import os
from pathlib import Path

import numpy as np

from ferrojax.errors import InputError
from ferrojax.polarization import PolarizationMap

DISPLACEMENT_CHANNELS = (
    ("x", "Å"), ("y", "Å"), ("displacement x", "Å"), ("displacement y", "Å"),
    ("covariance xx", "Å²"), ("covariance xy", "Å²"), ("covariance yy", "Å²"), ("valid", "1"),
)  # fmt: skip
POLARIZATION_CHANNELS = (("polarization x", "C/m²"), ("polarization y", "C/m²"))


def channels(pmap: PolarizationMap) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    """The map as one array (ny, nx, channel), NaN where a cell is invalid, and (name, unit) per channel."""
    covariance = np.asarray(pmap.covariance, float)
    upper = covariance[..., (0, 0, 1), (0, 1, 1)]
    valid = np.asarray(pmap.valid)
    parts = [np.asarray(pmap.position, float), np.asarray(pmap.displacement, float), upper, valid[..., None]]
    names = DISPLACEMENT_CHANNELS
    if pmap.polarization is not None:
        parts.append(np.asarray(pmap.polarization, float))
        names += POLARIZATION_CHANNELS
    return np.concatenate(parts, axis=-1), names


def write_map(path: str | os.PathLike[str], pmap: PolarizationMap) -> None:
    """Write `.hspy` (HDF5): navigation axes (row, column) of cells, one signal axis of channels.

    The file opens in HyperSpy and RosettaSciIO. Channel names and units, the calibration found and the
    provenance are in its metadata under `ferrojax`. Raises InputError for another extension.
    """
    from rsciio.hspy import file_writer

    path = Path(path)
    if path.suffix.lower() != ".hspy":
        raise InputError("path", path.name, "is no .hspy file", "give the file the extension .hspy")
    data, names = channels(pmap)
    axes = [
        {"name": name, "units": unit, "size": size, "offset": 0.0, "scale": 1.0, "navigate": navigate}
        for name, unit, size, navigate in zip(
            ("row", "column", "channel"), ("cell", "cell", ""), data.shape, (True, True, False), strict=True
        )
    ]
    own = {
        "channel_names": [name for name, _ in names],
        "channel_units": [unit for _, unit in names],
        "provenance": {key: str(value) for key, value in pmap.provenance},
        "calibration": _arrays(pmap.calibration),
        "convention": "x right, y down; displacement of B against the centroid of its A neighbours",
    }
    metadata = {
        "General": {"title": "polarization map"},
        "Signal": {"signal_type": ""},
        "ferrojax": own,
    }
    signal = {
        "data": data,
        "axes": axes,
        "metadata": metadata,
        "original_metadata": {},
        "attributes": {"_lazy": False, "ragged": False},
        "learning_results": {},
        "models": {},
        "tmp_parameters": {},
        "package_info": {"package": "", "package_version": ""},
    }
    file_writer(str(path), signal, show_progressbar=False)


def write_csv(path: str | os.PathLike[str], pmap: PolarizationMap) -> None:
    """Write one row a cell, UTF-8, with units in the header; an invalid cell has `nan` and valid 0."""
    data, names = channels(pmap)
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        titles = (name if unit == "1" else f"{name} ({unit})" for name, unit in names)
        table.writerow(["row", "column", *titles])
        for row, column in np.ndindex(data.shape[:2]):
            table.writerow([row, column, *(f"{value:.7g}" for value in data[row, column])])


def _arrays(calibration: object) -> dict[str, np.ndarray | float]:
    """Numeric fields of the calibration, by name; empty where there is none."""
    if not dataclasses.is_dataclass(calibration):
        return {}
    names = [item.name for item in dataclasses.fields(calibration)]
    values = {name: np.asarray(getattr(calibration, name)) for name in names}
    numbers = {name: value for name, value in values.items() if value.dtype.kind in "fiu"}
    return {name: float(value) if value.ndim == 0 else value for name, value in numbers.items()}
