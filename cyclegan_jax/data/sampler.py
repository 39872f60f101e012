"""Which images stand side by side, when: a function of the seed and the pair's number alone."""

import functools
from typing import Any

import numpy as np

from cyclegan_jax.utils.errors import UserError

PAIRINGS = ("independent", "serial")
EPOCHS = ("larger", "smaller")

# Streams of random numbers: keys of Philox beside the seed (Salmon et al., 2011).
_ORDER, _PAIR = 0, 1


def pairs_per_epoch(data: Any, len_a: int, len_b: int) -> int:
    """How many pairs make an epoch: as many as the larger set has images, or the smaller.

    Raises:
      UserError: `data.epoch` is neither.
    """
    if data.epoch not in EPOCHS:
        raise UserError(f"data.epoch={data.epoch}: expected one of {', '.join(EPOCHS)}")
    return max(len_a, len_b) if data.epoch == "larger" else min(len_a, len_b)


class PairSampler:
    """The endless sequence of pairs; any part of it can be had without what lies before.

    Epoch e has the pairs from e * N on, N from `pairs_per_epoch`. In each, A goes once through
    its images in a fresh order (starting over where the epoch is longer, stopping where it is
    shorter). B is drawn anew for each pair where pairing is "independent", as in the original;
    where it is "serial", it is the image in B's place of the same number (modulo B's length).
    """

    def __init__(self, data: Any, seed: int, len_a: int, len_b: int):
        if data.pairing not in PAIRINGS:
            raise UserError(f"data.pairing={data.pairing}: expected one of {', '.join(PAIRINGS)}")
        self._seed = seed
        self._len_a, self._len_b = len_a, len_b
        self._epoch_pairs = pairs_per_epoch(data, len_a, len_b)
        self._serial = data.pairing == "serial"
        # All of A takes part in the order, also where an epoch shows only a part of it; in step
        # with B, though, the numbers beyond the epoch have no partner.
        self._places = self._epoch_pairs if self._serial else max(self._epoch_pairs, len_a)
        # Two: threads are in neighbouring epochs at the turn from one to the next.
        self._order = functools.lru_cache(maxsize=2)(self._shuffle)

    def __getitem__(self, pair: int) -> tuple[int, int, np.random.Generator]:
        """Indices into A and B, and the generator for what else is random about the pair."""
        epoch, place = divmod(pair, self._epoch_pairs)
        number = int(self._order(epoch)[place])
        rng = _generator(self._seed, _PAIR, pair)
        index_b = number % self._len_b if self._serial else int(rng.integers(self._len_b))
        return number % self._len_a, index_b, rng

    def _shuffle(self, epoch: int) -> np.ndarray:
        return _generator(self._seed, _ORDER, epoch).permutation(self._places)


def _generator(seed: int, stream: int, number: int) -> np.random.Generator:
    """Independent random numbers for each (seed, stream, number).

    Philox computes its output from key and counter. The number goes into the counter's highest
    word, which 2**192 draws do not reach.
    """
    key = np.array([seed % 2**64, stream], np.uint64)
    counter = np.array([0, 0, 0, number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
