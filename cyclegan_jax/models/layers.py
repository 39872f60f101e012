"""Layers of the networks: convolutions, norms, initialisers, dropout.

Images and feature maps are [B, H, W, C]; kernels are [height, width, in, out].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cyclegan_jax import ops
from cyclegan_jax.utils.registry import lookup

Array = jax.Array
Padding = int | tuple[tuple[int, int], tuple[int, int]] | Literal["same"]
PadMode = Literal["zero", "reflect"]


@dataclass(frozen=True)
class LayerConfig:
    """Settings that all layers of a network share.

    Attributes:
        norm: A name of `NORMS`.
        init: A name of `INITIALIZERS`.
        gain: Standard deviation of `normal`, factor of `xavier` and `orthogonal`.
        dtype: Type of activations and convolutions. Parameters are float32, or float64 with it.
        axis_name: The device axis over which the batch is sharded, for batch norm. None outside
            training and on a single device.
    """

    norm: str = "instance"
    init: str = "normal"
    gain: float = 0.02
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @property
    def param_dtype(self) -> Any:
        """Type of parameters, norm statistics and network outputs."""
        return jnp.promote_types(self.dtype, jnp.float32)

    @property
    def norm_class(self) -> Any:
        """The class, or a partial of it, that `norm` refers to."""
        return lookup("norm", self.norm, NORMS)

    def build_norm(self, **fields: Any) -> Any:
        """Build the norm layer that `norm` refers to."""
        return self.norm_class(config=self, **fields)

    @property
    def bias_before_norm(self) -> bool:
        """True if convolutions followed by a norm have a bias parameter."""
        return self.build_norm(parent=None).keeps_bias


class Initializer(NamedTuple):
    """Initialisers of a convolution: functions of (key, shape of the kernel, dtype).

    Attributes:
        kernel: Returns the kernel [h, w, in, out].
        bias: Returns the bias [out].
    """

    kernel: Callable[..., Array]
    bias: Callable[..., Array] = lambda key, shape, dtype: jnp.zeros(shape[3:], dtype)


def _fans(shape: Sequence[int], transposed: bool) -> tuple[int, int]:
    """Return fan-in and fan-out as PyTorch computes them.

    It stores a transposed convolution as [in, out, h, w] and takes the second axis for the incoming
    one, so they trade places there, also in the original CycleGAN.
    """
    height, width, channels_in, channels_out = shape
    fans = height * width * channels_in, height * width * channels_out
    return fans[::-1] if transposed else fans


def _normal(deviation: Callable[[float, float, float], float]) -> Callable[..., Initializer]:
    """Normal distribution with a deviation that depends on (gain, fan-in, fan-out)."""

    def build(gain: float, transposed: bool) -> Initializer:
        def kernel(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
            noise = jax.random.normal(key, tuple(shape), dtype)
            return deviation(gain, *_fans(shape, transposed)) * noise

        return Initializer(kernel)

    return build


def _orthogonal(gain: float, transposed: bool) -> Initializer:
    return Initializer(nn.initializers.orthogonal(gain, column_axis=2 if transposed else 3))


def _glorot_uniform(gain: float, transposed: bool) -> Initializer:
    """Uniform distribution with the variance of `xavier` (Glorot and Bengio 2010), as in Keras."""

    def kernel(key: Array, shape: Sequence[int], dtype: Any) -> Array:
        limit = math.sqrt(6 / sum(_fans(shape, transposed)))
        return jax.random.uniform(key, tuple(shape), dtype, -limit, limit)

    return Initializer(kernel)


def _torch_default(gain: float, transposed: bool) -> Initializer:
    """Uniform distribution below 1 / sqrt(fan-in), of biases too, as in PyTorch's layers."""

    def uniform(key: Array, fans: Sequence[int], shape: Sequence[int], dtype: Any) -> Array:
        limit = 1 / math.sqrt(_fans(fans, transposed)[0])
        return jax.random.uniform(key, tuple(shape), dtype, -limit, limit)

    return Initializer(
        kernel=lambda key, shape, dtype: uniform(key, shape, shape, dtype),
        bias=lambda key, shape, dtype: uniform(key, shape, shape[3:], dtype),
    )


# Initialisers of convolutions: (gain, transposed) -> Initializer.
INITIALIZERS: dict[str, Callable[[float, bool], Initializer]] = {
    "normal": _normal(lambda gain, fan_in, fan_out: gain),
    "xavier": _normal(lambda gain, fan_in, fan_out: gain * math.sqrt(2 / (fan_in + fan_out))),
    "kaiming": _normal(lambda gain, fan_in, fan_out: math.sqrt(2 / fan_in)),
    "orthogonal": _orthogonal,
    "glorot_uniform": _glorot_uniform,
    "torch_default": _torch_default,
}


def initializer(config: LayerConfig, *, transposed: bool = False) -> Initializer:
    """Return the initialisers of a configuration."""
    return lookup("init.name", config.init, INITIALIZERS)(config.gain, transposed)


class Conv(nn.Module):
    """Convolution with a square kernel, as PyTorch's Conv2d.

    Attributes:
        features: Output channels.
        size: Height and width of the kernel.
        stride: 1 or 2.
        padding: Pixels on every side, ((top, bottom), (left, right)), or "same": as many as give
            ceil(side / stride) outputs, the odd one at the end (Keras and Paddle).
        pad_mode: Value of the padding: zeros, or the reflected image.
        use_bias: Whether the layer has a bias.
        normed: Whether a norm follows (see `_add_bias`).
    """

    features: int
    size: int
    config: LayerConfig
    stride: int = 1
    padding: Padding = 0
    pad_mode: PadMode = "zero"
    use_bias: bool = True
    normed: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map [B, H, W, C] to [B, H', W', features] of the configured dtype."""
        config = self.config
        shape = (self.size, self.size, x.shape[-1], self.features)
        init = initializer(config)
        kernel = self.param("kernel", init.kernel, shape, config.param_dtype)
        y = ops.convolve(
            x.astype(config.dtype),
            kernel.astype(config.dtype),
            stride=self.stride,
            padding=self.pads(x.shape[1], x.shape[2]),
            pad_mode=self.pad_mode,
        )
        return _add_bias(self, y, init, shape)

    def pads(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return ((top, bottom), (left, right)) padding for an input of this size."""
        if isinstance(self.padding, int):
            return ((self.padding, self.padding),) * 2
        if self.padding != "same":
            return self.padding

        def same(side: int) -> tuple[int, int]:
            total = max(0, (-(-side // self.stride) - 1) * self.stride + self.size - side)
            return total // 2, total - total // 2

        return same(height), same(width)


class ResizeConv(Conv):
    """Nearest-neighbour upsampling by 2, then a convolution.

    Used in place of a transposed convolution, it leaves no checkerboard (Odena et al. 2016).
    """

    def __call__(self, x: Array) -> Array:
        """Map [B, H, W, C] to [B, 2H, 2W, features] if the padding keeps the size."""
        batch, height, width, channels = x.shape
        doubled = jnp.broadcast_to(
            x[:, :, None, :, None], (batch, height, 2, width, 2, channels)
        ).reshape(batch, 2 * height, 2 * width, channels)
        return super().__call__(doubled)


class UpConv(nn.Module):
    """Transposed convolution of stride 2 that doubles height and width.

    Attributes:
        features: Output channels.
        size: Height and width of the kernel, 3 or 4.
        crop: Rows and columns cropped at the start and at the end of the full result: (1, 0) for
            size 3 is PyTorch's padding 1 with output padding 1, (1, 1) for size 4 its padding 1,
            (0, 1) for size 3 "same" in Keras and Paddle.
        use_bias: Whether the layer has a bias.
        normed: Whether a norm follows (see `_add_bias`).
    """

    features: int
    size: int
    config: LayerConfig
    crop: tuple[int, int] = (1, 0)
    use_bias: bool = True
    normed: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map [B, H, W, C] to [B, 2H, 2W, features] of the configured dtype."""
        config = self.config
        shape = (self.size, self.size, x.shape[-1], self.features)
        init = initializer(config, transposed=True)
        kernel = self.param("kernel", init.kernel, shape, config.param_dtype)
        y = ops.convolve_transposed(
            x.astype(config.dtype), kernel.astype(config.dtype), crop=self.crop
        )
        return _add_bias(self, y, init, shape)


def _add_bias(
    layer: Conv | UpConv, y: Array, init: Initializer, kernel_shape: Sequence[int]
) -> Array:
    """Add the layer's bias to y, [B, H, W, features], unless a norm removes it again.

    Before a norm the bias remains a parameter, since the original has it, but is not added: its
    gradient, zero in theory, would be rounding error that Adam scales up until the bias wanders,
    and in bfloat16 a large one drowns the activations.
    """
    if not layer.use_bias:
        return y
    dtype = layer.config.param_dtype
    bias = layer.param("bias", init.bias, kernel_shape, dtype)
    if layer.normed and layer.config.build_norm(parent=None).removes_bias:
        return y
    # In the wider type, so that the bias's gradient, a sum over all pixels, is computed in it too.
    return (y.astype(dtype) + bias).astype(y.dtype)


class NoNorm(nn.Module):
    """Identity in place of a norm."""

    config: LayerConfig
    keeps_bias: ClassVar[bool] = False
    removes_bias: ClassVar[bool] = False
    mixes_images: ClassVar[bool] = False

    def __call__(self, x: Array) -> Array:
        """Return x."""
        return x


class InstanceNorm(nn.Module):
    """Instance norm (Ulyanov et al. 2016): epsilon 1e-5, biased variance.

    Attributes:
        affine: Whether it has a scale, 1 at first, and a bias, 0 at first.
        raised: What epsilon is added to: the variance, or the deviation, as in keras-contrib. They
            differ where an image is nearly flat.
    """

    config: LayerConfig
    affine: bool = False
    raised: ops.Raised = "variance"
    epsilon: ClassVar[float] = 1e-5
    # The original keeps the biases of convolutions before instance norm.
    keeps_bias: ClassVar[bool] = True
    removes_bias: ClassVar[bool] = True
    mixes_images: ClassVar[bool] = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalise [B, H, W, C] over H and W; statistics are at least float32."""
        normalise = partial(ops.normalise, epsilon=self.epsilon, raised=self.raised)
        if not self.affine:
            return normalise(x)
        y = normalise(x.astype(self.config.param_dtype))
        return _scale_and_shift(self, y, deviation=0.0).astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015) with the statistics of the batch, also after training.

    The batch is that of all devices. Epsilon is 1e-5, the variance biased; scales start at
    N(1, 0.02), as in the original.
    """

    config: LayerConfig
    raised: ClassVar[ops.Raised] = "variance"
    epsilon: ClassVar[float] = 1e-5
    keeps_bias: ClassVar[bool] = False
    removes_bias: ClassVar[bool] = True
    mixes_images: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalise [B, H, W, C] over B, H and W; statistics are at least float32."""
        wide = x.astype(self.config.param_dtype)
        mean = self._mean(wide)
        variance = self._mean(jnp.square(wide - mean))
        y = (wide - mean) * jax.lax.rsqrt(variance + self.epsilon)
        return _scale_and_shift(self, y, deviation=0.02).astype(x.dtype)

    def _mean(self, x: Array) -> Array:
        mean, axis = x.mean((0, 1, 2)), self.config.axis_name
        return mean if axis is None or self.is_initializing() else jax.lax.pmean(mean, axis)


def _scale_and_shift(norm: InstanceNorm | BatchNorm, y: Array, deviation: float) -> Array:
    def scale_init(key: Array, shape: Sequence[int], dtype: Any) -> Array:
        return 1.0 + deviation * jax.random.normal(key, tuple(shape), dtype)

    channels, dtype = (y.shape[-1],), norm.config.param_dtype
    scale = norm.param("scale", scale_init, channels, dtype)
    bias = norm.param("bias", nn.initializers.zeros_init(), channels, dtype)
    return y * scale + bias


# Norms by name. A norm is a Flax module with a field `config` and the class attributes
# `keeps_bias` (convolutions before it have a bias parameter), `removes_bias` (it cancels any bias
# before it) and `mixes_images` (an output depends on other images of the batch).
NORMS: dict[str, Callable[..., Any]] = {
    "instance": InstanceNorm,
    "instance_affine": partial(InstanceNorm, affine=True),
    "instance_affine_std": partial(InstanceNorm, affine=True, raised="deviation"),
    "batch": BatchNorm,
    "none": NoNorm,
}


def mixes_images(config: LayerConfig) -> bool:
    """Return whether the configured norm lets one image of a batch influence another."""
    return config.build_norm(parent=None).mixes_images


def fold_in(keys: Array | None, data: int | Array) -> Array | None:
    """Derive new keys [B] from the images' keys; None stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def dropout(x: Array, rate: float, keys: Array | None) -> Array:
    """Set values to zero with probability `rate` and scale the others by 1 / (1 - rate).

    Args:
        x: [B, H, W, C].
        rate: In [0, 1).
        keys: [B], one PRNG key per image, so that masks do not depend on how a batch is split over
            devices and micro-batches. None after training: x is returned.
    """
    if keys is None or rate == 0.0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def leaky_relu(x: Array) -> Array:
    """Leaky ReLU with slope 0.2 below zero, as in every discriminator."""
    return nn.leaky_relu(x, 0.2)
