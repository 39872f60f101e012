"""Convolution and transposed convolution, in the form that the backend runs fast.

Images are NHWC, kernels HWIO. Every operation has a "direct" form, XLA's own convolution, which is
fast on GPUs, and a "cpu" form with the same result up to rounding.

A convolution is linear in its input and in its kernel. Its inner product with a cotangent of the
output is therefore linear in three arrays, and has three gradients: `_correlate` (the output),
`_spread` (the gradient for the input, which is also the transposed convolution) and `_weigh` (the
gradient for the kernel). The gradients of each are the other two. This gives gradients of any order
in fast forms; automatic differentiation gives forms that are several times slower on a CPU.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cyclegan_jax.ops import gemm, winograd
from cyclegan_jax.ops.forms import Form, chosen_form, widened
from cyclegan_jax.ops.matmul import operand
from cyclegan_jax.ops.padding import pad_reflected

PadMode = Literal["zero", "reflect"]
Padding = tuple[tuple[int, int], tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_NO_PADDING: Padding = ((0, 0), (0, 0))
# With at most this many channels a matrix product cannot fill the vector units.
_FEW = 4
_BLOCK = (2, 4)
# With at most this many products, gradients use XLA's convolutions, which compile faster.
SMALL = 2**22


class Geometry(NamedTuple):
    """Static properties that two of the three arrays' shapes do not determine."""

    stride: int
    padding: Padding
    pixels: tuple[int, int]  # height and width of the input
    window: tuple[int, int]  # height and width of the kernel


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: Padding = _NO_PADDING,
    pad_mode: PadMode = "zero",
    form: Form | None = None,
) -> jax.Array:
    """Compute a cross-correlation, as PyTorch's Conv2d.

    Args:
        x: [B, H, W, in].
        kernel: [kh, kw, in, out], of x's type.
        stride: Step of the window in both directions.
        padding: ((top, bottom), (left, right)).
        pad_mode: Value of the padding: zeros, or the image reflected about its border pixels.
        form: The form to use; by default the fast one for the backend.

    Returns:
        [B, H', W', out] with H' = (H + padding - kh) // stride + 1.
    """
    if pad_mode == "reflect":
        x = pad_reflected(x, *padding, form)
        padding = _NO_PADDING
    if chosen_form(form) != "cpu":
        return _plain(x, kernel, stride, padding)
    _, height, width, _ = x.shape
    geometry = Geometry(stride, padding, (height, width), (kernel.shape[0], kernel.shape[1]))
    return _correlate(geometry, operand(x), operand(kernel)).astype(x.dtype)


def convolve_transposed(
    x: jax.Array,
    kernel: jax.Array,
    *,
    crop: tuple[int, int] = (0, 0),
    form: Form | None = None,
) -> jax.Array:
    """Compute a transposed convolution of stride 2, as PyTorch's ConvTranspose2d.

    The full result has 2 (H - 1) + k rows, `full[2 i + d] += x[i] @ kernel[d]`, and columns
    alike, and is cropped by `crop`. PyTorch's `padding=p, output_padding=o` is crop (p, p - o).

    Args:
        x: [B, H, W, in].
        kernel: Square kernel [k, k, in, out], of x's type.
        crop: Rows and columns cropped at the start (at least 0) and at the end, where a negative
            number appends zeros.
        form: The form to use; by default the fast one for the backend.

    Returns:
        [B, H', W', out] with H' = 2 (H - 1) + k - sum(crop).
    """
    start, end = crop
    size = kernel.shape[0]
    height, width = (2 * (n - 1) + size - start - end for n in x.shape[1:3])
    if chosen_form(form) != "cpu":
        return _transposed(crop, x, kernel)
    # The input gradient of a convolution of stride 2, which never reads rows past the full result.
    after = max(end, -1)
    pads = (start, after)
    geometry = Geometry(2, (pads, pads), (height + end - after, width + end - after), (size, size))
    y = _spread(geometry, operand(x), operand(kernel).swapaxes(2, 3))
    return _padded(y, (0, after - end), (0, after - end)).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _transposed(crop: tuple[int, int], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute the direct form of `convolve_transposed`."""
    pads = (kernel.shape[0] - 1 - crop[0], kernel.shape[0] - 1 - crop[1])
    return lax.conv_general_dilated(
        x, kernel[::-1, ::-1], (1, 1), (pads, pads), (2, 2), dimension_numbers=_LAYOUT
    )


def _transposed_forward(crop: tuple[int, int], x: jax.Array, kernel: jax.Array) -> tuple:
    return _transposed(crop, x, kernel), (x, kernel)


def _transposed_backward(crop: tuple[int, int], operands: tuple, y: jax.Array) -> tuple:
    """Compute the gradients as those of the convolution of stride 2 that this transposes.

    Automatic differentiation would give the kernel's gradient as a convolution of a dilated x with
    a window as large as y, for which cuDNN has no fast algorithm.
    """
    x, kernel = operands
    start, end = crop
    # Equal pads, where one more row is never read, save GPUs a separate padding pass.
    pads = (start, start if end == start - 1 else end)
    forward = partial(_plain, stride=2, padding=(pads, pads))
    turned = kernel.swapaxes(2, 3)
    (weights,) = jax.linear_transpose(lambda kernel: forward(y, kernel), turned)(x)
    return forward(y, turned), weights.swapaxes(2, 3)


_transposed.defvjp(_transposed_forward, _transposed_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _correlate(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute the output: y[i] = sum over d of x[stride i + d] @ kernel[d], with x padded."""
    if geometry.stride == 1:
        return _correlate_closely(_padded(x, *geometry.padding), kernel)
    return _wide(x, kernel, geometry.stride, geometry.padding)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _spread(geometry: Geometry, y: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute the input's gradient: x[stride i + d] += y[i] @ kernel[d].T, without the padding."""
    stride, padding, pixels, window = geometry
    if stride == 1:
        rows, columns = (
            (k - 1 - before, k - 1 - after)
            for k, (before, after) in zip(window, padding, strict=True)
        )
        y = _padded(y, rows, columns)
        if _suits_winograd(*kernel.shape):
            return winograd.correlate_turned(y, kernel)
        return _correlate_closely(y, kernel[::-1, ::-1].swapaxes(2, 3))
    if _is_small(y, kernel.size // kernel.shape[3]):
        shape = jax.ShapeDtypeStruct((y.shape[0], *pixels, kernel.shape[2]), y.dtype)
        (x,) = jax.linear_transpose(lambda x: _wide(x, kernel, stride, padding), shape)(y)
        return x
    return gemm.spread(y, kernel, padding, pixels)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weigh(geometry: Geometry, x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute the kernel's gradient: sum over i of x[stride i + d].T @ y[i], with x padded."""
    stride, padding, _, window = geometry
    channels_in, channels_out = x.shape[3], y.shape[3]
    if stride == 1 and window == (1, 1):
        return jnp.einsum("bhwi,bhwo->io", _padded(x, *padding), y)[None, None]
    if stride == 1 and _suits_winograd(*window, channels_in, channels_out):
        return winograd.weigh(_padded(x, *padding), y).astype(x.dtype)
    x = _padded(x, *padding)
    if _is_small(y, window[0] * window[1] * channels_in):
        shape = jax.ShapeDtypeStruct((*window, channels_in, channels_out), x.dtype)
        (kernel,) = jax.linear_transpose(lambda k: _wide(x, k, stride, _NO_PADDING), shape)(y)
        return kernel
    if stride == 1 and channels_out <= _FEW < channels_in:
        # The same sums with the arrays exchanged: few inputs are faster than few outputs.
        rows, columns = ((k - 1, k - 1) for k in window)
        kernel = gemm.weigh(_padded(y, rows, columns), x, window, 1)
        return kernel[::-1, ::-1].swapaxes(2, 3).astype(x.dtype)
    return gemm.weigh(x, y, window, stride).astype(x.dtype)


def _correlate_forward(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> tuple:
    return _correlate(geometry, x, kernel), (x, kernel)


def _correlate_backward(geometry: Geometry, operands: tuple, y: jax.Array) -> tuple:
    x, kernel = operands
    return _spread(geometry, y, kernel), _weigh(geometry, x, y)


def _spread_forward(geometry: Geometry, y: jax.Array, kernel: jax.Array) -> tuple:
    return _spread(geometry, y, kernel), (y, kernel)


def _spread_backward(geometry: Geometry, operands: tuple, x: jax.Array) -> tuple:
    y, kernel = operands
    return _correlate(geometry, x, kernel), _weigh(geometry, x, y)


def _weigh_forward(geometry: Geometry, x: jax.Array, y: jax.Array) -> tuple:
    return _weigh(geometry, x, y), (x, y)


def _weigh_backward(geometry: Geometry, operands: tuple, kernel: jax.Array) -> tuple:
    x, y = operands
    return _spread(geometry, y, kernel), _correlate(geometry, x, kernel)


_correlate.defvjp(_correlate_forward, _correlate_backward)
_spread.defvjp(_spread_forward, _spread_backward)
_weigh.defvjp(_weigh_forward, _weigh_backward)


def _correlate_closely(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute a cross-correlation of stride 1 without padding."""
    *window, channels_in, channels_out = kernel.shape
    if window == [1, 1]:
        return x @ kernel[0, 0]
    if _suits_winograd(*kernel.shape):
        return winograd.correlate(x, kernel)
    if channels_out > _FEW or channels_in <= _FEW:
        # Without some padding XLA would run the convolution on one core.
        return _wide(x, kernel, 1, ((0, 1), (0, 1)))[:, :-1, :-1]
    # A product with a matrix of few columns is slow: compute several pixels as channels.
    high, wide = _BLOCK
    height, width = (n - k + 1 for n, k in zip(x.shape[1:3], window, strict=True))
    shifted = [
        jnp.pad(kernel, ((i, high - 1 - i), (j, wide - 1 - j), (0, 0), (0, 0)))
        for i in range(high)
        for j in range(wide)
    ]
    # To whole blocks, and one more for the same reason; sizes may be symbolic in an export.
    dtype = x.dtype
    x = _padded(widened(x), (0, -height % high), (0, -width % wide))
    padding = ((0, 0), (0, wide))
    y = lax.conv_general_dilated(
        x, widened(jnp.concatenate(shifted, 3)), _BLOCK, padding, dimension_numbers=_LAYOUT
    )
    batch, rows, columns, _ = y.shape
    y = y.reshape(batch, rows, columns, high, wide, channels_out).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(batch, rows * high, columns * wide, channels_out)[:, :height, :width]
    return y.astype(dtype)


def _plain(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT)


def _wide(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Compute as `_plain`, but bfloat16 as products: XLA's convolutions on CPUs gain nothing."""
    *_, channels_in, channels_out = kernel.shape
    if x.dtype == jnp.bfloat16 and min(channels_in, channels_out) > _FEW:
        return gemm.correlate(_padded(x, *padding), kernel, stride)
    return _plain(widened(x), widened(kernel), stride, padding).astype(x.dtype)


def _is_small(y: jax.Array, products_each: int) -> bool:
    """Return whether outputs y, each a sum of `products_each` products, are cheap in any form."""
    return isinstance(y.size, int) and y.size * products_each <= SMALL


def _suits_winograd(height: int, width: int, channels_in: int, channels_out: int) -> bool:
    """Return whether saved products outweigh the transforms, whose cost is linear in channels."""
    return height == width == 3 and min(channels_in, channels_out) >= 64


def _padded(x: jax.Array, rows: tuple[int, int], columns: tuple[int, int]) -> jax.Array:
    """Pad x with zeros, or crop it by negative numbers."""
    pads = ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), pads)
