"""What is known of the noise of an image: its variance as a function of the expected intensity."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ferrojax.errors import InputError
from ferrojax.products import exact

_FAINTEST = 1e-3
"""Of the brightest expected intensity: a weight 1/variance stays finite where nothing is expected."""
_ROUNDING = 30.0
"""Rounding errors of the range of intensities: the least noise there is."""


class PoissonNoise(eqx.Module):
    """Counting: data = offset + gain × counts. gain: intensity a count. offset: intensity of no counts."""

    gain: Float[Array, ""]
    offset: Float[Array, ""]

    def __init__(self, gain: ArrayLike = 1.0, offset: ArrayLike = 0.0):
        self.gain, self.offset = _number("gain", gain, positive=True), _number("offset", offset)

    def variance(self, expected: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Variance of pixels of that expected intensity, intensity²."""
        counted = self.gain * (expected - self.offset)
        return jnp.maximum(counted, _FAINTEST * counted.max())

    def standardised(self, level: float, scale: float) -> "PoissonNoise":
        """The same noise on (data − level) / scale; a negative scale, of an inverted image, turns the gain over."""
        values = (self.gain / scale, (self.offset - level) / scale)
        return eqx.tree_at(lambda noise: (noise.gain, noise.offset), self, values)


class GaussianNoise(eqx.Module):
    """White noise of equal strength. sd: its standard deviation, intensity units."""

    sd: Float[Array, ""]

    def __init__(self, sd: ArrayLike = 1.0):
        self.sd = _number("sd", sd, positive=True)

    def variance(self, expected: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Variance of pixels of that expected intensity, intensity²."""
        return jnp.broadcast_to(self.sd**2, expected.shape).astype(expected.dtype)

    def standardised(self, level: float, scale: float) -> "GaussianNoise":
        """The same noise on (data − level) / scale."""
        del level
        return GaussianNoise(self.sd / abs(scale))


class FittedNoise(eqx.Module):
    """Noise as residuals show it: a constant variance, and one that grows with the intensity from `offset` on (with a
    negative slope: towards lower intensities)."""

    constant: Float[Array, ""]
    slope: Float[Array, ""]
    offset: Float[Array, ""]

    def variance(self, expected: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Variance of pixels of that expected intensity, intensity²."""
        return self.constant + jnp.maximum(self.slope * (expected - self.offset), 0.0)

    def standardised(self, level: float, scale: float) -> "FittedNoise":
        """The same noise on (data − level) / scale; scale may be negative."""
        return FittedNoise(self.constant / scale**2, self.slope / scale, (self.offset - level) / scale)


Noise = PoissonNoise | GaussianNoise | FittedNoise


def _number(field: str, value, positive: bool = False) -> Array:
    value = jnp.asarray(value, jnp.result_type(float))
    if value.shape != ():
        raise InputError(field, value.shape, "needs one number", f"give {field} as a number")
    try:
        concrete = float(value)
    except TypeError:  # traced
        return value
    if not (jnp.isfinite(value) and (concrete > 0 or not positive)):
        raise InputError(field, concrete, "must be finite" + (" and positive" if positive else ""), "e.g. 1.0")
    return value


@jax.jit
@exact
def estimate_noise(
    data: Float[Array, "rows cols"],
    expected: Float[Array, "rows cols"],
    seen: Float[Array, "rows cols"],
    left: Float[Array, "rows cols"] | None = None,
) -> FittedNoise:
    """Variance of data − expected against the expected intensity: a straight line by weighted least squares.

    Weights only: what they miss costs little precision and no bias. Pixels with seen = 0 do not count.
    left: share of a pixel's noise that the fit of the expected image left in the residual; None: all of it.
    """
    low, high = expected.min(), expected.max()
    spread = jnp.maximum(high - low, 1e-12 * jnp.abs(high) + 1e-30)
    z = (expected - low) / spread
    square = (data - expected) ** 2 / (1.0 if left is None else left)
    rounding = (_ROUNDING * jnp.finfo(expected.dtype).eps * spread) ** 2
    typical = jnp.maximum((seen * square).sum() / seen.sum(), rounding)
    square = square / typical

    def weighted(_, line):
        # Relative weights, so that bright pixels with their larger scatter of squares do not decide.
        expected_square = line[0] + line[1] * z
        # What lies beyond five standard deviations is misfit somewhere, not the noise of everywhere.
        held = jnp.minimum(square, 25.0 * expected_square)
        w = seen / expected_square**2
        s = jnp.stack([w.sum(), (w * z).sum(), (w * z**2).sum()]) / w.sum()
        v = jnp.stack([(w * held).sum(), (w * z * held).sum()]) / w.sum()
        slope = jnp.clip((v[1] - s[1] * v[0]) / (s[2] - s[1] ** 2 + 1e-12), 0.0, 20.0)
        return jnp.maximum(v[0] - slope * s[1], 0.05), slope

    constant, slope = jax.lax.fori_loop(0, 4, weighted, (jnp.ones_like(typical), jnp.zeros_like(typical)))
    return FittedNoise(typical * constant, typical * slope / spread, low)
