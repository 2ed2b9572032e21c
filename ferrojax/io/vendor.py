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
    try:
        signals = [_from_dictionary(found) for found in first_that_reads(path, _plugins(path))]
    except Exception:
        signals = _from_other_hdf5(path) if suffix in (".h5", ".hdf5") else []
        if not signals:
            raise
    if suffix in (".tif", ".tiff"):
        signals = [_with_tiff_calibration(_one_sample(signal, path), path) for signal in signals]
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


def _from_other_hdf5(path: Path) -> list[Signal]:
    """The arrays of an HDF5 file of a program that is not known here, uncalibrated; [] for what is no HDF5.

    Errors: InputError where it holds no array that could be an image or a diffraction scan.
    """
    import h5py

    if not h5py.is_hdf5(path):
        return []
    with h5py.File(path, "r") as file:
        found: list[tuple[str, h5py.Dataset]] = []
        file.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
        arrays = [
            (name, np.asarray(item))
            for name, item in found
            if item.dtype.kind in "biufc" and 2 <= item.ndim <= 5 and min(item.shape[-2:]) > 1
        ]
    if not arrays:
        listed = ", ".join(name for name, _ in found[:6]) or "nothing"
        problem = f"is HDF5 of a program that is not known here and has no image in it: it holds {listed}"
        raise InputError("image file", path.name, problem, FORMATS)
    return [Signal(name, data, _npz_axes(data.ndim, [(None, "")] * 2, [(None, "")] * 2), None) for name, data in arrays]


_ALPHA = (1, 2)  # codes of a TIFF for samples that say how much a pixel hides


def _one_sample(signal: Signal, path: Path) -> Signal:
    """Grey of a TIFF that has several samples a pixel, indices of a palette, or white for zero.

    An alpha channel is left out; red, green and blue that are alike are grey.
    Errors: InputError for a colour image.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.pages.first
        kind = tifffile.PHOTOMETRIC(page.photometric).name
        if kind not in ("PALETTE", "MINISWHITE") and "S" not in series.axes:
            return signal
        data = np.asarray(series.asarray())
        if kind == "PALETTE":
            data = np.moveaxis(np.asarray(page.colormap)[:, data], 0, -1)
        elif "S" in series.axes:
            data = np.moveaxis(data, series.axes.index("S"), -1)
            if kind != "RGB" and page.extrasamples and all(int(extra) in _ALPHA for extra in page.extrasamples):
                data = data[..., 0]
    if kind in ("PALETTE", "RGB"):
        data = grey_of_colours(data, path.name)
    elif kind == "MINISWHITE" and data.dtype.kind == "u":
        data = np.iinfo(data.dtype).max - data
    plain = Axis("", None, "", 0.0, False)
    named = [axis for axis in signal.axes if axis.name.lower() in ("x", "y", "width", "height")]
    rows = [axis._replace(navigate=False) for axis in named]
    last = sorted(rows, key=lambda axis: axis.name.lower() in ("x", "width")) if len(rows) == 2 else [plain, plain]
    return signal._replace(data=data, axes=(*(plain._replace(navigate=True),) * (data.ndim - 2), *last))


def grey_of_colours(data: np.ndarray, name: str) -> np.ndarray:
    """(...,) of (..., 3 or 4) colours that are all grey; InputError for others."""
    if not (data[..., :1] == data[..., 1:3]).all():
        shown = f"{name}: shape {data.shape}"
        raise InputError("image", shown, "is a colour image", "give the recorded intensities, one number a pixel")
    return data[..., 0]


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


def first_that_reads(path: Path, plugins: list[str]) -> list[dict]:
    """What the first reader finds that finds anything.

    Several formats share an extension. The reason reported is that of the first reader which could look at the file,
    not that of one which lacks a package.
    """
    problems: list[Exception] = []
    for api in plugins:
        # Of a Velox file the images: its spectra take long, and no image of columns is made of them.
        options = {"select_type": "images"} if api.endswith(".emd") else {}
        try:
            found = importlib.import_module(api).file_reader(str(path), **options)
        except Exception as error:
            problems.append(error)
        else:
            if found:
                return found
    looked = [problem for problem in problems if not isinstance(problem, ImportError)]
    if looked:
        raise looked[0]
    if problems:
        missing = getattr(problems[0], "name", None) or str(problems[0])
        remedy = f"install the Python package that is missing, or {FORMATS}"
        raise InputError("image file", path.name, f"needs a reader that is not installed ({missing})", remedy)
    return []
