"""Gradients in bfloat16 against those in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.generators import ResNetGenerator
from cyclegan_jax.layers import Style


@pytest.fixture(scope="module")
def pictures():
    """A picture of 64x64 to translate, and one to be like."""
    return np.random.default_rng(0).uniform(-1, 1, (2, 1, 64, 64, 3)).astype(np.float32)


def gradient(activation, dtype, pictures, params=None):
    """Parameters, and the gradient of the squared distance to the second picture by them."""
    x, target = pictures
    network = ResNetGenerator(3, 16, Style(dtype=dtype), 0.0, blocks=3, activation=activation)
    if params is None:
        params = network.init(jax.random.key(0), x)

    def loss(params):
        return jnp.mean(jnp.square(network.apply(params, x) - target))

    leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
    return params, np.concatenate([np.ravel(leaf) for leaf in leaves])


def distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_gradients_of_a_smooth_network(pictures):
    """Within 2 per cent of float32's, where no activation has a kink."""
    params, expected = gradient(jnp.tanh, jnp.float32, pictures)
    _, found = gradient(jnp.tanh, jnp.bfloat16, pictures, params)
    assert 1e-4 < distance(found, expected) < 0.02


def test_gradients_of_a_generator(pictures):
    """Not twice as far off as float32's own, where the parameters alone are rounded.

    ReLUs near zero change sides by the smallest roundings, so that far is as close as one can be.
    """
    params, expected = gradient(jax.nn.relu, jnp.float32, pictures)
    _, found = gradient(jax.nn.relu, jnp.bfloat16, pictures, params)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    _, of_rounded = gradient(jax.nn.relu, jnp.float32, pictures, rounded)
    assert distance(found, expected) < 2 * distance(of_rounded, expected)
