"""PyTorch files: stored, written by PyTorch, built by hand, and changed.

`data/generator_zip.pth` and `data/discriminator_legacy.pth` were written by PyTorch 2.13 from two
networks of `benchmarks/torch_networks.py` with `0.5 * torch.randn` for every parameter after
`torch.manual_seed(0)`: ResNetGenerator(3, 3, width=1, blocks=1), in the zip format, and
PatchDiscriminator(3, width=2, layers=1, norm="batch"), in the legacy format.
`data/torch_outputs.npz` holds two images and the outputs of those networks for them.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cyclegan_jax.torch_weights.files import read_tensors
from cyclegan_jax.utils.errors import UserError

DATA = Path(__file__).parent.parent / "data"
STORED = [DATA / "generator_zip.pth", DATA / "discriminator_legacy.pth"]
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def refusal(path: Path) -> str:
    """Return the one line, naming the file, with which `read_tensors` refuses it."""
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def save(path: Path, value: Any, zipped: bool, **options: Any) -> Path:
    """Write a file by `torch.save` in either format."""
    torch = pytest.importorskip("torch")
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def repack(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip file with each member replaced by `change(name, member)`; None omits it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for info in old.infolist():
            content = change(info.filename, old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
    return buffer.getvalue()


def zip_file(program: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """Return a file in the zip format with this pickle (without STOP) and these storages."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", program + b".")
        for key, content in (storages or {}).items():
            archive.writestr(f"x/data/{key}", content)
    return buffer.getvalue()


def stream_file(program: bytes) -> bytes:
    """Return a file in the legacy format with this pickle (without STOP) and no storages."""
    start = b"\x80\x02"
    magic = start + b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    protocol = start + b"M\xe9\x03."
    system = start + b"}U\x0dlittle_endian\x88s."
    return magic + protocol + system + start + program + b"." + start + b"]."


def python2_file(
    *,
    numel: int = 4,
    offset: int = 1,
    shape: tuple[int, ...] = (3,),
    strides: tuple[int, ...] = (1,),
    view: bytes = b"N",
    little: bytes = b"\x88",
    kind: bytes = b"storage",
    length: int = 4,
) -> bytes:
    """Return a file of PyTorch 0.3 and Python 2 with `w`, whose storage is [0.5, 1.5, 2.5, 3.5].

    It has byte strings, the items of the OrderedDict in a list of lists and a tensor without
    hooks. All numbers have at most 8 bytes.
    """

    def number(value: int) -> bytes:
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    start = b"\x80\x02"
    magic = start + b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    protocol = start + b"M\xe9\x03."
    system = start + b"}(" + text(b"little_endian") + little + b"u."
    storage = (
        b"(" + text(kind) + b"ctorch.cuda\nFloatStorage\n" + text(b"7") + text(b"cuda:0")
        + number(numel) + view + b"tQ"
    )  # fmt: skip
    tensor = (
        b"ctorch._utils\n_rebuild_tensor\n("
        + storage + number(offset) + numbers(shape) + numbers(strides) + b"tR"
    )  # fmt: skip
    value = start + b"ccollections\nOrderedDict\n](](" + text(b"w") + tensor + b"ee\x85R."
    keys = start + b"](" + text(b"7") + b"e."
    data = length.to_bytes(8, "little") + np.arange(0.5, 4.0).astype("<f4").tobytes()
    return magic + protocol + system + value + keys + data
