"""Registry of transforms, which turn images of files into images for the networks.

Training images are transformed in two parts: `prepare` is deterministic, so its result is cached,
and `augment` is random. Test images and samples use `prepare_test`. Resizing is that of Pillow,
with antialiasing, by `data.interpolation`. A crop is `data.crop_size` high and `data.crop_width`
wide, or a square. The registered transforms are those of the original implementation, and one more:

| name                   | prepare                         | augment    | prepare_test         |
|------------------------|---------------------------------|------------|----------------------|
| resize_and_crop        | resize to load_size x load_size | crop, flip | resize to the crop   |
| crop                   | -                               | crop, flip | center crop          |
| scale_width            | scale to width load_size        | flip       | prepare              |
| scale_width_and_crop   | scale to width load_size        | crop, flip | prepare, center crop |
| scale_shorter_and_crop | scale shorter side to load_size | crop, flip | prepare, center crop |
| none                   | -                               | flip       | prepare              |

`scale_width_and_crop` scales to a height of at least that of the crop. `scale_width` and `none`
round both sides to multiples of 4; the original does so in `none` alone, and cannot train on the
sizes that its `scale_width` returns. `scale_shorter_and_crop` is that of a later system, which
crops and flips its test images at random, too; here, metrics do not depend on chance.

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

# {data.interpolation: filter of Pillow}
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


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

    def __init__(
        self,
        load_size: int,
        crop_size: int,
        crop_width: int | None = None,
        interpolation: str = "bicubic",
    ):
        self.load_size, self.interpolation = load_size, interpolation
        self.output_size = crop_size, crop_width or crop_size
        side = self._limited_side()
        if side > load_size:
            field = "crop_size" if side == crop_size else "crop_width"
            raise UserError(
                f"data.{field}: expected at most data.load_size={load_size}, got {side}"
            )

    def _limited_side(self) -> int:
        """Return the side of a crop that must not be larger than load_size."""
        return 0

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        raise NotImplementedError

    def augment(self, prepared: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left = (int(rng.integers(space + 1)) for space in self._space(prepared))
        return self._crop(prepared, top, left)

    def prepare_test(self, image: np.ndarray, name: str) -> np.ndarray:
        prepared = self.prepare(image, name)
        top, left = (space // 2 for space in self._space(prepared))
        return self._crop(prepared, top, left)

    def _space(self, image: np.ndarray) -> tuple[int, int]:
        """Return the rows and columns of an image beyond those of a crop."""
        return image.shape[0] - self.output_size[0], image.shape[1] - self.output_size[1]

    def _crop(self, image: np.ndarray, top: int, left: int) -> np.ndarray:
        height, width = self.output_size
        return image[top : top + height, left : left + width]

    def _resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        return resize(image, height, width, self.interpolation)

    def _check_contains_crop(self, name: str, height: int, width: int, advice: str) -> None:
        """Raise UserError if a crop does not fit into an image of this size."""
        crop_height, crop_width = self.output_size
        if height < crop_height or width < crop_width:
            expected = f"data.crop_size={crop_height} pixels in width and height"
            if crop_width != crop_height:
                expected = f"data.crop_width={crop_width} by data.crop_size={crop_height} pixels"
            raise UserError(
                f"image {name}: expected at least {expected}, got {width}x{height}; lower "
                f"data.crop_size, {advice}"
            )


class ResizeAndCrop(_Cropped):
    """Resize to a square, then crop; raise UserError if the crop is larger than the square."""

    def _limited_side(self) -> int:
        return max(self.output_size)

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """Resize to load_size x load_size."""
        return self._resize(image, self.load_size, self.load_size)

    def prepare_test(self, image: np.ndarray, name: str) -> np.ndarray:
        """Resize to the size of the crop."""
        return self._resize(image, *self.output_size)


class Crop(_Cropped):
    """Crop without resizing."""

    def prepared_size(self, height: int, width: int, name: str) -> tuple[int, int]:
        """Return the size of an image; raise UserError if it is smaller than the crop."""
        advice = "or use data.transform=resize_and_crop or scale_width_and_crop"
        self._check_contains_crop(name, height, width, advice)
        return height, width

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """Return the image; raise UserError if it is smaller than the crop."""
        self.prepared_size(image.shape[0], image.shape[1], name)
        return image


class ScaleWidthAndCrop(_Cropped):
    """Scale to a width, then crop; raise UserError if the crop is wider."""

    def _limited_side(self) -> int:
        return self.output_size[1]

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """Scale to width load_size at the same aspect ratio, but at least the crop's height."""
        height = self.load_size * image.shape[0] // image.shape[1]
        return self._resize(image, max(height, self.output_size[0]), self.load_size)


class ScaleShorterAndCrop(_Cropped):
    """Scale the shorter side, then crop; raise UserError if no image can contain the crop."""

    def _limited_side(self) -> int:
        return min(self.output_size)

    def prepared_size(self, height: int, width: int, name: str) -> tuple[int, int]:
        """Return load_size for the shorter side, and the other, rounded down, in proportion.

        Raises:
            UserError: The crop does not fit into that size.
        """
        shorter = min(height, width)
        scaled = self.load_size * height // shorter, self.load_size * width // shorter
        self._check_contains_crop(f"{name}, scaled", *scaled, "or raise data.load_size")
        return scaled

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """Resize to `prepared_size`."""
        return self._resize(image, *self.prepared_size(image.shape[0], image.shape[1], name))


class NoCrop:
    """Round both sides to multiples of 4."""

    output_size = None

    def __init__(self, load_size: int, crop_size: int, interpolation: str = "bicubic"):
        self.load_size, self.interpolation = load_size, interpolation

    def prepared_size(self, height: int, width: int, name: str) -> tuple[int, int]:
        """Return both sides as multiples of 4."""
        return _multiple_of_4(height), _multiple_of_4(width)

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """Resize to `prepared_size`."""
        size = self.prepared_size(image.shape[0], image.shape[1], name)
        return resize(image, *size, self.interpolation)

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


# {data.transform: transform}. An entry is called with load_size=... and crop_size=..., in pixels,
# and with crop_width=... (None: crop_size) and interpolation=... if it takes them.
TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "resize_and_crop": ResizeAndCrop,
    "crop": Crop,
    "scale_width": ScaleWidth,
    "scale_width_and_crop": ScaleWidthAndCrop,
    "scale_shorter_and_crop": ScaleShorterAndCrop,
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


def resize(
    image: np.ndarray, height: int, width: int, interpolation: str = "bicubic"
) -> np.ndarray:
    """Resize an image with a filter of Pillow, antialiased, each channel on its own.

    Args:
        image: [H, W, C], uint8 or uint16; uint16 is resized in float32 and rounded.
        height: Height of the result.
        width: Width of the result.
        interpolation: A name in `INTERPOLATIONS`.

    Returns:
        [height, width, C], of the same type.
    """
    if image.shape[:2] == (height, width):
        return image
    size, resample = (width, height), INTERPOLATIONS[interpolation]
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        pil = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(pil.resize(size, resample))
    planes = []
    for plane in np.moveaxis(image, -1, 0):
        if image.dtype == np.uint8:
            pil = Image.fromarray(np.ascontiguousarray(plane))
            planes.append(np.asarray(pil.resize(size, resample)))
        else:
            values = np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, resample))
            planes.append(np.clip(np.rint(values), 0, 65535).astype(np.uint16))
    return np.stack(planes, axis=-1)


def _multiple_of_4(side: int) -> int:
    """Return the nearest multiple of 4, at least 4; ties go to multiples of 8 (the original's)."""
    return max(4, round(side / 4) * 4)
