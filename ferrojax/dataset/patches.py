"""Patches: one unit cell and its surroundings in the crystal's own axes, from images and from simulations.

A patch is PATCH × PATCH pixels of PIXEL Å, centred on the centroid of the four A columns, with rows along the
crystal's +y and columns along its +x axis. Images and simulations alike are low-passed by a Gaussian of LOW_PASS Å
before the pixels are taken: a finer scan of the same dose then gives the same patch, noise included. Each patch is
shifted to zero mean and scaled to unit standard deviation, so that detector gain, thickness gradients and background
do not enter.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int, Key
from scipy import fft
from scipy.ndimage import map_coordinates

from ferrojax.dataset.generate import PARAMETERS, SimulatedSet
from ferrojax.image import Image
from ferrojax.products import EXACT

PATCH, PIXEL = 24, 0.25
LOW_PASS = 0.6 * PIXEL
"""Å, rms radius: passes a column's profile (0.5 Å and wider) and 17 % of the amplitude at a patch's Nyquist limit."""
AXIS = (np.arange(PATCH) - (PATCH - 1) / 2) * PIXEL
"""Å: pixel centres of a patch along one axis."""


_BEYOND = 1.0
"""px that a patch may reach beyond the image."""
_REACH = 5.0
"""Rms radii of the low-pass that an image is continued by, as its own mirror image."""


def normalised(patches: Float[Array | np.ndarray, "n p p"]) -> Float[Array | np.ndarray, "n p p"]:
    """Zero mean and unit standard deviation, patch by patch."""
    centred = patches - patches.mean((-1, -2), keepdims=True)
    return centred / (centred.std((-1, -2), keepdims=True) + 1e-12)


def extract_patches(
    image: Image, centre_px: Float[Array, "n 2"], frame: Float[Array, "2 2"]
) -> Float[np.ndarray, "n p p"]:
    """Normalised patches of an image, low-passed to the patch's pixel, by cubic interpolation.

    centre_px: (x, y) px. frame: px offset = frame @ (x, y) in Å along the crystal's axes.
    """
    offset = np.stack(np.meshgrid(AXIS, AXIS), -1) @ np.asarray(frame, float).T
    at = np.asarray(centre_px, float)[:, None, None] + offset
    values = map_coordinates(low_passed(image.data, frame), [at[..., 1], at[..., 0]], order=3, mode="mirror")
    return np.asarray(normalised(values), np.float32)  # pyright: ignore[reportArgumentType]


def low_passed(
    data: Float[Array | np.ndarray, "rows cols"], frame: Float[Array | np.ndarray, "2 2"]
) -> Float[np.ndarray, "rows cols"]:
    """An image under a Gaussian of LOW_PASS Å, exact at any pixel size; frame as in `extract_patches`."""
    frame = np.asarray(frame, float)
    covariance = LOW_PASS**2 * frame @ frame.T  # px²
    reach = np.ceil(_REACH * np.sqrt(np.diag(covariance))).astype(int)[::-1]
    reach = np.minimum(reach, np.array(data.shape) - 1)
    wide = np.pad(np.asarray(data, float), [(r, r) for r in reach], mode="reflect")
    ky, kx = fft.fftfreq(wide.shape[0])[:, None], fft.rfftfreq(wide.shape[1])[None]
    exponent = covariance[0, 0] * kx**2 + covariance[1, 1] * ky**2 + 2 * covariance[0, 1] * kx * ky
    spectrum = np.asarray(fft.rfft2(wide)) * np.exp(-2 * np.pi**2 * exponent)
    smooth = np.asarray(fft.irfft2(spectrum, wide.shape))
    return smooth[reach[0] : wide.shape[0] - reach[0], reach[1] : wide.shape[1] - reach[1]]


def whole_patches(image: Image, centre_px: Float[Array, "n 2"], frame: Float[Array, "2 2"]) -> Bool[np.ndarray, " n"]:
    """(n,) whether a patch lies on the image; beyond its edge there is only a mirror image, which is no specimen."""
    corner = np.stack(np.meshgrid(AXIS[[0, -1]], AXIS[[0, -1]]), -1).reshape(-1, 2) @ np.asarray(frame, float).T
    at = np.asarray(centre_px, float)[:, None] + corner
    size = np.array(image.data.shape[::-1])
    return np.all((at > -_BEYOND) & (at < size - 1 + _BEYOND), axis=(1, 2))


class SimulatedPool(eqx.Module):
    """Every simulated supercell at every thickness in all eight orientations of the square lattice.

    spectrum: (n, rows, cols) Fourier coefficients of the periodic image, mean 1, A column as seen at the origin.
    displacement: (n, cells, cells, 2) Å, projected, of cell (row, col). source: (n,) supercell each came from.
    parameter: (n, 4): thickness Å, semi-angle mrad, tilt x, tilt y mrad in that orientation. box: Å.
    """

    spectrum: Complex[Array, "n rows cols"]
    displacement: Float[Array, "n cells cells 2"]
    source: Int[np.ndarray, " n"]
    parameter: Float[np.ndarray, "n 4"]
    box: float = eqx.field(static=True)


def build_pool(simulated: SimulatedSet) -> SimulatedPool:
    """All orientations are exact symmetries of the simulated physics: the image and its label turn together."""
    n, t = simulated.image.shape[:2]
    image = simulated.image.reshape(n * t, *simulated.image.shape[2:])
    image = image / image.mean((1, 2), keepdims=True)
    label = np.repeat(simulated.displacement[..., :2], t, axis=0)
    tilt = np.repeat(simulated.parameter[:, [PARAMETERS.index("tilt_x"), PARAMETERS.index("tilt_y")]], t, axis=0)
    images, labels, tilts = [], [], []
    for transpose in (False, True):
        for sx in (1, -1):
            for sy in (1, -1):
                i, d, v = image, label, tilt
                if sx < 0:
                    i, d, v = np.roll(i[:, :, ::-1], 1, 2), d[:, :, ::-1] * [-1, 1], v * [-1, 1]
                if sy < 0:
                    i, d, v = np.roll(i[:, ::-1], 1, 1), d[:, ::-1] * [1, -1], v * [1, -1]
                if transpose:
                    i, d, v = i.swapaxes(1, 2), d.swapaxes(1, 2)[..., ::-1], v[:, ::-1]
                images.append(i)
                labels.append(d)
                tilts.append(v)
    thickness = np.tile(np.tile(simulated.thickness, n), 8)
    semiangle = np.tile(np.repeat(simulated.parameter[:, PARAMETERS.index("semiangle")], t), 8)
    parameter = np.column_stack([thickness, semiangle, np.concatenate(tilts)]).astype(np.float32)
    spectrum = _centred_on_a(np.fft.fft2(np.concatenate(images)) / image[0].size, simulated.box, label.shape[1])
    return SimulatedPool(
        jnp.asarray(spectrum.astype(np.complex64)),
        jnp.asarray(np.concatenate(labels).astype(np.float32)),
        np.tile(np.repeat(simulated.specimen, t), 8),
        parameter,
        simulated.box,
    )


SEEN_BLUR = 0.5
"""Å: rms source under which the A column's position is read; its peak moves little with it."""


def _centred_on_a(
    spectrum: Complex[np.ndarray, "n rows cols"], box: float, cells: int
) -> Complex[np.ndarray, "n rows cols"]:
    """Shift every image so that its A columns, as seen, lie at the origin: tilt and coma move all columns along.

    Patches of a real image are centred on fitted A columns, so those of a simulation must be too.
    """
    ky, kx = (np.fft.fftfreq(n, box / n) for n in spectrum.shape[1:])
    ky, kx = np.meshgrid(ky, kx, indexing="ij")
    of_mean_cell = (np.round(ky * box) % cells == 0) & (np.round(kx * box) % cells == 0)
    k = np.stack([kx[of_mean_cell], ky[of_mean_cell]], -1)
    coefficient = spectrum[:, of_mean_cell] * np.exp(-2 * np.pi**2 * SEEN_BLUR**2 * (k**2).sum(-1))
    peak = np.zeros((len(spectrum), 2))
    for _ in range(12):  # Newton's method on the gradient of the mean cell, in steps that stay inside the peak
        wave = coefficient * np.exp(2j * np.pi * peak @ k.T)
        gradient = (2j * np.pi * wave @ k).real
        curvature = -4 * np.pi**2 * np.einsum("nk,ki,kj->nij", wave, k, k).real
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        peak -= np.clip(step, -0.1, 0.1)
    ramp = np.exp(2j * np.pi * (peak[:, 0, None, None] * kx + peak[:, 1, None, None] * ky))
    return spectrum * ramp


class Recording(eqx.Module):
    """How one patch of a batch is recorded; one entry a patch, lengths in Å.

    blur: (n, 3) covariance xx, yy, xy of source and optics together, Å², without the low-pass of the patch.
    jitter: (n,) rms of a line's shift.
    strain: (n, 3) xx, yy, xy of the local lattice against the mean one. centre: (n, 2) error of the centroid.
    noise: (n, p, p) amplitude spectrum of the noise of a normalised patch, in FFT order.
    """

    blur: Float[Array, "n 3"]
    jitter: Float[Array, " n"]
    strain: Float[Array, "n 3"]
    centre: Float[Array, "n 2"]
    noise: Float[Array, "n p p"]


def simulate_patches(
    key: Key[Array, ""], pool: SimulatedPool, entry: Int[Array, " n"], recording: Recording
) -> tuple[Float[Array, "n p p"], Float[Array, "n 2"]]:
    """Noisy normalised patches and their displacements (Å), each of a random cell of its pool entry."""
    cells = pool.displacement.shape[1]
    jitter_key, cell_key, noise_key = jax.random.split(key, 3)
    cell = jax.random.randint(cell_key, (len(entry), 2), 0, cells)  # (row, col)
    label = pool.displacement[entry, cell[:, 0], cell[:, 1]]
    middle = (cell[:, ::-1] + 0.5) * (pool.box / cells) + recording.centre
    rows, cols = pool.spectrum.shape[1:]
    ky, kx = np.fft.fftfreq(rows, pool.box / rows), np.fft.fftfreq(cols, pool.box / cols)
    xx, yy, xy = recording.blur.T[..., None, None]
    xx, yy = xx + LOW_PASS**2, yy + LOW_PASS**2
    exponent = xx * kx[None] ** 2 + yy * ky[:, None] ** 2 + 2 * xy * kx[None] * ky[:, None]
    spectrum = pool.spectrum[entry] * jnp.exp(-2 * jnp.pi**2 * exponent)
    exx, eyy, exy = recording.strain.T[..., None]
    y = middle[:, 1, None] + (1 + eyy) * AXIS
    x = middle[:, 0, None] + (1 + exx) * AXIS
    line = 2 * exy * AXIS + recording.jitter[:, None] * jax.random.normal(jitter_key, (len(entry), PATCH))
    by_row = jnp.einsum("npk,nkl->npl", jnp.exp(2j * jnp.pi * y[..., None] * ky), spectrum, precision=EXACT)
    by_row = by_row * jnp.exp(2j * jnp.pi * line[..., None] * kx)
    clean = jnp.einsum("npl,nql->npq", by_row, jnp.exp(2j * jnp.pi * x[..., None] * kx), precision=EXACT).real
    white = jnp.fft.fft2(jax.random.normal(noise_key, clean.shape))
    noise = jnp.fft.ifft2(white * recording.noise).real
    return jnp.asarray(normalised(normalised(clean) + noise)), label
