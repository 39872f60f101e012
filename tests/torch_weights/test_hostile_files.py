"""Damaged and hostile PyTorch files are refused in one line, without code run or memory filled."""

import io
import os
import pickle
import random
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cyclegan_jax.torch_weights import torch_files, unpickler
from cyclegan_jax.torch_weights.files import read_tensors
from cyclegan_jax.utils.errors import UserError
from tests.torch_weights.torch_files import (
    FORMATS,
    STORED,
    python2_file,
    refusal,
    repack,
    save,
    stream_file,
    write,
    zip_file,
)

STORED_FILES = pytest.mark.parametrize("path", STORED, ids=["zip", "legacy"])
CONTAINERS = pytest.mark.parametrize("container", [stream_file, zip_file], ids=["legacy", "zip"])

ORDERED_DICT = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
)


class Command:
    """Pickled as a call of `os.system`."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


def cheap_refusal(path: Path, *, mebibytes: float = 4, seconds: float = 10) -> str:
    """Return the refusal's line, after a check of the peak memory and of processor time."""
    tracemalloc.start()
    start = time.process_time()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < mebibytes * 2**20
    assert time.process_time() - start < seconds
    return message


@FORMATS
def test_functions_and_classes_are_refused(tmp_path, zipped):
    """A command, a function, an array and a module are named in the refusal, and nothing runs."""
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
    assert not mark.exists()


@CONTAINERS
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_commands_are_not_run(tmp_path, container, protocol):
    """Without PyTorch: a call of `os.system` is refused in every protocol."""
    mark = tmp_path / "called"
    program = pickle.dumps({"w": Command(f"touch {mark}")}, protocol)[:-1]
    assert "refers to posix.system" in refusal(write(tmp_path / "x.pth", container(program)))
    assert "refers to posix.system" in refusal(write(tmp_path / "x.pth", program + b"."))
    assert not mark.exists()


@STORED_FILES
def test_functions_are_refused_in_stored_files(tmp_path, path):
    """Without PyTorch: the name of a function that builds a tensor is exchanged for another."""

    def change(name: str, content: bytes) -> bytes:
        return content.replace(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cbuiltins\nexec\n")

    zipped = path.name.endswith("zip.pth")
    content = repack(path, change) if zipped else change("", path.read_bytes())
    assert "refers to builtins.exec" in refusal(write(tmp_path / "x.pth", content))


def test_other_opcodes_are_refused(tmp_path):
    """Opcodes that tensors do not need are refused: those that call or copy anything else."""
    refused = [
        *("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER"),
        *("POP", "POP_MARK", "DUP", "INT", "LONG", "LONG4", "FLOAT", "STRING", "UNICODE", "GET"),
        *("PUT", "LIST", "DICT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINUNICODE8"),
        *("BYTEARRAY8", "READONLY_BUFFER", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
    ]
    opcodes = {name: getattr(pickle, name) for name in pickle.__all__ if name.isupper()}
    opcodes = {
        name: code for name, code in opcodes.items() if type(code) is bytes and code[1:] == b""
    }
    allowed = {bytes([code]) for code in torch_files._TorchUnpickler.dispatch}
    assert {opcodes[name] for name in refused} == set(opcodes.values()) - allowed
    for name in refused:
        program = b"}q\x00(N)K\x01" + opcodes[name] + b"\x01\x00\x00\x00\x00\x00\x00\x001\n\nN"
        assert "cannot be read" in refusal(write(tmp_path / "x.pth", stream_file(program)))


def test_states_are_not_applied(tmp_path):
    """A state for one of our own functions changes nothing, and calling a storage type fails."""
    state = b"}X\x0c\x00\x00\x00__defaults__K\x01K\x02\x86s"
    refusal(write(tmp_path / "x.pth", stream_file(REBUILD + b"N" + state + b"\x86b")))
    refusal(write(tmp_path / "x.pth", stream_file(ORDERED_DICT + state + b"b")))
    read_tensors(STORED[0])
    called = b"ctorch\nFloatStorage\n(X\x01\x00\x00\x00atR"
    assert "cannot be read" in refusal(write(tmp_path / "x.pth", stream_file(called)))


def nested(start: bytes, level: bytes, depth: int) -> bytes:
    """Return a list of objects of which each holds the one before several times; memo 0 is last."""
    return b"](" + start + b"q\x00" + (level + b"q\x00") * depth + b"e"


def colliding_indices(count: int, bits: int = 17) -> list[int]:
    """Return numbers that fill the places where CPython's dictionary looks for the last of them."""
    last = index = perturb = 3 << bits
    places = dict[int, None]()
    while len(places) < count:
        index %= 1 << bits
        places[index] = None
        perturb >>= 5
        index = index * 5 + perturb + 1
    return [*places, last]


def number(value: int) -> bytes:
    return value.to_bytes(4, "little")


BOMBS = {
    "tuples": nested(b")", b"(h\x00h\x00h\x00t", 5000),
    "lists": nested(b"]", b"](h\x00h\x00h\x00e", 5000),
    "dictionaries": nested(b"}", b"}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00u", 5000),
    "strings": b"](X\x00\x10\x00\x00" + b"a" * 4096 + b"q\x00" + b"h\x00" * 20_000 + b"e",
    "tuples as keys": nested(b")", b"(h\x00h\x00h\x00t", 25) + b"}h\x00Ns",
    "a deep tuple": b"]" + b"\x85" * 30_000,
    "a deep tuple as key": b"})" + b"\x85" * 30_000 + b"Ns",
    "deep lists": b"]" * 10_000 + b"a" * 9_999,
    "integers that collide as keys": b"}("
    + b"".join(b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little") + b"N" for i in range(40_000))
    + b"u",
    "copies of a dictionary": b"]("
    + b"".join(b"](X\x04\x00\x00\x00%04xK\x01e" % i for i in range(3000))
    + b"e\x85q\x00]("
    + (ORDERED_DICT + b"h\x00R") * 2000
    + b"e",
    "copies of arguments": b"((" + b"N" * 10_000 + b"tq\x00" + (REBUILD + b"h\x00R") * 1000 + b"t",
    "a long shape": b"]((" + b"K\x00" * 50_000 + b"tq\x00" + STORAGE + b"q\x01"
    + (REBUILD + b"(h\x01K\x00h\x00h\x00NNtR") * 2000 + b"e",
    "a long storage": b"(" + STORAGE[:-2] + b"N" * 200_000 + b"tq\x00" + b"h\x00Q" * 30_000 + b"t",
    "a memo with gaps": b"]r\xff\xff\xff\xff",
    "memo indices that collide": b"]("
    + b"".join(b"Nr" + number(i) for i in colliding_indices(60_000))
    + (b"j" + number(3 << 17)) * 40_000 + b"e",
}  # fmt: skip


@CONTAINERS
@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path, container, name):
    """Nesting and repetition through the memo take memory and time in proportion to the file."""
    cheap_refusal(write(tmp_path / "x.pth", container(BOMBS[name])), mebibytes=8, seconds=3)


@CONTAINERS
@pytest.mark.parametrize(
    "program",
    [
        b"X\xff\xff\xff\xff",
        b"T\xff\xff\xff\x7f",
        b"T\xff\xff\xff\xff",
        b"B\xff\xff\xff\xff",
        b"\x8a\xff",
        b"\x8b\xff\xff\xff\x7f",
        *(code + b"\xff\xff\xff\xff\xff\xff\xff\x7f" for code in (b"\x8d", b"\x8e", b"\x96")),
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
    ids=lambda program: program[:1].hex(),
)
def test_lengths_beyond_the_file(tmp_path, container, program):
    """A string, integer or frame that claims gigabytes takes none."""
    cheap_refusal(write(tmp_path / "x.pth", container(b"}" + program + b"abc")))


@CONTAINERS
@pytest.mark.parametrize("opcode", [b"}", b"(", b"]", b")"])
def test_large_pickles(tmp_path, monkeypatch, container, opcode):
    """Pickles are bounded, and their objects take at most 100 bytes of memory per byte."""
    assert unpickler.MAX_BYTES == 2 << 20
    for module in (unpickler, torch_files):
        monkeypatch.setattr(module, "MAX_BYTES", 1 << 17)
    path = write(tmp_path / "x.pth", container(opcode * (1 << 18)))
    message = cheap_refusal(path, mebibytes=100 / 8 + 1)
    assert "expected a pickle below " in message
    assert "save a state_dict() alone" in message


@STORED_FILES
def test_truncated_files(tmp_path, path):
    """A file that ends early is refused wherever it ends."""
    content = path.read_bytes()
    for length in [*range(0, len(content), 97), *range(len(content) - 40, len(content))]:
        refusal(write(tmp_path / "x.pth", content[:length]))


@STORED_FILES
def test_garbled_files(tmp_path, path):
    """Whatever bytes change, the result is arrays or one line."""
    content, draw = path.read_bytes(), random.Random(0)
    directory = content.rfind(b"PK\x01\x02") - 2000 if path.name.endswith("zip.pth") else 0
    refused = 0
    for i in range(800):
        garbled = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(directory if i % 2 else 0, len(content))
            count = min(draw.choice((1, 1, 4, 8)), len(content) - at)
            garbled[at : at + count] = bytes([draw.choice((0, 255, draw.randrange(256)))]) * count
        # Zip archives have checksums of all members, which would hide the pickle.
        if path.name.endswith("zip.pth") and i % 4 == 0:
            seed = draw.random()
            garbled = repack(path, lambda name, x, seed=seed: flip(name, x, seed))
        try:
            read_tensors(write(tmp_path / "x.pth", bytes(garbled)))
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 100 < refused < 800


def flip(name: str, content: bytes, seed: float) -> bytes:
    if not name.endswith("data.pkl"):
        return content
    draw, garbled = random.Random(seed), bytearray(content)
    garbled[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(garbled)


def test_other_files(tmp_path):
    """A folder, an absent or empty file, text, another pickle and another archive are named so."""
    assert "Is a directory" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "nothing.pth")
    assert "got an empty file" in refusal(write(tmp_path / "x.pth", b""))
    for content in (b"<!DOCTYPE html>\n" * 99, bytes(5000)):
        message = refusal(write(tmp_path / "x.pth", content))
        assert "expected weights of PyTorch (.pth), Keras (.hdf5) or Paddle (.pdparams)" in message
    content = pickle.dumps({"a": 1})
    assert "expected a state dict" in refusal(write(tmp_path / "x.pth", content))
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("word/document.xml", "text")
    assert "got another zip archive" in refusal(tmp_path / "x.pth")


def test_names_in_messages_are_printable(tmp_path):
    """Escape sequences, which a terminal would obey, and line breaks do not reach a message."""
    program = b"X\x0a\x00\x00\x00os\x1b[2J\r\nab" + b"X\x04\x00\x00\x00exec\x93"
    message = refusal(write(tmp_path / "x.pth", stream_file(program)))
    assert message.isprintable()
    assert "refers to os [2J ab.exec" in message


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
        {"shape": (2, 2, 2), "strides": (0, 0, 0)},
        {"shape": (2**20, 2**20), "strides": (0, 0)},
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
def test_sizes_beyond_the_storage(tmp_path, lie):
    """Shapes, strides, offsets and lengths beyond the numbers of the file are refused."""
    assert "damaged" in cheap_refusal(write(tmp_path / "x.pth", python2_file(**lie)))


@pytest.mark.parametrize(("count", "accepted"), [(7, True), (100, False)])
def test_tensors_that_share_one_storage(tmp_path, count, accepted):
    """Views of one storage are allowed, but copies of them must not fill the memory."""
    size = b"J" + number(1 << 14)
    storage = STORAGE.replace(b"K\x04t", size + b"t")
    tensor = REBUILD + b"(" + storage + b"K\x00" + size + b"\x85K\x01\x85NNtRq\x00"
    names = [b"X\x02\x00\x00\x00%02x" % i for i in range(count)]
    program = b"}(" + names[0] + tensor + b"".join(name + b"h\x00" for name in names[1:]) + b"u"
    path = write(tmp_path / "x.pth", zip_file(program, {"0": bytes(4 << 14)}))
    if accepted:
        assert len(read_tensors(path)) == count
    else:
        assert "its tensors are larger than itself" in cheap_refusal(path)


def test_zip_files_without_their_parts(tmp_path):
    """Missing and truncated members and an unknown byte order are refused."""
    for change in (
        lambda name, x: None if name.endswith("/data/3") else x,
        lambda name, x: x[:-4] if name.endswith("/data/3") else x,
        lambda name, x: b"middle" if name.endswith("byteorder") else x,
        lambda name, x: x[:-1] if name.endswith("data.pkl") else x,
    ):
        assert "damaged" in refusal(write(tmp_path / "x.pth", repack(STORED[0], change)))


def test_zip_bombs(tmp_path, monkeypatch):
    """Compressed, overlapping and numerous members are refused before they are read."""
    same = repack(STORED[0], lambda name, x: x, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(write(tmp_path / "x.pth", same))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(64 << 20))
    content = bomb.getvalue()
    assert "compressed" in cheap_refusal(write(tmp_path / "x.pth", content))
    # In the directory entry: the method at 10, the compressed size at 20, the size at 24.
    entry = content.index(b"PK\x01\x02")
    for size in (64 << 20, 0xFFFFFFFE):
        lying = bytearray(content)
        lying[entry + 10 : entry + 12] = b"\0\0"  # stored
        lying[entry + 24 : entry + 28] = number(size)
        assert "larger than itself" in cheap_refusal(write(tmp_path / "x.pth", bytes(lying)))
        lying[entry + 20 : entry + 24] = number(size)
        assert "larger than itself" in cheap_refusal(write(tmp_path / "x.pth", bytes(lying)))
        lying[entry + 24 : entry + 28] = number(100)
        assert "larger than itself" in cheap_refusal(write(tmp_path / "x.pth", bytes(lying)))
    # Members of other names at the place of one.
    content = zip_file(b"}", {str(i): bytes(1 << 16) for i in range(3)})
    entries = [content.index(b"PK\x01\x02")]
    while (at := content.find(b"PK\x01\x02", entries[-1] + 4)) >= 0:
        entries.append(at)
    lying = bytearray(content)
    for entry in entries[2:]:
        lying[entry + 42 : entry + 46] = content[entries[1] + 42 : entries[1] + 46]
    cheap_refusal(write(tmp_path / "x.pth", bytes(lying)))
    monkeypatch.setattr("cyclegan_jax.torch_weights.torch_files._ZipFile.limit", 100_000)
    many = zip_file(b"}", {str(i): b"" for i in range(3000)})
    message = cheap_refusal(write(tmp_path / "x.pth", many), mebibytes=1)
    assert "its zip directory is too large" in message
