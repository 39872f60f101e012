"""Normalisation to zero mean and unit variance, and its gradient, in few passes over memory."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cyclegan_jax.ops.convolution import chosen_form, widened


def normalise(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Subtract the mean over `axes` and divide by the square root of biased variance plus epsilon.

    Args:
        x: Any array.
        axes: Axes that share statistics: (1, 2) for instance norm.
        epsilon: Added to the variance.

    Returns:
        An array of x's shape and type; the statistics are float32, or float64 for float64.
    """
    if chosen_form() == "cpu":
        # On CPUs automatic differentiation is better: it makes an update 3 per cent faster.
        return _forward(x, axes, epsilon)[0]
    return _normalised(x, axes, epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normalised(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    return _forward(x, axes, epsilon)[0]


def _forward(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> tuple:
    wide = widened(x)
    mean = _mean(wide, axes)
    if x.dtype == wide.dtype:
        variance = _mean(jnp.square(wide - mean), axes)
    else:
        # Both sums in one pass. The cancellation is smaller than the rounding of x itself.
        variance = jnp.maximum(_mean(jnp.square(wide), axes) - jnp.square(mean), 0)
    scale = lax.rsqrt(variance + epsilon)
    return ((wide - mean) * scale).astype(x.dtype), (x, mean, scale)


def _backward(axes: tuple[int, ...], epsilon: float, kept: tuple, y: jax.Array) -> tuple[jax.Array]:
    """Compute the gradient with both sums in one pass; automatic differentiation needs two."""
    x, mean, scale = kept
    normed, wide = (widened(x) - mean) * scale, widened(y)
    across, along = _mean(wide, axes), _mean(wide * normed, axes)
    return ((scale * (wide - across - normed * along)).astype(x.dtype),)


_normalised.defvjp(_forward, _backward)


def _mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    if chosen_form() == "direct":
        return x.mean(axes, keepdims=True)
    # One axis at a time: XLA's CPU backend parallelises only such sums.
    for axis in sorted(axes, reverse=True):
        x = x.mean(axis, keepdims=True)
    return x
