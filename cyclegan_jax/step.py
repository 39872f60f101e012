"""The update: one pure function from state and batch to state and metrics."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cyclegan_jax import history, images, layers, losses
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

Array = jax.Array
Metrics = dict[str, Array]
Batch = dict[str, Any]

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
    metrics: Metrics = {"learning_rate": rate}

    def update(name: str, state: TrainState, loss: Callable[[Params], Any], names: Any) -> Any:
        """One step of Adam on the networks `names`; also what `loss` returns beside the scalar."""
        params = subset(state.params, names)
        (_, (terms, pictures)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        gradients, terms = _mean_over_devices((gradients, terms), axis_name)
        updates, adam = optimizer(config, rate).update(gradients, state.optimizers[name], params)
        metrics.update({f"{name}/{term}": value for term, value in terms.items()})
        metrics[f"gradient_norm/{name}"] = optax.global_norm(gradients)
        moved = state.replace(
            params=state.params | optax.apply_updates(params, updates),
            optimizers=state.optimizers | {name: adam},
        )
        return moved, pictures

    def update_generators(state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        def loss(params: Params) -> Any:
            everything = state.params | params
            return generator_loss(networks, everything, real, keys["dropout"], config)

        return update("generators", state, loss, GENERATOR_NAMES)

    def update_discriminators(state: TrainState, fakes: dict[str, Array]) -> TrainState:
        pools, shown = {}, {}
        for domain in ("a", "b"):
            pools[domain], shown[domain] = _query_pool(
                state.pools[domain], fakes[domain], keys[f"pool_{domain}"], axis_name
            )

        def loss(params: Params) -> Any:
            terms = discriminator_loss(networks, params, real, shown, keys["penalty"], config)
            return sum(terms.values()), (terms, None)

        moved, _ = update("discriminators", state, loss, DISCRIMINATOR_NAMES)
        return moved.replace(pools=pools)

    if config.update_first == "generators":
        state, fakes = update_generators(state)
        state = update_discriminators(state, fakes)
    else:
        fakes = _generate(networks, state.params, real, keys["dropout"])
        state = update_discriminators(state, fakes)
        state, _ = update_generators(state)
    return state.replace(step=state.step + 1), metrics


def generator_loss(
    networks: Networks, params: Params, real: Batch, dropout_key: Array, config: Any
) -> tuple[Array, tuple[Metrics, Batch]]:
    """What both generators minimise together.

    Args:
        networks: the four modules.
        params: of all four networks; gradients are taken by those of the generators.
        real: {a, b}, float [B, H, W, C] in [-1, 1].
        dropout_key: for the masks, where a generator has dropout.
        config: weights in `config.loss`.

    Returns:
        The weighted sum, and (its terms by name, the fakes {a, b}).
    """
    weights = config.loss
    apply = _applier(networks, params, dropout_key)
    with_identity = weights.identity > 0
    if with_identity:
        fake_b, identity_b = apply("gen_ab", real["a"], real["b"])
        fake_a, identity_a = apply("gen_ba", real["b"], real["a"])
    else:
        (fake_b,), (fake_a,) = apply("gen_ab", real["a"]), apply("gen_ba", real["b"])
    (cycled_a,), (cycled_b,) = apply("gen_ba", fake_b, call=1), apply("gen_ab", fake_a, call=1)
    (scores_a,), (scores_b,) = apply("disc_a", fake_a), apply("disc_b", fake_b)

    terms = {
        "adversarial_ab": weights.adversarial * losses.adversarial(scores_b, True, weights.mode),
        "adversarial_ba": weights.adversarial * losses.adversarial(scores_a, True, weights.mode),
        "cycle_a": weights.cycle_a * losses.absolute_difference(cycled_a, real["a"]),
        "cycle_b": weights.cycle_b * losses.absolute_difference(cycled_b, real["b"]),
    }
    if with_identity:
        weight_a, weight_b = weights.identity * weights.cycle_a, weights.identity * weights.cycle_b
        terms["identity_a"] = weight_a * losses.absolute_difference(identity_a, real["a"])
        terms["identity_b"] = weight_b * losses.absolute_difference(identity_b, real["b"])
    return sum(terms.values(), jnp.zeros(())), (terms, {"a": fake_a, "b": fake_b})


def discriminator_loss(
    networks: Networks, params: Params, real: Batch, shown: Batch, penalty_key: Array, config: Any
) -> Metrics:
    """What each discriminator minimises: {a, b}, half of real plus half of generated.

    Args:
        networks: the four modules.
        params: of disc_a and disc_b.
        real: {a, b}, float [B, H, W, C] in [-1, 1].
        shown: {a, b}, generated pictures of the same shapes.
        penalty_key: for the points of wgangp's gradient penalty.
        config: mode and weights in `config.loss`.
    """
    mode = config.loss.mode
    apply = _applier(networks, params)
    terms = {}
    for i, domain in enumerate(("a", "b")):
        name = f"disc_{domain}"
        on_real, on_fake = apply(name, real[domain], shown[domain])
        terms[domain] = 0.5 * (
            losses.adversarial(on_real, True, mode) + losses.adversarial(on_fake, False, mode)
        )
        if mode == "wgangp":
            mix = layers.draw_for_batch(
                functools.partial(jax.random.uniform, jax.random.fold_in(penalty_key, i)),
                real[domain].shape[:1],
                getattr(networks, name).style.axis_name,
            )
            penalty = losses.gradient_penalty(
                functools.partial(_only, apply, name), real[domain], shown[domain], mix
            )
            terms[domain] += config.loss.gradient_penalty * penalty
    return terms


def _applier(
    networks: Networks, params: Params, dropout_key: Array | None = None
) -> Callable[..., list[Array]]:
    """A function (network's name, batches of pictures) -> the outputs for each batch.

    Where a network treats every picture by itself, all go through it in one call: the same result
    from fewer and larger operations. `call` tells apart calls that shall differ in their dropout.
    """

    def apply(name: str, *batches: Array, call: int = 0) -> list[Array]:
        network = getattr(networks, name)
        if len(batches) > 1 and not network.mixes_pictures:
            joined = network.apply({"params": params[name]}, jnp.concatenate(batches))
            return jnp.split(joined, len(batches))
        outputs = []
        for i, x in enumerate(batches):
            rngs = None
            if dropout_key is not None:
                number = Networks._fields.index(name) + 4 * (i + 2 * call)
                rngs = {"dropout": jax.random.fold_in(dropout_key, number)}
            outputs.append(network.apply({"params": params[name]}, x, rngs=rngs))
        return outputs

    return apply


def _only(apply: Callable[..., list[Array]], name: str, x: Array) -> Array:
    return apply(name, x)[0]


def _generate(networks: Networks, params: Params, real: Batch, dropout_key: Array) -> Batch:
    """The fakes {a, b} that `generator_loss` makes with the same key."""
    apply = _applier(networks, params, dropout_key)
    (fake_b,), (fake_a,) = apply("gen_ab", real["a"]), apply("gen_ba", real["b"])
    return {"a": fake_a, "b": fake_b}


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
