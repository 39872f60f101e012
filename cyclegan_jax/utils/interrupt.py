"""Signals that stop a run after the current update; a second ctrl-C ends it at once."""

import contextlib
import functools
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

import jax
import numpy as np


class InterruptedRun(Exception):  # noqa: N818 - not an error: the run stopped as requested
    """A run that saved its state and stopped on a signal.

    Attributes:
        signum: The signal's number.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """Context in which signals to stop are recorded instead of ending the process.

    They are SIGINT, SIGTERM and, unless it is ignored as under nohup, SIGHUP.

    Attributes:
        signum: The signal that this process received, None before.
        current: What the run finishes before it stops, for the message.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.current = "the compilation"
        self._previous: dict[int, object] = {}
        self._pending: jax.Array | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        # Python allows handlers in the main thread only; other threads leave signals as they are.
        if threading.current_thread() is threading.main_thread():
            self._listen()
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                    self._previous[signum] = signal.signal(signum, self._record)
        return self

    def agreed(self) -> int | None:
        """Return the signal that any process received, the same in all processes.

        All processes must call this equally often. With several of them a signal is returned one
        call late, so that no device waits for the others' answers.
        """
        if jax.process_count() == 1:
            return self.signum
        previous = self._pending
        own = np.full(jax.local_device_count(), self.signum or 0, np.int32)
        self._pending = _maximum(own)
        return None if previous is None else int(np.max(previous)) or None

    def _listen(self) -> None:
        """Start the thread that announces signals.

        Python runs handlers between instructions of the main thread, which may be minutes later
        when that one compiles.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._announce, args=(reader,), daemon=True)
        thread.start()
        self._stack.callback(os.close, reader)
        self._stack.callback(thread.join)
        self._stack.callback(os.close, writer)  # ends the thread
        self._stack.callback(signal.set_wakeup_fd, previous)

    def _announce(self, reader: int) -> None:
        stopping = False
        while received := os.read(reader, 1):
            signum = received[0]
            if signum == signal.SIGINT and stopping:
                os._exit(128 + signum)
            if signum in self._previous:
                self.signum, stopping = signum, True
                name = signal.Signals(signum).name
                with contextlib.suppress(OSError):  # the terminal may be gone
                    print(
                        f"{name}: stopping after {self.current}; ctrl-C again stops at once",
                        file=sys.stderr,
                        flush=True,
                    )

    def _record(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        # The default handler needs no Python code to run, so it works in the middle of an update.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._stack.close()


@functools.partial(jax.pmap, axis_name="devices")
def _maximum(values: jax.Array) -> jax.Array:
    """Return the maximum over the devices of all processes, on each."""
    return jax.lax.pmax(values, "devices")
