"""What is handed to the devices at a time, when, and what waiting for it costs."""

import threading

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from cyclegan_jax import config as config_lib
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.data import Feed, prefetch
from cyclegan_jax.distributed import check_split
from cyclegan_jax.training import train
from cyclegan_jax.utils.errors import UserError


def numbered(first, last):
    """Batches that tell their update."""
    for step in range(first, last):
        yield {"a": np.full((1, 2, 2, 3), step, np.uint8)}


def numbers(batches):
    """Which updates the batches are of."""
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
def test_deliveries_end_at_multiples(start, updates, expected):
    """Wherever a run of ten updates is begun, it is cut in the same places."""
    found = {}
    fed = Feed(numbered(start, 10), numbers, start_step=start, updates=updates)
    for step, batch, placed in fed:
        found[step] = placed
        assert numbers([batch]) == placed[-1:]
        fed.follow(np.zeros(()))
    fed.close()
    assert found == expected


def test_mistake_comes_in_its_turn():
    """What cannot be read stops the run there, not when it is read ahead."""

    def batches():
        yield from numbered(0, 1)
        raise UserError("broken")

    fed = Feed(batches(), numbers, start_step=0)
    assert next(fed).step == 1
    with pytest.raises(UserError, match="broken"):
        next(fed)
    fed.close()


def test_waiting_begins_when_the_devices_are_done(monkeypatch):
    """While they have something to do nothing is waited for; by a clock of the test's own."""
    clock, asked = [0.0], threading.Event()

    def batches():
        yield from numbered(0, 1)
        asked.wait()
        yield from numbered(1, 4)

    def finish(results):
        if results and not asked.is_set():
            clock[0] += 100.0  # the devices were busy

    wait = prefetch.concurrent.futures.wait

    def wait_for_images(futures):
        clock[0] += 7.0
        asked.set()
        wait(futures)

    monkeypatch.setattr(prefetch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(prefetch.jax, "block_until_ready", finish)
    monkeypatch.setattr(prefetch.concurrent.futures, "wait", wait_for_images)
    fed = Feed(batches(), numbers, start_step=0)
    wait(list(fed._ahead)[:1])
    fed.follow([next(fed).step])
    assert fed.waited == 0.0
    next(fed)
    assert fed.waited == 7.0
    assert clock[0] == 107.0
    fed.close()


def test_several_steps_per_dispatch(config, tmp_path):
    """Logged are all of them, and a run that goes on ends in the bits of one that was whole."""
    config.steps_per_dispatch = config.log_every_steps = config.checkpoint_every_steps = 4
    config.sample_every_steps = 0
    config.generator.blocks = 1
    for name, num_steps in (("run", 4), ("run", 8), ("whole", 8)):
        config.num_steps = num_steps
        train(config, tmp_path / name)
    kept = [Checkpoints(tmp_path / name, read_only=True) for name in ("run", "whole")]
    assert kept[0].steps == kept[1].steps == [4, 8]
    one, other = (checkpoints.restore_params(config, 8)[1] for checkpoints in kept)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    events = EventAccumulator(str(tmp_path / "whole"), size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("generators/cycle_a")] == [4, 8]
    (waited,) = events.Tensors("input_wait")
    assert 0 <= tensor_util.make_ndarray(waited.tensor_proto) <= 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"micro_batches": 3}, "config.micro_batches is 3; it must divide the 2 pairs"),
        ({"micro_batches": 0}, "config.micro_batches is 0; it must be at least 1"),
        ({"micro_batches": 2, "generator.norm": "batch"}, "batch norm needs the batch in one"),
        ({"micro_batches": 2, "discriminator.norm": "batch"}, "batch norm needs the batch in one"),
        ({"steps_per_dispatch": 2}, "config.log_every_steps is 5; with steps_per_dispatch=2"),
        ({"steps_per_dispatch": 5, "sample_early": True}, "it needs steps_per_dispatch=1, not 5"),
    ],
)
def test_what_cannot_be_split(config, fields, expected):
    """Micro-batches and dispatches that do not come out even."""
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=expected) as caught:
        config_lib.check(config)
        check_split(config)
    assert "\n" not in str(caught.value)
