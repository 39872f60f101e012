"""Restricted unpickling of files of weights.

A pickle is a program that may call any function. `Unpickler` is the standard library's, reduced to
the opcodes of plain containers and the functions of a subclass, which build tensors. A hostile file
cannot run code, and the time and memory that it takes are linear in its size, of which at most
`MAX_BYTES` are opcodes:

* An opcode reads its argument from the file and pushes at most one object. Containers hold
  references, and take each object off the stack. Opcodes that call or set anything else are left
  out, and so is `LONG4`, whose integers take long to multiply.
* Only strings are hashed, and memo indices, which are consecutive: a tuple that contains the same
  tuple twice, and so on, takes exponential time to hash, and integers can be chosen to collide.
* Functions take a fixed number of arguments and inspect a bounded number of items.
"""

import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from cyclegan_jax.utils.errors import UserError

# A tensor takes about 200 bytes of a pickle; a byte becomes at most 100 bytes of memory.
MAX_BYTES = 2 << 20
MAX_RANK = 16

_PythonUnpickler: Any = pickle._Unpickler
_OPCODES = [
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.MARK, pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE),
]


class DamagedError(UserError):
    """A file contradicts itself or its format."""


class PlainDict(dict):
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


class Unpickler(_PythonUnpickler):
    """The unpickler written in Python, with few opcodes; that in C cannot be restricted.

    Attributes:
        functions: What a pickle may refer to, by full name.
    """

    functions: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, encoding="latin1")
        self.memo = _Memo()

    def find_class(self, module: str, name: str) -> Any:
        """Return the entry of `functions`; nothing is imported."""
        try:
            return self.functions[f"{module}.{name}"]
        except KeyError:
            raise UserError(
                f"refers to {one_line(f'{module}.{name}')}, and only tensors and plain containers "
                "are read; save the state_dict() of the network alone"
            ) from None

    def load_empty_dict(self) -> None:
        """Push a dictionary."""
        self.append(PlainDict())

    def load_build(self) -> None:
        """Drop the state of an object; that of a state dict holds versions of its modules."""
        self.stack.pop()

    dispatch = {
        **{code[0]: _PythonUnpickler.dispatch[code[0]] for code in _OPCODES},
        pickle.EMPTY_DICT[0]: load_empty_dict,
        pickle.BUILD[0]: load_build,
    }


def load(unpickler: Unpickler, is_exhausted: Callable[[], bool]) -> Any:
    """Load one pickle.

    Args:
        unpickler: Positioned at the pickle's start, and afterwards at its end.
        is_exhausted: Returns whether reading has reached the limit on opcodes.

    Returns:
        Strings, numbers, tuples, lists, dictionaries with strings as keys, and what `functions`
        build.

    Raises:
        UserError: The pickle refers to another function or class.
        DamagedError: The pickle is damaged, or differs from those that its program writes.
    """
    try:
        return unpickler.load()
    except UserError:
        raise
    except Exception as error:  # the module's documentation leaves open which
        reason = "its pickle cannot be read"
        if is_exhausted():
            reason = f"expected a pickle below {MAX_BYTES >> 20} MiB; save a state_dict() alone"
        raise DamagedError(reason) from error


def are_counts(*numbers: Any) -> bool:
    """Return whether all are integers from 0 that fit into 64 bits."""
    return all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)


def one_line(text: str) -> str:
    """Return text from a file in a form that is fit for a message."""
    text = "".join(c if c.isprintable() else " " for c in text[:200])
    return " ".join(text.split())
