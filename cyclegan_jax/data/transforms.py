"""Registry of transforms, which turn images of files into images for the networks.

Training images are transformed in two parts: `prepare` is deterministic, so its result is cached,
and `augment` is random. Test images and samples use `prepare_test`. Resizing is bicubic with
antialiasing. The registered transforms are those of the original implementation:

| name                 | prepare                         | augment    | prepare_test         |
|----------------------|---------------------------------|------------|----------------------|
| resize_and_crop      | resize to load_size x load_size | crop, flip | resize to crop_size  |
| crop                 | -                               | crop, flip | center crop          |
| scale_width          | scale to width load_size        | flip       | prepare              |
| scale_width_and_crop | scale to width load_size        | crop, flip | prepare, center crop |
| none                 | -                               | flip       | prepare              |

`scale_width_and_crop` scales to a height of at least crop_size. `scale_width` and `none` round both
sides to multiples of 4; the original does so in `none` alone, and cannot train on the sizes that
its `scale_width` returns.

With `data.flip_alike` both images of a pair are flipped or neither; `TrainDataset` does this.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from PIL import Image

from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import to_8_bits

CHANNELS = (1, 2, 3, 4)
BIT_DEPTHS = (8, 16)


class Transform(Protocol):
    """Transform of the images of one domain; images are [H, W, C], uint8 or uint16.

    A transform that has `prepared_size(height, width, name) -> (height, width)`, the size that
    `prepare` returns, gets the headers of all images checked before training: it may raise
    UserError, and without an `output_size` all its results must be equal.
    """

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of all training images; None if `prepare` alone determines it."""

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """Apply the deterministic part of the training transform.

        Args:
            image: An image in the channels and the bit depth of the networks.
            name: Name of the image for messages.

        Raises:
            UserError: The image cannot be used, for example because it is too small.
        """

    def augment(self, prepared: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Apply the random part of the training transform, without writing to `prepared`."""

    def prepare_test(self, image: np.ndarray, name: str) -> np.ndarray:
        """Apply the transform of test images; arguments and errors as in `prepare`."""


class _Cropped:
    """Base of transforms with random crops for training and center crops for tests."""

    def __init__(self, load_size: int, crop_size: int):
        self.load_size, self.crop_size = load_size, crop_size
        self.output_size = (crop_size, crop_size)

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        raise NotImplementedError

    def augment(self, prepared: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left = (rng.integers(side - self.crop_size + 1) for side in prepared.shape[:2])
        return self._crop(prepared, top, left)

    def prepare_test(self, image: np.ndarray, name: str) -> np.ndarray:
        prepared = self.prepare(image, name)
        top, left = ((side - self.crop_size) // 2 for side in prepared.shape[:2])
        return self._crop(prepared, top, left)

    def _crop(self, image: np.ndarray, top: int, left: int) -> np.ndarray:
        return image[top : top + self.crop_size, left : left + self.crop_size]

    def _check_crop_size(self) -> None:
        if self.crop_size > self.load_size:
            raise UserError(
                f"data.crop_size: expected at most data.load_size={self.load_size}, "
                f"got {self.crop_size}"
            )


class ResizeAndCrop(_Cropped):
    """Resize to a square, then crop; raise UserError if the crop is larger than the square."""

    def __init__(self, load_size: int, crop_size: int):
        super().__init__(load_size, crop_size)
        self._check_crop_size()

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """Resize to load_size x load_size."""
        return resize(image, self.load_size, self.load_size)

    def prepare_test(self, image: np.ndarray, name: str) -> np.ndarray:
        """Resize to crop_size x crop_size."""
        return resize(image, self.crop_size, self.crop_size)


class Crop(_Cropped):
    """Crop without resizing."""

    def prepared_size(self, height: int, width: int, name: str) -> tuple[int, int]:
        """Return the size of an image; raise UserError if it is smaller than the crop."""
        if min(height, width) < self.crop_size:
            raise UserError(
                f"image {name}: expected at least data.crop_size={self.crop_size} pixels in width "
                f"and height, got {width}x{height}; lower data.crop_size, or use "
                "data.transform=resize_and_crop or scale_width_and_crop"
            )
        return height, width

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """Return the image; raise UserError if it is smaller than the crop."""
        self.prepared_size(image.shape[0], image.shape[1], name)
        return image


class ScaleWidthAndCrop(_Cropped):
    """Scale to a width, then crop; raise UserError if the crop is larger than the width."""

    def __init__(self, load_size: int, crop_size: int):
        super().__init__(load_size, crop_size)
        self._check_crop_size()

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """Scale to width load_size at the same aspect ratio, but at least the crop's height."""
        height = self.load_size * image.shape[0] // image.shape[1]
        return resize(image, max(height, self.crop_size), self.load_size)


class NoCrop:
    """Round both sides to multiples of 4."""

    output_size = None

    def __init__(self, load_size: int, crop_size: int):
        self.load_size = load_size

    def prepared_size(self, height: int, width: int, name: str) -> tuple[int, int]:
        """Return both sides as multiples of 4."""
        return _multiple_of_4(height), _multiple_of_4(width)

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """Resize to `prepared_size`."""
        return resize(image, *self.prepared_size(image.shape[0], image.shape[1], name))

    def augment(self, prepared: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the image as it is."""
        return prepared

    def prepare_test(self, image: np.ndarray, name: str) -> np.ndarray:
        """Return the same as `prepare`."""
        return self.prepare(image, name)


class ScaleWidth(NoCrop):
    """Scale to a width, and round both sides to multiples of 4."""

    def prepared_size(self, height: int, width: int, name: str) -> tuple[int, int]:
        """Return width load_size and the height of the same aspect ratio, as multiples of 4."""
        return super().prepared_size(self.load_size * height // width, self.load_size, name)


# {data.transform: transform}. An entry is called with load_size=... and crop_size=..., in pixels.
TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "resize_and_crop": ResizeAndCrop,
    "crop": Crop,
    "scale_width": ScaleWidth,
    "scale_width_and_crop": ScaleWidthAndCrop,
    "none": NoCrop,
}


class DomainTransform:
    """A transform between the conversion of channels and bit depth, and a random flip.

    Args:
        transform: Transform of the converted images.
        channels: Channels of the networks' images: see `to_channels`.
        bit_depth: 8 or 16.
        flip: Mirror training images left to right with probability 1/2.
    """

    def __init__(self, transform: Transform, *, channels: int, bit_depth: int, flip: bool):
        self._transform = transform
        self._channels, self._bit_depth, self._flip = channels, bit_depth, flip
        self.output_size = transform.output_size
        self.prepared_size = getattr(transform, "prepared_size", None)

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """Convert an image, and apply the deterministic part of the training transform."""
        return self._transform.prepare(self._convert(image, name), name)

    def augment(self, prepared: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Apply the random part of the training transform, then the flip."""
        image = self._transform.augment(prepared, rng)
        return image[:, ::-1] if self._flip and rng.random() < 0.5 else image

    def prepare_test(self, image: np.ndarray, name: str) -> np.ndarray:
        """Convert an image, and apply the transform of test images."""
        return self._transform.prepare_test(self._convert(image, name), name)

    def _convert(self, image: np.ndarray, name: str) -> np.ndarray:
        return to_bit_depth(to_channels(image, self._channels, name), self._bit_depth)


def to_channels(image: np.ndarray, channels: int, name: str = "image") -> np.ndarray:
    """Convert an image to a number of channels.

    One channel is grey: colour becomes the luma of ITU-R 601 in the fixed-point form of Pillow's
    mode "L". Three channels are colour: grey is repeated. Both drop alpha.

    Args:
        image: [H, W, C], uint8 or uint16.
        channels: 1 to 4.
        name: Name of the image for messages.

    Returns:
        [H, W, channels], of the same type.

    Raises:
        UserError: `channels` is 2 or 4, and the image has another number of channels.
    """
    have = image.shape[-1]
    if channels == have:
        return image
    if channels == 1:
        if have == 2:
            return image[..., :1]
        red, green, blue = np.moveaxis(image[..., :3].astype(np.uint32), -1, 0)
        grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
        return grey.astype(image.dtype)[..., None]
    if channels == 3:
        return image[..., :3] if have > 3 else np.repeat(image[..., :1], 3, axis=-1)
    raise UserError(
        f"image {name}: expected {channels} channels, got {have}; for any kind of image, set "
        "data.channels_a and data.channels_b to 1 (grey) or 3 (colour)"
    )


def to_bit_depth(image: np.ndarray, bits: int) -> np.ndarray:
    """Convert uint8 or uint16 to 8 or 16 bits, full range to full range."""
    if bits == 8:
        return to_8_bits(image)
    return image if image.dtype == np.uint16 else image.astype(np.uint16) * np.uint16(257)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image with Pillow's antialiased bicubic filter, each channel on its own.

    Args:
        image: [H, W, C], uint8 or uint16; uint16 is resized in float32 and rounded.
        height: Height of the result.
        width: Width of the result.

    Returns:
        [height, width, C], of the same type.
    """
    if image.shape[:2] == (height, width):
        return image
    size = (width, height)
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        pil = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(pil.resize(size, Image.Resampling.BICUBIC))
    planes = []
    for plane in np.moveaxis(image, -1, 0):
        if image.dtype == np.uint8:
            pil = Image.fromarray(np.ascontiguousarray(plane))
            planes.append(np.asarray(pil.resize(size, Image.Resampling.BICUBIC)))
        else:
            pil = Image.fromarray(plane.astype(np.float32))
            values = np.asarray(pil.resize(size, Image.Resampling.BICUBIC))
            planes.append(np.clip(np.rint(values), 0, 65535).astype(np.uint16))
    return np.stack(planes, axis=-1)


def _multiple_of_4(side: int) -> int:
    """Return the nearest multiple of 4, at least 4; ties go to multiples of 8 (the original's)."""
    return max(4, round(side / 4) * 4)
