"""Gradients in bfloat16: against those in float32, and where there is nothing but rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.models.discriminators import PatchDiscriminator
from cyclegan_jax.models.generators import ResNetGenerator, UNetGenerator
from cyclegan_jax.models.layers import Conv, Style


@pytest.fixture(scope="module")
def images():
    """An image of 64x64 to translate, and one to be like."""
    return np.random.default_rng(0).uniform(-1, 1, (2, 1, 64, 64, 3)).astype(np.float32)


def gradient(activation, dtype, images, params=None):
    """Parameters, and the gradient of the squared distance to the second image by them."""
    x, target = images
    network = ResNetGenerator(3, 16, Style(dtype=dtype), 0.0, blocks=3, activation=activation)
    if params is None:
        params = network.init(jax.random.key(0), x)

    def loss(params):
        return jnp.mean(jnp.square(network.apply(params, x) - target))

    leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
    return params, np.concatenate([np.ravel(leaf) for leaf in leaves])


def distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_gradients_of_a_smooth_network(images):
    """Within 2 per cent of float32's, where no activation has a kink."""
    params, expected = gradient(jnp.tanh, jnp.float32, images)
    _, found = gradient(jnp.tanh, jnp.bfloat16, images, params)
    assert 1e-4 < distance(found, expected) < 0.02


def test_gradients_of_a_generator(images):
    """As long, and not twice as far off as float32's own where the parameters alone are rounded.

    ReLUs near zero change sides by the smallest roundings, so that far is as close as one can be.
    """
    params, expected = gradient(jax.nn.relu, jnp.float32, images)
    _, found = gradient(jax.nn.relu, jnp.bfloat16, images, params)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    _, of_rounded = gradient(jax.nn.relu, jnp.float32, images, rounded)
    assert distance(found, expected) < 2 * distance(of_rounded, expected)
    assert abs(np.linalg.norm(found) / np.linalg.norm(expected) - 1) < 0.02


NORMED = Style(dtype=jnp.bfloat16)


@pytest.mark.parametrize(
    ("network", "without_norm"),
    [
        (ResNetGenerator(3, 4, NORMED, 0.0, blocks=1), {"head"}),
        (UNetGenerator(3, 4, NORMED, 0.0, depth=4), {"down_0", "down_3", "up_0"}),
        (PatchDiscriminator(4, NORMED, 2), {"conv_0", "conv_3"}),
    ],
)
def test_offsets_before_a_norm_stay(network, without_norm):
    """A norm takes them away, so their gradient is 0, and not rounding errors for Adam to follow.

    Set to anything, they change nothing; those of layers without a norm do.
    """
    x = np.random.default_rng(1).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    params = network.init(jax.random.key(0), x)["params"]

    @jax.jit
    def differentiate(params):
        def loss(params):
            y = network.apply({"params": params}, x)
            return jnp.mean(jnp.square(y - 0.3)), y

        return jax.grad(loss, has_aux=True)(params)

    def offsets(tree):
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {path[0].key: leaf for path, leaf in flat if path[-1].key == "bias"}

    gradients, y = differentiate(params)
    found = offsets(gradients)
    assert len(found) > len(without_norm)
    assert {name for name, leaf in found.items() if np.any(leaf != 0)} == without_norm

    def shifted(path, leaf):
        return leaf + (path[-1].key == "bias" and path[0].key not in without_norm)

    _, same = differentiate(jax.tree_util.tree_map_with_path(shifted, params))
    np.testing.assert_array_equal(same, y)


def test_gradient_of_an_offset_is_a_sum_in_float32():
    """Of 65,536 ones; in bfloat16 the sum would stop at 256."""
    layer = Conv(1, 1, Style(dtype=jnp.bfloat16))
    x = np.zeros((1, 256, 256, 1), np.float32)
    params = layer.init(jax.random.key(0), x)
    gradients = jax.grad(lambda p: layer.apply(p, x).astype(jnp.float32).sum())(params)
    assert gradients["params"]["bias"] == 65536
