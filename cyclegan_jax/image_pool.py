"""Image pools (history buffers): discriminators also see generated images of earlier updates.

As in Shrivastava et al. 2017 (arXiv:1612.07828) and the original CycleGAN. A pool is a pytree in
the train state, and `query` is a pure function of it.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array


class Pool(flax.struct.PyTreeNode):
    """Images generated in earlier updates.

    Attributes:
        images: [size, H, W, C], zero from index `count` on; None for a pool of size 0.
        count: Number of images in the pool, an int32 scalar.
    """

    images: Array | None
    count: Array


class Draws(flax.struct.PyTreeNode):
    """Random draws of a query with a batch of B images.

    Attributes:
        exchange: bool [B], whether to swap the new image for a stored one if the pool is full.
        index: int32 [B] in [0, size), index of that stored image.
    """

    exchange: Array
    index: Array


def create(size: int, image_shape: tuple[int, int, int], dtype: jnp.dtype) -> Pool:
    """Create an empty pool of images [H, W, C]; with size 0, `query` returns its input."""
    images = jnp.zeros((size, *image_shape), dtype) if size else None
    return Pool(images, jnp.zeros((), jnp.int32))


def draw(key: Array, batch_size: int, size: int) -> Draws:
    """Return the draws of `query` with this key, for a pool of size 1 or more."""
    exchange_key, index_key = jax.random.split(key)
    return Draws(
        jax.random.bernoulli(exchange_key, 0.5, (batch_size,)),
        jax.random.randint(index_key, (batch_size,), 0, size, jnp.int32),
    )


def query(pool: Pool, images: Array, key: Array) -> tuple[Pool, Array]:
    """Pass new images through the pool, one after the other.

    Until the pool is full, images are stored and returned. Then each is, with probability 1/2,
    swapped for a random stored image, which is returned; otherwise it is returned and not stored.

    Args:
        pool: Pool before the query.
        images: [B, H, W, C] of the pool's image shape.
        key: PRNG key of `draw`.

    Returns:
        The pool after the query, and the images [B, H, W, C] to train on.
    """
    if pool.images is None:
        return pool, images
    size = pool.images.shape[0]

    def query_one(carry: tuple[Array, Array], x: tuple[Array, Array, Array]) -> Any:
        stored, count = carry
        image, exchange, index = x
        filling = count < size
        index = jnp.where(filling, count, index)
        old = jax.lax.dynamic_index_in_dim(stored, index, keepdims=False)
        # Writes in any case, if need be the old image: one write happens in place in the donated
        # buffer, while a choice between two pools would copy it.
        new = jnp.where(filling | exchange, image, old)
        returned = jnp.where(filling | ~exchange, image, old)
        stored = jax.lax.dynamic_update_index_in_dim(stored, new, index, 0)
        return (stored, count + filling), returned

    draws = draw(key, images.shape[0], size)
    xs = images.astype(pool.images.dtype), draws.exchange, draws.index
    carry, returned = jax.lax.scan(query_one, (pool.images, pool.count), xs)
    return Pool(*carry), returned
