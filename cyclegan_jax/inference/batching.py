"""Images of many sizes, in batches that a translator computes at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from cyclegan_jax.inference.translator import Translator

Item = TypeVar("Item")


def batches(
    translator: Translator,
    sizes: Sequence[tuple[int, int]],
    most: Callable[[int, int], int] | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Puts together what is computed at one size, for each of which there is a compilation.

    Args:
        translator: the model.
        sizes: height and width of each image.
        most: padded height and width to images a device computes at a time; by default the
            translator's batch size.

    Yields:
        How many to compute at least (`fill` of `Translator.apply`), and positions of images.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for position, size in enumerate(sizes):
        groups.setdefault(translator.padded_size(*size), []).append(position)
    for (height, width), members in groups.items():
        fill = translator.batch_for(height, len(members), most and most(height, width))
        for first in range(0, len(members), fill):
            yield fill, members[first : first + fill]


def ahead(items: Iterable[Item], count: int) -> Iterator[Item]:
    """The items, each asked for when the one `count` before it is handed out.

    What the device or threads were given to do goes on while an earlier item is dealt with.
    """
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
