"""safetensors files: the run's own bits, and nothing that a hostile file could make of them."""

import json
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cyclegan_jax.export import load_safetensors
from cyclegan_jax.export.program import export_generator
from cyclegan_jax.inference.translator import Translator, translate
from cyclegan_jax.utils.errors import UserError
from tests.export.networks import images


@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
def test_loaded_networks_compute_the_same_bits(run, tmp_path, direction):
    """Configuration, network and results are those of the run."""
    path = tmp_path / "model.safetensors"
    export_generator(run, path, direction=direction)
    config, network = load_safetensors(path)
    assert config.to_dict() == json.loads((run / "config.json").read_text())
    original = Translator.load(run, direction).network
    assert network.channels == original.channels
    x = images(network, 1, 3, 2)
    result = translate(network.generator, network.params, x)
    np.testing.assert_array_equal(result, translate(original.generator, original.params, x))
    with safe_open(path, framework="numpy") as file:
        assert (file.metadata()["step"], file.metadata()["direction"]) == ("9", direction)
        kernel = file.get_tensor("block_0.conv_0.kernel")
    np.testing.assert_array_equal(kernel, original.params["block_0"]["conv_0"]["kernel"])


@pytest.fixture
def altered(run, tmp_path):
    """Return a function that changes an exported file's tensors or metadata, and its path."""
    path = tmp_path / "model.safetensors"
    export_generator(run, path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)

    def alter(change_tensors=(), change_config=(), **change_metadata):
        config = json.loads(metadata["config"])
        for section, field, value in change_config:
            config[section][field] = value
        texts = {**metadata, "config": json.dumps(config), **change_metadata}
        kept = {name: value for name, value in texts.items() if value is not None}
        changed = {**tensors, **dict(change_tensors)}
        save_file({name: x for name, x in changed.items() if x is not None}, path, kept)
        return path

    return alter


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format_version": "2"}, "expected a file of this version"),
        ({"format_version": None}, "expected a file of this version"),
        ({"direction": None}, "expected a direction and a configuration"),
        ({"direction": "up"}, "expected a direction and a configuration"),
        ({"config": None}, "expected a direction and a configuration"),
        ({"config": "{"}, "expected a direction and a configuration"),
        ({"config": "[1]"}, "expected a direction and a configuration"),
        ({"config": "[" * 100_000}, "expected a direction and a configuration"),
        ({"change_tensors": {"head.kernel": None}}, "head.kernel: expected float32 .*, got none"),
        ({"change_tensors": {"head.kernel": np.zeros(3)}}, r"got float64 \[3\]"),
        ({"change_tensors": {"head": np.zeros(3)}}, "head: not a parameter of the network"),
        ({"change_config": [("generator", "width", 10**9)]}, r".*: expected float32 .*0000000"),
        ({"change_config": [("generator", "blocks", 10**9)]}, "generator.blocks: expected param"),
        ({"change_config": [("generator", "width", "wide")]}, "config.generator.width"),
        ({"change_config": [("generator", "blocks", "many")]}, "config.generator.blocks"),
        ({"change_config": [("data", "channels_a", {"a": 1})]}, ".*data.channels_a"),
        ({"config": '{"a":' * 900 + "1" + "}" * 900}, "."),
        ({"change_config": [("generator", "variant", "resnet")]}, "generator.variant"),
    ],
)
def test_damaged_files_are_refused(altered, changes, expected):
    """Missing, wrong and additional parts are named in one line, before anything is computed."""
    path = altered(**changes)
    with pytest.raises(UserError, match=rf"model\.safetensors: {expected}|{expected}") as caught:
        load_safetensors(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("generator", "variant"),
        ("generator", "norm"),
        ("init", "name"),
    ],
)
def test_files_import_no_code(altered, tmp_path, monkeypatch, section, field):
    """A module that a file names is not imported, even where Python would find it."""
    (tmp_path / "hostile.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = altered(change_config=[(section, field, "hostile:Network")])
    with pytest.raises(UserError, match=f"{section}.{field}=hostile:Network: .* import hostile"):
        load_safetensors(path)
    assert "hostile" not in sys.modules


def test_the_discriminator_is_not_built(altered, tmp_path, monkeypatch):
    """A file holds no discriminator, so it neither imports its module nor builds many scales."""
    (tmp_path / "hostile.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    changes = [("discriminator", field, "hostile:Network") for field in ("variant", "norm")]
    path = altered(change_config=[*changes, ("discriminator", "scales", 10**9)])
    config, _ = load_safetensors(path)
    assert config.discriminator.variant == "hostile:Network"
    assert "hostile" not in sys.modules
