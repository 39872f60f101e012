"""Generators: the ResNets and U-Nets of CycleGAN, pix2pix and the systems that followed.

`GENERATORS` lists the variants by name; `build_generator` makes one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cyclegan_jax.models.layers import Conv, Dropout, Norm, ResizeConv, Style, UpConv, leaky_relu
from cyclegan_jax.utils.errors import UserError

Array = jax.Array
Layer = Callable[..., Any]
Activation = Callable[[Array], Array]


def _stage(network: "Generator", compute: Callable[..., Array], *inputs: Array) -> Array:
    """What layers of the network make of the inputs; with its `remat`, gradients redo it.

    Args:
        network: the one whose `__call__` this is part of.
        compute: (network, *inputs) -> output; it names the layers that it makes.
        inputs: all that gradients keep with `remat`.
    """
    return (nn.remat(compute) if network.remat else compute)(network, *inputs)


class ResidualBlock(nn.Module):
    """Reflect-padded 3x3 convolutions around which the input is added (Johnson et al. 2016).

    Every convolution has a norm; the activation, and dropout where there is any, follow the first.
    """

    style: Style
    dropout: float
    convolutions: int
    activation: Activation

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] to the same shape."""
        y = x
        for i in range(self.convolutions):
            y = Conv(
                x.shape[-1],
                3,
                self.style,
                padding=1,
                pad_mode="reflect",
                use_bias=not self.style.norm_replaces_bias,
                normed=True,
                name=f"conv_{i}",
            )(y)
            y = Norm(self.style, name=f"norm_{i}")(y)
            if i == 0:
                y = Dropout(self.dropout, self.style)(self.activation(y))
        return x + y


class ResNetGenerator(nn.Module):
    """Strided layers down, residual blocks at the smallest size, as many layers up again.

    Height and width must be multiples of 2**levels, and at least twice that. With two levels at
    width 64, 9 blocks have 11,378,179 parameters for three channels, 6 blocks 7,837,699.

    Attributes:
        channels: of the output.
        width: channels of the first layer, doubled on each level.
        style: what all layers have in common.
        dropout: rate inside the blocks.
        blocks: residual blocks.
        levels: halvings, and doublings.
        block_convolutions: in each block, 2 as published or 1.
        activation: between layers.
        down: makes a strided layer.
        up: makes a layer that doubles.
        outer_bias: whether layers outside the blocks have an offset; the last always has.
        remat: whether gradients recompute what is inside a layer with its norm, or a block, instead
            of keeping it: less memory for a third more work.
    """

    channels: int
    width: int
    style: Style
    dropout: float
    blocks: int
    levels: int = 2
    block_convolutions: int = 2
    activation: Activation = nn.relu
    down: Layer = functools.partial(Conv, size=3, stride=2, padding=1)
    up: Layer = functools.partial(UpConv, size=3)
    outer_bias: bool = True
    remat: bool = False

    @property
    def granularity(self) -> int:
        """Sides must be multiples of this."""
        return 2**self.levels

    @property
    def smallest(self) -> int:
        """Least side: a reflect-padded block needs two pixels."""
        return 2 * self.granularity

    @property
    def mixes_images(self) -> bool:
        """Whether an output depends on more than its own image and the parameters."""
        return self.dropout > 0 or self.style.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] in [-1, 1] to [B, H, W, channels] in (-1, 1), at least float32."""
        style = self.style
        bias = self.outer_bias and not style.norm_replaces_bias
        widths = [self.width * 2**i for i in range(self.levels + 1)]
        end = functools.partial(Conv, size=7, padding=3, pad_mode="reflect")
        block = functools.partial(
            ResidualBlock, style, self.dropout, self.block_convolutions, self.activation
        )

        def layer(make: Layer, features: int, name: str, y: Array) -> Array:
            def compute(_: nn.Module, y: Array) -> Array:
                y = make(features, style=style, use_bias=bias, normed=True, name=name)(y)
                return self.activation(Norm(style, name=f"{name}_norm")(y))

            return _stage(self, compute, y)

        y = layer(end, widths[0], "stem", x)
        for i, features in enumerate(widths[1:]):
            y = layer(self.down, features, f"down_{i}", y)
        for i in range(self.blocks):
            y = _stage(self, lambda _, y, i=i: block(name=f"block_{i}")(y), y)
        for i, features in enumerate(reversed(widths[:-1])):
            y = layer(self.up, features, f"up_{i}", y)
        y = end(self.channels, style=style, name="head")(y)
        return nn.tanh(y.astype(style.param_dtype))


class UNetGenerator(nn.Module):
    """Halved down to a few pixels and back, with skips at every size (Isola et al. 2017).

    Height and width must be multiples of 2**depth. `remat` is that of `ResNetGenerator`, by levels.
    """

    channels: int
    width: int
    style: Style
    dropout: float
    depth: int
    remat: bool = False

    @property
    def granularity(self) -> int:
        """Sides must be multiples of this."""
        return 2**self.depth

    smallest = 1

    @property
    def mixes_images(self) -> bool:
        """Whether an output depends on more than its own image and the parameters."""
        return self.dropout > 0 or self.style.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] in [-1, 1] to [B, H, W, channels] in (-1, 1), at least float32."""
        style = self.style
        bias = not style.norm_replaces_bias
        widths = [self.width * min(2**i, 8) for i in range(self.depth)]
        last = self.depth - 1

        def down(i: int, _: nn.Module, y: Array) -> Array:
            # The first and the last layer down have no norm: raw images, and one-pixel maps.
            y = y if i == 0 else leaky_relu(y)
            normed = 0 < i < last
            conv = functools.partial(Conv, widths[i], 4, style, stride=2, padding=1)
            y = conv(use_bias=bias, normed=normed, name=f"down_{i}")(y)
            return Norm(style, name=f"down_{i}_norm")(y) if normed else y

        def up(i: int, _: nn.Module, *inputs: Array) -> Array:
            y = nn.relu(jnp.concatenate(inputs, axis=-1))
            conv = functools.partial(UpConv, widths[i - 1], 4, style, (1, 1))
            y = conv(use_bias=bias, normed=True, name=f"up_{i}")(y)
            y = Norm(style, name=f"up_{i}_norm")(y)
            return Dropout(self.dropout, style)(y) if 4 <= i < last else y

        y, skips = x, []
        for i in range(self.depth):
            y = _stage(self, functools.partial(down, i), y)
            skips.append(y)
        for i in reversed(range(1, self.depth)):
            inputs = (y,) if i == last else (skips[i], y)
            y = _stage(self, functools.partial(up, i), *inputs)
        y = nn.relu(jnp.concatenate([skips[0], y], axis=-1))
        y = UpConv(self.channels, 4, style, (1, 1), name="up_0")(y)
        return nn.tanh(y.astype(style.param_dtype))


Generator = ResNetGenerator | UNetGenerator

_resnet9 = functools.partial(ResNetGenerator, blocks=9)
# Keras and Paddle: strided layers padded as "same", whose transpose drops the last row and column.
_down_same = functools.partial(Conv, size=3, stride=2, padding="same")
_up_same = functools.partial(UpConv, size=3, crop=(0, 1))
_up_resize = functools.partial(ResizeConv, size=3, padding=1)
_up_resize_reflect = functools.partial(ResizeConv, size=3, padding=1, pad_mode="reflect")

GENERATORS: dict[str, Callable[..., Generator]] = {
    "resnet3": functools.partial(ResNetGenerator, blocks=3),
    "resnet6": functools.partial(ResNetGenerator, blocks=6),
    "resnet9": _resnet9,
    "resnet9_reflect": functools.partial(
        _resnet9, down=functools.partial(Conv, size=3, stride=2, padding=1, pad_mode="reflect")
    ),
    "resnet9_resize": functools.partial(_resnet9, up=_up_resize),
    "resnet9_same": functools.partial(_resnet9, down=_down_same, up=_up_same),
    "resnet9_same_resize": functools.partial(_resnet9, down=_down_same, up=_up_resize_reflect),
    "resnet9_same_deep": functools.partial(_resnet9, down=_down_same, up=_up_same, levels=3),
    "resnet7_single": functools.partial(
        ResNetGenerator,
        blocks=7,
        block_convolutions=1,
        activation=leaky_relu,
        up=_up_same,
        outer_bias=False,
    ),
    "unet128": functools.partial(UNetGenerator, depth=7),
    "unet256": functools.partial(UNetGenerator, depth=8),
}


def build_generator(
    variant: str,
    *,
    channels: int,
    width: int,
    style: Style,
    dropout: float = 0.0,
    blocks: int | None = None,
    remat: bool = False,
) -> Generator:
    """The generator of that name, with `channels` in its output.

    Args:
        variant: one of `GENERATORS`.
        channels: of the images it makes.
        width: channels of its first layer.
        style: what all its layers have in common.
        dropout: rate, 0 for none.
        blocks: residual blocks, where not those of the variant; not for U-Nets.
        remat: whether gradients recompute layers instead of keeping what is inside them.
    """
    changes = {} if blocks is None else {"blocks": blocks}
    return GENERATORS[variant](
        channels=channels, width=width, style=style, dropout=dropout, remat=remat, **changes
    )


def has_blocks(variant: str) -> bool:
    """Whether a variant has residual blocks, whose number can be chosen."""
    return not variant.startswith("unet")


def check_generator_size(generator: Generator, height: int, width: int) -> None:
    """Raises UserError unless the generator can take images of this height and width."""
    unit, smallest = generator.granularity, max(generator.smallest, generator.granularity)
    if height % unit or width % unit or min(height, width) < smallest:
        raise UserError(
            f"images of {width}x{height} do not fit the generator: sides must be multiples of "
            f"{unit} and at least {smallest}"
        )
