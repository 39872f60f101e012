"""The losses of CycleGAN as pure functions. Every one returns a scalar mean, without weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

MODES = ("lsgan", "vanilla", "wgangp")

Array = jax.Array


def adversarial(
    scores: Array | tuple[Array, ...], is_real: bool, mode: str, real_label: float = 1.0
) -> Array:
    """How far scores are from those of real (or generated) images.

    Args:
        scores: of any shape; several maps, as of a multi-scale discriminator, count as a sum.
        is_real: what the scores should say. A generator asks for True on its own images.
        mode: lsgan, mean squared distance to 1 or 0 (Mao et al. 2017); vanilla, cross-entropy on
            the scores as logits (Goodfellow et al. 2014); wgangp, minus or plus the mean score
            (Gulrajani et al. 2017).
        real_label: stands for real in lsgan and vanilla; below 1 it keeps discriminators from
            growing too sure (Salimans et al. 2016).
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose from {', '.join(MODES)}")
    label = real_label if is_real else 0.0

    def of_map(values: Array) -> Array:
        if mode == "lsgan":
            return jnp.mean(jnp.square(values - label))
        if mode == "vanilla":
            labels = jnp.full_like(values, label)
            return jnp.mean(optax.sigmoid_binary_cross_entropy(values, labels))
        return -jnp.mean(values) if is_real else jnp.mean(values)

    return sum(map(of_map, jax.tree.leaves(scores)), jnp.zeros(()))


def absolute_difference(x: Array, y: Array) -> Array:
    """Mean absolute difference of two images: the cycle and the identity loss."""
    if x.shape != y.shape:
        raise ValueError(f"shapes differ: {x.shape} and {y.shape}")
    return jnp.mean(jnp.abs(x - y))


def gradient_penalty(
    discriminate: Callable[[Array], Any], real: Array, fake: Array, mix: Array
) -> Array:
    """Mean squared distance from 1 of the scores' slope between real and generated images.

    Args:
        discriminate: images [B, H, W, C] to scores, one map or several.
        real: [B, H, W, C].
        fake: [B, H, W, C].
        mix: [B], uniform in [0, 1]: the share of the real image in each point that is tried.

    Follows Gulrajani et al. 2017, equation 3; the scores of an image are summed.
    """
    share = mix[:, None, None, None]
    between = share * real + (1.0 - share) * fake

    def total(x: Array) -> Array:
        return sum(map(jnp.sum, jax.tree.leaves(discriminate(x))), jnp.zeros(()))

    slope = jax.grad(total)(between)
    # The small number keeps the root's own slope finite where the scores are flat.
    length = jnp.sqrt(jnp.sum(jnp.square(slope), axis=(1, 2, 3)) + 1e-16)
    return jnp.mean(jnp.square(length - 1.0))
