"""The learning rate over a run. It changes once per epoch, as in the original."""

import math
from typing import Any

import jax
import jax.numpy as jnp

SCHEDULES = ("linear", "step", "cosine", "constant")

Array = jax.Array


def total_epochs(config: Any) -> int:
    """Epochs that the schedule spans."""
    return config.schedule.constant_epochs + config.schedule.decay_epochs


def total_steps(config: Any, pairs_per_epoch: int) -> int:
    """Updates in the whole run: `num_steps` where set, else all epochs, the last one completed."""
    if config.num_steps is not None:
        return config.num_steps
    return math.ceil(total_epochs(config) * pairs_per_epoch / config.batch_size)


def learning_rate(config: Any, step: Array | int, pairs_per_epoch: int) -> Array:
    """The rate at an update, counted from 0.

    linear: full for `constant_epochs`, then a fraction 1 - max(0, epoch - constant) / (decay + 1)
    of it with epochs counted from 1, as the original does, so that the last one still moves.
    step: a tenth after each `step_epochs`. cosine: half a wave from full to zero over all epochs.

    Args:
        config: `optimizer.learning_rate` and `schedule`.
        step: updates done before this one.
        pairs_per_epoch: pairs that make an epoch.
    """
    s = config.schedule
    # Whole pairs first would overflow 32 bits in long runs: epochs and the rest are kept apart.
    step = jnp.asarray(step)
    epoch = (step // pairs_per_epoch) * config.batch_size + (
        (step % pairs_per_epoch) * config.batch_size
    ) // pairs_per_epoch
    if s.name == "linear":
        over = jnp.maximum(0, epoch + 1 - s.constant_epochs).astype(float)
        factor = jnp.maximum(0.0, 1.0 - over / (s.decay_epochs + 1))
    elif s.name == "step":
        factor = 0.1 ** (epoch // s.step_epochs).astype(float)
    elif s.name == "cosine":
        done = jnp.minimum(1.0, epoch.astype(float) / max(1, total_epochs(config)))
        factor = 0.5 * (1.0 + jnp.cos(math.pi * done))
    else:
        factor = jnp.ones(())
    return config.optimizer.learning_rate * factor
