"""Prefetching: dispatches, errors and waiting times; updates per dispatch in training."""

import functools
import queue
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from cyclegan_jax import config as config_lib
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.data import Prefetcher
from cyclegan_jax.training import train
from cyclegan_jax.utils.errors import UserError
from tests import short


def numbered(first, last):
    """Yield batches whose pixels are the number of the update."""
    for step in range(first, last):
        yield {"a": np.full((1, 2, 2, 3), step, np.uint8)}


def numbers(batches):
    """Return the numbers of the updates of batches, in place of `place`."""
    return [int(batch["a"].flat[0]) for batch in batches]


@pytest.mark.parametrize(
    ("start", "updates", "expected"),
    [
        (0, 1, {1: [0], 2: [1], 3: [2], 4: [3], 5: [4], 6: [5], 7: [6], 8: [7], 9: [8], 10: [9]}),
        (0, 4, {4: [0, 1, 2, 3], 8: [4, 5, 6, 7], 10: [8, 9]}),
        (3, 4, {4: [3], 8: [4, 5, 6, 7], 10: [8, 9]}),
        (10, 4, {}),
    ],
)
def test_dispatches_end_at_multiples(start, updates, expected):
    """A run of ten updates is split into the same dispatches, wherever it starts."""
    dispatches = {}
    batches = Prefetcher(
        numbered(start, 10), numbers, start_step=start, updates_per_dispatch=updates
    )
    for step, batch, placed in batches:
        dispatches[step] = placed
        assert numbers([batch]) == placed[-1:]
        batches.track(jnp.zeros(()))
    batches.close()
    assert dispatches == expected


def test_an_error_is_raised_in_its_turn():
    """An unreadable batch is an error when it is due, not when it is prefetched."""

    def broken():
        yield from numbered(0, 1)
        raise UserError("broken")

    batches = Prefetcher(broken(), numbers, start_step=0)
    assert next(batches).step == 1
    with pytest.raises(UserError, match="broken"):
        next(batches)
    batches.close()


@jax.jit
def work(x, count):
    """Compute for a time that is proportional to `count`, asynchronously."""
    return jax.lax.fori_loop(0, count, lambda _, y: y @ x, x)


@pytest.fixture(scope="module")
def computation():
    """Return a function that starts a computation of at least 0.4 s, and its duration."""
    x = jnp.eye(256)
    jax.block_until_ready(work(x, 1))
    count, seconds = 8, 0.0
    while seconds < 0.4:
        count *= 2
        start = time.monotonic()
        jax.block_until_ready(work(x, count))
        seconds = time.monotonic() - start
    return functools.partial(work, x, count), seconds


def test_computing_is_not_waiting(computation):
    """A batch that is late, but ready before the devices are idle, costs no waiting time."""
    compute, seconds = computation
    started = threading.Event()

    def late():
        yield from numbered(0, 1)
        started.wait()
        time.sleep(0.2 * seconds)
        yield from numbered(1, 4)

    batches = Prefetcher(late(), numbers, start_step=0)
    next(batches)
    batches.track(compute())
    started.set()
    next(batches)
    assert batches.wait_seconds == 0.0
    batches.close()


def test_waiting_starts_when_the_devices_are_idle(computation):
    """Waiting time is the time from the end of the computation to the arrival of the batch."""
    compute, seconds = computation
    results, times = queue.Queue(), []

    def later():
        yield from numbered(0, 1)
        jax.block_until_ready(results.get())
        times.append(time.monotonic())
        time.sleep(0.3)
        times.append(time.monotonic())
        yield from numbered(1, 4)

    batches = Prefetcher(later(), numbers, start_step=0)
    next(batches)
    result = compute()
    batches.track(result)
    results.put(result)
    next(batches)
    idle, ready = times
    assert batches.wait_seconds == pytest.approx(ready - idle, abs=0.25 * seconds)
    batches.close()


def test_several_steps_per_dispatch(tmp_path):
    """All updates are logged, and a resumed run ends in the same bits as an uninterrupted one."""
    config = short.get_config()
    config.steps_per_dispatch = config.log_every_steps = config.checkpoint_every_steps = 4
    config.sample_every_steps = 0
    for name, num_steps in (("run", 4), ("run", 8), ("whole", 8)):
        config.num_steps = num_steps
        train(config, tmp_path / name)
    stored = [Checkpoints(tmp_path / name, read_only=True) for name in ("run", "whole")]
    assert stored[0].steps == stored[1].steps == [4, 8]
    resumed, whole = (checkpoints.restore_params(8)[1] for checkpoints in stored)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    events = EventAccumulator(str(tmp_path / "whole"), size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("generators/cycle_a")] == [4, 8]
    (wait,) = events.Tensors("input_wait")
    assert 0 <= tensor_util.make_ndarray(wait.tensor_proto) <= 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"micro_batches": 3},
            "config.micro_batches: expected a divisor of a device's 2 pairs, got 3",
        ),
        ({"micro_batches": 0}, "config.micro_batches: expected at least 1, got 0"),
        (
            {"micro_batches": 2, "generator.norm": "batch"},
            "micro_batches: expected 1 for batch norm",
        ),
        (
            {"micro_batches": 2, "discriminator.norm": "batch"},
            "micro_batches: expected 1 for batch norm",
        ),
        (
            {"steps_per_dispatch": 2},
            "config.log_every_steps: expected a multiple of steps_per_dispatch=2",
        ),
        (
            {"steps_per_dispatch": 5, "sample_early": True},
            "config.steps_per_dispatch: expected 1 for sample_early",
        ),
    ],
)
def test_updates_that_cannot_be_split(config, fields, expected):
    """Micro-batches and dispatches that do not divide evenly are refused."""
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=expected) as caught:
        config_lib.check(config, 1)
    assert "\n" not in str(caught.value)
