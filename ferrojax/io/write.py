"""Write a polarization map (HyperSpy, HDF5, Zarr 3), or a table with one row a cell or a column."""

import csv
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from ferrojax.columns import Calibration, Columns, GaussianNoise, LineError, PoissonNoise
from ferrojax.columns.fitting.noise import FittedNoise
from ferrojax.errors import InputError
from ferrojax.files import replacing
from ferrojax.io.archive import put_array, restore, store
from ferrojax.polarization import Domains, PolarizationMap

DISPLACEMENT_CHANNELS = (
    ("x", "Å"), ("y", "Å"), ("displacement x", "Å"), ("displacement y", "Å"),
    ("covariance xx", "Å²"), ("covariance xy", "Å²"), ("covariance yy", "Å²"), ("valid", "1"),
)  # fmt: skip
POLARIZATION_CHANNELS = (
    ("polarization x", "C/m²"), ("polarization y", "C/m²"), ("polarization covariance xx", "C²/m⁴"),
    ("polarization covariance xy", "C²/m⁴"), ("polarization covariance yy", "C²/m⁴"),
)  # fmt: skip
DOMAIN_CHANNELS = (("domain", "1"), ("domain confidence", "1"))
UNITS = {
    "PolarizationMap.position": "Å", "PolarizationMap.position_px": "px", "PolarizationMap.displacement": "Å",
    "PolarizationMap.covariance": "Å²", "PolarizationMap.valid": "1", "PolarizationMap.polarization": "C/m²",
    "PolarizationMap.response": "C/(m² Å)", "PolarizationMap.structural_covariance": "Å²",
    "PolarizationMap.common_covariance": "Å²",
    "Columns.position": "Å", "Columns.position_px": "px", "Columns.covariance": "Å²", "Columns.width": "Å",
    "Columns.intensity": "image unit px²", "Columns.residual": "column amplitude", "Columns.site": "index",
    "Columns.lattice_index": "cell", "Columns.column": "index", "Columns.oxygen_error": "Å",
    "Columns.rejection": "index",
    "Calibration.affine": "Å/px", "Calibration.rotation": "1", "Calibration.lattice_px": "px",
    "Calibration.origin_px": "px", "Calibration.recorded_sampling": "Å/px", "Calibration.sampling_error": "%",
    "Calibration.anisotropy": "%", "Calibration.shear": "degree", "Calibration.rotation_deg": "degree",
    "Calibration.rms_pm": "pm", "LineError.variance": "Å²", "LineError.jitter_px": "px",
    "LineError.correlation": "1", "LineError.height_px": "px", "LineError.disorder": "Å",
    "PoissonNoise.gain": "image unit", "PoissonNoise.offset": "image unit", "GaussianNoise.sd": "image unit",
    "FittedNoise.constant": "image unit²", "FittedNoise.slope": "image unit", "FittedNoise.offset": "image unit",
}  # fmt: skip
_KINDS = {
    "PolarizationMap": PolarizationMap,
    "Columns": Columns,
    "Calibration": Calibration,
    "LineError": LineError,
    "PoissonNoise": PoissonNoise,
    "GaussianNoise": GaussianNoise,
    "FittedNoise": FittedNoise,
}
_GROUP, _FORMAT, _VERSION = "ferrojax", "ferrojax polarization map", 1
_HDF5 = (".hspy", ".h5", ".hdf5")


def channels(pmap: PolarizationMap, domains: Domains | None = None) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    """The map as one array (ny, nx, channel), NaN where a cell is invalid, and (name, unit) per channel.

    With domains also the number of every cell's domain, −1 outside all, and how sure its direction is.
    """
    upper = _upper(pmap.covariance)
    valid = np.asarray(pmap.valid)
    parts = [np.asarray(pmap.position, float), np.asarray(pmap.displacement, float), upper, valid[..., None]]
    names = DISPLACEMENT_CHANNELS
    if pmap.polarization is not None:
        parts += [np.asarray(pmap.polarization, float), _upper(pmap.polarization_covariance())]
        names += POLARIZATION_CHANNELS
    if domains is not None:
        parts += [np.asarray(v, float)[..., None] for v in (domains.region, domains.confidence)]
        names += DOMAIN_CHANNELS
    return np.concatenate(parts, axis=-1), names


def _upper(covariance: Any) -> np.ndarray:
    """(…, 3): xx, xy, yy."""
    return np.asarray(covariance, float)[..., (0, 0, 1), (0, 1, 1)]


def write_map(path: str | os.PathLike[str], pmap: PolarizationMap, domains: Domains | None = None) -> None:
    """Write a map with its columns, calibration and provenance; the extension chooses the format.

    `.hspy`: opens in HyperSpy and RosettaSciIO as one signal with navigation axes (row, column) of cells and one
    signal axis of channels, whose names and units are in its metadata under `ferrojax`. `.h5`, `.hdf5`: plain HDF5.
    `.zarr`: a folder in Zarr format 3. All three hold one array a field of PolarizationMap (for `.hspy` in the group
    `ferrojax`), its unit in the attribute `units`, and read back with `read_map`.
    domains: of `domain_map(...)`, on the map's grid; a group `domains` holds their label, region, confidence and
    variants, which `read_map` passes over. The errors of the polarization hold the response's. A file of this name is
    replaced when the new one is whole; missing folders are made.
    Errors: InputError for another extension, a folder that is no Zarr store, what cannot be written, and numbers that
    make no map, such as a valid cell without an error.
    """
    path = _checked_path(path)
    _check_consistent(pmap, "pmap", "the map")
    check_replaceable(path)
    with replacing(path) as partial:
        if path.suffix.lower() == ".zarr":
            import zarr  # slow to import

            _store(zarr.open_group(partial, mode="w", zarr_format=3), pmap, domains)
            return
        import h5py

        if path.suffix.lower() == ".hspy":
            _write_hspy(partial, pmap, domains)
            with h5py.File(partial, "a") as file:
                _store(file.create_group(_GROUP), pmap, domains)
            return
        with h5py.File(partial, "w") as file:
            _store(file, pmap, domains)


def _convention(pmap: PolarizationMap) -> str:
    moving, around = pmap.displacement_of
    return f"x right, y down; displacement of {moving} against the centroid of its {around} neighbours"


def check_replaceable(path: Path, field: str = "path") -> None:
    """Refuse a folder that is no Zarr store where a map would go."""
    if path.is_dir() and not (path.suffix.lower() == ".zarr" and (path / "zarr.json").is_file()):
        problem = "exists and is no Zarr store" if path.suffix.lower() == ".zarr" else "is a folder"
        raise InputError(field, path.name, problem, f"give a new name ending in {path.suffix}, or move it away")


def read_map(path: str | os.PathLike[str]) -> PolarizationMap:
    """Read a map that `write_map` wrote, in any of its formats, value for value.

    Errors: InputError for a file that is missing, of another extension, broken, or no map of ferrojax; whose numbers
    make no map; or whose HyperSpy signal is not the map any more that lies beside it. A map of
    double precision comes back in single precision where JAX runs in it.
    """
    path = _checked_path(path)
    if not path.exists():
        raise InputError("map file", path.name, "does not exist", "give the path of a file that write_map wrote")
    try:
        if path.suffix.lower() == ".zarr":
            import zarr

            return _restore(zarr.open_group(path, mode="r"), path.name)
        import h5py

        with h5py.File(path, "r") as file:
            pmap = _restore(file.get(_GROUP, file), path.name)
            if _GROUP in file:
                _check_unchanged(file, pmap, path.name)
            return pmap
    except InputError:
        raise
    except (OSError, KeyError, ValueError, TypeError) as problem:
        reason = f"cannot be read: {type(problem).__name__}: {problem}"[:120]
        raise InputError("map file", path.name, reason, "give a file that write_map wrote") from None


def _checked_path(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (*_HDF5, ".zarr"):
        remedy = "give the file the extension .hspy, .h5 or .zarr"
        raise InputError("path", path.name, "is no .hspy, .h5 or .zarr file", remedy)
    return path


def _store(group: Any, pmap: PolarizationMap, domains: Domains | None) -> None:
    group.attrs.update({"format": _FORMAT, "version": _VERSION, "convention": _convention(pmap)})
    store(group, pmap, UNITS)
    spread = pmap.polarization_covariance()
    if spread is not None:
        put_array(group, "polarization_covariance", np.asarray(spread), "C²/m⁴")
    if domains is not None:
        inside = group.create_group("domains")
        for name in ("label", "region", "confidence", "variant"):
            put_array(inside, name, np.asarray(getattr(domains, name)), "1")


def _restore(group: Any, name: str) -> PolarizationMap:
    version = group.attrs.get("version")
    if group.attrs.get("format") != _FORMAT:
        raise InputError("map file", name, "holds no map of ferrojax", "give a file that write_map wrote")
    if int(version) > _VERSION:
        raise InputError("map file", name, f"has format version {version}", "update ferrojax to read it")
    pmap = restore(group, _KINDS, name)
    _check_consistent(pmap, "map file", name)
    return pmap


def _check_consistent(pmap: PolarizationMap, argument: str, name: str) -> None:
    """Refuse arrays that do not belong together; argument, name: what is blamed."""
    cells, columns = tuple(pmap.valid.shape), pmap.columns
    count = len(columns.site)
    wanted = {
        "position": (*cells, 2), "position_px": (*cells, 2), "displacement": (*cells, 2), "covariance": (*cells, 2, 2),
        "polarization": (*cells, 2), "response": (2, 2), "structural_covariance": (*cells, 2, 2),
        "common_covariance": (2, 2), "columns.position": (count, 2),
        "columns.position_px": (count, 2), "columns.covariance": (count, 2, 2), "columns.lattice_index": (count, 2),
        "columns.oxygen_error": (count, 2),
        **{f"columns.{field}": (count,) for field in ("intensity", "width", "residual", "rejection", "column")},
    }  # fmt: skip
    for field, shape in wanted.items():
        value = getattr(columns if field.startswith("columns.") else pmap, field.rpartition(".")[2])
        if len(cells) != 2 or (value is not None and value.shape != shape):
            found = f"{field} of shape {None if value is None else tuple(value.shape)}"
            problem = f"does not fit {' × '.join(map(str, cells))} cells and {count} columns"
            raise InputError(argument, name, f"holds {found}, which {problem}", "map the image again")

    good = np.asarray(pmap.valid)
    covariance = np.asarray(pmap.covariance, float)[good]
    low = np.linalg.eigvalsh(np.where(np.isfinite(covariance), covariance, 0.0)).min(-1, initial=np.inf)
    scale = np.abs(covariance).max((-1, -2), initial=0.0)
    for field, bad, problem in (
        ("position", ~np.isfinite(np.asarray(pmap.position)[good]).all(-1), "is not finite"),
        ("displacement", ~np.isfinite(np.asarray(pmap.displacement)[good]).all(-1), "is not finite"),
        ("covariance", ~np.isfinite(covariance).all((-1, -2)), "is not finite"),
        ("covariance", low < -1e-5 * scale, "has a negative variance"),
    ):
        if bad.any():
            found = f"{field}, which {problem} in {int(bad.sum())} of {int(good.sum())} valid cells"
            raise InputError(argument, name, f"holds {found}", "map the image again, or mark those cells invalid")


def _check_unchanged(file: Any, pmap: PolarizationMap, name: str) -> None:
    """Refuse a map whose HyperSpy signal another program has changed: which of the two counts is not known."""
    wanted, names = channels(pmap)
    for signal in file.get("Experiments", {}).values():
        shown = np.asarray(signal["data"], float)
        shown = shown[..., : len(names)] if shown.ndim == 3 else shown
        if shown.shape != wanted.shape or not np.allclose(shown, wanted, 1e-4, 1e-7, equal_nan=True):
            problem = f"has a signal that was changed since, which the map in its group {_GROUP!r} was not"
            remedy = f"undo that, or change the arrays of {_GROUP!r} instead"
            raise InputError("map file", name, problem, remedy)


def _write_hspy(path: Path, pmap: PolarizationMap, domains: Domains | None) -> None:
    from rsciio.hspy import file_writer

    data, names = channels(pmap, domains)
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
        "notes": list(pmap.notes),
        "calibration": _arrays(pmap.calibration),
        "first_cell": "" if pmap.first_cell is None else list(pmap.first_cell),
        "convention": _convention(pmap),
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


def write_csv(path: str | os.PathLike[str], pmap: PolarizationMap, domains: Domains | None = None) -> None:
    """Write one row a cell, UTF-8, with units in the header; an invalid cell has `nan` and valid 0."""
    data, names = channels(pmap, domains)
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        titles = (name if unit == "1" else f"{name} ({unit})" for name, unit in names)
        table.writerow(["row", "column", *titles])
        for row, column in np.ndindex(data.shape[:2]):
            table.writerow([row, column, *(f"{value:.7g}" for value in data[row, column])])


def write_columns_csv(path: str | os.PathLike[str], columns: Columns) -> None:
    """Write one row a column, UTF-8, with units in the header; rejection is empty for a column that was accepted."""
    covariance = np.asarray(columns.covariance, float)[:, (0, 0, 1), (0, 1, 1)]
    numbers = {
        ("x (Å)", "y (Å)"): np.asarray(columns.position, float),
        ("x (px)", "y (px)"): np.asarray(columns.position_px, float),
        ("covariance xx (Å²)", "covariance xy (Å²)", "covariance yy (Å²)"): covariance,
        ("intensity (image unit px²)",): np.asarray(columns.intensity, float)[:, None],
        ("width (Å)",): np.asarray(columns.width, float)[:, None],
        ("residual (amplitude)",): np.asarray(columns.residual, float)[:, None],
    }
    titles = [title for names in numbers for title in names]
    values = np.concatenate(list(numbers.values()), axis=1)
    index = np.asarray(columns.lattice_index)
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["site", "index 1", "index 2", *titles, "rejection"])
        for site, cell, row, reason in zip(columns.label, index, values, columns.rejection_reason, strict=True):
            table.writerow([site, *map(int, cell), *(f"{value:.9g}" for value in row), reason])


def _arrays(calibration: object) -> dict[str, np.ndarray | float]:
    """Numeric fields of the calibration, by name; empty where there is none."""
    if not dataclasses.is_dataclass(calibration):
        return {}
    names = [item.name for item in dataclasses.fields(calibration)]
    values = {name: np.asarray(getattr(calibration, name)) for name in names}
    numbers = {name: value for name, value in values.items() if value.dtype.kind in "fiu"}
    return {name: float(value) if value.ndim == 0 else value for name, value in numbers.items()}
