"""A domain's images as training wants them: prepared, kept in memory, damage passed over."""

import logging
import threading

import numpy as np

from cyclegan_jax.data.sources import Source
from cyclegan_jax.data.transforms import Transform
from cyclegan_jax.utils.errors import UserError

_LOG = logging.getLogger(__name__)


class Cache:
    """Arrays kept in memory until `gib` is used up; what comes later is not kept.

    Nothing is thrown out to make room: images come up in random order, equally often, so one
    is worth as much as another. Safe to share by threads.
    """

    def __init__(self, gib: float):
        self._room = int(gib * 2**30)
        self._kept: dict[tuple[str, int], np.ndarray] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> np.ndarray | None:
        """The array kept under a key, or None."""
        return self._kept.get(key)

    def put(self, key: tuple[str, int], array: np.ndarray) -> None:
        """Keeps an array, from now on read-only, if there is room."""
        with self._lock:
            if key in self._kept or array.nbytes > self._room:
                return
            if array.base is not None:  # a view would keep alive more than it counts
                array = array.copy()
            array.flags.writeable = False
            self._room -= array.nbytes
            self._kept[key] = array


class SameSize:
    """Holds images to the size of the first, where no crop makes them alike.

    Batches and history pools need one size. Safe to share by threads.
    """

    def __init__(self, transform: Transform):
        self._transform = transform
        self._first: tuple[str, int, int] | None = None
        self._lock = threading.Lock()

    def check(self, name: str, height: int, width: int) -> None:
        """Raises UserError where a transformed image has another size than the first had."""
        if self._transform.crops:
            return
        with self._lock:
            self._first = self._first or (name, height, width)
            first_name, first_height, first_width = self._first
        if (height, width) != (first_height, first_width):
            raise UserError(
                f"data.transform={self._transform.transform} makes {first_name} "
                f"{first_width}x{first_height} and {name} {width}x{height} pixels, but all must "
                "be alike: use resize_and_crop, crop or scale_width_and_crop"
            )


class ImageDataset:
    """The prepared training images of one domain, by index; safe to share by threads.

    Args:
      source: the images.
      transform: what `prepare` does to them.
      cache: where they are kept; shared by the domains.
      same_size: what holds the images of both domains to one size.
      domain: a or b.
      skip_unreadable: whether the next readable image stands in for one that cannot be read,
        instead of an error.

    Raises:
      UserError: headers already tell that an image is too small for the crop, or that images
        would come out with different sizes.
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
        if transform.transform != "resize_and_crop":
            self._check_headers()

    @property
    def skipped(self) -> int:
        """How many images were found unreadable so far."""
        return len(self._unreadable)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        """The prepared image, uint8 or uint16 [h, w, C]; not to be written to.

        Raises:
          UserError: it cannot be read, is too small, or differs in size from the others where
            all must be alike; with `skip_unreadable`, no image at all can be read.
        """
        count = len(self._source)
        for candidate in range(index, index + count):
            image = self._get(candidate % count)
            if image is not None:
                return image
        raise UserError(
            f"domain {self._domain.upper()}: none of its {count} images can be read, "
            f"from {self._source.name(0)} on"
        )

    def augmented(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """The image as the networks get it, by the random part of the transform."""
        return self._transform.augment(self[index], rng)

    def _get(self, index: int) -> np.ndarray | None:
        """The prepared image, or None for one that is unreadable and to be skipped."""
        key = (self._domain, index)
        prepared = self._cache.get(key)
        if prepared is not None or index in self._unreadable:
            return prepared
        try:
            image = self._source[index]
        except UserError as error:
            if not self._skip_unreadable:
                raise UserError(f"{error}; data.skip_unreadable=True passes over such") from error
            self._note_unreadable(index, error)
            return None
        name = self._source.name(index)
        prepared = self._transform.prepare(image, name)
        self._same_size.check(name, *prepared.shape[:2])
        self._cache.put(key, prepared)
        return prepared

    def _note_unreadable(self, index: int, error: UserError) -> None:
        with self._lock:
            known = index in self._unreadable
            self._unreadable.add(index)
        if not known:
            _LOG.warning("skipped: %s", error)

    def _check_headers(self) -> None:
        """Finds images of a wrong size before training, where the source can tell sizes."""
        image_size = getattr(self._source, "image_size", None)
        if image_size is None:
            return
        for index in range(len(self._source)):
            try:
                height, width = image_size(index)
            except UserError:
                continue  # told, or skipped, when its turn comes
            name = self._source.name(index)
            self._same_size.check(name, *self._transform.prepared_size(height, width, name))
