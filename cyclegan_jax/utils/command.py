"""What the programs share as commands: one line for a mistake, and an exit code that tells it."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax

from cyclegan_jax.utils.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message}; see {self.prog} --help")


def path(text: str) -> Path:
    """An argument that names a file or a folder; the shell leaves the ~ of --output=~/x to us."""
    return Path(text).expanduser()


def run(main: Callable[[], None], out_of_memory: str) -> None:
    """Runs a program's `main` and leaves with an error's line instead of a traceback.

    Args:
        main: raises UserError for mistakes of the user's.
        out_of_memory: what to say where the device has not enough.
    """
    # Leaves as ctrl-C does: files are finished or not there.
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
    """Whether the device's memory, or the host's, did not suffice."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
