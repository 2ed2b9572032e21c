"""What a fit leaves over that is periodic: another lattice under the one that was fitted."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import fft

from ferrojax.errors import InputError

_BAND = (0.6, 2.2)
"""Of the lattice's shortest frequency."""
_OFF = 0.1
"""Of a reciprocal cell: nearer to a reflection is what walls, strain and drift leave."""
_CLEAR = 10.0
"""Times the median of the spectrum: noise alone reaches 6."""
DOUBTFUL, _OTHER = 0.05, 0.07
"""Single trials: honest images stay below the first (0.044 on a phantom with 10 % strain, 0.01 on real single crystals;
but 0.056 a film with a strongly bent second phase), superposed lattices reach 0.07 to 0.09, at 2 degrees 0.055."""


def other_periods(
    data: Float[np.ndarray, "rows cols"],
    model: Float[np.ndarray, "rows cols"],
    lattice_px: Float[np.ndarray, "2 2"],
    measured: Bool[np.ndarray, "rows cols"],
) -> float:
    """Amplitude of the strongest period in data − model that is not the lattice's, over the lattice's own; 0 if none.

    lattice_px: rows are lattice vectors (x, y). measured: pixels that count.
    Raises InputError where it is clearly another lattice's.
    """
    window = np.hanning(data.shape[0])[:, None] * np.hanning(data.shape[1]) * measured
    left, whole = (np.abs(np.asarray(fft.rfft2((v - v[measured].mean()) * window))) for v in (data - model, data))
    fx, fy = fft.rfftfreq(data.shape[1])[None], fft.fftfreq(data.shape[0])[:, None]
    reciprocal = np.linalg.inv(lattice_px).T
    shortest = np.linalg.norm(reciprocal, axis=1).min()
    radius = np.hypot(fx, fy)
    band = (radius > _BAND[0] * shortest) & (radius < min(_BAND[1] * shortest, 0.45))
    index = np.stack(np.broadcast_arrays(fx, fy), -1)[band] @ np.linalg.inv(reciprocal)
    away = np.abs(index - np.round(index)).max(1) > _OFF
    if not away.any():
        return 0.0
    found = float(left[band][away].max())
    share = found / float(whole[band].max())
    if found < _CLEAR * np.median(left[band]):
        return 0.0
    if share > _OTHER:
        raise InputError(
            "image",
            f"periods of another lattice with {100 * share:.0f} % of this one's amplitude",
            "shows more than one lattice",
            "give a region with one crystal in the beam's path",
        )
    return share
