"""Whole states that need no compilation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cyclegan_jax.state import GENERATORS, TrainState, build_state, subset


def start_state(config: Any, size: tuple[int, int]) -> TrainState:
    """A state at step 0 whose parameters are NumPy's; pools and Adams are as they should be."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(build_state, config, size))

    def fill(shape):
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return jax.random.key(config.seed, impl="threefry2x32")
        return jnp.zeros(shape.shape, shape.dtype)

    def draw(shape):
        return jnp.asarray(0.1 * rng.standard_normal(shape.shape), shape.dtype)

    state = jax.tree.map(fill, shapes)
    params = jax.tree.map(draw, shapes.params)
    average = None
    if shapes.average is not None:
        average = jax.tree.map(jnp.copy, subset(params, GENERATORS))
    return state.replace(params=params, average=average)
