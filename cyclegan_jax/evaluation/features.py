"""Inception features of images, cached on disk for test sets."""

import hashlib
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from cyclegan_jax.evaluation.image_sets import ImageSet
from cyclegan_jax.evaluation.inception import FEATURES, SIDE, Inception
from cyclegan_jax.evaluation.inception_weights import checksum, load_weights
from cyclegan_jax.utils.atomic import atomic_path
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import to_8_bits

# Part of the keys of cached features; must be raised when the features of an image change.
_VERSION = 1


class FeatureExtractor(Protocol):
    """Function from images to features.

    Attributes:
        checksum: Text that differs between extractors that compute different features.
    """

    checksum: str

    def __call__(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield features [n, d] of the next n images."""


class Extractor:
    """The Inception network with its weights, compiled on the first call.

    Args:
        weights: File in the format of the published weights.
        batch_size: Images per call of the network.

    Attributes:
        checksum: SHA-256 of the file.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """

    def __init__(self, weights: Path, batch_size: int = 16) -> None:
        self.checksum = checksum(weights)
        self._params = jax.device_put(load_weights(weights))
        self._batch_size = batch_size
        network = Inception()
        self._apply = jax.jit(lambda params, x: network.apply({"params": params}, x))

    def __call__(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Compute the features of images of any sizes, in order.

        Args:
            images: Arrays [H, W, C] of uint8 or uint16. Grey images count as three equal channels;
                alpha is dropped.

        Yields:
            Float32 [n, 2048] of the next n images, n at most the batch size.
        """
        prepared = map(prepare, images)
        while batch := list(itertools.islice(prepared, self._batch_size)):
            # Padded to full size, so that the network is compiled once.
            x = np.zeros((self._batch_size, SIDE, SIDE, 3), np.float32)
            x[: len(batch)] = batch
            # The default precision of GPUs rounds the factors of products to 10 bits.
            with jax.default_matmul_precision("highest"):
                features = self._apply(self._params, x)
            yield np.asarray(features)[: len(batch)]


def prepare(image: np.ndarray) -> np.ndarray:
    """Resize and scale an image for the network as the published evaluations do.

    Args:
        image: uint8 or uint16 [H, W, C].

    Returns:
        Float32 [299, 299, 3] in [-1, 1]; bilinear without antialiasing.
    """
    image = to_8_bits(image)
    colours = image[..., :3] if image.shape[-1] >= 3 else image[..., [0, 0, 0]]
    x = _resize(_resize(colours, 1) / np.float32(255), 0)
    return 2 * x - 1


def _resize(x: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate linearly to `SIDE` values along an axis, in float32."""
    size = x.shape[axis]
    # PyTorch rounds the scale to float32, and then every position.
    scale = float(np.float32(size) / np.float32(SIDE))
    position = np.maximum((np.arange(SIDE) + 0.5) * scale - 0.5, 0).astype(np.float32)
    lower = position.astype(np.int64)
    upper = np.minimum(lower + 1, size - 1)
    weight = np.expand_dims((position - lower).astype(np.float32), tuple({0, 1, 2} - {axis}))
    return x.take(lower, axis) * (1 - weight) + x.take(upper, axis) * weight


class Features:
    """Features of image sets, computed once per set.

    Args:
        extractor: Extractor of the features.
        folder: Folder in which features of test sets are cached.
    """

    def __init__(self, extractor: FeatureExtractor, folder: Path) -> None:
        self._extractor = extractor
        self._folder = folder
        self._computed: weakref.WeakKeyDictionary[ImageSet, np.ndarray] = (
            weakref.WeakKeyDictionary()
        )

    def of_test_set(self, images: ImageSet) -> np.ndarray:
        """Return features [N, d], cached on disk; UserError if the folder cannot be written."""
        return self._once(
            images, lambda: cached_features(self._extractor, images.images, self._folder)
        )

    def of(self, images: ImageSet) -> np.ndarray:
        """Return features [N, d], cached as long as the set exists."""
        return self._once(images, lambda: np.concatenate(list(self._extractor(images.images))))

    def _once(self, images: ImageSet, compute: Callable[[], np.ndarray]) -> np.ndarray:
        if images not in self._computed:
            self._computed[images] = compute()
        return self._computed[images]


def cached_features(
    extractor: FeatureExtractor, images: Sequence[np.ndarray], folder: Path
) -> np.ndarray:
    """Compute features of a set, or read them from a file if they were computed before.

    The file's name depends on the pixels and the weights, not on the names of images.

    Args:
        extractor: Extractor of the features.
        images: Images [H, W, C] of uint8 or uint16.
        folder: Folder of `features-KEY.npy`, created if missing.

    Returns:
        Float32 [N, 2048].

    Raises:
        UserError: The folder cannot be written.
    """
    path = folder / f"features-{_key(extractor, images)}.npy"
    try:
        features = np.load(path, allow_pickle=False)
        if features.shape == (len(images), FEATURES) and features.dtype == np.float32:
            return features
    except (OSError, ValueError, EOFError):
        pass  # missing or damaged
    features = np.concatenate([np.zeros((0, FEATURES), np.float32), *extractor(images)])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            np.save(temporary, features)
    except OSError as error:
        raise UserError(
            f"{folder}: features cannot be cached there: {error.strerror or error}"
        ) from error
    return features


def _key(extractor: FeatureExtractor, images: Sequence[np.ndarray]) -> str:
    """Return 32 hexadecimal digits that depend on all images, their order and the weights."""
    digest = hashlib.sha256(f"{_VERSION} {extractor.checksum}".encode())
    for image in images:
        digest.update(f"{image.dtype.str} {image.shape}".encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]
