"""Stopping a run politely: the first signal asks, a second ctrl-C leaves at once."""

import functools
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

import jax
import numpy as np


class InterruptedRun(Exception):  # noqa: N818 - not an error: the run did as it was told
    """A run that saved its state and left, as a signal asked. `signum` is which."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """Context in which SIGINT and SIGTERM set `signum` instead of ending the process."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, object] = {}
        self._asked: jax.Array | None = None

    def __enter__(self) -> Self:
        # Python allows handlers in the main thread alone; elsewhere signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._ask)
        return self

    def agreed(self) -> int | None:
        """The signal that any process got, if one did: all get the same answer at the same call.

        With several processes it comes one call late, so that no device has to wait for the answer.
        All processes must call this equally often.
        """
        if jax.process_count() == 1:
            return self.signum
        before = self._asked
        own = np.full(jax.local_device_count(), self.signum or 0, np.int32)
        self._asked = _greatest(own)
        return None if before is None else int(np.max(before)) or None

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        # The system's own handler needs no Python to run, so it works in the middle of an update.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        name = signal.Signals(signum).name
        print(f"{name}: stopping after this update; ctrl-C leaves at once", file=sys.stderr)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]


@functools.partial(jax.pmap, axis_name="devices")
def _greatest(values: jax.Array) -> jax.Array:
    """The greatest value of all devices of all processes, for each."""
    return jax.lax.pmax(values, "devices")
