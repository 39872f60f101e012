"""Discriminators: the PatchGANs of pix2pix, CycleGAN and later systems."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cyclegan_jax.models.deferred import normed
from cyclegan_jax.models.layers import (
    Conv,
    LayerConfig,
    Padding,
    PadMode,
    initializer,
    leaky_relu,
)
from cyclegan_jax.models.protocol import Discriminator

Array = jax.Array


class PatchDiscriminator(Discriminator):
    """Scores of overlapping patches, 70x70 pixels with three strided layers (Isola et al. 2017).

    With width 64 and three layers it has 2,764,737 parameters for three channels, and gives an
    image of 256x256 30x30 scores.

    Attributes:
        config: Settings of all layers.
        width: Channels of the first layer, doubled on each up to eightfold.
        layers: Number of strided layers.
        sigmoid: Whether scores are mapped into (0, 1).
        closing: Whether a layer of stride 1 follows the strided ones, as published.
        padding: Padding of all layers but the last.
        pad_mode: Value of the padding.
        score_padding: Padding of the last convolution.
        first_norm: Whether the first layer has a norm too.
        inner_bias: Whether layers between the first and the last have a bias.
        dense: Whether a dense unit that sees the whole image replaces the last convolution; such a
            network takes images of one size only.
    """

    config: LayerConfig
    width: int
    layers: int = 3
    sigmoid: bool = False
    closing: bool = True
    padding: Padding = 1
    pad_mode: PadMode = "zero"
    score_padding: Padding = 1
    first_norm: bool = False
    inner_bias: bool = True
    dense: bool = False

    @property
    def smallest(self) -> int:
        """Least side of an image that gets one score, from more than one pixel."""
        return (3 if self.closing else 2) * 2**self.layers

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map [B, H, W, C] in [-1, 1] to scores [B, H', W', 1], at least float32."""
        config = self.config
        conv = functools.partial(Conv, size=4, config=config, pad_mode=self.pad_mode)
        strides = [2] * self.layers + [1] * self.closing
        y = x
        for i, stride in enumerate(strides):
            has_norm = i > 0 or self.first_norm
            y = conv(
                self.width * min(2**i, 8),
                stride=stride,
                padding=self.padding,
                use_bias=i == 0 or (self.inner_bias and config.bias_before_norm),
                normed=has_norm,
                name=f"conv_{i}",
            )(y)
            y = normed(config, f"norm_{i}", y, leaky_relu) if has_norm else leaky_relu(y)
        if self.dense:
            y = DenseUnit(config, name="dense")(y)
        else:
            y = conv(1, padding=self.score_padding, name=f"conv_{len(strides)}")(y)
        y = y.astype(config.param_dtype)
        return nn.sigmoid(y) if self.sigmoid else y


class DenseUnit(nn.Module):
    """Weighted sum of all values of a feature map, plus a bias."""

    config: LayerConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map [B, H, W, C] to [B, 1, 1, 1]."""
        config = self.config
        shape = (*x.shape[1:], 1)
        init = initializer(config)
        kernel = self.param("kernel", init.kernel, shape, config.param_dtype)
        bias = self.param("bias", init.bias, shape, config.param_dtype)
        y = jnp.einsum("bhwc,hwco->bo", x.astype(config.dtype), kernel.astype(config.dtype))
        return (y.astype(bias.dtype) + bias).astype(y.dtype)[:, None, None, :]


class PixelDiscriminator(Discriminator):
    """Scores of single pixels: three 1x1 convolutions (Isola et al. 2017)."""

    config: LayerConfig
    width: int
    sigmoid: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map [B, H, W, C] in [-1, 1] to scores [B, H, W, 1], at least float32."""
        config = self.config
        bias = config.bias_before_norm
        y = leaky_relu(Conv(self.width, 1, config, name="conv_0")(x))
        y = Conv(2 * self.width, 1, config, use_bias=bias, normed=True, name="conv_1")(y)
        y = normed(config, "norm_1", y, leaky_relu)
        y = Conv(1, 1, config, use_bias=bias, name="conv_2")(y)
        y = y.astype(config.param_dtype)
        return nn.sigmoid(y) if self.sigmoid else y


class MultiScaleDiscriminator(Discriminator):
    """Discriminators that see the image at its full size, half of it, and so on.

    Follows Wang et al. 2018 (pix2pixHD); images are halved by the mean of 2x2 pixels.

    Attributes:
        scale: Discriminators from the full size down: alike, with parameters of their own.
    """

    scale: tuple[Discriminator, ...]

    @property
    def smallest(self) -> int:
        """Least side of an image that gets one score at the smallest size."""
        return self.scale[0].smallest * 2 ** (len(self.scale) - 1)

    @property
    def mixes_images(self) -> bool:
        """True if a score depends on other images of the batch."""
        return self.scale[0].mixes_images

    def __call__(self, x: Array) -> tuple[Array, ...]:
        """Map [B, H, W, C] in [-1, 1] to scores [B, H', W', 1] of each size."""
        scores = []
        for i, discriminator in enumerate(self.scale):
            x = x if i == 0 else nn.avg_pool(x, (2, 2), (2, 2))
            scores.append(discriminator(x))
        return tuple(scores)


def _pixel(layers: int = 3, **fields: Any) -> PixelDiscriminator:
    """Build a pixel discriminator, whose number of layers is fixed."""
    del layers
    return PixelDiscriminator(**fields)


# Keras: every layer padded as "same", and all four strided.
_same = functools.partial(PatchDiscriminator, closing=False, padding="same", score_padding="same")

# Discriminators by name; see `protocol.Discriminator` for what an entry is called with.
DISCRIMINATORS: dict[str, Callable[..., Any]] = {
    "patch": PatchDiscriminator,
    "patch_normed": functools.partial(PatchDiscriminator, first_norm=True, inner_bias=False),
    "patch_reflect": functools.partial(PatchDiscriminator, pad_mode="reflect"),
    "patch_same": _same,
    # One more row and column of zeros at the top and at the left give as many scores as pixels.
    "patch_strided": functools.partial(
        PatchDiscriminator, closing=False, score_padding=((2, 1), (2, 1))
    ),
    "dense": functools.partial(_same, dense=True),
    "pixel": _pixel,
}
