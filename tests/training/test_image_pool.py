"""The image pool against the published behaviour, written as a plain list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax import image_pool


def plain_query(stored: list, images: np.ndarray, size: int, draws: image_pool.Draws) -> list:
    """Query the original's pool, a growing list; return the images for the discriminator."""
    returned = []
    for image, exchange, index in zip(images, draws.exchange, draws.index, strict=True):
        if len(stored) < size:
            stored.append(image)
            returned.append(image)
        elif exchange:
            returned.append(stored[index])
            stored[index] = image
        else:
            returned.append(image)
    return returned


@pytest.mark.parametrize("batch_size", [1, 3])
def test_follows_a_plain_pool_with_the_same_draws(batch_size):
    """Thirty queries return and store what a list does, while filling and when full."""
    size, shape = 7, (2, 2, 1)
    pool = image_pool.create(size, shape, jnp.float32)
    plain: list = []
    query = jax.jit(image_pool.query)
    for i in range(30):
        first = i * batch_size
        images = np.arange(first, first + batch_size, dtype=np.float32).reshape(-1, 1, 1, 1)
        images = np.broadcast_to(images, (batch_size, *shape))
        key = jax.random.fold_in(jax.random.key(0), i)
        draws = jax.device_get(image_pool.draw(key, batch_size, size))
        expected = plain_query(plain, images, size, draws)
        pool, returned = query(pool, images, key)
        np.testing.assert_array_equal(returned, expected)
        np.testing.assert_array_equal(pool.images[: len(plain)], plain)
        assert int(pool.count) == len(plain)


def test_draws_are_fair():
    """Half of the images are exchanged, and all places are equally likely."""
    draws = image_pool.draw(jax.random.key(1), 20_000, 10)
    # Four standard deviations of a binomial proportion.
    assert abs(float(draws.exchange.mean()) - 0.5) < 4 * np.sqrt(0.25 / 20_000)
    frequencies = np.bincount(draws.index, minlength=10) / 20_000
    assert np.all(abs(frequencies - 0.1) < 4 * np.sqrt(0.09 / 20_000))


def test_size_zero_returns_the_new_images():
    """An empty pool is switched off."""
    pool = image_pool.create(0, (2, 2, 3), jnp.float32)
    images = jnp.ones((2, 2, 2, 3))
    after, returned = image_pool.query(pool, images, jax.random.key(0))
    np.testing.assert_array_equal(returned, images)
    assert after.images is None
