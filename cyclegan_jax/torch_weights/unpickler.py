"""Runs the pickles in files of PyTorch, and trusts nothing in them.

A pickle is a program that may call any function. Here it is followed by an interpreter of its own
that knows plain containers and tensors, and nothing else.
"""

import io
import pickletools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from cyclegan_jax.utils.errors import UserError

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


class DamagedError(Exception):
    """What a file says does not hold together."""


class _Global(NamedTuple):
    """Something that a pickle refers to by name."""

    name: str


class Storage(NamedTuple):
    """A row of numbers beside the pickle: `numel` of them, of which a view begins at `start`."""

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


def _dictionary(items: Iterable[Any] = ()) -> dict[Any, Any]:
    """From (key, value); Python 2 wrote an OrderedDict as a call with a list of such."""
    made = {}
    for key, value in items:
        if not isinstance(key, str | int | float | None):
            raise DamagedError("a dictionary's keys are neither words nor numbers")
        made[key] = value
    return made


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """What `_rebuild_tensor` and `_rebuild_tensor_v2` are called with."""
    well_typed = (
        isinstance(storage, Storage) and type(shape) is tuple and type(strides) is tuple
    ) and all(type(n) is int and n >= 0 for n in (offset, *shape, *strides))
    if not well_typed or len(shape) != len(strides):
        raise DamagedError("a tensor's shape was expected")
    return Tensor(storage, offset, shape, strides)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}


def _global(module: Any, name: Any, path: Path) -> _Global:
    if not isinstance(module, str) or not isinstance(name, str):
        raise DamagedError("the name of a function was expected")
    if module in ("torch", "torch.cuda") and name in _STORAGES:
        return _Global(name)
    if f"{module}.{name}" in _BUILDERS:
        return _Global(f"{module}.{name}")
    raise UserError(
        f"{path}: refers to {one_line(f'{module}.{name}')}, and only tensors and plain containers "
        "are read; save the state_dict() of the network alone"
    )


def _storage(reference: Any) -> Storage:
    """The row of numbers that ("storage", type, key, device, length, view?) stands for."""
    kind, dtype, key, _, numel, *rest = reference
    start = rest[0][1] if rest and rest[0] is not None else 0
    counts = all(type(n) is int and n >= 0 for n in (numel, start))
    if kind != "storage" or not isinstance(key, str) or not counts:
        raise DamagedError("a storage was expected")
    return Storage(key, _STORAGES[dtype.name], numel, start)


def unpickle(stream: io.BytesIO, path: Path, storages: dict[str, Storage] | None = None) -> Any:
    """Runs one pickle up to its end.

    Args:
        stream: where it begins; left behind its end.
        path: the file, for messages.
        storages: gets all storages it refers to, by key.

    Raises:
        UserError: for a function or class other than those of tensors and plain containers.
        DamagedError: for anything that such a pickle does not do.
    """
    machine = _Machine(path, {} if storages is None else storages)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.run(opcode.name, argument)
        return machine.stack.pop()
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise DamagedError("its pickle cannot be followed") from error


class _Machine:
    """The stack machine that a pickle is a program for, without its dangerous instructions."""

    def __init__(self, path: Path, storages: dict[str, Storage]) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._path = path
        self._storages = storages

    def run(self, name: str, argument: Any) -> None:
        """One instruction, as `pickletools` names it."""
        push, pop = self.stack.append, self.stack.pop
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                push(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                push(argument)
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case "MARK":
                self._marks.append(len(self.stack))
            case "EMPTY_TUPLE":
                push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self._take(int(name[-1]))))
            case "TUPLE":
                push(tuple(self._take()))
            case "EMPTY_LIST":
                push([])
            case "APPEND" | "APPENDS":
                items = self._take(1 if name == "APPEND" else None)
                self._top(list).extend(items)
            case "EMPTY_DICT":
                push({})
            case "SETITEM" | "SETITEMS":
                items = self._take(2 if name == "SETITEM" else None)
                pairs = zip(items[::2], items[1::2], strict=True)
                self._top(dict).update(_dictionary(pairs))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self._memo[len(self._memo) if argument is None else argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL" | "STACK_GLOBAL":
                module, called = argument.split(" ", 1) if name == "GLOBAL" else self._take(2)
                push(_global(module, called, self._path))
            case "BINPERSID":
                storage = _storage(pop())
                first = self._storages.setdefault(storage.key, storage)
                if (first.dtype, first.numel) != (storage.dtype, storage.numel):
                    raise DamagedError("two tensors disagree on their storage")
                push(storage)
            case "REDUCE":
                function, arguments = self._take(2)
                push(_BUILDERS[function.name](*arguments))
            case "BUILD":
                # The `_metadata` of a state dict: versions of its modules, of no use here.
                pop()
                self._top(dict)
            case _:
                raise DamagedError(f"its pickle uses {name}")

    def _take(self, count: int | None = None) -> list[Any]:
        """The last things on the stack, so many or from the last mark on, taken off it."""
        start = self._marks.pop() if count is None else len(self.stack) - count
        if not 0 <= start <= len(self.stack):
            raise DamagedError("its pickle cannot be followed")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise DamagedError("its pickle cannot be followed")
        return self.stack[-1]


def one_line(text: str) -> str:
    """Text from a file, fit for a message."""
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}..."
