"""The update: one pure function from state and batch to state and metrics."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cyclegan_jax import image_pool
from cyclegan_jax.distributed import micro_batches
from cyclegan_jax.models.layers import Share
from cyclegan_jax.objectives import Batch, Metrics, discriminator_loss, generate, generator_loss
from cyclegan_jax.schedules import learning_rate
from cyclegan_jax.state import (
    DISCRIMINATOR_NAMES,
    GENERATOR_NAMES,
    Networks,
    Params,
    TrainState,
    build_networks,
    compute_dtype,
    optimizer,
    subset,
)
from cyclegan_jax.utils import image_io

Array = jax.Array

DEVICE_AXIS = "batch"


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    config: Any,
    pairs_per_epoch: int,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One update of all four networks, after Zhu et al. 2017.

    Pure, and to be compiled: `jax.jit(functools.partial(train_step, config=..., ...))`, or
    `compile_step`, which also spreads it over devices.

    Args:
        state: as it was before; the result has its shapes.
        batch: {a, b}, uint8 or uint16 [B, H, W, C] (this device's share of them).
        config: see `configs/default.py`.
        pairs_per_epoch: what an epoch of the learning-rate schedule counts.
        axis_name: the device axis that the batch is split over, if any.

    Returns:
        The state after the update, and scalars: `generators/*` and `discriminators/*` are weighted
        losses at the parameters before their update, `gradient_norm/*`, `learning_rate`.
    """
    dtype = jnp.promote_types(compute_dtype(config), jnp.float32)
    real = {domain: image_io.to_float(jnp.asarray(batch[domain]), dtype) for domain in ("a", "b")}
    keys = dict(
        zip(
            ("dropout", "pool_a", "pool_b", "penalty"),
            jax.random.split(jax.random.fold_in(state.key, state.step), 4),
            strict=True,
        )
    )
    rate = learning_rate(config, state.step, pairs_per_epoch)

    share = Share(axis_name, parts=micro_batches(config, pairs=len(real["a"])))
    in_micro_batches = functools.partial(_in_micro_batches, config=config, share=share)

    def update(name: str, state: TrainState, loss: Callable[..., Any], names: Any, *given: Any):
        """One step of Adam on the networks `names`; the state, metrics, and what `loss` adds."""
        params = subset(state.params, names)

        def differentiate(networks: Networks, *given: Batch) -> Any:
            gradient = jax.value_and_grad(loss, has_aux=True)
            (_, (terms, images)), gradients = gradient(params, networks, *given)
            return gradients, terms, images

        *means, images = in_micro_batches(differentiate, params, *given)
        gradients, terms = _mean_over_devices(means, axis_name)
        updates, adam = optimizer(config, rate).update(gradients, state.optimizers[name], params)
        metrics = {f"{name}/{term}": value for term, value in terms.items()}
        metrics[f"gradient_norm/{name}"] = optax.global_norm(gradients)
        moved = state.replace(
            params=state.params | optax.apply_updates(params, updates),
            optimizers=state.optimizers | {name: adam},
        )
        return moved, metrics, images

    def update_generators(state: TrainState) -> tuple[TrainState, Metrics, Batch]:
        def once(state: TrainState, key: Array) -> Any:
            def loss(params: Params, networks: Networks, real: Batch) -> Any:
                everything = state.params | params
                return generator_loss(networks, everything, real, key, config, state.step)

            return update("generators", state, loss, GENERATOR_NAMES, real)

        return _repeat(once, state, keys["dropout"], config.generator_updates)

    def update_discriminators(state: TrainState, fakes: Batch) -> tuple[TrainState, Metrics]:
        pools, shown = {}, {}
        for domain in ("a", "b"):
            pools[domain], shown[domain] = _query_pool(
                state.pools[domain], fakes[domain], keys[f"pool_{domain}"], axis_name
            )

        def once(state: TrainState, key: Array) -> Any:
            def loss(params: Params, networks: Networks, real: Batch, shown: Batch) -> Any:
                terms = discriminator_loss(networks, params, real, shown, key, config)
                return sum(terms.values()), (terms, None)

            return update("discriminators", state, loss, DISCRIMINATOR_NAMES, real, shown)

        state, metrics, _ = _repeat(once, state, keys["penalty"], config.discriminator_updates)
        return state.replace(pools=pools), metrics

    if config.update_first == "generators":
        state, of_generators, fakes = update_generators(state)
        state, of_discriminators = update_discriminators(state, fakes)
    else:

        def translate(networks: Networks, real: Batch) -> Any:
            return None, None, generate(networks, state.params, real, keys["dropout"])

        *_, fakes = in_micro_batches(translate, None, real)
        state, of_discriminators = update_discriminators(state, fakes)
        state, of_generators, _ = update_generators(state)
    if state.average is not None:
        state = state.replace(average=_averaged(state, config.average_decay))
    metrics = {"learning_rate": rate} | of_generators | of_discriminators
    return state.replace(step=state.step + 1), metrics


def _averaged(state: TrainState, decay: float) -> dict[str, Params]:
    """The running averages after an update, which in a young run follow faster."""
    weight = jnp.maximum(1 - decay, 9 / (10 + state.step))
    params = subset(state.params, GENERATOR_NAMES)
    return optax.incremental_update(params, state.average, weight)


def _in_micro_batches(
    compute: Callable[..., Any], params: Any, *batches: Batch, config: Any, share: Share
) -> tuple[Any, Any, Any]:
    """What `compute` gives for batches, done in the micro-batches that `share` says.

    Args:
        compute: (networks, *batches) -> (gradients, scalars, something for each image), of which
            the first two are means over these images.
        params: what the gradients are for.
        batches: trees of arrays [B, ...].
        config: for the networks.
        share: this device's of the whole batch.

    Returns:
        The same of whole batches: two means over all images, and arrays [B, ...] in their order.
    """
    if share.parts == 1:
        return compute(build_networks(config, share), *batches)

    def body(total: Any, given: Any) -> Any:
        part, *some = given
        networks = build_networks(config, dataclasses.replace(share, part=part))
        gradients, terms, images = compute(networks, *some)
        return jax.tree.map(jnp.add, total, gradients), (terms, images)

    split = jax.tree.map(lambda x: x.reshape(share.parts, -1, *x.shape[1:]), batches)
    zeros = jax.tree.map(jnp.zeros_like, params)
    total, (terms, images) = jax.lax.scan(body, zeros, (jnp.arange(share.parts), *split))
    return (
        jax.tree.map(lambda x: x / share.parts, total),
        jax.tree.map(lambda x: x.mean(0), terms),
        jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), images),
    )


def _repeat(
    update: Callable[[TrainState, Array], Any], state: TrainState, key: Array, times: int
) -> tuple[TrainState, Metrics, Any]:
    """`update` done so often on one batch, and what the last one gave."""
    if times == 1:
        return update(state, key)

    def body(state: TrainState, i: Array) -> tuple[TrainState, Any]:
        state, *results = update(state, jax.random.fold_in(key, i))
        return state, results

    # Compiled once, however often it is done.
    state, results = jax.lax.scan(body, state, jnp.arange(times))
    metrics, images = jax.tree.map(lambda values: values[-1], results)
    return state, metrics, images


def _query_pool(
    pool: image_pool.Pool, fake: Array, key: Array, axis_name: str | None
) -> tuple[image_pool.Pool, Array]:
    """Asks the pool, which sees the fakes of all devices in the order of the whole batch."""
    if axis_name is None:
        return image_pool.query(pool, fake, key)
    whole = jax.lax.all_gather(fake, axis_name, tiled=True)
    pool, shown = image_pool.query(pool, whole, key)
    start = jax.lax.axis_index(axis_name) * fake.shape[0]
    return pool, jax.lax.dynamic_slice_in_dim(shown, start, fake.shape[0])


def _mean_over_devices(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


class Placed(NamedTuple):
    """The batches of one or several updates, on the devices.

    Attributes:
        arrays: {a, b}, [B, H, W, C], of several [updates, B, H, W, C]; where there are several
            devices their number comes before all, and B is the share of one.
        updates: how many.
    """

    arrays: Batch
    updates: int


def place(batches: Sequence[Batch], devices: int | None = None) -> Placed:
    """Begins to put batches onto the devices, in the layout of `compile_step`.

    Args:
        batches: of consecutive updates, each this process's share, [B / processes, H, W, C].
        devices: as in `compile_step`.
    """
    several = len(batches) > 1
    arrays = {
        d: np.stack([batch[d] for batch in batches]) if several else batches[0][d]
        for d in batches[0]
    }
    mesh = _mesh(devices)
    if mesh is None:
        return Placed(jax.device_put(arrays), len(batches))

    def split(x: Any) -> Any:
        if not several:
            return x.reshape(mesh.size, -1, *x.shape[1:])
        return x.reshape(len(batches), mesh.size, -1, *x.shape[2:]).swapaxes(0, 1)

    layout = NamedSharding(mesh, PartitionSpec(DEVICE_AXIS))
    return Placed(jax.device_put(jax.tree.map(split, arrays), layout), len(batches))


def _mesh(devices: int | None) -> Mesh | None:
    """So many of this process's devices, or all; None where there is but one in all processes."""
    local = jax.local_devices()[:devices]
    alone = len(local) * jax.process_count() == 1
    return None if alone else Mesh(np.array(local), DEVICE_AXIS)


def compile_step(
    config: Any, pairs_per_epoch: int, devices: int | None = None
) -> Callable[[TrainState, Batch | Placed], tuple[TrainState, Metrics]]:
    """`train_step` compiled for all devices of all processes; the state given to it is used up.

    The state stays one unstacked tree, alike on all devices.

    Args:
        config: see `configs/default.py`.
        pairs_per_epoch: what an epoch of the learning-rate schedule counts.
        devices: use only so many of each process.

    Returns:
        A function of a state and of what `place` returned, or the batch of one update to be placed.
        It does the updates of all batches placed; of several, metrics are [updates].
    """
    step = functools.partial(train_step, config=config, pairs_per_epoch=pairs_per_epoch)
    mesh = _mesh(devices)
    compiled: Callable[..., Any]
    if mesh is None:
        compiled = functools.partial(jax.jit, donate_argnums=0)
    else:
        step = functools.partial(step, axis_name=DEVICE_AXIS)
        compiled = functools.partial(
            jax.pmap,
            axis_name=DEVICE_AXIS,
            in_axes=(None, 0),
            out_axes=(None, None),
            donate_argnums=0,
            devices=None if devices is None else tuple(mesh.devices.flat),
        )
    one, several = compiled(step), compiled(functools.partial(jax.lax.scan, step))

    def run(state: TrainState, batch: Batch | Placed) -> tuple[TrainState, Metrics]:
        placed = batch if isinstance(batch, Placed) else place([batch], devices)
        if mesh is not None:
            # Where the update leaves it; given from elsewhere, it would be compiled once for that.
            everywhere = NamedSharding(mesh, PartitionSpec())
            if state.step.sharding != everywhere:
                state = jax.device_put(state, everywhere)
        return (one if placed.updates == 1 else several)(state, placed.arrays)

    return run
