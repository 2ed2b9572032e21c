"""Frames of one area, aligned and averaged; a periodic image must not slip by a lattice period."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import ndimage

from ferrojax.errors import InputError
from ferrojax.image import Image

FRAME_REJECTIONS = ("", "unlike the other frames", "too little overlap", "NaN, infinite or constant")
_KEPT, _UNLIKE, _FAR, _EMPTY = range(len(FRAME_REJECTIONS))
_REACH = 0.45  # of the period, round the predicted shift
_PASSES, _STEPS, _SETTLED = 10, 2, 5e-4  # px
_OUTLIER = 6.0
_LEAST_OVERLAP = 0.5
_PRIOR_FREEDOM = 30.0
_BINS = 32
_BLOCK = 8
_FAST = 0.3
"""Lattice periods a frame from which a drift may be a slip."""
_SERIES = "read a series with stack=True, or leave --frames out"


class FrameAlignment(eqx.Module):
    """Where every frame of a series lies.

    shift: (n, 2) px (x, y), how far what frame k shows lies from where frame 0 (or the first good one) shows it.
    shift_error: (n, 2) px, one standard error from the noise of both frames, 0 for the one they are counted from;
        distortion within a frame is not in it.
    likeness: (n,) correlation with the mean of the other frames, of 1.
    rejection: (n,) index into FRAME_REJECTIONS; 0 is accepted.
    origin: (2,) px (x, y), the first pixel of the first good frame that all accepted frames cover.
    period: px, the lattice period that limited the search (infinite where the image shows none).
    """

    shift: Float[Array, "n 2"]
    shift_error: Float[Array, "n 2"]
    likeness: Float[Array, " n"]
    rejection: Int[Array, " n"]
    origin: Int[Array, "2"]
    period: Float[Array, ""]

    @property
    def accepted(self) -> np.ndarray:
        """(n,) bool."""
        return np.asarray(self.rejection) == _KEPT

    @property
    def drift(self) -> tuple[float, float]:
        """px (x, y) from one frame to the next, the median."""
        x, y = np.median(self._steps, axis=0)
        return float(x), float(y)

    @property
    def largest_step(self) -> float:
        """px, from one frame to the next."""
        return float(np.linalg.norm(self._steps, axis=1).max())

    @property
    def _steps(self) -> np.ndarray:
        """(k, 2) px a frame, between accepted frames."""
        good = np.nonzero(self.accepted)[0]
        return np.diff(np.asarray(self.shift, float)[good], axis=0) / np.diff(good)[:, None]

    @property
    def rejection_reason(self) -> tuple[str, ...]:
        """Why a frame was refused, "" if it was not."""
        return tuple(FRAME_REJECTIONS[i] for i in np.asarray(self.rejection))

    @property
    def notes(self) -> tuple[str, ...]:
        """How many frames of the series count and how they drift, and whether one may have slipped by a period."""
        reasons = [reason for reason in self.rejection_reason if reason]
        left_out = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
        x, y = self.drift
        lines = [
            f"The image is the average of {int(self.accepted.sum())} of {len(self.accepted)} frames, aligned rigidly."
            f"{f' Left out: {left_out}.' if left_out else ''} They drift by ({x:.1f}, {y:.1f}) px a frame."
        ]
        share = self.largest_step / float(self.period)
        if share > _FAST:
            lines.append(
                f"Frames move by up to {share:.2f} of a lattice period from one to the next. A lattice that moves by "
                "half a period or more looks as if it moved the other way: if it drifted faster, give its drift."
            )
        return tuple(lines)


def average_frames(
    image: Image, period: float | None = None, drift: tuple[float, float] = (0.0, 0.0), reject: bool = True
) -> tuple[Image, FrameAlignment]:
    """Align the frames (frames, rows, cols) of an image rigidly and average those that fit.

    period: px, the smallest lattice period; found from the frames' autocorrelation where it is not given.
    drift: px (x, y) a frame, first guess; needed where it exceeds 0.45 periods. reject: leave out frames that
    correlate with the others far less than usual (6 robust standard deviations).
    Returns the mean over the area that all accepted frames cover, with its standard error a pixel (the scatter of the
    frames, leaning on that of pixels in equally bright surroundings with the weight of 30 frames), and the alignment.
    Frames are resampled by cubic splines, so the noise of neighbouring pixels correlates, and less than the scatter
    of the frames is left where shifts are fractions of a pixel. Drift and jitter within a frame stay.
    Errors: InputError for a single image, fewer than two usable frames, or frames that drift out of sight.
    """
    frames = np.asarray(image.data, np.float64)
    if frames.ndim != 3:
        raise InputError("frames", frames.shape, "needs a series (frames, rows, cols)", _SERIES)
    alignment = align_frames(frames, period, drift, reject)
    kept = np.nonzero(alignment.accepted)[0]
    shift = np.asarray(alignment.shift, float)
    rows, cols = _common_area(shift[kept], frames.shape[1:])
    moved = np.stack([_moved(frames[k], shift[k])[rows, cols] for k in kept])
    mean = moved.mean(0)
    error = np.sqrt(_variance(moved, mean) / len(kept))
    return Image(jnp.asarray(mean, jnp.float32), image.sampling, jnp.asarray(error, jnp.float32), image.name), alignment


def align_frames(
    frames: Float[np.ndarray, "n rows cols"],
    period: float | None = None,
    drift: tuple[float, float] = (0.0, 0.0),
    reject: bool = True,
) -> FrameAlignment:
    """Rigid shifts of the frames: followed from frame to frame, then refined against the mean of the others.

    Each frame is searched within 0.45 periods of where the drift so far predicts it, so that it cannot slip by a
    period; the refinement is a least-squares fit of shift, gain and offset. Arguments and errors as `average_frames`.
    """
    if len(frames) < 2:
        raise InputError("frames", frames.shape, "needs two frames or more (frames, rows, cols)", _SERIES)
    if period is not None and not (np.isfinite(period) and period > 0):
        raise InputError("period", period, "must be a positive length in px", "leave it out to have it measured")
    rejection = np.array([_KEPT if np.isfinite(f).all() and np.ptp(f) > 0 else _EMPTY for f in frames])
    good = np.nonzero(rejection == _KEPT)[0]
    _enough(good, "are finite and not constant")
    spacing = _lattice_period(frames[good]) if period is None else float(period)
    shift = np.zeros((len(frames), 2))
    shift[good] = _tracked(frames[good], good, spacing, np.asarray(drift, float))
    far = (np.abs(shift) > (1 - _LEAST_OVERLAP) * np.array(frames.shape[:0:-1])).any(1)
    rejection[far & (rejection == _KEPT)] = _FAR
    error, likeness = np.zeros((len(frames), 2)), np.zeros(len(frames))
    for _ in range(_PASSES):
        good = np.nonzero(rejection == _KEPT)[0]
        _enough(good, "overlap")
        before = shift.copy()
        shift[good], error[good], likeness[good] = _refined(frames[good], shift[good])
        shift -= shift[good[0]]
        unlike = good[_outliers(likeness[good])] if reject else []
        rejection[unlike] = _UNLIKE
        if not len(unlike) and np.abs(shift - before)[good].max() < _SETTLED:
            break
    good = np.nonzero(rejection == _KEPT)[0]
    _enough(good, "look alike")
    shift -= shift[good[0]]
    error = np.where(np.arange(len(error))[:, None] == good[0], 0.0, np.hypot(error, error[good[0]]))
    rows, cols = _common_area(shift[good], frames.shape[1:])
    kind = jnp.result_type(float)
    return FrameAlignment(
        shift=jnp.asarray(shift, kind),
        shift_error=jnp.asarray(error, kind),
        likeness=jnp.asarray(likeness, kind),
        rejection=jnp.asarray(rejection),
        origin=jnp.asarray([cols.start, rows.start]),
        period=jnp.asarray(spacing, kind),
    )


def _enough(good: np.ndarray, what: str) -> None:
    if len(good) < 2:
        raise InputError("frames", f"{len(good)} frames", f"fewer than two {what}", "give more frames, or average none")


def _windowed(frame: np.ndarray) -> np.ndarray:
    """Without its mean and its slow variation, fading out towards the edges."""
    rows, cols = (np.hanning(n + 2)[1:-1] for n in frame.shape)
    return (frame - frame.mean()) * rows[:, None] * cols[None, :]


def _lattice_period(frames: np.ndarray) -> float:
    """px, the shortest distance at which the frames resemble themselves; infinite for an image without a lattice."""
    power = np.mean([np.abs(np.fft.rfft2(_windowed(frame))) ** 2 for frame in frames[:16]], axis=0)
    power[0, 0] = 0.0
    match = np.fft.fftshift(np.fft.irfft2(power, frames.shape[1:]))
    centre = np.array(match.shape) // 2
    smooth = ndimage.gaussian_filter(match, 1.0)
    peaks = np.argwhere((smooth == ndimage.maximum_filter(smooth, 5)) & (smooth > 0.1 * smooth.max()))
    distance = np.linalg.norm(peaks - centre, axis=1)
    peaks, distance = peaks[distance > 3], distance[distance > 3]
    if not len(peaks):
        return float("inf")
    height = smooth[tuple(peaks.T)]
    return float(distance[height > 0.6 * height.max()].min())


def _tracked(frames: np.ndarray, number: np.ndarray, period: float, drift: np.ndarray) -> np.ndarray:
    """(n, 2) px (x, y) to about a pixel: each frame against the mean of those before it, near its predicted place."""
    reach = min(_REACH * period, 0.25 * min(frames.shape[1:]))
    shift, total = np.zeros((len(frames), 2)), frames[0].copy()
    for k in range(1, len(frames)):
        recent = np.arange(max(1, k - 3), k)
        velocity = drift
        if len(recent):
            gaps = (number[recent] - number[recent - 1])[:, None]
            velocity = np.median((shift[recent] - shift[recent - 1]) / gaps, axis=0)
        predicted = shift[k - 1] + velocity * (number[k] - number[k - 1])
        whole = np.round(predicted).astype(int)
        back = np.roll(frames[k], (-whole[1], -whole[0]), (0, 1))
        shift[k] = whole + _peak_near(total / k, back, predicted - whole, reach)
        nearest = np.round(shift[k]).astype(int)
        total += np.roll(frames[k], (-nearest[1], -nearest[0]), (0, 1))
    return shift


def _peak_near(reference: np.ndarray, frame: np.ndarray, expected: np.ndarray, reach: float) -> np.ndarray:
    """(2,) px (x, y): the whole-pixel shift of the highest correlation within reach of the expected one."""
    spectrum = np.conj(np.fft.rfft2(_windowed(reference))) * np.fft.rfft2(_windowed(frame))
    match = np.fft.irfft2(spectrum, frame.shape)
    y, x = (np.fft.fftfreq(n, 1 / n) for n in frame.shape)
    near = (y[:, None] - expected[1]) ** 2 + (x[None, :] - expected[0]) ** 2 <= max(reach, 1.5) ** 2
    row, col = np.unravel_index(np.argmax(np.where(near, match, -np.inf)), match.shape)
    return np.array([x[col], y[row]])


def _moved(frame: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The frame brought back by its shift (x, y)."""
    return ndimage.shift(frame, (-shift[1], -shift[0]), order=3, mode="nearest")


def _common_area(shift: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns that every frame covers when it is brought back."""
    first = np.maximum(np.ceil(-shift.min(0)), 0).astype(int)
    last = np.array(shape[::-1]) - np.maximum(np.ceil(shift.max(0)), 0).astype(int)
    if (last - first < 8).any():
        shown = f"drift to {np.abs(shift).max():.0f} px"
        raise InputError("frames", shown, "have no area in common", "give fewer frames")
    return slice(first[1], last[1]), slice(first[0], last[0])


def _refined(frames: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shifts, errors (n, 2) px and likeness (n,) of every frame against the mean of the others.

    Its own noise in the mean would hold a frame where it is, so each frame is compared without itself.
    """
    area = _common_area(shift, frames.shape[1:])
    moved = np.stack([_moved(frame, s) for frame, s in zip(frames, shift, strict=True)])
    total = moved.sum(0)
    results = []
    for frame, s, own in zip(frames, shift, moved, strict=True):
        results.append(_fit_shift(frame, (total - own) / (len(frames) - 1), s, area))
    new, error, likeness = zip(*results, strict=True)
    return np.array(new), np.array(error), np.array(likeness)


def _fit_shift(
    frame: np.ndarray, template: np.ndarray, shift: np.ndarray, area: tuple[slice, slice]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Gauss–Newton for the shift; the template's gradient, gain and offset are the regressors."""
    rows, cols = area
    rows = slice(rows.start + 3, rows.stop - 3)
    cols = slice(cols.start + 3, cols.stop - 3)
    fine = ndimage.gaussian_filter(template, 0.7)
    slope_y, slope_x = (np.asarray(g)[rows, cols].ravel() for g in np.gradient(fine))
    wanted = template[rows, cols].ravel()
    design = np.stack([slope_x, slope_y, wanted, np.ones_like(wanted)], 1)
    normal = np.linalg.pinv(design.T @ design)
    error, likeness = np.zeros(2), 0.0
    for _ in range(_STEPS):
        now = _moved(frame, shift)[rows, cols].ravel()
        found = np.asarray(normal @ (design.T @ now))
        gain = float(found[2]) if abs(found[2]) > 0.05 else 1.0
        shift = shift - np.clip(found[:2] / gain, -1, 1)
        error = _shift_error(design, now - design @ found, normal, (rows, cols)) / abs(gain)
        likeness = float(np.corrcoef(now, wanted)[0, 1])
    return shift, error, likeness


def _shift_error(design, rest, normal, area) -> np.ndarray:
    """(2,) px from the scatter of the score over blocks: resampled counts are neither independent nor equally noisy."""
    rows, cols = (range(s.start, s.stop) for s in area)
    block = (np.arange(len(rows)) // _BLOCK)[:, None] * (len(cols) // _BLOCK + 1) + np.arange(len(cols)) // _BLOCK
    score = design * rest[:, None]
    sums = np.stack([np.bincount(block.ravel(), score[:, i]) for i in range(score.shape[1])], 1)
    return np.sqrt(np.diag(normal @ (sums.T @ sums) @ normal)[:2])


def _outliers(likeness: np.ndarray) -> np.ndarray:
    """(n,) bool: frames far less like the others than is usual."""
    middle = np.median(likeness)
    spread = 1.4826 * np.median(np.abs(likeness - middle))
    return likeness < middle - max(_OUTLIER * spread, 0.05 * abs(middle))


def _variance(moved: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(rows, cols) variance of one frame: its own scatter, leaning on that of pixels in surroundings as bright.

    A pixel's own mean would not do: where few counts fell by chance, both mean and scatter are low.
    """
    own = moved.var(0, ddof=1)
    around = ndimage.gaussian_filter(mean, 1.5)
    groups = np.array_split(np.argsort(around, axis=None), min(_BINS, max(1, mean.size // 64)))
    brightness = np.array([around.ravel()[g].mean() for g in groups])
    typical = np.interp(around, brightness, np.array([own.ravel()[g].mean() for g in groups]))
    freedom = len(moved) - 1
    return (_PRIOR_FREEDOM * typical + freedom * own) / (_PRIOR_FREEDOM + freedom)
