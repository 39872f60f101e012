"""State dicts of the original map to our parameters and back; its networks are the oracle."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cyclegan_jax import config as config_lib  # noqa: E402
from cyclegan_jax.build import build_networks  # noqa: E402
from cyclegan_jax.torch_weights.files import read_tensors  # noqa: E402
from cyclegan_jax.torch_weights.formats import (  # noqa: E402
    FORMATS,
    exporting,
    find_format,
    trainable,
)
from cyclegan_jax.utils import image_io  # noqa: E402
from cyclegan_jax.utils.errors import UserError  # noqa: E402
from tests.parity import change, image_batch, to_torch  # noqa: E402
from tests.torch_params import to_flax  # noqa: E402
from tests.torch_weights.originals import assert_same, changed, network, save  # noqa: E402

NORMS = ("instance", "batch", "none")
GENERATORS: list[dict[str, Any]] = [
    *[{"variant": "resnet3", "norm": norm} for norm in NORMS],
    *[{"variant": "resnet9", "blocks": 2, "dropout": 0.5, "norm": norm} for norm in NORMS],
    {"variant": "resnet6", "width": 5},
    {"variant": "resnet9"},
    *[{"variant": "unet128", "norm": norm} for norm in NORMS],
    {"variant": "unet256"},
]
DISCRIMINATORS: list[dict[str, Any]] = [
    *[{"variant": "patch", "norm": norm} for norm in NORMS],
    *[{"variant": "patch", "layers": layers, "width": 5} for layers in (1, 2, 4, 5)],
    *[{"variant": "pixel", "norm": norm} for norm in NORMS],
]


def shapes(kind: str, config: Any) -> Any:
    """Return the shapes of the parameters of our gen_ab or disc_a."""
    ours = build_networks(config)
    module = ours.gen_ab if kind == "generator" else ours.disc_a
    image = jnp.zeros((1, 256, 256, config.data.channels_a))
    return jax.eval_shape(module.init, jax.random.key(0), image)["params"]


CASES = [*[("generator", f) for f in GENERATORS], *[("discriminator", f) for f in DISCRIMINATORS]]


@pytest.mark.parametrize(("kind", "fields"), CASES, ids=str)
def test_round_trip(tmp_path, kind, fields):
    """Files give their configuration and our parameters, which give files that PyTorch loads."""
    config = changed(kind, fields)
    theirs = network(kind, config)
    path = save(tmp_path / "x.pth", theirs, zipped="layers" not in fields)
    tensors = trainable(read_tensors(path))

    entry = find_format(kind, tensors)
    assert entry is exporting(config_lib.flatten(config))[1][kind]
    detected = entry.detect(tensors)
    assert detected.pop("channels_in") == 2
    assert detected.pop("channels_out", 3) == 3
    flat = config_lib.flatten(config)
    assert detected == {name: flat[name] for name in detected}
    assert {f"{kind}.{name}" for name in fields} <= set(detected)

    params = entry.to_params(tensors, shapes(kind, config))
    assert_same(params, to_flax(theirs.state_dict()))

    exported = entry.from_params(params, dropout=fields.get("dropout", 0) > 0)
    assert list(exported) == list(theirs.state_dict())
    loaded = network(kind, config, seed=1)
    state = {name: torch.from_numpy(array) for name, array in exported.items()}
    loaded.load_state_dict(state, strict=True)
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], tensor, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "fields", "size"),
    [
        ("generator", GENERATORS[4], 24),
        ("generator", {"variant": "resnet3"}, 24),
        ("generator", {"variant": "unet128"}, 128),
        ("discriminator", {"variant": "patch"}, 64),
        ("discriminator", {"variant": "pixel", "norm": "batch"}, 24),
    ],
    ids=str,
)
def test_outputs_equal_those_of_pytorch(tmp_path, kind, fields, size):
    """Networks with imported parameters give the outputs of PyTorch to 1e-5."""
    config = changed(kind, fields)
    theirs = network(kind, config)
    images = image_batch(np.random.default_rng(0), size, channels=2)
    with torch.no_grad():
        expected = theirs(to_torch(images, torch.float32)).permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.1
    tensors = trainable(read_tensors(save(tmp_path / "x.pth", theirs)))
    params = find_format(kind, tensors).to_params(tensors, shapes(kind, config))
    ours = build_networks(config)
    module = ours.gen_ab if kind == "generator" else ours.disc_a
    apply = jax.jit(module.apply, compiler_options={"xla_backend_optimization_level": 0})
    np.testing.assert_allclose(
        apply({"params": params}, image_io.to_float(images)), expected, atol=1e-5
    )


def test_old_files(tmp_path):
    """A prefix, running statistics of instance norms, and both dropout layouts are accepted."""
    config = changed("generator", {"variant": "resnet3"})
    theirs = network("generator", config)
    expected = to_flax(theirs.state_dict())
    resnet = FORMATS["a ResNet generator of the PyTorch original"]
    old = torch.nn.DataParallel(network("generator", config))
    for module in old.modules():
        if isinstance(module, torch.nn.InstanceNorm2d):
            module.__init__(module.num_features, track_running_stats=True)
    names = list(old.state_dict())
    assert "module.model.2.running_mean" in names
    assert "module.model.2.num_batches_tracked" in names
    tensors = trainable(read_tensors(save(tmp_path / "x.pth", old)))
    assert resnet.detect(tensors)["generator.norm"] == "instance"
    assert_same(resnet.to_params(tensors, shapes("generator", config)), expected)

    shifted = network("generator", change(config, generator__dropout=0.5))
    assert "model.10.conv_block.6.weight" in shifted.state_dict()
    tensors = trainable(read_tensors(save(tmp_path / "x.pth", shifted)))
    assert_same(resnet.to_params(tensors, shapes("generator", config)), expected)


def test_parameters_without_a_place():
    """A network with a layer that the format does not have is refused, not written in part."""
    params = {"conv_0": {"kernel": np.zeros((1, 1, 3, 4))}, "extra": {"bias": np.zeros(4)}}
    with pytest.raises(UserError, match="pixel have no extra/bias"):
        FORMATS["a pixel discriminator of the PyTorch original"].from_params(params)


def test_numbers_in_hostile_names():
    """Names claim at most 100 blocks or 333 layers, and longer numbers are not parsed."""
    kernel = np.zeros((1, 1, 4, 4), np.float32)
    numbers = [*range(3000), "9" * 5000, "\u0663"]
    tensors = {f"model.{i}.weight": kernel for i in numbers}
    assert find_format("discriminator", tensors).detect(tensors)["discriminator.layers"] <= 333
    tensors |= {f"model.{i}.conv_block.1.weight": kernel for i in numbers}
    assert find_format("generator", tensors).detect(tensors)["generator.blocks"] <= 100
