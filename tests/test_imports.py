"""Imports go one way, and the core runs where TensorFlow is not installed."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cyclegan_jax"

# Lowest first; a module imports from floors below its own alone.
FLOORS = [
    {"errors", "pieces", "interrupt"},
    {
        "winograd",
        "products",
        "command",
        "devices",
        "best",
        "figures",
        "torch_pickle",
        "torch_names",
    },
    {"convolutions"},
    {"normalisation"},
    {"formats"},
    {"layers", "losses", "history", "images", "schedules", "torch_files"},
    {"generators", "discriminators", "data", "evaluation", "bands"},
    {"state", "tiles", "prepared"},
    {"objectives", "config"},
    {"step", "checkpoint"},
    {"inference", "torch_weights"},
    {"portable", "onnx_graph"},
    {"batching"},
    {"translations"},
    {"evaluators"},
    {"report", "jobs", "gallery_page", "gallery_curves"},
    {"train", "translate", "evaluate", "gallery", "app", "export"},
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


def test_every_file_imports_from_floors_below_its_own():
    """No import goes up or sideways, but within the folders of a floor."""
    floor_of = {name: i for i, names in enumerate(FLOORS) for name in names}
    files = [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]
    assert len(files) > 15
    for path in files:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imported(path):
            inside = own == name and path.parent != PACKAGE
            assert inside or floor_of[name] < floor_of[own], f"{path.name} imports {name}"


def test_core_needs_no_tensorflow():
    """All but reports and the loop import with TensorFlow, TFDS, CLU, Grain and configs blocked."""
    program = """
import sys
blocked = ("tensorflow", "tensorflow_datasets", "clu", "grain", "ml_collections", "tensorboard")
for name in blocked:
    sys.modules[name] = None
import cyclegan_jax.step, cyclegan_jax.state, cyclegan_jax.inference
import cyclegan_jax.images, cyclegan_jax.evaluation.segmentation
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_files_stay_of_one_sitting():
    """No file of the package has grown past 320 lines."""
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 320, path
