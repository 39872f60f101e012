"""A run that is stopped in any way and resumed ends in the same bits as an uninterrupted one."""

import logging
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from cyclegan_jax.build import build_state
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.training import train
from tests import short
from tests.smallest import SIZE

ROOT = Path(__file__).parents[2]
STEPS = 40  # enough that none is over before a signal arrives


def config_of_run():
    """Return the configuration of `start`."""
    config = short.get_config()
    config.num_steps = STEPS
    config.sample_every_steps = 1
    config.checkpoint_every_steps = 10
    return config


def start(workdir: Path) -> subprocess.Popen:
    """Start main.py with the same configuration; samples of every update show its progress."""
    command = [sys.executable, "main.py", "--config=tests/short.py", f"--workdir={workdir}"]
    fields = (f"num_steps={STEPS}", "sample_every_steps=1", "checkpoint_every_steps=10")
    return subprocess.Popen(
        [*command, *(f"--config.{field}" for field in fields)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen) -> None:
    """Return once the samples of that step are written."""
    while not list((workdir / "samples").glob(f"*{step}_b_to_a.png")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def last_state(workdir: Path):
    """Return the state in the last checkpoint, as NumPy arrays."""
    shapes = jax.eval_shape(lambda: build_state(config_of_run(), SIZE))
    state = Checkpoints(workdir, read_only=True).restore(shapes)
    state = state.replace(key=jax.random.key_data(state.key))
    return jax.tree.map(np.asarray, state)


def samples(workdir: Path) -> dict[str, bytes]:
    """Return the bytes of all samples by file name."""
    return {path.name: path.read_bytes() for path in (workdir / "samples").iterdir()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The work directory of a run that was not stopped."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(config_of_run(), workdir)
    return workdir


def assert_same_run(actual: Path, expected: Path) -> None:
    """Assert that states and samples of two runs are equal to the last bit."""
    first, second = last_state(actual), last_state(expected)
    assert int(first.step) == STEPS
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert len(samples(actual)) == 2 * STEPS
    assert samples(actual) == samples(expected)


def start_until(workdir: Path, step: int) -> subprocess.Popen:
    """Start a run, and return it after that step."""
    process = start(workdir)
    wait_for_step(workdir, step, process)
    return process


@pytest.mark.smoke
def test_killed_and_interrupted(uninterrupted, tmp_path, caplog):
    """SIGKILL before the first checkpoint, ctrl-C, and a second ctrl-C after it lose nothing.

    Ctrl-C saves the state, reports the step, and exits with the signal's code; the second one
    kills the process at once. `test_processes.py` sends SIGTERM.
    """
    caplog.set_level(logging.INFO)
    workdir = tmp_path / "run"
    process = start_until(workdir, 1)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL

    process = start_until(workdir, 4)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in stderr
    saved = int(re.search(r"stopped and saved at step (\d+) of", stderr)[1])
    assert 4 <= saved < STEPS
    assert Checkpoints(workdir, read_only=True).steps[-1] == saved

    process = start_until(workdir, 25)
    process.send_signal(signal.SIGINT)
    # Standard error is a pipe: read up to the expected line.
    while "ctrl-C again stops at once" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)

    train(config_of_run(), workdir)
    assert "Resuming from the checkpoint of step" in caplog.text
    assert_same_run(workdir, uninterrupted)
