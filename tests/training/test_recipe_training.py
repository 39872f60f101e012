"""Updates of all recipes with small networks, against a plain loop in PyTorch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cyclegan_jax.build import build_model  # noqa: E402
from cyclegan_jax.losses import discriminator_loss, generator_loss  # noqa: E402
from cyclegan_jax.step import generate, train_step  # noqa: E402
from cyclegan_jax.utils import image_io  # noqa: E402
from tests import parity  # noqa: E402

# Networks this small run faster on one thread, in particular on shared cores.
torch.set_num_threads(1)

SIZE = 32

# Compilation takes nearly all of these tests' time.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


TRAININGS: dict[str, dict[str, Any]] = {
    "horse2zebra_224": {},
    "celeba": {},
    "firewatch": {"pool_size": 3},
    # Generators first: discriminators are shown the fakes of the generators' last update.
    "firewatch, two scales, identity": {
        "pool_size": 3,
        "loss__real_label": 0.9,
        "loss__identity_every_steps": 3,
        "generator_updates": 2,
        "discriminator_updates": 2,
        "update_first": "generators",
    },
    "monet2photo": {"pool_size": 3},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_training_follows_torchs(name: str) -> None:
    """With the same weights, batches and draws, ten updates in float64 have the same losses.

    Relative differences are below 1e-6.
    """
    with jax.enable_x64(True):
        config = parity.small_recipe(name, precision="float64", **TRAININGS[name])
        follow(config, SIZE, [config.optimizer.learning_rate] * 10, compiled)


def test_the_originals_training_follows_torchs() -> None:
    """Twenty updates at 64x64 agree, with a full pool after four, and decay from the ninth on."""
    epochs = {"schedule__constant_epochs": 2, "schedule__decay_epochs": 3}
    # 1 - max(0, epoch - 2) / 4, epochs of four pairs counted from 1.
    factors = [1 - max(0, update // 4 + 1 - 2) / 4 for update in range(20)]
    with jax.enable_x64(True):
        config = parity.small_recipe(
            "horse2zebra", precision="float64", pool_size=4, generator__width=4, **epochs
        )
        rates = [config.optimizer.learning_rate * factor for factor in factors]
        follow(config, 64, rates, jax.jit, pairs_per_epoch=4)


def follow(
    config: Any, size: int, rates: list[float], jit: Any, pairs_per_epoch: int = 1000
) -> None:
    """Train on both sides, and compare every loss of every update, pools and weights.

    `rates` are PyTorch's learning rates of each update; ours follow from the configuration.
    """
    trainer = parity.make_trainer(config, size)
    state = parity.make_state(config, size, trainer)
    step = jit(functools.partial(train_step, model=build_model(config, pairs_per_epoch)))
    random = np.random.default_rng(0)
    exchanged = 0
    for update, rate in enumerate(rates):
        batch = {d: parity.image_batch(random, size, batch=1) for d in ("a", "b")}
        draws = parity.step_draws(state, config)
        exchanged += update >= config.pool_size and sum(old for old, _ in draws.pool_a)
        state, metrics = step(state, batch)
        trainer.set_learning_rate(rate)
        expected = trainer.step(parity.to_torch(batch["a"]), parity.to_torch(batch["b"]), draws)
        with_identity = config.loss.identity > 0 and update % config.loss.identity_every_steps == 0
        assert len(expected) == (8 if with_identity else 6)
        for term, value in expected.items():
            np.testing.assert_allclose(metrics[term], value, rtol=1e-6, err_msg=term)
        for term in ("generators/identity_a", "generators/identity_b"):
            assert with_identity or metrics.get(term, 0.0) == 0.0
    # Adam has changed every weight by about the learning rate in each update.
    parity.assert_trees_close(state.params, parity.flax_params(trainer), atol=1e-7)
    if config.pool_size:
        assert exchanged
        for domain, pool in trainer.pools.items():
            theirs = torch.stack(pool.images).permute(0, 2, 3, 1)
            np.testing.assert_allclose(state.pools[domain].images, theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["horse2zebra", *TRAININGS])
def test_first_losses_in_float32_equal_torchs(name: str) -> None:
    """They agree to 1e-5; generators face the updated discriminators where those are first."""
    config = parity.small_recipe(name)
    trainer = parity.make_trainer(config, SIZE)
    before = parity.flax_params(trainer)
    random = np.random.default_rng(2)
    batch = {d: parity.image_batch(random, SIZE, batch=1) for d in ("a", "b")}
    draws = parity.step_draws(parity.make_state(config, SIZE, trainer), config)
    real_torch = [parity.to_torch(batch[d], torch.float32) for d in ("a", "b")]
    expected = trainer.step(*real_torch, draws)
    faced = before
    if config.update_first == "discriminators":
        after = parity.flax_params(trainer)
        faced = before | {name: after[name] for name in ("disc_a", "disc_b")}
    model, keys = build_model(config, 1000), jax.random.split(jax.random.key(0), 1)
    modules: Any = {"networks": model.networks, "losses": model.losses}

    @compiled
    def losses(before: Any, faced: Any, real: Any) -> Any:
        fake = generate(before, real, keys, model=model)
        _, (of_generators, _) = generator_loss(
            faced, faced, {}, jnp.int32(0), real, keys, **modules
        )
        _, (of_discriminators, _) = discriminator_loss(before, real, fake, keys, **modules)
        return of_generators, of_discriminators

    real = {domain: jnp.asarray(image_io.to_float(x)) for domain, x in batch.items()}
    ours = dict(zip(("generators", "discriminators"), losses(before, faced, real), strict=True))
    for term, value in expected.items():
        side, name = term.split("/")
        np.testing.assert_allclose(ours[side][name], value, rtol=1e-5, err_msg=term)
