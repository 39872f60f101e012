"""A run that is stopped in any way and resumed ends in the same bits as an uninterrupted one."""

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
    """Start main.py on the tiny configuration, with samples of every update to show progress."""
    command = [sys.executable, "main.py", "--config=tests/tiny.py", f"--workdir={workdir}"]
    return subprocess.Popen(
        [*command, "--config.sample_every_steps=1", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir: Path) -> str:
    """Run to the end and return the standard error."""
    process = start(workdir)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return stderr


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen) -> None:
    """Return once the samples of that step are written."""
    while not list((workdir / "samples").glob(f"*{step}_b_to_a.png")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def last_state(workdir: Path):
    """Return the state in the last checkpoint, as NumPy arrays."""
    config = tiny.get_config()
    shapes = jax.eval_shape(lambda: build_state(config, (32, 32)))
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
    finish(workdir)
    return workdir


def assert_same_run(actual: Path, expected: Path) -> None:
    """Assert that states and samples of two runs are equal to the last bit."""
    first, second = last_state(actual), last_state(expected)
    assert int(first.step) == STEPS
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert len(samples(actual)) == 2 * STEPS
    assert samples(actual) == samples(expected)


def test_killed(uninterrupted, tmp_path):
    """SIGKILL at five moments of one run, before the first checkpoint and later, loses nothing."""
    for step in (1, 4, 8, 13, 19):
        process = start(tmp_path / "run")
        wait_for_step(tmp_path / "run", step, process)
        process.kill()
        process.communicate()
    finish(tmp_path / "run")
    assert_same_run(tmp_path / "run", uninterrupted)


def test_interrupted(uninterrupted, tmp_path):
    """SIGTERM and ctrl-C save the state, report the step, and exit with the signal's code."""
    saved: list[int] = []
    for signum, moment in ((signal.SIGTERM, 5), (signal.SIGINT, 12)):
        process = start(tmp_path / "run", "--config.checkpoint_every_steps=1000")
        wait_for_step(tmp_path / "run", moment, process)
        process.send_signal(signum)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 128 + signum
        assert "stopped and saved at step" in stderr
        assert "Traceback" not in stderr
        *before, step = Checkpoints(tmp_path / "run", read_only=True).steps
        assert before == saved
        assert moment <= step < STEPS
        saved.append(step)
    assert f"Resuming from the checkpoint of step {saved[-1]}" in finish(tmp_path / "run")
    assert_same_run(tmp_path / "run", uninterrupted)


def test_second_interrupt_stops_at_once(tmp_path):
    """After a first ctrl-C the next one kills the process by the signal itself."""
    process = start(tmp_path / "run", "--config.num_steps=100000")
    wait_for_step(tmp_path / "run", 2, process)
    process.send_signal(signal.SIGINT)
    # Standard error is a pipe: read up to the expected line.
    while "ctrl-C again stops at once" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
