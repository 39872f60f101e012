"""Short training runs in processes of their own, and the comparison of their results."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cyclegan_jax.build import build_state
from cyclegan_jax.checkpoint import Checkpoints
from tests import short
from tests.campaigns.harness import WrongResultError
from tests.smallest import SIZE

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_COMPILATION_CACHE_DIR": str(Path(tempfile.gettempdir()) / "cyclegan_jax_test_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


def start(
    workdir: Path, *flags: str, fields: dict[str, Any], environment: dict[str, str] | None = None
) -> subprocess.Popen:
    """Start main.py with the short configuration; standard error goes to WORKDIR.log."""
    command = [sys.executable, "main.py", "--config=tests/short.py", f"--workdir={workdir}", *flags]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    with workdir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=ENVIRONMENT | (environment or {}),
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def log_of(workdir: Path) -> str:
    """Return what the runs in a work directory have written to standard error."""
    return workdir.with_suffix(".log").read_text(errors="replace")


def check_log(workdir: Path) -> None:
    """Raise WrongResultError if a run ended in a traceback or printed one."""
    text = log_of(workdir)
    if "Traceback" in text:
        raise WrongResultError(text[max(0, text.index("Traceback") - 500) :][:3000])


def errors(workdir: Path) -> list[str]:
    """Return the lines of a run's log that say why it stopped."""
    return re.findall(r"^error: .*$", log_of(workdir), re.MULTILINE)


def last_state(workdir: Path) -> Any:
    """Return the state in the last checkpoint, as NumPy arrays."""
    shapes = jax.eval_shape(lambda: build_state(short.get_config(), SIZE))
    state = Checkpoints(workdir, read_only=True).restore(shapes)
    if state is None:
        raise WrongResultError(f"{workdir}: no checkpoint")
    return jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))


def compare(actual: Path, expected: Path) -> None:
    """Raise WrongResultError unless final states and samples of two runs are equal to the bit."""
    first, second = last_state(actual), last_state(expected)
    same = jax.tree.map(lambda x, y: x.tobytes() == y.tobytes(), first, second)
    if not all(jax.tree.leaves(same)):
        raise WrongResultError(f"another state at step {int(first.step)} of {int(second.step)}")
    for path in sorted((expected / "samples").iterdir()):
        other = actual / "samples" / path.name
        if not other.is_file() or other.read_bytes() != path.read_bytes():
            raise WrongResultError(f"another sample {path.name}")
