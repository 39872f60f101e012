"""Discriminators: the PatchGANs of pix2pix, CycleGAN and the systems that followed.

`DISCRIMINATORS` lists the variants by name; `build_discriminator` makes one.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cyclegan_jax.models.layers import Conv, Norm, Padding, Style, initializer, leaky_relu
from cyclegan_jax.utils.errors import UserError

Array = jax.Array
Scores = Array | tuple[Array, ...]


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches: 70x70 pixels with three strided layers (Isola et al. 2017).

    At width 64 and three layers there are 2,764,737 parameters for three channels, and an image of
    256x256 gets 30x30 scores.

    Attributes:
        width: channels of the first layer, doubled on each up to eightfold.
        style: what all layers have in common.
        layers: strided layers.
        sigmoid: whether scores are squeezed into (0, 1).
        closing: whether a layer of stride 1 follows the strided ones, as published.
        padding: of all layers but the last.
        pad_mode: what padding adds, zero or reflect.
        score_padding: of the last convolution.
        first_norm: whether the first layer has a norm too.
        inner_bias: whether layers between the first and the last have an offset.
        dense: whether, instead of the last convolution, one unit sees all of the image; such a
            network takes images of one size alone.
    """

    width: int
    style: Style
    layers: int
    sigmoid: bool = False
    closing: bool = True
    padding: Padding = 1
    pad_mode: Literal["zero", "reflect"] = "zero"
    score_padding: Padding = 1
    first_norm: bool = False
    inner_bias: bool = True
    dense: bool = False

    @property
    def smallest(self) -> int:
        """Least side of an image that gives one score, from more than one pixel."""
        return (3 if self.closing else 2) * 2**self.layers

    @property
    def mixes_images(self) -> bool:
        """Whether an output depends on more than its own image and the parameters."""
        return self.style.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] in [-1, 1] to scores [B, H', W', 1], at least float32."""
        style = self.style
        conv = functools.partial(Conv, size=4, style=style, pad_mode=self.pad_mode)
        strides = [2] * self.layers + [1] * self.closing
        y = x
        for i, stride in enumerate(strides):
            normed = i > 0 or self.first_norm
            y = conv(
                self.width * min(2**i, 8),
                stride=stride,
                padding=self.padding,
                use_bias=i == 0 or (self.inner_bias and not style.norm_replaces_bias),
                normed=normed,
                name=f"conv_{i}",
            )(y)
            if normed:
                y = Norm(style, name=f"norm_{i}")(y)
            y = leaky_relu(y)
        if self.dense:
            y = Unit(style, name="dense")(y)
        else:
            y = conv(1, padding=self.score_padding, name=f"conv_{len(strides)}")(y)
        y = y.astype(style.param_dtype)
        return nn.sigmoid(y) if self.sigmoid else y


class Unit(nn.Module):
    """One number from all values of a map: a weighted sum and an offset."""

    style: Style

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] to [B, 1, 1, 1]."""
        style = self.style
        init = initializer(style.init, style.gain)
        kernel = self.param("kernel", init, (*x.shape[1:], 1), style.param_dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (1,), style.param_dtype)
        y = jnp.einsum("bhwc,hwco->bo", x.astype(style.dtype), kernel.astype(style.dtype))
        return (y.astype(bias.dtype) + bias).astype(y.dtype)[:, None, None, :]


class PixelDiscriminator(nn.Module):
    """Scores every pixel by itself: three 1x1 convolutions."""

    width: int
    style: Style
    sigmoid: bool = False

    smallest = 1

    @property
    def mixes_images(self) -> bool:
        """Whether an output depends on more than its own image and the parameters."""
        return self.style.norm == "batch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] in [-1, 1] to scores [B, H, W, 1], at least float32."""
        style = self.style
        bias = not style.norm_replaces_bias
        y = leaky_relu(Conv(self.width, 1, style, name="conv_0")(x))
        y = Conv(2 * self.width, 1, style, use_bias=bias, normed=True, name="conv_1")(y)
        y = leaky_relu(Norm(style, name="norm_1")(y))
        y = Conv(1, 1, style, use_bias=bias, name="conv_2")(y)
        y = y.astype(style.param_dtype)
        return nn.sigmoid(y) if self.sigmoid else y


class MultiScaleDiscriminator(nn.Module):
    """Several discriminators, each of which sees the image at half the size of the one before.

    After Wang et al. 2018 (pix2pixHD); sizes are halved by the mean of 2x2 pixels.

    Attributes:
        scale: the discriminators, of the full size first; alike, with parameters of their own.
    """

    scale: tuple[PatchDiscriminator | PixelDiscriminator, ...]

    @property
    def style(self) -> Style:
        """What all layers have in common."""
        return self.scale[0].style

    @property
    def smallest(self) -> int:
        """Least side of an image that gives one score at the smallest size."""
        return self.scale[0].smallest * 2 ** (len(self.scale) - 1)

    @property
    def mixes_images(self) -> bool:
        """Whether an output depends on more than its own image and the parameters."""
        return self.scale[0].mixes_images

    def __call__(self, x: Array) -> tuple[Array, ...]:
        """[B, H, W, C] in [-1, 1] to scores [B, H', W', 1] for each size."""
        scores = []
        for i, discriminator in enumerate(self.scale):
            x = x if i == 0 else nn.avg_pool(x, (2, 2), (2, 2))
            scores.append(discriminator(x))
        return tuple(scores)


Discriminator = PatchDiscriminator | PixelDiscriminator | MultiScaleDiscriminator


def _pixel(layers: int, **fields: Any) -> PixelDiscriminator:
    del layers  # it has none that are strided
    return PixelDiscriminator(**fields)


# Keras: every layer padded as "same", and all four strided.
_same = functools.partial(PatchDiscriminator, closing=False, padding="same", score_padding="same")

DISCRIMINATORS: dict[str, Callable[..., PatchDiscriminator | PixelDiscriminator]] = {
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


def build_discriminator(
    variant: str,
    *,
    width: int,
    style: Style,
    layers: int = 3,
    sigmoid: bool = False,
    scales: int = 1,
) -> Discriminator:
    """The discriminator of that name.

    Args:
        variant: one of `DISCRIMINATORS`.
        width: channels of its first layer.
        style: what all its layers have in common.
        layers: strided layers; `pixel` has none.
        sigmoid: whether scores are squeezed into (0, 1).
        scales: sizes at which images are judged; with more than 1, scores are a tuple.
    """
    alike = [
        DISCRIMINATORS[variant](width=width, style=style, layers=layers, sigmoid=sigmoid)
        for _ in range(scales)
    ]
    return alike[0] if scales == 1 else MultiScaleDiscriminator(tuple(alike))


def check_discriminator_size(discriminator: Discriminator, height: int, width: int) -> None:
    """Raises UserError unless an image of this height and width gets at least one score."""
    smallest = discriminator.smallest
    if min(height, width) < smallest:
        raise UserError(
            f"images of {width}x{height} are too small for the discriminator: sides must be at "
            f"least {smallest} (or set fewer discriminator.layers or discriminator.scales)"
        )
