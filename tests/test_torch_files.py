"""Files of PyTorch read without it; its own writer, where it is installed, is the oracle.

`data/generator_zip.pth` and `data/discriminator_legacy.pth` were written by PyTorch 2.13 from two
networks of `benchmarks/torch_networks.py` with `0.5 * torch.randn` for every parameter after
`torch.manual_seed(0)`: ResNetGenerator(3, 3, width=1, blocks=1), in the zip format, and
PatchDiscriminator(3, width=2, layers=1, norm="batch"), in the one before.
`data/torch_outputs.npz` has two pictures and what those networks made of them there.
"""

import io
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from configs import default
from cyclegan_jax.errors import UserError
from cyclegan_jax.state import build_networks
from cyclegan_jax.torch_files import read_tensors
from cyclegan_jax.torch_names import (
    detect_discriminator,
    detect_generator,
    params_from_torch,
    torch_from_params,
)

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
STORED = [DATA / "generator_zip.pth", DATA / "discriminator_legacy.pth"]
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def refusal(path: Path) -> str:
    """The one line with which a file is refused; it names the file."""
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_needs_neither_torch_nor_tensorflow(tmp_path):
    """The command's module imports, and both formats are read, with PyTorch and others blocked."""
    program = f"""
import sys
for name in ("torch", "tensorflow", "tensorflow_datasets", "clu", "grain", "tensorboard"):
    sys.modules[name] = None
from pathlib import Path
import cyclegan_jax.torch_weights as torch_weights
from cyclegan_jax.torch_files import read_tensors
for path in {[str(p) for p in STORED]}:
    assert len(read_tensors(Path(path))) > 5
torch_weights.main(["export", "--workdir", "w", "--output", {str(tmp_path / "out")!r}])
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert "UserError: export needs PyTorch: pip install torch" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_stored_networks_compute_what_pytorch_computed(name):
    """Without PyTorch: both files, in both formats, to the outputs stored beside them to 1e-5."""
    path = next(p for p in STORED if p.name.startswith(name))
    tensors, stored = read_tensors(path), np.load(DATA / "torch_outputs.npz")
    detect = detect_generator if name == "generator" else detect_discriminator
    config = default.get_config()
    config.update_from_flattened_dict(
        {field: value for field, value in detect(tensors).items() if "channels" not in field}
    )
    networks = build_networks(config)
    module = networks.gen_ab if name == "generator" else networks.disc_a
    like = jax.eval_shape(module.init, jax.random.key(0), stored["pictures"])["params"]
    params = params_from_torch(tensors, like)
    apply = jax.jit(module.apply, compiler_options={"xla_backend_optimization_level": 0})
    found = apply({"params": params}, stored["pictures"])
    assert stored[name].std() > 0.1
    np.testing.assert_allclose(found, stored[name], atol=1e-5)
    for key, array in torch_from_params(params).items():
        if "running_" not in key and "num_batches" not in key:
            np.testing.assert_array_equal(array, tensors[key], err_msg=key)
    assert set(torch_from_params(params)) == set(tensors)


def save(path: Path, value: Any, zipped: bool, **options: Any) -> Path:
    """`torch.save` in either format."""
    torch = pytest.importorskip("torch")
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
    return path


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_are_torchs(tmp_path, zipped, protocol):
    """All types, transposed and sliced views of one storage, parameters, none and one number."""
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6) - 7.5
    tensors = {
        "base": base,
        "transposed": base.t()[2:],
        "sliced": base[1::2, ::3],
        "parameter": torch.nn.Parameter(base[:2]),
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(7),
        "half": base.half(),
        "brain": base.bfloat16()[2:],
        "double": base.double(),
        "bool": base > 0,
        **{
            str(t): base.abs().to(t)
            for t in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
        },
    }
    path = save(tmp_path / "x.pth", OrderedDict(tensors), zipped, pickle_protocol=protocol)
    found = read_tensors(path)
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert str(found[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(found[name].astype(float), tensor.detach().double().numpy())
        assert not found[name].flags.writeable


@FORMATS
def test_state_dict_inside_a_dictionary(tmp_path, zipped):
    """The only one is found among other plain values; of several none is guessed."""
    torch = pytest.importorskip("torch")
    network = torch.nn.BatchNorm2d(3).state_dict()
    others = {"epoch": 3, "losses": [1.5, None, (True, -1, 2**40)], "optimizer": {"lr": 1e-4}}
    path = save(tmp_path / "x.pth", others | {"state_dict": network}, zipped)
    assert list(read_tensors(path)) == list(network)
    path = save(tmp_path / "y.pth", {"netG": network, "netD": network}, zipped)
    assert "several state dicts (netG, netD)" in refusal(path)
    for value in (others, [torch.ones(3)], torch.ones(3)):
        assert "holds no state dict" in refusal(save(tmp_path / "z.pth", value, zipped))


class Command:
    """Pickled as a call of `os.system`."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


@FORMATS
def test_functions_are_refused_and_not_called(tmp_path, zipped):
    """What a file refers to is named, be it a command, a function, or a class of PyTorch's."""
    torch = pytest.importorskip("torch")
    mark = tmp_path / "called"
    path = save(tmp_path / "x.pth", {"a": torch.ones(2), "b": Command(f"touch {mark}")}, zipped)
    assert "refers to posix.system" in refusal(path)
    for value, name in (
        ({"a": torch.ones(2), "b": print}, "__builtin__.print"),
        ({"a": torch.ones(2), "b": np.ones(2)}, "numpy"),
        (torch.nn.Conv2d(1, 1, 1), "torch.nn.modules.conv.Conv2d"),
        ({"a": torch.ones(2).to_sparse()}, "torch._utils._rebuild_sparse_tensor"),
    ):
        assert f"refers to {name}" in refusal(save(tmp_path / "x.pth", value, zipped))
    path = written(tmp_path / "x.pth", pickle.dumps(Command(f"touch {mark}"), 2))
    assert "refers to posix.system" in refusal(path)
    assert not mark.exists()


@pytest.mark.parametrize("path", STORED, ids=["zip", "legacy"])
def test_functions_are_refused_in_stored_files(tmp_path, path):
    """Without PyTorch: the name of a function that builds a tensor is exchanged for another."""

    def change(name: str, content: bytes) -> bytes:
        return content.replace(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cbuiltins\nexec\n")

    zipped = path.name.endswith("zip.pth")
    evil = repacked(path, change) if zipped else change("", path.read_bytes())
    assert "refers to builtins.exec" in refusal(written(tmp_path / "x.pth", evil))


def repacked(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file with each part replaced by `change(name, part)`, or left out for None."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for info in old.infolist():
            content = change(info.filename, old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
    return buffer.getvalue()


@pytest.mark.parametrize("path", STORED, ids=["zip", "legacy"])
def test_cut_off_files(tmp_path, path):
    """A file that ends early is refused wherever it ends."""
    content = path.read_bytes()
    for length in [*range(0, len(content), 97), *range(len(content) - 40, len(content))]:
        refusal(written(tmp_path / "x.pth", content[:length]))


@pytest.mark.parametrize("path", STORED, ids=["zip", "legacy"])
def test_garbled_files(tmp_path, path):
    """Whatever bytes change, there are arrays or one line, and nothing is called."""
    content, draw = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(400):
        garbled = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            garbled[draw.randrange(len(content))] = draw.randrange(256)
        # Python's zip archives have checksums of all parts, which would hide the pickle.
        if path.name.endswith("zip.pth"):
            seed = draw.random()
            garbled = repacked(path, lambda name, x, seed=seed: flipped(name, x, seed))
        try:
            read_tensors(written(tmp_path / "x.pth", bytes(garbled)))
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 50 < refused < 400


def flipped(name: str, content: bytes, seed: float) -> bytes:
    if not name.endswith("data.pkl"):
        return content
    draw, garbled = random.Random(seed), bytearray(content)
    garbled[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(garbled)


def test_what_is_no_file_of_torchs(tmp_path):
    """A folder, nothing, an empty file, text, another pickle, another archive: each by its name."""
    assert "Is a directory" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "nothing.pth")
    assert "an empty file" in refusal(written(tmp_path / "x.pth", b""))
    for content in (b"<!DOCTYPE html>\n" * 99, pickle.dumps({"a": 1}), bytes(5000)):
        assert "not a .pth file" in refusal(written(tmp_path / "x.pth", content))
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("word/document.xml", "text")
    assert "a zip archive, but not" in refusal(tmp_path / "x.pth")


def python2_file(
    *,
    numel: int = 4,
    offset: int = 1,
    shape: tuple[int, ...] = (3,),
    strides: tuple[int, ...] = (1,),
    view: bytes = b"N",
    little: bytes = b"\x88",
    kind: bytes = b"storage",
    length: int = 4,
) -> bytes:
    """A file as PyTorch 0.3 wrote it from Python 2, with `w`: [0.5, 1.5, 2.5, 3.5] as storage.

    Byte texts, the items of the OrderedDict in a list of lists, a tensor without hooks. All
    numbers of at most 8 bytes.
    """

    def number(value: int) -> bytes:
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    start = b"\x80\x02"
    magic = start + b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    protocol = start + b"M\xe9\x03."
    system = start + b"}(" + text(b"little_endian") + little + b"u."
    storage = (
        b"(" + text(kind) + b"ctorch.cuda\nFloatStorage\n" + text(b"7") + text(b"cuda:0")
        + number(numel) + view + b"tQ"
    )  # fmt: skip
    tensor = (
        b"ctorch._utils\n_rebuild_tensor\n("
        + storage + number(offset) + numbers(shape) + numbers(strides) + b"tR"
    )  # fmt: skip
    found = start + b"ccollections\nOrderedDict\n](](" + text(b"w") + tensor + b"ee\x85R."
    keys = start + b"](" + text(b"7") + b"e."
    data = length.to_bytes(8, "little") + np.arange(0.5, 4.0).astype("<f4").tobytes()
    return magic + protocol + system + found + keys + data


def test_files_of_python_2(tmp_path):
    """Of the age of the released models; also with a view of a storage."""
    found = read_tensors(written(tmp_path / "x.pth", python2_file()))
    np.testing.assert_array_equal(found["w"], np.float32([1.5, 2.5, 3.5]))
    view = b"(U\x018K\x02K\x02t"  # key, offset 2, length 2
    content = python2_file(view=view, offset=1, shape=(1,))
    np.testing.assert_array_equal(
        read_tensors(written(tmp_path / "x.pth", content))["w"], np.float32([3.5])
    )


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": (4,)},
        {"offset": -1},
        {"offset": 2**62},
        {"shape": (2**62,)},
        {"shape": (3, 2), "strides": (1, 2**62)},
        {"shape": (2, 2), "strides": (-1, 1)},
        {"shape": (2**40,), "strides": (0,)},
        {"shape": (1,) * 80, "strides": (0,) * 80, "offset": 0},
        {"shape": (2,), "strides": (1, 1)},
        {"numel": 2**50, "length": 2**50, "shape": (2**50,)},
        {"numel": 5, "length": 5},
        {"numel": 3},
        {"length": 2**62},
        {"view": b"(U\x018K\x03K\x02t"},
        {"kind": b"module"},
    ],
    ids=str,
)
def test_sizes_that_the_file_has_not(tmp_path, lie):
    """Shapes, strides, offsets and lengths beyond the numbers there are."""
    assert "damaged" in refusal(written(tmp_path / "x.pth", python2_file(**lie)))


def test_deep_and_dense_pickles(tmp_path):
    """Nesting without end, a memo far away and keys that are no words do no harm."""
    magic = python2_file()[:21]
    system = b"\x80\x02}U\x0dlittle_endian\x88s."
    for program in (
        b"]" + b"\x85" * 200_000,
        b"]r\xff\xff\xff\xff",
        b"}" + b")" + b"\x85" * 200_000 + b"Ns",
        b"}X\xff\xff\xff\xff",
        b")t)t(tt",
    ):
        content = magic + system + b"\x80\x02" + program + b".\x80\x02]."
        refusal(written(tmp_path / "x.pth", content))


def test_other_byte_orders(tmp_path):
    """A zip file says its order and is read by it; a big-endian machine's stream is refused."""
    expected = read_tensors(STORED[0])

    def swapped(name: str, content: bytes) -> bytes:
        if "/data/" in name:
            return np.frombuffer(content, "<f4").astype(">f4").tobytes()
        return b"big" if name.endswith("byteorder") else content

    found = read_tensors(written(tmp_path / "x.pth", repacked(STORED[0], swapped)))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert "big-endian" in refusal(written(tmp_path / "x.pth", python2_file(little=b"\x89")))


def test_zip_files_without_their_parts(tmp_path):
    """A storage left out, one cut off, a compressed archive, an unknown byte order."""
    for change in (
        lambda name, x: None if name.endswith("/data/3") else x,
        lambda name, x: x[:-4] if name.endswith("/data/3") else x,
        lambda name, x: b"middle" if name.endswith("byteorder") else x,
        lambda name, x: x[:-1] if name.endswith("data.pkl") else x,
    ):
        assert "damaged" in refusal(written(tmp_path / "x.pth", repacked(STORED[0], change)))
    same = repacked(STORED[0], lambda name, x: x, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(written(tmp_path / "x.pth", same))
