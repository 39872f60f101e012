"""Turn the `data` section of a configuration into transforms and the training dataset."""

from typing import Any

from cyclegan_jax.data.dataset import TrainDataset
from cyclegan_jax.data.sampler import EPOCHS, PAIRINGS
from cyclegan_jax.data.sources import Sources
from cyclegan_jax.data.transforms import TRANSFORMS, DomainTransform, Transform
from cyclegan_jax.utils.registry import build, lookup


def build_transform(settings: Any, domain: str) -> Transform:
    """Build the transform of one domain.

    Args:
        settings: The `data` section of the configuration.
        domain: "a" or "b".

    Raises:
        UserError: The transform is unknown, or does not support the sizes.
    """
    entry = lookup("data.transform", settings.transform, TRANSFORMS)
    transform = build(
        "data",
        f"data.transform={settings.transform}",
        entry,
        load_size=settings.load_size,
        crop_size=settings.crop_size,
        optional={
            "crop_width": (settings.crop_width, None),
            "interpolation": (settings.interpolation, "bicubic"),
        },
    )
    return DomainTransform(
        transform,
        channels=getattr(settings, f"channels_{domain}"),
        bit_depth=settings.bit_depth,
        flip=settings.flip and not settings.flip_alike,
    )


def build_train_dataset(
    settings: Any, seed: int, batch_size: int, sources: Sources
) -> TrainDataset:
    """Build the dataset of a training run.

    Args:
        settings: The `data` section of the configuration.
        seed: Seed of order, crops and flips.
        batch_size: Pairs per update over all processes.
        sources: See `open_sources`.

    Raises:
        UserError: The settings are wrong, or do not fit the headers of the images.
    """
    return TrainDataset(
        sources.train_a,
        sources.train_b,
        build_transform(settings, "a"),
        build_transform(settings, "b"),
        seed=seed,
        batch_size=batch_size,
        pairing=lookup("data.pairing", settings.pairing, PAIRINGS),
        epoch=lookup("data.epoch", settings.epoch, EPOCHS),
        flip_pairs=settings.flip and settings.flip_alike,
        skip_unreadable=settings.skip_unreadable,
        cache_gib=settings.cache_gib,
        threads=settings.threads,
        prefetch_batches=settings.prefetch_batches,
    )
