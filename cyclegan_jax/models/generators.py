"""Generators: the ResNets and U-Nets of CycleGAN, pix2pix and later systems."""

import functools
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from cyclegan_jax.models.forward import Activation, Block, Ops, X
from cyclegan_jax.models.layers import (
    Conv,
    LayerConfig,
    ResizeConv,
    UpConv,
    leaky_relu,
)
from cyclegan_jax.models.protocol import ForwardGenerator

LayerFactory = Callable[..., Any]


class ResidualBlock(Block):
    """Reflection-padded 3x3 convolutions with a skip connection (Johnson et al. 2016).

    Every convolution has a norm; the activation and dropout follow the first.
    """

    channels: int
    dropout: float
    convolutions: int
    activation: Activation

    def forward(self, ops: Ops[X], x: X) -> X:
        """Map [B, H, W, C] to the same shape."""
        conv = functools.partial(
            Conv,
            self.channels,
            3,
            self.config,
            padding=1,
            pad_mode="reflect",
            use_bias=self.config.bias_before_norm,
        )
        y = x
        for i in range(self.convolutions):
            first = i == 0
            y = ops.layer(
                y,
                conv,
                f"conv_{i}",
                norm=f"norm_{i}",
                activation=self.activation if first else None,
                dropout=self.dropout if first else 0.0,
            )
        return ops.add(x, y)


class ResNetGenerator(ForwardGenerator):
    """Strided convolutions, residual blocks at the lowest resolution, and upsampling again.

    Height and width must be multiples of 2**levels, and at least twice that. With two levels and
    width 64, 9 blocks have 11,378,179 parameters for three channels, 6 blocks 7,837,699.

    Attributes:
        channels: Channels of the output.
        config: Settings of all layers.
        width: Channels of the first layer, doubled on each level.
        blocks: Number of residual blocks.
        dropout: Rate inside the blocks.
        levels: Number of downsampling, and of upsampling, layers.
        block_convolutions: Convolutions of a block: 2 as published, or 1.
        activation: Activation between layers.
        down: Partial of the downsampling layer.
        up: Partial of the upsampling layer.
        outer_bias: Whether layers outside the blocks have a bias; the last always has.
        remat: Whether gradients recompute layers and blocks instead of storing their activations:
            less memory for a third more computation.
    """

    config: LayerConfig
    width: int
    blocks: int
    dropout: float = 0.0
    levels: int = 2
    block_convolutions: int = 2
    activation: Activation = nn.relu
    down: LayerFactory = functools.partial(Conv, size=3, stride=2, padding=1)
    up: LayerFactory = functools.partial(UpConv, size=3)
    outer_bias: bool = True
    remat: bool = False

    supports_tiling = True

    @property
    def granularity(self) -> int:
        """Height and width must be multiples of this."""
        return 2**self.levels

    @property
    def smallest(self) -> int:
        """Least side: reflection padding in the blocks needs two pixels."""
        return 2 * self.granularity

    def forward(self, ops: Ops[X], x: X) -> X:
        """Apply the network by means of `ops`."""
        config, act = self.config, self.activation
        bias = self.outer_bias and config.bias_before_norm
        widths = [self.width * 2**i for i in range(self.levels + 1)]
        end = functools.partial(Conv, size=7, config=config, padding=3, pad_mode="reflect")
        down = functools.partial(self.down, config=config, use_bias=bias)
        block = functools.partial(
            ResidualBlock, config, widths[-1], self.dropout, self.block_convolutions, act
        )
        up = functools.partial(self.up, config=config, use_bias=bias)

        stem = functools.partial(end, widths[0], use_bias=bias)
        x = ops.layer(x, stem, "stem", norm="stem_norm", activation=act)
        for i, n in enumerate(widths[1:]):
            layer = functools.partial(down, n)
            x = ops.layer(x, layer, f"down_{i}", norm=f"down_{i}_norm", activation=act)
        for i in range(self.blocks):
            x = ops.block(x, block, f"block_{i}")
        for i, n in enumerate(reversed(widths[:-1])):
            layer = functools.partial(up, n)
            x = ops.layer(x, layer, f"up_{i}", norm=f"up_{i}_norm", activation=act)
        x = ops.layer(x, functools.partial(end, self.channels), "head")
        return ops.output(x)


class UNetGenerator(ForwardGenerator):
    """Encoder and decoder with skip connections at every resolution (Isola et al. 2017).

    Height and width must be multiples of 2**depth.

    Attributes:
        channels: Channels of the output.
        config: Settings of all layers.
        width: Channels of the first layer, doubled on each level up to eightfold.
        depth: Number of downsampling, and of upsampling, layers.
        dropout: Rate in the inner layers of the decoder.
        remat: As in `ResNetGenerator`, by layers.
    """

    config: LayerConfig
    width: int
    depth: int
    dropout: float = 0.0
    remat: bool = False

    @property
    def granularity(self) -> int:
        """Height and width must be multiples of this."""
        return 2**self.depth

    def forward(self, ops: Ops[X], x: X) -> X:
        """Apply the network by means of `ops`."""
        config, last = self.config, self.depth - 1
        bias = config.bias_before_norm
        down = functools.partial(Conv, size=4, config=config, stride=2, padding=1, use_bias=bias)
        up = functools.partial(UpConv, size=4, config=config, crop=(1, 1))
        widths = [self.width * min(2**i, 8) for i in range(self.depth)]

        skips: list[X] = []
        for i, n in enumerate(widths):
            # The first and the last layer have no norm: they see raw images and one-pixel maps.
            x = ops.layer(
                x,
                functools.partial(down, n),
                f"down_{i}",
                norm=f"down_{i}_norm" if 0 < i < last else None,
                pre_activation=None if i == 0 else leaky_relu,
            )
            skips.append(x)
        for i in reversed(range(1, self.depth)):
            x = ops.layer(
                x if i == last else [skips[i], x],
                functools.partial(up, widths[i - 1], use_bias=bias),
                f"up_{i}",
                norm=f"up_{i}_norm",
                pre_activation=nn.relu,
                dropout=self.dropout if 4 <= i < last else 0.0,
            )
        head = functools.partial(up, self.channels)
        x = ops.layer([skips[0], x], head, "up_0", pre_activation=nn.relu)
        return ops.output(x)


_resnet9 = functools.partial(ResNetGenerator, blocks=9)
# Keras and Paddle: strided layers padded as "same", whose transpose drops the last row and column.
_down_same = functools.partial(Conv, size=3, stride=2, padding="same")
_up_same = functools.partial(UpConv, size=3, crop=(0, 1))
_down_reflect = functools.partial(Conv, size=3, stride=2, padding=1, pad_mode="reflect")
_up_resize = functools.partial(ResizeConv, size=3, padding=1)
_up_resize_reflect = functools.partial(ResizeConv, size=3, padding=1, pad_mode="reflect")

# Generators by name; see `protocol.Generator` for what an entry is called with.
GENERATORS: dict[str, Callable[..., Any]] = {
    "resnet3": functools.partial(ResNetGenerator, blocks=3),
    "resnet6": functools.partial(ResNetGenerator, blocks=6),
    "resnet9": _resnet9,
    "resnet9_reflect": functools.partial(_resnet9, down=_down_reflect),
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
