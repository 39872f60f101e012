"""Images in a temporary file: sets of any size in little memory."""

import math
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

        Raises:
            UserError: No file can be created.
        """
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _refusal(error) from error
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
            UserError: It cannot be written, for example because the disk is full.
        """
        pixels = memoryview(np.ascontiguousarray(image).tobytes())
        written = 0
        try:
            while written < len(pixels):  # a disk that is nearly full takes a part
                written += os.pwrite(self._file.fileno(), pixels[written:], self._end + written)
        except OSError as error:
            raise _refusal(error) from error
        self._places[index] = _Place(self._end, image.shape, image.dtype)
        self._end += written

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
        size = math.prod(place.shape) * place.dtype.itemsize
        pixels = bytearray(os.pread(self._file.fileno(), size, place.offset))
        return np.frombuffer(pixels, place.dtype).reshape(place.shape)


def _refusal(error: OSError) -> UserError:
    folder = tempfile.tempdir or os.environ.get("TMPDIR", "/tmp")
    return UserError(
        f"{folder}: cannot store images of the test sets: {error.strerror}; set TMPDIR to a folder "
        "with more space"
    )
