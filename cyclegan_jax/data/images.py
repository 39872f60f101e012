"""Images of one domain: prepared and cached for training, or transformed for tests."""

import logging
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from cyclegan_jax.data.sources import Source
from cyclegan_jax.data.transforms import Transform
from cyclegan_jax.utils.errors import UserError

_LOG = logging.getLogger(__name__)


class Cache:
    """Arrays in memory, up to a budget; once it is spent, no more are kept; thread-safe.

    Nothing is evicted: images are used in random order and equally often, so none is worth more
    than another.

    Args:
        gib: Budget in GiB.
    """

    def __init__(self, gib: float):
        self._bytes_left = int(gib * 2**30)
        self._arrays: dict[tuple[str, int], np.ndarray] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> np.ndarray | None:
        """Return the array of a key, or None."""
        return self._arrays.get(key)

    def put(self, key: tuple[str, int], array: np.ndarray) -> None:
        """Keep an array, read-only from now on, if the budget allows it."""
        with self._lock:
            if key in self._arrays or array.nbytes > self._bytes_left:
                return
            if array.base is not None:  # a view keeps more memory alive than it counts
                array = array.copy()
            array.flags.writeable = False
            self._bytes_left -= array.nbytes
            self._arrays[key] = array


class SameSize:
    """Check for one size of all images, which batches and image pools need; thread-safe."""

    def __init__(self) -> None:
        self._first: tuple[str, int, int] | None = None
        self._lock = threading.Lock()

    def check(self, name: str, height: int, width: int) -> None:
        """Raise UserError if a transformed image differs in size from the first one checked."""
        with self._lock:
            self._first = self._first or (name, height, width)
            first_name, first_height, first_width = self._first
        if (height, width) != (first_height, first_width):
            raise UserError(
                f"data.transform: expected one size for all images, got {first_name} "
                f"{first_width}x{first_height} and {name} {width}x{height} pixels; use "
                "resize_and_crop, crop or scale_width_and_crop"
            )


class TrainImages:
    """Prepared training images of one domain, by index; thread-safe.

    Args:
        source: Source of the images.
        transform: Transform of the domain.
        cache: Cache of prepared images, shared by both domains.
        same_size: Check shared by both domains, for transforms without an `output_size`.
        domain: "a" or "b".
        skip_unreadable: Replace an unreadable image by the next readable one, with a warning.

    Raises:
        UserError: The headers show that the transform rejects an image, or that sizes differ.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        cache: Cache,
        same_size: SameSize,
        domain: str,
        skip_unreadable: bool = False,
    ):
        self._source = source
        self._transform = transform
        self._cache = cache
        self._same_size = same_size
        self._domain = domain
        self._skip_unreadable = skip_unreadable
        self._unreadable: set[int] = set()
        self._lock = threading.Lock()
        check_headers(source, transform, same_size)

    @property
    def skipped(self) -> int:
        """Number of images found unreadable so far."""
        return len(self._unreadable)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return a prepared image, uint8 or uint16 [h, w, C], which must not be written to.

        Raises:
            UserError: The image is unreadable, the transform rejects it, or its size differs; with
                `skip_unreadable`, only if all images are unreadable.
        """
        count = len(self._source)
        for candidate in range(index, index + count):
            image = self._get(candidate % count)
            if image is not None:
                return image
        raise _all_unreadable(self._source)

    def augmented(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Return an image after the random part of the transform."""
        return self._transform.augment(self[index], rng)

    def _get(self, index: int) -> np.ndarray | None:
        """Return the prepared image, or None for an unreadable one that is skipped."""
        key = (self._domain, index)
        prepared = self._cache.get(key)
        if prepared is not None or index in self._unreadable:
            return prepared
        try:
            image = self._source[index]
        except UserError as error:
            if not self._skip_unreadable:
                raise _skippable(error) from error
            self._note_unreadable(index, error)
            return None
        name = self._source.name(index)
        prepared = self._transform.prepare(image, name)
        if self._transform.output_size is None:
            self._same_size.check(name, *prepared.shape[:2])
        self._cache.put(key, prepared)
        return prepared

    def _note_unreadable(self, index: int, error: UserError) -> None:
        with self._lock:
            is_new = index not in self._unreadable
            self._unreadable.add(index)
        if is_new:
            _LOG.warning("skipped: %s", error)


def check_headers(source: Source, transform: Transform, same_size: SameSize) -> None:
    """Check the sizes of all images as far as their headers and the transform tell.

    Unreadable images are passed over: they are reported or skipped when they are read.

    Args:
        source: Source of the images.
        transform: Transform of the domain.
        same_size: Check for transforms without an `output_size`.

    Raises:
        UserError: The transform rejects an image, or sizes differ.
    """
    image_size = getattr(source, "image_size", None)
    prepared_size = getattr(transform, "prepared_size", None)
    if image_size is None or prepared_size is None:
        return
    for index in range(len(source)):
        try:
            height, width = image_size(index)
        except UserError:
            continue
        name = source.name(index)
        prepared = prepared_size(height, width, name)
        if transform.output_size is None:
            same_size.check(name, *prepared)


def test_images(
    source: Source,
    transform: Transform,
    count: int,
    *,
    skip_unreadable: bool = False,
    order: Iterable[int] | None = None,
) -> np.ndarray:
    """Return the first images of a source after the test transform.

    Args:
        source: Source of the images.
        transform: Transform of the domain.
        count: Number of images, at least 1; fewer are returned if the source has fewer.
        skip_unreadable: Skip unreadable images, with a warning.
        order: Indices of the images, first to last; by default the order of the source.

    Returns:
        [n, H, W, C], uint8 or uint16.

    Raises:
        UserError: An image is unreadable, the transform rejects it, or sizes differ.
    """
    same_size = SameSize()
    images: list[np.ndarray] = []
    for name, image in transformed_images(
        source, transform, skip_unreadable=skip_unreadable, order=order
    ):
        same_size.check(name, *image.shape[:2])
        images.append(image)
        if len(images) == count:
            break
    if not images:
        raise _all_unreadable(source)
    return np.stack(images)


def transformed_images(
    source: Source,
    transform: Transform,
    *,
    skip_unreadable: bool = False,
    order: Iterable[int] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each image of a source, and the image after the test transform.

    Args:
        source: Source of the images.
        transform: Transform of the domain.
        skip_unreadable: Skip unreadable images, with a warning.
        order: Indices of the images; by default all, in the order of the source.

    Yields:
        (name, image), the image as [H, W, C], uint8 or uint16.

    Raises:
        UserError: An image is unreadable, or the transform rejects it.
    """
    for index in range(len(source)) if order is None else map(int, order):
        name = source.name(index)
        try:
            image = source[index]
        except UserError as error:
            if not skip_unreadable:
                raise _skippable(error) from error
            _LOG.warning("skipped: %s", error)
            continue
        yield name, transform.prepare_test(image, name)


def _skippable(error: UserError) -> UserError:
    return UserError(f"{error}; data.skip_unreadable=True skips such images")


def _all_unreadable(source: Source) -> UserError:
    return UserError(f"image {source.name(0)} and all {len(source)} of its set are unreadable")
