"""Work done in pieces that fit into a CPU's cache: several images, or bands of rows of one.

What is computed on the way does not leave the cache, and what is compiled does not grow with
images and batches.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
from jax import lax

Carry = TypeVar("Carry")


class Piece(NamedTuple):
    """Rows of images: from where, and how many.

    Attributes:
      image: the first.
      row: the first of each.
      images: how many; known when compiling, as are `rows`.
      rows: how many of each.
    """

    image: jax.Array | int
    row: jax.Array | int
    images: int
    rows: int

    def of(self, x: jax.Array, stride: int = 1, more: int = 0) -> jax.Array:
        """What x [B, H, W, C] has there.

        Args:
          x: has `stride` rows for one of the piece.
          stride: see x.
          more: rows after the piece that are needed with it, less if negative.
        """
        start = (self.image, stride * self.row, 0, 0)
        return lax.dynamic_slice(x, start, (self.images, stride * self.rows + more, *x.shape[2:]))

    def put(self, x: jax.Array, part: jax.Array, stride: int = 1) -> jax.Array:
        """X with this part of it replaced; it has `stride` rows for one of the piece."""
        return lax.dynamic_update_slice(x, part, (self.image, stride * self.row, 0, 0))


def over_pieces(
    body: Callable[[Carry, Piece], Carry],
    carry: Carry,
    *,
    images: int,
    rows: int,
    row_size: int,
    most: int,
) -> Carry:
    """What `body` makes of `carry`, one piece after the other.

    Args:
      body: (carry, piece) -> carry.
      carry: to begin with.
      images: how many there are.
      rows: of each of them. May be a symbol of an export, and is not divided then.
      row_size: bytes of what belongs to a row.
      most: bytes of a piece.
    """
    size = rows * row_size
    if not isinstance(size, int):
        return _repeated(images, lambda i, x: body(x, Piece(i, 0, 1, rows)), carry)
    if size <= most:
        group = _even(images, most // size)
        whole = images // group

        def several(i: jax.Array | int, carry: Carry) -> Carry:
            return body(carry, Piece(i * group, 0, group, rows))

        carry = _repeated(whole, several, carry)
        rest = images - whole * group
        return body(carry, Piece(whole * group, 0, rest, rows)) if rest else carry
    height = _even(rows, max(1, most // row_size))
    whole = rows // height

    def band(i: jax.Array | int, carry: Carry) -> Carry:
        return body(carry, Piece(i // whole, i % whole * height, 1, height))

    def last(i: jax.Array | int, carry: Carry) -> Carry:
        return body(carry, Piece(i, whole * height, 1, rows - whole * height))

    carry = _repeated(images * whole, band, carry)
    return _repeated(images, last, carry) if rows > whole * height else carry


def _repeated(times: int, body: Callable[[jax.Array | int, Carry], Carry], carry: Carry) -> Carry:
    """A loop, unless once will do: that compiles faster."""
    if isinstance(times, int) and times == 1:
        return body(0, carry)
    return lax.fori_loop(0, times, body, carry)


def _even(count: int, most: int) -> int:
    """The size of parts of at most `most`, as few and as even as can be."""
    parts = -(-count // most)
    return -(-count // parts)
