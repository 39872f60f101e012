"""Images in a temporary file: sets of any size in little memory."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self, overload

import numpy as np

from cyclegan_jax.utils.errors import UserError


class _Place(NamedTuple):
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


class StoredImages(Sequence[np.ndarray]):
    """A sequence of images whose pixels are in a file without a name, in the folder `TMPDIR`.

    The file goes with the object, also when the process is killed. Every access reads it, from the
    system's cache where there is memory for it.
    """

    def __init__(self, count: int = 0):
        """Make room for images that `put` stores in any order.

        Args:
            count: Number of images.
        """
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._places: list[_Place | None] = [None] * count
        self._end = 0

    @classmethod
    def of(cls, images: Iterable[np.ndarray]) -> Self:
        """Store images, one after the other."""
        stored = cls()
        for image in images:
            stored._places.append(None)
            stored.put(len(stored) - 1, image)
        return stored

    def put(self, index: int, image: np.ndarray) -> None:
        """Store an image [H, W, C].

        Raises:
            UserError: The disk is full.
        """
        data = np.ascontiguousarray(image)
        try:
            os.pwrite(self._file.fileno(), data.tobytes(), self._end)
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: cannot store images of the test sets: {error.strerror}; "
                "set TMPDIR to a folder with more space"
            ) from error
        self._places[index] = _Place(self._end, data.shape, data.dtype)
        self._end += data.nbytes

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: Any) -> Any:
        """Read an image, or those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = self._places[index]
        if place is None:
            raise LookupError(f"image {index} was not stored")
        image = np.empty(place.shape, place.dtype)
        read = os.preadv(self._file.fileno(), [image.data.cast("B")], place.offset)
        if read != image.nbytes:
            raise OSError(f"image {index}: expected {image.nbytes} bytes, got {read}")
        return image
