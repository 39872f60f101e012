"""The order of pairs, the cache, and batches from Grain's threads."""

import collections
import itertools
import logging
import re
import sys
import threading
import time

import numpy as np
import pytest

from benchmarks import data as data_benchmark
from configs import default
from cyclegan_jax import data as data_package
from cyclegan_jax.data import load_sources, pairs_per_epoch, picture_size, train_batches
from cyclegan_jax.data.pairs import PairOrder
from cyclegan_jax.data.pictures import Cache, PreparedPictures, SameSize
from cyclegan_jax.data.treatments import Treatment
from cyclegan_jax.errors import UserError
from cyclegan_jax.images import write_image

SIDE = 12


class NumberedSource:
    """Picture i is a ramp that starts at i, so crops, flips and indices can be told apart."""

    def __init__(self, count, unreadable=(), sizes=None):
        self.count = count
        self.unreadable = set(unreadable)
        self.sizes = sizes or {}
        self.reads = collections.Counter()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads[index] += 1
        if index in self.unreadable:
            raise UserError(f"picture {self.name(index)} cannot be read: made so")
        height, width = self.sizes.get(index, (SIDE, SIDE))
        ramp = np.arange(height * width, dtype=np.uint8).reshape(height, width, 1) % 97
        return np.concatenate([ramp, ramp, np.full_like(ramp, index)], axis=-1)

    def name(self, index):
        """As a file would be called."""
        return f"picture-{index}.png"


def make_config(**fields):
    config = default.get_config()
    config.batch_size = fields.pop("batch_size", 2)
    config.seed = fields.pop("seed", 0)
    config.data.update({"treatment": "crop", "crop_size": 8, "threads": 2, **fields})
    return config


def take(config, source_a, source_b, start=0, stop=6, **process):
    with train_batches(
        config, source_a, source_b, start_step=start, num_steps=stop, **process
    ) as iterator:
        return list(iterator)


def indices(batches, domain):
    """Which pictures the batches show, from the channel that holds their number."""
    return [int(picture[0, 0, 2]) for batch in batches for picture in batch[domain]]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one["a"], other["a"])
        np.testing.assert_array_equal(one["b"], other["b"])


def test_shapes_and_types():
    """Batches are dictionaries of uint8 or uint16 pictures of the size of the crop."""
    config = make_config(channels_b=1, bit_depth=16, batch_size=3)
    (batch,) = take(config, NumberedSource(4), NumberedSource(5), stop=1)
    assert batch["a"].shape == (3, 8, 8, 3)
    assert batch["b"].shape == (3, 8, 8, 1)
    assert batch["a"].dtype == batch["b"].dtype == np.uint16


@pytest.mark.parametrize(("epoch", "pairs"), [("larger", 7), ("smaller", 3)])
def test_pairs_per_epoch(epoch, pairs):
    """An epoch is the larger or the smaller set, whichever domain has it."""
    data = make_config(epoch=epoch).data
    assert pairs_per_epoch(data, 3, 7) == pairs_per_epoch(data, 7, 3) == pairs


def test_each_epoch_shows_all_of_a_in_a_new_order():
    """An epoch of the larger set A has each picture once, epochs differ, steps may cross."""
    batches = take(make_config(batch_size=4), NumberedSource(10), NumberedSource(3), stop=15)
    shown = indices(batches, "a")
    epochs = [shown[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_a_smaller_a_is_shown_evenly():
    """Where B is larger, an epoch shows each picture of A as often as any other, to within 1."""
    batches = take(make_config(batch_size=1), NumberedSource(3), NumberedSource(8), stop=8)
    assert sorted(collections.Counter(indices(batches, "a")).values()) == [2, 3, 3]


def test_smaller_epochs_still_use_all_pictures():
    """With epochs of the smaller set, A's pictures in an epoch are distinct and change."""
    config = make_config(batch_size=3, epoch="smaller")
    batches = take(config, NumberedSource(10), NumberedSource(3), stop=30)
    shown = [indices([batch], "a") for batch in batches]
    assert all(len(set(epoch)) == 3 for epoch in shown)
    assert {index for epoch in shown for index in epoch} == set(range(10))


def test_serial_pairs_go_in_step():
    """Picture k of A always stands beside picture k of B (modulo the lengths)."""
    config = make_config(pairing="serial")
    batches = take(config, NumberedSource(4), NumberedSource(6), stop=12)
    pairs = collections.Counter(zip(indices(batches, "a"), indices(batches, "b"), strict=True))
    assert pairs == {(k % 4, k): 4 for k in range(6)}


def test_independent_draws_are_uniform():
    """Beside each picture of A, those of B come up equally often (chi-square, 99.99 %)."""
    order = PairOrder(make_config().data, 0, 5, 8)
    counts = np.zeros((5, 8))
    for pair in range(8000):
        counts[order[pair][:2]] += 1
    expected = counts.mean(axis=1, keepdims=True)
    assert ((counts - expected) ** 2 / expected).sum() < 75  # 5 * 7 degrees of freedom


def test_augmentation_is_independent_of_the_other_domain():
    """Flips of A and B are fair and do not go together."""
    config = make_config(batch_size=1, crop_size=SIDE)
    batches = take(config, NumberedSource(2), NumberedSource(2), stop=600)
    flips = collections.Counter(
        tuple(bool(batch[d][0, 0, 0, 0] > batch[d][0, 0, -1, 0]) for d in "ab") for batch in batches
    )
    # Four outcomes of 150 expected; the standard deviation is 10.6.
    assert len(flips) == 4
    assert all(abs(n - 150) < 53 for n in flips.values())


@pytest.mark.parametrize("start", [1, 5, 11])
def test_a_later_start_goes_on_with_the_rest(start):
    """Whatever the step, starting there gives the rest of the uninterrupted sequence."""
    config = make_config(batch_size=3)
    whole = take(config, NumberedSource(4), NumberedSource(5), stop=12)
    rest = take(config, NumberedSource(4), NumberedSource(5), start=start, stop=12)
    assert_same(rest, whole[start:])


def test_threads_cache_and_prefetch_change_nothing():
    """One thread and eight, without and with a cache, give the same bits."""
    few = make_config(threads=1, prefetch_batches=1, cache_gib=0.0)
    many = make_config(threads=8, prefetch_batches=16, cache_gib=1.0)
    sources = NumberedSource(5), NumberedSource(7)
    assert_same(take(few, *sources, stop=40), take(many, *sources, stop=40))


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
    """One picture each fills any batch."""
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


def test_unreadable_picture_is_an_error_that_names_it():
    """The source's own line comes out of next(), as UserError, when its turn has come."""
    config = make_config(batch_size=1, flip=False, pairing="serial")
    good = indices(take(config, NumberedSource(6), NumberedSource(6), stop=6), "a")
    with train_batches(
        config,
        NumberedSource(6, unreadable={good[4]}),
        NumberedSource(6),
        start_step=0,
        num_steps=9,
    ) as iterator:
        for _ in range(4):
            next(iterator)
        with pytest.raises(UserError, match=f"picture-{good[4]}.png cannot be read: made so"):
            next(iterator)


def test_skipping_takes_the_next_readable_picture(caplog):
    """Skipped pictures are replaced by their successor, told once each, and counted."""
    config = make_config(batch_size=1, skip_unreadable=True, flip=False)
    whole = indices(take(config, NumberedSource(6), NumberedSource(6), stop=18), "a")
    source = NumberedSource(6, unreadable={2, 3, 5})
    with (
        caplog.at_level(logging.WARNING),
        train_batches(config, source, NumberedSource(6), start_step=0, num_steps=18) as iterator,
    ):
        shown = indices(list(iterator), "a")
        assert iterator.skipped == 3
    stand_in = {2: 4, 3: 4, 5: 0}
    assert shown == [stand_in.get(index, index) for index in whole]
    for index in (2, 3, 5):
        assert caplog.text.count(f"picture-{index}.png") == 1


def test_skipping_everything_is_an_error():
    """A set in which nothing can be read ends in one line instead of going round."""
    config = make_config(skip_unreadable=True)
    with (
        train_batches(
            config, NumberedSource(3), NumberedSource(4, range(4)), start_step=0, num_steps=2
        ) as iterator,
        pytest.raises(UserError, match="domain B: none of its 4 pictures can be read"),
    ):
        next(iterator)


def test_small_pictures_are_an_error_even_when_skipping():
    """A picture too small for the crop is a mistake in the configuration, not damage."""
    source = NumberedSource(1, sizes={0: (6, 30)})
    config = make_config(skip_unreadable=True)
    with pytest.raises(UserError, match="picture-0.png is 30x6 pixels, smaller than data.crop_"):
        take(config, source, NumberedSource(1))


@pytest.mark.parametrize("treatment", ["none", "scale_width"])
def test_differing_sizes_are_an_error_with_two_names(treatment):
    """Where no crop makes pictures alike, both files and sizes are named at first sight."""
    source = NumberedSource(4, sizes={2: (12, 16)})
    config = make_config(treatment=treatment, load_size=12, batch_size=1)
    with pytest.raises(UserError) as error:
        take(config, source, NumberedSource(4), stop=4)
    line = str(error.value)
    for part in ("picture-2.png", "12x12", f"data.treatment={treatment}", "resize_and_crop"):
        assert part in line
    assert "12x8" in line or "16x12" in line


@pytest.mark.parametrize("treatment", ["none", "crop"])
def test_headers_tell_before_training(tmp_path, treatment):
    """Of files, a wrong size is found when the batches are set up, without decoding."""
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        for i, width in enumerate((12, 12, 6)):
            write_image(tmp_path / name / f"{i}.png", np.zeros((12, width, 3), np.uint8))
    config = make_config(treatment=treatment, source="folder", dir=str(tmp_path))
    sources = load_sources(config.data, "train")
    with pytest.raises(UserError, match=r"2\.png"):
        train_batches(config, *sources, start_step=0, num_steps=1)


def test_unread_headers_wait_for_their_turn(tmp_path):
    """A damaged file does not stop the check of headers, and is skipped when asked for."""
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "0.png", np.zeros((12, 12, 3), np.uint8))
        (tmp_path / name / "1.png").write_text("not a picture")
    config = make_config(source="folder", dir=str(tmp_path), skip_unreadable=True)
    assert len(take(config, *load_sources(config.data, "train"))) == 6
    config.data.skip_unreadable = False
    with pytest.raises(UserError, match=r"1\.png cannot be read"):
        take(config, *load_sources(config.data, "train"))


def test_picture_size_is_that_of_the_batches():
    """The size is known before training: of the crop, or of the first pictures."""
    tall = dict.fromkeys(range(3), (16, 12))
    for treatment, size in (("crop", (8, 8)), ("none", (16, 12)), ("scale_width", (24, 20))):
        config = make_config(treatment=treatment, load_size=20)
        sources = NumberedSource(3, sizes=tall), NumberedSource(3, sizes=tall)
        assert picture_size(config.data, *sources) == size
        assert take(config, *sources, stop=1)[0]["a"].shape[1:3] == size


def test_domains_need_the_same_size():
    """Where no crop makes them alike, domains of differing sizes are refused with both names."""
    data = make_config(treatment="none").data
    other = NumberedSource(2, sizes={0: (12, 16), 1: (12, 16)})
    with pytest.raises(UserError, match=r"picture-0\.png 12x12 and picture-0\.png 16x12 pixels"):
        picture_size(data, NumberedSource(2), other)


def test_cache_keeps_within_its_budget():
    """Pictures are read once while there is room, and each time when there is none."""
    size = SIDE * SIDE * 3
    for room, once in ((2, 2), (10, 4)):
        cache = Cache(room * size / 2**30)
        source = NumberedSource(4)
        treatment = Treatment.from_config(make_config().data, "a")
        pictures = PreparedPictures(source, treatment, cache, SameSize(treatment), "a")
        for _ in range(3):
            for index in range(4):
                assert pictures[index][0, 0, 2] == index
        assert sorted(source.reads.values()) == [1] * once + [3] * (4 - once)


def test_domains_share_the_cache_without_mixing():
    """The same index of A and B are two pictures."""
    cache = Cache(1.0)
    kept = {}
    for domain, value in (("a", 1), ("b", 2)):
        kept[domain] = np.full((2, 2, 3), value, np.uint8)
        cache.put((domain, 0), kept[domain])
    assert cache.get(("a", 0)).max() == 1
    assert cache.get(("b", 0)).max() == 2
    with pytest.raises(ValueError, match="read-only"):
        cache.get(("a", 0))[0] = 9


def grain_threads():
    return {thread for thread in threading.enumerate() if "grain" in thread.name}


@pytest.mark.parametrize("how", ["close", "drop", "error", "end"])
def test_threads_end(how):
    """Closed, dropped, failed or used up, an iterator leaves no threads behind."""
    others = grain_threads()  # of tests before, on their way out
    unreadable = range(4) if how == "error" else ()
    iterator = train_batches(
        make_config(),
        NumberedSource(4, unreadable),
        NumberedSource(4),
        start_step=0,
        num_steps=10**9 if how != "end" else 3,
    )
    if how == "error":
        with pytest.raises(UserError):
            next(iterator)
    else:
        next(iterator)
        assert grain_threads() - others
    if how == "close":
        iterator.close()
        assert list(iterator) == []
    elif how == "end":
        assert len(list(iterator)) == 2
        assert list(iterator) == []
    elif how == "drop":
        del iterator
    deadline = time.monotonic() + 20
    while grain_threads() - others and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not grain_threads() - others


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 3}, "batch_size=3: expected a multiple of the 2 processes"),
        ({"pairing": "random"}, "data.pairing=random: expected one of independent, serial"),
        ({"epoch": "all"}, "data.epoch=all: expected one of larger, smaller"),
    ],
)
def test_wrong_configurations_are_refused_at_once(fields, message):
    """Before any batch, naming field and choices."""
    with pytest.raises(UserError, match=message):
        train_batches(
            make_config(**fields),
            NumberedSource(2),
            NumberedSource(2),
            start_step=0,
            num_steps=1,
            process_count=2,
        )


def test_test_pictures_are_the_first():
    """The same pictures each time, in order; fewer where there are fewer."""
    config = make_config(treatment="crop")
    fixed = data_package.test_pictures(config, NumberedSource(5), 3, domain="a")
    assert fixed.shape == (3, 8, 8, 3)
    assert fixed[:, 0, 0, 2].tolist() == [0, 1, 2]
    few = data_package.test_pictures(config, NumberedSource(2), 3, domain="a")
    assert len(few) == 2


def test_test_pictures_skip_or_name_damage():
    """As in training: an error that names the file, or the next picture."""
    source = NumberedSource(4, unreadable={0, 2})
    config = make_config()
    with pytest.raises(UserError, match="picture-0.png"):
        data_package.test_pictures(config, source, 2, domain="b")
    config.data.skip_unreadable = True
    fixed = data_package.test_pictures(config, source, 2, domain="b")
    assert fixed[:, 0, 0, 2].tolist() == [1, 3]
    with pytest.raises(UserError, match="domain B: none of its 2 pictures"):
        data_package.test_pictures(config, NumberedSource(2, {0, 1}), 2, domain="b")


def test_test_pictures_need_one_size():
    """Samples of differing sizes are refused with both names."""
    source = NumberedSource(2, sizes={1: (12, 16)})
    with pytest.raises(UserError, match=r"picture-0\.png 12x12 and picture-1\.png 16x12 pixels"):
        data_package.test_pictures(make_config(treatment="none"), source, 2, domain="a")


def test_the_benchmark_runs_without_tensorflow(monkeypatch, capsys):
    """benchmarks/data.py prints its figures where TensorFlow cannot be imported."""
    for name in ("tensorflow", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    sizes = "--size=16", "--load-size=20", "--crop-size=16"
    data_benchmark.main(["--pictures=3", "--pairs=4", "--stretches=2", *sizes])
    printed = capsys.readouterr().out
    assert re.search(r"machine .* cores\n", printed)
    assert len(re.findall(r"(?:cold|warm) +[\d,]+ pairs/s", printed)) == 2
    with pytest.raises(SystemExit, match="error: data.dir=/nowhere"):
        data_benchmark.main(["--dir", "/nowhere"])
