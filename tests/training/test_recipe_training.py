"""Updates of all recipes with small networks, against a plain loop in PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cyclegan_jax.build import build_model  # noqa: E402
from cyclegan_jax.losses import discriminator_loss, generator_loss  # noqa: E402
from cyclegan_jax.step import generate  # noqa: E402
from cyclegan_jax.utils import image_io  # noqa: E402
from tests import parity  # noqa: E402

# Networks this small run faster on one thread, in particular on shared cores.
torch.set_num_threads(1)

SIZE = 16

# `test_parity.py` trains the original.
TRAININGS: dict[str, dict[str, Any]] = {
    "horse2zebra_224": {},
    "celeba": {},
    "firewatch": {},
    # Generators first: discriminators are shown the fakes of the generators' last update.
    "firewatch, two scales, identity": {
        "pool_size": 2,
        "loss__real_label": 0.9,
        "loss__identity_every_steps": 3,
        "generator_updates": 2,
        "discriminator_updates": 2,
        "update_first": "generators",
    },
    "monet2photo": {"pool_size": 2},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_training_follows_torchs(name: str) -> None:
    """With the same weights, batches and draws, six updates in float64 have the same losses.

    Relative differences are below 1e-6.
    """
    with jax.enable_x64(True):
        config = parity.small_recipe(name, precision="float64", **TRAININGS[name])
        parity.follow(config, SIZE, updates=6)


# Both orders of updates, with and without sigmoid and scales. `test_recipe_networks.py` compares
# the outputs of all networks in float32.
@pytest.mark.parametrize("name", ["horse2zebra", "firewatch, two scales, identity"])
def test_first_losses_in_float32_equal_torchs(name: str) -> None:
    """They agree to 1e-5; generators face the updated discriminators where those are first."""
    joint = {"discriminator_steps": "joint", "loss__identity_step": "joint"}
    config = parity.small_recipe(name, optimizer__name="adam", **joint)
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

    @parity.compiled
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
