"""Read compiled programs (optimised HLO text): kernels, memory traffic, layouts.

A kernel is an instruction that a device runs: everything in the entry computation, and in the loops
and branches it calls, but for parameters, constants, tuples and views.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# Instructions that move nothing.
_VIEWS = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
}
# Instructions that call computations whose instructions are kernels.
_CALLERS = {"while", "conditional", "call"}
# The second half of an asynchronous operation, whose first half counts.
_DONE = re.compile(r"-(done|update)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")


class Shape(NamedTuple):
    """An array's type.

    Attributes:
        dtype: As in HLO, such as bf16.
        dims: Sizes.
        layout: Axes from the fastest to the slowest.
    """

    dtype: str
    dims: tuple[int, ...]
    layout: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Size in memory."""
        bits = 8 if self.dtype == "pred" else int(re.findall(r"\d+", self.dtype)[0] or 8)
        return self.size * max(1, bits // 8)


class Instruction(NamedTuple):
    """An instruction of a computation.

    Attributes:
        name: Unique in the program.
        opcode: For example fusion.
        shapes: Arrays of the result.
        operands: Names.
        target: Of a custom call, else empty.
        calls: Names of computations that it calls.
        op_name: Where it comes from: transformations, modules and JAX's primitive.
        text: The line.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    target: str
    calls: tuple[str, ...]
    op_name: str
    text: str


class Kernel(NamedTuple):
    """An instruction that a device runs.

    Attributes:
        instruction: The instruction.
        times: How often it runs in a call of the program.
        read: Bytes read in a run.
        written: Bytes written in a run.
        inner: Opcodes of the instructions fused into it.
    """

    instruction: Instruction
    times: int
    read: int
    written: int
    inner: frozenset[str]

    @property
    def traffic(self) -> int:
        """Bytes read and written in a call of the program."""
        return self.times * (self.read + self.written)


class Program:
    """A compiled program."""

    def __init__(self, text: str):
        """Parse the text of a compiled module."""
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                current = self.computations.setdefault(header[2], [])
                self.entry = header[2] if header[1] else self.entry
            elif " = " in line and line.startswith("  "):
                current.append(_parse(line))
        self._shapes = {
            instruction.name: instruction.shapes
            for instructions in self.computations.values()
            for instruction in instructions
        }

    def kernels(self) -> list[Kernel]:
        """Return all kernels, in the order of the text."""
        return list(self._kernels(self.entry, 1))

    def operands(self, instruction: Instruction) -> list[Shape]:
        """Return the arrays that an instruction reads."""
        return [shape for name in instruction.operands for shape in self._shapes[name]]

    def _kernels(self, computation: str, times: int) -> Iterator[Kernel]:
        for instruction in self.computations[computation]:
            opcode = instruction.opcode
            if opcode in _CALLERS:
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', instruction.text)
                # The condition of a loop is a kernel or two and is left out.
                called = instruction.calls[-1:] if opcode == "while" else instruction.calls
                for name in called:
                    yield from self._kernels(name, times * (int(trips[1]) if trips else 1))
            elif opcode not in _VIEWS and not _DONE.search(opcode):
                yield self._kernel(instruction, times)

    def _kernel(self, instruction: Instruction, times: int) -> Kernel:
        body = [inner for name in instruction.calls for inner in self.computations.get(name, [])]
        written = sum(shape.bytes for shape in instruction.shapes)
        read = sum(shape.bytes for shape in self.operands(instruction))
        for inner in [*body, instruction]:
            # An array that is updated in place, or of which a slice is read, is not moved whole.
            if inner.opcode == "dynamic-update-slice":
                whole, part = (self._size(name) for name in inner.operands[:2])
                written -= min(written, whole - part)
                read -= min(read, whole)
            elif inner.opcode == "dynamic-slice":
                read -= min(read, self._size(inner.operands[0]) - inner.shapes[0].bytes)
        return Kernel(instruction, times, read, written, frozenset(i.opcode for i in body))

    def _size(self, name: str) -> int:
        return sum(shape.bytes for shape in self._shapes[name])


def _parse(line: str) -> Instruction:
    left, _, right = line.partition(" = ")
    types, rest = _split_type(right)
    opcode = _OPCODE.match(rest)
    assert opcode is not None, line
    arguments, attributes = _split_parentheses(rest[opcode.end() - 1 :])
    target = re.search(r'custom_call_target="([^"]*)"', attributes)
    op_name = re.search(r'op_name="((?:[^"\\]|\\.)*)"', attributes)
    calls = re.findall(
        r"(?:calls|to_apply|condition|body|true_computation|false_computation)=%([\w.\-]+)",
        attributes,
    )
    branches = re.search(r"branch_computations=\{([^}]*)\}", attributes)
    calls += _NAME.findall(branches[1]) if branches else []
    return Instruction(
        name=_NAME.findall(left)[0],
        opcode=opcode[1],
        shapes=tuple(map(_shape, _SHAPE.findall(types))),
        operands=tuple(_NAME.findall(arguments)),
        target=target[1] if target else "",
        calls=tuple(calls),
        op_name=op_name[1].replace("\\", "") if op_name else "",
        text=line,
    )


def _shape(groups: tuple[str, str, str]) -> Shape:
    dtype, dims, layout = groups

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(n) for n in text.split(",") if n)

    return Shape(dtype, numbers(dims), numbers(layout))


def _split_type(text: str) -> tuple[str, str]:
    """Split "(f32[1], f32[2]) fusion(...)" after the type."""
    if text.startswith("("):
        return _split_parentheses(text)
    types, _, rest = text.partition(" ")
    return types, rest


def _split_parentheses(text: str) -> tuple[str, str]:
    """Split after the parenthesis that closes the first one."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: place + 1], text[place + 1 :]
    raise ValueError(f"expected a closing parenthesis: {text[:80]}")
