"""Gradients in bfloat16, compared with those in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.models.discriminators import PatchDiscriminator
from cyclegan_jax.models.generators import ResNetGenerator, UNetGenerator
from cyclegan_jax.models.layers import Conv, LayerConfig
from cyclegan_jax.ops import matmul


@pytest.fixture(scope="module")
def images():
    """Two images of 32x32, an input and a target."""
    return np.random.default_rng(0).uniform(-1, 1, (2, 1, 32, 32, 3)).astype(np.float32)


@functools.cache
def compiled_gradient(activation, dtype):
    """Compile the gradient of the squared distance to the target, once for all parameters."""
    network = ResNetGenerator(3, LayerConfig(dtype=dtype), 16, blocks=2, activation=activation)

    def loss(params, x, target):
        return jnp.mean(jnp.square(network.apply(params, x) - target))

    return network, jax.jit(jax.grad(loss))


def gradient(activation, dtype, images, params=None):
    """Return parameters, and the flat gradient of the squared distance to the target for them."""
    network, grad = compiled_gradient(activation, dtype)
    if params is None:
        params = jax.jit(network.init)(jax.random.key(0), images[0])
    leaves = jax.tree.leaves(grad(params, *images))
    return params, np.concatenate([np.ravel(leaf) for leaf in leaves])


def distance(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("products", "limit"), [(False, 0.02), (True, 0.025)])
def test_gradients_of_a_smooth_network(images, monkeypatch, products, limit):
    """They are within 2 per cent of those in float32 where no activation has a kink.

    Winograd's transforms round once more where a CPU multiplies bfloat16.
    """
    compiled_gradient.cache_clear()
    monkeypatch.setattr(matmul, "has_bfloat16_products", lambda: products)
    params, expected = gradient(jnp.tanh, jnp.float32, images)
    _, actual = gradient(jnp.tanh, jnp.bfloat16, images, params)
    compiled_gradient.cache_clear()
    assert 1e-4 < distance(actual, expected) < limit


def test_gradients_of_a_generator(images):
    """Their error is below twice that of rounding the parameters alone, and their norm correct.

    The smallest rounding errors switch ReLUs near zero, so no closer agreement is possible.
    """
    params, expected = gradient(jax.nn.relu, jnp.float32, images)
    _, actual = gradient(jax.nn.relu, jnp.bfloat16, images, params)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    _, of_rounded = gradient(jax.nn.relu, jnp.float32, images, rounded)
    assert distance(actual, expected) < 2 * distance(of_rounded, expected)
    assert abs(np.linalg.norm(actual) / np.linalg.norm(expected) - 1) < 0.02


BFLOAT16 = LayerConfig(dtype=jnp.bfloat16)


@pytest.mark.parametrize(
    ("network", "without_norm"),
    [
        (ResNetGenerator(3, BFLOAT16, 4, blocks=1), {"head"}),
        (UNetGenerator(3, BFLOAT16, 4, depth=4), {"down_0", "down_3", "up_0"}),
        (PatchDiscriminator(BFLOAT16, 4, 2), {"conv_0", "conv_3"}),
    ],
)
def test_biases_before_a_norm_have_no_gradient(network, without_norm):
    """A norm cancels them, so their gradient is exactly 0, not rounding errors for Adam to follow.

    Their values do not change the output.
    """
    x = np.random.default_rng(1).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    params = jax.jit(network.init)(jax.random.key(0), x)["params"]

    @jax.jit
    def differentiate(params):
        def loss(params):
            y = network.apply({"params": params}, x)
            return jnp.mean(jnp.square(y - 0.3)), y

        return jax.grad(loss, has_aux=True)(params)

    def biases(tree):
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {path[0].key: leaf for path, leaf in flat if path[-1].key == "bias"}

    gradients, y = differentiate(params)
    of_biases = biases(gradients)
    assert len(of_biases) > len(without_norm)
    assert {name for name, leaf in of_biases.items() if np.any(leaf != 0)} == without_norm

    def shifted(path, leaf):
        return leaf + (path[-1].key == "bias" and path[0].key not in without_norm)

    _, same = differentiate(jax.tree_util.tree_map_with_path(shifted, params))
    np.testing.assert_array_equal(same, y)


def test_gradient_of_a_bias_is_summed_in_float32():
    """It is a sum of 65,536 ones, which would end at 256 in bfloat16."""
    layer = Conv(1, 1, BFLOAT16)
    x = np.zeros((1, 256, 256, 1), np.float32)
    params = layer.init(jax.random.key(0), x)
    gradients = jax.grad(lambda p: layer.apply(p, x).astype(jnp.float32).sum())(params)
    assert gradients["params"]["bias"] == 65536
