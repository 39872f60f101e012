"""Sources of images, transforms, and the batches of the update."""

from collections.abc import Collection, Mapping
from typing import Any

from cyclegan_jax.data.build import build_train_dataset, build_transform
from cyclegan_jax.data.dataset import Batches, TrainDataset
from cyclegan_jax.data.images import SameSize, check_headers, test_images, transformed_images
from cyclegan_jax.data.prefetch import PlacedBatches, Prefetcher
from cyclegan_jax.data.sampler import EPOCHS, PAIRINGS, Sampler, sample_order
from cyclegan_jax.data.sources import (
    DIRECTIONS,
    SOURCES,
    Source,
    SourceFactory,
    Sources,
    open_sources,
    open_split,
)
from cyclegan_jax.data.transforms import (
    BIT_DEPTHS,
    CHANNELS,
    INTERPOLATIONS,
    TRANSFORMS,
    Transform,
)

__all__ = [
    "DATA_CHOICES",
    "DATA_REGISTRIES",
    "EPOCHS",
    "PAIRINGS",
    "SOURCES",
    "TRANSFORMS",
    "Batches",
    "PlacedBatches",
    "Prefetcher",
    "SameSize",
    "Sampler",
    "Source",
    "SourceFactory",
    "Sources",
    "TrainDataset",
    "Transform",
    "build_train_dataset",
    "build_transform",
    "check_headers",
    "open_sources",
    "open_split",
    "sample_order",
    "test_images",
    "transformed_images",
]

# Fields of the `data` section that name entries of registries, or package.module:attribute.
DATA_REGISTRIES: dict[str, Mapping[str, Any]] = {
    "source": SOURCES,
    "transform": TRANSFORMS,
    "pairing": PAIRINGS,
    "epoch": EPOCHS,
}

# Fields of the `data` section with fixed choices.
DATA_CHOICES: dict[str, Collection[Any]] = {
    "direction": tuple(DIRECTIONS),
    "channels_a": CHANNELS,
    "channels_b": CHANNELS,
    "bit_depth": BIT_DEPTHS,
    "interpolation": INTERPOLATIONS,
}
