"""Training batches of pairs, loaded ahead by Grain's threads."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cyclegan_jax.data.images import Cache, SameSize, TrainImages
from cyclegan_jax.data.sampler import IndependentSampler, Sampler
from cyclegan_jax.data.sources import Source
from cyclegan_jax.data.transforms import Transform
from cyclegan_jax.utils.errors import UserError


class TrainDataset:
    """The training images of both domains, in pairs and batches.

    Order, crops and flips depend on (seed, number of the pair) alone, so a run that starts at any
    step gets exactly the rest of the sequence, with any number of threads.

    Args:
        source_a: Images of domain A.
        source_b: Images of domain B.
        transform_a: Transform of domain A.
        transform_b: Transform of domain B.
        seed: Seed of order, crops and flips.
        batch_size: Pairs per update over all processes.
        pairing: An entry of `sampler.PAIRINGS`.
        epoch: An entry of `sampler.EPOCHS`.
        flip_pairs: Mirror both images of a pair or neither, with probability 1/2.
        skip_unreadable: Replace an unreadable image by the next readable one, with a warning.
        cache_gib: Memory for prepared images, in GiB.
        threads: Loading threads.
        prefetch_batches: Batches loaded ahead.

    Attributes:
        pairs_per_epoch: Number of pairs in an epoch.

    Raises:
        UserError: The headers show that a transform rejects an image, or that sizes differ.
    """

    def __init__(
        self,
        source_a: Source,
        source_b: Source,
        transform_a: Transform,
        transform_b: Transform,
        *,
        seed: int,
        batch_size: int,
        pairing: Callable[[int, int, int, int], Sampler] = IndependentSampler,
        epoch: Callable[[int, int], int] = max,
        flip_pairs: bool = False,
        skip_unreadable: bool = False,
        cache_gib: float = 4.0,
        threads: int = 4,
        prefetch_batches: int = 4,
    ):
        self.pairs_per_epoch = epoch(len(source_a), len(source_b))
        self._sampler = pairing(seed, len(source_a), len(source_b), self.pairs_per_epoch)
        self._output_size = transform_a.output_size
        shared = Cache(cache_gib), SameSize()
        self._images_a = TrainImages(source_a, transform_a, *shared, "a", skip_unreadable)
        self._images_b = TrainImages(source_b, transform_b, *shared, "b", skip_unreadable)
        self._batch_size = batch_size
        self._flip_pairs = flip_pairs
        self._threads = threads
        self._prefetch_batches = prefetch_batches

    @functools.cached_property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of all training images.

        Raises:
            UserError: The first images of A and B differ in size, or are unreadable.
        """
        if self._output_size is not None:
            return self._output_size
        height, width = self._images_a[0].shape[:2]
        self._images_b[0]  # compared in size with the first
        return height, width

    @property
    def skipped(self) -> int:
        """Number of images found unreadable so far (with `skip_unreadable`)."""
        return self._images_a.skipped + self._images_b.skipped

    def batches(
        self, start_step: int, num_steps: int, *, process_index: int = 0, process_count: int = 1
    ) -> "Batches":
        """Return the batches of updates `start_step` to `num_steps` - 1.

        The batch of update s has pairs s * batch_size to (s + 1) * batch_size - 1.

        Args:
            start_step: Number of the first update.
            num_steps: Number of updates in the whole run.
            process_index: Index of this process.
            process_count: Number of processes that share a batch. This one reads only its rows,
                [index * b, (index + 1) * b) with b = batch_size / process_count.

        Returns:
            An iterator of {"a": [b, H, W, Ca], "b": [b, H, W, Cb]}, uint8 or uint16, which raises
            UserError for an image that is unreadable or that the transform rejects.
        """
        # Imported here: everything else about images works without Grain.
        import grain

        if self._batch_size % process_count:
            raise UserError(
                f"batch_size: expected a multiple of the {process_count} processes, "
                f"got {self._batch_size}"
            )
        first, last = start_step * self._batch_size, num_steps * self._batch_size
        batches = (
            grain.MapDataset.range(first, max(first, last))
            .map(self._load)
            .batch(self._batch_size // process_count, batch_fn=_stack_pairs)
            .slice(slice(process_index, None, process_count))
            .to_iter_dataset(
                grain.ReadOptions(
                    num_threads=self._threads,
                    # A thread loads a whole batch, so fewer would leave threads idle.
                    prefetch_buffer_size=max(self._prefetch_batches, self._threads),
                )
            )
        )
        return Batches(batches)

    def _load(self, pair: int) -> dict[str, np.ndarray]:
        index_a, index_b, rng = self._sampler[pair]
        a, b = self._images_a.augmented(index_a, rng), self._images_b.augmented(index_b, rng)
        if self._flip_pairs and rng.random() < 0.5:
            a, b = a[:, ::-1], b[:, ::-1]
        return {"a": a, "b": b}


class Batches(Iterator[dict[str, np.ndarray]]):
    """Iterator of batches that owns threads, and is a context manager.

    The threads end with the last batch, with an error, and when the iterator is closed or dropped.
    """

    def __init__(self, batches: Any):
        self._batches = iter(batches)
        self._closed = False

    def __next__(self) -> dict[str, np.ndarray]:
        if self._closed:
            raise StopIteration
        try:
            return next(self._batches)
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """End the threads; no more batches follow."""
        self._closed = True
        self._batches.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _stack_pairs(pairs: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {domain: _stack([pair[domain] for pair in pairs]) for domain in "ab"}


def _stack(images: Sequence[np.ndarray]) -> np.ndarray:
    batch = np.empty((len(images), *images[0].shape), images[0].dtype)
    for row, image in zip(batch, images, strict=True):
        if image.strides[1] > 0:
            row[...] = image
        else:  # mirrored: NumPy copies it five times faster channel by channel
            for channel in range(image.shape[-1]):
                row[..., channel] = image[..., channel]
    return batch
