"""The four networks of a configuration, and the one pytree that holds all a run needs to go on."""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cyclegan_jax import image_pool
from cyclegan_jax.models.discriminators import build_discriminator
from cyclegan_jax.models.generators import build_generator
from cyclegan_jax.models.layers import WHOLE_BATCH, Share, Style

Array = jax.Array
Params = Any

PRECISIONS = ("float32", "bfloat16", "float64")
GENERATOR_NAMES = ("gen_ab", "gen_ba")
DISCRIMINATOR_NAMES = ("disc_a", "disc_b")


class Networks(NamedTuple):
    """Flax modules; `gen_ab` turns A into B, `disc_a` judges images of A."""

    gen_ab: Any
    gen_ba: Any
    disc_a: Any
    disc_b: Any


class TrainState(flax.struct.PyTreeNode):
    """All that changes in a run, and all that a checkpoint holds of it.

    Attributes:
        step: updates done, an int32 scalar.
        params: {gen_ab, gen_ba, disc_a, disc_b}, each a tree of float32 (or float64).
        optimizers: {generators, discriminators}, the states of the two Adams.
        pools: {a, b}, the generated images of each domain that discriminators may see again.
        key: the run's random key; an update uses `fold_in(key, step)`.
        average: {gen_ab, gen_ba}, running averages of the generators' parameters; None where the
            configuration asks for none.
    """

    step: Array
    params: dict[str, Params]
    optimizers: dict[str, optax.OptState]
    pools: dict[str, image_pool.Pool]
    key: Array
    average: dict[str, Params] | None = None

    @property
    def shown_params(self) -> dict[str, Params]:
        """The networks to make images with: the averaged generators where there are any."""
        return self.params | (self.average or {})

    def with_networks(self, params: dict[str, Params]) -> "TrainState":
        """This state with other networks, whose running averages begin anew."""
        average = None if self.average is None else _copied_generators(params)
        return self.replace(params=params, average=average)


def compute_dtype(config: Any) -> Any:
    """The type of activations that `config.precision` asks for."""
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}[
        config.precision
    ]


def build_networks(config: Any, share: Share = WHOLE_BATCH) -> Networks:
    """The networks a configuration describes; nothing is computed.

    Args:
        config: see `configs/default.py`.
        share: which part of a whole batch they will see, for statistics and masks that belong to
            all of it.
    """

    def style(norm: str) -> Style:
        return Style(norm, config.init.name, config.init.gain, compute_dtype(config), share)

    def generator(channels: int) -> Any:
        g = config.generator
        return build_generator(
            g.variant,
            channels=channels,
            width=g.width,
            style=style(g.norm),
            dropout=g.dropout,
            blocks=g.blocks,
            remat=g.remat,
        )

    def discriminator() -> Any:
        d = config.discriminator
        return build_discriminator(
            d.variant,
            width=d.width,
            style=style(d.norm),
            layers=d.layers,
            sigmoid=d.sigmoid,
            scales=d.scales,
        )

    return Networks(
        gen_ab=generator(config.data.channels_b),
        gen_ba=generator(config.data.channels_a),
        disc_a=discriminator(),
        disc_b=discriminator(),
    )


def optimizer(config: Any, learning_rate: Any) -> optax.GradientTransformation:
    """Adam at a learning rate that may be a traced scalar: its state does not depend on it."""
    return optax.adam(learning_rate, b1=config.optimizer.beta1, b2=config.optimizer.beta2)


def subset(params: dict[str, Params], names: tuple[str, ...]) -> dict[str, Params]:
    """The parameters of these networks alone."""
    return {name: params[name] for name in names}


def _copied_generators(params: dict[str, Params]) -> dict[str, Params]:
    # Arrays of their own: an update uses up those it is given, and none may be there twice.
    return jax.tree.map(jnp.copy, subset(params, GENERATOR_NAMES))


def create_state(config: Any, image_size: tuple[int, int]) -> TrainState:
    """A state at step 0, a pure function of the configuration's seed.

    Args:
        config: see `configs/default.py`.
        image_size: (height, width) of training images, which the pools hold.
    """
    networks = build_networks(config)
    dtype = jnp.promote_types(compute_dtype(config), jnp.float32)
    # PRNG implementation and splitting are named so that a library's new default changes no run.
    key = jax.random.key(config.seed, impl="threefry2x32")
    network_keys = jax.random.split(jax.random.fold_in(key, 0x1217), 4)
    shapes = {
        "a": (*image_size, config.data.channels_a),
        "b": (*image_size, config.data.channels_b),
    }
    inputs = {"gen_ab": "a", "gen_ba": "b", "disc_a": "a", "disc_b": "b"}
    params = {
        name: getattr(networks, name).init(k, jnp.zeros((1, *shapes[inputs[name]]), dtype))[
            "params"
        ]
        for name, k in zip(Networks._fields, network_keys, strict=True)
    }
    adam = optimizer(config, 0.0)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizers={
            "generators": adam.init(subset(params, GENERATOR_NAMES)),
            "discriminators": adam.init(subset(params, DISCRIMINATOR_NAMES)),
        },
        pools={d: image_pool.create(config.pool_size, shapes[d], dtype) for d in ("a", "b")},
        key=key,
        average=_copied_generators(params) if config.average_decay else None,
    )


def count_parameters(params: Params) -> int:
    """Trainable numbers in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
