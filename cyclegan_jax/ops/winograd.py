"""3x3 convolutions of stride 1 with fewer multiplications, after Winograd (arXiv:1509.09308).

Every 2x2 patch of outputs is computed from a 4x4 tile of inputs: tile and kernel are transformed by
small constant matrices, multiplied, and transformed back. Over all channels and tiles this is one
matrix product for each of the 16 positions in a tile, where the direct sum takes 36. Patches of 2x2
are the largest whose constants are small enough to keep float32 results as accurate as the direct
sum.

The 16 products are separate rather than batched: stacking their operands is a copy that, in XLA's
order of execution, evicts them from the cache.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from cyclegan_jax.ops.blocking import Block, over_blocks
from cyclegan_jax.ops.forms import widened
from cyclegan_jax.ops.matmul import channels_first, in_order, multiply

Matrix = Sequence[Sequence[float]]
Carry = TypeVar("Carry")

# Bytes of inputs and outputs in a block: one image of 64x64 with 256 channels.
BLOCK_BYTES = 9 * 2**20

# In one dimension: outputs = OUTPUTS @ ((KERNEL @ kernel) * (INPUTS @ tile)).
INPUTS: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
OUTPUTS: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))


def correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlate x, [B, H, W, in], with a kernel, [3, 3, in, out], without padding."""
    return _correlate(x, _weights(kernel))


def correlate_turned(y: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlate y, [B, H, W, out], with the kernel rotated by 180 degrees and transposed.

    With y padded by 2 on all sides this is the gradient of `correlate` with respect to its input.
    """
    return _correlate(y, _weights(in_order(kernel[::-1, ::-1].swapaxes(2, 3))))


def weigh(x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute the gradient of `correlate` for its kernel, from x and the output's cotangent y.

    The result is float32 at least.
    """
    x, y = _extended(x, y.shape[1], y.shape[2], 2), _extended(y, y.shape[1], y.shape[2], 0)
    channels_in, channels_out = x.shape[3], y.shape[3]

    def add(totals: list, block: Block) -> list:
        part = widened(block.of(y, 2))
        blocks = [[part[:, i::2, j::2] for j in range(2)] for i in range(2)]
        cotangents = [
            position.reshape(-1, channels_out)
            for position in _transform(_transposed(OUTPUTS), blocks)
        ]
        grid = channels_first(block.of(x, 2, more=2))
        tiles = [position.reshape(channels_in, -1) for position in _tiles(grid, 2)]
        pairs = zip(totals, tiles, cotangents, strict=True)
        return [total + multiply(tile, c, x.dtype) for total, tile, c in pairs]

    totals = [widened(jnp.zeros((channels_in, channels_out), x.dtype))] * 16
    totals = _over_blocks(add, totals, x, y)
    kernel = jnp.stack(_transform(_transposed(KERNEL), _in_fours(totals)))
    return kernel.reshape(3, 3, channels_in, channels_out)


def _correlate(x: jax.Array, weights: Sequence[jax.Array]) -> jax.Array:
    height, width = x.shape[1] - 2, x.shape[2] - 2
    x = _extended(x, height, width, 2)

    def write(y: jax.Array, block: Block) -> jax.Array:
        positions = [
            multiply(tile.reshape(-1, x.shape[3]), weight, x.dtype).reshape(
                block.images, block.rows, -1, y.shape[3]
            )
            for tile, weight in zip(_tiles(block.of(x, 2, more=2), 1), weights, strict=True)
        ]
        blocks = _transform(OUTPUTS, _in_fours(positions))
        pairs = jnp.stack([jnp.stack(blocks[:2], 3), jnp.stack(blocks[2:], 3)], 2).astype(y.dtype)
        return block.put(y, pairs.reshape(block.images, 2 * block.rows, *y.shape[2:]), 2)

    shape = (x.shape[0], x.shape[1] - 2, x.shape[2] - 2, weights[0].shape[1])
    y = jnp.zeros(shape, x.dtype)
    return _over_blocks(write, y, x, y)[:, :height, :width]


def _weights(kernel: jax.Array) -> list[jax.Array]:
    """Transform a kernel; return the 16 positions, each [in, out]."""
    return _transform(KERNEL, [list(row) for row in widened(kernel)])


def _over_blocks(body: Callable[..., Carry], carry: Carry, x: jax.Array, y: jax.Array) -> Carry:
    """Fold over rows of tiles of extended inputs x and outputs of the shape of y."""
    itemsize = jnp.promote_types(x.dtype, jnp.float32).itemsize  # of the transformed tiles
    row_size = 2 * (math.prod(x.shape[2:]) + math.prod(y.shape[2:])) * itemsize
    images, height = y.shape[:2]
    return over_blocks(
        body, carry, images=images, rows=height // 2, row_size=row_size, max_bytes=BLOCK_BYTES
    )


def _tiles(x: jax.Array, axis: int) -> list[jax.Array]:
    """Transform all tiles of x, whose height is this axis and whose width the next.

    Returns:
        The 16 positions, each like x with the rows and columns of tiles in place of pixels.
    """
    x, before = widened(x), (slice(None),) * axis
    # Computed so that an export's symbolic dimensions are known to be equal.
    rows, columns = (
        [slice(i, i + 2 * ((n - 2) // 2) - 1, 2) for i in range(4)]
        for n in x.shape[axis : axis + 2]
    )
    return _transform(INPUTS, [[x[*before, row, column] for column in columns] for row in rows])


def _transform(matrix: Matrix, grid: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
    """Compute the entries, row by row, of `matrix @ grid @ matrix.T` for a grid of arrays."""
    half = [[_combined(line, column) for column in zip(*grid, strict=True)] for line in matrix]
    return [_combined(line, row) for row in half for line in matrix]


def _combined(factors: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
    """Compute the weighted sum of arrays; most factors are 0, 1 or -1."""
    pairs = [(f, a) for f, a in zip(factors, arrays, strict=True) if f]
    terms = [a if f == 1 else -a if f == -1 else f * a for f, a in pairs]
    return sum(terms[1:], start=terms[0])


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _in_fours(positions: Sequence[jax.Array]) -> list[Sequence[jax.Array]]:
    return [positions[i : i + 4] for i in range(0, 16, 4)]


def _extended(x: jax.Array, height: int, width: int, more: int) -> jax.Array:
    """Append zero rows and columns up to an even height and width, plus `more`."""
    rows, columns = (
        n + n % 2 + more - m for n, m in zip((height, width), x.shape[1:3], strict=True)
    )
    return jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)))
