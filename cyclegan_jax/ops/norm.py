"""Normalisation to zero mean and unit variance, and its gradient, in few passes over memory."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cyclegan_jax.ops.convolution import chosen_form, widened

Raised = Literal["variance", "deviation"]


def normalise(
    x: jax.Array, axes: tuple[int, ...], epsilon: float, raised: Raised = "variance"
) -> jax.Array:
    """Subtract the mean over `axes` and divide by the deviation, raised by epsilon.

    Args:
        x: Any array.
        axes: Axes that share statistics: (1, 2) for instance norm.
        epsilon: Keeps the divisor from zero.
        raised: What epsilon is added to: the biased variance, or the deviation, its square root.

    Returns:
        An array of x's shape and type; the statistics are float32, or float64 for float64.
    """
    if chosen_form() == "cpu" and raised == "variance":
        # On CPUs automatic differentiation is better: it makes an update 3 per cent faster.
        return _forward(x, axes, epsilon, raised)[0]
    return _normalised(x, axes, epsilon, raised)


def inverse_deviation(
    variance: np.ndarray, epsilon: float, raised: Raised = "variance"
) -> np.ndarray:
    """Return the factor that `normalise` applies, for variances computed elsewhere."""
    if raised == "deviation":
        return 1 / (np.sqrt(variance) + epsilon)
    return 1 / np.sqrt(variance + epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _normalised(x: jax.Array, axes: tuple[int, ...], epsilon: float, raised: Raised) -> jax.Array:
    return _forward(x, axes, epsilon, raised)[0]


def _forward(x: jax.Array, axes: tuple[int, ...], epsilon: float, raised: Raised) -> tuple:
    wide = widened(x)
    mean = _mean(wide, axes)
    if x.dtype == wide.dtype:
        variance = _mean(jnp.square(wide - mean), axes)
    else:
        # Both sums in one pass. The cancellation is smaller than the rounding of x itself.
        variance = jnp.maximum(_mean(jnp.square(wide), axes) - jnp.square(mean), 0)
    if raised == "variance":
        scale = lax.rsqrt(variance + epsilon)
    else:
        scale = 1 / (jnp.sqrt(variance) + epsilon)
    return ((wide - mean) * scale).astype(x.dtype), (x, mean, scale, variance)


def _backward(
    axes: tuple[int, ...], epsilon: float, raised: Raised, kept: tuple, y: jax.Array
) -> tuple[jax.Array]:
    """Compute the gradient with both sums in one pass; automatic differentiation needs two."""
    x, mean, scale, variance = kept
    normed, wide = (widened(x) - mean) * scale, widened(y)
    across, along = _mean(wide, axes), _mean(wide * normed, axes)
    if raised == "deviation":
        # d(deviation + epsilon) / (deviation + epsilon) has the deviation itself below, which is 0
        # for a flat image, as `along` then is.
        flat = variance == 0
        along = along / (scale * jnp.sqrt(jnp.where(flat, 1, variance)))
    return ((scale * (wide - across - normed * along)).astype(x.dtype),)


_normalised.defvjp(_forward, _backward)


def _mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    if chosen_form() == "direct":
        return x.mean(axes, keepdims=True)
    # One axis at a time: XLA's CPU backend parallelises only such sums.
    for axis in sorted(axes, reverse=True):
        x = x.mean(axis, keepdims=True)
    return x
