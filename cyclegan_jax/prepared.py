"""A picture made ready for a generator, and made of what the generator gives."""

from typing import NamedTuple

import numpy as np

from cyclegan_jax.data.treatments import to_channels
from cyclegan_jax.images import to_uint8, to_uint16


class Prepared(NamedTuple):
    """A picture as a generator takes it, and what is needed to make a picture of the result.

    Attributes:
        values: [h, w, C], uint8 or uint16, of the network's channels and with padding.
        size: height and width of the picture.
        alpha: [H, W, 1], where it has that and the network does not take it.
    """

    values: np.ndarray
    size: tuple[int, int]
    alpha: np.ndarray | None


def prepare(
    picture: np.ndarray, channels: int, size: tuple[int, int], name: str = "picture"
) -> Prepared:
    """Gives a picture the channels and the size that a network takes.

    Args:
        picture: [H, W, C], uint8 or uint16.
        channels: of the network's domain.
        size: height and width, at least the picture's; the rest is filled by reflection.
        name: what to call it in messages.

    Raises:
        UserError: its channels are not the network's and cannot be made.
    """
    height, width, own = picture.shape
    has_alpha = own in (2, 4) and channels in (1, 3)
    values = to_channels(picture, channels, name)
    if size != (height, width):
        pads = ((0, size[0] - height), (0, size[1] - width), (0, 0))
        values = np.pad(values, pads, mode="reflect")
    return Prepared(values, (height, width), picture[..., -1:] if has_alpha else None)


def finish(prepared: Prepared, output: np.ndarray) -> np.ndarray:
    """The picture of a result, float [h, w, C'], with the size, depth and alpha it began with."""
    height, width = prepared.size
    to_integer = to_uint8 if prepared.values.dtype == np.uint8 else to_uint16
    picture = to_integer(output[:height, :width])
    if prepared.alpha is None or picture.shape[-1] not in (1, 3):
        return picture
    return np.concatenate([picture, prepared.alpha], axis=-1)
