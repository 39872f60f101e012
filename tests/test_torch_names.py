"""The original's networks are ours by other names; `benchmarks/torch_networks.py` is the oracle."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cyclegan_jax import config as config_lib  # noqa: E402
from cyclegan_jax.state import build_networks  # noqa: E402
from cyclegan_jax.torch_weights.files import read_tensors  # noqa: E402
from cyclegan_jax.torch_weights.names import (  # noqa: E402
    detect_discriminator,
    detect_generator,
    params_from_torch,
    torch_from_params,
)
from cyclegan_jax.utils import image_io  # noqa: E402
from tests.parity import change, image_batch, to_torch  # noqa: E402
from tests.torch_originals import assert_same, changed, network, save  # noqa: E402
from tests.torch_params import to_flax  # noqa: E402

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
    """Of the parameters of our gen_ab or disc_a."""
    ours = build_networks(config)
    module = ours.gen_ab if kind == "generator" else ours.disc_a
    image = jnp.zeros((1, 256, 256, config.data.channels_a))
    return jax.eval_shape(module.init, jax.random.key(0), image)["params"]


CASES = [*[("generator", f) for f in GENERATORS], *[("discriminator", f) for f in DISCRIMINATORS]]


@pytest.mark.parametrize(("kind", "fields"), CASES, ids=str)
def test_round_trip(tmp_path, kind, fields):
    """A file says what it holds, gives our parameters, and they a file that PyTorch takes."""
    config = changed(kind, fields)
    theirs = network(kind, config)
    tensors = read_tensors(save(tmp_path / "x.pth", theirs, zipped="layers" not in fields))

    detect = detect_generator if kind == "generator" else detect_discriminator
    found = detect(tensors)
    assert found.pop("channels_in") == 2
    assert found.pop("channels_out", 3) == 3
    flat = config_lib.flatten(config)
    assert found == {name: flat[name] for name in found}
    assert {f"{kind}.{name}" for name in fields} <= set(found)

    params = params_from_torch(tensors, shapes(kind, config))
    assert_same(params, to_flax(theirs.state_dict()))

    back = torch_from_params(params, dropout=fields.get("dropout", 0) > 0)
    assert list(back) == list(theirs.state_dict())
    again = network(kind, config, seed=1)
    again.load_state_dict({name: torch.from_numpy(x) for name, x in back.items()}, strict=True)
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], tensor, err_msg=name)


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
def test_outputs_equal_torchs(tmp_path, kind, fields, size):
    """What was read computes what PyTorch computes, to 1e-5."""
    config = changed(kind, fields)
    theirs = network(kind, config)
    images = image_batch(np.random.default_rng(0), size, channels=2)
    with torch.no_grad():
        expected = theirs(to_torch(images, torch.float32)).permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.1
    tensors = read_tensors(save(tmp_path / "x.pth", theirs))
    params = params_from_torch(tensors, shapes(kind, config))
    ours = build_networks(config)
    module = ours.gen_ab if kind == "generator" else ours.disc_a
    apply = jax.jit(module.apply, compiler_options={"xla_backend_optimization_level": 0})
    np.testing.assert_allclose(
        apply({"params": params}, image_io.to_float(images)), expected, atol=1e-5
    )


def test_oddities_of_old_files(tmp_path):
    """A prefix, statistics that instance norms once kept, and both dropout layouts."""
    config = changed("generator", {"variant": "resnet3"})
    theirs = network("generator", config)
    expected = to_flax(theirs.state_dict())
    old = torch.nn.DataParallel(network("generator", config))
    for module in old.modules():
        if isinstance(module, torch.nn.InstanceNorm2d):
            module.__init__(module.num_features, track_running_stats=True)
    names = list(old.state_dict())
    assert "module.model.2.running_mean" in names
    assert "module.model.2.num_batches_tracked" in names
    tensors = read_tensors(save(tmp_path / "x.pth", old))
    assert detect_generator(tensors)["generator.norm"] == "instance"
    assert_same(params_from_torch(tensors, shapes("generator", config)), expected)

    shifted = network("generator", change(config, generator__dropout=0.5))
    assert "model.10.conv_block.6.weight" in shifted.state_dict()
    tensors = read_tensors(save(tmp_path / "x.pth", shifted))
    assert_same(params_from_torch(tensors, shapes("generator", config)), expected)
