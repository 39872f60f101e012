"""Batches placed on the devices ahead of the update, and the time that it waits for them."""

import concurrent.futures
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Batch = dict[str, np.ndarray]

# Dispatches whose batches are placed ahead, and dispatches that the devices may have unfinished.
# One more than the devices work on keeps them busy; many more would fill their memory with images.
_AHEAD = 2
_UNFINISHED = 2
_POLL_SECONDS = 1e-3


class PlacedBatches(NamedTuple):
    """Input of one dispatch: the batches of consecutive updates.

    Attributes:
        step: Number of updates done after this dispatch.
        batch: Batch of the last update, on the host.
        placed: Result of `place` for the batches of all updates.
    """

    step: int
    batch: Batch
    placed: Any


class Prefetcher(Iterator[PlacedBatches]):
    """Iterator that reads and places batches ahead of the update, in a thread.

    A dispatch ends at each multiple of `updates_per_dispatch` and at the end of the run, so a
    resumed run groups its updates like an uninterrupted one.

        for step, batch, placed in prefetcher:
            state, metrics = step_fn(state, placed)
            prefetcher.track(metrics)

    Args:
        batches: Batches of the updates from `start_step` on; the caller closes it.
        place: Function that places the batches of consecutive updates on the devices.
        start_step: Number of updates done before.
        updates_per_dispatch: Number of updates whose batches are placed together.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        place: Callable[[Sequence[Batch]], Any],
        *,
        start_step: int,
        updates_per_dispatch: int = 1,
    ):
        self._batches = batches
        self._place = place
        self._step = start_step
        self._updates = updates_per_dispatch
        self._wait_seconds = 0.0
        self._unfinished: deque[Any] = deque()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "prefetch")
        self._ahead = deque(self._thread.submit(self._prepare) for _ in range(_AHEAD))

    @property
    def wait_seconds(self) -> float:
        """Seconds so far in which the devices were idle because batches were not ready."""
        return self._wait_seconds

    def __next__(self) -> PlacedBatches:
        if not self._ahead:
            raise StopIteration
        future = self._ahead.popleft()
        # The devices wait for batches only when they have finished all they were given.
        idle_since = None
        while not future.done():
            if idle_since is None and self._devices_idle():
                idle_since = time.monotonic()
            concurrent.futures.wait([future], _POLL_SECONDS)
        if idle_since is not None:
            self._wait_seconds += time.monotonic() - idle_since
        batches = future.result()
        if batches is None:
            self._ahead.clear()
            raise StopIteration
        self._ahead.append(self._thread.submit(self._prepare))
        return batches

    def track(self, results: Any) -> None:
        """Register the results of a dispatch; block while too many dispatches are unfinished.

        Args:
            results: Arrays that are ready when the dispatch is finished.
        """
        self._unfinished.append(results)
        if len(self._unfinished) >= _UNFINISHED:
            jax.block_until_ready(self._unfinished.popleft())

    def close(self) -> None:
        """End the thread, after the batch that it may be reading."""
        self._ahead.clear()
        self._thread.shutdown(cancel_futures=True)

    def _devices_idle(self) -> bool:
        return all(array.is_ready() for array in jax.tree.leaves(tuple(self._unfinished)))

    def _prepare(self) -> PlacedBatches | None:
        count = self._updates - self._step % self._updates
        batches = list(itertools.islice(self._batches, count))
        if not batches:
            return None
        self._step += len(batches)
        return PlacedBatches(self._step, batches[-1], self._place(batches))
