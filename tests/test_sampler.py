"""Which images stand side by side, when: epochs, pairs, resuming and processes."""

import collections
import itertools

import numpy as np
import pytest

from cyclegan_jax.data import pairs_per_epoch
from cyclegan_jax.data.sampler import PairSampler
from tests.numbered import NumberedSource, assert_same, indices, make_config, take


@pytest.mark.parametrize(("epoch", "pairs"), [("larger", 7), ("smaller", 3)])
def test_pairs_per_epoch(epoch, pairs):
    """An epoch is the larger or the smaller set, whichever domain has it."""
    data = make_config(epoch=epoch).data
    assert pairs_per_epoch(data, 3, 7) == pairs_per_epoch(data, 7, 3) == pairs


def test_each_epoch_shows_all_of_a_in_a_new_order():
    """An epoch of the larger set A has each image once, epochs differ, steps may cross."""
    batches = take(make_config(batch_size=4), NumberedSource(10), NumberedSource(3), stop=15)
    shown = indices(batches, "a")
    epochs = [shown[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_a_smaller_a_is_shown_evenly():
    """Where B is larger, an epoch shows each image of A as often as any other, to within 1."""
    batches = take(make_config(batch_size=1), NumberedSource(3), NumberedSource(8), stop=8)
    assert sorted(collections.Counter(indices(batches, "a")).values()) == [2, 3, 3]


def test_smaller_epochs_still_use_all_images():
    """With epochs of the smaller set, A's images in an epoch are distinct and change."""
    config = make_config(batch_size=3, epoch="smaller")
    batches = take(config, NumberedSource(10), NumberedSource(3), stop=30)
    shown = [indices([batch], "a") for batch in batches]
    assert all(len(set(epoch)) == 3 for epoch in shown)
    assert {index for epoch in shown for index in epoch} == set(range(10))


def test_serial_pairs_go_in_step():
    """Image k of A always stands beside image k of B (modulo the lengths)."""
    config = make_config(pairing="serial")
    batches = take(config, NumberedSource(4), NumberedSource(6), stop=12)
    pairs = collections.Counter(zip(indices(batches, "a"), indices(batches, "b"), strict=True))
    assert pairs == {(k % 4, k): 4 for k in range(6)}


def test_serial_epochs_of_the_smaller_set():
    """Each epoch has the first images of both sets once, in step, in an order of its own."""
    for lengths in ((4, 7), (7, 4)):
        config = make_config(pairing="serial", epoch="smaller", batch_size=1)
        batches = take(config, *map(NumberedSource, lengths), stop=4 * 8)
        shown = list(zip(indices(batches, "a"), indices(batches, "b"), strict=True))
        epochs = [shown[i : i + 4] for i in range(0, 32, 4)]
        assert all(sorted(epoch) == [(0, 0), (1, 1), (2, 2), (3, 3)] for epoch in epochs)
        assert len(set(map(tuple, epochs))) > 1


def test_independent_draws_are_uniform():
    """Beside each image of A, those of B come up equally often (chi-square, 99.99 %)."""
    order = PairSampler(make_config().data, 0, 5, 8)
    counts = np.zeros((5, 8))
    for pair in range(8000):
        counts[order[pair][:2]] += 1
    expected = counts.mean(axis=1, keepdims=True)
    assert ((counts - expected) ** 2 / expected).sum() < 75  # 5 * 7 degrees of freedom


@pytest.mark.parametrize("start", [1, 5, 11])
def test_a_later_start_goes_on_with_the_rest(start):
    """Whatever the step, starting there gives the rest of the uninterrupted sequence."""
    config = make_config(batch_size=3)
    whole = take(config, NumberedSource(4), NumberedSource(5), stop=12)
    rest = take(config, NumberedSource(4), NumberedSource(5), start=start, stop=12)
    assert_same(rest, whole[start:])


def test_seeds_give_different_sequences():
    """Another seed is another order, not the same one an epoch later."""
    by_seed = []
    for seed in (0, 1, 2):
        batches = take(make_config(seed=seed, batch_size=1), *[NumberedSource(12)] * 2, stop=36)
        shown = indices(batches, "a")
        by_seed.append([tuple(shown[i : i + 12]) for i in (0, 12, 24)])
    assert len(set(itertools.chain(*by_seed))) == 9


@pytest.mark.parametrize("count", [2, 3, 6])
def test_processes_share_the_batch(count):
    """The processes' rows side by side are the batch of one process; each reads only its own."""
    config = make_config(batch_size=6, cache_gib=0.0)
    whole = take(config, NumberedSource(50), NumberedSource(60), stop=4)
    reads = 0
    parts = []
    for index in range(count):
        source_a, source_b = NumberedSource(50), NumberedSource(60)
        parts.append(
            take(config, source_a, source_b, stop=4, process_index=index, process_count=count)
        )
        reads += source_a.reads.total()
    joined = [
        {domain: np.concatenate([part[domain] for part in step]) for domain in "ab"}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)
    assert reads == 24


def test_sets_smaller_than_the_batch():
    """One image each fills any batch."""
    (batch,) = take(make_config(batch_size=5), NumberedSource(1), NumberedSource(1), stop=1)
    assert batch["a"].shape[0] == 5


def test_a_finished_run_has_no_batches():
    """Starting at or after the last step is an empty sequence."""
    for start in (6, 9):
        assert take(make_config(), NumberedSource(2), NumberedSource(2), start, 6) == []


def test_long_runs_far_in():
    """Step numbers beyond 32 bits work."""
    start = 2**40
    batches = take(make_config(), NumberedSource(3), NumberedSource(3), start, start + 2)
    assert len(batches) == 2
