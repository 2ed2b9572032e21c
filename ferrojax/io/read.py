"""Read a calibrated image, a stack of frames or a diffraction scan from the formats that microscopes write."""

import gc
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ferrojax.constants import wavelength
from ferrojax.errors import InputError
from ferrojax.image import FAINTEST, LEAST_CONTRAST, DiffractionScan, Image
from ferrojax.io.units import (
    angle_factor,
    checked_number,
    length_factor,
    plain_unit,
    reciprocal_factor,
)
from ferrojax.io.vendor import FORMATS, Axis, Signal, grey_of_colours, load_signals

GIVE_SAMPLING = "give the pixel size: sampling=... or --sampling, in Å per pixel"
_GIVE_ANGLES = "give angular_sampling=..., in mrad per pixel"
_ONE_IMAGE = "save one two-dimensional image to a file of its own"
_LARGEST_PIXEL = 1e4  # Å; atoms need a tenth of one, print resolutions come out at 4e5
_LARGEST_RATIO = 3.0
_MANY = 1 << 26  # values: larger scans are checked in single precision, to hold them once
Pair = float | Sequence[float] | np.ndarray

_DAMAGED = (
    "the file may be cut off or damaged: copy it again from where it was recorded, or export it once more; if its name "
    f"says another format than it has, {FORMATS}"
)


def read(
    path: str | Path,
    sampling: Pair | None = None,
    *,
    signal: str | int | None = None,
    stack: bool = False,
    energy: float | None = None,
    angular_sampling: Pair | None = None,
) -> Image | Any:
    """Read an image with its calibration; a four-dimensional file comes back as a DiffractionScan.

    path: `.npz` holding `image` (rows, cols) and one of `sampling` (Å per pixel, a number or (y, x)),
    `pixel_size_nm` or `pixel_size_nm_recorded` (nm per pixel), for four axes also `angular_sampling` (mrad) or
    `energy` (eV); py4DSTEM's `.h5`; any other extension goes through RosettaSciIO.
    sampling: Å per pixel (or scan step), a number or (y, x); replaces what the file says.
    signal: name (any case) or number of one of several signals in the file, such as "HAADF".
    stack: True for all frames of a series, (frames, rows, cols), or all scans of a series.
    energy: eV, turns reciprocal Å of a diffraction scan into mrad; replaces what the file says.
    angular_sampling: mrad per pixel of a diffraction scan, a number or (y, x); replaces what the file says.
    Returns Image or DiffractionScan with float32 data, which are scaled where single precision would lose them: small
    contrast on a large offset, images below 1e-7, values above 1e30. Axes of one element, opaque alpha channels and
    colours that are all grey are dropped. Axes that the file names x before y are transposed to
    (rows, cols). Patterns whose file says where the zero beam is are cropped until it is in their centre.
    Errors: InputError if the file is missing or unreadable; holds no signal of that name, several without one
    named, or a series without `stack`; has no calibration in a unit of length (scan) or of angle (pattern), or
    pixels of more than 1 µm or three times longer than wide; has pixels that are all equal (a signal that is named
    comes back with a warning) or not finite.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise InputError("image file", str(path), problem, "give the path of an image file")
    given = None if sampling is None else checked_sampling(sampling)
    chosen = _chosen(_signals(path), signal, stack, path.name)
    data, axes = _grey(np.asarray(chosen.data), chosen.axes, stack, path.name)
    data, axes = _in_order(data, axes, stack, path.name)
    _check_kind(data, stack, path.name)
    if data.ndim - stack >= 4:
        return _scan(_Scan(data, axes, chosen.energy if energy is None else energy), given, angular_sampling, path)
    if signal is not None and data.max() == data.min() and np.isfinite(data.flat[0]):
        # Asked for by name it is handed over, as an image beside a map of elements may be; no columns are found in it.
        warnings.warn(f"{path.name}: all pixels of {signal} are {data.flat[0]:g}", stacklevel=2)
        data = data.astype(np.float32)
    else:
        data = _checked_data(data, path.name, stack)
    step = given if given is not None else calibrated(axes[-2:], path.name)
    return Image(data, step, name=path.stem)


def checked_sampling(sampling: Pair, field: str = "sampling", unit: str = "Å") -> np.ndarray:
    """(2,) per pixel as (y, x) from a number or a pair."""
    try:
        step = np.broadcast_to(np.asarray(sampling, float), (2,)).copy()
    except (TypeError, ValueError):
        step = np.full(2, np.nan)
    if not (np.isfinite(step).all() and (step > 0).all()):
        kind = "lengths" if unit == "Å" else "angles"
        raise InputError(field, sampling, f"needs one or two positive {kind}", f"{unit} per pixel, a number or (y, x)")
    return step


def calibrated(axes: Sequence[Axis], name: str) -> np.ndarray:
    """(2,) Å per pixel from the scale and unit of two axes, or an InputError with the remedy."""
    step = [_length(axis, name) for axis in axes]
    if max(step) > _LARGEST_PIXEL:
        shown = f"{name}: {max(step) * 1e-4:.4g} µm per pixel"
        raise InputError("sampling", shown, "is a print resolution, no calibration of an image", GIVE_SAMPLING)
    if max(step) > _LARGEST_RATIO * min(step):
        shown = f"{name}: {step[0]:.4g} and {step[1]:.4g} Å along y and x"
        raise InputError("sampling", shown, "makes pixels that are far from square", GIVE_SAMPLING)
    return np.array(step)


def _length(axis: Axis, name: str) -> float:
    text, factor = plain_unit(axis.unit), length_factor(axis.unit)
    shown = f"{name}: {axis.scale} {text or 'without unit'}"
    if reciprocal_factor(axis.unit) is not None or angle_factor(axis.unit) is not None:
        problem = "is no calibration in a unit of length: a diffraction pattern or a Fourier transform"
        raise InputError("sampling", shown, problem, f"give an image of real space; else {GIVE_SAMPLING}")
    if factor is None or axis.scale is None or not np.isfinite(float(axis.scale)) or float(axis.scale) <= 0:
        raise InputError("sampling", shown, "is no calibration in a unit of length", GIVE_SAMPLING)
    return float(axis.scale) * factor


def _signals(path: Path) -> list[Signal]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a reader's remarks about tags that play no part here
        try:
            signals, reason = load_signals(path), ""
        except InputError:
            raise
        except Exception as problem:  # readers raise whatever their parser meets in a broken file
            signals, reason = [], f"{type(problem).__name__}: {problem}"[:120]
        gc.collect()  # some readers leave a broken file open: close it here, where that warning is ignored
    if reason:
        raise InputError("image file", path.name, f"cannot be read: {reason}", _DAMAGED)
    if not signals:
        raise InputError("image file", path.name, "holds no data", FORMATS)
    return signals


def _chosen(signals: list[Signal], asked: str | int | None, stack: bool, name: str) -> Signal:
    """The signal asked for; else the only one, an image before a series and a series before anything else."""
    listed = ", ".join(f"{s.name or i} {np.shape(s.data)}" for i, s in enumerate(signals))
    if asked is not None:
        wanted = str(asked).strip().lower()
        found = [s for i, s in enumerate(signals) if (i == asked or s.name.lower() == wanted)]
        if len(found) == 1:
            return found[0]
        problem = f"names {len(found)} of the signals in {name}: {listed}"
        raise InputError("signal", asked, problem, "give a name or a number of that list, from 0")
    if name.lower().endswith(".npz"):
        image = [s for s in signals if s.name == "image"]
        if image:
            return image[0]
        problem = f"has no array named 'image', it holds {listed}"
        raise InputError("image file", name, problem, "rename the array, or choose one: signal=...")
    order = (3, 2, 5, 4) if stack else (2, 3, 4)
    for rank in order:
        found = [s for s in signals if np.ndim(s.data) == rank]
        if len(found) == 1:
            return found[0]
        if found:
            problem = f"holds {len(signals)} signals: {listed}"
            raise InputError("image file", name, problem, "choose one: signal='...', its name or its number from 0")
    return signals[0]


def _grey(data: np.ndarray, axes: tuple[Axis, ...], stack: bool, name: str) -> tuple[np.ndarray, tuple[Axis, ...]]:
    """Without axes of one element and without colours that are all grey, where one image is asked for."""
    if {"R", "G", "B"} <= set(data.dtype.names or ()):
        data = grey_of_colours(np.stack([data[letter] for letter in "RGB"], -1), name)
        axes = axes if len(axes) == data.ndim else ()
    if stack or data.ndim != 3:
        return data, axes
    if len(axes) != 3:
        axes = (Axis("", None, "", 0.0, False),) * 3
    if data.shape[0] == 1:
        return data[0], axes[1:]
    # An array of .npz is calibrated along its last two axes, colours or not.
    plane = axes[:2] if all(length_factor(axis.unit) for axis in axes[:2]) else axes[1:]
    if data.shape[2] == 1:
        return data[..., 0], plane
    if data.shape[2] in (2, 3, 4) and min(data.shape[:2]) > 4 and not any(axis.navigate for axis in axes[1:]):
        if data.shape[2] > 2:
            return grey_of_colours(data, name), plane
        if (data[..., 1] == data.flat[1]).all():  # grey and an alpha channel that hides nothing
            return data[..., 0], plane
        problem = "has two values a pixel, last"
        raise InputError(
            "image", f"{name}: shape {data.shape}", problem, "give one number a pixel, or (frames, rows, cols)"
        )
    return data, axes


def _in_order(data: np.ndarray, axes: tuple[Axis, ...], stack: bool, name: str) -> tuple[np.ndarray, tuple[Axis, ...]]:
    """Frames first, then (rows, cols), then (ky, kx), by the axes' units and names."""
    if len(axes) != data.ndim:
        return data, (Axis("", None, "", 0.0, False),) * data.ndim
    order = list(range(data.ndim))
    if data.ndim >= 4:  # a pattern stored before the scan
        angular = [i for i in order if reciprocal_factor(axes[i].unit) or angle_factor(axes[i].unit)]
        if len(angular) == 2:
            order = [i for i in order if i not in angular] + angular
    elif data.ndim == 3:
        apart = [i for i in order if axes[i].navigate]
        if len(apart) == 1 and length_factor(axes[apart[0]].unit) is None:
            order = apart + [i for i in order if i not in apart]
    for first in range(len(order) % 2, len(order), 2):
        pair = [_letter(axes[i].name) for i in order[first : first + 2]]
        if pair == ["x", "y"]:
            order[first : first + 2] = order[first : first + 2][::-1]
    if stack and data.ndim in (2, 4):
        data, axes, order = data[None], (Axis("", None, "", 0.0, True), *axes), [0, *(i + 1 for i in order)]
    return data.transpose(order), tuple(axes[i] for i in order)


def _letter(name: str) -> str:
    """x or y of an axis called x, X, R_x, kx, width ...; "" where it is called otherwise."""
    text = name.strip().lower()
    if text in ("width", "height"):
        return "x" if text == "width" else "y"
    return text[-1] if text.replace("_", "") in ("x", "y", "rx", "ry", "qx", "qy", "kx", "ky") else ""


def _check_kind(data: np.ndarray, stack: bool, name: str) -> None:
    shown = f"{name}: shape {data.shape}"
    if data.dtype.names or data.dtype.kind not in "biuf":
        raise InputError("image", f"{name}: {data.dtype}", "is not a grey-scale image of real numbers", _ONE_IMAGE)
    if data.ndim < 2:
        raise InputError("image", shown, "is not two-dimensional", _ONE_IMAGE)
    if data.ndim == 3 and stack and data.shape[2] in (3, 4) and min(data.shape[:2]) > 4:
        raise InputError("image", shown, "is a colour image", "give the recorded intensities, one number a pixel")
    if data.ndim == 3 and stack and data.shape[0] > data.shape[2] == min(data.shape):
        raise InputError("image", shown, "has its frames last", "store them as (frames, rows, cols)")
    if data.ndim == 3 and not stack:
        problem = f"is a stack of {data.shape[0]} frames"
        raise InputError("image", shown, problem, "average what stack=True reads with average_frames, or use --frames")
    if data.ndim - stack > 4 or (data.ndim == 5 and not stack):
        raise InputError("image", shown, "is a series of diffraction scans", "stack=True reads them all")
    if min(data.shape[-2:]) < 2:
        raise InputError("image", shown, "is a line, not an image", _ONE_IMAGE)


def _checked_data(data: np.ndarray, name: str, stack: bool) -> np.ndarray:
    data = data.astype(np.float64 if data.size < _MANY else np.float32)
    bad = int((~np.isfinite(data)).sum())
    if bad and stack and data.ndim == 3 and np.isfinite(data).all((1, 2)).sum() > 1:
        return data.astype(np.float32)  # bad frames are for the averaging to leave out
    if bad:
        raise InputError("image", f"{name}: {bad} pixels", "has NaN or infinite pixels", "crop or repair the image")
    if data.max() == data.min():
        raise InputError("image", f"{name}: all pixels {data.flat[0]:g}", "is constant", "give an image with columns")
    largest = np.abs(data).max()
    if data.ndim < 4 and largest < FAINTEST:
        data = data / largest
    elif largest > 1e30 or np.ptp(data) < LEAST_CONTRAST * largest:
        data = (data - data.min()) / np.ptp(data)  # single precision would lose the contrast
    return data.astype(np.float32)


class _Scan(NamedTuple):
    """A diffraction scan on its way in: data (..., rows, cols, ky, kx) and its axes; energy in eV where known."""

    data: np.ndarray
    axes: tuple[Axis, ...]
    energy: float | None


def _scan(found: _Scan, step: np.ndarray | None, angles: Pair | None, path: Path) -> DiffractionScan:
    data = _checked_data(found.data, path.name, stack=False)
    step = step if step is not None else calibrated(found.axes[-4:-2], path.name)
    if angles is None:
        angle = np.array([_angle(axis, found.energy, path.name) for axis in found.axes[-2:]])
    else:
        angle = checked_sampling(angles, "angular_sampling", "mrad")
    for i in (-2, -1):
        data = _centred(data, found.axes[i], i)
    return DiffractionScan(data, step, angle, name=path.stem)


def _angle(axis: Axis, energy: float | None, name: str) -> float:
    """mrad per pixel; reciprocal lengths k become angles λk."""
    shown = f"{name}: {axis.scale} {plain_unit(axis.unit) or 'without unit'}"
    scale = float("nan") if axis.scale is None else float(axis.scale)
    angle, reciprocal = angle_factor(axis.unit), reciprocal_factor(axis.unit)
    if not (np.isfinite(scale) and scale > 0) or (angle is None and reciprocal is None):
        problem = "is no calibration of a diffraction pattern in a unit of angle or of reciprocal length"
        raise InputError("angular_sampling", shown, problem, _GIVE_ANGLES)
    if angle is not None:
        return scale * angle
    if energy is None:
        remedy = "give the beam energy: energy=..., in eV; or angular_sampling=..., in mrad per pixel"
        raise InputError("energy", shown, "turns into angles only with the beam energy, which the file lacks", remedy)
    assert reciprocal is not None
    return scale * reciprocal * wavelength(checked_number(energy, "energy", "e.g. 200e3, in eV")) * 1e3


def _centred(data: np.ndarray, axis: Axis, at: int) -> np.ndarray:
    """Patterns cropped by the few pixels that put the zero of the axis in their centre.

    An axis that starts at zero only counts pixels and says nothing; nor is one believed that would cost more than a
    quarter of the pattern.
    """
    size = data.shape[at]
    if axis.offset >= 0 or not axis.scale:
        return data
    zero = round(-2 * axis.offset / float(axis.scale)) / 2  # pixel, to half of one
    kept = int(2 * min(zero, size - 1 - zero)) + 1
    if kept == size or kept < 0.75 * size:
        return data
    first = 0 if zero < (size - 1) / 2 else size - kept
    return data[(..., slice(first, first + kept), *([slice(None)] * (-1 - at)))]
