"""Images that tell which they are and what was done to them, and batches of them."""

import collections

import numpy as np

from configs import default
from cyclegan_jax.data import train_batches
from cyclegan_jax.utils.errors import UserError

SIDE = 12


class NumberedSource:
    """Each pixel of image i is (row, column, i): crops, flips and indices can be told."""

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
            raise UserError(f"image {self.name(index)} cannot be read: made so")
        height, width = self.sizes.get(index, (SIDE, SIDE))
        rows, columns = np.mgrid[:height, :width]
        return np.stack([rows, columns, np.full_like(rows, index)], axis=-1).astype(np.uint8)

    def name(self, index):
        """As a file would be called."""
        return f"image-{index}.png"


def make_config(**fields):
    config = default.get_config()
    config.batch_size = fields.pop("batch_size", 2)
    config.seed = fields.pop("seed", 0)
    config.data.update({"transform": "crop", "crop_size": 8, "threads": 2, **fields})
    return config


def take(config, source_a, source_b, start=0, stop=6, **process):
    with train_batches(
        config, source_a, source_b, start_step=start, num_steps=stop, **process
    ) as iterator:
        return list(iterator)


def indices(batches, domain):
    """Which images the batches show, from the channel that holds their number."""
    return [int(image[0, 0, 2]) for batch in batches for image in batch[domain]]


def is_flipped(image):
    """Whether columns run from right to left."""
    return bool(image[0, 0, 1] > image[0, -1, 1])


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one["a"], other["a"])
        np.testing.assert_array_equal(one["b"], other["b"])
