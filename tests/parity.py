"""Comparisons of networks, losses and updates with their counterparts in PyTorch."""

import functools
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import torch_cyclegan
from cyclegan_jax import image_pool
from cyclegan_jax.build import build_losses, build_model, build_networks, build_state
from cyclegan_jax.losses import discriminator_loss, generator_loss
from cyclegan_jax.state import TrainState
from cyclegan_jax.step import train_step
from cyclegan_jax.utils import image_io
from tests import torch_recipes
from tests.torch_params import to_flax

# Compilation takes nearly all of the time of comparisons.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# Every network and objective of the recipes: {name: (configuration, changed fields)}.
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "horse2zebra": ("horse2zebra", {}),
    "horse2zebra_224": ("horse2zebra_224", {}),
    "celeba": ("celeba_hair", {}),
    "firewatch": ("firewatch", {}),
    "firewatch, resize convolution, dense unit, soft label": (
        "firewatch",
        {
            "generator__variant": "resnet9_same_resize",
            "discriminator__variant": "dense",
            "loss__real_label": 0.9,
        },
    ),
    "firewatch, two scales, identity": (
        "firewatch",
        {
            "generator__variant": "resnet9_same_deep",
            "discriminator__scales": 2,
            "loss__identity": 0.1,
        },
    ),
    "monet2photo": ("monet2photo", {}),
}


def recipe(name: str, **changes: Any) -> Any:
    """Return the configuration of one of `RECIPES`, in float32 unless changed."""
    module, options = RECIPES[name]
    config = import_module(f"configs.{module}").get_config()
    return change(config, **({"precision": "float32"} | options | changes))


def small_recipe(name: str, **changes: Any) -> Any:
    """Return one of `RECIPES` with few and narrow layers."""
    small = {"generator__width": 2, "generator__blocks": 1}
    small |= {"discriminator__width": 2, "discriminator__layers": 2}
    return recipe(name, **(small | changes))


def change(config: Any, **changes: Any) -> Any:
    """Set fields of a configuration by path, as in `loss__mode="vanilla"`, and return it."""
    for path, value in changes.items():
        *parents, name = path.split("__")
        setattr(functools.reduce(getattr, parents, config), name, value)
    return config


def randomise(network: torch.nn.Module, seed: int) -> None:
    """Draw weights that preserve the scale of activations, and biases large enough to matter."""
    random = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
        if parameter.ndim == 4:
            parameter.data = noise * (2 / parameter[0].numel()) ** 0.5
        else:
            # Scales of norms too: left at 1 they would hide errors.
            parameter.data = 0.3 * noise + (0.5 if parameter.data.any() else 0.0)


def image_batch(
    random: np.random.Generator, size: int, channels: int = 3, batch: int = 2
) -> np.ndarray:
    """Draw images, uint8 [batch, size, size, channels]."""
    return random.integers(0, 256, (batch, size, size, channels), np.uint8)


def to_torch(images: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Convert uint8 [B, H, W, C] to the input of the PyTorch networks."""
    return torch.from_numpy(image_io.to_float(images, np.float64)).permute(0, 3, 1, 2).to(dtype)


def assert_trees_close(ours: Any, theirs: Any, **tolerance: Any) -> None:
    """Assert that two trees have the same structure and close leaves."""
    assert str(jax.tree.structure(ours)) == str(jax.tree.structure(theirs))
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        np.testing.assert_allclose(x, y, err_msg=jax.tree_util.keystr(path), **tolerance)


def make_trainer(config: Any, size: int) -> torch_cyclegan.Trainer:
    """Build the PyTorch trainer for images of size x size, with the published initialisation."""
    torch.manual_seed(0)
    keras = config.optimizer.name == "keras_adam"
    return (torch_recipes.KerasTrainer if keras else torch_cyclegan.Trainer)(
        config,
        dtype=torch.float64 if config.precision == "float64" else torch.float32,
        build_generator=torch_recipes.build_generator,
        build_discriminator=functools.partial(torch_recipes.build_discriminator, size=size),
    )


def make_state(config: Any, size: int, trainer: torch_cyclegan.Trainer) -> TrainState:
    """Build our train state at step 0 with the trainer's weights."""
    shapes = jax.eval_shape(functools.partial(build_state, config, (size, size)))
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.replace(key=None, params=None)
    )
    key = jax.random.key(config.seed, impl="threefry2x32")
    return zeros.replace(key=key, params=flax_params(trainer))


def flax_params(trainer: torch_cyclegan.Trainer) -> dict[str, Any]:
    """Return the weights of all four networks as Flax parameters."""
    return {name: to_flax(net.state_dict()) for name, net in trainer.networks.items()}


def pair_keys(key: jax.Array, batch: int) -> jax.Array:
    """Derive the keys [B] of a batch's pairs from a key of the update, on one device."""
    return jnp.stack([jax.random.fold_in(key, i) for i in range(batch)])


def step_draws(state: TrainState, config: Any) -> torch_cyclegan.Draws:
    """Return the random draws of `train_step` at this state, for the PyTorch trainer to replay."""
    batch = config.batch_size
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), 4)
    pools = []
    for key in keys[1:3]:
        drawn = image_pool.draw(key, batch, max(config.pool_size, 1))
        pools.append(list(zip(drawn.exchange.tolist(), drawn.index.tolist(), strict=True)))
    dtype = getattr(np, config.precision)
    mix = {
        domain: torch.tensor(
            [
                jax.random.uniform(jax.random.fold_in(key, i), (), dtype).item()
                for key in pair_keys(keys[3], batch)
            ],
            dtype=torch.float64,
        )
        for i, domain in enumerate(("a", "b"))
    }
    return torch_cyclegan.Draws(pools[0], pools[1], mix)


def follow(
    config: Any, size: int, updates: int, rates: list[float] | None = None, pairs: int = 1000
) -> None:
    """Train on both sides in float64, and compare every loss of every update, pools and weights.

    Args:
        config: The configuration of both.
        size: Height and width of images.
        updates: Number of updates.
        rates: PyTorch's learning rate of each update, if not constant; ours follow from the
            configuration.
        pairs: Pairs per epoch.
    """
    trainer = make_trainer(config, size)
    state = make_state(config, size, trainer)
    step = compiled(functools.partial(train_step, model=build_model(config, pairs)))
    random = np.random.default_rng(0)
    exchanged = 0
    for update in range(updates):
        batch = {d: image_batch(random, size, batch=config.batch_size) for d in ("a", "b")}
        draws = step_draws(state, config)
        full = update * config.batch_size >= config.pool_size
        exchanged += full and sum(old for old, _ in [*draws.pool_a, *draws.pool_b])
        state, metrics = step(state, batch)
        if rates is not None:
            trainer.set_learning_rate(rates[update])
        expected = trainer.step(to_torch(batch["a"]), to_torch(batch["b"]), draws)
        with_identity = config.loss.identity > 0 and update % config.loss.identity_every_steps == 0
        assert len(expected) == (8 if with_identity else 6)
        for term, value in expected.items():
            np.testing.assert_allclose(metrics[term], value, rtol=1e-6, err_msg=term)
        for term in ("generators/identity_a", "generators/identity_b"):
            assert with_identity or metrics.get(term, 0.0) == 0.0
    # Adam has changed every weight by about the learning rate, 2e-4, in each update. Biases before
    # an instance norm have gradients of rounding errors alone, which it enlarges.
    assert_trees_close(state.params, flax_params(trainer), atol=1e-6)
    if config.pool_size:
        assert exchanged
        for domain, pool in trainer.pools.items():
            theirs = torch.stack(pool.images).permute(0, 2, 3, 1)
            ours: Any = state.pools[domain].images
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


class LossGradient(NamedTuple):
    """Gradient of one loss for the parameters of one network, on both sides.

    Attributes:
        term: The loss: "adversarial_ab", or "a" for that of a discriminator.
        network: The network, such as "gen_ab".
        ours: Tree of gradients.
        theirs: Tree of PyTorch's gradients.
    """

    term: str
    network: str
    ours: Any
    theirs: Any


def loss_gradients(
    trainer: torch_cyclegan.Trainer,
    state: TrainState,
    config: Any,
    real: dict[str, np.ndarray],
    shown: dict[str, np.ndarray],
    jit: Callable[..., Any] = jax.jit,
) -> Iterator[LossGradient]:
    """Yield the gradient of every loss for each network that it trains.

    Args:
        trainer: The PyTorch side.
        state: Our state, with the same weights.
        config: The configuration of both.
        real: {a, b}, uint8 [B, H, W, C].
        shown: {a, b}, generated images in the discriminators' losses, of the same shapes.
        jit: Compiles our side.
    """
    torch_type = torch.float64 if config.precision == "float64" else torch.float32
    real_torch, shown_torch = (
        {d: to_torch(x, torch_type) for d, x in p.items()} for p in (real, shown)
    )
    our_type = getattr(np, config.precision)
    real_ours, shown_ours = (
        {d: jnp.asarray(image_io.to_float(x, our_type)) for d, x in p.items()}
        for p in (real, shown)
    )
    key = jax.random.split(jax.random.fold_in(state.key, 0), 4)[3]
    keys = pair_keys(key, len(real["a"]))
    modules: Any = {"networks": build_networks(config), "losses": build_losses(config)}

    def terms(params: Any) -> dict[str, jax.Array]:
        _, (of_generators, _) = generator_loss(
            params, params, {}, jnp.int32(0), real_ours, keys, **modules
        )
        _, (of_discriminators, _) = discriminator_loss(
            params, real_ours, shown_ours, keys, **modules
        )
        return of_generators | of_discriminators

    values, pull_back = jit(functools.partial(jax.vjp, terms))(state.params)
    pull_back = functools.partial(jit(lambda back, weights: back(weights)[0]), pull_back)
    theirs, _ = trainer.generator_losses(real_torch)
    trained: dict[str, tuple[str, ...]] = dict.fromkeys(theirs, ("gen_ab", "gen_ba"))
    mix = step_draws(state, config).mix
    theirs |= trainer.discriminator_losses(real_torch, shown_torch, mix)
    trained |= {"a": ("disc_a",), "b": ("disc_b",)}
    assert set(values) == set(trained)
    for term, names in trained.items():
        gradients = pull_back({name: jnp.asarray(name == term, our_type) for name in trained})
        for name in names:
            yield LossGradient(
                term, name, gradients[name], torch_gradients(theirs[term], trainer.networks[name])
            )


def torch_gradients(term: torch.Tensor, network: torch.nn.Module) -> dict[str, Any]:
    """Compute the gradient of a loss for a network's parameters, as a tree of Flax parameters."""
    named = dict(network.named_parameters())
    gradients = torch.autograd.grad(
        term, list(named.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return to_flax(dict(zip(named, gradients, strict=True)))


def relative_difference(ours: Any, theirs: Any) -> float:
    """Return the largest difference of two trees, relative to the second's largest value."""
    assert str(jax.tree.structure(ours)) == str(jax.tree.structure(theirs))
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    largest = max(np.abs(y).max() for _, y in pairs)
    return float(max(np.abs(np.asarray(x) - y).max() for x, y in pairs) / (largest or 1.0))
