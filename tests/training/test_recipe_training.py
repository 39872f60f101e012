"""The updates of all recipes against a plain loop in PyTorch, with small networks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cyclegan_jax.losses import discriminator_loss, generate, generator_loss  # noqa: E402
from cyclegan_jax.state import build_networks  # noqa: E402
from cyclegan_jax.step import train_step  # noqa: E402
from cyclegan_jax.utils import image_io  # noqa: E402
from tests import parity  # noqa: E402

# Networks this small run faster on one thread, much faster where cores are shared.
torch.set_num_threads(1)

SIZE = 32

# Compiling is nearly all of these tests' time.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


TRAININGS: dict[str, dict[str, Any]] = {
    "horse2zebra_224": {},
    "celeba": {},
    "firewatch": {"pool_size": 3},
    # Generators first: discriminators are shown what the last of their updates began from.
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
    """Ten updates in float64 from the same weights, batches and draws: losses to 1e-6 relative."""
    with jax.enable_x64(True):
        config = parity.small_recipe(name, precision="float64", **TRAININGS[name])
        follow(config, SIZE, [config.optimizer.learning_rate] * 10, compiled)


def test_the_originals_training_follows_torchs() -> None:
    """Twenty updates at 64x64: the pool is full after four, the rate falls from the ninth on."""
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
    """Trains on both sides and compares every loss of every update, pools and weights.

    PyTorch's learning rate at each update is given; ours follows from the configuration.
    """
    trainer = parity.make_trainer(config, size)
    state = parity.make_state(config, size, trainer)
    step = jit(functools.partial(train_step, config=config, pairs_per_epoch=pairs_per_epoch))
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
    # Adam has moved every weight by about the learning rate in each.
    parity.assert_trees_close(state.params, parity.flax_params(trainer), atol=1e-7)
    if config.pool_size:
        assert exchanged
        for domain, pool in trainer.pools.items():
            theirs = torch.stack(pool.images).permute(0, 2, 3, 1)
            np.testing.assert_allclose(state.pools[domain].images, theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["horse2zebra", *TRAININGS])
def test_first_losses_in_float32_equal_torchs(name: str) -> None:
    """To 1e-5 relative; where discriminators move first, generators face the moved ones."""
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
    networks, key = build_networks(config), jax.random.key(0)

    @compiled
    def losses(before: Any, faced: Any, real: Any) -> Any:
        fakes = generate(networks, before, real, key)
        _, (of_generators, _) = generator_loss(networks, faced, real, key, config)
        return of_generators, discriminator_loss(networks, before, real, fakes, key, config)

    real = {domain: jnp.asarray(image_io.to_float(x)) for domain, x in batch.items()}
    ours = dict(zip(("generators", "discriminators"), losses(before, faced, real), strict=True))
    for term, value in expected.items():
        side, name = term.split("/")
        np.testing.assert_allclose(ours[side][name], value, rtol=1e-5, err_msg=term)
