"""Cache blocking: loops over blocks of images, or of rows of one, that fit into a CPU's cache.

Intermediate results stay in the cache, and the compiled program does not grow with images and
batches.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
from jax import lax

Carry = TypeVar("Carry")


class Block(NamedTuple):
    """A range of rows in a range of images.

    Attributes:
        image: First image.
        row: First row of each image.
        images: Number of images, static.
        rows: Number of rows, static.
    """

    image: jax.Array | int
    row: jax.Array | int
    images: int
    rows: int

    def of(self, x: jax.Array, stride: int = 1, more: int = 0) -> jax.Array:
        """Return the block of x, [B, H, W, C].

        Args:
            x: Array with `stride` rows for each row of the block.
            stride: See x.
            more: Additional rows after the block; fewer if negative.
        """
        start = (self.image, stride * self.row, 0, 0)
        return lax.dynamic_slice(x, start, (self.images, stride * self.rows + more, *x.shape[2:]))

    def put(self, x: jax.Array, part: jax.Array, stride: int = 1) -> jax.Array:
        """Return x with the block replaced; x has `stride` rows for each row of the block."""
        return lax.dynamic_update_slice(x, part, (self.image, stride * self.row, 0, 0))


def over_blocks(
    body: Callable[[Carry, Block], Carry],
    carry: Carry,
    *,
    images: int,
    rows: int,
    row_size: int,
    max_bytes: int,
) -> Carry:
    """Fold `body` over all blocks.

    Args:
        body: (carry, block) -> carry.
        carry: Initial value.
        images: Number of images.
        rows: Rows of each image; a symbolic dimension of an export is not split.
        row_size: Bytes that a row needs.
        max_bytes: Size of a block in bytes.
    """
    size = rows * row_size
    if not isinstance(size, int):
        return _repeated(images, lambda i, x: body(x, Block(i, 0, 1, rows)), carry)
    if size <= max_bytes:
        group = _even(images, max_bytes // size)
        whole = images // group

        def several(i: jax.Array | int, carry: Carry) -> Carry:
            return body(carry, Block(i * group, 0, group, rows))

        carry = _repeated(whole, several, carry)
        rest = images - whole * group
        return body(carry, Block(whole * group, 0, rest, rows)) if rest else carry
    height = _even(rows, max(1, max_bytes // row_size))
    whole = rows // height

    def band(i: jax.Array | int, carry: Carry) -> Carry:
        return body(carry, Block(i // whole, i % whole * height, 1, height))

    def last(i: jax.Array | int, carry: Carry) -> Carry:
        return body(carry, Block(i, whole * height, 1, rows - whole * height))

    carry = _repeated(images * whole, band, carry)
    return _repeated(images, last, carry) if rows > whole * height else carry


def _repeated(times: int, body: Callable[[jax.Array | int, Carry], Carry], carry: Carry) -> Carry:
    """Run a loop; a single iteration is not a loop, which compiles faster."""
    if isinstance(times, int) and times == 1:
        return body(0, carry)
    return lax.fori_loop(0, times, body, carry)


def _even(count: int, most: int) -> int:
    """Return the size of the fewest and most even parts of at most `most`."""
    parts = -(-count // most)
    return -(-count // parts)
