"""Read the tensors of a PyTorch file (.pth) without PyTorch.

Such a file holds a pickle and the buffers that the pickle refers to: in a zip archive since PyTorch
1.6, one after the other in a single stream before.
"""

import io
import math
import pickle
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from cyclegan_jax.torch_weights.unpickler import (
    MAX_BYTES,
    MAX_RANK,
    DamagedError,
    PlainDict,
    Unpickler,
    are_counts,
    load,
    one_line,
)
from cyclegan_jax.utils.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_PICKLED_MAGIC = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little")
_PROTOCOL = 1001

_MAX_DIRECTORY_BYTES = 4 << 20  # of a zip archive; each entry of 50 or more takes 1 kB of memory

Buffers = Mapping[str, bytes | memoryview]

_STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


def is_zip(start: bytes) -> bool:
    """Return whether a file that starts with these bytes has the format since 1.6."""
    return start.startswith(b"PK\x03\x04")


def is_stream(start: bytes) -> bool:
    """Return whether a file that starts with these bytes has the format before 1.6."""
    return _PICKLED_MAGIC in start


def read_zip(path: Path) -> dict[str, np.ndarray]:
    """Read a state dict in the format since 1.6.

    It may be the only one inside a dictionary, such as {"epoch": 3, "state_dict": ...}.
    """
    return _arrays(*_read_zip(path))


def read_stream(path: Path) -> dict[str, np.ndarray]:
    """Read a state dict in the format before 1.6, as `read_zip`."""
    return _arrays(*_read_stream(path.read_bytes()))


class Storage(NamedTuple):
    """A buffer beside the pickle: `numel` numbers, of which a view begins at `start`."""

    key: str
    dtype: np.dtype
    numel: int
    start: int


class Tensor(NamedTuple):
    """A tensor whose numbers are not read yet; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _ordered_dict(items=None):
    """Build an OrderedDict; Python 2 passes its items, Python 3 sets them afterwards.

    A list of items is emptied as it is read, so that it cannot be copied twice.
    """
    result = PlainDict()
    if items is not None:
        if type(items) is not list:
            raise DamagedError("expected the items of a dictionary")
        for key, value in items:
            result[key] = value
        items.clear()
    return result


def _rebuild_tensor(storage, offset, shape, strides, grad=None, hooks=None, metadata=None):
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple:
        raise DamagedError("expected a tensor")
    if len(shape) != len(strides) or len(shape) > MAX_RANK:
        raise DamagedError(f"expected a tensor of at most {MAX_RANK} dimensions")
    if not are_counts(offset, *shape, *strides):
        raise DamagedError("expected the shape, strides and offset of a tensor")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor, grad=None, hooks=None):
    return tensor


_FUNCTIONS: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.cuda.{name}": dtype for name, dtype in _STORAGES.items()},
}


class _TorchUnpickler(Unpickler):
    """Adds the functions that build tensors, and the references to their storages."""

    functions = _FUNCTIONS

    def __init__(self, stream: io.BytesIO, storages: dict[str, Storage]) -> None:
        super().__init__(stream)
        self._storages = storages

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage of ("storage", type, key, device, numel[, view])."""
        if type(pid) is not tuple or not 5 <= len(pid) <= 6 or pid[0] != "storage":
            raise DamagedError("expected a storage")
        _, dtype, key, _, numel, view = (*pid, None)[:6]
        start = 0 if view is None else view[1]
        if type(key) is not str or not isinstance(dtype, np.dtype) or not are_counts(numel, start):
            raise DamagedError("expected a storage")
        first = self._storages.setdefault(key, Storage(key, dtype, numel, start))
        if (first.dtype, first.numel) != (dtype, numel):
            raise DamagedError("two tensors disagree on their storage")
        return Storage(key, dtype, numel, start)

    dispatch = {
        **Unpickler.dispatch,
        pickle.BINPERSID[0]: Unpickler.load_binpersid,
    }


def _unpickle(stream: io.BytesIO, storages: dict[str, Storage] | None = None) -> Any:
    """Load one pickle of a stream of at most `MAX_BYTES`; add its storages by key."""
    unpickler = _TorchUnpickler(stream, {} if storages is None else storages)
    return load(unpickler, lambda: stream.tell() == MAX_BYTES)


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
            stream = io.BytesIO(archive.read(f"{root}data.pkl")[:MAX_BYTES])
            value = _unpickle(stream, storages)
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
    magic, protocol, system = (_unpickle(stream) for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL or not isinstance(system, dict):
        raise DamagedError(f"expected protocol {_PROTOCOL}")
    if system.get("little_endian") is not True:
        raise UserError(
            "expected a little-endian file, got one of a big-endian machine; save it again"
        )
    storages: dict[str, Storage] = {}
    value = _unpickle(stream, storages)
    keys = _unpickle(stream)
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


def _arrays(value: Any, buffers: Buffers) -> dict[str, np.ndarray]:
    """Return views of the tensors of a state dict."""
    return {
        name: _array(tensor, buffers)
        for name, tensor in _state_dict(value).items()
        if isinstance(tensor, Tensor)
    }


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
