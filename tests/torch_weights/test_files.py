"""PyTorch files are read without PyTorch; its writer, where it is installed, is the oracle."""

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import default
from cyclegan_jax.build import build_networks
from cyclegan_jax.torch_weights.files import read_tensors
from cyclegan_jax.torch_weights.formats import find_format, trainable
from tests.torch_weights.torch_files import (
    DATA,
    FORMATS,
    STORED,
    python2_file,
    refusal,
    repack,
    save,
    write,
)

ROOT = Path(__file__).parent.parent.parent


def test_needs_neither_torch_nor_tensorflow(tmp_path):
    """With PyTorch and others blocked, both formats are read, and export names what it lacks."""
    program = f"""
import sys
for name in ("torch", "tensorflow", "tensorflow_datasets", "clu", "grain", "tensorboard"):
    sys.modules[name] = None
from pathlib import Path
import cyclegan_jax.torch_weights.program as torch_weights
from cyclegan_jax.torch_weights.files import read_tensors
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
    """Without PyTorch: a file in each format gives the outputs stored beside it to 1e-5."""
    path = next(p for p in STORED if p.name.startswith(name))
    tensors, stored = trainable(read_tensors(path)), np.load(DATA / "torch_outputs.npz")
    entry = find_format(name, tensors)
    config = default.get_config()
    fields = entry.detect(tensors)
    config.update_from_flattened_dict({k: v for k, v in fields.items() if "channels" not in k})
    networks = build_networks(config)
    module = networks.gen_ab if name == "generator" else networks.disc_a
    like = jax.eval_shape(module.init, jax.random.key(0), stored["images"])["params"]
    params = entry.to_params(tensors, like)
    apply = jax.jit(module.apply, compiler_options={"xla_backend_optimization_level": 0})
    outputs = apply({"params": params}, stored["images"])
    assert stored[name].std() > 0.1
    np.testing.assert_allclose(outputs, stored[name], atol=1e-5)
    exported = entry.from_params(params)
    assert set(exported) == set(read_tensors(path))
    for key, array in tensors.items():
        np.testing.assert_array_equal(exported[key], array, err_msg=key)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_equal_those_of_pytorch(tmp_path, zipped, protocol):
    """All types, views of one storage, parameters, and tensors without or with one number."""
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
        "bfloat16": base.bfloat16()[2:],
        "double": base.double(),
        "bool": base > 0,
        **{
            str(t): base.abs().to(t)
            for t in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
        },
    }
    path = save(tmp_path / "x.pth", OrderedDict(tensors), zipped, pickle_protocol=protocol)
    arrays = read_tensors(path)
    assert list(arrays) == list(tensors)
    for name, tensor in tensors.items():
        assert str(arrays[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(arrays[name].astype(float), tensor.detach().double().numpy())
        assert not arrays[name].flags.writeable


@FORMATS
def test_state_dict_inside_a_dictionary(tmp_path, zipped):
    """The only state dict is found beside other plain values; several are refused."""
    torch = pytest.importorskip("torch")
    network = torch.nn.BatchNorm2d(3).state_dict()
    others = {"epoch": 3, "losses": [1.5, None, (True, -1, 2**40)], "optimizer": {0: {2**47: 1e-4}}}
    others["average"] = torch.ones(3)
    path = save(tmp_path / "x.pth", others | {"state_dict": network}, zipped)
    assert list(read_tensors(path)) == list(network)
    path = save(tmp_path / "y.pth", {"netG": network, "netD": network}, zipped)
    assert "got several (netG, netD)" in refusal(path)
    for value in ({"epoch": 3}, [torch.ones(3)], torch.ones(3)):
        assert "expected a state dict" in refusal(save(tmp_path / "z.pth", value, zipped))


def test_files_of_python_2(tmp_path):
    """Files as old as the released models are read, also with a view of a storage."""
    arrays = read_tensors(write(tmp_path / "x.pth", python2_file()))
    np.testing.assert_array_equal(arrays["w"], np.float32([1.5, 2.5, 3.5]))
    view = b"(U\x018K\x02K\x02t"  # key, offset 2, length 2
    content = python2_file(view=view, offset=1, shape=(1,))
    np.testing.assert_array_equal(
        read_tensors(write(tmp_path / "x.pth", content))["w"], np.float32([3.5])
    )


def test_other_byte_orders(tmp_path):
    """A zip file names its byte order and is read in it; a big-endian legacy file is refused."""
    expected = read_tensors(STORED[0])

    def swapped(name: str, content: bytes) -> bytes:
        if "/data/" in name:
            return np.frombuffer(content, "<f4").astype(">f4").tobytes()
        return b"big" if name.endswith("byteorder") else content

    arrays = read_tensors(write(tmp_path / "x.pth", repack(STORED[0], swapped)))
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert "big-endian" in refusal(write(tmp_path / "x.pth", python2_file(little=b"\x89")))
