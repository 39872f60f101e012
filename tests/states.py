"""Train states and batches that need no compilation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cyclegan_jax.build import build_state
from cyclegan_jax.state import GENERATORS, TrainState, subset

SIZE = (32, 32)


def start_state(config: Any, size: tuple[int, int] = SIZE) -> TrainState:
    """Build a state at step 0 with parameters drawn by NumPy."""
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


def noise_batches(count: int, batch_size: int = 2, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Draw batches of noise images."""
    rng = np.random.default_rng(seed)
    shape = (batch_size, *SIZE, 3)
    return [{d: rng.integers(0, 256, shape, np.uint8) for d in ("a", "b")} for _ in range(count)]


def same_bits(x: Any, y: Any) -> bool:
    """Return whether two trees are equal to the last bit."""
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return all(np.array_equal(_raw(a), _raw(b)) for a, b in pairs)


def _raw(leaf):
    typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if typed else leaf)
