"""Exported networks compute what the network computes in JAX, at any size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from cyclegan_jax.export import load_stablehlo, onnx_graph
from cyclegan_jax.export.stablehlo import to_stablehlo
from cyclegan_jax.export.trained import to_float32
from cyclegan_jax.inference.tiling import translate_in_bands
from cyclegan_jax.inference.translator import Network, translate
from cyclegan_jax.models.generators import GENERATORS
from cyclegan_jax.models.layers import NORMS, LayerConfig
from cyclegan_jax.models.protocol import Generator
from cyclegan_jax.utils.errors import UserError
from tests.export.networks import images, random_network, run_onnx

# The ResNets of the original, and its U-Nets, differ only in their numbers of layers.
SAME = ("resnet1", "resnet3", "resnet6", "unet256")
VARIANTS = [(name, "instance") for name in GENERATORS if name not in SAME]
VARIANTS += [("resnet3", norm) for norm in NORMS if norm != "instance"]


@pytest.mark.parametrize(("variant", "norm"), VARIANTS)
def test_files_agree_with_jax(variant, norm, tmp_path):
    """Every variant and norm, in ONNX Runtime and as StableHLO, at two sizes and batch sizes."""
    network = random_network(variant, LayerConfig(norm))
    model = onnx_graph.build_model(network, {})
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "network"
    path.write_bytes(to_stablehlo(network))
    loaded = load_stablehlo(path)
    unet = variant.startswith("unet")
    for size in ((2, 1, 2), (1, 2, 1)) if unet else ((2, 2, 3), (1, 5, 4)):
        x = images(network, *size)
        expected = translate(network.generator, network.params, x)
        assert expected.std() > 0.1 and np.mean(np.abs(expected) > 0.99) < 0.1
        for result in (run_onnx(model.SerializeToString(), x), loaded(x)):
            np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(30, 32), (32, 30), (1, 32)])
def test_onnx_refuses_sizes_that_the_network_does_not_take(size):
    """Instead of a result of another size than the image."""
    model = onnx_graph.build_model(random_network("resnet3", LayerConfig()), {}).SerializeToString()
    assert run_onnx(model, np.zeros((1, 32, 32, 3), np.float32)).shape == (1, 32, 32, 2)
    with pytest.raises(Exception, match="blocks"):
        run_onnx(model, np.zeros((1, *size, 3), np.float32))


@pytest.mark.parametrize("activation", [jax.nn.gelu, functools.partial(jax.nn.elu, alpha=0.5)])
def test_onnx_names_the_activation_that_it_does_not_support(activation):
    """One line says what cannot be exported."""
    network = random_network("resnet3", LayerConfig())
    network = network._replace(generator=network.generator.clone(activation=activation))
    with pytest.raises(
        UserError, match="export to onnx: activation .*(gelu|elu).* does not support"
    ):
        onnx_graph.build_model(network, {})


@pytest.mark.parametrize("norm", ["instance_affine", "instance_affine_std"])
def test_norms_of_nearly_flat_maps_agree(norm):
    """Where epsilon is of the size of the variance, ONNX Runtime and tiles add it where we do."""
    network = random_network("resnet3", LayerConfig(norm))
    params = network.params | {"stem": jax.tree.map(lambda x: 1e-5 * x, network.params["stem"])}
    x = images(network, 1, 12, 3)
    expected = translate(network.generator, params, x)
    assert expected.std() > 0.01
    model = onnx_graph.build_model(network._replace(params=params), {}).SerializeToString()
    np.testing.assert_allclose(run_onnx(model, x), expected, atol=1e-4)
    banded = translate_in_bands(network.generator, params, x[0], 16)
    np.testing.assert_allclose(banded, expected[0], atol=1e-4)


def test_wide_networks_agree(tmp_path):
    """From 64 channels on, convolutions on CPUs are computed in another way."""
    network = random_network("resnet3", LayerConfig(), width=16)
    (tmp_path / "network").write_bytes(to_stablehlo(network))
    x = images(network, 1, 3, 5)
    expected = translate(network.generator, network.params, x)
    np.testing.assert_allclose(load_stablehlo(tmp_path / "network")(x), expected, atol=1e-4)


def test_bfloat16_is_exported_in_float32(tmp_path):
    """A network trained in half precision is exported as the same network in float32."""
    network = random_network("resnet3", LayerConfig(dtype=jnp.bfloat16))
    plain = to_float32(network)
    x = images(network, 1, 3, 4)
    expected = translate(plain.generator, plain.params, x)
    assert np.abs(translate(network.generator, network.params, x) - expected).max() > 1e-3
    (tmp_path / "network").write_bytes(to_stablehlo(network))
    np.testing.assert_allclose(load_stablehlo(tmp_path / "network")(x), expected, atol=1e-4)
    model = onnx_graph.build_model(plain, {}).SerializeToString()
    np.testing.assert_allclose(run_onnx(model, x), expected, atol=1e-4)


class Negative(Generator):
    """A generator of a user's own, without `forward` and the optional fields."""

    def __call__(self, x, keys=None):
        """Return the negative."""
        return -x


def test_a_generator_without_forward(tmp_path):
    """StableHLO supports any generator; ONNX refuses it by name."""
    assert {field.name for field in dataclasses.fields(Negative)} >= {"channels"}
    network = Network(Negative(channels=3), {}, 3)
    (tmp_path / "network").write_bytes(to_stablehlo(network))
    x = images(network, 2, 5, 3)
    np.testing.assert_array_equal(load_stablehlo(tmp_path / "network")(x), -x)
    with pytest.raises(UserError, match="export to onnx: Negative does not support it"):
        onnx_graph.build_model(network, {})
