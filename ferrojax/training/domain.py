"""What can be learned about a recording from an unlabelled image: its harmonics, its noise, and which simulations fit.

Nothing here looks at the sign of a displacement. The mean cell is used through its inversion-even part only,
which a net polarization does not enter in first order, and matching filters are even and real, so they have
zero phase and cannot move a column.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferrojax.dataset.patches import AXIS, LOW_PASS, PATCH, PIXEL, SimulatedPool

ORDER = 3
"""Harmonics of the unit cell that are compared, −ORDER…ORDER in each direction."""
COMPONENTS = 16
"""Principal components that hold structure; what is left of the patches is noise."""

JITTER, STRAIN, CENTRE = 0.02, 0.004, 0.03
"""Largest rms of a line's shift (Å), rms of local strain, rms error of the A centroid (Å) in training."""


class Domain(eqx.Module):
    """One kind of recording, as training draws from it.

    weight: (n,) probability of each entry of the pool. blur: (n, 3) Å², mean covariance of the source for it.
    blur_spread: relative scatter of the blur. noise: (p, p) amplitude spectrum, noise_spread: log-scatter.
    jitter, strain, centre: rms, Å, 1, Å. name: for reports.
    """

    weight: Float[Array, " n"]
    blur: Float[Array, "n 3"]
    noise: Float[Array, "p p"]
    blur_spread: float
    noise_spread: float
    jitter: float
    strain: float
    centre: float
    name: str = eqx.field(static=True)


def noise_spectrum(patches: Float[np.ndarray, "n p p"]) -> Float[np.ndarray, "p p"]:
    """Amplitude spectrum of the noise in normalised patches: what the leading principal components do not hold.

    Scaled so that white noise of unit variance filtered with it (FFT order) has the measured spectrum.
    """
    measured = _residual_power(np.asarray(patches, float))
    # The components also take up noise, most where it is strong: see how much, on pure noise of that spectrum.
    white = np.fft.fft2(np.random.default_rng(0).normal(size=patches.shape))
    pure = np.fft.ifft2(white * np.sqrt(measured)).real
    kept = _residual_power(pure) / np.maximum(measured, 1e-12)
    return np.sqrt(measured / np.clip(kept, 0.3, 1.0))


def _residual_power(patches: np.ndarray) -> np.ndarray:
    """Power spectrum (p, p) of patches without their leading principal components."""
    flat = patches.reshape(len(patches), -1)
    flat = flat - flat.mean(0)
    kept = min(COMPONENTS, max(1, len(flat) // 8))
    basis = np.linalg.svd(flat, full_matrices=False)[2][:kept]
    rest = (flat - flat @ basis.T @ basis).reshape(patches.shape)
    window = np.hanning(PATCH)[:, None] * np.hanning(PATCH)[None]
    window /= np.sqrt((window**2).mean())
    return (np.abs(np.fft.fft2(rest * window)) ** 2).mean(0) / PATCH**2


def white_noise(level: float, correlation: float) -> Float[np.ndarray, "p p"]:
    """Amplitude spectrum of noise of rms `level` with a Gaussian point spread of rms `correlation` (Å)."""
    k = np.fft.fftfreq(PATCH, PIXEL)
    shape = np.exp(-2 * np.pi**2 * correlation**2 * (k[:, None] ** 2 + k[None] ** 2))
    return level * shape / np.sqrt((shape**2).mean())


def even_harmonics(patches: Float[np.ndarray, "n p p"], cell: float) -> Float[np.ndarray, "h h"]:
    """Real part of the mean cell's Fourier coefficients about its centre, without the zeroth (least squares)."""
    mean = np.asarray(patches, float).mean(0)
    order = np.arange(-ORDER, ORDER + 1)
    wave = np.exp(2j * np.pi * np.outer(AXIS, order) / cell)
    inverse = np.linalg.pinv(wave)
    coefficient = np.real(inverse @ mean @ inverse.T)
    coefficient[ORDER, ORDER] = 0
    return coefficient


def pool_harmonics(pool: SimulatedPool) -> Float[np.ndarray, "n h h"]:
    """The same of every pool entry without a source, low-passed as patches are: of its mean cell about the B site."""
    cells = pool.displacement.shape[1]
    order = np.arange(-ORDER, ORDER + 1)
    coefficient = np.real(np.asarray(pool.spectrum)[:, order * cells][:, :, order * cells])
    sign = (-1.0) ** (order[:, None] + order[None])
    k = order * cells / pool.box
    seen = np.exp(-2 * np.pi**2 * LOW_PASS**2 * (k[:, None] ** 2 + k[None] ** 2))
    return coefficient * seen * sign * (np.abs(order[:, None]) + np.abs(order[None]) > 0)


def prior_domain(pool: SimulatedPool, seed: int, noise_level: tuple[float, float] = (0.03, 0.25)) -> Domain:
    """The recording that simulation alone assumes: every entry alike, a wide range of blur and noise."""
    n = len(pool.source)
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.3, 0.85, (n, 2)) ** 2
    angle = rng.uniform(0, np.pi, n)
    level = float(np.sqrt(noise_level[0] * noise_level[1]))
    return Domain(
        weight=jnp.full((n,), 1 / n),
        blur=jnp.asarray(_rotated(sigma, angle), jnp.float32),
        noise=jnp.asarray(white_noise(level, 0.15), jnp.float32),
        blur_spread=0.2,
        noise_spread=float(np.log(noise_level[1] / noise_level[0]) / 3.5),
        jitter=JITTER,
        strain=STRAIN,
        centre=CENTRE,
        name="simulation prior",
    )


def matched_domain(
    pool: SimulatedPool, patches: Float[np.ndarray, "n p p"], cell: float, name: str, effective: float = 0.06
) -> tuple[Domain, dict[str, float]]:
    """The recording of an unlabelled image: noise as measured, and the simulations that can look like its mean cell.

    Every entry gets the source covariance under which its even harmonics come closest to the image's, and a
    weight exp(−(mismatch/τ)²/2); τ is set so that `effective` of the pool carries the weight. Returns the domain
    and what was found (weighted means), for the report.
    """
    target, source = even_harmonics(patches, cell), pool_harmonics(pool)
    blur, mismatch = _fit_blur(target, source, cell)
    weight = _weights(mismatch, effective)
    domain = Domain(
        weight=jnp.asarray(weight, jnp.float32),
        blur=jnp.asarray(blur, jnp.float32),
        noise=jnp.asarray(noise_spectrum(patches), jnp.float32),
        blur_spread=0.1,
        noise_spread=0.15,
        jitter=JITTER,
        strain=STRAIN,
        centre=CENTRE,
        name=name,
    )
    mean = {k: float(weight @ v) for k, v in zip(("thickness_A", "semiangle_mrad"), pool.parameter.T[:2], strict=True)}
    xx, yy, _ = np.sqrt(np.maximum(weight @ blur, 0))
    found = {
        **mean,
        "source_rms_x_A": float(xx),
        "source_rms_y_A": float(yy),
        "tilt_mrad": float(weight @ np.hypot(pool.parameter[:, 2], pool.parameter[:, 3])),
        "noise_rms": float(np.sqrt((noise_spectrum(patches) ** 2).mean())),
        "best_mismatch": float(mismatch.min()),
        "typical_mismatch": float(weight @ mismatch),
    }
    return domain, found


def _rotated(variance: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Covariances (xx, yy, xy) with these principal variances and orientations."""
    c, s = np.cos(angle), np.sin(angle)
    a, b = variance.T
    return np.stack([a * c**2 + b * s**2, a * s**2 + b * c**2, (a - b) * c * s], -1)


def _fit_blur(target: np.ndarray, source: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Best source covariance of every entry and the relative misfit left, by search over a grid."""
    order = np.arange(-ORDER, ORDER + 1) / cell
    ky, kx = np.meshgrid(order, order, indexing="ij")
    variances = np.linspace(0.2, 1.0, 17) ** 2
    best = np.full(len(source), np.inf)
    blur = np.zeros((len(source), 3))
    norm = np.linalg.norm(target)
    for xx in variances:
        for yy in variances:
            for correlation in (-0.4, -0.2, 0.0, 0.2, 0.4):
                xy = correlation * np.sqrt(xx * yy)
                envelope = np.exp(-2 * np.pi**2 * (xx * kx**2 + yy * ky**2 + 2 * xy * kx * ky))
                model = (source * envelope).reshape(len(source), -1)
                scale = model @ target.ravel() / (model**2).sum(1)
                misfit = np.linalg.norm(scale[:, None] * model - target.ravel(), axis=1) / norm
                better = misfit < best
                best = np.where(better, misfit, best)
                blur[better] = (xx, yy, xy)
    return blur, best


def _weights(mismatch: np.ndarray, effective: float) -> np.ndarray:
    """exp(−(m/τ)²/2), normalised, with τ by bisection so that 1/Σw² is `effective` of the entries."""
    low, high = 1e-6, 10.0
    w = np.full(len(mismatch), 1 / len(mismatch))
    relative = mismatch**2 - mismatch.min() ** 2
    for _ in range(60):
        tau = np.sqrt(low * high)
        w = np.exp(-relative / (2 * tau**2))
        w /= w.sum()
        if 1 / (w**2).sum() < effective * len(w):
            low = tau
        else:
            high = tau
    return w
