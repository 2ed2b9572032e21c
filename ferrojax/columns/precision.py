"""The Cramér–Rao bound: how well columns could be placed at best, for the dose and sampling of an image."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ferrojax.columns.columns import Columns
from ferrojax.columns.fitting.fisher import normal_blocks, position_covariance
from ferrojax.columns.fitting.model import ImageModel, Parameters, plan_model
from ferrojax.columns.fitting.noise import Noise
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.products import exact

_KNOTS = 6.0  # nearest distances between columns


@exact
def cramer_rao(columns: Columns, image: Image, noise: Noise | None = None) -> Float[Array, "n 2 2"]:
    """The least covariance (n, 2, 2) Å² that an unbiased estimate of the columns' positions can have.

    For the intensities and widths of `columns`, the pixels of `image`, and `noise` (in the image's intensity unit; None
    takes the columns' own); the columns' own parameters, their neighbours and a smooth background are all taken as
    unknown. Infinite where the image does not determine a column. Halving the noise's variance halves it: scale it to
    plan a dose.
    Errors: InputError for noise that is not `PoissonNoise`, `GaussianNoise` or like them, too few columns, or an image
    of another size than the columns'.
    Source: E. Bettens et al., Ultramicroscopy 77, 37 (1999).
    """
    noise = columns.noise if noise is None else noise
    if noise is None or not hasattr(noise, "variance"):
        raise InputError("noise", noise, "is no noise model", "give PoissonNoise(gain, offset) or GaussianNoise(sd)")
    data = jnp.asarray(image.data)
    if data.ndim != 2 or len(columns.position_px) < 2:
        shown = f"{data.shape}, {len(columns.position_px)} columns"
        raise InputError("image", shown, "is not one image with columns", "pass the image the columns were fitted to")
    if columns.image_shape not in (None, data.shape):
        raise InputError(
            "image",
            f"shape {data.shape}",
            f"is not the image of the columns, which has {columns.image_shape}",
            "pass the image the columns were fitted to",
        )
    to_angstrom = _angstrom_per_px(columns, image)
    position = np.asarray(columns.position_px, float)
    width = np.asarray(columns.width, float) / np.sqrt(np.linalg.det(to_angstrom))
    gap = np.sqrt(data.size / len(position))
    typical = float(np.median(width))
    model = plan_model(position, (data.shape[0], data.shape[1]), width=typical, knots=_KNOTS * gap, shared=True)
    shape = np.column_stack([np.log(width), np.zeros((len(width), 2))])
    amplitude = (-1 if columns.dark else 1) * np.asarray(columns.intensity, float) / (2 * np.pi * width**2)
    start = np.zeros((model.rows.shape[1], model.cols.shape[1]))
    level, scale = float(jnp.median(data)), float(np.ptp(np.asarray(data)))
    dtype = jnp.result_type(float)
    p = Parameters(*(jnp.asarray(a, dtype) for a in (position, amplitude / scale, shape, start)))
    beyond = [(0, side - n) for side, n in zip(model.size, data.shape, strict=True)]
    unit = jnp.pad((data - level) / scale, beyond)
    p = eqx.tree_at(lambda q: q.ground, p, _background(model, unit - model.add(model.columns(p))))
    variance = noise.standardised(level, scale).variance(model(p))
    covariance = eqx.filter_jit(_bound)(model, p, jnp.pad(jnp.ones_like(data, dtype), beyond) / variance)
    turn = jnp.asarray(to_angstrom, covariance.dtype)
    finite = jnp.isfinite(covariance).all((1, 2))
    turned = turn @ jnp.where(finite[:, None, None], covariance, 0.0) @ turn.T
    return jnp.where(finite[:, None, None], turned, jnp.inf)


def _angstrom_per_px(columns: Columns, image: Image) -> np.ndarray:
    if columns.calibration is None:
        return np.diag(np.asarray(image.sampling, float)[::-1])
    return np.asarray(columns.calibration.affine, float)


def _background(model: ImageModel, rest: Float[Array, "rows cols"]) -> Float[Array, "ky kx"]:
    """Least squares, an axis at a time."""
    y, x = (jnp.linalg.pinv(s) for s in (model.rows, model.cols))
    return y @ rest @ x.T


def _bound(model: ImageModel, p: Parameters, weight: Float[Array, "rows cols"]) -> Float[Array, "n 2 2"]:
    return position_covariance(normal_blocks(model, p, weight, jnp.zeros((len(p.position), 6), p.position.dtype)))


@eqx.filter_jit
@exact
def exact_bound(
    model: ImageModel, p: Parameters, noise: Noise, shape_spread: float | None = None
) -> Float[Array, "n 2 2"]:
    """The bound (n, 2, 2) px² by inverting the whole Fisher matrix: for up to a few hundred columns.

    p: in the units of `noise`. shape_spread: what is known of log widths beforehand (a third of it for ellipticities).
    """
    flat, shaped = ravel_pytree(p)
    image = model(p)
    jacobian = jax.jacfwd(lambda v: model(shaped(v)).ravel())(flat)
    fisher = jacobian.T @ (jacobian / noise.variance(image).ravel()[:, None])
    if shape_spread is not None:
        sd = jnp.array([shape_spread, shape_spread / 3, shape_spread / 3])
        known = jax.tree.map(jnp.zeros_like, p)
        known = eqx.tree_at(lambda q: q.shape, known, jnp.broadcast_to(sd**-2, p.shape.shape))
        fisher += jnp.diag(ravel_pytree(known)[0])
    scale = jnp.sqrt(jnp.diagonal(fisher)) + 1e-12
    covariance = jnp.linalg.inv(fisher / scale[:, None] / scale) / scale[:, None] / scale
    at = jnp.arange(2 * len(p.position)).reshape(-1, 2)
    return covariance[at[:, :, None], at[:, None, :]]
