"""Training batches: crops and flips, pairs of list files, threads."""

import collections
import re
import sys
import threading
import time

import numpy as np
import pytest

from benchmarks import data as data_benchmark
from cyclegan_jax.data import PAIRINGS, open_split
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import write_image
from tests.datasets.numbered import (
    SIDE,
    NumberedSource,
    assert_same,
    indices,
    is_flipped,
    make_config,
    make_dataset,
    take,
)


def test_shapes_and_types():
    """Batches have the size of the crop, and the channels and bit depth of the configuration."""
    config = make_config(channels_b=1, bit_depth=16, batch_size=3)
    (batch,) = take(config, NumberedSource(4), NumberedSource(5), stop=1)
    assert batch["a"].shape == (3, 8, 8, 3)
    assert batch["b"].shape == (3, 8, 8, 1)
    assert batch["a"].dtype == batch["b"].dtype == np.uint16


@pytest.mark.parametrize("flip_alike", [False, True])
def test_flips_are_fair_and_optionally_shared(flip_alike):
    """Flips of A and B are independent; with data.flip_alike they are equal."""
    config = make_config(batch_size=1, flip_alike=flip_alike)
    batches = take(config, NumberedSource(2), NumberedSource(2), stop=600)
    flips = collections.Counter(
        (is_flipped(batch["a"][0]), is_flipped(batch["b"][0])) for batch in batches
    )
    alike, different = {(False, False), (True, True)}, {(False, True), (True, False)}
    assert set(flips) == (alike if flip_alike else alike | different)
    # Within five standard deviations, 12.2 and 10.6, of the expected count.
    expected, margin = (300, 61) if flip_alike else (150, 53)
    assert all(abs(n - expected) < margin for n in flips.values())


def test_crops_stay_independent_with_shared_flips():
    """With data.flip_alike all 25 pairs of crop positions of A and B are equally frequent."""
    config = make_config(batch_size=1, flip_alike=True)
    batches = take(config, NumberedSource(2), NumberedSource(2), stop=2000)
    for axis in (0, 1):
        positions = collections.Counter(
            tuple(int(batch[domain][0, ..., axis].min()) for domain in "ab") for batch in batches
        )
        assert set(positions) == {(x, y) for x in range(5) for y in range(5)}
        # Chi-square with 24 degrees of freedom: 99.99 % lie below 60.
        assert sum((n - 80) ** 2 / 80 for n in positions.values()) < 60


@pytest.mark.parametrize("pairing", ["independent", "serial"])
@pytest.mark.parametrize(("flip", "flip_alike"), [(True, False), (True, True), (False, True)])
def test_the_order_of_random_draws(pairing, flip, flip_alike):
    """A plain loop draws A's crop and flip, then B's, then the pair's: old runs can resume."""
    fields = {"pairing": pairing, "flip": flip, "flip_alike": flip_alike}
    config = make_config(batch_size=1, seed=5, **fields)
    sources = NumberedSource(4), NumberedSource(5)
    sampler = PAIRINGS[pairing](5, 4, 5, 5)
    batches = take(config, *sources, start=7, stop=27)
    for number, batch in enumerate(batches, start=7):
        *indices_ab, rng = sampler[number]
        expected = []
        for source, index in zip(sources, indices_ab, strict=True):
            top, left = rng.integers(SIDE - 8 + 1), rng.integers(SIDE - 8 + 1)
            image = source[index][top : top + 8, left : left + 8]
            own = flip and not flip_alike and rng.random() < 0.5
            expected.append(np.fliplr(image) if own else image)
        if flip and flip_alike and rng.random() < 0.5:
            expected = [np.fliplr(image) for image in expected]
        np.testing.assert_array_equal(batch["a"][0], expected[0])
        np.testing.assert_array_equal(batch["b"][0], expected[1])


def test_threads_cache_and_prefetch_change_nothing():
    """One thread without a cache and eight with one give the same bits."""
    few = make_config(threads=1, prefetch_batches=1, cache_gib=0.0)
    many = make_config(threads=8, prefetch_batches=16, cache_gib=1.0)
    sources = NumberedSource(5), NumberedSource(7)
    assert_same(take(few, *sources, stop=40), take(many, *sources, stop=40))


def test_serial_pairs_of_list_files(tmp_path):
    """List files, crops and epochs of the smaller set: image k of A is paired with image k of B."""
    originals = {}
    for domain, count in (("A", 3), ("B", 5)):
        # Pairs follow the order of the lists, not of the names.
        names = [f"images/{domain}-{2 * i % 5}.png" for i in range(count)]
        (tmp_path / f"train{domain}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            (tmp_path / "images").mkdir(exist_ok=True)
            originals[domain, i] = NumberedSource(count)[i]
            write_image(tmp_path / name, originals[domain, i])
    fields = {"source": "folder", "dir": str(tmp_path), "pairing": "serial", "epoch": "smaller"}
    config = make_config(batch_size=1, flip=False, **fields)
    batches = take(config, *open_split(config.data, "train"), stop=12)
    for epoch in range(4):
        shown = batches[3 * epoch : 3 * epoch + 3]
        assert sorted(indices(shown, "a")) == [0, 1, 2]
        assert indices(shown, "a") == indices(shown, "b")
    for batch in batches:
        for domain in "ab":
            top, left, index = batch[domain][0, 0, 0].tolist()
            whole = originals[domain.upper(), index]
            np.testing.assert_array_equal(batch[domain][0], whole[top : top + 8, left : left + 8])


def grain_threads():
    return {thread for thread in threading.enumerate() if "grain" in thread.name}


@pytest.mark.parametrize("how", ["close", "drop", "error", "end"])
def test_threads_end(how):
    """Closed, dropped, failed or exhausted, an iterator leaves no threads behind."""
    earlier = grain_threads()  # of earlier tests, about to end
    unreadable = range(4) if how == "error" else ()
    dataset = make_dataset(make_config(), NumberedSource(4, unreadable), NumberedSource(4))
    iterator = dataset.batches(0, 10**9 if how != "end" else 3)
    if how == "error":
        with pytest.raises(UserError):
            next(iterator)
    else:
        next(iterator)
        assert grain_threads() - earlier
    if how == "close":
        iterator.close()
        assert list(iterator) == []
    elif how == "end":
        assert len(list(iterator)) == 2
        assert list(iterator) == []
    elif how == "drop":
        del iterator
    deadline = time.monotonic() + 20
    while grain_threads() - earlier and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not grain_threads() - earlier


def test_a_batch_must_divide_among_processes():
    """A batch that does not is refused with both numbers."""
    dataset = make_dataset(make_config(batch_size=3), NumberedSource(2), NumberedSource(2))
    with pytest.raises(UserError, match="batch_size: expected a multiple of the 2 processes"):
        dataset.batches(0, 1, process_count=2)


def test_the_benchmark_runs_without_tensorflow(monkeypatch, capsys):
    """benchmarks/data.py prints its results if TensorFlow cannot be imported."""
    for name in ("tensorflow", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    sizes = "--size=16", "--load-size=20", "--crop-size=16"
    data_benchmark.main(["--images=3", "--pairs=4", "--rounds=2", *sizes])
    printed = capsys.readouterr().out
    assert re.search(r"machine .* cores\n", printed)
    assert len(re.findall(r"(?:cold|warm) +[\d,]+ pairs/s", printed)) == 2
    with pytest.raises(SystemExit, match="error: data.dir=/nowhere"):
        data_benchmark.main(["--dir", "/nowhere"])
