"""Published facts of the five systems, against the configurations named after them."""

import functools
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cyclegan_jax.build import (  # noqa: E402
    build_networks,
    build_schedule,
    build_state,
)
from cyclegan_jax.state import count_parameters  # noqa: E402
from tests import parity, torch_recipes  # noqa: E402

# {recipe: (image side, parameters of a generator, of a discriminator, sides of score maps)}.
SIZES = {
    "horse2zebra": (256, 11_378_179, 2_764_737, [30]),
    "horse2zebra_224": (224, 4_891_523, 2_765_761, [26]),
    "celeba": (256, 11_378_179, 2_764_737, [30]),
    "firewatch": (256, 2_855_811, 2_766_529, [16]),
    # Instead of 4 * 4 * 512 weights the dense unit has one for each of 16 * 16 * 512 values.
    "firewatch, resize convolution, dense unit, soft label": (
        256,
        2_855_811,
        2_766_529 - 4 * 4 * 512 + 16 * 16 * 512,
        [1],
    ),
    "firewatch, two scales, identity": (256, 11_416_323, 5_533_058, [16, 8]),
    "monet2photo": (256, 11_378_179, 2_764_737, [16]),
}


@pytest.mark.parametrize("name", parity.RECIPES)
def test_parameters_and_score_maps(name):
    """Our networks and those in PyTorch have the systems' counts; nothing is computed."""
    side, of_generator, of_discriminator, maps = SIZES[name]
    config = parity.recipe(name)
    assert config.data.crop_size == side
    shapes = jax.eval_shape(functools.partial(build_state, config, (side, side))).params
    counts = {network: count_parameters(tree) for network, tree in shapes.items()}
    assert counts == dict.fromkeys(("gen_ab", "gen_ba"), of_generator) | dict.fromkeys(
        ("disc_a", "disc_b"), of_discriminator
    )
    image = jnp.zeros((1, side, side, 3))
    networks = build_networks(config)
    output = jax.eval_shape(networks.gen_ab.apply, {"params": shapes["gen_ab"]}, image)
    assert output.shape == image.shape
    scores = jax.eval_shape(networks.disc_a.apply, {"params": shapes["disc_a"]}, image)
    assert [score.shape for score in jax.tree.leaves(scores)] == [(1, m, m, 1) for m in maps]

    with torch.device("meta"):
        generator = torch_recipes.build_generator(config, 3, 3)
        discriminator = torch_recipes.build_discriminator(config, 3, side)
        assert torch_recipes.count_parameters(generator) == of_generator
        assert torch_recipes.count_parameters(discriminator) == of_discriminator
        scores = discriminator(torch.zeros(1, 3, side, side))
    scores = scores if isinstance(scores, tuple) else (scores,)
    assert [tuple(score.shape) for score in scores] == [(1, 1, m, m) for m in maps]


# {recipe: (weights of adversarial, cycle and identity loss in each direction, pool size, side that
# is updated first, learning rate)}. monet2photo weights means over both directions by 1, 10 and 5.
OBJECTIVES = {
    "horse2zebra": (1, 10, 5, 50, "generators", 2e-4),
    "horse2zebra_224": (1, 10, 10, 0, "discriminators", 2e-4),
    "celeba_hair": (1, 10, 0, 0, "discriminators", 1e-5),
    "celeba_glasses": (1, 10, 0, 0, "discriminators", 1e-5),
    "firewatch": (1, 10, 0, 0, "discriminators", 2e-4),
    "monet2photo": (0.5, 5, 2.5, 50, "generators", 2e-4),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name):
    """Weights of the losses in the sum, pool size, order and learning rate are the systems'."""
    config = import_module(f"configs.{name}").get_config()
    loss, adam = config.loss, config.optimizer
    assert loss.cycle_a == loss.cycle_b
    assert (
        loss.adversarial,
        loss.cycle_a,
        loss.identity * loss.cycle_a,
        config.pool_size,
        config.update_first,
        adam.learning_rate,
    ) == OBJECTIVES[name]
    assert (adam.beta1, adam.beta2, loss.mode, loss.real_label) == (0.5, 0.999, "lsgan", 1.0)
    assert (config.generator_updates, config.discriminator_updates) == (1, 1)
    assert config.batch_size == 1
    inits = {"firewatch": "glorot_uniform", "celeba_hair": "torch_default"}
    inits["celeba_glasses"] = inits["celeba_hair"]
    assert config.init.name == inits.get(name, "normal")
    assert config.init.gain == 0.02
    keras = name == "firewatch"
    assert config.optimizer.name == ("keras_adam" if keras else "adam")
    assert config.discriminator_steps == ("real_then_fake" if keras else "joint")
    assert config.discriminator.sigmoid == (name in ("celeba_hair", "celeba_glasses", "firewatch"))


def published(epoch):
    """Return 1 - max(0, epoch - 100) / 101, with epochs counted from 1."""
    return 1 - max(0, epoch + 1 - 100) / 101


def published_since_2020(epoch):
    """Return 1 - max(0, epoch - 100) / 101 for the next epoch."""
    return published(epoch + 1)


def monet(epoch):
    """Return 1 - max(0, epoch - 100) / 100, with epochs counted from 0."""
    return 1 - max(0, epoch - 100) / 100


def constant(epoch):
    return 1.0


@pytest.mark.parametrize(
    ("name", "epochs", "changes", "factor"),
    [
        ("horse2zebra", 200, {}, published),
        ("horse2zebra", 200, {"schedule__stepped_first": True}, published_since_2020),
        ("horse2zebra_224", 200, {}, constant),
        ("celeba_hair", 1, {}, constant),
        ("firewatch", 200, {}, constant),
        ("monet2photo", 200, {}, monet),
    ],
)
def test_learning_rates(name, epochs, changes, factor):
    """The first and the last update of every epoch have the system's rate."""
    config = parity.change(import_module(f"configs.{name}").get_config(), **changes)
    pairs = 1334
    assert config.schedule.constant_epochs + config.schedule.decay_epochs == epochs
    with jax.enable_x64(True):
        rate = jax.jit(jax.vmap(build_schedule(config, pairs)))
        first = np.arange(epochs) * pairs
        expected = [config.optimizer.learning_rate * factor(epoch) for epoch in range(epochs)]
        for within in (0, pairs - 1):
            actual = np.broadcast_to(rate(first + within), (epochs,))
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-18)
