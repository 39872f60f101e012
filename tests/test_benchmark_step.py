"""The benchmark of the update runs where little is installed, and counts its work right."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.train_step import count_flops  # noqa: E402
from configs.default import get_config  # noqa: E402

ROOT = Path(__file__).parent.parent
BLOCKED = ("tensorflow", "tensorflow_datasets", "clu", "grain", "ml_collections", "tensorboard")
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED}))\n"


def run_blocked(program: str, *arguments: str) -> str:
    """What a program prints that finds neither TensorFlow nor ml_collections."""
    command = [sys.executable, "-c", BLOCK + program, *arguments]
    # Two threads that wait for each other are slow where cores are shared.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout


def test_it_runs_where_only_jax_and_torch_are_installed() -> None:
    """On the smallest networks; the ratio is that of the printed medians."""
    sizes = {"size": 16, "width": 1, "layers": 1, "rounds": 1, "generator": "resnet3"}
    arguments = [f"--{name}={value}" for name, value in sizes.items()]
    printed = run_blocked("from benchmarks.train_step import main; main()", *arguments)
    medians = {
        side: float(printed.split(f"{side}: median ")[1].split()[0]) for side in ("ours", "torch")
    }
    ratio = float(printed.split("ratio ours/torch: ")[1].split()[0])
    assert ratio == pytest.approx(medians["ours"] / medians["torch"], rel=0.03)


def test_plain_config_is_the_default_configuration() -> None:
    """Without ml_collections every field has the same name and value."""
    program = """
import json
from benchmarks.plain_config import default_config
print(json.dumps(default_config(), default=vars))
"""
    assert json.loads(run_blocked(program)) == json.loads(get_config().to_json())


def test_flops_are_those_of_the_layers() -> None:
    """Against a sum over layers worked out by hand for resnet3, width 4 and one-layer PatchGAN."""
    size = 32
    args = Namespace(
        size=size, batch=1, width=4, layers=1, generator="resnet3", precision="float32"
    )
    # Multiply-adds forward: window x channels in x channels out x places; a transposed
    # convolution has its window at every place of its input.
    full, half, quarter = size**2, (size // 2) ** 2, (size // 4) ** 2
    stem, head = 49 * 3 * 4 * full, 49 * 4 * 3 * full
    middle = (
        9 * 4 * 8 * half
        + 9 * 8 * 16 * quarter
        + 6 * 9 * 16 * 16 * quarter
        + 9 * 16 * 8 * quarter
        + 9 * 8 * 4 * half
    )
    first = 16 * 3 * 4 * (size // 2) ** 2
    rest = 16 * 4 * 8 * (size // 2 - 1) ** 2 + 16 * 8 * 1 * (size // 2 - 2) ** 2
    # A backward pass costs a forward pass for the weights and one for the inputs; pictures of the
    # set need no gradient, and neither do weights of discriminators in the generators' update.
    generators = 6 * 3 * (stem + middle + head) - 4 * stem
    judged = 2 * 2 * (first + rest)
    discriminators = 4 * (3 * (first + rest) - first)
    assert count_flops(args) == 2 * (generators + judged + discriminators)
