"""The published variants: parameter counts, shapes, initial weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.models.discriminators import build_discriminator
from cyclegan_jax.models.generators import build_generator, check_generator_size
from cyclegan_jax.models.layers import INITIALIZERS, Style, initializer
from cyclegan_jax.state import count_parameters
from cyclegan_jax.utils.errors import UserError

# Published, but for resnet3, which is resnet9 less six blocks of 2 * (9 * 256 * 256 + 256).
GENERATOR_COUNTS = {
    "resnet3": 11_378_179 - 6 * 1_180_160,
    "resnet6": 7_837_699,
    "resnet9": 11_378_179,
    "unet128": 41_825_667,
    "unet256": 54_409_603,
}
DISCRIMINATOR_COUNTS = {"patch": 2_764_737, "pixel": (3 * 64 + 64) + (64 * 128 + 128) + (128 + 1)}


def parameters_and_output(network, shape):
    """Shapes alone; nothing is computed."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), x)
    return params["params"], jax.eval_shape(network.apply, params, x)


@pytest.mark.parametrize("variant", GENERATOR_COUNTS)
def test_generator_counts_and_shape(variant):
    """Each variant has its published number of parameters and keeps the image's size."""
    network = build_generator(variant, channels=3, width=64, style=Style())
    params, output = parameters_and_output(network, (2, 256, 256, 3))
    assert count_parameters(params) == GENERATOR_COUNTS[variant]
    assert output.shape == (2, 256, 256, 3)


@pytest.mark.parametrize("variant", DISCRIMINATOR_COUNTS)
def test_discriminator_counts(variant):
    """Each variant has its published number of parameters."""
    network = build_discriminator(variant, width=64, style=Style())
    params, _ = parameters_and_output(network, (1, 256, 256, 3))
    assert count_parameters(params) == DISCRIMINATOR_COUNTS[variant]


@pytest.mark.parametrize(("layers", "scores"), [(1, 126), (2, 62), (3, 30), (4, 14)])
def test_patch_scores(layers, scores):
    """30x30 scores for 256x256 as published; other depths halve once more or once less."""
    network = build_discriminator("patch", width=2, style=Style(), layers=layers)
    _, output = parameters_and_output(network, (1, 256, 256, 3))
    assert output.shape == (1, scores, scores, 1)


@pytest.mark.parametrize(("channels_in", "channels_out"), [(1, 3), (3, 1), (5, 7)])
@pytest.mark.parametrize("variant", ["resnet3", "unet128"])
def test_any_number_of_channels(variant, channels_in, channels_out):
    """Input and output channels are independent of each other."""
    network = build_generator(variant, channels=channels_out, width=2, style=Style())
    _, output = parameters_and_output(network, (1, 128, 128, channels_in))
    assert output.shape == (1, 128, 128, channels_out)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_smallest_image_of_patch_discriminator(layers):
    """One score at the smallest size that is let through, none at the next even size below."""
    network = build_discriminator("patch", width=2, style=Style(), layers=layers)
    _, output = parameters_and_output(network, (1, network.smallest, network.smallest, 3))
    assert output.shape == (1, 1, 1, 1)
    params, small = parameters_and_output(network, (1, network.smallest - 2, network.smallest, 3))
    assert small.size == 0


@pytest.mark.parametrize(
    ("variant", "size", "fits"),
    [
        ("resnet9", (8, 8), True),
        ("resnet9", (64, 100), True),
        ("resnet9", (64, 102), False),
        ("resnet9", (4, 4), False),
        ("unet128", (128, 256), True),
        ("unet128", (64, 64), False),
        ("unet256", (256, 128), False),
    ],
)
def test_sizes_are_checked(variant, size, fits):
    """What is let through runs; what is not is one clear line."""
    network = build_generator(variant, channels=3, width=1, style=Style())
    if fits:
        check_generator_size(network, *size)
        _, output = parameters_and_output(network, (1, *size, 3))
        assert output.shape == (1, *size, 3)
    else:
        with pytest.raises(UserError, match="multiples of"):
            check_generator_size(network, *size)


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("transposed", [False, True])
def test_initial_weights_have_pytorchs_spread(name, transposed):
    """Standard deviations by the formulas of PyTorch, with its fans for either layout."""
    height, channels_in, channels_out = 3, 32, 64
    shape = (height, height, channels_in, channels_out)
    weights = np.asarray(initializer(name, 0.5, transposed=transposed)(jax.random.key(0), shape))
    fan_in, fan_out = 9 * channels_in, 9 * channels_out
    if transposed:  # PyTorch keeps these as [in, out, h, w] and takes `out` for the incoming fan
        fan_in, fan_out = fan_out, fan_in
    expected = {
        "normal": 0.5,
        "xavier": 0.5 * np.sqrt(2 / (fan_in + fan_out)),
        "kaiming": np.sqrt(2 / fan_in),
        # Orthonormal rows times the gain: each row of length 0.5 has `columns` entries.
        "orthogonal": 0.5 / np.sqrt(9 * channels_out if transposed else 9 * channels_in),
    }[name]
    np.testing.assert_allclose(weights.std(), expected, rtol=0.03)
    if name == "orthogonal":
        # PyTorch's rows: the first axis of its layout.
        rows = weights.transpose((2, 0, 1, 3) if transposed else (3, 0, 1, 2))
        rows = rows.reshape(rows.shape[0], -1)
        np.testing.assert_allclose(rows @ rows.T, 0.25 * np.eye(len(rows)), atol=1e-5)


def test_biases_begin_at_zero():
    """All biases of both kinds of network are 0 at first."""
    for network in (
        build_generator("resnet3", channels=3, width=2, style=Style()),
        build_discriminator("patch", width=2, style=Style(), layers=1),
    ):
        params = network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
        biases = [v for path, v in jax.tree.leaves_with_path(params) if "bias" in str(path[-1])]
        assert biases
        assert all(not b.any() for b in biases)


def test_dropout_is_off_without_a_key():
    """A trained generator is a function; in training the key decides."""
    network = build_generator("resnet3", channels=3, width=2, style=Style(), dropout=0.5)
    x = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    params = network.init(jax.random.key(0), x)
    once, again = network.apply(params, x), network.apply(params, x)
    np.testing.assert_array_equal(once, again)
    first = network.apply(params, x, rngs={"dropout": jax.random.key(2)})
    second = network.apply(params, x, rngs={"dropout": jax.random.key(3)})
    assert not np.array_equal(first, once)
    assert not np.array_equal(first, second)


def test_bfloat16_keeps_parameters_and_output_in_float32():
    """Only activations are short; the image that comes out is float32 and near the exact one."""
    shape = (1, 16, 16, 3)
    x = jax.random.normal(jax.random.key(1), shape)
    exact = build_generator("resnet3", channels=3, width=8, style=Style())
    short = build_generator("resnet3", channels=3, width=8, style=Style(dtype=jnp.bfloat16))
    params = short.init(jax.random.key(0), x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    y = short.apply(params, x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, exact.apply(params, x), atol=0.03)
