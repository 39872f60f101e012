"""Work split into blocks of rows and images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.ops import convolution, gemm, winograd
from cyclegan_jax.ops.blocking import over_blocks
from cyclegan_jax.ops.convolution import convolve, convolve_transposed


@pytest.mark.parametrize(
    ("images", "rows", "max_bytes", "sizes"),
    [
        (1, 7, 70, {(1, 7)}),
        (5, 7, 700, {(5, 7)}),
        (5, 7, 140, {(2, 7), (1, 7)}),  # two at a time, and one
        (4, 7, 210, {(2, 7)}),  # three would fit, but leave a single one
        (2, 9, 45, {(1, 3)}),  # four rows would fit, but 3 + 3 + 3 are as few blocks
        (2, 7, 45, {(1, 4), (1, 3)}),
        (2, 3, 4, {(1, 1)}),  # not even one row fits
    ],
)
def test_every_row_is_in_one_block(images, rows, max_bytes, sizes):
    """Rows of ten bytes are visited once each, in blocks of sizes worked out by hand."""
    visited = set()

    def mark(x, block):
        visited.add((block.images, block.rows))
        assert block.of(x).shape == (block.images, block.rows, 1, 1)
        return block.put(x, block.of(x) + 1)

    x = jnp.zeros((images, rows, 1, 1))
    x = over_blocks(mark, x, images=images, rows=rows, row_size=10, max_bytes=max_bytes)
    np.testing.assert_array_equal(x, 1)
    assert visited == sizes


# kernel, stride, channels in, channels out
LAYERS = [(7, 1, 3, 5), (7, 1, 5, 3), (3, 2, 5, 6), (4, 2, 3, 6), (4, 1, 6, 1), (3, 1, 64, 64)]


@pytest.mark.parametrize("max_bytes", [1, 20_000])
@pytest.mark.parametrize(("size", "stride", "channels_in", "channels_out"), LAYERS)
def test_blocks_equal_the_whole(monkeypatch, max_bytes, size, stride, channels_in, channels_out):
    """Convolutions of both kinds and their gradients agree, row by row and in larger blocks."""
    rng = np.random.default_rng(0)

    def run():
        def value(x, kernel):
            y = convolve(x, kernel, stride=stride, padding=((1, 1), (1, 1)), form="cpu")
            if stride == 2:
                y = convolve_transposed(y, kernel.swapaxes(2, 3), crop=(1, 0), form="cpu")
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.grad(value, (0, 1), has_aux=True))(x, kernel)

    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(3, 13, 11, channels_in)))
        kernel = jnp.asarray(rng.normal(size=(size, size, channels_in, channels_out)))
        whole = run()
        monkeypatch.setattr(convolution, "SMALL", 0)
        monkeypatch.setattr(gemm, "BLOCK_BYTES", max_bytes)
        monkeypatch.setattr(winograd, "BLOCK_BYTES", max_bytes)
        blocked = run()
    for expected, actual in zip(jax.tree.leaves(whole), jax.tree.leaves(blocked), strict=True):
        tolerance = 1e-11 * np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)
