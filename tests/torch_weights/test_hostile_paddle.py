"""Damaged and hostile Paddle files are refused in one line, without code run or memory filled."""

import pickle
import random

import numpy as np
import pytest

from cyclegan_jax.torch_weights import paddle_files, torch_files, unpickler
from cyclegan_jax.torch_weights.files import read_tensors
from cyclegan_jax.utils.errors import UserError
from tests.torch_weights.test_hostile_files import BOMBS, Command, cheap_refusal
from tests.torch_weights.torch_files import DATA, refusal, write

STORED = (DATA / "paddle_generator.pdparams", DATA / "paddle_generator_protocol2.pdparams")
PROTOCOLS = pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))


class Reduced:
    """Pickled as a call of any function, with a state."""

    def __init__(self, *reduced: object) -> None:
        self._reduced = reduced

    def __reduce__(self) -> tuple[object, ...]:
        return self._reduced


@PROTOCOLS
def test_functions_and_classes_are_refused(tmp_path, protocol):
    """A command, a function, an object array and a type are named, and nothing runs."""
    mark = tmp_path / "called"
    array = np.ones(3, np.float32)
    for value, expected in (
        (Command(f"touch {mark}"), "refers to posix.system"),
        (print, "print"),
        (slice, "slice"),
        (np.float32(1), "refers to numpy"),
        (np.array([None]), "expected the type of numbers"),
        (np.array(["a"]), "expected the type of numbers"),
        (np.ones(2, ">f4"), "expected little-endian numbers"),
        (np.ones(2, "c16"), "expected the type of numbers"),
        (Reduced(np.ndarray, ((3,),)), "cannot be read"),
    ):
        content = pickle.dumps({"w": array, "x": value}, protocol)
        message = refusal(write(tmp_path / "x.pdparams", content))
        # Protocol 5 builds arrays by another function, which is not needed.
        assert expected in message or (protocol == 5 and "_frombuffer" in message)
    assert not mark.exists()


@pytest.mark.parametrize("protocol", (2, 3, 4))
def test_arrays(tmp_path, protocol):
    """Arrays of all sizes, orders and types of numbers are read; other values are left out."""
    draw = np.random.default_rng(0)
    arrays = {
        "matrix": draw.normal(size=(300, 70)).astype(np.float32),
        "columns": np.asfortranarray(draw.normal(size=(5, 7))),
        "half": draw.normal(size=3).astype(np.float16),
        "number": np.array(2.5, np.float32),
        "integers": np.arange(5),
    }
    if protocol > 2:
        arrays["none"] = np.ones((0, 3), np.float32)
    value = {**arrays, "step": 3, "names": {"a": "b"}}
    result = read_tensors(write(tmp_path / "x.pdparams", pickle.dumps(value, protocol)))
    assert list(result) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(result[name], array)
        assert result[name].dtype == array.dtype
        assert not result[name].flags.writeable


def test_pytorch_files_have_no_arrays():
    """Opcodes and functions of arrays are those of Paddle files alone."""
    added = {pickle.BINBYTES[0], pickle.SHORT_BINBYTES[0]}
    assert set(paddle_files._PaddleUnpickler.dispatch) == set(unpickler.Unpickler.dispatch) | added
    assert not added & set(torch_files._TorchUnpickler.dispatch)
    assert not any("numpy" in name for name in torch_files._TorchUnpickler.functions)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path, name):
    """Nesting and repetition through the memo take memory and time in proportion to the file."""
    content = b"\x80\x02" + BOMBS[name] + b"."
    cheap_refusal(write(tmp_path / "x.pdparams", content), mebibytes=8, seconds=3)


@pytest.mark.parametrize(
    "program",
    [
        *(code + b"\xff\xff\xff\xff" for code in (b"X", b"B", b"T")),
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"c" + b"a" * 5000,
    ],
    ids=lambda program: program[:1].hex(),
)
def test_lengths_beyond_the_file(tmp_path, program):
    """A text, array or frame that claims gigabytes takes none."""
    cheap_refusal(write(tmp_path / "x.pdparams", b"\x80\x04}" + program + b"abc"))


def test_copies_of_a_text(tmp_path):
    """A text that is encoded again and again takes no more memory than the file."""
    text = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"q\x00"
    latin1 = b"X\x06\x00\x00\x00latin1q\x01"
    program = b"](" + text + latin1 + b"c_codecs\nencode\nq\x02" + b"h\x02h\x00h\x01\x86R" * 1000
    path = write(tmp_path / "x.pdparams", b"\x80\x02" + program + b"e.")
    assert "expected the numbers of an array" in cheap_refusal(path, mebibytes=8)


def test_arrays_that_are_named_again(tmp_path):
    """An array under many names is refused where its copies would fill the memory."""
    array = np.zeros(1 << 18, np.float32)
    content = pickle.dumps({str(i): array for i in range(100)}, 4)
    path = write(tmp_path / "x.pdparams", content)
    assert "its tensors are larger than itself" in cheap_refusal(path)


def test_large_pickles(tmp_path, monkeypatch):
    """Opcodes are bounded, while the numbers of arrays are not."""
    monkeypatch.setattr(paddle_files, "MAX_BYTES", 1 << 12)
    monkeypatch.setattr(unpickler, "MAX_BYTES", 1 << 12)
    array = np.zeros(1 << 18, np.float32)
    for protocol in (2, 4):
        path = write(tmp_path / "x.pdparams", pickle.dumps({"w": array}, protocol))
        np.testing.assert_array_equal(read_tensors(path)["w"], array)
    path = write(tmp_path / "x.pdparams", b"\x80\x04" + b"}" * (1 << 13))
    assert "expected a pickle below" in cheap_refusal(path)


@pytest.mark.parametrize(
    "state",
    [
        (1, (4,), np.dtype("f4"), False, bytes(12)),
        (1, (2,), np.dtype("f4"), False, bytes(12)),
        (1, (2**62, 2**62), np.dtype("f4"), False, bytes(12)),
        (1, (-3,), np.dtype("f4"), False, bytes(12)),
        (1, (1,) * 40, np.dtype("f4"), False, bytes(4)),
        (1, [3], np.dtype("f4"), False, bytes(12)),
        (1, (3,), "f4", False, bytes(12)),
        (1, (3,), np.dtype("f4"), False, "text"),
        (1, (3,), np.dtype("f4"), False, [0.0] * 3),
        (1, (3,)),
        [1, 2, 3, 4, 5],
    ],
    ids=str,
)
def test_states_of_arrays(tmp_path, state):
    """Shapes, types and lengths that contradict each other are refused."""
    build = np.ones(1).__reduce__()[0]
    value = {"w": Reduced(build, (np.ndarray, (0,), b"b"), state)}
    message = cheap_refusal(write(tmp_path / "x.pdparams", pickle.dumps(value, 4)))
    assert "damaged or truncated" in message


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_truncated_and_garbled_files(tmp_path, path):
    """A file that ends early is refused; whatever bytes change, the result is arrays or a line."""
    content, draw = path.read_bytes(), random.Random(0)
    for length in [*range(0, len(content), 97), *range(len(content) - 40, len(content))]:
        refusal(write(tmp_path / "x.pdparams", content[:length]))
    refused = 0
    for _ in range(600):
        garbled = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(1, len(content))
            garbled[at] = draw.choice((0, 255, draw.randrange(256)))
        try:
            read_tensors(write(tmp_path / "x.pdparams", bytes(garbled)))
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 100 < refused < 600
