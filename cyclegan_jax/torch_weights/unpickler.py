"""Restricted unpickling of PyTorch files.

A pickle is a program that may call any function. `unpickle` runs it on the standard library's
unpickler, reduced to the opcodes of plain containers and three functions that build tensors. A
hostile file cannot run code, and the time and memory that it takes are linear in its size, of which
at most `MAX_BYTES` are read:

* An opcode reads its argument from the file and pushes at most one object. Containers hold
  references, and take each object off the stack. Opcodes that call or set anything else are left
  out, and so is `LONG4`, whose integers take long to multiply.
* Only strings are hashed, and memo indices, which are consecutive: a tuple that contains the same
  tuple twice, and so on, takes exponential time to hash, and integers can be chosen to collide.
* Functions take a fixed number of arguments and inspect a bounded number of items. A list of
  `OrderedDict` items is emptied as it is read, so that it cannot be copied twice.
"""

import io
import pickle
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from cyclegan_jax.utils.errors import UserError

# A tensor takes about 200 bytes of a pickle; a byte becomes at most 100 bytes of memory.
MAX_BYTES = 2 << 20
_MAX_RANK = 16

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

_PythonUnpickler: Any = pickle._Unpickler
_OPCODES = [
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.MARK, pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BINPERSID),
]


class DamagedError(UserError):
    """A file contradicts itself or its format."""


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


class _Dict(dict):
    """Dictionary that leaves out items whose keys are not strings, as those of optimisers."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, str):
            super().__setitem__(key, value)


class _Memo(dict):
    """Memo with consecutive indices; those of Python 2 begin at 1."""

    def __setitem__(self, index: int, value: Any) -> None:
        if index > len(self) + 1:
            raise DamagedError("its memo has gaps")
        super().__setitem__(index, value)


def _ordered_dict(items=None):
    """Build an OrderedDict; Python 2 passes its items, Python 3 sets them afterwards."""
    result = _Dict()
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
    if len(shape) != len(strides) or len(shape) > _MAX_RANK:
        raise DamagedError(f"expected a tensor of at most {_MAX_RANK} dimensions")
    if not _are_counts(offset, *shape, *strides):
        raise DamagedError("expected the shape, strides and offset of a tensor")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor, grad=None, hooks=None):
    return tensor


def _are_counts(*numbers: Any) -> bool:
    return all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)


_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.cuda.{name}": dtype for name, dtype in _STORAGES.items()},
}


class _Unpickler(_PythonUnpickler):
    """The unpickler written in Python, with few opcodes; that in C cannot be restricted."""

    def __init__(self, stream: io.BytesIO, storages: dict[str, Storage]) -> None:
        super().__init__(stream, encoding="latin1")
        self.memo = _Memo()
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """Return the entry of `_GLOBALS`; nothing is imported."""
        try:
            return _GLOBALS[f"{module}.{name}"]
        except KeyError:
            raise UserError(
                f"refers to {one_line(f'{module}.{name}')}, and only tensors and plain containers "
                "are read; save the state_dict() of the network alone"
            ) from None

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage of ("storage", type, key, device, numel[, view])."""
        if type(pid) is not tuple or not 5 <= len(pid) <= 6 or pid[0] != "storage":
            raise DamagedError("expected a storage")
        _, dtype, key, _, numel, view = (*pid, None)[:6]
        start = 0 if view is None else view[1]
        if type(key) is not str or not isinstance(dtype, np.dtype) or not _are_counts(numel, start):
            raise DamagedError("expected a storage")
        first = self._storages.setdefault(key, Storage(key, dtype, numel, start))
        if (first.dtype, first.numel) != (dtype, numel):
            raise DamagedError("two tensors disagree on their storage")
        return Storage(key, dtype, numel, start)

    def load_empty_dict(self) -> None:
        self.append(_Dict())

    def load_build(self) -> None:
        # The state of an object; that of a state dict holds versions of its modules.
        self.stack.pop()

    dispatch = {
        **{code[0]: _PythonUnpickler.dispatch[code[0]] for code in _OPCODES},
        pickle.EMPTY_DICT[0]: load_empty_dict,
        pickle.BUILD[0]: load_build,
    }


def unpickle(stream: io.BytesIO, storages: dict[str, Storage] | None = None) -> Any:
    """Load one pickle.

    Args:
        stream: At most `MAX_BYTES`, positioned at the pickle's start, and afterwards at its end.
        storages: Receives every storage that the pickle refers to, by key.

    Returns:
        Strings, numbers, tuples, lists, dictionaries with strings as keys, and `Tensor`s.

    Raises:
        UserError: The pickle refers to another function or class.
        DamagedError: The pickle is damaged, or differs from those that PyTorch writes.
    """
    try:
        return _Unpickler(stream, {} if storages is None else storages).load()
    except UserError:
        raise
    except Exception as error:  # the module's documentation leaves open which
        reason = "its pickle cannot be read"
        if stream.tell() == MAX_BYTES:
            reason = f"expected a pickle below {MAX_BYTES >> 20} MiB; save a state_dict() alone"
        raise DamagedError(reason) from error


def one_line(text: str) -> str:
    """Return text from a file in a form that is fit for a message."""
    text = "".join(c if c.isprintable() else " " for c in text[:200])
    return " ".join(text.split())
