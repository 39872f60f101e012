"""Networks in the "triton" form, interpreted on the CPU, are those in the "direct" form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.models.discriminators import DISCRIMINATORS, MultiScaleDiscriminator
from cyclegan_jax.models.generators import GENERATORS
from cyclegan_jax.models.layers import InstanceNorm, LayerConfig
from cyclegan_jax.models.protocol import features
from cyclegan_jax.ops import default_form, pallas_norm
from cyclegan_jax.step import norm

CONFIG = LayerConfig()
# A norm without scale and bias whose epsilon is added to the deviation.
deviation = functools.partial(InstanceNorm, raised="deviation")


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Run kernels without a GPU; the number of calls of the forward kernel."""
    counted = []

    def run(*args, run=pallas_norm._run_forward):
        counted.append(args[0])
        return run(*args)

    monkeypatch.setattr(pallas_norm, "interpreted", True)
    monkeypatch.setattr(pallas_norm, "_run_forward", run)
    return counted


def generator(variant, **fields):
    return GENERATORS[variant](channels=3, config=CONFIG, width=8, **fields)


def discriminator(variant, **fields):
    return DISCRIMINATORS[variant](config=CONFIG, width=8, **fields)


NETWORKS = {
    # Forward kernels: all norms, 5 outside of the blocks and one or two in each.
    "resnet": (generator("resnet3"), 32, 11),
    "single": (generator("resnet7_single", blocks=2), 32, 7),
    "same": (generator("resnet9_same_resize", blocks=1), 32, 7),
    # Dropout separates the first norm of a block from what follows.
    "dropout": (generator("resnet3", dropout=0.5), 32, 8),
    # Traced once more, for what gradients recompute.
    "remat": (generator("resnet3", remat=True), 32, 22),
    # Norms whose map has two uses: none of them with an activation of its own.
    "unet": (generator("unet128"), 128, 0),
    "patch": (discriminator("patch"), 64, 3),
    "pixel": (discriminator("pixel"), 32, 1),
    "scales": (MultiScaleDiscriminator((discriminator("patch"), discriminator("patch"))), 64, 6),
    "affine": (generator("resnet3").clone(config=LayerConfig(norm="instance_affine")), 32, 0),
    "deviation": (
        generator("resnet3").clone(config=LayerConfig(norm="instance_affine_std")),
        32,
        0,
    ),
    "raised": (
        generator("resnet3").clone(config=LayerConfig(norm=f"{__name__}:deviation")),
        32,
        0,
    ),
    "batch": (generator("resnet3").clone(config=LayerConfig(norm="batch")), 32, 0),
    "none": (generator("resnet3").clone(config=LayerConfig(norm="none")), 32, 0),
    "tanh": (generator("resnet3").clone(activation=jnp.tanh), 32, 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, calls):
    """Values and gradients agree, and kernels are used where they can be."""
    network, size, kernels = NETWORKS[name]
    x = jax.random.uniform(jax.random.key(0), (2, size, size, 3), minval=-1)
    keys = [jax.random.split(jax.random.key(1), 2)] if name == "dropout" else []
    with default_form("direct"):
        params = network.init(jax.random.key(2), x, *keys)
    assert not calls

    def run(form):
        def loss(params, x):
            y = network.apply(params, x, *keys)
            return sum(jnp.sum(jnp.sin(3 * leaf)) for leaf in jax.tree.leaves(y)), y

        with default_form(form):
            grad = jax.value_and_grad(loss, (0, 1), has_aux=True)
            return jax.jit(lambda *args: grad(*args))(params, x)

    (_, want), expected = run("direct")
    assert not calls
    (_, got), gradients = run("triton")
    assert len(calls) == kernels
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    difference = norm(jax.tree.map(jnp.subtract, gradients, expected))
    assert difference < 1e-3 * norm(expected)


def test_intermediate_feature_maps():
    """They are those of layers and norms, as without kernels."""
    network, x = generator("resnet3"), jnp.ones((1, 16, 16, 3))
    with default_form("direct"):
        params = network.init(jax.random.key(0), x)["params"]
        layers = ["down_0", "down_0_norm", "block_1", "block_2/norm_1"]
        want = features(network, params, x, layers)
    with default_form("triton"):
        got = features(network, params, x, layers)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), got, want)
