"""Reads the tensors of a PyTorch file (.pth) without PyTorch.

Such a file is a pickle that refers to raw numbers beside it: in a zip archive since PyTorch 1.6,
one after the other in a single stream before.
"""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan_jax.torch_weights.unpickler import DamagedError, Storage, Tensor, one_line, unpickle
from cyclegan_jax.utils.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The state dict in a file, by name, in its order.

    Args:
        path: what `torch.save(network.state_dict(), path)` wrote, in either format. A dictionary
            around one state dict, as {"epoch": 3, "state_dict": ...}, is looked into.

    Returns:
        Read-only arrays with the types, shapes and strides of the tensors.

    Raises:
        UserError: the file is missing, damaged, no state dict, or refers to anything other than
            tensors and plain containers.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if not start:
            raise UserError(f"{path}: an empty file; a .pth file of PyTorch was expected")
        if start.startswith(b"PK\x03\x04"):
            return _read_zip(path)
        if _is_stream(start, path):
            return _read_stream(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DamagedError as error:
        raise UserError(f"{path}: damaged or cut off: {error}") from error
    raise UserError(f"{path}: not a .pth file of PyTorch")


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    """The format since 1.6: NAME/data.pkl, NAME/data/KEY, NAME/byteorder."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            # Members that are stored as they are, and do not lie on each other.
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
                raise DamagedError("its parts are compressed, which PyTorch does not do")
            if sum(info.file_size for info in members.values()) > path.stat().st_size:
                raise DamagedError("its parts are larger than itself")
            roots = [name.removesuffix("data.pkl") for name in members if name.endswith("data.pkl")]
            if len(roots) != 1:
                raise UserError(f"{path}: a zip archive, but not a .pth file of PyTorch")
            root = roots[0]
            order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
            if order not in (b"little", b"big"):
                raise DamagedError("its byte order is neither little nor big")
            storages: dict[str, Storage] = {}
            found = unpickle(io.BytesIO(archive.read(f"{root}data.pkl")), path, storages)
            raw: dict[str, bytes] = {}
            for key, storage in storages.items():
                if f"{root}data/{key}" not in members:
                    raise DamagedError("it lacks the numbers of a tensor")
                raw[key] = archive.read(f"{root}data/{key}")
                if order == b"big":
                    bits = np.dtype(f"u{storage.dtype.itemsize}")
                    _check_length(raw[key], storage)
                    raw[key] = np.frombuffer(raw[key], bits).byteswap().tobytes()
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise DamagedError("its zip archive is incomplete") from error
    return _state_dict(found, raw, path)


def _is_stream(start: bytes, path: Path) -> bool:
    """Whether a file begins with the number that the format before 1.6 begins with."""
    try:
        return bool(unpickle(io.BytesIO(start), path) == _MAGIC)
    except DamagedError:
        return False


def _read_stream(path: Path) -> dict[str, np.ndarray]:
    """The format before 1.6: five pickles, then each storage's length and numbers."""
    data = path.read_bytes()
    stream = io.BytesIO(data)
    unpickle(stream, path)
    protocol, system = unpickle(stream, path), unpickle(stream, path)
    if protocol != _PROTOCOL or not isinstance(system, dict):
        raise DamagedError(f"protocol {_PROTOCOL} was expected")
    if system.get("little_endian") is not True:
        raise UserError(f"{path}: written on a big-endian machine; save it again on another")
    storages: dict[str, Storage] = {}
    found = unpickle(stream, path, storages)
    keys = unpickle(stream, path)
    if not isinstance(keys, list) or not all(isinstance(k, str) and k in storages for k in keys):
        raise DamagedError("the list of its storages is wrong")
    raw: dict[str, memoryview] = {}
    position = stream.tell()
    for key in keys:
        length = int.from_bytes(data[position : position + 8], "little")
        if length != storages[key].numel:
            raise DamagedError("the length of a storage is wrong")
        end = position + 8 + length * storages[key].dtype.itemsize
        raw[key] = memoryview(data)[position + 8 : end]
        position = end
    return _state_dict(found, raw, path)


def _state_dict(
    found: Any, raw: Mapping[str, bytes | memoryview], path: Path
) -> dict[str, np.ndarray]:
    """The arrays of the one dictionary of tensors in what a pickle gave."""

    def has_tensors(value: Any) -> bool:
        return isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values())

    inside = {k: v for k, v in found.items() if has_tensors(v)} if isinstance(found, dict) else {}
    if len(inside) > 1:
        listed = one_line(", ".join(map(str, inside)))
        raise UserError(f"{path}: holds several state dicts ({listed}); save one of them by itself")
    chosen = next(iter(inside.values()), found)
    if not has_tensors(chosen):
        raise UserError(f"{path}: holds no state dict, a dictionary of tensors by name")
    return {
        name: _array(tensor, raw)
        for name, tensor in chosen.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }


def _array(tensor: Tensor, raw: Mapping[str, bytes | memoryview]) -> np.ndarray:
    """A view of a storage's bytes, after every number has been checked against their length."""
    storage, shape = tensor.storage, tensor.shape
    if storage.key not in raw:
        raise DamagedError("it lacks the numbers of a tensor")
    buffer = raw[storage.key]
    _check_length(buffer, storage)
    start = storage.start + tensor.offset
    last = start + sum((n - 1) * s for n, s in zip(shape, tensor.strides, strict=True))
    size = storage.dtype.itemsize
    try:
        if 0 in shape:
            buffer, start, last = b"", 0, -1
        # Strides of 0 would make much of little.
        if last >= storage.numel or math.prod(shape) > storage.numel:
            raise DamagedError("a tensor has more numbers than the file")
        strides = [stride * size for stride in tensor.strides]
        view: np.ndarray = np.ndarray(shape, storage.dtype, buffer, start * size, strides)
    except (ValueError, OverflowError) as error:
        raise DamagedError("a tensor has an impossible shape") from error
    view.flags.writeable = False
    return view


def _check_length(buffer: bytes | memoryview, storage: Storage) -> None:
    if len(buffer) != storage.numel * storage.dtype.itemsize:
        raise DamagedError("the length of a storage is wrong")
