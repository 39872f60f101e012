"""Sources of images, their transform, and the batches that the update is fed with."""

from cyclegan_jax.data.pipeline import (
    TrainBatches,
    image_size,
    test_images,
    train_batches,
    transformed_images,
)
from cyclegan_jax.data.prefetch import Delivery, Feed
from cyclegan_jax.data.sampler import EPOCHS, PAIRINGS, pairs_per_epoch
from cyclegan_jax.data.sources import DIRECTIONS, SOURCES, Source, load_sources
from cyclegan_jax.data.transforms import BIT_DEPTHS, CHANNELS, TRANSFORMS, Transform

__all__ = [
    "DATA_CHOICES",
    "Delivery",
    "Feed",
    "Source",
    "TrainBatches",
    "Transform",
    "load_sources",
    "pairs_per_epoch",
    "image_size",
    "test_images",
    "train_batches",
    "transformed_images",
]

# Fields of the configuration's `data` whose values are chosen from a list.
DATA_CHOICES: dict[str, tuple[str, ...] | tuple[int, ...]] = {
    "source": SOURCES,
    "direction": DIRECTIONS,
    "channels_a": CHANNELS,
    "channels_b": CHANNELS,
    "bit_depth": BIT_DEPTHS,
    "transform": TRANSFORMS,
    "pairing": PAIRINGS,
    "epoch": EPOCHS,
}
