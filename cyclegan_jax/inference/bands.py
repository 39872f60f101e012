"""Feature maps that exceed the device's memory, computed a band of rows at a time.

A map is an array in the host's memory, or is computed from one by layers and norms whenever its
rows are needed. Bands have the full width, so layers pad columns as usual; rows are padded only at
the top and at the bottom of the map.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cyclegan_jax import ops
from cyclegan_jax.inference.programs import jit_by_size
from cyclegan_jax.models.layers import BatchNorm, Conv, InstanceNorm, NoNorm, ResizeConv, UpConv
from cyclegan_jax.utils.image_io import to_float

Array = jax.Array
Params = Any
Activation = Callable[[Array], Array]
Moments = tuple[np.ndarray, np.ndarray]


class Norm(NamedTuple):
    """A norm with its statistics, each [channels]: (x - mean) * factor + offset."""

    mean: np.ndarray
    factor: np.ndarray
    offset: np.ndarray


class Finish(NamedTuple):
    """The norm and the activation after a convolution."""

    norm: Norm | None
    activation: Activation | None


class _Code(NamedTuple):
    """The static description of a convolution in a band.

    Attributes:
        conv: The layer without padding of rows, and without any padding if it reflects.
        doubles: Whether the input is upsampled by 2 first.
        pad_mode: Value of the padding, as in `jnp.pad`.
        margins: ((top, bottom), (left, right)) padding of the band.
        rows: Rows of the padded band that the convolution reads.
    """

    conv: Conv | UpConv
    doubles: bool
    pad_mode: str
    margins: tuple[tuple[int, int], tuple[int, int]]
    rows: int


class Layer:
    """A convolution behind an input of known size."""

    def __init__(self, conv: Conv | UpConv, params: Params, size: tuple[int, int]):
        """Place a layer with its parameters behind an input of (height, width) `size`."""
        self.params = params
        self.conv = conv
        self.scale = 2 if isinstance(conv, ResizeConv) else 1
        self._height = size[0]
        height, width = self.scale * size[0], self.scale * size[1]
        if isinstance(conv, UpConv):
            # One row of zeros, which adds nothing to the result.
            self._pads = (1, 1), (0, 0)
            self.size = 2 * height, 2 * width
        else:
            self._pads = conv.pads(height, width)
            self.size = height // conv.stride, width // conv.stride

    def input_for(self, first: int, last: int) -> tuple[int, int, int, _Code]:
        """Find the input rows that output rows first to last - 1 are computed from.

        Returns:
            The first input row and the one after the last; the row of the padded band where the
            convolution starts; and its static description, which is equal for bands of equal
            height. The first input row is even if the input's height is.
        """
        (top, bottom), columns = self._pads
        conv, pad_mode = self.conv, "constant"
        margins = (top, bottom), (0, 0)
        if isinstance(conv, UpConv):  # output rows begin and end at even ones
            begin, rows = first // 2 - top, (last - first) // 2 + 2
        else:
            begin, rows = first * conv.stride - top, (last - first - 1) * conv.stride + conv.size
            if conv.pad_mode == "reflect":
                pad_mode, margins, columns = "reflect", self._pads, (0, 0)
            conv = Conv(
                conv.features,
                conv.size,
                conv.config,
                stride=conv.stride,
                padding=((0, 0), columns),
                use_bias=conv.use_bias,
                normed=conv.normed,
                parent=None,
            )
        # Enough for any start, and one more for the even start.
        count = -(-rows // self.scale) + self.scale - 1
        count = min((count + 2) // 2 * 2, self._height)
        start = min(max(begin, 0) // self.scale // 2 * 2, self._height - count)
        code = _Code(conv, self.scale == 2, pad_mode, margins, rows)
        return start, start + count, begin + top - self.scale * start, code


class Map(NamedTuple):
    """A feature map: an array, and the steps computed from it whenever rows are needed.

    Attributes:
        kept: [H, W, C]; integers are those of an image and stand for [-1, 1].
        steps: Layers, norms and activations applied to it.
    """

    kept: np.ndarray
    steps: tuple[Layer | Finish, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the map."""
        layers = [step for step in self.steps if isinstance(step, Layer)]
        return layers[-1].size if layers else (self.kept.shape[0], self.kept.shape[1])

    @property
    def channels(self) -> int:
        """Number of channels of the map."""
        layers = [step for step in self.steps if isinstance(step, Layer)]
        return layers[-1].conv.features if layers else self.kept.shape[2]

    def then(self, step: Layer | Finish) -> "Map":
        """Return the map after one more step; nothing is computed."""
        return Map(self.kept, (*self.steps, step))

    def convolved(self, conv: Conv | UpConv, params: Params) -> "Map":
        """Return the output of a layer on this map; nothing is computed."""
        return self.then(Layer(conv, params, self.size))

    def normed(
        self,
        norm: NoNorm | InstanceNorm | BatchNorm,
        params: Mapping[str, Array],
        activation: Activation | None,
        rows: int,
        into: np.ndarray | None,
    ) -> "Map":
        """Return the map after a norm, whose statistics are computed, and an activation.

        Args:
            norm: The norm's module.
            params: Its scale and bias, if it has them.
            activation: Applied after it.
            rows: Rows computed at a time.
            into: Array to keep this map in, as it is before the norm; None keeps its origin.
        """
        affine = None
        if not isinstance(norm, NoNorm):
            mean, variance = self.write(rows, into)
            factor = ops.inverse_deviation(variance, norm.epsilon, norm.raised)
            factor = factor * np.asarray(params.get("scale", 1.0))
            offset = np.broadcast_to(params.get("bias", 0.0), factor.shape)
            dtype = norm.config.param_dtype
            affine = Norm(*(np.asarray(x, dtype) for x in (mean, factor, offset)))
        elif into is not None:
            self.write(rows, into)
        return (self if into is None else Map(into)).then(Finish(affine, activation))

    def write(self, rows: int, into: np.ndarray | None) -> Moments:
        """Compute the whole map and write it to another array, if one is given.

        Returns:
            Mean and variance of its channels, in float64.
        """
        means, variances = [], []
        for band, values, (mean, variance) in self.bands(rows):
            if into is not None:
                into[band] = values
            means.append(mean)
            variances.append(variance)
        # Rows have equal length: the variance is that within rows plus that between their means.
        mean = np.concatenate(means).astype(np.float64)
        variance = np.concatenate(variances).mean(0, dtype=np.float64) + mean.var(0)
        return mean.mean(0), variance

    def bands(self, rows: int) -> Iterator[tuple[slice, np.ndarray, Moments]]:
        """Compute the map from top to bottom, an even number of rows at a time.

        Args:
            rows: Rows of this map, or of the input of a layer that halves it.

        Yields:
            The rows, their values [rows, W, C], and mean and variance [rows, C] of each row.
        """
        height = self.size[0]
        convs = [step.conv for step in self.steps if isinstance(step, Layer)]
        if any(isinstance(conv, Conv) and conv.stride > 1 for conv in convs):
            rows //= 2
        rows = min(rows, height)
        reading = self._read(0, rows)
        for start in range(0, height, rows):
            computed = _compute(*reading)
            # Bands have one size, for one compilation: the last may overlap the one before.
            if start + rows < height:
                first = min(start + rows, height - rows)
                reading = self._read(first, first + rows)
            known = max(0, start + rows - height)
            values, mean, variance = (np.asarray(x)[known:] for x in computed)
            yield slice(start, start + len(values)), values, (mean, variance)

    def _read(self, first: int, last: int) -> tuple[tuple, list, np.ndarray]:
        """Return the arguments with which `_compute` computes rows first to last - 1."""
        codes: list[_Code | Activation | None] = []
        arguments: list[Any] = []
        for step in reversed(self.steps):
            if isinstance(step, Layer):
                first, last, begin, code = step.input_for(first, last)
                codes.append(code)
                arguments.append((step.params, begin))
            else:
                codes.append(step.activation)
                arguments.append(step.norm)
        part = self.kept[first:last]
        if np.issubdtype(part.dtype, np.integer):
            part = to_float(part)
        return tuple(codes[::-1]), arguments[::-1], part


@jit_by_size(128)  # an image has about 12
def _compute(codes: tuple, arguments: list, part: Array) -> tuple[Array, Array, Array]:
    """Compute rows of a map [rows, W, C], and mean and variance [rows, C] of each."""
    x = part[None]
    for code, argument in zip(codes, arguments, strict=True):
        x = (_convolve if isinstance(code, _Code) else _finish)(code, argument, x)
    x = x[0]
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean(1)
    return x, mean, jnp.square(wide - mean[:, None]).mean(1)


def _convolve(code: _Code, argument: tuple[Params, Array], x: Array) -> Array:
    params, begin = argument
    if code.doubles:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    x = jnp.pad(x, ((0, 0), *code.margins, (0, 0)), mode=code.pad_mode)
    x = jax.lax.dynamic_slice_in_dim(x, begin, code.rows, axis=1)
    y: Any = code.conv.apply({"params": params}, x)
    # The outer two rows lack the contribution of the next input row.
    return y[:, 2:-2] if isinstance(code.conv, UpConv) else y


def _finish(activation: Activation | None, norm: Norm | None, x: Array) -> Array:
    if norm is not None:
        wide = x.astype(norm.mean.dtype)
        x = ((wide - norm.mean) * norm.factor + norm.offset).astype(x.dtype)
    return x if activation is None else activation(x)
