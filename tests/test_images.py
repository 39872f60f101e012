"""Conversions of images' ranges, and strips."""

import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.utils import image_io


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize(
    ("dtype", "back"), [(np.uint8, image_io.to_uint8), (np.uint16, image_io.to_uint16)]
)
def test_range_conversion_and_back_is_exact(xp, dtype, back):
    """All values survive; the ends are -1 and 1; arrays stay of their library."""
    values = xp.arange(np.iinfo(dtype).max + 1).astype(dtype)
    floats = image_io.to_float(values)
    assert floats.dtype == np.float32
    assert isinstance(floats, type(values))
    assert (floats[0], floats[-1]) == (-1, 1)
    returned = back(floats)
    assert returned.dtype == dtype
    np.testing.assert_array_equal(returned, values)


def test_to_uint8_rounds_and_clips():
    """To the nearest level, and beyond the ends to the ends."""
    levels = np.array([-5, 0.4, 0.6, 254.4, 254.6, 400])
    np.testing.assert_array_equal(
        image_io.to_uint8((levels / 127.5 - 1).astype(np.float32)), [0, 0, 1, 254, 255, 255]
    )


def test_to_8_bits_is_the_nearest_of_the_full_range():
    """All 65536 values, against exact division."""
    values = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(image_io.to_8_bits(values), np.round(values / 257))


def test_strip_places_images_on_white():
    """Cells of all kinds stand in columns and rows with a gap between; worked by hand."""
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
