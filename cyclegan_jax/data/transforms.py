"""What happens to an image between its file and the networks.

Training: `prepare` (always the same, so its result can be kept), then `augment` (at random).
Tests and samples: `prepare_test`, always the same. Resizing is bicubic with antialiasing, as in
the original, and every transform is one of the original's:

| transform            | prepare                         | augment     | prepare_test            |
|----------------------|---------------------------------|-------------|-------------------------|
| resize_and_crop      | to load_size x load_size        | crop, flip  | to crop_size x crop_size |
| crop                 | -                               | crop, flip  | crop from the middle    |
| scale_width          | to width load_size              | flip        | as prepare              |
| scale_width_and_crop | to width load_size              | crop, flip  | prepare, middle crop    |
| none                 | -                               | flip        | as prepare              |

The flip is here unless both images of a pair flip alike (`data.flip_alike`): then it is the
pair's, and `batches.train_batches` does it.

Scaling to a width keeps the proportions, except that before a crop the height becomes at least
crop_size. Without a crop both sides are rounded to multiples of 4 (the original does so under
"none" alone and cannot train on what scale_width then gives).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import to_8_bits

TRANSFORMS = ("resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none")
CHANNELS = (1, 2, 3, 4)
BIT_DEPTHS = (8, 16)


@dataclass(frozen=True)
class Transform:
    """The transform of one domain's images; sizes in pixels, the fields as in `config.data`.

    But `flip` is whether an image flips on its own, which it does not with `data.flip_alike`.
    """

    transform: str
    load_size: int
    crop_size: int
    flip: bool
    channels: int
    bit_depth: int

    @classmethod
    def from_config(cls, data: Any, domain: str) -> "Transform":
        """The transform of domain a or b.

        Raises:
          UserError: a field's value is not among its choices, or the crop is larger than what
            images are resized to.
        """
        channels = f"channels_{domain}"
        choices = {"transform": TRANSFORMS, channels: CHANNELS, "bit_depth": BIT_DEPTHS}
        for field, allowed in choices.items():
            if getattr(data, field) not in allowed:
                listed = ", ".join(map(str, allowed))
                raise UserError(f"data.{field}={getattr(data, field)}: expected one of {listed}")
        resized = data.transform in ("resize_and_crop", "scale_width_and_crop")
        if resized and data.crop_size > data.load_size:
            raise UserError(
                f"data.crop_size={data.crop_size} is larger than data.load_size={data.load_size}: "
                f"data.transform={data.transform} crops from what it has resized"
            )
        return cls(
            transform=data.transform,
            load_size=data.load_size,
            crop_size=data.crop_size,
            flip=data.flip and not data.flip_alike,
            channels=getattr(data, channels),
            bit_depth=data.bit_depth,
        )

    @property
    def crops(self) -> bool:
        """Whether all images come out as crop_size x crop_size."""
        return self.transform.endswith("crop")

    def prepared_size(self, height: int, width: int, name: str) -> tuple[int, int]:
        """Height and width that `prepare` gives an image of the size given.

        Raises:
          UserError: the image, called `name`, is too small for the crop.
        """
        if self.transform == "resize_and_crop":
            return self.load_size, self.load_size
        if self.transform.startswith("scale_width"):
            height, width = self.load_size * height // width, self.load_size
            if self.crops:
                height = max(height, self.crop_size)
        if not self.crops:
            return _multiple_of_4(height), _multiple_of_4(width)
        if min(height, width) < self.crop_size:
            raise UserError(
                f"image {name} is {width}x{height} pixels, smaller than "
                f"data.crop_size={self.crop_size}: lower it, or set data.transform to "
                "resize_and_crop or scale_width_and_crop"
            )
        return height, width

    def prepare(self, image: np.ndarray, name: str) -> np.ndarray:
        """The part of the training transform that is always the same.

        Args:
          image: [H, W, C], uint8 or uint16.
          name: what to call it in messages.

        Returns:
          [h, w, channels] with (h, w) from `prepared_size`, uint8 or uint16 by `bit_depth`.

        Raises:
          UserError: the image is too small for the crop or lacks channels.
        """
        height, width = self.prepared_size(image.shape[0], image.shape[1], name)
        return resize(self._convert(image, name), height, width)

    def augment(self, prepared: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The random part: a crop at any place alike, then a flip with probability 1/2.

        Returns:
          The image for the networks, a view into `prepared`.
        """
        if self.crops:
            height, width = prepared.shape[:2]
            top = rng.integers(height - self.crop_size + 1)
            left = rng.integers(width - self.crop_size + 1)
            prepared = prepared[top : top + self.crop_size, left : left + self.crop_size]
        return prepared[:, ::-1] if self.flip and rng.random() < 0.5 else prepared

    def prepare_test(self, image: np.ndarray, name: str) -> np.ndarray:
        """The whole transform of a test image; as large as training images are.

        Raises:
          UserError: as `prepare`.
        """
        if self.transform == "resize_and_crop":
            return resize(self._convert(image, name), self.crop_size, self.crop_size)
        prepared = self.prepare(image, name)
        if not self.crops:
            return prepared
        top, left = ((side - self.crop_size) // 2 for side in prepared.shape[:2])
        return prepared[top : top + self.crop_size, left : left + self.crop_size]

    def _convert(self, image: np.ndarray, name: str) -> np.ndarray:
        return to_bit_depth(to_channels(image, self.channels, name), self.bit_depth)


def to_channels(image: np.ndarray, channels: int, name: str = "image") -> np.ndarray:
    """An image with the number of channels asked for.

    One channel is grey: of colour, the luma of ITU-R 601 in the fixed-point form of Pillow's
    mode "L". Three are colour: grey is repeated. Alpha is left out in both. Other numbers are
    taken as they are.

    Args:
      image: [H, W, C], uint8 or uint16.
      channels: from 1 to 4.
      name: what to call the image in messages.

    Returns:
      [H, W, channels], of the same type.

    Raises:
      UserError: 2 or 4 channels are asked for and the image has another number.
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
        f"image {name} has {have} channels and {channels} are expected: "
        "data.channels_a and data.channels_b can be 1 (grey) or 3 (colour) for any image"
    )


def to_bit_depth(image: np.ndarray, bits: int) -> np.ndarray:
    """uint8 or uint16 to what `bits` says; the full range of one becomes that of the other."""
    if bits == 8:
        return to_8_bits(image)
    return image if image.dtype == np.uint16 else image.astype(np.uint16) * np.uint16(257)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic with antialiasing (Pillow's); uint16 is computed in float32 and rounded.

    Channels are resized each on its own, so alpha does not weigh colours.

    Args:
      image: [H, W, C], uint8 or uint16.
      height: of the result.
      width: of the result.

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
    """The nearest multiple, at least 4; halves go to the even multiple, as in the original."""
    return max(4, round(side / 4) * 4)
