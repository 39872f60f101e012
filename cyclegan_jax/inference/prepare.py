"""An image made ready for a generator, and made of what the generator gives."""

from typing import NamedTuple

import numpy as np

from cyclegan_jax.data.transforms import to_channels
from cyclegan_jax.utils.image_io import to_uint8, to_uint16


class Prepared(NamedTuple):
    """An image as a generator takes it, and what is needed to make an image of the result.

    Attributes:
        values: [h, w, C], uint8 or uint16, of the network's channels and with padding.
        size: height and width of the image.
        alpha: [H, W, 1], where it has that and the network does not take it.
    """

    values: np.ndarray
    size: tuple[int, int]
    alpha: np.ndarray | None


def prepare(
    image: np.ndarray, channels: int, size: tuple[int, int], name: str = "image"
) -> Prepared:
    """Gives an image the channels and the size that a network takes.

    Args:
        image: [H, W, C], uint8 or uint16.
        channels: of the network's domain.
        size: height and width, at least the image's; the rest is filled by reflection.
        name: what to call it in messages.

    Raises:
        UserError: its channels are not the network's and cannot be made.
    """
    height, width, own = image.shape
    has_alpha = own in (2, 4) and channels in (1, 3)
    values = to_channels(image, channels, name)
    if size != (height, width):
        pads = ((0, size[0] - height), (0, size[1] - width), (0, 0))
        values = np.pad(values, pads, mode="reflect")
    return Prepared(values, (height, width), image[..., -1:] if has_alpha else None)


def finish(prepared: Prepared, output: np.ndarray) -> np.ndarray:
    """The image of a result, float [h, w, C'], with the size, depth and alpha it began with."""
    height, width = prepared.size
    to_integer = to_uint8 if prepared.values.dtype == np.uint8 else to_uint16
    image = to_integer(output[:height, :width])
    if prepared.alpha is None or image.shape[-1] not in (1, 3):
        return image
    return np.concatenate([image, prepared.alpha], axis=-1)
