"""Convolutions and their gradients as matrix products, for CPUs.

As convolutions, the same sums make XLA's CPU backend dilate arrays or slide windows as large as the
image: up to three times slower, and thirty times inside a loop.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from cyclegan_jax.ops.blocking import Block, over_blocks
from cyclegan_jax.ops.forms import widened
from cyclegan_jax.ops.matmul import channels_first, multiply

Pads = tuple[int, int]
Contributions = list[tuple[int, int]]

# Bytes of a block's operands: the fastest among powers of two and 3 MiB.
BLOCK_BYTES = 3 * 2**20


def correlate(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Compute a convolution as products of patches of its input.

    Args:
        x: Padded input, [B, H, W, in].
        kernel: [kh, kw, in, out].
        stride: Step of the window.

    Returns:
        [B, (H - kh) // stride + 1, (W - kw) // stride + 1, out].
    """
    *window, _, channels_out = kernel.shape
    height, width = ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], window, strict=True))
    matrix = kernel.reshape(-1, channels_out)

    def write(y: jax.Array, block: Block) -> jax.Array:
        part = block.of(x, stride, more=window[0] - stride)
        columns = [part[:, :, j::stride][:, :, :width] for j in range(window[1])]
        places = [c[:, i::stride][:, : block.rows] for i in range(window[0]) for c in columns]
        patches = jnp.concatenate(places, 3).reshape(-1, len(matrix))
        products = multiply(patches, matrix, x.dtype).astype(y.dtype)
        return block.put(y, products.reshape(block.images, block.rows, *y.shape[2:]))

    y = jnp.zeros((x.shape[0], height, width, channels_out), x.dtype)
    row_size = width * (len(matrix) + channels_out) * x.dtype.itemsize
    return over_blocks(
        write, y, images=x.shape[0], rows=height, row_size=row_size, max_bytes=BLOCK_BYTES
    )


def weigh(x: jax.Array, y: jax.Array, window: tuple[int, int], stride: int) -> jax.Array:
    """Compute the gradient of a convolution with respect to its kernel.

    Args:
        x: Padded input of the convolution, [B, H, W, in].
        y: Cotangent of its output, [B, H', W', out].
        window: Height and width of the kernel.
        stride: Stride of the convolution.

    Returns:
        [*window, in, out], float32 at least: kernel[d] = sum over i of x[stride i + d].T @ y[i].
    """
    channels_in, (images, height, width, channels_out) = x.shape[3], y.shape

    def add(total: jax.Array, block: Block) -> jax.Array:
        part = channels_first(block.of(x, stride, more=window[0] - stride))
        cotangent = block.of(y).reshape(-1, channels_out)
        # The columns of the window as channels.
        part = jnp.concatenate([part[..., j::stride][..., :width] for j in range(window[1])])
        products = [
            multiply(rows.reshape(len(part), -1), cotangent, x.dtype)
            for rows in (part[:, :, i::stride][:, :, : block.rows] for i in range(window[0]))
        ]
        return total + jnp.concatenate(products)

    total = widened(jnp.zeros((window[0] * window[1] * channels_in, channels_out), x.dtype))
    values = stride * math.prod(x.shape[2:]) + math.prod(y.shape[2:])
    row_size = values * x.dtype.itemsize
    total = over_blocks(
        add, total, images=images, rows=height, row_size=row_size, max_bytes=BLOCK_BYTES
    )
    return total.reshape(*window, channels_in, channels_out)


def spread(
    y: jax.Array, kernel: jax.Array, padding: tuple[Pads, Pads], pixels: tuple[int, int]
) -> jax.Array:
    """Compute the gradient of a convolution of stride 2 with respect to its input.

    Args:
        y: Cotangent of the convolution's output, [B, H', W', out].
        kernel: [kh, kw, in, out], with sides of at least 2.
        padding: ((top, bottom), (left, right)) padding of the input.
        pixels: Height H and width W of the input.

    Returns:
        [B, H, W, in]: x[2 i + d] += y[i] @ kernel[d].T, cropped by the padding.
    """
    *window, channels_in, channels_out = kernel.shape
    half_height, half_width = (-(-side // 2) for side in pixels)
    # Row 2 a + e is the sum over these (d, offset) of the products of y[a + offset] and kernel[d].
    rows, columns = (
        [_contributions(size, e + before) for e in (0, 1)]
        for size, (before, _) in zip(window, padding, strict=True)
    )
    (top, bottom), (left, right) = map(_reach, (rows, columns))
    pads = (
        (0, 0, 0),
        (-top, half_height + bottom - y.shape[1], 0),
        (-left, half_width + right - y.shape[2], 0),
        (0, 0, 0),
    )
    y = lax.pad(y, jnp.zeros((), y.dtype), pads)
    matrix = kernel.transpose(3, 0, 1, 2).reshape(channels_out, -1)

    def write(x: jax.Array, block: Block) -> jax.Array:
        part = block.of(y, more=bottom - top)
        products = multiply(part.reshape(-1, channels_out), matrix, y.dtype).reshape(
            *part.shape[:3], *window, channels_in
        )

        def sum_of(row: Contributions, column: Contributions) -> jax.Array:
            terms = [
                products[:, i - top :, j - left :, d, f][:, : block.rows, :half_width]
                for d, i in row
                for f, j in column
            ]
            return sum(terms[1:], start=terms[0])

        pairs = jnp.stack([jnp.stack([sum_of(r, c) for c in columns], 3) for r in rows], 2)
        pairs = pairs.astype(x.dtype)
        return block.put(x, pairs.reshape(block.images, 2 * block.rows, *x.shape[2:]), 2)

    x = jnp.zeros((y.shape[0], 2 * half_height, 2 * half_width, channels_in), y.dtype)
    row_size = (math.prod(y.shape[2:]) + 2 * math.prod(x.shape[2:])) * y.dtype.itemsize
    x = over_blocks(
        write, x, images=x.shape[0], rows=half_height, row_size=row_size, max_bytes=BLOCK_BYTES
    )
    return x[:, : pixels[0], : pixels[1]]


def _contributions(size: int, place: int) -> Contributions:
    return [(d, (place - d) // 2) for d in range(size) if (place - d) % 2 == 0]


def _reach(contributions: list[Contributions]) -> tuple[int, int]:
    offsets = [offset for pairs in contributions for _, offset in pairs]
    return min(offsets), max(offsets)
