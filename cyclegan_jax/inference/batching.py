"""Batches of images of many sizes, and iteration ahead of their consumer."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from cyclegan_jax.inference.translator import Translator

Item = TypeVar("Item")


def batches(
    translator: Translator,
    sizes: Sequence[tuple[int, int]],
    per_device: Callable[[int, int], int] | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Group images by padded size, since each size is a compilation.

    Args:
        translator: The model.
        sizes: Height and width of each image.
        per_device: Maximal number of images on a device for a padded height and width; by default
            the translator's batch size.

    Yields:
        The batch size to compile for (`fill` of `Translator.apply`), and indices of images.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(translator.padded_size(*size), []).append(index)
    for (height, width), members in groups.items():
        fill = translator.batch_for(height, len(members), per_device and per_device(height, width))
        for first in range(0, len(members), fill):
            yield fill, members[first : first + fill]


def ahead(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Iterate over items with `count` of them requested ahead of the one yielded.

    What devices or threads compute for later items overlaps with the use of an earlier one.
    """
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
