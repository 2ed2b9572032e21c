"""Read a calibrated image from the formats that microscopes and their software write."""

import gc
import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ferrojax.errors import InputError
from ferrojax.image import Image

ANGSTROM = {
    "Å": 1.0,
    "\u212b": 1.0,
    "å": 1.0,
    "a": 1.0,
    "angstrom": 1.0,
    "angstroms": 1.0,
    "ang": 1.0,
    "nm": 10.0,
    "nanometer": 10.0,
    "nanometers": 10.0,
    "nanometre": 10.0,
    "pm": 0.01,
    "picometer": 0.01,
    "um": 1e4,
    "µm": 1e4,
    "μm": 1e4,
    "micron": 1e4,
    "microns": 1e4,
    "micrometer": 1e4,
    "mm": 1e7,
    "m": 1e10,
}
_GIVE_SAMPLING = "give the pixel size: sampling=... or --sampling, in Å per pixel"
_FORMATS = "use .npz, .dm3, .dm4, .emd, .hspy, .mrc, .ser or .tif with one image in it"
_ONE_IMAGE = "save one two-dimensional image to a file of its own"


def read(path: str | Path, sampling: float | Sequence[float] | np.ndarray | None = None) -> Image:
    """Read one two-dimensional image with its calibration.

    path: `.npz` holding `image` (rows, cols) and one of `sampling` (Å per pixel, a number or (y, x)),
    `pixel_size_nm` or `pixel_size_nm_recorded` (nm per pixel); any other extension goes through RosettaSciIO.
    sampling: Å per pixel, a number or (y, x); replaces what the file says.
    Returns Image with float32 data (rows, cols).
    Errors: InputError if the file is missing, unreadable or holds no single image, has no calibration in
    units of length, or has pixels that are all equal or not finite.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise InputError("image file", str(path), problem, "give the path of an image file")
    given = None if sampling is None else checked_sampling(sampling)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a reader's remarks about tags that play no part here
        try:
            data, found = _read_npz(path) if path.suffix.lower() == ".npz" else _read_vendor(path)
            reason = ""
        except InputError:
            raise
        except Exception as problem:  # readers raise whatever their parser meets in a broken file
            data, found, reason = np.zeros(0), [], f"{type(problem).__name__}: {problem}"[:120]
        gc.collect()  # some readers leave a broken file open: close it here, where that warning is ignored
    if reason:
        raise InputError("image file", path.name, f"cannot be read: {reason}", _FORMATS)
    data = _checked_data(data, path.name)
    step = given if given is not None else _calibration(found, path.name)
    return Image(data, step, name=path.stem)


def checked_sampling(sampling: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """(2,) Å per pixel as (y, x) from a number or a pair."""
    try:
        step = np.broadcast_to(np.asarray(sampling, float), (2,)).copy()
    except (TypeError, ValueError):
        step = np.full(2, np.nan)
    if not (np.isfinite(step).all() and (step > 0).all()):
        raise InputError("sampling", sampling, "needs one or two positive lengths", "Å per pixel, a number or (y, x)")
    return step


def _read_npz(path: Path) -> tuple[np.ndarray, list]:
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise InputError(
            "image file", path.name, "is a single array, no .npz archive", "save it with np.savez(image=...)"
        )
    with loaded as archive:
        if "image" not in archive:
            held = ", ".join(archive.files)[:80] or "nothing"
            raise InputError(
                "image file", path.name, f"has no array named 'image', it holds {held}", "rename the array"
            )
        data = archive["image"]
        if "sampling" in archive:
            return data, [(float(v), "Å") for v in checked_sampling(archive["sampling"])]
        for key in ("pixel_size_nm", "pixel_size_nm_recorded"):
            if key in archive:
                return data, [(float(v), "nm") for v in np.broadcast_to(archive[key], (2,))]
    return data, [(1.0, "")] * 2


def _read_vendor(path: Path) -> tuple[np.ndarray, list]:
    """Data and (scale, unit) an axis of the only signal in the file."""
    signals = _first_that_reads(path, _plugins(path))
    if not signals:
        raise InputError("image file", path.name, "holds no data", _FORMATS)
    images = [s for s in signals if np.ndim(s["data"]) == 2] or signals
    if len(images) > 1:
        shapes = ", ".join(str(np.shape(s["data"])) for s in images)
        raise InputError("image file", path.name, f"holds {len(images)} signals {shapes}", _ONE_IMAGE)
    signal = images[0]
    return np.asarray(signal["data"]), [(a.get("scale"), a.get("units")) for a in signal["axes"]]


def _plugins(path: Path) -> list[str]:
    from rsciio import IO_PLUGINS  # slow to import, and not needed for .npz

    extension = path.suffix.lower().lstrip(".")
    found = [p["api"] for p in IO_PLUGINS if extension in [e.lower() for e in p["file_extensions"]]]
    if not found:
        raise InputError("image file", path.name, f"has an extension '{path.suffix}' that is not known", _FORMATS)
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


def _checked_data(data: np.ndarray, name: str) -> np.ndarray:
    if data.dtype.names or data.dtype.kind not in "biuf":
        raise InputError("image", f"{name}: {data.dtype}", "is not a grey-scale image of real numbers", _ONE_IMAGE)
    if data.ndim != 2:
        kind = "is a stack or a scan of diffraction patterns" if data.ndim > 2 else "is not two-dimensional"
        raise InputError("image", f"{name}: shape {data.shape}", kind, _ONE_IMAGE)
    if min(data.shape) < 2:
        raise InputError("image", f"{name}: shape {data.shape}", "is a line, not an image", _ONE_IMAGE)
    data = data.astype(float)
    bad = int((~np.isfinite(data)).sum())
    if bad:
        raise InputError("image", f"{name}: {bad} pixels", "has NaN or infinite pixels", "crop or repair the image")
    if data.max() == data.min():
        raise InputError("image", f"{name}: all pixels {data.flat[0]:g}", "is constant", "give an image with columns")
    if np.abs(data).max() > 1e30 or np.ptp(data) < 1e-6 * np.abs(data).max():
        data = (data - data.min()) / np.ptp(data)  # single precision would lose the contrast
    return data.astype(np.float32)


def _calibration(found: list, name: str) -> np.ndarray:
    """(2,) Å per pixel from the file's own scale and unit an axis."""
    step = []
    for scale, unit in found:
        text = "" if unit is None or not isinstance(unit, str) else unit.strip()
        factor = ANGSTROM.get(text, ANGSTROM.get(text.lower()))
        if factor is None or scale is None or not np.isfinite(float(scale)) or float(scale) <= 0:
            shown = f"{name}: {scale} {text or 'without unit'}"
            raise InputError("sampling", shown, "no calibration in a unit of length", _GIVE_SAMPLING)
        step.append(float(scale) * factor)
    return np.array(step)
