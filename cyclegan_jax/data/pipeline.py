"""Batches for the update, made ready by Grain's threads, and fixed images for samples."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cyclegan_jax.data.dataset import Cache, ImageDataset, SameSize
from cyclegan_jax.data.sampler import PairSampler
from cyclegan_jax.data.sources import Source
from cyclegan_jax.data.transforms import Transform
from cyclegan_jax.utils.errors import UserError

_LOG = logging.getLogger(__name__)


class TrainBatches(Iterator[dict[str, np.ndarray]]):
    """What `train_batches` returns: an iterator that owns threads.

    The threads end with the last batch, with an error, when it is closed (as a `with` block does
    at its end) and when it is dropped.
    """

    def __init__(self, batches: Any, images: Sequence[ImageDataset]):
        self._batches = iter(batches)
        self._images = images
        self._closed = False

    def __next__(self) -> dict[str, np.ndarray]:
        if self._closed:
            raise StopIteration
        try:
            return next(self._batches)
        except Exception:
            self.close()
            raise

    @property
    def skipped(self) -> int:
        """How many images were found unreadable so far (with `data.skip_unreadable`)."""
        return sum(images.skipped for images in self._images)

    def close(self) -> None:
        """Ends the threads; there are no batches afterwards."""
        self._closed = True
        self._batches.close()

    def __enter__(self) -> "TrainBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def train_batches(
    config: Any,
    source_a: Source,
    source_b: Source,
    *,
    start_step: int,
    num_steps: int,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainBatches:
    """The batches of updates `start_step` to `num_steps` - 1.

    The pairs of update s are those numbered from s * batch_size on; see `PairSampler` for which
    images they are. With `data.flip` images are mirrored with probability 1/2, each on its own,
    or with `data.flip_alike` both of a pair or neither. Order, crops and flips depend on
    (config.seed, number) alone, so a run that starts at any step goes on with exactly the rest,
    with any number of threads.

    Args:
      config: the configuration.
      source_a: images of domain A.
      source_b: images of domain B.
      start_step: the first update's number.
      num_steps: the number of updates in the whole run.
      process_index: which process this is.
      process_count: how many processes share each batch; this one gets rows
        [index * b, (index + 1) * b) with b = batch_size / process_count, and reads only those.

    Returns:
      An iterator of {"a": [b, H, W, Ca], "b": [b, H, W, Cb]}, uint8 or uint16 by
      `data.bit_depth`.

    Raises:
      UserError: at once where the configuration is wrong or headers tell that images do not
        fit it; from `next` where an image cannot be read or does not fit, naming it.
    """
    # Here, for all else about images works where Grain is not installed.
    import grain

    data = config.data
    if config.batch_size % process_count:
        raise UserError(
            f"batch_size={config.batch_size}: expected a multiple of the {process_count} processes"
        )
    order = PairSampler(data, config.seed, len(source_a), len(source_b))
    images_a, images_b = _prepared(data, source_a, source_b)
    flip_alike = data.flip and data.flip_alike

    def load(pair: int) -> dict[str, np.ndarray]:
        index_a, index_b, rng = order[pair]
        a, b = images_a.augmented(index_a, rng), images_b.augmented(index_b, rng)
        if flip_alike and rng.random() < 0.5:
            a, b = a[:, ::-1], b[:, ::-1]
        return {"a": a, "b": b}

    first, last = start_step * config.batch_size, num_steps * config.batch_size
    batches = (
        grain.MapDataset.range(first, max(first, last))
        .map(load)
        .batch(config.batch_size // process_count, batch_fn=_stack)
        .slice(slice(process_index, None, process_count))
        .to_iter_dataset(
            grain.ReadOptions(
                num_threads=data.threads,
                # A thread makes a whole batch, and each should have one to make.
                prefetch_buffer_size=max(data.prefetch_batches, data.threads),
            )
        )
    )
    return TrainBatches(batches, (images_a, images_b))


def _prepared(data: Any, source_a: Source, source_b: Source) -> tuple[ImageDataset, ImageDataset]:
    """The training images of both domains, which share a cache and, without a crop, a size."""
    transform_a, transform_b = Transform.from_config(data, "a"), Transform.from_config(data, "b")
    shared = Cache(data.cache_gib), SameSize(transform_a)
    skip = data.skip_unreadable
    return (
        ImageDataset(source_a, transform_a, *shared, "a", skip),
        ImageDataset(source_b, transform_b, *shared, "b", skip),
    )


def _stack(pairs: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Images of several pairs in one array for each domain."""
    return {domain: _stack_images([pair[domain] for pair in pairs]) for domain in "ab"}


def _stack_images(images: Sequence[np.ndarray]) -> np.ndarray:
    batch = np.empty((len(images), *images[0].shape), images[0].dtype)
    for row, image in zip(batch, images, strict=True):
        if image.strides[1] > 0:
            row[...] = image
        else:  # mirrored; channel by channel NumPy is five times faster
            for channel in range(image.shape[-1]):
                row[..., channel] = image[..., channel]
    return batch


def image_size(data: Any, source_a: Source, source_b: Source) -> tuple[int, int]:
    """Height and width of all training images, of both domains.

    Raises:
      UserError: the transform makes them differ (as far as headers and the first images tell),
        or they are too small for the crop.
    """
    images_a, images_b = _prepared(data, source_a, source_b)
    if Transform.from_config(data, "a").crops:
        return data.crop_size, data.crop_size
    height, width = images_a[0].shape[:2]
    images_b[0]  # compared with the other
    return height, width


def test_images(config: Any, source: Source, count: int, *, domain: str) -> np.ndarray:
    """The first images of a source with the test transform; always the same.

    Args:
      config: the configuration.
      source: images of the domain.
      count: how many, at least 1; fewer come where the source has fewer.
      domain: a or b, which decides the number of channels.

    Returns:
      [n, H, W, C], uint8 or uint16 by `data.bit_depth`.

    Raises:
      UserError: an image cannot be read (with `data.skip_unreadable` the next is taken), does
        not fit, or differs in size from the first.
    """
    same_size = SameSize(Transform.from_config(config.data, domain))
    images: list[np.ndarray] = []
    for name, image in transformed_images(config, source, domain=domain):
        same_size.check(name, *image.shape[:2])
        images.append(image)
        if len(images) == count:
            break
    if not images:
        raise UserError(f"domain {domain.upper()}: none of its {len(source)} images can be read")
    return np.stack(images)


def transformed_images(
    config: Any, source: Source, *, domain: str
) -> Iterator[tuple[str, np.ndarray]]:
    """The images of a source with the test transform, each with its name.

    Args:
      config: the configuration.
      source: images of the domain.
      domain: a or b, which decides the number of channels.

    Yields:
      A name and [H, W, C], uint8 or uint16 by `data.bit_depth`.

    Raises:
      UserError: an image cannot be read (with `data.skip_unreadable` it is left out) or does not
        fit.
    """
    transform = Transform.from_config(config.data, domain)
    for index in range(len(source)):
        name = source.name(index)
        try:
            image = source[index]
        except UserError as error:
            if not config.data.skip_unreadable:
                raise
            _LOG.warning("skipped: %s", error)
            continue
        yield name, transform.prepare_test(image, name)
