"""Read the tensors of a PyTorch file (.pth) without PyTorch.

Such a file holds a pickle and the buffers that the pickle refers to: in a zip archive since PyTorch
1.6, one after the other in a single stream before.
"""

import io
import math
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan_jax.torch_weights.unpickler import (
    MAX_BYTES,
    DamagedError,
    Storage,
    Tensor,
    one_line,
    unpickle,
)
from cyclegan_jax.utils.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_PICKLED_MAGIC = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little")
_PROTOCOL = 1001

# Tensors may share a buffer. Callers copy them, so their total size is bounded as well.
_MAX_SHARING = 8
_MAX_DIRECTORY_BYTES = 4 << 20  # of a zip archive; each entry of 50 or more takes 1 kB of memory

Buffers = Mapping[str, bytes | memoryview]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a state dict.

    Args:
        path: A file by `torch.save(network.state_dict(), path)`, in either format. The state dict
            may be the only one inside a dictionary, such as {"epoch": 3, "state_dict": ...}.

    Returns:
        Read-only arrays by name, in the order of the file, with the types, shapes and strides of
        the tensors. Together they are at most eight times as large as the file.

    Raises:
        UserError: The file is missing, damaged, not a state dict, or refers to anything other than
            tensors and plain containers.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if not start:
            raise UserError("expected a PyTorch file (.pth), got an empty file")
        if start.startswith(b"PK\x03\x04"):
            value, buffers = _read_zip(path)
        elif _PICKLED_MAGIC in start:
            value, buffers = _read_stream(path.read_bytes())
        else:
            raise UserError("expected a PyTorch file (.pth)")
        arrays = {
            name: _array(tensor, buffers)
            for name, tensor in _state_dict(value).items()
            if isinstance(tensor, Tensor)
        }
        if sum(array.nbytes for array in arrays.values()) > _MAX_SHARING * path.stat().st_size:
            raise DamagedError("its tensors are larger than itself")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DamagedError as error:
        raise UserError(f"{path}: damaged or truncated: {error}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return arrays


class _ZipFile(io.FileIO):
    """A zip archive whose directory is refused, not read, if it is too large."""

    limit = _MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.limit:
            raise DamagedError("its zip directory is too large")
        return super().read(size) or b""


def _read_zip(path: Path) -> tuple[Any, Buffers]:
    """Read the format since 1.6: ROOT/data.pkl, ROOT/data/KEY, ROOT/byteorder."""
    try:
        with _ZipFile(path) as file, zipfile.ZipFile(file) as archive:
            file.limit = sys.maxsize
            members = {info.filename: info for info in archive.infolist()}
            # Members that are not compressed and do not overlap are no larger than the file.
            if any(m.compress_type != zipfile.ZIP_STORED for m in members.values()):
                raise DamagedError("its zip archive is compressed")
            if any(m.compress_size != m.file_size for m in members.values()) or (
                sum(m.file_size for m in members.values()) > path.stat().st_size
            ):
                raise DamagedError("its zip archive is larger than itself")
            roots = [name.removesuffix("data.pkl") for name in members if name.endswith("data.pkl")]
            if len(roots) != 1:
                raise UserError("expected a PyTorch file (.pth), got another zip archive")
            root = roots[0]
            order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
            if order not in (b"little", b"big"):
                raise DamagedError("expected little or big as byte order")
            storages: dict[str, Storage] = {}
            pickle = io.BytesIO(archive.read(f"{root}data.pkl")[:MAX_BYTES])
            value = unpickle(pickle, storages)
            buffers: dict[str, bytes] = {}
            for key, storage in storages.items():
                if f"{root}data/{key}" not in members:
                    raise DamagedError("it lacks the numbers of a tensor")
                buffers[key] = archive.read(f"{root}data/{key}")
                _check_length(buffers[key], storage)
                if order == b"big":
                    numbers = np.frombuffer(buffers[key], f"u{storage.dtype.itemsize}")
                    buffers[key] = numbers.byteswap().tobytes()
    except (UserError, OSError):
        raise
    except Exception as error:  # zipfile does not document which
        raise DamagedError("its zip archive cannot be read") from error
    return value, buffers


def _read_stream(content: bytes) -> tuple[Any, Buffers]:
    """Read the format before 1.6: five pickles, then the length and numbers of each storage."""
    stream = io.BytesIO(content[:MAX_BYTES])
    magic, protocol, system = (unpickle(stream) for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL or not isinstance(system, dict):
        raise DamagedError(f"expected protocol {_PROTOCOL}")
    if system.get("little_endian") is not True:
        raise UserError(
            "expected a little-endian file, got one of a big-endian machine; save it again"
        )
    storages: dict[str, Storage] = {}
    value = unpickle(stream, storages)
    keys = unpickle(stream)
    if not isinstance(keys, list) or not all(isinstance(k, str) and k in storages for k in keys):
        raise DamagedError("expected a list of its storages")
    buffers: dict[str, memoryview] = {}
    position = stream.tell()
    for key in keys:
        length = int.from_bytes(content[position : position + 8], "little")
        if length != storages[key].numel:
            raise DamagedError("the length of a storage is wrong")
        end = position + 8 + length * storages[key].dtype.itemsize
        buffers[key] = memoryview(content)[position + 8 : end]
        _check_length(buffers[key], storages[key])
        position = end
    return value, buffers


def _state_dict(value: Any) -> dict[str, Any]:
    """Return the only dictionary of tensors in the value of a pickle."""

    def has_tensors(value: Any) -> bool:
        return isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values())

    items = value.items() if isinstance(value, dict) else ()
    inner = {name: item for name, item in items if has_tensors(item)}
    if len(inner) > 1:
        listed = one_line(", ".join(inner))
        raise UserError(f"expected one state dict, got several ({listed}); save one by itself")
    result = next(iter(inner.values()), value)
    if not has_tensors(result):
        raise UserError("expected a state dict, a dictionary of tensors by name")
    return result


def _array(tensor: Tensor, buffers: Buffers) -> np.ndarray:
    """Return a view of a storage, after every number has been checked against its length."""
    storage, shape = tensor.storage, tensor.shape
    if storage.key not in buffers:
        raise DamagedError("it lacks the numbers of a tensor")
    buffer = buffers[storage.key]
    start = storage.start + tensor.offset
    last = start + sum((n - 1) * s for n, s in zip(shape, tensor.strides, strict=True))
    size = storage.dtype.itemsize
    try:
        if 0 in shape:
            buffer, start, last = b"", 0, -1
        # A stride of 0 repeats numbers.
        if last >= storage.numel or math.prod(shape) > storage.numel:
            raise DamagedError("a tensor has more numbers than its storage")
        strides = [stride * size for stride in tensor.strides]
        view: np.ndarray = np.ndarray(shape, storage.dtype, buffer, start * size, strides)
    except (ValueError, OverflowError) as error:
        raise DamagedError("a tensor has an impossible shape") from error
    view.flags.writeable = False
    return view


def _check_length(buffer: bytes | memoryview, storage: Storage) -> None:
    if len(buffer) != storage.numel * storage.dtype.itemsize:
        raise DamagedError("the length of a storage is wrong")
