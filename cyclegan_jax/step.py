"""The update: one pure function from state and batch to state and metrics."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cyclegan_jax import history, images
from cyclegan_jax.objectives import (
    Batch,
    Metrics,
    discriminator_loss,
    generate,
    generator_loss,
)
from cyclegan_jax.schedules import learning_rate
from cyclegan_jax.state import (
    DISCRIMINATOR_NAMES,
    GENERATOR_NAMES,
    Params,
    TrainState,
    build_networks,
    compute_dtype,
    optimizer,
    subset,
)

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
    networks = build_networks(config, axis_name)
    dtype = jnp.promote_types(compute_dtype(config), jnp.float32)
    real = {domain: images.to_float(jnp.asarray(batch[domain]), dtype) for domain in ("a", "b")}
    keys = dict(
        zip(
            ("dropout", "pool_a", "pool_b", "penalty"),
            jax.random.split(jax.random.fold_in(state.key, state.step), 4),
            strict=True,
        )
    )
    rate = learning_rate(config, state.step, pairs_per_epoch)

    def update(name: str, state: TrainState, loss: Callable[[Params], Any], names: Any) -> Any:
        """One step of Adam on the networks `names`; the state, metrics, and what `loss` adds."""
        params = subset(state.params, names)
        (_, (terms, pictures)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        gradients, terms = _mean_over_devices((gradients, terms), axis_name)
        updates, adam = optimizer(config, rate).update(gradients, state.optimizers[name], params)
        metrics = {f"{name}/{term}": value for term, value in terms.items()}
        metrics[f"gradient_norm/{name}"] = optax.global_norm(gradients)
        moved = state.replace(
            params=state.params | optax.apply_updates(params, updates),
            optimizers=state.optimizers | {name: adam},
        )
        return moved, metrics, pictures

    def update_generators(state: TrainState) -> tuple[TrainState, Metrics, Batch]:
        def once(state: TrainState, key: Array) -> Any:
            def loss(params: Params) -> Any:
                everything = state.params | params
                return generator_loss(networks, everything, real, key, config, state.step)

            return update("generators", state, loss, GENERATOR_NAMES)

        return _repeat(once, state, keys["dropout"], config.generator_updates)

    def update_discriminators(state: TrainState, fakes: Batch) -> tuple[TrainState, Metrics]:
        pools, shown = {}, {}
        for domain in ("a", "b"):
            pools[domain], shown[domain] = _query_pool(
                state.pools[domain], fakes[domain], keys[f"pool_{domain}"], axis_name
            )

        def once(state: TrainState, key: Array) -> Any:
            def loss(params: Params) -> Any:
                terms = discriminator_loss(networks, params, real, shown, key, config)
                return sum(terms.values()), (terms, None)

            return update("discriminators", state, loss, DISCRIMINATOR_NAMES)

        state, metrics, _ = _repeat(once, state, keys["penalty"], config.discriminator_updates)
        return state.replace(pools=pools), metrics

    if config.update_first == "generators":
        state, of_generators, fakes = update_generators(state)
        state, of_discriminators = update_discriminators(state, fakes)
    else:
        fakes = generate(networks, state.params, real, keys["dropout"])
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
    metrics, pictures = jax.tree.map(lambda values: values[-1], results)
    return state, metrics, pictures


def _query_pool(
    pool: history.Pool, fake: Array, key: Array, axis_name: str | None
) -> tuple[history.Pool, Array]:
    """Asks the pool, which sees the fakes of all devices in the order of the whole batch."""
    if axis_name is None:
        return history.query(pool, fake, key)
    whole = jax.lax.all_gather(fake, axis_name, tiled=True)
    pool, shown = history.query(pool, whole, key)
    start = jax.lax.axis_index(axis_name) * fake.shape[0]
    return pool, jax.lax.dynamic_slice_in_dim(shown, start, fake.shape[0])


def _mean_over_devices(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def compile_step(
    config: Any, pairs_per_epoch: int
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`train_step` compiled for all devices of all processes; the state given to it is used up.

    The result takes this process's share of the batch, [B / processes, H, W, C]. The state stays
    one unstacked tree, alike on all devices.
    """
    step = functools.partial(train_step, config=config, pairs_per_epoch=pairs_per_epoch)
    if jax.device_count() == 1:
        return jax.jit(step, donate_argnums=0)
    parallel = jax.pmap(
        functools.partial(step, axis_name=DEVICE_AXIS),
        axis_name=DEVICE_AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=0,
    )
    devices = jax.local_device_count()

    def split_and_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        shares = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}
        return parallel(state, shares)

    return split_and_step
