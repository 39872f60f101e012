"""3x3 convolutions of stride 1 with fewer multiplications, after Winograd (arXiv:1509.09308).

Every 2x2 block of outputs is computed from a 4x4 tile of inputs: tile and kernel are transformed by
small constant matrices, multiplied, and transformed back. Over all channels and tiles that is one
matrix product for each of the 16 places in a tile, where the plain sum takes 36. Blocks of 2x2 are
the largest whose constants are so small that float32 results stay as close to the truth as those
of the plain sum.

The places are 16 separate products and not one batched one: stacking their operands is a copy, and
in XLA's order of execution it drives them out of the cache.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Matrix = Sequence[Sequence[float]]

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
    _, height, width, channels = y.shape
    y = _extended(y, height + height % 2, width + width % 2)
    blocks = [[y[:, i::2, j::2].reshape(-1, channels) for j in range(2)] for i in range(2)]
    tiles = zip(_tiles(x), _transform(_transposed(OUTPUTS), blocks), strict=True)
    places = [x_tile.T @ y_tile for x_tile, y_tile in tiles]
    kernel = jnp.stack(_transform(_transposed(KERNEL), _in_fours(places)))
    return kernel.reshape(3, 3, *kernel.shape[1:])


def _correlate(x: jax.Array, weights: Sequence[jax.Array]) -> jax.Array:
    batch, height, width = x.shape[0], x.shape[1] - 2, x.shape[2] - 2
    rows, columns = (height + 1) // 2, (width + 1) // 2
    places = [tile @ weight for tile, weight in zip(_tiles(x), weights, strict=True)]
    places = [place.reshape(batch, rows, columns, place.shape[1]) for place in places]
    blocks = _transform(OUTPUTS, _in_fours(places))
    y = jnp.stack([jnp.stack(blocks[:2], 3), jnp.stack(blocks[2:], 3)], 2)
    return y.reshape(batch, 2 * rows, 2 * columns, y.shape[5])[:, :height, :width]


def _tiles(x: jax.Array) -> list[jax.Array]:
    """The 16 places of all transformed tiles of x, each [B * rows * columns, in]."""
    # As `_correlate` counts them: an export's symbols are not known to be equal otherwise.
    rows, columns = ((n - 2 + 1) // 2 for n in x.shape[1:3])
    x = _extended(x, 2 * rows + 2, 2 * columns + 2)
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


def _extended(x: jax.Array, height: int, width: int) -> jax.Array:
    """X with zero rows and columns appended up to the given size."""
    return jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)))
