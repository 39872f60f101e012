"""Images that show their index and what was done to them, and batches of them."""

import collections

import numpy as np

from configs import default
from cyclegan_jax.data import Sources, build_train_dataset
from cyclegan_jax.utils.errors import UserError

SIDE = 12


class NumberedSource:
    """Source in which each pixel of image i is (row, column, i)."""

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
            raise UserError(f"image {self.name(index)} cannot be read: on purpose")
        height, width = self.sizes.get(index, (SIDE, SIDE))
        rows, columns = np.mgrid[:height, :width]
        return np.stack([rows, columns, np.full_like(rows, index)], axis=-1).astype(np.uint8)

    def name(self, index):
        """Return the name of an image."""
        return f"image-{index}.png"


def make_config(**fields):
    """Return a configuration of 8x8 crops; `fields` are of its `data` section, but for two."""
    config = default.get_config()
    config.batch_size = fields.pop("batch_size", 2)
    config.seed = fields.pop("seed", 0)
    config.data.update({"transform": "crop", "crop_size": 8, "threads": 2, **fields})
    return config


def make_dataset(config, source_a, source_b):
    """Return the dataset of a configuration and two training sources."""
    sources = Sources(source_a, source_b, None, None)
    return build_train_dataset(config.data, config.seed, config.batch_size, sources)


def take(config, source_a, source_b, start=0, stop=6, **process):
    """Return the batches of updates `start` to `stop` - 1."""
    with make_dataset(config, source_a, source_b).batches(start, stop, **process) as batches:
        return list(batches)


def indices(batches, domain):
    """Return the indices of the images in batches, from the channel that holds them."""
    return [int(image[0, 0, 2]) for batch in batches for image in batch[domain]]


def is_flipped(image):
    """Return whether the columns of an image run from right to left."""
    return bool(image[0, 0, 1] > image[0, -1, 1])


def assert_same(first, second):
    """Check that two lists of batches are the same bits."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one["a"], other["a"])
        np.testing.assert_array_equal(one["b"], other["b"])
