"""Sources of pictures, their treatment, and the batches that the update is fed with."""

from cyclegan_jax.data.batches import (
    TrainBatches,
    picture_size,
    test_pictures,
    train_batches,
    treated_pictures,
)
from cyclegan_jax.data.feed import Delivery, Feed
from cyclegan_jax.data.pairs import EPOCHS, PAIRINGS, pairs_per_epoch
from cyclegan_jax.data.sources import DIRECTIONS, SOURCES, Source, load_sources
from cyclegan_jax.data.treatments import BIT_DEPTHS, CHANNELS, TREATMENTS, Treatment

__all__ = [
    "DATA_CHOICES",
    "Delivery",
    "Feed",
    "Source",
    "TrainBatches",
    "Treatment",
    "load_sources",
    "pairs_per_epoch",
    "picture_size",
    "test_pictures",
    "train_batches",
    "treated_pictures",
]

# Fields of the configuration's `data` whose values are chosen from a list.
DATA_CHOICES: dict[str, tuple[str, ...] | tuple[int, ...]] = {
    "source": SOURCES,
    "direction": DIRECTIONS,
    "channels_a": CHANNELS,
    "channels_b": CHANNELS,
    "bit_depth": BIT_DEPTHS,
    "treatment": TREATMENTS,
    "pairing": PAIRINGS,
    "epoch": EPOCHS,
}
