"""Order and pairs of images: epochs, pairings, resuming and processes."""

import collections
import itertools

import numpy as np
import pytest

from cyclegan_jax.data import EPOCHS, PAIRINGS, sample_order
from cyclegan_jax.data.sampler import IndependentSampler
from cyclegan_jax.utils.errors import UserError
from tests.datasets.numbered import (
    NumberedSource,
    assert_same,
    indices,
    make_config,
    make_dataset,
    take,
)


@pytest.mark.parametrize(("epoch", "pairs"), [("larger", 7), ("smaller", 3)])
def test_pairs_per_epoch(epoch, pairs):
    """An epoch has the length of the larger or the smaller set, in either domain."""
    for lengths in ((3, 7), (7, 3)):
        dataset = make_dataset(make_config(epoch=epoch), *map(NumberedSource, lengths))
        assert dataset.pairs_per_epoch == pairs


@pytest.mark.parametrize(
    ("pairing", "epoch", "pairs", "draw"),
    [
        (
            "independent",
            "larger",
            [(0, 5), (1, 4), (3, 4), (0, 1), (2, 5), (1, 5), (1, 3)],
            0.412135,
        ),
        ("independent", "smaller", [(3, 5), (0, 4), (2, 4), (1, 1), (0, 5), (1, 5)], 0.412135),
        ("serial", "larger", [(0, 4), (1, 5), (3, 3), (0, 0), (2, 2), (1, 1), (1, 5)], 0.717686),
        ("serial", "smaller", [(3, 3), (0, 0), (2, 2), (1, 1), (0, 0), (1, 1)], 0.717686),
    ],
)
def test_the_order_never_changes(pairing, epoch, pairs, draw):
    """Pairs and draws are those of earlier versions, so that their runs resume exactly."""
    sampler = PAIRINGS[pairing](5, 4, 6, EPOCHS[epoch](4, 6))
    assert [sampler[pair][:2] for pair in range(len(pairs))] == pairs
    assert sampler[0][2].random() == pytest.approx(draw, abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"pairing": "random"},
            "data.pairing: expected one of independent, serial, replacement, or package",
        ),
        ({"epoch": "all"}, "data.epoch: expected one of larger, smaller, or package"),
    ],
)
def test_unknown_names_list_the_choices(fields, message):
    """An unknown pairing or epoch is an error with the field and the names."""
    with pytest.raises(UserError, match=message):
        make_dataset(make_config(**fields), NumberedSource(2), NumberedSource(2))


def ten_pairs(len_a, len_b):
    """An epoch of a user's own."""
    return 10


def test_an_epoch_of_a_users_own():
    """`module:attribute` names a function of both lengths."""
    config = make_config(epoch=f"{__name__}:ten_pairs")
    assert make_dataset(config, NumberedSource(3), NumberedSource(4)).pairs_per_epoch == 10


def test_each_epoch_shows_all_of_a_in_a_new_order():
    """An epoch of a larger A has each image once; epochs differ; batches may span two."""
    batches = take(make_config(batch_size=4), NumberedSource(10), NumberedSource(3), stop=15)
    shown = indices(batches, "a")
    epochs = [shown[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_a_smaller_a_is_shown_evenly():
    """If B is larger, the counts of A's images in an epoch differ by at most 1."""
    batches = take(make_config(batch_size=1), NumberedSource(3), NumberedSource(8), stop=8)
    assert sorted(collections.Counter(indices(batches, "a")).values()) == [2, 3, 3]


def test_smaller_epochs_still_use_all_images():
    """In epochs of a smaller B, A's images are distinct, and differ between epochs."""
    config = make_config(batch_size=3, epoch="smaller")
    batches = take(config, NumberedSource(10), NumberedSource(3), stop=30)
    shown = [indices([batch], "a") for batch in batches]
    assert all(len(set(epoch)) == 3 for epoch in shown)
    assert {index for epoch in shown for index in epoch} == set(range(10))


def test_serial_pairs_have_equal_indices():
    """Image k of A is always paired with image k of B, modulo the lengths."""
    config = make_config(pairing="serial")
    batches = take(config, NumberedSource(4), NumberedSource(6), stop=12)
    pairs = collections.Counter(zip(indices(batches, "a"), indices(batches, "b"), strict=True))
    assert pairs == {(k % 4, k): 4 for k in range(6)}


def test_serial_epochs_of_the_smaller_set():
    """Each epoch has the first images of both sets once, in a new order."""
    for lengths in ((4, 7), (7, 4)):
        config = make_config(pairing="serial", epoch="smaller", batch_size=1)
        batches = take(config, *map(NumberedSource, lengths), stop=4 * 8)
        shown = list(zip(indices(batches, "a"), indices(batches, "b"), strict=True))
        epochs = [shown[i : i + 4] for i in range(0, 32, 4)]
        assert all(sorted(epoch) == [(0, 0), (1, 1), (2, 2), (3, 3)] for epoch in epochs)
        assert len(set(map(tuple, epochs))) > 1


def test_independent_draws_are_uniform():
    """Each image of A is paired with all of B equally often (chi-square, 99.99 %)."""
    sampler = IndependentSampler(0, 5, 8, 8)
    counts = np.zeros((5, 8))
    for pair in range(8000):
        counts[sampler[pair][:2]] += 1
    expected = counts.mean(axis=1, keepdims=True)
    assert ((counts - expected) ** 2 / expected).sum() < 75  # 5 * 7 degrees of freedom


def test_draws_with_replacement_are_uniform():
    """All pairs of images are equally frequent (chi-square, 99.99 %); epochs repeat images."""
    sampler = PAIRINGS["replacement"](3, 8, 8, 8)
    pairs = np.array([sampler[pair][:2] for pair in range(8000)])
    counts = np.zeros((8, 8))
    np.add.at(counts, tuple(pairs.T), 1)
    assert ((counts - 125) ** 2 / 125).sum() < 114  # 63 degrees of freedom
    # Of 8 images drawn 8 times, all differ with probability 8! / 8**8 = 0.0024.
    epochs = pairs.reshape(1000, 8, 2)
    for domain in (0, 1):
        assert sum(len(set(epoch[:, domain])) == 8 for epoch in epochs) < 15


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_pairs_depend_on_seed_and_number_alone(pairing):
    """Pairs in any order of access are the same, with the same generators; seeds differ."""
    one, other = (PAIRINGS[pairing](7, 40, 50, 50) for _ in range(2))
    pairs = {pair: one[pair] for pair in range(120)}
    for pair in reversed(range(120)):
        *indices_, rng = other[pair]
        assert tuple(indices_) == pairs[pair][:2]
        assert rng.random() == pairs[pair][2].random()
    seeded = PAIRINGS[pairing](8, 40, 50, 50)
    assert [seeded[pair][:2] for pair in range(120)] != [pair[:2] for pair in pairs.values()]


def test_orders_of_samples():
    """Each is a permutation that depends on seed, step and domain; first images are uniform."""
    orders = [
        sample_order(seed, step, domain, 9)
        for seed in (0, 1)
        for step in (0, 2**40)
        for domain in "ab"
    ]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len(set(map(tuple, orders))) == 8
    np.testing.assert_array_equal(sample_order(1, 2**40, "b", 9), orders[-1])
    counts = np.bincount([sample_order(0, step, "a", 5)[0] for step in range(5000)])
    assert ((counts - 1000) ** 2 / 1000).sum() < 24  # 4 degrees of freedom


@pytest.mark.parametrize("start", [1, 5, 11])
def test_a_later_start_gives_the_rest(start):
    """Starting at any step gives the rest of the uninterrupted sequence."""
    config = make_config(batch_size=3)
    whole = take(config, NumberedSource(4), NumberedSource(5), stop=12)
    rest = take(config, NumberedSource(4), NumberedSource(5), start=start, stop=12)
    assert_same(rest, whole[start:])


def test_seeds_give_different_sequences():
    """Seeds give different orders, not the same one an epoch later."""
    by_seed = []
    for seed in (0, 1, 2):
        batches = take(make_config(seed=seed, batch_size=1), *[NumberedSource(12)] * 2, stop=36)
        shown = indices(batches, "a")
        by_seed.append([tuple(shown[i : i + 12]) for i in (0, 12, 24)])
    assert len(set(itertools.chain(*by_seed))) == 9


@pytest.mark.parametrize("count", [2, 3, 6])
def test_processes_read_shards_of_the_batch(count):
    """The shards of all processes make up the global batch; each process reads only its own."""
    config = make_config(batch_size=6, cache_gib=0.0)
    whole = take(config, NumberedSource(50), NumberedSource(60), stop=4)
    reads = 0
    shards = []
    for index in range(count):
        source_a, source_b = NumberedSource(50), NumberedSource(60)
        shards.append(
            take(config, source_a, source_b, stop=4, process_index=index, process_count=count)
        )
        reads += source_a.reads.total()
    joined = [
        {domain: np.concatenate([shard[domain] for shard in step]) for domain in "ab"}
        for step in zip(*shards, strict=True)
    ]
    assert_same(joined, whole)
    assert reads == 24


def test_datasets_smaller_than_the_batch():
    """One image per domain fills any batch."""
    (batch,) = take(make_config(batch_size=5), NumberedSource(1), NumberedSource(1), stop=1)
    assert batch["a"].shape[0] == 5


def test_a_finished_run_has_no_batches():
    """Starting at or after the last step gives no batches."""
    for start in (6, 9):
        assert take(make_config(), NumberedSource(2), NumberedSource(2), start, 6) == []


def test_large_step_numbers():
    """Step numbers beyond 32 bits work."""
    start = 2**40
    batches = take(make_config(), NumberedSource(3), NumberedSource(3), start, start + 2)
    assert len(batches) == 2
