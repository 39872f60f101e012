"""Images as the features that distances between sets compare, kept on disk where asked for."""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from cyclegan_jax.evaluation.inception import FEATURES, SIDE, Inception
from cyclegan_jax.evaluation.inception_weights import checksum, load_weights
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import to_8_bits

# Part of the keys of kept features; to be raised with every change of what images give.
_VERSION = 1


class Images(Protocol):
    """Images by number: a list, or a source of `cyclegan_jax.data`."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> np.ndarray:
        """The image, uint8 or uint16 [H, W, C]."""


class Extractor:
    """The Inception network with its weights; compiled at the first use.

    Attributes:
        checksum: SHA-256 of the file of weights.
    """

    def __init__(self, weights: Path, batch_size: int = 16) -> None:
        """Loads the weights; UserError where the file is not one of them.

        Args:
            weights: a file in the format of the published ones.
            batch_size: images at a time.
        """
        self.checksum = checksum(weights)
        self._params = jax.device_put(load_weights(weights))
        self._batch_size = batch_size
        network = Inception()
        self._apply = jax.jit(lambda params, x: network.apply({"params": params}, x))

    def __call__(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Features of images of any sizes, in their order.

        Args:
            images: uint8 or uint16 [H, W, C]; grey is taken for three equal channels, alpha is
                left out.

        Yields:
            Float32 [n, 2048] for the next n images, n at most the batch size.
        """
        prepared = map(prepare, images)
        while batch := list(itertools.islice(prepared, self._batch_size)):
            # A shorter one would be compiled for.
            x = np.zeros((self._batch_size, SIDE, SIDE, 3), np.float32)
            x[: len(batch)] = batch
            # GPUs would otherwise round the factors of products to 10 bits.
            with jax.default_matmul_precision("highest"):
                features = self._apply(self._params, x)
            yield np.asarray(features)[: len(batch)]


def prepare(image: np.ndarray) -> np.ndarray:
    """What the network is given for an image, as the published evaluations have it.

    Args:
        image: uint8 or uint16 [H, W, C].

    Returns:
        Float32 [299, 299, 3] in [-1, 1], resized in [0, 1] between the two nearest pixels of each
        direction, without a filter against aliasing.
    """
    image = to_8_bits(image)
    colours = image[..., :3] if image.shape[-1] >= 3 else image[..., [0, 0, 0]]
    x = _resized(_resized(colours, 1) / np.float32(255), 0)
    return 2 * x - 1


def _resized(x: np.ndarray, axis: int) -> np.ndarray:
    """Float32, `SIDE` values along an axis instead of any number of them."""
    size = x.shape[axis]
    # PyTorch rounds the scale to float32, and then every place.
    scale = float(np.float32(size) / np.float32(SIDE))
    place = np.maximum((np.arange(SIDE) + 0.5) * scale - 0.5, 0).astype(np.float32)
    before = place.astype(np.int64)
    after = np.minimum(before + 1, size - 1)
    share = np.expand_dims((place - before).astype(np.float32), tuple({0, 1, 2} - {axis}))
    return x.take(before, axis) * (1 - share) + x.take(after, axis) * share


def kept_features(extractor: Extractor, images: Images, folder: Path) -> np.ndarray:
    """Features of a set, read from a folder where they were computed before.

    They are known by what the images show and by the weights, whatever the files are called.

    Args:
        extractor: of the features.
        images: the set; read once to know it, once more if its features are not there.
        folder: for `features-KEY.npy`; made where there is none.

    Returns:
        Float32 [N, 2048].

    Raises:
        UserError: an image cannot be read, or the folder not be written to.
    """
    path = folder / f"features-{_key(extractor, images)}.npy"
    try:
        kept = np.load(path, allow_pickle=False)
        if kept.shape == (len(images), FEATURES) and kept.dtype == np.float32:
            return kept
    except (OSError, ValueError, EOFError):
        pass  # none there, or a damaged one
    batches = extractor(images[i] for i in range(len(images)))
    features = np.concatenate([np.zeros((0, FEATURES), np.float32), *batches])
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.npy")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            np.save(temporary, features)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: features cannot be kept there: {error.strerror or error}"
        ) from error
    return features


def _key(extractor: Extractor, images: Images) -> str:
    """32 hexadecimal digits that depend on all images, their order and the weights."""
    digest = hashlib.sha256(f"{_VERSION} {extractor.checksum}".encode())
    for i in range(len(images)):
        image = images[i]
        digest.update(f"{image.dtype.str} {image.shape}".encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]
