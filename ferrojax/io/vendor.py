"""The signals in a file, whoever wrote it: data, axes with their units, and what the microscope recorded."""

import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ferrojax.errors import InputError

FORMATS = "use .npz, .dm3, .dm4, .emd, .h5, .hspy, .mrc, .ser or .tif"


class Axis(NamedTuple):
    """One axis of the data: offset is the coordinate of pixel 0; scale and offset are in `unit`."""

    name: str
    scale: float | None
    unit: object
    offset: float
    navigate: bool


class Signal(NamedTuple):
    """One array of a file. energy: beam energy in eV where it is recorded."""

    name: str
    data: np.ndarray
    axes: tuple[Axis, ...]
    energy: float | None


def load_signals(path: Path) -> list[Signal]:
    """Every signal of a file; raises whatever the format's parser meets in a broken one."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _from_npz(path)
    if suffix in (".h5", ".hdf5", ".emd"):
        found = _from_emdfile(path)
        if found:
            return found
    signals = [_from_dictionary(found) for found in _first_that_reads(path, _plugins(path))]
    if suffix in (".tif", ".tiff"):
        signals = [_with_tiff_calibration(signal, path) for signal in signals]
    return signals


def _from_npz(path: Path) -> list[Signal]:
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise InputError(
            "image file", path.name, "is a single array, no .npz archive", "save it with np.savez(image=...)"
        )
    with loaded as archive:
        step = _npz_sampling(archive, "sampling", (("pixel_size_nm", "nm"), ("pixel_size_nm_recorded", "nm")), "Å")
        angle = _npz_sampling(archive, "angular_sampling", (), "mrad")
        energy = float(archive["energy"]) if "energy" in archive else None
        known = {"sampling", "pixel_size_nm", "pixel_size_nm_recorded", "angular_sampling", "energy"}
        names = ["image"] if "image" in archive.files else [name for name in archive.files if name not in known]
        arrays = [(name, archive[name]) for name in [*names, *(n for n in archive.files if n not in {*names, *known})]]
    return [Signal(name, data, _npz_axes(data.ndim, step, angle), energy) for name, data in arrays]


def _npz_sampling(archive, key: str, others, unit: str) -> list[tuple[float | None, str]]:
    for name, its_unit in ((key, unit), *others):
        if name in archive:
            try:
                pair = np.broadcast_to(np.asarray(archive[name], float), (2,))
            except ValueError:
                problem = "needs one or two numbers"
                raise InputError(name, archive[name], problem, f"{its_unit} per pixel (y, x)") from None
            return [(float(v), its_unit) for v in pair]
    return [(None, "")] * 2


def _npz_axes(count: int, step: list, angle: list) -> tuple[Axis, ...]:
    """(rows, cols) come last, or (rows, cols, ky, kx) where there are four axes or more."""
    names = ("y", "x", "ky", "kx") if count >= 4 else ("y", "x")
    calibrated = list(zip(names, [*step, *angle], strict=False))
    last = [Axis(name, scale, unit, 0.0, False) for name, (scale, unit) in calibrated[-count:]] if count else []
    return (Axis("", None, "", 0.0, True),) * (count - len(last)) + tuple(last)


def _from_dictionary(found: dict) -> Signal:
    """From what RosettaSciIO returns."""
    data = found["data"]
    axes = tuple(
        Axis(
            str(a.get("name") or ""),
            a.get("scale"),
            a.get("units"),
            float(a.get("offset") or 0.0),
            bool(a.get("navigate")),
        )
        for a in found["axes"]
    )
    metadata = found.get("metadata") or {}
    name = (metadata.get("General") or {}).get("title") or ""
    energy = ((metadata.get("Acquisition_instrument") or {}).get("TEM") or {}).get("beam_energy")
    return Signal(str(name), data, axes, 1e3 * float(energy) if energy else None)  # HyperSpy keeps keV


def _from_emdfile(path: Path) -> list[Signal]:
    """Four-dimensional arrays of a file that py4DSTEM wrote (emdfile version 1); [] for any other file.

    Its axes are (Rx, Ry, Qx, Qy) with x along the rows, so the array is already (rows, cols, ky, kx).
    """
    import h5py

    if not h5py.is_hdf5(path):
        return []
    with h5py.File(path, "r") as file:
        if file.attrs.get("authoring_program") != "emdfile":
            return []
        groups: list[h5py.Group] = []
        file.visititems(lambda _, item: groups.append(item) if _is_datacube(item) else None)
        return [_datacube(group) for group in groups]


def _is_datacube(item) -> bool:
    return item.attrs.get("emd_group_type") == "array" and "data" in item and item["data"].ndim == 4


def _datacube(group) -> Signal:
    axes = []
    for i, name in enumerate(("y", "x", "ky", "kx")):
        dim = group.get(f"dim{i}")
        values = np.asarray(dim) if dim is not None else np.zeros(0)
        scale = float(values[1] - values[0]) if len(values) > 1 else None
        unit = dim.attrs.get("units") if dim is not None else ""
        axes.append(Axis(name, scale, unit, float(values[0]) if len(values) else 0.0, i < 2))
    return Signal(group.name.rsplit("/", 1)[-1], np.asarray(group["data"]), tuple(axes), None)


def _with_tiff_calibration(signal: Signal, path: Path) -> Signal:
    """Pixel size from the file's own tags where RosettaSciIO leaves it out or without unit.

    ImageJ writes the resolution in pixels per unit, whatever the unit; anything else means pixels per inch or
    centimetre, which image programs fill with print resolutions: those come out at micrometres a pixel and more.
    """
    import tifffile

    if not isinstance(signal.data, np.ndarray) or all(axis.unit for axis in signal.axes[-2:]):
        return signal
    with tifffile.TiffFile(path) as file:
        page, imagej = file.pages.first, file.imagej_metadata or {}
        tags = page.tags
        if "XResolution" not in tags or "YResolution" not in tags:
            return signal
        (nx, dx), (ny, dy) = tags["XResolution"].value, tags["YResolution"].value
        code = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 2
    per = {2: ("cm", 2.54), 3: ("cm", 1.0)}  # inch, centimetre
    unit, factor = (imagej["unit"], 1.0) if imagej.get("unit") else per.get(code, ("", 1.0))
    if not (unit and nx and ny and dx and dy):
        return signal
    y, x = signal.axes[-2:]
    pair = (y._replace(scale=factor * dy / ny, unit=unit), x._replace(scale=factor * dx / nx, unit=unit))
    return signal._replace(axes=(*signal.axes[:-2], *pair))


def _plugins(path: Path) -> list[str]:
    from rsciio import IO_PLUGINS  # slow to import, and not needed for .npz

    extension = path.suffix.lower().lstrip(".")
    found = [p["api"] for p in IO_PLUGINS if extension in [e.lower() for e in p["file_extensions"]]]
    if not found:
        raise InputError("image file", path.name, f"has an extension '{path.suffix}' that is not known", FORMATS)
    # Plain readers before their variants (MRC before MRCZ), which need packages that are rarely there.
    return sorted(found, key=lambda api: (api.rsplit(".", 1)[-1] != extension, len(api)))


def _first_that_reads(path: Path, plugins: list[str]) -> list[dict]:
    problem: Exception | None = None
    for api in plugins:
        try:
            return importlib.import_module(api).file_reader(str(path))
        except Exception as error:  # several formats share an extension: try the next, report the first
            problem = problem or error
    assert problem is not None
    raise problem
