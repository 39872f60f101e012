"""Read the tensors of a Paddle file (.pdparams) without Paddle.

Such a file is a pickle of a dictionary of NumPy arrays. The restrictions of `unpickler` hold; the
bytes of arrays are not copied, and do not count towards its limit.
"""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan_jax.torch_weights.unpickler import (
    MAX_BYTES,
    MAX_RANK,
    DamagedError,
    Unpickler,
    are_counts,
    load,
)
from cyclegan_jax.utils.errors import UserError

_MAX_LINE = 100  # of a module's or function's name
_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "b1")


def is_pickle(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is a pickle of protocols 2 to 5."""
    return start[:1] == pickle.PROTO and 2 <= start[1] <= 5


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a dictionary by their names."""
    stream = _Stream(path.read_bytes())
    value = load(_PaddleUnpickler(stream), stream.is_exhausted)
    items = value.items() if isinstance(value, dict) else ()
    arrays = {n: x.array for n, x in items if isinstance(x, _Array) and x.array is not None}
    if not arrays:
        raise UserError("expected a state dict, a dictionary of tensors by name")
    return arrays


class _Stream:
    """A pickle that is read in two ways: its opcodes, up to a limit, and the bytes of arrays."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self._position = 0
        self._left = MAX_BYTES
        self.encoded_left = len(content)

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        size = min(size, self._left)
        self._left -= size
        return bytes(self.take(size, partly=True))

    def readline(self) -> bytes:
        """Return the next bytes up to a line break."""
        line = bytes(self._content[self._position : self._position + _MAX_LINE])
        return self.read(line.index(b"\n") + 1)

    def take(self, size: int, partly: bool = False) -> memoryview:
        """Return a view of the next bytes."""
        result = self._content[self._position : self._position + size]
        if len(result) < size and not partly:
            raise DamagedError("it ends in an array")
        self._position += len(result)
        return result

    def is_exhausted(self) -> bool:
        """Return whether the limit on opcodes is reached."""
        return self._left == 0


class _Type:
    """A type of numbers."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        if type(name) is not str or name not in _TYPES:
            raise DamagedError("expected the type of numbers of an array")
        self.dtype = np.dtype(f"<{name}")

    def set_state(self, state: Any) -> None:
        """Set the byte order."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|"):
            raise DamagedError("expected little-endian numbers")


class _Array:
    """An array, empty until its state is set."""

    __slots__ = ("array",)

    def __init__(self, kind: Any = None, shape: Any = None, code: Any = None) -> None:
        self.array: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        """Set the numbers from (version, shape, type, in Fortran's order, bytes)."""
        if type(state) is not tuple or len(state) != 5:
            raise DamagedError("expected an array")
        _, shape, kind, fortran, content = state
        if type(shape) is not tuple or len(shape) > MAX_RANK or not are_counts(*shape):
            raise DamagedError(f"expected a shape of at most {MAX_RANK} dimensions")
        if not isinstance(kind, _Type) or type(content) is not memoryview:
            raise DamagedError("expected the numbers of an array")
        if math.prod(shape) * kind.dtype.itemsize != len(content):
            raise DamagedError("the length of an array is wrong")
        self.array = np.ndarray(shape, kind.dtype, content, order="F" if fortran else "C")


class _PaddleUnpickler(Unpickler):
    """Adds the opcodes and functions of NumPy arrays, in protocols 2 to 4."""

    functions = {
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy._core.multiarray._reconstruct": _Array,
        "numpy.ndarray": None,  # an argument, which cannot be called
        "numpy.dtype": _Type,
        "_codecs.encode": None,  # replaced by a method
    }

    def __init__(self, stream: _Stream) -> None:
        super().__init__(stream)
        self._stream = stream

    def find_class(self, module: str, name: str) -> Any:
        """Return the entry of `functions`, or the one that has a limit for this pickle."""
        entry = super().find_class(module, name)
        return self._encode if f"{module}.{name}" == "_codecs.encode" else entry

    def _encode(self, text: Any, encoding: Any) -> memoryview:
        """Return the bytes that protocol 2 stores as text; together no more than the file."""
        if type(text) is not str or encoding != "latin1" or len(text) > self._stream.encoded_left:
            raise DamagedError("expected the numbers of an array")
        self._stream.encoded_left -= len(text)
        return memoryview(text.encode("latin1"))

    def load_frame(self) -> None:
        """Skip the length of a frame, which would be read ahead."""
        self.read(8)

    def load_binbytes(self) -> None:
        """Push a view of bytes."""
        self.append(self._stream.take(int.from_bytes(self.read(4), "little")))

    def load_short_binbytes(self) -> None:
        """Push a view of at most 255 bytes."""
        self.append(self._stream.take(self.read(1)[0]))

    def load_binunicode(self) -> None:
        """Push a string, or the bytes of an array in protocol 2."""
        content = self._stream.take(int.from_bytes(self.read(4), "little"))
        self.append(str(content, "utf-8"))

    def load_build(self) -> None:
        """Set the state of an array or of its type."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], _Array | _Type):
            self.stack[-1].set_state(state)

    dispatch = {
        **Unpickler.dispatch,
        pickle.FRAME[0]: load_frame,
        pickle.BINBYTES[0]: load_binbytes,
        pickle.SHORT_BINBYTES[0]: load_short_binbytes,
        pickle.BINUNICODE[0]: load_binunicode,
        pickle.BUILD[0]: load_build,
    }
