"""Intermediate feature maps are those that the network computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.models.bound import BoundNetwork
from cyclegan_jax.models.discriminators import DISCRIMINATORS, MultiScaleDiscriminator
from cyclegan_jax.models.generators import GENERATORS, ResidualBlock
from cyclegan_jax.models.layers import Conv, LayerConfig, leaky_relu
from cyclegan_jax.models.protocol import features

CONFIG = LayerConfig()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "remat"])
def generator(request):
    """A ResNet with dropout, its parameters, images, and a key for each."""
    remat = request.param
    network = GENERATORS["resnet3"](channels=3, width=4, config=CONFIG, dropout=0.5, remat=remat)
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    params = network.init(jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    return network, params, x, jax.random.split(jax.random.key(2), 2)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_maps_of_a_generator(generator):
    """Layers on their own, applied to the maps before them, compute the maps after them."""
    network, params, x, keys = generator
    names = ["stem", "down_1_norm", "block_0", "block_0/norm_1", "block_2", "head"]
    maps = features(network, params, x, names)
    assert list(maps) == names
    end = functools.partial(Conv, config=CONFIG, size=7, padding=3, pad_mode="reflect")
    # Biases before a norm are not added.
    close(maps["stem"], end(4, normed=True).apply({"params": params["stem"]}, x))
    before = jax.nn.relu(maps["down_1_norm"])
    block = ResidualBlock(CONFIG, 16, 0.5, 2, jax.nn.relu)
    close(maps["block_0"], block.apply({"params": params["block_0"]}, before))
    close(maps["block_0"], before + maps["block_0/norm_1"])
    close(jnp.tanh(maps["head"]), network.apply({"params": params}, x))


def test_maps_with_dropout(generator):
    """With keys, maps are those of the training pass with the same keys."""
    network, params, x, keys = generator
    maps = features(network, params, x, ["head"], keys)
    close(jnp.tanh(maps["head"]), network.apply({"params": params}, x, keys))
    assert np.abs(maps["head"] - features(network, params, x, ["head"])["head"]).max() > 0.01


def test_maps_are_differentiable(generator):
    """Layers up to a map have a gradient, and layers after it have none."""
    network, params, x, _ = generator

    def loss(params):
        return jnp.sum(BoundNetwork(network, params).features(x, ["block_0"])["block_0"] ** 2)

    gradient = jax.jit(jax.grad(loss))(params)
    assert np.any(gradient["stem"]["kernel"] != 0)
    assert not np.any(gradient["block_1"]["conv_0"]["kernel"])


def test_maps_of_discriminators():
    """Nested modules are named by their path, as in the parameters."""
    patch = functools.partial(DISCRIMINATORS["patch"], width=4, layers=1, config=CONFIG)
    network = MultiScaleDiscriminator((patch(), patch()))
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    params = network.init(jax.random.key(1), x)["params"]
    name = "scale_1/conv_0"
    maps = features(network, params, x, [name, "scale_1/conv_1", "scale_0/conv_2"])
    halved = x.reshape(1, 16, 2, 16, 2, 3).mean((2, 4))
    conv = Conv(4, 4, CONFIG, stride=2, padding=1)
    close(maps[name], conv.apply({"params": params["scale_1"]["conv_0"]}, halved))
    conv = Conv(8, 4, CONFIG, padding=1, normed=True)
    close(
        maps["scale_1/conv_1"],
        conv.apply({"params": params["scale_1"]["conv_1"]}, leaky_relu(maps[name])),
    )
    close(maps["scale_0/conv_2"], network.apply({"params": params}, x)[0])


def test_unknown_layers_are_errors(generator):
    """A name that the network does not have is a KeyError."""
    network, params, x, _ = generator
    with pytest.raises(KeyError, match="block_9"):
        features(network, params, x, ["stem", "block_9"])
