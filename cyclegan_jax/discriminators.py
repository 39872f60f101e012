"""Discriminators: PatchGAN and its one-pixel form, as published with pix2pix and CycleGAN.

`DISCRIMINATORS` lists the variants by name; `build_discriminator` makes one.
"""

import jax
from flax import linen as nn

from cyclegan_jax.errors import UserError
from cyclegan_jax.layers import Conv, Norm, Style, leaky_relu

Array = jax.Array


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches: 70x70 pixels with three strided layers (Isola et al. 2017).

    At width 64 and three layers there are 2,764,737 parameters for three channels, and a picture of
    256x256 gets 30x30 scores.
    """

    width: int
    style: Style
    layers: int

    @property
    def smallest(self) -> int:
        """Least side of a picture that gives one score."""
        return 3 * 2**self.layers

    @property
    def mixes_pictures(self) -> bool:
        """Whether an output depends on more than its own picture and the parameters."""
        return self.style.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] in [-1, 1] to unbounded scores [B, H', W', 1], at least float32."""
        style = self.style
        bias = not style.norm_replaces_bias
        y = leaky_relu(Conv(self.width, 4, style, stride=2, padding=1, name="conv_0")(x))
        for i in range(1, self.layers + 1):
            features = self.width * min(2**i, 8)
            stride = 2 if i < self.layers else 1
            y = Conv(features, 4, style, stride=stride, padding=1, use_bias=bias, name=f"conv_{i}")(
                y
            )
            y = leaky_relu(Norm(style, name=f"norm_{i}")(y))
        y = Conv(1, 4, style, padding=1, name=f"conv_{self.layers + 1}")(y)
        return y.astype(style.param_dtype)


class PixelDiscriminator(nn.Module):
    """Scores every pixel by itself: three 1x1 convolutions."""

    width: int
    style: Style

    smallest = 1

    @property
    def mixes_pictures(self) -> bool:
        """Whether an output depends on more than its own picture and the parameters."""
        return self.style.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] in [-1, 1] to unbounded scores [B, H, W, 1], at least float32."""
        style = self.style
        bias = not style.norm_replaces_bias
        y = leaky_relu(Conv(self.width, 1, style, name="conv_0")(x))
        y = Conv(2 * self.width, 1, style, use_bias=bias, name="conv_1")(y)
        y = leaky_relu(Norm(style, name="norm_1")(y))
        y = Conv(1, 1, style, use_bias=bias, name="conv_2")(y)
        return y.astype(style.param_dtype)


DISCRIMINATORS = ("patch", "pixel")


def build_discriminator(
    variant: str, *, width: int, style: Style, layers: int = 3
) -> PatchDiscriminator | PixelDiscriminator:
    """The discriminator of that name; `layers` counts the strided layers of `patch`."""
    if variant == "pixel":
        return PixelDiscriminator(width, style)
    return PatchDiscriminator(width, style, layers)


def check_discriminator_size(
    discriminator: PatchDiscriminator | PixelDiscriminator, height: int, width: int
) -> None:
    """Raises UserError unless a picture of this height and width gets at least one score."""
    smallest = discriminator.smallest
    if min(height, width) < smallest:
        raise UserError(
            f"pictures of {width}x{height} are too small for the discriminator: sides must be at "
            f"least {smallest} (or set fewer discriminator.layers)"
        )
