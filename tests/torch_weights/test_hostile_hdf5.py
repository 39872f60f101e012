"""Damaged and hostile HDF5 files are refused in one line, with bounded memory."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from cyclegan_jax.torch_weights.files import read_tensors  # noqa: E402
from cyclegan_jax.utils.errors import UserError  # noqa: E402
from tests.torch_weights.test_hostile_files import cheap_refusal  # noqa: E402
from tests.torch_weights.torch_files import DATA, refusal, write  # noqa: E402

STORED = (DATA / "keras_generator.hdf5", DATA / "keras_discriminator.hdf5")


def keras_file(path: Path, add: Callable[[Any], Any], names: Any = (b"w",)) -> Path:
    """Write a file with one layer, whose tensors `add` writes into the layer's group."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"layer"])
        group = file.create_group("layer")
        group.attrs["weight_names"] = np.array(names)
        add(group)
    return path


def test_a_plain_file(tmp_path):
    """A file with one tensor is read, in the type in which it is stored."""
    tensor = np.arange(6.0).reshape(2, 3)
    path = keras_file(tmp_path / "x", lambda group: group.create_dataset("w", data=tensor))
    tensors = read_tensors(path)
    assert list(tensors) == ["layer/w"]
    np.testing.assert_array_equal(tensors["layer/w"], tensor)
    assert not tensors["layer/w"].flags.writeable


def _external(group: Any) -> None:
    group["w"] = h5py.ExternalLink(str(STORED[0]), "/conv2d_4/conv2d_4/kernel:0")


def _soft(group: Any) -> None:
    group["w"] = h5py.SoftLink("/layer/v")
    group["v"] = np.ones(3)


def _raw(group: Any) -> None:
    secret = Path(group.file.filename).with_suffix(".secret")
    secret.write_bytes(bytes(80))
    group.create_dataset("w", (10,), "f8", external=[(str(secret), 0, 80)])


def _virtual(group: Any) -> None:
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(STORED[0]), "conv2d_4/conv2d_4/kernel:0", (3,))
    group.create_virtual_dataset("w", layout)


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a link to another file": (_external, "it lacks a tensor"),
    "a link by name": (_soft, "it lacks a tensor"),
    "numbers in another file": (_raw, "stored in the file itself"),
    "a view of another file": (_virtual, "stored in the file itself"),
    "compressed zeros": (
        lambda g: g.create_dataset("w", data=np.zeros(1 << 24, "f4"), compression="gzip"),
        "without compression",
    ),
    "numbers that were never written": (
        lambda g: g.create_dataset("w", (1 << 40,), "f4"),
        "larger than itself",
    ),
    "chunks that were never written": (
        lambda g: g.create_dataset("w", (1 << 40,), "f4", chunks=(1 << 10,)),
        "without compression",
    ),
    "integers": (lambda g: g.create_dataset("w", data=np.ones(3, int)), "floating-point numbers"),
    "texts": (lambda g: g.create_dataset("w", data="text"), "floating-point numbers"),
    "nothing": (lambda g: g.create_dataset("w", data=h5py.Empty("f4")), "it lacks a tensor"),
    "a group": (lambda g: g.create_group("w"), "it lacks a tensor"),
    "no such tensor": (lambda g: None, "it lacks a tensor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tensors_outside_the_file(tmp_path, case):
    """Only uncompressed floating-point numbers that the file itself holds are read."""
    add, expected = REFUSED[case]
    assert expected in cheap_refusal(keras_file(tmp_path / "x.hdf5", add))


def test_tensors_that_are_listed_again(tmp_path):
    """A tensor under many names is not copied more often than the file is large."""

    def add(group: Any) -> None:
        group["w0"] = np.zeros(1 << 18, "f4")
        for i in range(1, 100):
            group[f"w{i}"] = group["w0"]

    names = [b"w%d" % i for i in range(100)]
    path = keras_file(tmp_path / "x.hdf5", add, names)
    assert "larger than itself" in cheap_refusal(path, mebibytes=8)


def test_lists_of_names(tmp_path):
    """Lists that are missing, long, or of other types are refused."""

    def with_list(**lists: Any) -> Path:
        with h5py.File(tmp_path / "x.hdf5", "w", libver="latest") as file:
            for name, value in lists.items():
                file.attrs[name] = value
        return tmp_path / "x.hdf5"

    assert "by Keras's model.save_weights, got HDF5 without layer_names" in refusal(with_list())
    fixed = "expected strings of fixed length in layer_names"
    assert fixed in refusal(with_list(layer_names=np.arange(3)))
    assert fixed in refusal(with_list(layer_names=["a", "b"]))
    assert fixed in refusal(with_list(layer_names=np.array([[b"a"]])))
    long = np.full(5000, b"layer" * 10)
    assert "at most 64 KiB" in refusal(with_list(layer_names=long))
    assert "it lacks a tensor" in refusal(with_list(layer_names=np.array([b"/a"])))
    assert "cannot be read" in refusal(with_list(layer_names=np.array([b"\xff\xfe"])))
    assert "without tensors" in refusal(with_list(layer_names=np.array([], "S1")))


def test_truncated_files(tmp_path):
    """A file that ends early is refused."""
    content = STORED[1].read_bytes()
    for length in range(0, len(content) - 1, 997):
        refusal(write(tmp_path / "x.hdf5", content[:length]))


def test_garbled_files(tmp_path):
    """Whatever bytes change, the result is arrays or one line."""
    content, draw = STORED[1].read_bytes(), random.Random(0)
    refused = 0
    for _ in range(400):
        garbled = bytearray(content)
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(content))
            count = min(draw.choice((1, 1, 4, 8)), len(content) - at)
            garbled[at : at + count] = bytes([draw.choice((0, 255, draw.randrange(256)))]) * count
        try:
            read_tensors(write(tmp_path / "x.hdf5", bytes(garbled)))
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 100 < refused < 400
