"""Work divided by rows and images: every row once, and gradients that stay the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.ops import convolution, gemm, winograd
from cyclegan_jax.ops.blocking import over_blocks
from cyclegan_jax.ops.convolution import convolve, convolve_transposed


@pytest.mark.parametrize(
    ("images", "rows", "most", "sizes"),
    [
        (1, 7, 70, {(1, 7)}),
        (5, 7, 700, {(5, 7)}),
        (5, 7, 140, {(2, 7), (1, 7)}),  # two at a time, and one
        (4, 7, 210, {(2, 7)}),  # three would fit, but leave one alone
        (2, 9, 45, {(1, 3)}),  # four rows would fit: 3 + 3 + 3 are as few pieces
        (2, 7, 45, {(1, 4), (1, 3)}),
        (2, 3, 4, {(1, 1)}),  # not even one row fits
    ],
)
def test_every_row_is_in_one_piece(images, rows, most, sizes):
    """Rows of ten bytes are marked piece by piece: each once, in pieces worked out by hand."""
    found = set()

    def mark(x, piece):
        found.add((piece.images, piece.rows))
        assert piece.of(x).shape == (piece.images, piece.rows, 1, 1)
        return piece.put(x, piece.of(x) + 1)

    x = jnp.zeros((images, rows, 1, 1))
    x = over_blocks(mark, x, images=images, rows=rows, row_size=10, max_bytes=most)
    np.testing.assert_array_equal(x, 1)
    assert found == sizes


# kernel, stride, channels in, channels out
LAYERS = [(7, 1, 3, 5), (7, 1, 5, 3), (3, 2, 5, 6), (4, 2, 3, 6), (4, 1, 6, 1), (3, 1, 64, 64)]


@pytest.mark.parametrize("most", [1, 20_000])
@pytest.mark.parametrize(("size", "stride", "channels_in", "channels_out"), LAYERS)
def test_divided_is_undivided(monkeypatch, most, size, stride, channels_in, channels_out):
    """Row by row and in larger pieces: convolutions of both kinds, and their gradients."""
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
        monkeypatch.setattr(gemm, "BLOCK_BYTES", most)
        monkeypatch.setattr(winograd, "BLOCK_BYTES", most)
        divided = run()
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(divided), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-11 * np.abs(one).max())
