"""The update: a pure function from state and batch to state and metrics."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.microbatching import AccumulationType, microbatch

from cyclegan_jax import image_pool
from cyclegan_jax.losses import (
    Images,
    Losses,
    Metrics,
    discriminator_loss,
    generator_loss,
    identity_loss,
)
from cyclegan_jax.models.bound import BoundNetwork
from cyclegan_jax.models.layers import fold_in
from cyclegan_jax.ops import Form, default_form, in_default_layout
from cyclegan_jax.schedules import ReducedOnPlateau
from cyclegan_jax.state import DISCRIMINATORS, GENERATORS, Networks, TrainState, subset
from cyclegan_jax.utils.image_io import to_float

Array = jax.Array
Batch = dict[str, Any]


class CycleGAN(NamedTuple):
    """Everything about a CycleGAN that training does not change.

    Attributes:
        networks: The four modules.
        losses: The losses and their weights.
        schedule: Step to learning rate, of both optimisers.
        optimizers: {generators, discriminators}, each a function from the learning rate to an
            optimiser whose state does not depend on it, and `identity`, where the identity loss has
            a step of its own.
        dtype: Type of images and losses, float32 or float64.
        update_first: "generators" or "discriminators", the side that is updated first.
        generator_updates: Updates of the generators on each batch.
        discriminator_updates: Updates of the discriminators on each batch.
        real_then_fake: Whether an update of the discriminators is two steps, the first on real and
            the second on generated images.
        updates_per_epoch: `losses.identity_every_steps` is counted anew in each epoch where the
            identity loss has a step of its own.
        micro_batches: Parts in which a device's pairs pass through the networks, one after the
            other; None for pairs one by one.
        average_decay: Decay of the running averages of the generators, where the state has them.
        axis_name: The device axis over which batches are sharded; None on a single device.
        form: The form of the operations; None for that of the backend.
    """

    networks: Networks
    losses: Losses
    schedule: optax.Schedule
    optimizers: Mapping[str, Callable[[Any], optax.GradientTransformation]] = {
        "generators": optax.adam,
        "discriminators": optax.adam,
    }
    dtype: Any = jnp.float32
    update_first: str = "generators"
    generator_updates: int = 1
    discriminator_updates: int = 1
    real_then_fake: bool = False
    updates_per_epoch: int = 1
    micro_batches: int | None = 1
    average_decay: float = 0.0
    axis_name: str | None = None
    form: Form | None = None


def in_form_of_model(step: Callable[..., Any]) -> Callable[..., Any]:
    """Trace a function of a keyword argument `model` in the form of the model."""

    @functools.wraps(step)
    def traced(*args: Any, model: CycleGAN, **options: Any) -> Any:
        with default_form(model.form):
            return step(*args, model=model, **options)

    return traced


@in_form_of_model
def train_step(
    state: TrainState, batch: Batch, frozen: dict[str, Any] | None = None, *, model: CycleGAN
) -> tuple[TrainState, Metrics]:
    """Update all four networks once, as in section 4 of Zhu et al. 2017.

    Pure, and meant to be compiled: `jax.jit(functools.partial(train_step, model=model))`, or
    `distributed.compile_step`, which also runs it on several devices.

    Args:
        state: State before the update.
        batch: {a, b}, uint8 or uint16 [B, H, W, C]: this device's shard of the batch.
        frozen: Frozen parameters of the extra losses; by default `model.losses.frozen`. Where
            those are large, pass them, so that they are not constants of the compiled program.
        model: The networks, losses and optimisers.

    Returns:
        The state after the update, and scalars: `generators/*` and `discriminators/*` are weighted
        losses at the parameters before their update, `gradient_norm/*`, `learning_rate`.
    """
    real = {domain: to_float(jnp.asarray(batch[domain]), model.dtype) for domain in ("a", "b")}
    key = jax.random.fold_in(state.key, state.step)
    dropout_key, pool_key_a, pool_key_b, penalty_key = jax.random.split(key, 4)
    pool_keys = {"a": pool_key_a, "b": pool_key_b}
    dropout_keys = image_keys(dropout_key, len(real["a"]), model.axis_name)
    penalty_keys = image_keys(penalty_key, len(real["a"]), model.axis_name)
    rate = learning_rate(state, model)
    frozen = model.losses.frozen if frozen is None else frozen

    update_generators = generator_update(model)
    update_discriminators = discriminator_update(model)

    if model.update_first == "generators":
        fixed = (subset(state.params, DISCRIMINATORS), frozen, state.step)
        state, g_metrics, fake = update_generators(state, rate, fixed, (real,), dropout_keys)
        pools, shown = query_pools(state.pools, fake, pool_keys, model.axis_name)
        state, d_metrics, _ = update_discriminators(state, rate, (), (real, shown), penalty_keys)
    else:
        fake = generate(state.params, real, dropout_keys, model=model)
        pools, shown = query_pools(state.pools, fake, pool_keys, model.axis_name)
        state, d_metrics, _ = update_discriminators(state, rate, (), (real, shown), penalty_keys)
        fixed = (subset(state.params, DISCRIMINATORS), frozen, state.step)
        state, g_metrics, _ = update_generators(state, rate, fixed, (real,), dropout_keys)

    average = running_average(state, model.average_decay)
    optimizers = watch_plateau(state.optimizers, g_metrics, model)
    state = state.replace(step=state.step + 1, optimizers=optimizers, pools=pools, average=average)
    return state, {"learning_rate": rate} | g_metrics | d_metrics


def learning_rate(state: TrainState, model: CycleGAN) -> Array:
    """Compute the learning rate of an update."""
    rate = model.schedule(state.step)
    if isinstance(model.schedule, ReducedOnPlateau):
        rate *= state.optimizers["plateau"].scale
    return rate


def watch_plateau(
    optimizers: dict[str, optax.OptState], metrics: Metrics, model: CycleGAN
) -> dict[str, optax.OptState]:
    """Show the generators' loss to a schedule that depends on it."""
    if not isinstance(model.schedule, ReducedOnPlateau):
        return optimizers
    terms = [value for name, value in metrics.items() if name.startswith("generators/")]
    loss = sum(terms, jnp.zeros(()))
    _, plateau = model.schedule.reducer.update({}, optimizers["plateau"], value=loss)
    return optimizers | {"plateau": plateau}


def image_keys(key: Array, count: int, axis_name: str | None) -> Array:
    """Derive a PRNG key for each of this device's `count` pairs, [count].

    Keys follow from a pair's place in the global batch, so random numbers do not depend on how
    many devices and micro-batches the batch is split over.
    """
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))


Update = Callable[..., tuple[TrainState, Metrics, Any]]


def generator_update(model: CycleGAN) -> Update:
    """Build the update of the generators: `generator_loss`, and steps on the identity loss."""
    settings: dict[str, Any] = {"networks": model.networks, "losses": model.losses}
    loss = functools.partial(generator_loss, **settings)
    update = repeated(updating(loss, "generators", model), model.generator_updates)
    if "identity" not in model.optimizers:
        return update
    step = updating(functools.partial(identity_loss, **settings), "identity", model)
    return followed_by_identity(update, step, model)


def discriminator_update(model: CycleGAN) -> Update:
    """Build the update of the discriminators, `discriminator_loss` in one step or in two."""
    settings: dict[str, Any] = {"networks": model.networks, "losses": model.losses}
    loss = functools.partial(discriminator_loss, **settings)
    if model.real_then_fake:
        real, fake = (
            updating(functools.partial(loss, part=part), "discriminators", model)
            for part in ("real", "fake")
        )
        return repeated(in_turn(real, fake), model.discriminator_updates)
    return repeated(updating(loss, "discriminators", model), model.discriminator_updates)


def updating(loss: Callable[..., Any], side: str, model: CycleGAN) -> Update:
    """Transform a loss into a function that updates one side's networks by one step.

    Args:
        loss: (params, *fixed, *batches, keys) -> (scalar, (terms, images)).
        side: "generators", "discriminators", or "identity" for the generators with an optimiser
            state of its own.
        model: Optimisers, micro-batches and device axis.

    Returns:
        (state, learning rate, fixed, batches, keys) -> (state, metrics, images).
    """
    names = DISCRIMINATORS if side == "discriminators" else GENERATORS

    def update(
        state: TrainState, rate: Array, fixed: tuple, batches: tuple, keys: Array
    ) -> tuple[TrainState, Metrics, Any]:
        params = subset(state.params, names)
        gradient = mean_gradient(loss, len(fixed), model)
        gradients, terms, images = gradient(params, *fixed, *batches, keys)
        gradients = in_default_layout(gradients)
        optimizer = model.optimizers[side](rate)
        updates, optimizer_state = optimizer.update(gradients, state.optimizers[side], params)
        state = state.replace(
            params=state.params | optax.apply_updates(params, updates),
            optimizers=state.optimizers | {side: optimizer_state},
        )
        metrics = {f"{side}/{term}": value for term, value in terms.items()}
        metrics[f"gradient_norm/{side}"] = norm(gradients)
        return state, metrics, images

    return update


def norm(tree: Any) -> Array:
    """Compute the Euclidean norm of all arrays of a tree together.

    Partial sums are added up for all arrays at once: on GPUs, one small kernel instead of one for
    each array.
    """
    barrier = jax.lax.optimization_barrier  # XLA would take the sum of a concatenation apart
    leaves = map(jnp.atleast_1d, jax.tree.leaves(tree))
    squares = [jnp.square(x).reshape(-1, x.shape[-1]).sum(1) for x in leaves]
    return jnp.sqrt(barrier(jnp.concatenate(barrier(squares))).sum())


def in_turn(first: Update, second: Update) -> Update:
    """Transform two updates of one side into one, whose metrics are the sums of theirs."""

    def update(state: TrainState, *args: Any) -> tuple[TrainState, Metrics, Any]:
        state, metrics, _ = first(state, *args)
        state, more, images = second(state, *args)
        return state, jax.tree.map(jnp.add, metrics, more), images

    return update


def followed_by_identity(update: Update, step: Update, model: CycleGAN) -> Update:
    """Transform an update of the generators to end with a step on the identity loss, when due.

    As in the published code that has such a step, it shares the count of steps with the
    generators' optimiser, but not the moments.
    """

    def both(
        state: TrainState, rate: Array, fixed: tuple, batches: tuple, keys: Array
    ) -> tuple[TrainState, Metrics, Any]:
        state, metrics, images = update(state, rate, fixed, batches, keys)

        def identity(state: TrainState) -> tuple[TrainState, Metrics]:
            state = state.replace(optimizers=with_count(state.optimizers, "generators", "identity"))
            state, terms, _ = step(state, rate, (), batches, keys)
            optimizers = with_count(state.optimizers, "identity", "generators")
            return state.replace(optimizers=optimizers), terms

        def nothing(state: TrainState) -> tuple[TrainState, Metrics]:
            return state, jax.tree.map(jnp.zeros_like, jax.eval_shape(identity, state)[1])

        due = (state.step % model.updates_per_epoch) % model.losses.identity_every_steps == 0
        state, terms = jax.lax.cond(due, identity, nothing, state)
        return state, metrics | terms, images

    return both


def with_count(
    optimizers: dict[str, optax.OptState], source: str, target: str
) -> dict[str, optax.OptState]:
    """Give one optimiser's state the count of steps of another, if they count."""
    count = optax.tree_utils.tree_get(optimizers[source], "count")
    if count is None:
        return optimizers
    return optimizers | {target: optax.tree_utils.tree_set(optimizers[target], count=count)}


def mean_gradient(
    loss: Callable[..., Any], fixed: int, model: CycleGAN
) -> Callable[..., tuple[Any, Metrics, Any]]:
    """Transform a loss into its gradient, computed in micro-batches and averaged over devices.

    Args:
        loss: (params, *fixed, *batches) -> (scalar, (terms, images)), means over the batches.
        fixed: Number of arguments between `params` and the batches.
        model: Micro-batches and device axis.

    Returns:
        (params, *fixed, *batches) -> (gradient for params, terms, images).
    """

    def gradient(*args: Any) -> tuple[Any, Metrics, Any]:
        (_, (terms, images)), gradients = jax.value_and_grad(loss, has_aux=True)(*args)
        return gradients, terms, images

    def averaged(*args: Any) -> tuple[Any, Metrics, Any]:
        result = in_micro_batches(gradient, range(1 + fixed, len(args)), model)(*args)
        gradients, terms, images = result
        if model.axis_name is not None:
            gradients, terms = jax.lax.pmean((gradients, terms), model.axis_name)
        return gradients, terms, images

    return averaged


def in_micro_batches(
    function: Callable[..., Any], batched: range, model: CycleGAN
) -> Callable[..., Any]:
    """Transform (mean, mean, images) of a batch to be computed in the model's micro-batches.

    Args:
        function: Returns two trees of means over the batch and one of arrays [B, ...].
        batched: Positions of the arguments that are trees of arrays [B, ...].
        model: The number of micro-batches.
    """

    def split(*args: Any) -> Any:
        pairs = len(jax.tree.leaves(args[batched[0]])[0])
        parts = model.micro_batches or pairs
        if parts == 1:
            return function(*args)
        mean, join = AccumulationType.MEAN, AccumulationType.CONCAT
        return microbatch(function, tuple(batched), pairs // parts, (mean, mean, join))(*args)

    return split


def repeated(update: Update, times: int) -> Update:
    """Transform an update to be done several times on the same batch, with new keys each time.

    Metrics and images are those of the last time.
    """
    if times == 1:
        return update

    def repeat(state: TrainState, *args: Any) -> Any:
        *rest, keys = args

        def body(state: TrainState, i: Array) -> tuple[TrainState, Any]:
            state, *results = update(state, *rest, fold_in(keys, i))
            return state, results

        # A scan is compiled once, however often it runs.
        state, results = jax.lax.scan(body, state, jnp.arange(times))
        return state, *jax.tree.map(lambda values: values[-1], results)

    return repeat


def generate(params: dict[str, Any], real: Images, keys: Array, *, model: CycleGAN) -> Images:
    """Translate a batch both ways, into the fakes of `generator_loss` with the same keys."""

    def fakes(real: Images, keys: Array) -> tuple[None, None, Images]:
        gen_ab = BoundNetwork(model.networks.gen_ab, params["gen_ab"], fold_in(keys, 0))
        gen_ba = BoundNetwork(model.networks.gen_ba, params["gen_ba"], fold_in(keys, 1))
        return None, None, {"a": gen_ba(real["b"]), "b": gen_ab(real["a"])}

    return in_micro_batches(fakes, range(2), model)(real, keys)[2]


def query_pools(
    pools: dict[str, image_pool.Pool], fake: Images, keys: dict[str, Array], axis_name: str | None
) -> tuple[dict[str, image_pool.Pool], Images]:
    """Query the pools of both domains, which see the fakes of all devices in batch order.

    Returns:
        The pools after the query, and the images {a, b} for this device's discriminators.
    """
    new_pools, shown = {}, {}
    for domain, images in fake.items():
        if axis_name is None:
            new_pools[domain], shown[domain] = image_pool.query(pools[domain], images, keys[domain])
            continue
        everyone = jax.lax.all_gather(images, axis_name, tiled=True)
        new_pools[domain], result = image_pool.query(pools[domain], everyone, keys[domain])
        start = jax.lax.axis_index(axis_name) * len(images)
        shown[domain] = jax.lax.dynamic_slice_in_dim(result, start, len(images))
    return new_pools, shown


def running_average(state: TrainState, decay: float) -> dict[str, Any] | None:
    """Update the generators' running averages, which follow faster in a young run."""
    if state.average is None:
        return None
    weight = jnp.maximum(1 - decay, 9 / (10 + state.step))
    return optax.incremental_update(subset(state.params, GENERATORS), state.average, weight)
