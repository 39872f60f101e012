"""Imports go one way between packages, and the core runs where TensorFlow is not installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cyclegan_jax"

# Lowest first: packages, and the files of training that stand beside them. A module imports from
# its own package and from lines above its own.
ORDER = [
    {"utils"},
    {"default_config", "ops", "image_pool"},
    {"data", "models"},
    {"losses", "optimizers", "schedules", "state"},
    {"step", "config"},
    {"distributed"},
    {"build", "checkpoint"},
    {"inference", "torch_weights"},
    {"evaluation"},
    {"metrics_writer"},
    {"training", "translate", "evaluate", "app", "export", "gallery"},
]


def imported(path: Path) -> set[str]:
    """First names below `cyclegan_jax` that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cyclegan_jax"):
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {
                a.name.split(".")[1] for a in node.names if a.name.startswith("cyclegan_jax.")
            }
    return names


def test_imports_point_downwards():
    """A file imports from its own package and from lower ones alone."""
    level = {name: i for i, names in enumerate(ORDER) for name in names}
    files = [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]
    assert len(files) > 15
    for path in files:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imported(path) - {own}:
            assert level[name] < level[own], f"{path.relative_to(ROOT)} imports {name}"


def test_core_needs_no_tensorflow():
    """The update and inference import with TensorFlow, TFDS, CLU, Grain and configs blocked."""
    program = """
import sys
blocked = ("tensorflow", "tensorflow_datasets", "clu", "grain", "ml_collections", "tensorboard")
for name in blocked:
    sys.modules[name] = None
import cyclegan_jax.build, cyclegan_jax.step, cyclegan_jax.inference.translator
import cyclegan_jax.utils.image_io, cyclegan_jax.evaluation.segmentation
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.smoke
def test_writer_and_pytorchs_optimisers_in_one_process(tmp_path):
    """Triton, which PyTorch imports late, does not crash beside TensorFlow."""
    pytest.importorskip("triton")
    program = """
import pathlib, sys
from cyclegan_jax.metrics_writer import MetricsWriter
MetricsWriter(pathlib.Path(sys.argv[1]), num_steps=1, translator=None, images=None)
import torch
torch.optim.SGD([torch.zeros(1)], lr=1.0)
assert "tensorflow" in sys.modules and "triton" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, cwd=ROOT)
