"""The export program: files and their metadata, verification, and refusals."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from cyclegan_jax import config as config_lib
from cyclegan_jax.export import load_safetensors, load_stablehlo, onnx_graph
from cyclegan_jax.export.exporters import EXPORTERS
from cyclegan_jax.export.program import export_generator, main
from cyclegan_jax.inference.translator import Translator, translate
from cyclegan_jax.utils.errors import UserError
from tests.export.networks import images, run_onnx


def call(workdir, output, *more):
    main(["--workdir", str(workdir), "--output", str(output), *more])


@pytest.mark.smoke
def test_onnx_of_a_run(run, tmp_path, capsys):
    """The file states its inputs and origin, and computes what the network does."""
    path = tmp_path / "model.onnx"
    call(run, path, "--direction", "b_to_a", "--checkpoint", "3")
    printed = capsys.readouterr().out
    assert printed.startswith(f"{path}: 0.0 MB, from checkpoint 3; differs from the network by at")
    model = onnx.load(path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    config = json.loads(metadata.pop("config"))
    assert config == json.loads((run / "config.json").read_text())
    assert metadata == {
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
    network = Translator.load(run, "b_to_a", 3).network
    x = images(network, 3, 5, 2)
    expected = translate(network.generator, network.params, x)
    np.testing.assert_allclose(run_onnx(path, x), expected, atol=1e-4)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format", EXPORTERS)
def test_files_contain_no_local_folders(run, tmp_path, format):
    """A file that is given to others names neither the images' folders nor those of the program."""
    copied = shutil.copytree(run, tmp_path / "run")
    config = config_lib.read_json(copied / "config.json")
    config.data.dir = "~/secret/horses"
    config.data.train_a = "/home/user/secret/a1,../secret/a2"
    config.evaluation.best = "a_to_b/fid"
    (copied / "config.json").write_text(config_lib.to_json(config))
    content = export_generator(copied, tmp_path / f"model.{format}").path.read_bytes()
    for folder in ("secret", "/home/user", str(tmp_path), str(Path(__file__).parents[2])):
        assert folder.encode() not in content
    if format != "stablehlo":
        for kept in ("horses", "a1,a2", "a_to_b/fid"):
            assert kept.encode() in content


def test_onnx_runs_without_jax(run, tmp_path):
    """A program needs only ONNX Runtime and NumPy."""
    export_generator(run, tmp_path / "model.onnx")
    network = Translator.load(run).network
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
    result = np.load(tmp_path / "y.npy").transpose(0, 2, 3, 1)
    expected = translate(network.generator, network.params, x)
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.smoke
def test_stablehlo_needs_only_jax(run, tmp_path):
    """A program without this package and Flax runs the file; unsupported sizes are refused."""
    export_generator(run, tmp_path / "model.stablehlo", direction="b_to_a")
    network = Translator.load(run, "b_to_a").network
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


def test_wrong_results_are_not_written(run, tmp_path, monkeypatch):
    """A file that computes something else does not replace an existing one."""
    path = tmp_path / "model.onnx"
    path.write_text("before")
    build_model = onnx_graph.build_model

    def wrong(network, metadata):
        params = {**network.params, "head": {"kernel": network.params["head"]["kernel"] + 1}}
        return build_model(network._replace(params={**network.params, **params}), metadata)

    monkeypatch.setattr(onnx_graph, "build_model", wrong)
    with pytest.raises(UserError, match="model.onnx: not written: expected results within 0.001"):
        call(run, path, "--overwrite")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_text() == "before"
    monkeypatch.undo()
    call(run, path, "--overwrite")
    onnx.checker.check_model(path)


def export_npz(trained, path):
    """Write parameters' sizes: an exporter of a user's own."""
    with path.open("wb") as file:
        np.savez(file, step=trained.step, kernel=trained.network.params["head"]["kernel"])
    return 0.0


def test_exporter_of_a_users_own(run, tmp_path):
    """`package.module:attribute` names an exporter, for any suffix."""
    path = tmp_path / "model.npz"
    call(run, path, "--format", f"{__name__}:export_npz")
    kernel = Translator.load(run).network.params["head"]["kernel"]
    np.testing.assert_array_equal(np.load(path)["kernel"], kernel)
    with pytest.raises(UserError, match="--format=nowhere:export: cannot be imported"):
        call(run, tmp_path / "other.npz", "--format", "nowhere:export")


@pytest.mark.parametrize(
    ("output", "arguments", "expected"),
    [
        ("model", [], "expected a suffix of .onnx, .stablehlo, .safetensors, or a --format"),
        ("model.pth", [], "expected a suffix of"),
        ("model.onnx", ["--format", "stablehlo"], "expected the suffix .stablehlo of --format"),
        ("model.onnx", ["--format", "tflite"], "--format: expected one of onnx, stablehlo, saf"),
        ("existing.onnx", [], "existing.onnx: exists; --overwrite replaces it"),
        ("folder.onnx", ["--overwrite"], "expected a file, got a folder"),
        ("none/model.onnx", [], "there is no folder"),
        ("existing.onnx/model.onnx", [], "there is no folder"),
        ("model.onnx", ["--checkpoint", "4"], "no checkpoint of step 4; expected one of 3, 9"),
        ("model.onnx", ["--direction", "up"], "invalid choice: 'up'"),
        ("model.onnx", ["--workdir", "nowhere"], "no such folder"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, output, arguments, expected):
    """Wrong paths, formats and checkpoints are refused, and nothing is written."""
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "existing.onnx").write_text("")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as caught:
        call(run, tmp_path / output, *arguments)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_cannot_be_written_is_named(run, tmp_path, monkeypatch):
    """The error is one line with the system's reason."""

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(EXPORTERS, "onnx", refused)
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
def test_missing_libraries_are_named(tmp_path, monkeypatch, suffix, library):
    """The command that installs a library is given before a run is looked for."""
    monkeypatch.setitem(sys.modules, library, None)
    expected = f"export to {suffix} needs {library}: pip install {library}"
    with pytest.raises(UserError, match=expected):
        call(tmp_path / "nowhere", tmp_path / f"model.{suffix}")


def test_files_of_another_kind_are_refused(tmp_path):
    """Missing and damaged files are named."""
    (tmp_path / "damaged").write_bytes(b"no such thing")
    for load in (load_stablehlo, load_safetensors):
        with pytest.raises(UserError, match="none: cannot be read|none: No such file"):
            load(tmp_path / "none")
        with pytest.raises(UserError, match="damaged: expected a"):
            load(tmp_path / "damaged")
