"""Memory that a library has freed goes back to the system."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_other_c_libraries(monkeypatch):
    """Without glibc nothing happens."""
    from cyclegan_jax.utils import memory

    memory._malloc_trim.cache_clear()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.release_free_memory()
    memory._malloc_trim.cache_clear()
