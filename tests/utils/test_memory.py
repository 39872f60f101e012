"""Memory that a library has freed goes back to the system."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cyclegan_jax.utils import memory

ROOT = Path(__file__).parents[2]

PROGRAM = """
import ctypes
from cyclegan_jax.utils.memory import release_free_memory

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
# 96 MiB of small blocks, of which the last stays: the heap cannot shrink.
blocks = [libc.malloc(ctypes.c_size_t(2000)) for _ in range(50_000)]
for block in blocks:
    ctypes.memset(block, 1, 2000)
for block in blocks[:-1]:
    libc.free(ctypes.c_void_p(block))
before = resident()
release_free_memory()
print(before - resident())
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim"
)
def test_free_memory_is_released():
    """Of 96 MiB in the middle of the heap that are free, most go."""
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert float(ended.stdout) > 80


FAULTS = """
import os, resource, sys
pid = os.getpid()
from cyclegan_jax.utils.memory import use_huge_pages
use_huge_pages()
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
ctypes.memset(libc.malloc(ctypes.c_size_t(64 * 2**20)), 1, 64 * 2**20)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
same = pid == int(sys.argv[1])
print(faults, same, sys.argv[2:], sys.flags.optimize, os.environ["GLIBC_TUNABLES"])
"""


def run_with_huge_pages(tmp_path, **environment):
    """Run `FAULTS` with arguments; return the words that it prints."""
    (tmp_path / "program.py").write_text(FAULTS)
    shell = f"exec {sys.executable} -O {tmp_path / 'program.py'} $$ a 'b c'"
    variables = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | environment
    variables["PYTHONPATH"] = str(ROOT)
    command = ["bash", "-c", shell]
    ended = subprocess.run(command, env=variables, capture_output=True, check=True, text=True)
    return ended.stdout


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or not memory.HUGE_PAGES.exists()
    or "[never]" in memory.HUGE_PAGES.read_text(),
    reason="neither glibc nor huge pages",
)
def test_huge_pages(tmp_path):
    """The program starts anew in its process, as it was, and 64 MiB are 32 pages, not 16,384."""
    printed = run_with_huge_pages(tmp_path)
    faults, rest = printed.split(maxsplit=1)
    assert int(faults) < 1000
    assert rest == "True ['a', 'b c'] 1 glibc.malloc.hugetlb=1\n"


def test_settings_of_the_user_stay(tmp_path):
    """Nothing happens to a program with settings of its own."""
    printed = run_with_huge_pages(tmp_path, GLIBC_TUNABLES="glibc.malloc.check=0")
    assert printed.endswith("True ['a', 'b c'] 1 glibc.malloc.check=0\n")


def test_other_c_libraries(monkeypatch):
    """Without glibc nothing happens."""
    memory._malloc_trim.cache_clear()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.release_free_memory()
    memory._malloc_trim.cache_clear()
