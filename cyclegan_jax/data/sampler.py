"""Pairs of images as a pure function of (seed, number of the pair)."""

import functools
from collections.abc import Callable
from typing import Protocol

import numpy as np

# Streams of random numbers: keys of Philox beside the seed (Salmon et al. 2011).
_ORDER, _PAIR, _SAMPLE_A, _SAMPLE_B = range(4)

# {data.epoch: pairs per epoch as a function of the numbers of images in A and B}
EPOCHS: dict[str, Callable[[int, int], int]] = {"larger": max, "smaller": min}


class Sampler(Protocol):
    """Endless sequence of pairs with random access, so that a run can resume anywhere."""

    def __getitem__(self, pair: int) -> tuple[int, int, np.random.Generator]:
        """Return the indices into A and B, and the generator of the pair's crops and flips."""


class IndependentSampler:
    """Pairs in which B is drawn uniformly for each pair, as in the original.

    Args:
        seed: Seed of the run.
        len_a: Number of images in A.
        len_b: Number of images in B.
        pairs_per_epoch: Each epoch goes through A in a new order: repeatedly if A is smaller,
            through a part of it if A is larger.
    """

    def __init__(self, seed: int, len_a: int, len_b: int, pairs_per_epoch: int):
        self._seed, self._len_a, self._len_b = seed, len_a, len_b
        self._order = _EpochOrder(seed, pairs_per_epoch, max(pairs_per_epoch, len_a))

    def __getitem__(self, pair: int) -> tuple[int, int, np.random.Generator]:
        rng = _generator(self._seed, _PAIR, pair)
        return self._order[pair] % self._len_a, int(rng.integers(self._len_b)), rng


class SerialSampler:
    """Pairs of equal index: image k of A with image k of B, each modulo the number of images.

    Args:
        seed: Seed of the run.
        len_a: Number of images in A.
        len_b: Number of images in B.
        pairs_per_epoch: Each epoch has the indices below this number, in a new order.
    """

    def __init__(self, seed: int, len_a: int, len_b: int, pairs_per_epoch: int):
        self._seed, self._len_a, self._len_b = seed, len_a, len_b
        self._order = _EpochOrder(seed, pairs_per_epoch, pairs_per_epoch)

    def __getitem__(self, pair: int) -> tuple[int, int, np.random.Generator]:
        index = self._order[pair]
        return index % self._len_a, index % self._len_b, _generator(self._seed, _PAIR, pair)


class ReplacementSampler:
    """Pairs in which A and B are drawn uniformly for each pair; an epoch may repeat or omit images.

    Args:
        seed: Seed of the run.
        len_a: Number of images in A.
        len_b: Number of images in B.
        pairs_per_epoch: Has no effect on the pairs.
    """

    def __init__(self, seed: int, len_a: int, len_b: int, pairs_per_epoch: int):
        del pairs_per_epoch
        self._seed, self._len_a, self._len_b = seed, len_a, len_b

    def __getitem__(self, pair: int) -> tuple[int, int, np.random.Generator]:
        rng = _generator(self._seed, _PAIR, pair)
        return int(rng.integers(self._len_a)), int(rng.integers(self._len_b)), rng


# {data.pairing: sampler}. An entry is called with (seed, len_a, len_b, pairs_per_epoch).
PAIRINGS: dict[str, Callable[[int, int, int, int], Sampler]] = {
    "independent": IndependentSampler,
    "serial": SerialSampler,
    "replacement": ReplacementSampler,
}


def sample_order(seed: int, step: int, domain: str, count: int) -> np.ndarray:
    """Return a random order of the test images of a domain, for the sample of a step.

    Args:
        seed: Seed of the run.
        step: Number of updates done.
        domain: "a" or "b".
        count: Number of test images.
    """
    stream = {"a": _SAMPLE_A, "b": _SAMPLE_B}[domain]
    return _generator(seed, stream, step).permutation(count)


class _EpochOrder:
    """The first `pairs_per_epoch` of a new permutation of `range(size)` in each epoch."""

    def __init__(self, seed: int, pairs_per_epoch: int, size: int):
        self._pairs_per_epoch = pairs_per_epoch

        # Two epochs: threads are in neighbouring ones around the end of an epoch.
        @functools.lru_cache(maxsize=2)
        def permutation(epoch: int) -> np.ndarray:
            return _generator(seed, _ORDER, epoch).permutation(size)

        self._permutation = permutation

    def __getitem__(self, pair: int) -> int:
        epoch, position = divmod(pair, self._pairs_per_epoch)
        return int(self._permutation(epoch)[position])


def _generator(seed: int, stream: int, number: int) -> np.random.Generator:
    """Return an independent generator for each (seed, stream, number).

    Philox computes its output from a key and a counter. The number goes into the highest word of
    the counter, which 2**192 draws do not reach.
    """
    key = np.array([seed % 2**64, stream], np.uint64)
    counter = np.array([0, 0, 0, number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
