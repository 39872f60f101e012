"""Conversions between images and the inputs and outputs of a generator."""

from typing import NamedTuple

import numpy as np

from cyclegan_jax.data.transforms import to_channels
from cyclegan_jax.utils.image_io import to_uint8, to_uint16


class Prepared(NamedTuple):
    """An image as input of a generator, and what is needed to restore its size and alpha.

    Attributes:
        values: [h, w, C], uint8 or uint16, padded and with the channels of the network.
        size: Height and width of the image.
        alpha: [H, W, 1] where the image has alpha and the network does not, else None.
    """

    values: np.ndarray
    size: tuple[int, int]
    alpha: np.ndarray | None


def prepare(
    image: np.ndarray, channels: int, size: tuple[int, int], name: str = "image"
) -> Prepared:
    """Convert an image to the channels and the padded size of a network.

    Args:
        image: [H, W, C], uint8 or uint16.
        channels: Channels of the network's input.
        size: Height and width to pad to by reflection, at least the image's.
        name: The image's name in messages.

    Raises:
        UserError: The channels cannot be converted.
    """
    height, width, own = image.shape
    has_alpha = own in (2, 4) and channels in (1, 3)
    values = to_channels(image, channels, name)
    if size != (height, width):
        pads = ((0, size[0] - height), (0, size[1] - width), (0, 0))
        values = np.pad(values, pads, mode="reflect")
    return Prepared(values, (height, width), image[..., -1:] if has_alpha else None)


def finish(prepared: Prepared, output: np.ndarray) -> np.ndarray:
    """Convert an output, float [h, w, C'], to an image of the input's size, bit depth and alpha."""
    height, width = prepared.size
    to_integer = to_uint8 if prepared.values.dtype == np.uint8 else to_uint16
    image = to_integer(output[:height, :width])
    if prepared.alpha is None or image.shape[-1] not in (1, 3):
        return image
    return np.concatenate([image, prepared.alpha], axis=-1)
