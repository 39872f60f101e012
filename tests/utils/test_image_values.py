"""Conversions of value ranges, and strips."""

import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.utils import image_io


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize(
    ("dtype", "to_integer"), [(np.uint8, image_io.to_uint8), (np.uint16, image_io.to_uint16)]
)
def test_range_conversions_are_inverse(xp, dtype, to_integer):
    """All values are preserved, the ends are -1 and 1, and arrays stay of their library."""
    values = xp.arange(np.iinfo(dtype).max + 1).astype(dtype)
    floats = image_io.to_float(values)
    assert floats.dtype == np.float32
    assert isinstance(floats, type(values))
    assert (floats[0], floats[-1]) == (-1, 1)
    returned = to_integer(floats)
    assert returned.dtype == dtype
    np.testing.assert_array_equal(returned, values)


def test_to_uint8_rounds_and_clips():
    """Values are rounded to nearest and clipped to 0 and 255."""
    levels = np.array([-5, 0.4, 0.6, 254.4, 254.6, 400])
    np.testing.assert_array_equal(
        image_io.to_uint8((levels / 127.5 - 1).astype(np.float32)), [0, 0, 1, 254, 255, 255]
    )


def test_to_8_bits_rounds_to_nearest():
    """All 65536 values equal exact division."""
    values = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(image_io.to_8_bits(values), np.round(values / 257))


def test_strip_places_images_on_white():
    """Images of all kinds stand in rows and columns with a gap between; worked by hand."""
    grey = np.full((2, 3, 1), 7, np.uint8)
    deep = np.full((1, 1, 1), 65535 // 3, np.uint16)
    colour = np.tile(np.array([1, 2, 3, 0], np.uint8), (1, 2, 1))
    out = image_io.strip([[grey, colour], [deep]], gap=1)
    white, seven, third = [255] * 3, [7] * 3, [85] * 3
    expected = [
        [seven, seven, seven, white, [1, 2, 3], [1, 2, 3]],
        [seven, seven, seven, white, white, white],
        [white] * 6,
        [third, white, white, white, white, white],
    ]
    np.testing.assert_array_equal(out, expected)
    assert out.dtype == np.uint8
