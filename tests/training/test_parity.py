"""Networks, losses and the update against PyTorch (`benchmarks/torch_cyclegan.py`)."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import torch_networks  # noqa: E402
from benchmarks.plain_config import default_config  # noqa: E402
from cyclegan_jax.build import build_networks  # noqa: E402
from cyclegan_jax.models import generators  # noqa: E402
from cyclegan_jax.utils import image_io  # noqa: E402
from tests import parity  # noqa: E402
from tests.torch_params import to_flax  # noqa: E402

# Networks this small run faster on one thread, in particular on shared cores.
torch.set_num_threads(1)

NORMS = ("instance", "batch", "none")
SIZE = 16


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enable float64 in JAX, and register a U-Net for small images."""
    unet16 = functools.partial(generators.UNetGenerator, depth=4)
    monkeypatch.setitem(generators.GENERATORS, "unet16", unet16)
    monkeypatch.setitem(torch_networks.UNET_DEPTHS, "unet16", 4)
    with jax.enable_x64(True):
        yield


def small_config(**changes: Any) -> Any:
    """Return the published configuration with narrow networks, a small pool and unequal weights."""
    config = default_config()
    config.precision = "float64"
    config.batch_size = 2
    config.generator.blocks, config.generator.width = 1, 4
    config.discriminator.width, config.discriminator.layers = 4, 2
    config.pool_size = 3
    config.loss.adversarial, config.loss.cycle_b = 2.0, 7.0
    return parity.change(config, **changes)


# The others differ in their numbers of layers only, which the names of their parameters show.
GENERATORS = [(*case, norm) for case in (("resnet3", 24), ("unet128", 128)) for norm in NORMS]
# The fourth layer is the last to double the channels.
DISCRIMINATORS = [
    *[("patch", 3, norm) for norm in NORMS],
    *[("patch", layers, "instance") for layers in (1, 5)],
    *[("pixel", 3, norm) for norm in ("instance", "batch")],
]


def network_config(kind: str, variant: str, norm: str, layers: int = 3) -> Any:
    """Return a configuration in float32 with one network changed, for 2 and 3 channels."""
    changes: dict[str, Any] = {"precision": "float32", "generator__blocks": None}
    changes |= {"data__channels_a": 2, "discriminator__layers": layers}
    return small_config(**changes | {f"{kind}__variant": variant, f"{kind}__norm": norm})


@pytest.mark.parametrize(("variant", "size", "norm"), GENERATORS)
def test_generators_equal_torchs(variant: str, size: int, norm: str) -> None:
    """The same weights and images (2 channels in, 3 out) give the same images to 1e-4."""
    config = network_config("generator", variant, norm)
    theirs = torch_networks.build_generator(config, 2, 3)
    parity.randomise(theirs, 0)
    x = parity.image_batch(np.random.default_rng(0), size, channels=2)
    with torch.no_grad():
        expected = theirs(parity.to_torch(x, torch.float32)).permute(0, 2, 3, 1).numpy()
    apply = parity.compiled(build_networks(config).gen_ab.apply)
    ours = apply({"params": to_flax(theirs.state_dict())}, image_io.to_float(x))
    assert expected.std() > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize(("variant", "layers", "norm"), DISCRIMINATORS)
def test_discriminators_equal_torchs(variant: str, layers: int, norm: str) -> None:
    """The same weights and images give the same scores to 1e-4."""
    config = network_config("discriminator", variant, norm, layers)
    theirs = torch_networks.build_discriminator(config, 2)
    parity.randomise(theirs, 1)
    x = parity.image_batch(np.random.default_rng(1), 136, channels=2)
    with torch.no_grad():
        expected = theirs(parity.to_torch(x, torch.float32)).permute(0, 2, 3, 1).numpy()
    apply = parity.compiled(build_networks(config).disc_a.apply)
    ours = apply({"params": to_flax(theirs.state_dict())}, image_io.to_float(x))
    assert expected.std() > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("variant", ["resnet9", "unet256", "patch", "pixel"])
@pytest.mark.parametrize("norm", NORMS)
def test_parameters_have_torchs_names_and_shapes(variant: str, norm: str) -> None:
    """No parameter is missing and none is added."""
    kind = "discriminator" if variant in ("patch", "pixel") else "generator"
    config = network_config(kind, variant, norm)
    networks = build_networks(config)
    if kind == "generator":
        theirs, ours, x = torch_networks.build_generator(config, 2, 3), networks.gen_ab, (256, 2)
    else:
        theirs, ours, x = torch_networks.build_discriminator(config, 3), networks.disc_b, (256, 3)
    side, channels = x
    shapes = jax.eval_shape(ours.init, jax.random.key(0), jnp.zeros((1, side, side, channels)))
    expected = jax.tree.map(np.shape, to_flax(theirs.state_dict()))
    assert jax.tree.map(lambda leaf: leaf.shape, shapes["params"]) == expected


TRAININGS = {
    "discriminators first, vanilla, pixel, batch norm": {
        "update_first": "discriminators",
        "loss__mode": "vanilla",
        "generator__norm": "batch",
        "discriminator__variant": "pixel",
        "discriminator__norm": "batch",
    },
    "wgangp, no identity, no pool, U-Net": {
        "loss__mode": "wgangp",
        "loss__identity": 0.0,
        "pool_size": 0,
        "generator__variant": "unet16",
        "generator__blocks": None,
        "generator__width": 2,
    },
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", TRAININGS)
def test_training_follows_torchs(name: str) -> None:
    """With the same weights, batches and draws, five updates in float64 have the same losses.

    Relative differences are below 1e-6.
    """
    parity.follow(small_config(**TRAININGS[name]), SIZE, updates=5)


@pytest.mark.smoke
@pytest.mark.usefixtures("double")
def test_the_originals_training_follows_torchs() -> None:
    """Twelve updates as published agree, with full pools after four, and decay after four."""
    epochs = {"schedule__constant_epochs": 1, "schedule__decay_epochs": 2}
    # 1 - max(0, epoch - 1) / 3, epochs of four pairs counted from 1.
    factors = [1 - max(0, update // 4 + 1 - 1) / 3 for update in range(12)]
    config = small_config(batch_size=1, pool_size=4, **epochs)
    rates = [config.optimizer.learning_rate * factor for factor in factors]
    parity.follow(config, SIZE, updates=12, rates=rates, pairs=4)


# The gradients of lsgan are compared by `test_recipe_networks.py`.
@pytest.mark.usefixtures("double")
def test_gradients_of_every_loss_equal_torchs() -> None:
    """The gradient of each loss for each network that it trains agrees to 1e-8, in float64."""
    config = small_config(loss__mode="wgangp", generator__width=2, discriminator__width=2)
    trainer = parity.make_trainer(config, SIZE)
    state = parity.make_state(config, SIZE, trainer)
    random = np.random.default_rng(1)
    real = {domain: parity.image_batch(random, SIZE) for domain in ("a", "b")}
    shown = {domain: parity.image_batch(random, SIZE) for domain in ("a", "b")}
    compared = set()
    for term, network, ours, theirs in parity.loss_gradients(
        trainer, state, config, real, shown, parity.compiled
    ):
        assert parity.relative_difference(ours, theirs) < 1e-8, (term, network)
        compared.add((term, network))
    assert len(compared) == 6 * 2 + 2
