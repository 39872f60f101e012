"""Signals that stop a run."""

import hashlib
import io
import os
import signal
import sys
import threading
import time

import pytest

from cyclegan_jax.utils.interrupt import StopRequest


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_announced_while_the_main_thread_compiles(monkeypatch, signum):
    """The message does not wait for the end of a call into a library, such as XLA's compiler."""
    stderr, busy, seen = io.StringIO(), threading.Event(), []
    busy.set()

    def interrupt():
        time.sleep(0.1)  # the main thread is in the library by now
        os.kill(os.getpid(), signum)
        while busy.is_set() and not stderr.getvalue().endswith("at once\n"):
            pass
        seen.append((busy.is_set(), stderr.getvalue()))

    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(sys, "stderr", stderr)
    with StopRequest() as stop:
        thread = threading.Thread(target=interrupt)
        thread.start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**6)
        busy.clear()
        thread.join()
    name = signal.Signals(signum).name
    message = f"{name}: stopping after the compilation; ctrl-C again stops at once\n"
    assert seen == [(True, message)]
    assert stop.signum == stop.agreed() == signum
    assert {s: signal.getsignal(s) for s in before} == before


def test_hangups_that_are_ignored():
    """Under nohup a run goes on without its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)
