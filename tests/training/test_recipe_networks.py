"""Small versions of the networks and losses of all recipes against PyTorch.

`python -m benchmarks.recipe_parity` compares them at full size.
"""

from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cyclegan_jax.build import build_networks  # noqa: E402
from cyclegan_jax.utils import image_io  # noqa: E402
from tests import parity, torch_recipes  # noqa: E402
from tests.torch_params import to_flax  # noqa: E402

# Networks this small run faster on one thread, in particular on shared cores.
torch.set_num_threads(1)

SIZE = 32


@pytest.mark.parametrize("name", parity.RECIPES)
def test_outputs_equal_torchs(name: str) -> None:
    """The same weights and images (2 channels in A, 3 in B) give the same outputs to 1e-5."""
    config = parity.small_recipe(name, data__channels_a=2, generator__blocks=2)
    gen = torch_recipes.build_generator(config, 2, 3)
    disc = torch_recipes.build_discriminator(config, 2, SIZE)
    parity.randomise(gen, 0)
    parity.randomise(disc, 1)
    x = parity.image_batch(np.random.default_rng(0), SIZE, channels=2)
    with torch.no_grad():
        theirs = jax.tree.map(
            lambda y: y.permute(0, 2, 3, 1).numpy(),
            [network(parity.to_torch(x, torch.float32)) for network in (gen, disc)],
        )
    networks = build_networks(config)

    @parity.compiled
    def apply(params: Any, x: jax.Array) -> Any:
        return [
            network.apply({"params": p}, x)
            for network, p in zip((networks.gen_ab, networks.disc_a), params, strict=True)
        ]

    ours = apply([to_flax(network.state_dict()) for network in (gen, disc)], image_io.to_float(x))
    assert all(y.std() > 0.01 for y in jax.tree.leaves(theirs))
    parity.assert_trees_close(ours, theirs, atol=1e-5)


# `test_parity.py` and `test_recipe_training.py` train the others.
def test_gradients_of_every_loss_equal_torchs() -> None:
    """The gradient of each loss for each network agrees to 1e-8, in float64."""
    name = "firewatch, resize convolution, dense unit, soft label"
    with jax.enable_x64(True):
        config = parity.small_recipe(name, precision="float64", batch_size=2)
        trainer = parity.make_trainer(config, SIZE)
        for seed, network in enumerate(trainer.networks.values()):
            parity.randomise(network, seed)
        state = parity.make_state(config, SIZE, trainer)
        random = np.random.default_rng(1)
        real = {domain: parity.image_batch(random, SIZE) for domain in ("a", "b")}
        shown = {domain: parity.image_batch(random, SIZE) for domain in ("a", "b")}
        gradients = list(
            parity.loss_gradients(trainer, state, config, real, shown, parity.compiled)
        )
    for term, network, ours, theirs in gradients:
        assert parity.relative_difference(ours, theirs) < 1e-8, (term, network)
    trained = {
        (g.term, g.network) for g in gradients if any(x.any() for x in jax.tree.leaves(g.theirs))
    }
    expected = {("adversarial_ab", "gen_ab"), ("adversarial_ba", "gen_ba"), ("a", "disc_a")}
    expected |= {(f"cycle_{d}", f"gen_{g}") for d in ("a", "b") for g in ("ab", "ba")}
    expected |= {("b", "disc_b")}
    assert trained == expected
