"""Atomic file writes: a reader sees the old file or the new one, never a part of it."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

# Prefix of the names of temporary files, which a process that is killed leaves behind.
TEMPORARY = ".tmp-"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Provide a temporary path whose file takes the place of `path` when the block succeeds.

    The temporary file lies beside `path`, since renames are atomic only within a file system. Its
    name starts with a dot, so that folders of images skip it, keeps the suffix, which writers take
    the format from, and is unique, so that threads, processes and hosts may write one file at once.

        with atomic_path("scores.npy") as temporary:
            np.save(temporary, scores)

    Args:
        path: The file to create or replace, in a folder that exists.

    Yields:
        The temporary path, which the block must write. It is removed where the block fails.

    Raises:
        OSError: The file cannot be synchronised or renamed.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            # Without it a power failure may leave the new name with an empty file.
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it must not hide the error of the block
            temporary.unlink()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
