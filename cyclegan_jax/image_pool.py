"""The history pool: discriminators are also shown images from earlier updates.

After Shrivastava et al. 2017 (arXiv:1612.07828) and the original CycleGAN. A pool is a pytree that
lives in the train state; asking it is a pure function.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array


class Pool(flax.struct.PyTreeNode):
    """Images generated earlier.

    Attributes:
        images: [size, H, W, C]; those from `count` on are blank. None for a pool without places.
        count: how many places are taken, an int32 scalar.
    """

    images: Array | None
    count: Array


class Draws(flax.struct.PyTreeNode):
    """The random part of asking a full pool, for a batch of B.

    Attributes:
        exchange: bool [B]; whether an older image is returned and the new one takes its place.
        index: int32 [B] in [0, size); which one.
    """

    exchange: Array
    index: Array


def create(size: int, image_shape: tuple[int, int, int], dtype: jnp.dtype) -> Pool:
    """An empty pool for `size` images [H, W, C]; of size 0, `query` returns what it is given."""
    images = jnp.zeros((size, *image_shape), dtype) if size else None
    return Pool(images, jnp.zeros((), jnp.int32))


def draw(key: Array, batch_size: int, size: int) -> Draws:
    """The draws that `query` makes with this key, for a pool of at least one place."""
    exchange_key, index_key = jax.random.split(key)
    return Draws(
        jax.random.bernoulli(exchange_key, 0.5, (batch_size,)),
        jax.random.randint(index_key, (batch_size,), 0, size, jnp.int32),
    )


def query(pool: Pool, images: Array, key: Array) -> tuple[Pool, Array]:
    """Shows new images to the pool, one after the other, and returns what to train on.

    While places are free, an image takes the next one and is returned itself. In a full pool, with
    probability 1/2, an older image is returned and the new one takes its place; otherwise the new
    one is returned and forgotten.

    Args:
        pool: as it was.
        images: [B, H, W, C] of the pool's image shape.
        key: for `draw`.

    Returns:
        The pool as it is now, and images [B, H, W, C].
    """
    if pool.images is None:
        return pool, images
    size = pool.images.shape[0]

    def show(held: tuple[Array, Array], new: tuple[Array, Array, Array]) -> Any:
        kept, count = held
        image, exchange, index = new
        filling = count < size
        place = jnp.where(filling, count, index)
        older = jax.lax.dynamic_index_in_dim(kept, place, keepdims=False)
        # Where nothing changes the place is written with what it holds: a write to one place can
        # be done in the donated buffer, a choice between two pools would copy it.
        stored = jnp.where(filling | exchange, image, older)
        returned = jnp.where(filling | ~exchange, image, older)
        kept = jax.lax.dynamic_update_index_in_dim(kept, stored, place, 0)
        return (kept, count + filling), returned

    draws = draw(key, images.shape[0], size)
    new = images.astype(pool.images.dtype), draws.exchange, draws.index
    held, returned = jax.lax.scan(show, (pool.images, pool.count), new)
    return Pool(*held), returned
