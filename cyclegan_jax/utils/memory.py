"""Memory of this process."""

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Start this program anew, as the same process, with memory in huge pages; on Linux only.

    XLA requests its working memory from the system for every call, in pages of 4 KiB that cost more
    than a third of the quick start's update. glibc asks for pages of 2 MiB instead if a variable
    says so when a process starts. Call this before imports that take time. Nothing happens if
    `GLIBC_TUNABLES` is set, which then applies as it is, or where there is nothing to gain.
    """
    if "GLIBC_TUNABLES" in os.environ or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):
        if "[never]" not in HUGE_PAGES.read_text():
            os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
            os.execv(sys.executable, sys.orig_argv)


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
