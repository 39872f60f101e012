"""Several processes that train together: how they connect, and how they stop."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from cyclegan_jax import distributed
from cyclegan_jax.build import build_model, build_state
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.distributed import join_processes
from cyclegan_jax.evaluation import results
from cyclegan_jax.utils.errors import UserError
from tests import short
from tests.smallest import SIZE
from tests.states import start_state

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "launched", "expected"),
    [
        (("localhost:29500", 2, None), False, "--process_id is missing: several processes need"),
        ((None, None, 0), False, "--coordinator is missing"),
        (("localhost", 2, 0), False, "--coordinator=localhost: expected HOST:PORT"),
        (("localhost:70000", 2, 0), False, "--coordinator=localhost:70000: expected HOST:PORT"),
        (("localhost:29500", 2, 2), False, "--process_id=2: expected 0 to 1"),
        (("localhost:29500", None, None), True, "--distributed: expected without --coordinator"),
        ((None, None, None), True, "--distributed: expected SLURM or Open MPI, found neither"),
    ],
)
def test_inconsistent_flags_are_refused(arguments, launched, expected):
    """One line names the flag, before the process waits for others."""
    with pytest.raises(UserError, match=re.escape(expected)) as caught:
        join_processes(*arguments, launched=launched)
    assert "\n" not in str(caught.value)


def test_without_arguments_the_process_stays_single():
    """JAX is not initialised for several processes."""
    join_processes(None, None, None)
    assert not jax.distributed.is_initialized()


def test_missing_processes():
    """After its patience, a process that waits for others exits with one line."""
    program = (
        "from cyclegan_jax.distributed import join_processes;"
        "join_processes('127.0.0.1:9', 2, 1, patience=1)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: not all processes of this run connected at 127.0")
    assert ended.stderr.count("\n") == 1


def test_the_update_of_several_devices_gets_plain_arrays(monkeypatch):
    """`jax.pmap` of several processes waits for the update before to read other arguments."""
    leaves = []

    def pmap(update, **_):
        def call(state, batch, frozen):
            leaves.extend(jax.tree.leaves((state, batch, frozen)))
            return state, {}

        return call

    monkeypatch.setattr(jax, "pmap", pmap)
    monkeypatch.setattr(
        distributed, "_mesh", lambda devices: Mesh(np.array(jax.devices()[:1]), "batch")
    )
    config = short.get_config()
    state = start_state(config, SIZE)
    batch = {domain: np.zeros((1, *SIZE, 3), np.uint8) for domain in "ab"}
    after, _ = distributed.compile_step(build_model(config, 1))(state, batch)
    assert len(leaves) > 20
    assert not [x for x in leaves if not jax.numpy.issubdtype(x.dtype, np.number)]
    assert after.key.dtype == state.key.dtype
    assert (jax.random.key_data(after.key) == jax.random.key_data(state.key)).all()


def test_an_error_ends_the_process_whatever_its_threads_do():
    """A thread that waits for ever, as Orbax's may after a failed write, does not keep it."""
    program = (
        "import threading; from cyclegan_jax.distributed import leave;"
        "threading.Thread(target=threading.Event().wait).start(); print('out');"
        "leave('error: the disk is full')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    assert (ended.stdout, ended.stderr) == ("out\n", "error: the disk is full\n")


def test_a_process_that_cannot_write_a_checkpoint_ends_at_once(tmp_path):
    """It does not wait for the others, as Orbax does for twenty minutes; they end after it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "tests.failing_save", str(tmp_path / "run")]
    options = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
    first, second = (
        subprocess.Popen([*command, str(number), str(port)], **options) for number in range(2)
    )
    try:
        _, errors = first.communicate(timeout=90)
        assert first.returncode == 1
        assert f"error: {tmp_path / 'run' / 'checkpoints'}: " in errors
        second.communicate(timeout=90)
        assert second.returncode != 0
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def process_of(workdir: Path, number: int) -> int:
    """Return the PID of the process that trains in a folder under this number."""
    wanted = {"main.py", f"--workdir={workdir}", f"--process_id={number}"}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process may have ended
            if wanted <= set(path.read_bytes().decode().split("\0")):
                return int(path.parent.name)
    raise AssertionError(f"no process {number}")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
def test_signal_to_one_process_stops_both(tmp_path):
    """Both stop after the same update, with its checkpoint, which a single process restores.

    Process 0 alone evaluates, and both save the states that are the best so far.
    """
    workdir = tmp_path / "run"
    every = ("batch_size=2", "num_steps=100000", "sample_every_steps=1", "checkpoint_every_steps=0")
    best = ("evaluate_every_steps=2", "evaluation.best=mean_iou")
    script = subprocess.Popen(
        [
            ROOT / "scripts" / "two_processes.sh",
            "--config=tests/short.py",
            f"--workdir={workdir}",
            *(f"--config.{field}" for field in every + best),
        ],
        env=os.environ | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list((workdir / "samples").glob("*3_b_to_a.png")):
        assert script.poll() is None, script.communicate()
        time.sleep(0.01)
    os.kill(process_of(workdir, 1), signal.SIGTERM)
    _, stderr = script.communicate(timeout=300)
    assert script.returncode == 128 + signal.SIGTERM
    steps = re.findall(r"stopped and saved at step (\d+) of", stderr)
    assert len(steps) == 2
    assert steps[0] == steps[1]
    assert "Traceback" not in stderr
    checkpoints = Checkpoints(workdir, read_only=True)
    assert checkpoints.steps[-1] == int(steps[0])
    stored = results.read_results(workdir)
    values = [results.value_of("mean_iou", stored[step]) for step in stored if step > 0]
    assert checkpoints.best.value == max(values)
    assert checkpoints.best.step in checkpoints.steps
    state = checkpoints.restore(jax.eval_shape(lambda: build_state(short.get_config(), SIZE)))
    assert int(state.step) == int(steps[0])
    assert np.isfinite(state.params["gen_ab"]["stem"]["kernel"]).all()
