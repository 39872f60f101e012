"""3x3 convolutions of stride 1 with fewer multiplications, after Winograd (arXiv:1509.09308).

Every 2x2 block of outputs is computed from a 4x4 tile of inputs: tile and kernel are transformed by
small constant matrices, multiplied, and transformed back. Over all channels and tiles that is one
matrix product for each of the 16 places in a tile, where the plain sum takes 36. Blocks of 2x2 are
the largest whose constants are so small that float32 results stay as close to the truth as those
of the plain sum.

The places are 16 separate products and not one batched one: stacking their operands is a copy, and
in XLA's order of execution it drives them out of the cache.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from cyclegan_jax.ops.blocking import Piece, over_pieces

Matrix = Sequence[Sequence[float]]
Carry = TypeVar("Carry")

# Bytes of inputs and outputs in a piece: an image of 64x64 with 256 channels is one.
PIECE = 9 * 2**20

# Written for one direction: outputs = OUTPUTS @ ((KERNEL @ kernel) * (INPUTS @ tile)).
INPUTS: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
OUTPUTS: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))


def correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlation without padding of x [B, H, W, in] with kernel [3, 3, in, out]."""
    return _correlate(x, _transform(KERNEL, [list(row) for row in kernel]))


def correlate_turned(y: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlation of y [B, H, W, out] with the kernel turned by 180 degrees and transposed.

    With y padded by 2 on all sides this is the gradient of `correlate` for its input. The
    transposition is left to the matrix product, which has it for nothing.
    """
    turned = _transform(KERNEL, [list(row) for row in kernel[::-1, ::-1]])
    return _correlate(y, [weights.T for weights in turned])


def weigh(x: jax.Array, y: jax.Array) -> jax.Array:
    """The gradient of `correlate` for its kernel, from x and the cotangent y of the output."""
    x, y = _extended(x, y.shape[1], y.shape[2], 2), _extended(y, y.shape[1], y.shape[2], 0)
    channels_in, channels_out = x.shape[3], y.shape[3]

    def add(totals: list, piece: Piece) -> list:
        tiles, part = _tiles(piece.of(x, 2, more=2)), piece.of(y, 2)
        blocks = [[part[:, i::2, j::2] for j in range(2)] for i in range(2)]
        cotangents = [
            place.reshape(-1, channels_out) for place in _transform(_transposed(OUTPUTS), blocks)
        ]
        pairs = zip(totals, tiles, cotangents, strict=True)
        return [total + tile.T @ cotangent for total, tile, cotangent in pairs]

    totals = [jnp.zeros((channels_in, channels_out), x.dtype)] * 16
    totals = _over_pieces(add, totals, x, y)
    kernel = jnp.stack(_transform(_transposed(KERNEL), _in_fours(totals)))
    return kernel.reshape(3, 3, channels_in, channels_out)


def _correlate(x: jax.Array, weights: Sequence[jax.Array]) -> jax.Array:
    height, width = x.shape[1] - 2, x.shape[2] - 2
    x = _extended(x, height, width, 2)

    def write(y: jax.Array, piece: Piece) -> jax.Array:
        places = [
            (tile @ weight).reshape(piece.images, piece.rows, -1, y.shape[3])
            for tile, weight in zip(_tiles(piece.of(x, 2, more=2)), weights, strict=True)
        ]
        blocks = _transform(OUTPUTS, _in_fours(places))
        pairs = jnp.stack([jnp.stack(blocks[:2], 3), jnp.stack(blocks[2:], 3)], 2)
        return piece.put(y, pairs.reshape(piece.images, 2 * piece.rows, *y.shape[2:]), 2)

    shape = (x.shape[0], x.shape[1] - 2, x.shape[2] - 2, weights[0].shape[1])
    y = jnp.zeros(shape, x.dtype)
    return _over_pieces(write, y, x, y)[:, :height, :width]


def _over_pieces(body: Callable[..., Carry], carry: Carry, x: jax.Array, y: jax.Array) -> Carry:
    """Over rows of tiles: of inputs x that are extended, and outputs like y."""
    row_size = 2 * math.prod(x.shape[2:]) * x.dtype.itemsize
    row_size += 2 * math.prod(y.shape[2:]) * y.dtype.itemsize
    images, height = y.shape[:2]
    return over_pieces(body, carry, images=images, rows=height // 2, row_size=row_size, most=PIECE)


def _tiles(x: jax.Array) -> list[jax.Array]:
    """The 16 places of all transformed tiles of x, each [B * rows * columns, in]."""
    # Counted so that an export's symbols are known to be equal.
    rows, columns = ((n - 2) // 2 for n in x.shape[1:3])
    grid = [
        [x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for j in range(4)]
        for i in range(4)
    ]
    return [place.reshape(-1, x.shape[3]) for place in _transform(INPUTS, grid)]


def _transform(matrix: Matrix, grid: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
    """The entries, row by row, of `matrix @ grid @ matrix.T`; a grid's entries are arrays."""
    half = [[_combined(line, column) for column in zip(*grid, strict=True)] for line in matrix]
    return [_combined(line, row) for row in half for line in matrix]


def _combined(factors: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
    """The sum of the arrays times their factors, of which most are 0, 1 or -1."""
    pairs = [(f, a) for f, a in zip(factors, arrays, strict=True) if f]
    terms = [a if f == 1 else -a if f == -1 else f * a for f, a in pairs]
    return sum(terms[1:], start=terms[0])


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _in_fours(places: Sequence[jax.Array]) -> list[Sequence[jax.Array]]:
    return [places[i : i + 4] for i in range(0, 16, 4)]


def _extended(x: jax.Array, height: int, width: int, more: int) -> jax.Array:
    """X with zero rows and columns appended, to `height` and `width` made even and some more."""
    rows, columns = (
        n + n % 2 + more - m for n, m in zip((height, width), x.shape[1:3], strict=True)
    )
    return jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)))
