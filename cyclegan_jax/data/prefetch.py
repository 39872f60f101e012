"""Batches on the devices before the update asks for them, and how long it had to wait."""

import concurrent.futures
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Batch = dict[str, np.ndarray]

# Deliveries made ready ahead, and those that may be in the devices' hands at a time. With one more
# than is worked on they are never idle; many more would fill their memory with images.
_AHEAD = 2
_IN_FLIGHT = 2


class Delivery(NamedTuple):
    """What is handed to the devices at a time.

    Attributes:
        step: the number of updates done after it.
        batch: of the last of its updates, as it came.
        placed: what `place` made of the batches of all its updates.
    """

    step: int
    batch: Batch
    placed: Any


class Feed(Iterator[Delivery]):
    """Takes batches from an iterator, ahead of the update, in a thread of its own.

    A delivery ends where its step is a multiple of `updates`, or with the run. So what a run hands
    over at a time does not depend on where it was stopped between.

        for step, batch, placed in feed:
            state, metrics = step_fn(state, placed)
            feed.follow(metrics)
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        place: Callable[[Sequence[Batch]], Any],
        *,
        start_step: int,
        updates: int = 1,
    ):
        """Begins to work.

        Args:
            batches: one for each update from `start_step` on; it stays the caller's to close.
            place: puts batches of consecutive updates onto the devices.
            start_step: updates done before.
            updates: how many are handed over at a time.
        """
        self._batches = batches
        self._place = place
        self._step = start_step
        self._updates = updates
        self._waited = 0.0
        self._running: deque[Any] = deque()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "feed")
        self._ahead = deque(self._thread.submit(self._prepare) for _ in range(_AHEAD))

    @property
    def waited(self) -> float:
        """Seconds so far in which the devices had nothing to do for want of images."""
        return self._waited

    def __next__(self) -> Delivery:
        coming = self._ahead.popleft() if self._ahead else None
        if coming is None:
            raise StopIteration
        if not coming.done():
            # Until they are through with what they have, the devices are not waiting.
            jax.block_until_ready(self._running)
            begin = time.monotonic()
            concurrent.futures.wait([coming])
            self._waited += time.monotonic() - begin
        delivery = coming.result()
        if delivery is None:
            self._ahead.clear()
            raise StopIteration
        self._ahead.append(self._thread.submit(self._prepare))
        return delivery

    def follow(self, results: Any) -> None:
        """Takes arrays that the devices will have when they are done with the last delivery.

        Returns when no more than that is left for them to do.
        """
        self._running.append(results)
        if len(self._running) >= _IN_FLIGHT:
            jax.block_until_ready(self._running.popleft())

    def close(self) -> None:
        """Ends the thread, once the batch it may be reading is there."""
        self._ahead.clear()
        self._thread.shutdown(cancel_futures=True)

    def _prepare(self) -> Delivery | None:
        count = self._updates - self._step % self._updates
        batches = list(itertools.islice(self._batches, count))
        if not batches:
            return None
        self._step += len(batches)
        return Delivery(self._step, batches[-1], self._place(batches))
