"""A trained generator applied to pictures."""

import functools
from typing import Any

import jax

Array = jax.Array


@functools.partial(jax.jit, static_argnums=0)
def translate(generator: Any, params: Any, pictures: Array) -> Array:
    """One generator's output, without dropout.

    Args:
        generator: a Flax module of `state.build_networks`.
        params: its parameters.
        pictures: float [B, H, W, C] in [-1, 1]; H and W that the generator takes.

    Returns:
        Float [B, H, W, C'] in [-1, 1].
    """
    return generator.apply({"params": params}, pictures)
