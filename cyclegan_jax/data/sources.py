"""Registry of data sources, and the sources of a run."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, overload

import numpy as np

from cyclegan_jax.data.celeba import celeba_source
from cyclegan_jax.data.folder import folder_source
from cyclegan_jax.data.shapes import shapes_source
from cyclegan_jax.data.tfds import tfds_source
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.registry import lookup


class Source(Protocol):
    """Images of one domain and split in a fixed order, decoded on access; thread-safe.

    A source that can read sizes without decoding also has `image_size(index) -> (height, width)`.
    """

    def __len__(self) -> int:
        """Return the number of images, at least 1."""

    def __getitem__(self, index: int) -> np.ndarray:
        """Return an image as [H, W, C], uint8 or uint16; raise UserError if it is unreadable."""

    def name(self, index: int) -> str:
        """Return the name of an image for messages."""


# Called with the `data` section of the configuration, the split ("train" or "test") and the domain
# ("a" or "b") as the dataset itself names it. Returns None if it has no images of that split.
SourceFactory = Callable[[Any, str, str], Source | None]

SOURCES: dict[str, SourceFactory] = {
    "tfds": tfds_source,
    "folder": folder_source,
    "shapes": shapes_source,
    "celeba": celeba_source,
}

# {data.direction: domains of the dataset that become A and B}
DIRECTIONS = {"a_to_b": ("a", "b"), "b_to_a": ("b", "a")}


class Sources(NamedTuple):
    """Sources of a training run; None for a domain without test images."""

    train_a: Source
    train_b: Source
    test_a: Source | None
    test_b: Source | None


def open_sources(settings: Any) -> Sources:
    """Open the training and test sources of both domains.

    Args:
        settings: The `data` section of the configuration.

    Raises:
        UserError: The settings do not lead to images.
    """
    return Sources(*open_split(settings, "train"), *open_split(settings, "test"))


@overload
def open_split(settings: Any, split: Literal["train"]) -> tuple[Source, Source]: ...
@overload
def open_split(settings: Any, split: Literal["test"]) -> tuple[Source | None, Source | None]: ...
def open_split(settings: Any, split: str) -> tuple[Source | None, Source | None]:
    """Open one split of domains A and B, after `data.direction` and `data.max_images`.

    Args:
        settings: The `data` section of the configuration.
        split: "train" or "test".

    Returns:
        (A, B). For "test", a domain without test images is None.

    Raises:
        UserError: The settings do not lead to images.
    """
    factory = lookup("data.source", settings.source, SOURCES)
    opened = [factory(settings, split, domain) for domain in DIRECTIONS[settings.direction]]
    if split == "train" and not all(opened):
        raise UserError(f"data.source={settings.source}: expected training images of both domains")
    limit = settings.max_images
    source_a, source_b = (
        FirstImages(source, limit) if source and 0 < limit < len(source) else source
        for source in opened
    )
    return source_a, source_b


class FirstImages:
    """The first images of a source; everything but the length is that of the source.

    Args:
        source: All images.
        count: Number of images, at most `len(source)`.
    """

    def __init__(self, source: Source, count: int):
        self._source = source
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        if index >= self._count:
            raise IndexError(f"index {index}: expected at most {self._count - 1}")
        return self._source[index]

    def name(self, index: int) -> str:
        """Return the name of an image for messages."""
        return self._source.name(index)

    def __getattr__(self, attribute: str) -> Any:
        # `image_size`, and what else only some sources have.
        return getattr(self._source, attribute)
