"""The kernel of norms, interpreted on the CPU: values and gradients are those of the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax import ops
from cyclegan_jax.ops import pallas_norm
from cyclegan_jax.ops.pallas_norm import Settings, fits, formula, normalise_padded

EPSILON = 1e-5


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Run kernels without a GPU."""
    monkeypatch.setattr(pallas_norm, "interpreted", True)


def random(*shape, dtype=np.float32, seed=0):
    """Return numbers of mean 0.3."""
    return jnp.asarray(np.random.default_rng(seed).normal(0.3, 1, shape), dtype)


def padded(n, padding):
    return n + 2 * padding


def border(padding):
    return ((0, 0), (padding, padding), (padding, padding), (0, 0))


def kernel_and_formula(settings):
    """Return two functions of a map and a residual stream."""

    def kernel(x, residual):
        return normalise_padded(x, residual, **settings._asdict())

    def plain(x, residual):
        return formula(settings, x, residual)

    return kernel, plain


CASES = [
    # Powers of two, with one program and with three for the channels.
    ((8, 8), 8, 0.0, 1, None, "float32"),
    ((8, 8), 24, 1.0, 1, 1, "bfloat16"),
    # Other sizes, whose programs have pixels outside of the image.
    ((7, 9), 24, 0.2, 0, None, "float32"),
    ((7, 9), 8, 1.0, 1, 1, "float32"),
    ((31, 31), 16, 0.2, 0, None, "bfloat16"),
    # Pixels that are shown three times, and a stream with less padding or more.
    ((3, 5), 8, 1.0, 2, 0, "float32"),
    ((5, 4), 8, 0.0, 1, 3, "float32"),
    ((5, 8), 16, 1.0, 0, 2, "bfloat16"),
]


@pytest.mark.parametrize(
    ("size", "channels", "slope", "padding", "residual_padding", "dtype"), CASES
)
def test_values_and_gradients(size, channels, slope, padding, residual_padding, dtype):
    """Both uses of the result have a gradient, and so do the map and the residual stream."""
    batch, tolerance = 2, {"float32": 2e-6, "bfloat16": 0.01}[dtype]
    settings = Settings(EPSILON, slope, padding, residual_padding or 0)
    x = random(batch, *size, channels, dtype=dtype)
    assert fits(x)
    residual = None
    if residual_padding is not None:
        sides = [padded(n, residual_padding) for n in size]
        residual = random(batch, *sides, channels, dtype=dtype, seed=1)
    sides = [padded(n, padding) for n in size]
    gradients = (
        random(batch, *sides, channels, dtype=dtype, seed=2),
        # Of the residual stream only the inner pixels are read.
        jnp.pad(random(batch, *size, channels, dtype=dtype, seed=3), border(padding)),
    )

    def exact(array):
        return None if array is None else array.astype(jnp.float32)

    kernel, plain = kernel_and_formula(settings)
    (values, twice), pullback = jax.vjp(kernel, x, residual)
    expected, exact_pullback = jax.vjp(plain, exact(x), exact(residual))
    got = (values, twice, *pullback(gradients))
    want = (*expected, *exact_pullback(tuple(map(exact, gradients))))
    for a, b in zip(got, want, strict=True):
        if b is None:
            assert a is None
            continue
        assert a.dtype == dtype
        scale = np.abs(b).max()
        np.testing.assert_allclose(exact(a), b, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("residual_padding", [None, 1])
def test_second_derivatives(residual_padding):
    """Gradients of a gradient's square, as in gradient penalties, are those of the formula."""
    settings = Settings(EPSILON, 0.2, 1, residual_padding or 0)
    x, direction = random(1, 6, 5, 8), random(1, 8, 7, 8, seed=1)
    residual = None if residual_padding is None else random(1, 8, 7, 8, seed=2)

    def penalty(function, x, direction, residual):
        def score(x):
            return jnp.sum(jnp.square(function(x, residual)[0]) * direction)

        return jnp.sum(jnp.square(jax.grad(score)(x)))

    kernel, plain = kernel_and_formula(settings)
    got = jax.grad(penalty, (1, 2, 3))(kernel, x, direction, residual)
    want = jax.grad(penalty, (1, 2, 3))(plain, x, direction, residual)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_gradient_of_a_flat_channel():
    """Activations have the slope at 0 that they have in JAX."""
    x, gradient = jnp.full((1, 4, 4, 8), 0.5), random(1, 4, 4, 8)
    for slope in (0.0, 0.2):
        kernel, _ = kernel_and_formula(Settings(EPSILON, slope, 0, 0))

        def plain(x, slope=slope):
            y = ops.normalise(x, EPSILON)
            return jax.nn.relu(y) if slope == 0 else jax.nn.leaky_relu(y, slope)

        (got,) = jax.vjp(lambda x, kernel=kernel: kernel(x, None)[0], x)[1](gradient)
        (want,) = jax.vjp(plain, x)[1](gradient)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "fitting"),
    [
        ((1, 64, 64, 256), "bfloat16", True),
        ((16, 31, 31, 512), "bfloat16", True),
        ((1, 64, 64, 256), "float32", True),
        ((1, 64, 64, 4), "float32", True),
        # Too large for registers; too few channels to read whole sectors; float64.
        ((1, 65, 64, 256), "bfloat16", False),
        ((1, 128, 128, 128), "bfloat16", False),
        ((1, 64, 64, 4), "bfloat16", False),
        ((1, 64, 64, 252), "bfloat16", False),
        ((1, 64, 64, 256), "float16", False),
    ],
)
def test_feature_maps_that_fit(shape, dtype, fitting):
    """Others have XLA's form."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    assert fits(x) == fitting
    assert not ops.fits_kernel(x)
    with ops.default_form("triton"):
        assert ops.fits_kernel(x) == fitting


def test_float64_does_not_fit():
    """Statistics are float32."""
    with jax.enable_x64(True):
        assert not fits(jax.ShapeDtypeStruct((1, 8, 8, 8), "float64"))
