"""Where images come from: the protocol of sources, and the choice between them."""

from typing import Any, Literal, Protocol, overload

import numpy as np

from cyclegan_jax.data.celeba import celeba_source
from cyclegan_jax.data.folder import folder_source
from cyclegan_jax.data.published import published_source
from cyclegan_jax.data.shapes import ShapesSource
from cyclegan_jax.utils.errors import UserError

SOURCES = ("tfds", "folder", "shapes", "celeba")
DIRECTIONS = ("a_to_b", "b_to_a")
SPLITS = ("train", "test")


class Source(Protocol):
    """Images of one domain in a fixed order, read when asked for; safe to share by threads.

    A source that can tell sizes cheaply also has `image_size(index) -> (height, width)`.
    """

    def __len__(self) -> int:
        """The number of images, at least 1."""

    def __getitem__(self, index: int) -> np.ndarray:
        """The image as [H, W, C], uint8 or uint16; UserError where it cannot be read."""

    def name(self, index: int) -> str:
        """What to call the image in messages."""


@overload
def load_sources(data: Any, split: Literal["train"]) -> tuple[Source, Source]: ...
@overload
def load_sources(data: Any, split: Literal["test"]) -> tuple[Source | None, Source | None]: ...
def load_sources(data: Any, split: str) -> tuple[Source | None, Source | None]:
    """The sources of domains A and B, after `data.direction` and `data.max_images`.

    Args:
      data: the `data` part of the configuration.
      split: train or test.

    Returns:
      (A, B). For "train" both are there; for "test" a domain without a test set is None.

    Raises:
      UserError: nothing is found where the configuration says, or it cannot be fetched.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {SPLITS}")
    if data.source not in SOURCES:
        raise UserError(f"data.source={data.source}: expected one of {', '.join(SOURCES)}")
    if data.direction not in DIRECTIONS:
        raise UserError(f"data.direction={data.direction}: expected one of {', '.join(DIRECTIONS)}")
    first, second = ("a", "b") if data.direction == "a_to_b" else ("b", "a")
    return _load(data, split, first), _load(data, split, second)


def _load(data: Any, split: str, domain: str) -> Source | None:
    """One domain, as the set itself calls it."""
    if data.source == "folder":
        return folder_source(data, split, domain)
    if data.source == "tfds":
        return published_source(data, split, domain)
    if data.source == "celeba":
        return celeba_source(data, split, domain)
    count = data.shapes_train if split == "train" else data.shapes_test
    count = min(count, data.max_images or count)
    return ShapesSource(split, domain, data.shapes_size, count)
