"""Networks of the published CycleGAN in PyTorch, written plainly.

Parameters have the published names, so that files of the original can be loaded. Images are
[B, C, H, W] in [-1, 1]; a configuration is any object with the attributes of `configs/default.py`.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

RESNET_BLOCKS = {"resnet3": 3, "resnet6": 6, "resnet9": 9}
UNET_DEPTHS = {"unet128": 7, "unet256": 8}


def make_norm(kind: str, channels: int) -> nn.Module:
    """Build instance norm without scale and bias, batch norm with both, or the identity."""
    kinds = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "none": nn.Identity}
    return kinds[kind](channels)


def needs_bias(norm: str) -> bool:
    """Return whether convolutions before a norm have a bias, as published, also for none."""
    return norm == "instance"


class ResidualBlock(nn.Module):
    """Residual block: x + [pad, conv, norm, ReLU, (dropout,) pad, conv, norm](x)."""

    def __init__(self, channels: int, norm: str, dropout: float) -> None:
        super().__init__()
        bias = needs_bias(norm)
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            make_norm(norm, channels),
            nn.ReLU(inplace=True),
            *([nn.Dropout(dropout)] if dropout else []),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            make_norm(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        return x + self.conv_block(x)


class ResNetGenerator(nn.Module):
    """Two strided convolutions, residual blocks, two transposed convolutions."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        width: int = 64,
        blocks: int = 9,
        norm: str = "instance",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        bias = needs_bias(norm)
        stages: list[list[nn.Module]] = [
            [nn.ReflectionPad2d(3), nn.Conv2d(channels_in, width, 7, bias=bias)],
            [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias)],
            [nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1, bias=bias)],
            [ResidualBlock(4 * width, norm, dropout) for _ in range(blocks)],
        ]
        for wide, narrow in ((4 * width, 2 * width), (2 * width, width)):
            up = nn.ConvTranspose2d(
                wide, narrow, 3, stride=2, padding=1, output_padding=1, bias=bias
            )
            stages.append([up])
        layers: list[nn.Module] = []
        for stage, channels in zip(stages, (1, 2, 4, None, 2, 1), strict=True):
            layers += stage
            if channels is not None:
                layers += [make_norm(norm, channels * width), nn.ReLU(inplace=True)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, channels_out, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, H, W] to [B, channels_out, H, W], sides multiples of 4."""
        return self.model(x)


class UNetLevel(nn.Module):
    """One level of a U-Net: downsampling, the level below, upsampling, and a skip connection.

    The outermost level has no skip connection and ends in tanh; the innermost has no level below.
    """

    def __init__(
        self,
        channels_in: int,
        channels_inside: int,
        channels_out: int,
        below: "UNetLevel | None",
        norm: str,
        dropout: float = 0.0,
        outermost: bool = False,
    ) -> None:
        super().__init__()
        self.outermost = outermost
        bias = needs_bias(norm)
        down = nn.Conv2d(channels_in, channels_inside, 4, stride=2, padding=1, bias=bias)
        up = nn.ConvTranspose2d(
            channels_inside * (2 if below else 1),
            channels_out,
            4,
            stride=2,
            padding=1,
            bias=bias or outermost,
        )
        layers: list[nn.Module] = [] if outermost else [nn.LeakyReLU(0.2, inplace=True)]
        layers.append(down)
        if below:
            layers += [below] if outermost else [make_norm(norm, channels_inside), below]
        layers += [nn.ReLU(inplace=True), up]
        layers.append(nn.Tanh() if outermost else make_norm(norm, channels_out))
        if dropout:
            layers.append(nn.Dropout(dropout))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same height and width."""
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class UNetGenerator(nn.Module):
    """U-Net with `depth` levels: 7 for images of 128 pixels, 8 for 256."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        width: int = 64,
        depth: int = 8,
        norm: str = "instance",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(depth)]
        level = UNetLevel(widths[-2], widths[-1], widths[-2], None, norm)
        for i in reversed(range(1, depth - 1)):
            rate = dropout if i >= 4 else 0.0
            level = UNetLevel(widths[i - 1], widths[i], widths[i - 1], level, norm, rate)
        self.model = UNetLevel(channels_in, width, channels_out, level, norm, outermost=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, H, W] to [B, channels_out, H, W], sides multiples of 2**depth."""
        return self.model(x)


class PatchDiscriminator(nn.Module):
    """PatchGAN: `layers` strided 4x4 convolutions, one of stride 1, and one to a score map."""

    def __init__(
        self, channels: int, width: int = 64, layers: int = 3, norm: str = "instance"
    ) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        modules: list[nn.Module] = [
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for i, (before, after) in enumerate(itertools.pairwise(widths), start=1):
            stride = 2 if i < layers else 1
            modules += [
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=needs_bias(norm)),
                make_norm(norm, after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        modules.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.model = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels, H, W] to scores [B, 1, H', W']."""
        return self.model(x)


class PixelDiscriminator(nn.Module):
    """Discriminator of three 1x1 convolutions."""

    def __init__(self, channels: int, width: int = 64, norm: str = "instance") -> None:
        super().__init__()
        bias = needs_bias(norm)
        self.net = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width, 2 * width, 1, bias=bias),
            make_norm(norm, 2 * width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * width, 1, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels, H, W] to scores [B, 1, H, W]."""
        return self.net(x)


def build_generator(config: Any, channels_in: int, channels_out: int) -> nn.Module:
    """Build the generator of `config.generator`."""
    g = config.generator
    common = {"width": g.width, "norm": g.norm, "dropout": g.dropout}
    if g.variant in UNET_DEPTHS:
        return UNetGenerator(channels_in, channels_out, depth=UNET_DEPTHS[g.variant], **common)
    blocks = RESNET_BLOCKS[g.variant] if g.blocks is None else g.blocks
    return ResNetGenerator(channels_in, channels_out, blocks=blocks, **common)


def build_discriminator(config: Any, channels: int) -> nn.Module:
    """Build the discriminator of `config.discriminator`."""
    d = config.discriminator
    if d.variant == "pixel":
        return PixelDiscriminator(channels, d.width, d.norm)
    return PatchDiscriminator(channels, d.width, d.layers, d.norm)


def initialise(network: nn.Module) -> None:
    """Initialise kernels N(0, 0.02), scales of batch norms N(1, 0.02), and biases 0."""
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm2d):
            continue
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if weight is not None:
            nn.init.normal_(weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
        if bias is not None:
            nn.init.zeros_(bias)
