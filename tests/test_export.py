"""Generators in files: what they compute at sizes they never saw, what they say, what is refused.

The oracle is the network in JAX, with random parameters that leave no bias or scale at its default.
"""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors import safe_open

from cyclegan_jax.export import onnx_graph
from cyclegan_jax.export.portable import load_safetensors, load_stablehlo, to_float32, to_stablehlo
from cyclegan_jax.export.program import export_generator, main
from cyclegan_jax.inference.translator import Network, Translator, translate
from cyclegan_jax.models.generators import GENERATORS, build_generator, has_blocks
from cyclegan_jax.models.layers import NORMS, Style
from cyclegan_jax.utils.errors import UserError
from tests.translators import save_run

RNG = np.random.default_rng(0)
# The published ResNets differ in their number of blocks alone.
KINDS = [(name, "instance") for name in GENERATORS if name not in ("resnet3", "resnet6")]
KINDS += [("resnet3", norm) for norm in NORMS[1:]] + [("unet128", "instance_affine")]


def random_network(variant, style, channels=(3, 2), width=2):
    """A generator whose parameters keep the size of what passes through it."""
    blocks = 1 if has_blocks(variant) else None
    generator = build_generator(
        variant, channels=channels[1], width=width, style=style, blocks=blocks
    )
    side = 2 * generator.granularity
    image = jax.ShapeDtypeStruct((1, side, side, channels[0]), jnp.float32)
    shapes = jax.eval_shape(generator.init, jax.random.key(0), image)["params"]

    def draw(path, leaf):
        kind = path[-1].key
        spread = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if kind == "kernel" else 0.3
        return np.asarray((kind == "scale") + spread * RNG.standard_normal(leaf.shape), leaf.dtype)

    return Network(generator, jax.tree.map_with_path(draw, shapes), channels[0])


def images(network, batch, rows, columns):
    """Random, so many times the smallest unit of the network high and wide."""
    unit = network.generator.granularity
    shape = (batch, rows * unit, columns * unit, network.channels)
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def run_onnx(model, x):
    """What ONNX Runtime makes of NHWC."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (y,) = session.run(["translations"], {"images": x.transpose(0, 3, 1, 2).copy()})
    return y.transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory of a run with checkpoints 3 and 9."""
    workdir = tmp_path_factory.mktemp("run")
    save_run(workdir, (3, 9))
    return workdir


@pytest.mark.parametrize(("variant", "norm"), KINDS)
def test_files_agree_with_jax_at_sizes_they_never_saw(variant, norm, tmp_path):
    """Every variant and norm, in ONNX Runtime and as StableHLO, at two sizes and batches."""
    network = random_network(variant, Style(norm=norm))
    model = onnx_graph.build_model(network, {})
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "network"
    path.write_bytes(to_stablehlo(network))
    loaded = load_stablehlo(path)
    sizes = ((2, 2, 3), (1, 5, 4)) if has_blocks(variant) else ((2, 1, 2), (1, 2, 1))
    for size in sizes:
        x = images(network, *size)
        expected = translate(network.generator, network.params, x)
        assert expected.std() > 0.1 and np.mean(np.abs(expected) > 0.99) < 0.1
        for result in (run_onnx(model.SerializeToString(), x), loaded(x)):
            np.testing.assert_allclose(result, expected, atol=1e-4)


def test_wide_networks_agree_too(tmp_path):
    """From 64 channels on convolutions take another form on CPUs."""
    network = random_network("resnet3", Style(), width=16)
    (tmp_path / "network").write_bytes(to_stablehlo(network))
    x = images(network, 1, 3, 5)
    expected = translate(network.generator, network.params, x)
    np.testing.assert_allclose(load_stablehlo(tmp_path / "network")(x), expected, atol=1e-4)


def test_bfloat16_is_exported_in_float32(tmp_path):
    """What was trained in half precision comes out as the same network in float32."""
    network = random_network("resnet3", Style(dtype=jnp.bfloat16))
    plain = to_float32(network)
    x = images(network, 1, 3, 4)
    expected = translate(plain.generator, plain.params, x)
    assert np.abs(translate(network.generator, network.params, x) - expected).max() > 1e-3
    (tmp_path / "network").write_bytes(to_stablehlo(network))
    np.testing.assert_allclose(load_stablehlo(tmp_path / "network")(x), expected, atol=1e-4)
    model = onnx_graph.build_model(plain, {}).SerializeToString()
    np.testing.assert_allclose(run_onnx(model, x), expected, atol=1e-4)


def call(workdir, output, *more):
    main(["--workdir", str(workdir), "--output", str(output), *more])


def test_onnx_of_a_run(run, tmp_path, capsys):
    """The file says what it takes and where it is from, and computes what the network does."""
    path = tmp_path / "model.onnx"
    call(run, path, "--direction", "b_to_a", "--checkpoint", "3")
    assert capsys.readouterr().out.startswith(f"{path}: 0.0 MB, from checkpoint 3; loaded again")
    model = onnx.load(path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    about = {entry.key: entry.value for entry in model.metadata_props}
    config = json.loads(about.pop("config"))
    assert config == json.loads((run / "config.json").read_text())
    assert about == {
        "format_version": "1",
        "direction": "b_to_a",
        "step": "3",
        "layout": "NCHW",
        "range": "[-1, 1]",
        "granularity": "4",
        "smallest": "8",
    }
    assert "NCHW" in model.doc_string and "multiples of 4, at least 8" in model.doc_string
    for value in (*model.graph.input, *model.graph.output):
        dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        assert dims == ["batch", 3, "height", "width"]
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    network = Translator.load(run, "b_to_a", 3).there
    x = images(network, 3, 5, 2)
    expected = translate(network.generator, network.params, x)
    np.testing.assert_allclose(run_onnx(path, x), expected, atol=1e-4)
    assert list(tmp_path.iterdir()) == [path]


def test_onnx_runs_without_jax(run, tmp_path):
    """ONNX Runtime and NumPy are all that a program needs."""
    export_generator(run, tmp_path / "model.onnx")
    network = Translator.load(run).there
    x = images(network, 1, 7, 3)
    np.save(tmp_path / "x.npy", x.transpose(0, 3, 1, 2))
    program = """
import sys
for name in ("jax", "jaxlib", "flax", "cyclegan_jax"):
    sys.modules[name] = None
import numpy, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
numpy.save("y.npy", session.run(None, {"images": numpy.load("x.npy")})[0])
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    made = np.load(tmp_path / "y.npy").transpose(0, 2, 3, 1)
    expected = translate(network.generator, network.params, x)
    np.testing.assert_allclose(made, expected, atol=1e-4)


def test_stablehlo_needs_jax_alone(run, tmp_path):
    """A program without this package and Flax runs the file; sizes that do not fit are refused."""
    export_generator(run, tmp_path / "model.stablehlo", direction="b_to_a")
    network = Translator.load(run, "b_to_a").there
    x = images(network, 1, 7, 3)
    np.save(tmp_path / "x.npy", x)
    program = """
import sys
for name in ("flax", "cyclegan_jax"):
    sys.modules[name] = None
import numpy
from jax import export
exported = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
assert exported.platforms == ("cpu", "cuda")
x = numpy.load("x.npy")
numpy.save("y.npy", exported.call(x))
for wrong in (x[:, :10], x[:, :4]):
    try:
        exported.call(wrong)
    except ValueError:
        continue
    raise AssertionError(wrong.shape)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    expected = translate(network.generator, network.params, x)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-4)


@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
def test_safetensors_give_the_same_bits(run, tmp_path, direction):
    """Configuration and network are those of the run, and so is what they make of an image."""
    path = tmp_path / "model.safetensors"
    call(run, path, "--direction", direction)
    config, network = load_safetensors(path)
    assert config.to_dict() == json.loads((run / "config.json").read_text())
    kept = Translator.load(run, direction).there
    assert network.channels == kept.channels
    x = images(network, 1, 3, 2)
    ours = translate(network.generator, network.params, x)
    np.testing.assert_array_equal(ours, translate(kept.generator, kept.params, x))
    with safe_open(path, framework="numpy") as file:
        assert (file.metadata()["step"], file.metadata()["direction"]) == ("9", direction)
        kernel = file.get_tensor("block_0.conv_0.kernel")
    np.testing.assert_array_equal(kernel, kept.params["block_0"]["conv_0"]["kernel"])


def test_wrong_results_are_not_written(run, tmp_path, monkeypatch):
    """A file whose network computes something else does not replace the one that is there."""
    path = tmp_path / "model.onnx"
    path.write_text("before")
    monkeypatch.setattr(onnx_graph, "_EPSILON", 1.0)
    with pytest.raises(UserError, match="was not written: its results differ"):
        call(run, path, "--overwrite")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_text() == "before"
    monkeypatch.undo()
    call(run, path, "--overwrite")
    onnx.checker.check_model(path)


@pytest.mark.parametrize(
    ("output", "arguments", "expected"),
    [
        ("model", [], "end it with one of .onnx, .stablehlo, .safetensors, or choose a --format"),
        ("model.pth", [], "end it with one of"),
        ("model.onnx", ["--format", "stablehlo"], "its name says onnx, --format says stablehlo"),
        ("model.onnx", ["--format", "tflite"], "invalid choice: 'tflite'"),
        ("there.onnx", [], "there.onnx there already; --overwrite replaces it"),
        ("folder.onnx", ["--overwrite"], "a folder; the name of a file was expected"),
        ("none/model.onnx", [], "there is no folder"),
        ("there.onnx/model.onnx", [], "there is no folder"),
        ("model.onnx", ["--checkpoint", "4"], "no checkpoint of step 4; there are 3, 9"),
        ("model.onnx", ["--direction", "up"], "invalid choice: 'up'"),
        ("model.onnx", ["--workdir", "nowhere"], "there is no such folder"),
    ],
)
def test_mistakes_are_said_in_one_line(run, tmp_path, output, arguments, expected):
    """Places, formats and checkpoints; nothing is made."""
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "there.onnx").write_text("")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as caught:
        call(run, tmp_path / output, *arguments)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_named(run, tmp_path, monkeypatch):
    """One line, whatever the system's reason."""

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refused)
    with pytest.raises(UserError, match=r"model.onnx: cannot be written: Permission denied$"):
        call(run, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("suffix", "library"),
    [
        ("onnx", "onnx"),
        ("onnx", "onnxruntime"),
        ("stablehlo", "flatbuffers"),
        ("safetensors", "safetensors"),
    ],
)
def test_missing_libraries_are_named(run, tmp_path, monkeypatch, suffix, library):
    """With the command that installs them, before anything is loaded."""
    monkeypatch.setitem(sys.modules, library, None)
    expected = f"export to {suffix} needs {library}: pip install {library}"
    with pytest.raises(UserError, match=expected):
        call(run, tmp_path / f"model.{suffix}")


def test_files_of_another_kind_are_refused(tmp_path):
    """What is missing, broken, or of another program."""
    from safetensors.numpy import save_file

    (tmp_path / "broken").write_bytes(b"no such thing")
    save_file({"weight": np.zeros(3)}, tmp_path / "other")
    for load in (load_stablehlo, load_safetensors):
        with pytest.raises(UserError, match="none: cannot be read|none: No such file"):
            load(tmp_path / "none")
        with pytest.raises(UserError, match="broken: not a"):
            load(tmp_path / "broken")
    with pytest.raises(UserError, match=r"other: not made by cyclegan_jax\.export"):
        load_safetensors(tmp_path / "other")
