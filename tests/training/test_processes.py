"""Several processes that train as one: how they meet, and how they stop."""

import contextlib
import os
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
from cyclegan_jax.distributed import join_processes
from cyclegan_jax.utils.errors import UserError
from tests import tiny

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "launched", "expected"),
    [
        (("localhost:29500", 2, None), False, "--process_id is missing: a process among several"),
        ((None, None, 0), False, "--coordinator is missing"),
        (("localhost", 2, 0), False, "HOST:PORT was expected"),
        (("localhost:70000", 2, 0), False, "HOST:PORT was expected"),
        (("localhost:29500", 2, 2), False, "at least 0 and below 2"),
        (("localhost:29500", None, None), True, "--distributed finds all by itself"),
        ((None, None, None), True, "neither SLURM nor Open MPI was found"),
    ],
)
def test_flags_that_do_not_fit(given, launched, expected):
    """One line that names the flag, before anything is waited for."""
    with pytest.raises(UserError, match=re.escape(expected)) as caught:
        join_processes(*given, launched=launched)
    assert "\n" not in str(caught.value)


def test_nothing_given_is_one_process():
    """Then JAX is left as it is."""
    join_processes(None, None, None)
    assert not jax.distributed.is_initialized()


def test_others_that_do_not_come():
    """After a while the process says so in one line, and ends."""
    program = (
        "from cyclegan_jax.distributed import join_processes;"
        "join_processes('127.0.0.1:9', 2, 1, patience=1)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: the processes of this run did not all meet at 127.0")
    assert ended.stderr.count("\n") == 1


def process_of(workdir: Path, number: int) -> int:
    """The process that trains in a folder as that number."""
    wanted = {"main.py", f"--workdir={workdir}", f"--process_id={number}"}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may be gone by now
            if wanted <= set(path.read_bytes().decode().split("\0")):
                return int(path.parent.name)
    raise AssertionError(f"no process {number}")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
def test_signal_to_one_process_stops_both(tmp_path):
    """Both leave after the same update, with one checkpoint, which one process can go on from."""
    workdir = tmp_path / "run"
    small = ("generator.blocks=1", "generator.width=2", "discriminator.width=2")
    every = ("num_steps=100000", "sample_every_steps=1", "checkpoint_every_steps=0")
    script = subprocess.Popen(
        [
            ROOT / "scripts" / "two_processes.sh",
            "--config=tests/tiny.py",
            f"--workdir={workdir}",
            *(f"--config.{field}" for field in small + every),
        ],
        env=os.environ | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list((workdir / "samples").glob("*3_b_to_a.png")):
        assert script.poll() is None, script.communicate()
        time.sleep(0.01)
    os.kill(process_of(workdir, 1), signal.SIGTERM)
    _, said = script.communicate(timeout=300)
    assert script.returncode == 128 + signal.SIGTERM
    steps = re.findall(r"stopped and saved at step (\d+) of", said)
    assert len(steps) == 2
    assert steps[0] == steps[1]
    assert "Traceback" not in said
    checkpoints = Checkpoints(workdir, read_only=True)
    assert checkpoints.steps == [int(steps[0])]
    config = tiny.get_config()
    config.generator.blocks = 1
    config.generator.width = config.discriminator.width = 2
    state = checkpoints.restore(jax.eval_shape(lambda: build_state(config, (32, 32))))
    assert int(state.step) == int(steps[0])
    assert np.isfinite(state.params["gen_ab"]["stem"]["kernel"]).all()
