"""Batches for the update, made ready by Grain's threads, and fixed pictures for samples."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cyclegan_jax.data.pairs import PairOrder
from cyclegan_jax.data.pictures import Cache, PreparedPictures, SameSize
from cyclegan_jax.data.sources import Source
from cyclegan_jax.data.treatments import Treatment
from cyclegan_jax.errors import UserError

_LOG = logging.getLogger(__name__)


class TrainBatches(Iterator[dict[str, np.ndarray]]):
    """What `train_batches` returns: an iterator that owns threads.

    The threads end with the last batch, with an error, when it is closed (as a `with` block does
    at its end) and when it is dropped.
    """

    def __init__(self, batches: Any, pictures: Sequence[PreparedPictures]):
        self._batches = iter(batches)
        self._pictures = pictures
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
        """How many pictures were found unreadable so far (with `data.skip_unreadable`)."""
        return sum(pictures.skipped for pictures in self._pictures)

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

    The pairs of update s are those numbered from s * batch_size on; see `PairOrder` for which
    pictures they are. With `data.flip` pictures are mirrored with probability 1/2, each on its own,
    or with `data.flip_alike` both of a pair or neither. Order, crops and flips depend on
    (config.seed, number) alone, so a run that starts at any step goes on with exactly the rest,
    with any number of threads.

    Args:
      config: the configuration.
      source_a: pictures of domain A.
      source_b: pictures of domain B.
      start_step: the first update's number.
      num_steps: the number of updates in the whole run.
      process_index: which process this is.
      process_count: how many processes share each batch; this one gets rows
        [index * b, (index + 1) * b) with b = batch_size / process_count, and reads only those.

    Returns:
      An iterator of {"a": [b, H, W, Ca], "b": [b, H, W, Cb]}, uint8 or uint16 by
      `data.bit_depth`.

    Raises:
      UserError: at once where the configuration is wrong or headers tell that pictures do not
        fit it; from `next` where a picture cannot be read or does not fit, naming it.
    """
    # Here, for all else about pictures works where Grain is not installed.
    import grain

    data = config.data
    if config.batch_size % process_count:
        raise UserError(
            f"batch_size={config.batch_size}: expected a multiple of the {process_count} processes"
        )
    order = PairOrder(data, config.seed, len(source_a), len(source_b))
    pictures_a, pictures_b = _prepared(data, source_a, source_b)
    flip_alike = data.flip and data.flip_alike

    def load(pair: int) -> dict[str, np.ndarray]:
        index_a, index_b, rng = order[pair]
        a, b = pictures_a.augmented(index_a, rng), pictures_b.augmented(index_b, rng)
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
    return TrainBatches(batches, (pictures_a, pictures_b))


def _prepared(
    data: Any, source_a: Source, source_b: Source
) -> tuple[PreparedPictures, PreparedPictures]:
    """The training pictures of both domains, which share a cache and, without a crop, a size."""
    treatment_a, treatment_b = Treatment.from_config(data, "a"), Treatment.from_config(data, "b")
    shared = Cache(data.cache_gib), SameSize(treatment_a)
    skip = data.skip_unreadable
    return (
        PreparedPictures(source_a, treatment_a, *shared, "a", skip),
        PreparedPictures(source_b, treatment_b, *shared, "b", skip),
    )


def _stack(pairs: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Pictures of several pairs in one array for each domain."""
    return {domain: _stack_pictures([pair[domain] for pair in pairs]) for domain in "ab"}


def _stack_pictures(pictures: Sequence[np.ndarray]) -> np.ndarray:
    batch = np.empty((len(pictures), *pictures[0].shape), pictures[0].dtype)
    for row, picture in zip(batch, pictures, strict=True):
        if picture.strides[1] > 0:
            row[...] = picture
        else:  # mirrored; channel by channel NumPy is five times faster
            for channel in range(picture.shape[-1]):
                row[..., channel] = picture[..., channel]
    return batch


def picture_size(data: Any, source_a: Source, source_b: Source) -> tuple[int, int]:
    """Height and width of all training pictures, of both domains.

    Raises:
      UserError: the treatment makes them differ (as far as headers and the first pictures tell),
        or they are too small for the crop.
    """
    pictures_a, pictures_b = _prepared(data, source_a, source_b)
    if Treatment.from_config(data, "a").crops:
        return data.crop_size, data.crop_size
    height, width = pictures_a[0].shape[:2]
    pictures_b[0]  # compared with the other
    return height, width


def test_pictures(config: Any, source: Source, count: int, *, domain: str) -> np.ndarray:
    """The first pictures of a source with the test treatment; always the same.

    Args:
      config: the configuration.
      source: pictures of the domain.
      count: how many, at least 1; fewer come where the source has fewer.
      domain: a or b, which decides the number of channels.

    Returns:
      [n, H, W, C], uint8 or uint16 by `data.bit_depth`.

    Raises:
      UserError: a picture cannot be read (with `data.skip_unreadable` the next is taken), does
        not fit, or differs in size from the first.
    """
    same_size = SameSize(Treatment.from_config(config.data, domain))
    pictures: list[np.ndarray] = []
    for name, picture in treated_pictures(config, source, domain=domain):
        same_size.check(name, *picture.shape[:2])
        pictures.append(picture)
        if len(pictures) == count:
            break
    if not pictures:
        raise UserError(f"domain {domain.upper()}: none of its {len(source)} pictures can be read")
    return np.stack(pictures)


def treated_pictures(
    config: Any, source: Source, *, domain: str
) -> Iterator[tuple[str, np.ndarray]]:
    """The pictures of a source with the test treatment, each with its name.

    Args:
      config: the configuration.
      source: pictures of the domain.
      domain: a or b, which decides the number of channels.

    Yields:
      A name and [H, W, C], uint8 or uint16 by `data.bit_depth`.

    Raises:
      UserError: a picture cannot be read (with `data.skip_unreadable` it is left out) or does not
        fit.
    """
    treatment = Treatment.from_config(config.data, domain)
    for index in range(len(source)):
        name = source.name(index)
        try:
            picture = source[index]
        except UserError as error:
            if not config.data.skip_unreadable:
                raise
            _LOG.warning("skipped: %s", error)
            continue
        yield name, treatment.prepare_test(picture, name)
