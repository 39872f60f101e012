"""A run that is stopped, however, and started again ends in the same bits as one that is not."""

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
from tests import tiny

ROOT = Path(__file__).parents[2]
STEPS = 20


def start(workdir: Path, *arguments: str) -> subprocess.Popen:
    """Starts main.py on the tiny configuration; samples after every update show how far it is."""
    command = [sys.executable, "main.py", "--config=tests/tiny.py", f"--workdir={workdir}"]
    return subprocess.Popen(
        [*command, "--config.sample_every_steps=1", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir: Path) -> str:
    """Runs to the end and returns what was said."""
    process = start(workdir)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen) -> None:
    """Returns once the samples of that step are there."""
    while not list((workdir / "samples").glob(f"*{step}_b_to_a.png")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def last_state(workdir: Path):
    """Everything in the last checkpoint, as NumPy arrays."""
    config = tiny.get_config()
    shapes = jax.eval_shape(lambda: build_state(config, (32, 32)))
    state = Checkpoints(workdir, read_only=True).restore(shapes)
    state = state.replace(key=jax.random.key_data(state.key))
    return jax.tree.map(np.asarray, state)


def samples(workdir: Path) -> dict[str, bytes]:
    """The files of all samples by name."""
    return {path.name: path.read_bytes() for path in (workdir / "samples").iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    finish(workdir)
    return workdir


def assert_same_run(one: Path, other: Path) -> None:
    """Parameters, optimisers, pools, step, key and every sample are the same bits."""
    first, second = last_state(one), last_state(other)
    assert int(first.step) == STEPS
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert len(samples(one)) == 2 * STEPS
    assert samples(one) == samples(other)


def test_killed(whole, tmp_path):
    """SIGKILL at five moments of one run: before the first checkpoint, and between two."""
    for step in (1, 4, 8, 13, 19):
        process = start(tmp_path / "run")
        wait_for_step(tmp_path / "run", step, process)
        process.kill()
        process.communicate()
    finish(tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


def test_asked_to_stop(whole, tmp_path):
    """SIGTERM and ctrl-C save where they are, say so, and leave with the signal's exit code."""
    saved: list[int] = []
    for signum, moment in ((signal.SIGTERM, 5), (signal.SIGINT, 12)):
        process = start(tmp_path / "run", "--config.checkpoint_every_steps=1000")
        wait_for_step(tmp_path / "run", moment, process)
        process.send_signal(signum)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 128 + signum
        assert "stopped and saved at step" in said
        assert "Traceback" not in said
        *before, step = Checkpoints(tmp_path / "run", read_only=True).steps
        assert before == saved
        assert moment <= step < STEPS
        saved.append(step)
    assert f"Going on from the checkpoint of step {saved[-1]}" in finish(tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


def test_second_interrupt_leaves_at_once(tmp_path):
    """After a first ctrl-C the next one ends the process by the signal itself."""
    process = start(tmp_path / "run", "--config.num_steps=100000")
    wait_for_step(tmp_path / "run", 2, process)
    process.send_signal(signal.SIGINT)
    # Standard error is a pipe: what it said so far ends with the line that is waited for.
    while "ctrl-C again stops at once" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
