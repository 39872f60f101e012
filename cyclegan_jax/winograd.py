"""Stride-1 convolutions with fewer multiplications, after Winograd (arXiv:1509.09308).

Every 2x2 block of outputs is computed from a tile of inputs: tile and kernel are transformed by
small constant matrices, multiplied (over channels: one matrix product for each place in the tile),
and transformed back. A 3x3 kernel takes 16 products for a block instead of 36, a 2x2 kernel 9
instead of 16, a 4x4 kernel 25 instead of 64. Blocks are kept at 2x2, where all constants are small,
so that float32 results stay as close to the truth as those of the plain sum.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Matrix = Sequence[Sequence[float]]


class Transforms(NamedTuple):
    """The matrices for one kernel size r; a tile has r + 1 places in each direction."""

    inputs: Matrix  # [r + 1, r + 1]
    kernel: Matrix  # [r + 1, r]
    outputs: Matrix  # [2, r + 1]


TRANSFORMS = {
    2: Transforms(
        inputs=((1, -1, 0), (0, 1, 0), (0, -1, 1)),
        kernel=((1, 0), (1, 1), (0, 1)),
        outputs=((1, 1, 0), (0, 1, 1)),
    ),
    3: Transforms(
        inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        kernel=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        outputs=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
}


def correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlation without padding of x [B, H, W, in] with kernel [r, r, in, out]."""
    return _apply(x, kernel, "pni,pio->pno")


def correlate_turned(y: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlation of y [B, H, W, out] with the kernel turned by 180 degrees and transposed.

    With y padded by r - 1 on all sides this is the gradient of `correlate` for its input. The
    transposition is left to the matrix product, which has it for nothing.
    """
    return _apply(y, kernel[::-1, ::-1], "pno,pio->pni")


def weigh(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The gradient of `correlate` with respect to the kernel, from the inputs and the cotangent."""
    size = x.shape[1] - cotangent.shape[1] + 1
    matrices = TRANSFORMS[size]
    batch, height, width, channels = cotangent.shape
    rows, columns = _halves(height), _halves(width)
    cotangent = _extend(cotangent, 2 * rows, 2 * columns)
    blocks = [[cotangent[:, i::2, j::2] for j in range(2)] for i in range(2)]
    tiles = jnp.stack(_transform(_transposed(matrices.outputs), blocks))
    tiles = tiles.reshape(-1, batch * rows * columns, channels)
    grid = jnp.einsum("pni,pno->pio", _input_tiles(x, size), tiles)
    grid = grid.reshape(size + 1, size + 1, *grid.shape[1:])
    kernel = jnp.stack(_transform(_transposed(matrices.kernel), [list(row) for row in grid]))
    return kernel.reshape(size, size, *kernel.shape[1:])


def _apply(x: jax.Array, kernel: jax.Array, product: str) -> jax.Array:
    size = kernel.shape[0]
    matrices = TRANSFORMS[size]
    batch, height, width = x.shape[0], x.shape[1] - size + 1, x.shape[2] - size + 1
    weights = jnp.stack(_transform(matrices.kernel, [list(row) for row in kernel]))
    products = jnp.einsum(product, _input_tiles(x, size), weights)

    rows, columns = _halves(height), _halves(width)
    grid = products.reshape(size + 1, size + 1, batch, rows, columns, -1)
    blocks = _transform(matrices.outputs, [list(row) for row in grid])
    y = jnp.stack([jnp.stack(blocks[:2], 3), jnp.stack(blocks[2:], 3)], 2)
    return y.reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _input_tiles(x: jax.Array, size: int) -> jax.Array:
    """All tiles of x, transformed: [places, B * rows * columns, in]."""
    rows, columns = (_halves(n - size + 1) for n in x.shape[1:3])
    x = _extend(x, 2 * rows + size - 1, 2 * columns + size - 1)
    places = range(size + 1)
    grid = [
        [x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for j in places]
        for i in places
    ]
    tiles = jnp.stack(_transform(TRANSFORMS[size].inputs, grid))
    return tiles.reshape(len(tiles), -1, x.shape[3])


def _transform(matrix: Matrix, grid: list[list[jax.Array]]) -> list[jax.Array]:
    """The entries of `matrix @ grid @ matrix.T`, row by row; entries of the grid are arrays."""
    half = [[_combined(line, column) for column in zip(*grid, strict=True)] for line in matrix]
    return [_combined(line, row) for row in half for line in matrix]


def _combined(factors: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
    """The sum of the arrays times their factors, of which most are 0, 1 or -1."""
    terms = [
        a if f == 1 else -a if f == -1 else f * a for f, a in zip(factors, arrays, strict=True) if f
    ]
    return sum(terms[1:], start=terms[0])


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _halves(n: int) -> int:
    return (n + 1) // 2


def _extend(x: jax.Array, height: int, width: int) -> jax.Array:
    """X with zero rows and columns appended up to the given size."""
    return jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)))
