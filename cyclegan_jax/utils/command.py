"""Command lines that report a user's mistakes in one line and with an exit code."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax

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
    # Unwinds as ctrl-C does, so that unfinished files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except jax.errors.JaxRuntimeError as error:
        if not lacks_memory(error):
            raise
        sys.exit(f"error: {out_of_memory}")


def lacks_memory(error: Exception) -> bool:
    """Return whether an error of JAX says that memory of the device or host is exhausted."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
