"""Command lines that report a user's mistakes in one line and with an exit code."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax

from cyclegan_jax.utils.compilation_cache import keep_compiled_programs
from cyclegan_jax.utils.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UserError instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}; see {self.prog} --help")


def path(text: str) -> Path:
    """Convert an argument to a path; the shell does not expand the ~ of --output=~/x."""
    return Path(text).expanduser()


def run(main: Callable[[], None], out_of_memory: str) -> None:
    """Run a program and exit with one line instead of a traceback for expected errors.

    Args:
        main: The program; raises UserError for a user's mistakes.
        out_of_memory: The message for an exhausted device.
    """
    # Ends the process at once while modules are imported, see cyclegan_jax/__init__.py.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) != signal.SIG_IGN:  # as under nohup
            # Unwinds as ctrl-C does, so that unfinished files are removed.
            signal.signal(signum, lambda signum, _: sys.exit(128 + signum))
    keep_compiled_programs()
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        leave(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of standard output has enough, as head does
        leave(128 + signal.SIGPIPE)
    except SystemExit as stop:
        if isinstance(stop.code, int) and stop.code > 128:
            leave(stop.code)
        raise
    except jax.errors.JaxRuntimeError as error:
        if not lacks_memory(error):
            raise
        sys.exit(f"error: {out_of_memory}")


def leave(code: int) -> NoReturn:
    """Exit in the middle of a computation.

    The interpreter's own end frees what threads of JAX and TensorFlow still use, and often crashes.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def lacks_memory(error: Exception) -> bool:
    """Return whether an error of JAX says that memory of the device or host is exhausted."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
