"""Mean and deviation taken out, as instance norm does, and its gradient, in few passes."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cyclegan_jax.ops.convolution import chosen_form, widened


def normalise(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Takes the mean over `axes` off and divides by the deviation, with the biased variance.

    Args:
      x: any array.
      axes: axes that share their statistics: (1, 2) for instance, (0, 1, 2) for batch norm.
      epsilon: added to the variance.

    Returns:
      An array of x's shape and type; the statistics are float32, or float64 for float64.
    """
    if chosen_form() == "cpu":
        # There automatic differentiation does better: an update is 3 per cent faster.
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
        # Both sums in one pass. What cancels is less than what x has been rounded by.
        variance = jnp.maximum(_mean(jnp.square(wide), axes) - jnp.square(mean), 0)
    scale = lax.rsqrt(variance + epsilon)
    return ((wide - mean) * scale).astype(x.dtype), (x, mean, scale)


def _backward(axes: tuple[int, ...], epsilon: float, kept: tuple, y: jax.Array) -> tuple[jax.Array]:
    """With two sums in one pass, where automatic differentiation makes one wait for the other."""
    x, mean, scale = kept
    normed, wide = (widened(x) - mean) * scale, widened(y)
    across, along = _mean(wide, axes), _mean(wide * normed, axes)
    return ((scale * (wide - across - normed * along)).astype(x.dtype),)


_normalised.defvjp(_forward, _backward)


def _mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    if chosen_form() == "direct":
        return x.mean(axes, keepdims=True)
    # One axis after the other: XLA's CPU backend splits only such sums over cores.
    for axis in sorted(axes, reverse=True):
        x = x.mean(axis, keepdims=True)
    return x
