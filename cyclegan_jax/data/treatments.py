"""What happens to a picture between its file and the networks.

Training: `prepare` (always the same, so its result can be kept), then `augment` (at random).
Tests and samples: `prepare_test`, always the same. Resizing is bicubic with antialiasing, as in
the original, and every treatment is one of the original's:

| treatment            | prepare                         | augment     | prepare_test            |
|----------------------|---------------------------------|-------------|-------------------------|
| resize_and_crop      | to load_size x load_size        | crop, flip  | to crop_size x crop_size |
| crop                 | -                               | crop, flip  | crop from the middle    |
| scale_width          | to width load_size              | flip        | as prepare              |
| scale_width_and_crop | to width load_size              | crop, flip  | prepare, middle crop    |
| none                 | -                               | flip        | as prepare              |

The flip is here unless both pictures of a pair flip alike (`data.flip_alike`): then it is the
pair's, and `batches.train_batches` does it.

Scaling to a width keeps the proportions, except that before a crop the height becomes at least
crop_size. Without a crop both sides are rounded to multiples of 4 (the original does so under
"none" alone and cannot train on what scale_width then gives).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cyclegan_jax.errors import UserError
from cyclegan_jax.images import to_8_bits

TREATMENTS = ("resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none")
CHANNELS = (1, 2, 3, 4)
BIT_DEPTHS = (8, 16)


@dataclass(frozen=True)
class Treatment:
    """The treatment of one domain's pictures; sizes in pixels, the fields as in `config.data`.

    But `flip` is whether a picture flips on its own, which it does not with `data.flip_alike`.
    """

    treatment: str
    load_size: int
    crop_size: int
    flip: bool
    channels: int
    bit_depth: int

    @classmethod
    def from_config(cls, data: Any, domain: str) -> "Treatment":
        """The treatment of domain a or b.

        Raises:
          UserError: a field's value is not among its choices, or the crop is larger than what
            pictures are resized to.
        """
        channels = f"channels_{domain}"
        choices = {"treatment": TREATMENTS, channels: CHANNELS, "bit_depth": BIT_DEPTHS}
        for field, allowed in choices.items():
            if getattr(data, field) not in allowed:
                listed = ", ".join(map(str, allowed))
                raise UserError(f"data.{field}={getattr(data, field)}: expected one of {listed}")
        resized = data.treatment in ("resize_and_crop", "scale_width_and_crop")
        if resized and data.crop_size > data.load_size:
            raise UserError(
                f"data.crop_size={data.crop_size} is larger than data.load_size={data.load_size}: "
                f"data.treatment={data.treatment} crops from what it has resized"
            )
        return cls(
            treatment=data.treatment,
            load_size=data.load_size,
            crop_size=data.crop_size,
            flip=data.flip and not data.flip_alike,
            channels=getattr(data, channels),
            bit_depth=data.bit_depth,
        )

    @property
    def crops(self) -> bool:
        """Whether all pictures come out as crop_size x crop_size."""
        return self.treatment.endswith("crop")

    def prepared_size(self, height: int, width: int, name: str) -> tuple[int, int]:
        """Height and width that `prepare` gives a picture of the size given.

        Raises:
          UserError: the picture, called `name`, is too small for the crop.
        """
        if self.treatment == "resize_and_crop":
            return self.load_size, self.load_size
        if self.treatment.startswith("scale_width"):
            height, width = self.load_size * height // width, self.load_size
            if self.crops:
                height = max(height, self.crop_size)
        if not self.crops:
            return _multiple_of_4(height), _multiple_of_4(width)
        if min(height, width) < self.crop_size:
            raise UserError(
                f"picture {name} is {width}x{height} pixels, smaller than "
                f"data.crop_size={self.crop_size}: lower it, or set data.treatment to "
                "resize_and_crop or scale_width_and_crop"
            )
        return height, width

    def prepare(self, picture: np.ndarray, name: str) -> np.ndarray:
        """The part of the training treatment that is always the same.

        Args:
          picture: [H, W, C], uint8 or uint16.
          name: what to call it in messages.

        Returns:
          [h, w, channels] with (h, w) from `prepared_size`, uint8 or uint16 by `bit_depth`.

        Raises:
          UserError: the picture is too small for the crop or lacks channels.
        """
        height, width = self.prepared_size(picture.shape[0], picture.shape[1], name)
        return resize(self._convert(picture, name), height, width)

    def augment(self, prepared: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The random part: a crop at any place alike, then a flip with probability 1/2.

        Returns:
          The picture for the networks, a view into `prepared`.
        """
        if self.crops:
            height, width = prepared.shape[:2]
            top = rng.integers(height - self.crop_size + 1)
            left = rng.integers(width - self.crop_size + 1)
            prepared = prepared[top : top + self.crop_size, left : left + self.crop_size]
        return prepared[:, ::-1] if self.flip and rng.random() < 0.5 else prepared

    def prepare_test(self, picture: np.ndarray, name: str) -> np.ndarray:
        """The whole treatment of a test picture; as large as training pictures are.

        Raises:
          UserError: as `prepare`.
        """
        if self.treatment == "resize_and_crop":
            return resize(self._convert(picture, name), self.crop_size, self.crop_size)
        prepared = self.prepare(picture, name)
        if not self.crops:
            return prepared
        top, left = ((side - self.crop_size) // 2 for side in prepared.shape[:2])
        return prepared[top : top + self.crop_size, left : left + self.crop_size]

    def _convert(self, picture: np.ndarray, name: str) -> np.ndarray:
        return to_bit_depth(to_channels(picture, self.channels, name), self.bit_depth)


def to_channels(picture: np.ndarray, channels: int, name: str = "picture") -> np.ndarray:
    """A picture with the number of channels asked for.

    One channel is grey: of colour, the luma of ITU-R 601 in the fixed-point form of Pillow's
    mode "L". Three are colour: grey is repeated. Alpha is left out in both. Other numbers are
    taken as they are.

    Args:
      picture: [H, W, C], uint8 or uint16.
      channels: from 1 to 4.
      name: what to call the picture in messages.

    Returns:
      [H, W, channels], of the same type.

    Raises:
      UserError: 2 or 4 channels are asked for and the picture has another number.
    """
    have = picture.shape[-1]
    if channels == have:
        return picture
    if channels == 1:
        if have == 2:
            return picture[..., :1]
        red, green, blue = np.moveaxis(picture[..., :3].astype(np.uint32), -1, 0)
        grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
        return grey.astype(picture.dtype)[..., None]
    if channels == 3:
        return picture[..., :3] if have > 3 else np.repeat(picture[..., :1], 3, axis=-1)
    raise UserError(
        f"picture {name} has {have} channels and {channels} are expected: "
        "data.channels_a and data.channels_b can be 1 (grey) or 3 (colour) for any picture"
    )


def to_bit_depth(picture: np.ndarray, bits: int) -> np.ndarray:
    """uint8 or uint16 to what `bits` says; the full range of one becomes that of the other."""
    if bits == 8:
        return to_8_bits(picture)
    return picture if picture.dtype == np.uint16 else picture.astype(np.uint16) * np.uint16(257)


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic with antialiasing (Pillow's); uint16 is computed in float32 and rounded.

    Channels are resized each on its own, so alpha does not weigh colours.

    Args:
      picture: [H, W, C], uint8 or uint16.
      height: of the result.
      width: of the result.

    Returns:
      [height, width, C], of the same type.
    """
    if picture.shape[:2] == (height, width):
        return picture
    size = (width, height)
    if picture.dtype == np.uint8 and picture.shape[-1] == 3:
        image = Image.fromarray(np.ascontiguousarray(picture))
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    planes = []
    for plane in np.moveaxis(picture, -1, 0):
        if picture.dtype == np.uint8:
            image = Image.fromarray(np.ascontiguousarray(plane))
            planes.append(np.asarray(image.resize(size, Image.Resampling.BICUBIC)))
        else:
            image = Image.fromarray(plane.astype(np.float32))
            values = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
            planes.append(np.clip(np.rint(values), 0, 65535).astype(np.uint16))
    return np.stack(planes, axis=-1)


def _multiple_of_4(side: int) -> int:
    """The nearest multiple, at least 4; halves go to the even multiple, as in the original."""
    return max(4, round(side / 4) * 4)
