"""The layers that all networks are made of: convolutions, norms, initialisers, dropout.

Convolution kernels are stored as [height, width, in, out]; images are [B, H, W, C].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cyclegan_jax.ops import convolution
from cyclegan_jax.ops.norm import normalise

NORMS = ("instance", "instance_affine", "batch", "none")
INITIALIZERS = ("normal", "xavier", "kaiming", "orthogonal")

Array = jax.Array
Padding = int | tuple[tuple[int, int], tuple[int, int]] | Literal["same"]


@dataclass(frozen=True)
class Share:
    """Which rows of a whole batch a computation has: a device's, and of those a micro-batch's.

    Attributes:
        axis_name: the device axis that the batch is split over, if any.
        part: which micro-batch of the device's, from 0.
        parts: how many micro-batches the device has.
    """

    axis_name: str | None = None
    part: Array | int = 0
    parts: int = 1


WHOLE_BATCH = Share()


@dataclass(frozen=True)
class Style:
    """What all layers of a network have in common.

    Attributes:
        norm: one of `NORMS`. Instance norm has no scale or offset unless it is called affine; batch
            norm has both and uses the statistics of the batch, in training and after it.
        init: one of `INITIALIZERS`.
        gain: standard deviation of `normal`, factor of `xavier` and `orthogonal`.
        dtype: of activations and convolutions. Parameters are float32, or float64 with it.
        share: which part of a whole batch the networks are given. Dropout masks are those of the
            whole batch; its statistics are those of all devices, but of one micro-batch.
    """

    norm: str = "instance"
    init: str = "normal"
    gain: float = 0.02
    dtype: Any = jnp.float32
    share: Share = WHOLE_BATCH

    @property
    def param_dtype(self) -> Any:
        """Type of the parameters."""
        return jnp.promote_types(self.dtype, jnp.float32)

    @property
    def norm_replaces_bias(self) -> bool:
        """Whether convolutions before a norm go without bias, as in the original."""
        return self.norm in ("batch", "none")


def initializer(name: str, gain: float, *, transposed: bool = False) -> Callable[..., Array]:
    """An initialiser for kernels [h, w, in, out] with the fans that PyTorch counts.

    PyTorch stores a transposed convolution as [in, out, h, w] and takes the second axis for the
    incoming one, so the two fans change places there; the original's networks inherit that.
    """

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        height, width, channels_in, channels_out = shape
        fan_in, fan_out = height * width * channels_in, height * width * channels_out
        if transposed:
            fan_in, fan_out = fan_out, fan_in
        if name == "orthogonal":
            axis = 2 if transposed else 3
            return nn.initializers.orthogonal(gain, column_axis=axis)(key, shape, dtype)
        deviation = {
            "normal": gain,
            "xavier": gain * math.sqrt(2.0 / (fan_in + fan_out)),
            "kaiming": math.sqrt(2.0 / fan_in),
        }[name]
        return deviation * jax.random.normal(key, tuple(shape), dtype)

    return init


class Conv(nn.Module):
    """Convolution of a square kernel, as PyTorch's Conv2d.

    Attributes:
        features: output channels.
        size: side of the kernel.
        stride: 1 or 2.
        padding: pixels on every side, or ((top, bottom), (left, right)), or "same": as many that
            the output has ceil(side / stride) pixels, an odd one at the end (Keras and Paddle).
        pad_mode: what is added, zero or reflect.
        use_bias: whether there is an offset, 0 at first.
        normed: whether a norm follows. That takes an offset away again, so none is added (see
            `_with_bias`).
    """

    features: int
    size: int
    style: Style
    stride: int = 1
    padding: Padding = 0
    pad_mode: Literal["zero", "reflect"] = "zero"
    use_bias: bool = True
    normed: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] to [B, H', W', features], in the style's dtype."""
        style = self.style
        shape = (self.size, self.size, x.shape[-1], self.features)
        init = initializer(style.init, style.gain)
        kernel = self.param("kernel", init, shape, style.param_dtype)
        y = convolution.convolve(
            x.astype(style.dtype),
            kernel.astype(style.dtype),
            stride=self.stride,
            padding=self._pads(x.shape[1], x.shape[2]),
            pad_mode=self.pad_mode,
        )
        return _with_bias(self, y)

    def _pads(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        if isinstance(self.padding, int):
            return ((self.padding, self.padding),) * 2
        if self.padding != "same":
            return self.padding

        def same(side: int) -> tuple[int, int]:
            total = max(0, (-(-side // self.stride) - 1) * self.stride + self.size - side)
            return total // 2, total - total // 2

        return same(height), same(width)


class ResizeConv(Conv):
    """A convolution of the image with every pixel doubled in both directions.

    In place of a transposed convolution it leaves no checkerboard (Odena et al. 2016).
    """

    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] to [B, 2H, 2W, features] where the padding keeps the size."""
        batch, height, width, channels = x.shape
        doubled = jnp.broadcast_to(
            x[:, :, None, :, None], (batch, height, 2, width, 2, channels)
        ).reshape(batch, 2 * height, 2 * width, channels)
        return super().__call__(doubled)


class UpConv(nn.Module):
    """Transposed convolution of stride 2 that doubles height and width.

    Attributes:
        features: output channels.
        size: side of the kernel, 3 or 4.
        crop: rows and columns dropped at the start and at the end of the full result. (1, 0) for
            size 3 is PyTorch's padding 1 with output padding 1; (1, 1) for size 4 its padding 1;
            (0, 1) for size 3 is the SAME of Keras and Paddle.
        use_bias: whether there is an offset, 0 at first.
        normed: whether a norm follows, as in `Conv`.
    """

    features: int
    size: int
    style: Style
    crop: tuple[int, int] = (1, 0)
    use_bias: bool = True
    normed: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] to [B, 2H, 2W, features], in the style's dtype."""
        style = self.style
        shape = (self.size, self.size, x.shape[-1], self.features)
        init = initializer(style.init, style.gain, transposed=True)
        kernel = self.param("kernel", init, shape, style.param_dtype)
        y = convolution.convolve_transposed(
            x.astype(style.dtype), kernel.astype(style.dtype), crop=self.crop
        )
        return _with_bias(self, y)


def _with_bias(layer: Conv | UpConv, y: Array) -> Array:
    """What a layer gives: y, [B, H, W, features], with the layer's offset where that matters.

    Where a norm takes it away again the offset is a parameter all the same, for the original has
    it, but is not added. The gradient, 0 in theory, would be what rounding leaves of it, which Adam
    scales up until the offset wanders; in bfloat16 large ones then drown the activations.
    """
    if not layer.use_bias:
        return y
    dtype = layer.style.param_dtype
    bias = layer.param("bias", nn.initializers.zeros_init(), (layer.features,), dtype)
    if layer.normed and layer.style.norm != "none":
        return y
    # Widened first, so that its gradient, a sum over all pixels, is too.
    return (y.astype(dtype) + bias).astype(y.dtype)


class Norm(nn.Module):
    """Instance norm, batch norm or nothing, by the style; epsilon 1e-5, biased variance.

    Scales begin at N(1, 0.02) in batch norm, as in the original, and at 1 in affine instance norm.
    """

    style: Style

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] to the same shape and dtype; statistics are at least float32."""
        style = self.style
        if style.norm == "none":
            return x
        if style.norm == "instance":
            return normalise(x, axes=(1, 2), epsilon=1e-5)
        wide = x.astype(style.param_dtype)
        if style.norm == "batch":
            mean = _over_devices(wide.mean((0, 1, 2)), style.share)
            variance = _over_devices(jnp.square(wide - mean).mean((0, 1, 2)), style.share)
            y = (wide - mean) * jax.lax.rsqrt(variance + 1e-5)
        else:
            y = normalise(wide, axes=(1, 2), epsilon=1e-5)
        deviation = 0.02 if style.norm == "batch" else 0.0

        def scale_init(key: Array, shape: Sequence[int], dtype: Any) -> Array:
            return 1.0 + deviation * jax.random.normal(key, tuple(shape), dtype)

        channels = (x.shape[-1],)
        scale = self.param("scale", scale_init, channels, style.param_dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), channels, style.param_dtype)
        return (y * scale + bias).astype(x.dtype)


class Dropout(nn.Module):
    """Zeroes a share of the values and scales the others up, where a `dropout` key is given."""

    rate: float
    style: Style

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] to the same shape and dtype; unchanged after training."""
        if self.rate == 0.0 or not self.has_rng("dropout"):
            return x

        def draw(shape: tuple[int, ...]) -> Array:
            return jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, shape)

        kept = draw_for_batch(draw, x.shape, self.style.share)
        return jnp.where(kept, x / (1.0 - self.rate), jnp.zeros_like(x))


def draw_for_batch(
    draw: Callable[[tuple[int, ...]], Array], shape: Sequence[int], share: Share
) -> Array:
    """What `draw` gives for the whole batch, cut down to the rows of this share of it.

    Drawing for all and keeping one's own makes random numbers independent of how many devices and
    micro-batches a batch is split over. `shape` is that of the share, rows first.
    """
    rows, count, index = shape[0], share.parts, share.part
    if share.axis_name is not None:
        index += jax.lax.axis_index(share.axis_name) * count
        count *= jax.lax.axis_size(share.axis_name)
    if count == 1:
        return draw(tuple(shape))
    whole = draw((rows * count, *shape[1:]))
    return jax.lax.dynamic_slice_in_dim(whole, index * rows, rows)


def _over_devices(value: Array, share: Share) -> Array:
    return value if share.axis_name is None else jax.lax.pmean(value, share.axis_name)


def leaky_relu(x: Array) -> Array:
    """Slope 0.2 below zero, as in every discriminator."""
    return nn.leaky_relu(x, 0.2)
