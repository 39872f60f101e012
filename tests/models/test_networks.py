"""The published variants: parameter counts, shapes, initial weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.models.discriminators import DISCRIMINATORS
from cyclegan_jax.models.generators import GENERATORS
from cyclegan_jax.models.layers import INITIALIZERS, LayerConfig, initializer
from cyclegan_jax.models.protocol import check_discriminator_size, check_generator_size
from cyclegan_jax.state import count_parameters
from cyclegan_jax.utils.errors import UserError

CONFIG = LayerConfig()

# Published, except for resnet3, which lacks six blocks of 2 * (9 * 256 * 256 + 256) of resnet9.
GENERATOR_COUNTS = {
    "resnet3": 11_378_179 - 6 * 1_180_160,
    "resnet6": 7_837_699,
    "resnet9": 11_378_179,
    "unet128": 41_825_667,
    "unet256": 54_409_603,
}
DISCRIMINATOR_COUNTS = {"patch": 2_764_737, "pixel": (3 * 64 + 64) + (64 * 128 + 128) + (128 + 1)}


def parameters_and_output(network, shape):
    """Return shapes of the parameters and of the output; nothing is computed."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), x)
    return params["params"], jax.eval_shape(network.apply, params, x)


@pytest.mark.parametrize("variant", GENERATOR_COUNTS)
def test_generator_counts_and_shape(variant):
    """Each generator has its published number of parameters and preserves the image size."""
    network = GENERATORS[variant](channels=3, width=64, config=CONFIG)
    params, output = parameters_and_output(network, (2, 256, 256, 3))
    assert count_parameters(params) == GENERATOR_COUNTS[variant]
    assert output.shape == (2, 256, 256, 3)


@pytest.mark.parametrize("variant", DISCRIMINATOR_COUNTS)
def test_discriminator_counts(variant):
    """Each discriminator has its published number of parameters."""
    network = DISCRIMINATORS[variant](width=64, config=CONFIG)
    params, _ = parameters_and_output(network, (1, 256, 256, 3))
    assert count_parameters(params) == DISCRIMINATOR_COUNTS[variant]


@pytest.mark.parametrize(("layers", "scores"), [(1, 126), (2, 62), (3, 30), (4, 14)])
def test_patch_scores(layers, scores):
    """PatchGANs of different depths give 256x256 images the published number of scores."""
    network = DISCRIMINATORS["patch"](width=2, config=CONFIG, layers=layers)
    _, output = parameters_and_output(network, (1, 256, 256, 3))
    assert output.shape == (1, scores, scores, 1)


@pytest.mark.parametrize(("channels_in", "channels_out"), [(1, 3), (3, 1), (5, 7)])
@pytest.mark.parametrize("variant", ["resnet3", "unet128"])
def test_any_number_of_channels(variant, channels_in, channels_out):
    """Input and output channels are independent of each other."""
    network = GENERATORS[variant](channels=channels_out, width=2, config=CONFIG)
    _, output = parameters_and_output(network, (1, 128, 128, channels_in))
    assert output.shape == (1, 128, 128, channels_out)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_smallest_image_of_patch_discriminator(layers):
    """An image of the smallest accepted size gets one score, and one 2 pixels smaller none."""
    network = DISCRIMINATORS["patch"](width=2, config=CONFIG, layers=layers)
    side = network.smallest
    check_discriminator_size(network, side, side)
    _, output = parameters_and_output(network, (1, side, side, 3))
    assert output.shape == (1, 1, 1, 1)
    _, small = parameters_and_output(network, (1, side - 2, side, 3))
    assert small.size == 0
    with pytest.raises(UserError, match=f"at least {side}, got images of {side}x{side - 2}"):
        check_discriminator_size(network, side - 2, side)


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
    """Generators run at accepted sizes and refuse others in one line."""
    network = GENERATORS[variant](channels=3, width=1, config=CONFIG)
    if fits:
        check_generator_size(network, *size)
        _, output = parameters_and_output(network, (1, *size, 3))
        assert output.shape == (1, *size, 3)
    else:
        with pytest.raises(UserError, match="multiples of"):
            check_generator_size(network, *size)


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("transposed", [False, True])
def test_initial_weights_have_pytorchs_deviation(name, transposed):
    """Standard deviations follow PyTorch's formulas, with its fans in either layout."""
    height, channels_in, channels_out = 3, 32, 64
    shape = (height, height, channels_in, channels_out)
    init = initializer(LayerConfig(init=name, gain=0.5), transposed=transposed)
    weights = np.asarray(init.kernel(jax.random.key(0), shape, jnp.float32))
    fan_in, fan_out = 9 * channels_in, 9 * channels_out
    if transposed:  # PyTorch stores these as [in, out, h, w] and takes `out` for the fan-in
        fan_in, fan_out = fan_out, fan_in
    expected = {
        "normal": 0.5,
        "xavier": 0.5 * np.sqrt(2 / (fan_in + fan_out)),
        "kaiming": np.sqrt(2 / fan_in),
        # Orthonormal rows times the gain: each row of length 0.5 has `columns` entries.
        "orthogonal": 0.5 / np.sqrt(9 * channels_out if transposed else 9 * channels_in),
        # Uniform below sqrt(6 / (fan-in + fan-out)) and 1 / sqrt(fan-in).
        "glorot_uniform": np.sqrt(2 / (fan_in + fan_out)),
        "torch_default": np.sqrt(1 / (3 * fan_in)),
    }[name]
    keys = jax.random.split(jax.random.key(1), 64)
    biases = np.asarray(jax.vmap(lambda key: init.bias(key, shape, jnp.float32))(keys))
    assert biases.shape == (64, channels_out)
    np.testing.assert_allclose(
        biases.std(), np.sqrt(1 / (3 * fan_in)) if name == "torch_default" else 0.0, rtol=0.03
    )
    np.testing.assert_allclose(weights.std(), expected, rtol=0.03)
    if name == "orthogonal":
        # PyTorch's rows: the first axis of its layout.
        rows = weights.transpose((2, 0, 1, 3) if transposed else (3, 0, 1, 2))
        rows = rows.reshape(rows.shape[0], -1)
        np.testing.assert_allclose(rows @ rows.T, 0.25 * np.eye(len(rows)), atol=1e-5)


def test_biases_are_zero_at_first():
    """All biases of both kinds of network start at 0."""
    for network in (
        GENERATORS["resnet3"](channels=3, width=2, config=CONFIG),
        DISCRIMINATORS["patch"](width=2, config=CONFIG, layers=1),
    ):
        params = network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
        biases = [v for path, v in jax.tree.leaves_with_path(params) if "bias" in str(path[-1])]
        assert biases
        assert all(not b.any() for b in biases)


def test_bfloat16_keeps_parameters_and_output_in_float32():
    """Only activations are bfloat16; the output is float32 and close to the exact one."""
    shape = (1, 16, 16, 3)
    x = jax.random.normal(jax.random.key(1), shape)
    exact = GENERATORS["resnet3"](channels=3, width=8, config=CONFIG)
    short = GENERATORS["resnet3"](channels=3, width=8, config=LayerConfig(dtype=jnp.bfloat16))
    params = short.init(jax.random.key(0), x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    y = short.apply(params, x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, exact.apply(params, x), atol=0.03)
