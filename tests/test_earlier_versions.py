"""A work directory that commit 0d41949 wrote stays usable: it resumes, translates and so on.

`data/workdir_0d41949` holds the run (float64, 16x16, six updates) and what that commit itself
computed from it: two more updates, translations, metrics.
"""

import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

from cyclegan_jax import config as config_lib
from cyclegan_jax import evaluate
from cyclegan_jax.export.program import export_generator
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.training import train

DATA = Path(__file__).parent / "data" / "workdir_0d41949"


@pytest.fixture
def workdir(tmp_path):
    with tarfile.open(DATA / "run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def expected():
    return np.load(DATA / "expected.npz")


@pytest.fixture
def float64():
    """Restore the mode that the run's precision switches on."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.smoke
def test_resumes(workdir, expected, float64):
    """Two more updates end where that commit ended, and renamed fields are understood."""
    stored = json.loads((workdir / "config.json").read_text())
    assert "treatment" in stored["data"]
    config = config_lib.read_json(workdir / "config.json")
    assert config.data.transform == stored["data"]["treatment"]
    config.num_steps = 8
    state = train(config, workdir)
    assert int(state.step) == 8
    found = {
        "resumed/" + jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(state.params)
    }
    found |= {f"resumed_pool/{domain}": state.pools[domain].images for domain in "ab"}
    assert set(found) == {name for name in expected.files if name.startswith("resumed")}
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.smoke
def test_translates(workdir, expected, float64):
    """Averaged generators of the last and the best checkpoint differ by at most 1 of 255."""
    translator = Translator.load(workdir)
    images = {
        "a_to_b": translator(expected["image"]),
        "b_to_a": translator.reverse(expected["image"]),
        "best_a_to_b": Translator.load(workdir, checkpoint="best")(expected["image"]),
    }
    for name, image in images.items():
        assert np.abs(image.astype(int) - expected[name]).max() <= 1, name


@pytest.mark.smoke
def test_evaluates(workdir, tmp_path, float64):
    """All metrics keep their names and values."""
    path = tmp_path / "metrics.json"
    args = ["--workdir", str(workdir), "--metrics", "cycle,identity,truth", "--json", str(path)]
    evaluate.main(args)
    found, expected = (
        json.loads(path.read_text())["6"],
        json.loads((DATA / "metrics.json").read_text()),
    )
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


@pytest.mark.smoke
def test_is_exported(workdir, expected, tmp_path, float64):
    """The ONNX file computes what that commit's network computed."""
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    export_generator(workdir, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = expected["float_input"].astype(np.float32).transpose(0, 3, 1, 2)
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(y.transpose(0, 2, 3, 1), expected["float_output"], atol=1e-4)
