"""Reflection padding in one pass over memory, forward and backward."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cyclegan_jax.ops.forms import Form, chosen_form

Pads = tuple[int, int]


def pad_reflected(x: jax.Array, rows: Pads, columns: Pads, form: Form | None = None) -> jax.Array:
    """Pad images by their reflection about the border pixels, as PyTorch's ReflectionPad2d.

    Args:
        x: [B, H, W, C].
        rows: Rows before and after; fewer than H.
        columns: Columns before and after; fewer than W.
        form: The form to use; by default the fast one for the backend.
    """
    if (rows, columns) == ((0, 0), (0, 0)):
        return x
    if chosen_form(form) == "cpu":
        return jnp.pad(x, ((0, 0), rows, columns, (0, 0)), mode="reflect")
    return _padded(x, rows, columns)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _padded(x: jax.Array, rows: Pads, columns: Pads) -> jax.Array:
    # jnp.pad would concatenate rows, then columns: two passes that fuse with nothing.
    height, width = x.shape[1:3]
    return x[:, _shown(height, rows)[:, None], _shown(width, columns)]


def _shown(size: int, pads: Pads) -> jax.Array:
    """Return the pixel that each place of a padded axis shows; sizes may be symbolic."""
    before, after = pads
    pixels = abs(jnp.arange(before + size + after) - before)
    return size - 1 - abs(size - 1 - pixels)


def _forward(x: jax.Array, rows: Pads, columns: Pads) -> tuple[jax.Array, None]:
    return _padded(x, rows, columns), None


def _backward(rows: Pads, columns: Pads, _: None, y: jax.Array) -> tuple[jax.Array]:
    return (_folded(_folded(y, 1, rows), 2, columns),)


def _folded(y: jax.Array, axis: int, pads: Pads) -> jax.Array:
    """Add the padding of an axis to the pixels that it shows."""
    before, after = pads
    size = y.shape[axis] - before - after

    def part(start: int, stop: int) -> jax.Array:
        return lax.slice_in_dim(y, start, stop, axis=axis)

    def placed(x: jax.Array, first: int) -> jax.Array:
        place = [(0, 0, 0)] * y.ndim
        place[axis] = (first, size - first - x.shape[axis], 0)
        return lax.pad(x, jnp.zeros((), x.dtype), place)

    total = part(before, before + size)
    if before:
        total += placed(lax.rev(part(0, before), (axis,)), 1)
    if after:
        total += placed(lax.rev(part(before + size, y.shape[axis]), (axis,)), size - 1 - after)
    return total


_padded.defvjp(_forward, _backward)
