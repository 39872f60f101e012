"""Generators: ResNet and U-Net, as published with CycleGAN and pix2pix.

`GENERATORS` lists the variants by name; `build_generator` makes one.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from cyclegan_jax.errors import UserError
from cyclegan_jax.layers import Conv, Dropout, Norm, Style, UpConv, leaky_relu

Array = jax.Array


class ResidualBlock(nn.Module):
    """Two reflect-padded 3x3 convolutions around which the input is added (Johnson et al. 2016)."""

    style: Style
    dropout: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] to the same shape."""
        conv = functools.partial(
            Conv,
            x.shape[-1],
            3,
            self.style,
            padding=1,
            pad_mode="reflect",
            use_bias=not self.style.norm_replaces_bias,
        )
        y = conv(name="conv_0")(x)
        y = nn.relu(Norm(self.style, name="norm_0")(y))
        y = Dropout(self.dropout, self.style)(y)
        y = conv(name="conv_1")(y)
        return x + Norm(self.style, name="norm_1")(y)


class ResNetGenerator(nn.Module):
    """Two strided layers down, residual blocks at a quarter of the size, two layers up again.

    Height and width must be multiples of 4 and at least 8. 9 blocks at width 64 have 11,378,179
    parameters for three channels, 6 blocks 7,837,699.
    """

    channels: int
    width: int
    style: Style
    dropout: float
    blocks: int

    granularity = 4
    smallest = 8

    @property
    def mixes_pictures(self) -> bool:
        """Whether an output depends on more than its own picture and the parameters."""
        return self.dropout > 0 or self.style.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] in [-1, 1] to [B, H, W, channels] in (-1, 1), at least float32."""
        style = self.style
        bias = not style.norm_replaces_bias

        def norm_relu(y: Array, name: str) -> Array:
            return nn.relu(Norm(style, name=f"{name}_norm")(y))

        y = Conv(self.width, 7, style, padding=3, pad_mode="reflect", use_bias=bias, name="stem")(x)
        y = norm_relu(y, "stem")
        for i in range(2):
            features = self.width * 2 ** (i + 1)
            y = Conv(features, 3, style, stride=2, padding=1, use_bias=bias, name=f"down_{i}")(y)
            y = norm_relu(y, f"down_{i}")
        for i in range(self.blocks):
            y = ResidualBlock(style, self.dropout, name=f"block_{i}")(y)
        for i in range(2):
            features = self.width * 2 ** (1 - i)
            y = UpConv(features, 3, style, use_bias=bias, name=f"up_{i}")(y)
            y = norm_relu(y, f"up_{i}")
        y = Conv(self.channels, 7, style, padding=3, pad_mode="reflect", name="head")(y)
        return nn.tanh(y.astype(style.param_dtype))


class UNetGenerator(nn.Module):
    """Halved down to a few pixels and back, with skips at every size (Isola et al. 2017).

    Height and width must be multiples of 2**depth.
    """

    channels: int
    width: int
    style: Style
    dropout: float
    depth: int

    @property
    def granularity(self) -> int:
        """Sides must be multiples of this."""
        return 2**self.depth

    smallest = 1

    @property
    def mixes_pictures(self) -> bool:
        """Whether an output depends on more than its own picture and the parameters."""
        return self.dropout > 0 or self.style.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] in [-1, 1] to [B, H, W, channels] in (-1, 1), at least float32."""
        style = self.style
        bias = not style.norm_replaces_bias
        widths = [self.width * min(2**i, 8) for i in range(self.depth)]
        last = self.depth - 1

        skips = []
        y = x
        for i, features in enumerate(widths):
            # The first and the last layer down have no norm: raw pictures, and one-pixel maps.
            y = y if i == 0 else leaky_relu(y)
            y = Conv(features, 4, style, stride=2, padding=1, use_bias=bias, name=f"down_{i}")(y)
            if 0 < i < last:
                y = Norm(style, name=f"down_{i}_norm")(y)
            skips.append(y)
        for i in reversed(range(1, self.depth)):
            y = y if i == last else jnp.concatenate([skips[i], y], axis=-1)
            y = UpConv(widths[i - 1], 4, style, (1, 1), use_bias=bias, name=f"up_{i}")(nn.relu(y))
            y = Norm(style, name=f"up_{i}_norm")(y)
            if 4 <= i < last:
                y = Dropout(self.dropout, style)(y)
        y = nn.relu(jnp.concatenate([skips[0], y], axis=-1))
        y = UpConv(self.channels, 4, style, (1, 1), name="up_0")(y)
        return nn.tanh(y.astype(style.param_dtype))


Generator = ResNetGenerator | UNetGenerator

GENERATORS: dict[str, Callable[..., Generator]] = {
    "resnet3": functools.partial(ResNetGenerator, blocks=3),
    "resnet6": functools.partial(ResNetGenerator, blocks=6),
    "resnet9": functools.partial(ResNetGenerator, blocks=9),
    "unet128": functools.partial(UNetGenerator, depth=7),
    "unet256": functools.partial(UNetGenerator, depth=8),
}


def build_generator(
    variant: str, *, channels: int, width: int, style: Style, dropout: float = 0.0
) -> Generator:
    """The generator of that name, with `channels` in its output."""
    return GENERATORS[variant](channels=channels, width=width, style=style, dropout=dropout)


def check_generator_size(generator: Generator, height: int, width: int) -> None:
    """Raises UserError unless the generator can take pictures of this height and width."""
    unit, smallest = generator.granularity, max(generator.smallest, generator.granularity)
    if height % unit or width % unit or min(height, width) < smallest:
        raise UserError(
            f"pictures of {width}x{height} do not fit the generator: sides must be multiples of "
            f"{unit} and at least {smallest}"
        )
