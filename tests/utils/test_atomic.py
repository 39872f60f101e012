"""Properties of atomic writes."""

import os
import threading

import pytest

from cyclegan_jax.utils.atomic import atomic_path, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_are_created_and_replaced(tmp_path):
    """Nothing but the file itself remains, with the permissions of any other new file."""
    path = tmp_path / "a.txt"
    write_text(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    write_text(path, "new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.txt"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_temporary_file_is_hidden_and_keeps_folder_and_suffix(tmp_path):
    """Other readers of the folder skip it, writers find the format, and the longest name fits."""
    path = tmp_path / f"{'x' * 251}.png"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"1")
        assert not path.exists()
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failing_block_changes_nothing(tmp_path, error, existing):
    """The old file stays, or none is made, and no temporary file remains."""
    path = tmp_path / "a.json"
    if existing:
        path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert names(tmp_path) == ["a.json"] * existing
    assert not existing or path.read_text() == "old"


def test_a_block_that_writes_nothing_fails(tmp_path):
    """An existing file is not lost to it."""
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert path.read_text() == "old"


def test_a_failing_rename_leaves_no_temporary_file(tmp_path):
    """As where a folder has the name."""
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        write_text(tmp_path / "a", "text")
    assert names(tmp_path) == ["a"]


def test_contents_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    """The complete file is synchronised while the old one still has the name."""
    path, synced = tmp_path / "a", []

    def fsync(descriptor):
        synced.append((os.fstat(descriptor).st_size, path.read_text()))

    path.write_text("old")
    monkeypatch.setattr(os, "fsync", fsync)
    write_text(path, "new text")
    assert synced == [(8, "old")]
    assert path.read_text() == "new text"


def test_concurrent_writers_do_not_mix(tmp_path):
    """Blocks of two threads overlap; the file is the one that was finished last, complete."""
    path = tmp_path / "a.txt"
    both = threading.Barrier(2, timeout=30)
    first_done = threading.Event()

    def write(text, *, first):
        with atomic_path(path) as temporary:
            temporary.write_text(text[:5])
            both.wait()
            temporary.write_text(text)
            assert first or first_done.wait(30)
        if first:
            assert path.read_text() == text
            first_done.set()

    threads = [
        threading.Thread(target=write, args=(text * 1000,), kwargs={"first": first})
        for text, first in (("one", True), ("two", False))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "two" * 1000
    assert names(tmp_path) == ["a.txt"]
