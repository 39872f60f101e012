"""Learning rates as optax schedules, functions from the number of updates done to the rate."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from cyclegan_jax.utils.errors import UserError

Array = jax.Array


@dataclass(frozen=True)
class Timeline:
    """Quantities that a schedule can depend on.

    Attributes:
        learning_rate: The rate at the start, of both optimisers.
        batch_size: Pairs per update.
        pairs_per_epoch: Pairs per epoch.
        constant_epochs: Epochs at the full rate.
        decay_epochs: Epochs on the way to zero.
        step_epochs: Epochs between steps.
        num_steps: Updates in the whole run.
    """

    learning_rate: float
    batch_size: int = 1
    pairs_per_epoch: int = 1
    constant_epochs: int = 100
    decay_epochs: int = 100
    step_epochs: int = 50
    num_steps: int = 0

    def epoch(self, step: Array | int) -> Array:
        """Return the epoch, from 0, that the update after `step` updates belongs to."""
        step = jnp.asarray(step)
        # The number of pairs seen would overflow 32 bits in a long run: keep epochs and rest apart.
        whole = (step // self.pairs_per_epoch) * self.batch_size
        return whole + (step % self.pairs_per_epoch) * self.batch_size // self.pairs_per_epoch


def linear(timeline: Timeline, stepped_first: bool = False) -> optax.Schedule:
    """Full rate for `constant_epochs`, then linear decay over `decay_epochs`, once per epoch.

    The rate is multiplied by 1 - max(0, epoch - constant) / (decay + 1) with epochs counted from 1,
    as in the published code until July 2020: the last epoch still trains. With `stepped_first`, as
    in that code since then, the last epoch has rate 0.
    """

    def schedule(step: Array) -> Array:
        epoch = timeline.epoch(step) + stepped_first
        over = jnp.maximum(0, epoch + 1 - timeline.constant_epochs).astype(float)
        factor = jnp.maximum(0.0, 1.0 - over / (timeline.decay_epochs + 1))
        return timeline.learning_rate * factor

    return schedule


def linear_per_update(timeline: Timeline) -> optax.Schedule:
    """Full rate for `constant_epochs`, then falling linearly at every update to 0 at the end."""

    def updates(epochs: int) -> int:
        return total_steps(
            None,
            epochs=epochs,
            pairs_per_epoch=timeline.pairs_per_epoch,
            batch_size=timeline.batch_size,
        )

    start = updates(timeline.constant_epochs)
    end = updates(timeline.constant_epochs + timeline.decay_epochs)
    schedule = optax.linear_schedule(timeline.learning_rate, 0.0, end - start, start)
    # Optax computes in the type of the step: float32 for int32, also where float64 is enabled.
    return lambda step: schedule(jnp.asarray(step, float))


def step(timeline: Timeline, stepped_first: bool = False) -> optax.Schedule:
    """A tenth of the rate after every `step_epochs`."""

    def schedule(step: Array) -> Array:
        epoch = timeline.epoch(step) + stepped_first
        factor = 0.1 ** (epoch // timeline.step_epochs).astype(float)
        return timeline.learning_rate * factor

    return schedule


def cosine(timeline: Timeline, stepped_first: bool = False) -> optax.Schedule:
    """A cosine wave, once per epoch: from the full rate to zero in `constant_epochs`, and back.

    As in the published code, it rises again in the epochs of decay, so a run should have none.
    """
    epochs = max(1, timeline.constant_epochs)

    def schedule(step: Array) -> Array:
        done = (timeline.epoch(step) + stepped_first).astype(float) / epochs
        return timeline.learning_rate * (0.5 * (1.0 + jnp.cos(math.pi * done)))

    return schedule


# The published code's arguments of PyTorch's ReduceLROnPlateau, and PyTorch's least change of rate.
PLATEAU_FACTOR = 0.2
PLATEAU_THRESHOLD = 0.01
PLATEAU_PATIENCE = 5
PLATEAU_EPSILON = 1e-8


@dataclass(frozen=True)
class ReducedOnPlateau:
    """A schedule times a factor that depends on the losses of the run.

    Attributes:
        schedule: Updates done to the rate without the factor.
        reducer: Is updated with the generators' loss of each update; its state has the factor,
            `scale`, and is kept with those of the optimisers.
    """

    schedule: optax.Schedule
    reducer: optax.GradientTransformationExtraArgs

    def __call__(self, step: Array) -> Array:
        """Return the rate without the factor."""
        return jnp.asarray(self.schedule(step))


def plateau(timeline: Timeline) -> ReducedOnPlateau:
    """A fifth of the rate after six epochs in which the generators' loss has not fallen by 1%.

    The loss is the sum of the generators' terms, averaged over an epoch.
    """
    reducer = optax.contrib.reduce_on_plateau(
        PLATEAU_FACTOR,
        patience=PLATEAU_PATIENCE + 1,  # PyTorch counts the epochs that it endures
        rtol=PLATEAU_THRESHOLD,
        accumulation_size=max(1, timeline.pairs_per_epoch // timeline.batch_size),
        min_scale=_least_scale(timeline.learning_rate),
    )
    return ReducedOnPlateau(constant(timeline), reducer)


def plateau_published(timeline: Timeline, stepped_first: bool = False) -> optax.Schedule:
    """A fifth of the rate after every six epochs: `plateau` on a metric that is always 0.

    The published code watches such a metric, so that its `plateau` does not depend on the run. The
    first epoch counts as an improvement.
    """
    least = _least_scale(timeline.learning_rate)

    def schedule(step: Array) -> Array:
        epochs = timeline.epoch(step) + stepped_first
        reductions = jnp.maximum(0, epochs - 1) // (PLATEAU_PATIENCE + 1)
        factor = PLATEAU_FACTOR ** reductions.astype(float)
        return timeline.learning_rate * jnp.maximum(factor, least)

    return schedule


def _least_scale(learning_rate: float) -> float:
    """Return the factor below which PyTorch considers a further reduction too small."""
    scale = 1.0
    while learning_rate * scale * (1 - PLATEAU_FACTOR) > PLATEAU_EPSILON:
        scale *= PLATEAU_FACTOR
    return scale


def constant(timeline: Timeline) -> optax.Schedule:
    """The full rate throughout."""

    def schedule(step: Array) -> Array:
        del step
        return timeline.learning_rate * jnp.ones(())

    return schedule


# Schedules by name: functions from a timeline to an optax schedule. Those that change once per
# epoch take `stepped_first`: the rate is stepped before each epoch, to that of the epoch after it.
SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "linear": linear,
    "linear_per_update": linear_per_update,
    "step": step,
    "cosine": cosine,
    "plateau": plateau,
    "plateau_published": plateau_published,
    "constant": constant,
}


def total_steps(
    num_steps: int | None, *, epochs: int, pairs_per_epoch: int, batch_size: int
) -> int:
    """Return the updates in a run: `num_steps` if set, else all epochs, rounded up.

    Raises:
        UserError: They are more than the state can count.
    """
    if num_steps is not None:
        return num_steps
    steps = -(-epochs * pairs_per_epoch // batch_size)
    if steps >= 2**31:
        raise UserError(
            f"schedule: expected a run of fewer than {2**31:,} updates, got {steps:,} from "
            f"{epochs:,} epochs of {pairs_per_epoch:,} pairs; lower schedule.constant_epochs"
        )
    return steps
