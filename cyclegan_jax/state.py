"""The train state: one pytree that holds everything a run needs to resume."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cyclegan_jax import image_pool

Array = jax.Array
Params = Any
ImageShape = tuple[int, int, int]

KEY_TYPE = "threefry2x32"  # explicit, so that a library's new default changes no run
GENERATORS = ("gen_ab", "gen_ba")
DISCRIMINATORS = ("disc_a", "disc_b")


class Networks(NamedTuple):
    """Flax modules: `gen_ab` translates A to B, `disc_a` judges images of domain A, and so on."""

    gen_ab: Any
    gen_ba: Any
    disc_a: Any
    disc_b: Any


# The domain of each network's input.
INPUT_DOMAINS = {"gen_ab": "a", "gen_ba": "b", "disc_a": "a", "disc_b": "b"}


class TrainState(flax.struct.PyTreeNode):
    """Everything that changes in a run, and everything that a checkpoint holds of it.

    Attributes:
        step: Number of updates done, an int32 scalar.
        params: {gen_ab, gen_ba, disc_a, disc_b}, each a tree of float32 (or float64).
        optimizers: {generators, discriminators}, the states of the optimisers, and `identity`,
            where the identity loss has a step of its own.
        pools: {a, b}, generated images of each domain that discriminators may see again.
        key: The run's PRNG key; an update uses `fold_in(key, step)`.
        average: {gen_ab, gen_ba}, running averages of the generators' parameters, or None.
    """

    step: Array
    params: dict[str, Params]
    optimizers: dict[str, optax.OptState]
    pools: dict[str, image_pool.Pool]
    key: Array
    average: dict[str, Params] | None = None

    @property
    def inference_params(self) -> dict[str, Params]:
        """Parameters to translate with: averaged generators, if there are averages."""
        return self.params | (self.average or {})

    def with_params(self, params: dict[str, Params]) -> "TrainState":
        """Return this state with other parameters, whose running averages start anew."""
        average = None if self.average is None else _copy(subset(params, GENERATORS))
        return self.replace(params=params, average=average)


def create_state(
    networks: Networks,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    seed: int,
    image_shapes: Mapping[str, ImageShape],
    pool_size: int = 50,
    average: bool = False,
    dtype: Any = jnp.float32,
) -> TrainState:
    """Create the state at step 0, a pure function of the seed.

    Args:
        networks: The four modules.
        optimizers: {generators, discriminators}, and `identity` where it has a step of its own.
        seed: Determines all parameters, and all random numbers of the run.
        image_shapes: {a, b}, (height, width, channels) of training images.
        pool_size: Number of images in each pool.
        average: Whether to keep running averages of the generators.
        dtype: Type of images, float32 or float64.
    """
    key = jax.random.key(seed, impl=KEY_TYPE)
    network_keys = jax.random.split(jax.random.fold_in(key, 0x1217), 4)
    params = {}
    for name, network_key in zip(Networks._fields, network_keys, strict=True):
        image = jnp.zeros((1, *image_shapes[INPUT_DOMAINS[name]]), dtype)
        params[name] = getattr(networks, name).init(network_key, image)["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizers={
            side: optimizer.init(
                subset(params, DISCRIMINATORS if side == "discriminators" else GENERATORS)
            )
            for side, optimizer in optimizers.items()
        },
        pools={d: image_pool.create(pool_size, image_shapes[d], dtype) for d in ("a", "b")},
        key=key,
        average=_copy(subset(params, GENERATORS)) if average else None,
    )


def subset(params: dict[str, Params], names: tuple[str, ...]) -> dict[str, Params]:
    """Return the parameters of these networks."""
    return {name: params[name] for name in names}


def count_parameters(params: Params) -> int:
    """Count the trainable numbers in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _copy(tree: Params) -> Params:
    # An update donates its arguments, so no array may occur in them twice.
    return jax.tree.map(jnp.copy, tree)
