"""Memory of this process."""

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's function; None where the C library is another one."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def release_free_memory() -> None:
    """Give memory that the C library keeps for reuse back to the system, which takes 0.1 s.

    XLA's compiler leaves much of it: a GiB after the update of the quick start.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
