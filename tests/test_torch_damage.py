"""Files of PyTorch that are damaged, lie or would call something: one line, and nothing called."""

import os
import pickle
import random
import zipfile
from typing import Any

import numpy as np
import pytest

from cyclegan_jax.torch_weights.files import read_tensors
from cyclegan_jax.utils.errors import UserError
from tests.torch_written import FORMATS, STORED, python2_file, refusal, repacked, save, written


class Command:
    """Pickled as a call of `os.system`."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


@FORMATS
def test_functions_are_refused_and_not_called(tmp_path, zipped):
    """What a file refers to is named, be it a command, a function, or a class of PyTorch's."""
    torch = pytest.importorskip("torch")
    mark = tmp_path / "called"
    path = save(tmp_path / "x.pth", {"a": torch.ones(2), "b": Command(f"touch {mark}")}, zipped)
    assert "refers to posix.system" in refusal(path)
    for value, name in (
        ({"a": torch.ones(2), "b": print}, "__builtin__.print"),
        ({"a": torch.ones(2), "b": np.ones(2)}, "numpy"),
        (torch.nn.Conv2d(1, 1, 1), "torch.nn.modules.conv.Conv2d"),
        ({"a": torch.ones(2).to_sparse()}, "torch._utils._rebuild_sparse_tensor"),
    ):
        assert f"refers to {name}" in refusal(save(tmp_path / "x.pth", value, zipped))
    path = written(tmp_path / "x.pth", pickle.dumps(Command(f"touch {mark}"), 2))
    assert "refers to posix.system" in refusal(path)
    assert not mark.exists()


@pytest.mark.parametrize("path", STORED, ids=["zip", "legacy"])
def test_functions_are_refused_in_stored_files(tmp_path, path):
    """Without PyTorch: the name of a function that builds a tensor is exchanged for another."""

    def change(name: str, content: bytes) -> bytes:
        return content.replace(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cbuiltins\nexec\n")

    zipped = path.name.endswith("zip.pth")
    evil = repacked(path, change) if zipped else change("", path.read_bytes())
    assert "refers to builtins.exec" in refusal(written(tmp_path / "x.pth", evil))


@pytest.mark.parametrize("path", STORED, ids=["zip", "legacy"])
def test_cut_off_files(tmp_path, path):
    """A file that ends early is refused wherever it ends."""
    content = path.read_bytes()
    for length in [*range(0, len(content), 97), *range(len(content) - 40, len(content))]:
        refusal(written(tmp_path / "x.pth", content[:length]))


@pytest.mark.parametrize("path", STORED, ids=["zip", "legacy"])
def test_garbled_files(tmp_path, path):
    """Whatever bytes change, there are arrays or one line, and nothing is called."""
    content, draw = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(400):
        garbled = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            garbled[draw.randrange(len(content))] = draw.randrange(256)
        # Python's zip archives have checksums of all parts, which would hide the pickle.
        if path.name.endswith("zip.pth"):
            seed = draw.random()
            garbled = repacked(path, lambda name, x, seed=seed: flipped(name, x, seed))
        try:
            read_tensors(written(tmp_path / "x.pth", bytes(garbled)))
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 50 < refused < 400


def flipped(name: str, content: bytes, seed: float) -> bytes:
    if not name.endswith("data.pkl"):
        return content
    draw, garbled = random.Random(seed), bytearray(content)
    garbled[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(garbled)


def test_what_is_no_file_of_torchs(tmp_path):
    """A folder, nothing, an empty file, text, another pickle, another archive: each by its name."""
    assert "Is a directory" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "nothing.pth")
    assert "an empty file" in refusal(written(tmp_path / "x.pth", b""))
    for content in (b"<!DOCTYPE html>\n" * 99, pickle.dumps({"a": 1}), bytes(5000)):
        assert "not a .pth file" in refusal(written(tmp_path / "x.pth", content))
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("word/document.xml", "text")
    assert "a zip archive, but not" in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": (4,)},
        {"offset": -1},
        {"offset": 2**62},
        {"shape": (2**62,)},
        {"shape": (3, 2), "strides": (1, 2**62)},
        {"shape": (2, 2), "strides": (-1, 1)},
        {"shape": (2**40,), "strides": (0,)},
        {"shape": (1,) * 80, "strides": (0,) * 80, "offset": 0},
        {"shape": (2,), "strides": (1, 1)},
        {"numel": 2**50, "length": 2**50, "shape": (2**50,)},
        {"numel": 5, "length": 5},
        {"numel": 3},
        {"length": 2**62},
        {"view": b"(U\x018K\x03K\x02t"},
        {"kind": b"module"},
    ],
    ids=str,
)
def test_sizes_that_the_file_has_not(tmp_path, lie):
    """Shapes, strides, offsets and lengths beyond the numbers there are."""
    assert "damaged" in refusal(written(tmp_path / "x.pth", python2_file(**lie)))


def test_deep_and_dense_pickles(tmp_path):
    """Nesting without end, a memo far away and keys that are no words do no harm."""
    magic = python2_file()[:21]
    system = b"\x80\x02}U\x0dlittle_endian\x88s."
    for program in (
        b"]" + b"\x85" * 200_000,
        b"]r\xff\xff\xff\xff",
        b"}" + b")" + b"\x85" * 200_000 + b"Ns",
        b"}X\xff\xff\xff\xff",
        b")t)t(tt",
    ):
        content = magic + system + b"\x80\x02" + program + b".\x80\x02]."
        refusal(written(tmp_path / "x.pth", content))


def test_zip_files_without_their_parts(tmp_path):
    """A storage left out, one cut off, a compressed archive, an unknown byte order."""
    for change in (
        lambda name, x: None if name.endswith("/data/3") else x,
        lambda name, x: x[:-4] if name.endswith("/data/3") else x,
        lambda name, x: b"middle" if name.endswith("byteorder") else x,
        lambda name, x: x[:-1] if name.endswith("data.pkl") else x,
    ):
        assert "damaged" in refusal(written(tmp_path / "x.pth", repacked(STORED[0], change)))
    same = repacked(STORED[0], lambda name, x: x, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(written(tmp_path / "x.pth", same))
