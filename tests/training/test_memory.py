"""Running out of memory gives one line that says what helps; the allocator is real."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cyclegan_jax import distributed
from cyclegan_jax.utils import command

ROOT = Path(__file__).parents[2]

# A petabyte in float32, more than any machine has.
TOO_MANY = 2**48

# Runs main.py with a training loop that allocates as much.
TRAINING = f"""
import runpy, sys
import jax
import jax.numpy as jnp
from cyclegan_jax import training

training.train = lambda config, workdir: jnp.ones({TOO_MANY}).block_until_ready()
sys.argv = ["main.py", *sys.argv[1:]]
runpy.run_path("main.py", run_name="__main__")
"""


def test_training(tmp_path):
    """main.py exits with 1 and names the fields to change."""
    arguments = ["--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}"]
    program = [sys.executable, "-c", TRAINING, *arguments]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: an update does not fit into memory: lower batch_size")
    assert "Traceback" not in result.stderr


def test_other_programs():
    """Other programs exit with their own advice."""
    with pytest.raises(SystemExit) as exiting:
        command.run(lambda: jnp.ones(TOO_MANY).block_until_ready(), "give --tile")
    assert exiting.value.code == "error: give --tile"


def test_other_errors_keep_their_traceback():
    """Errors that are not about memory are raised."""

    def fail() -> None:
        raise FloatingPointError("of the program's own")

    with pytest.raises(FloatingPointError):
        command.run(fail, "give --tile")


def test_memory_of_the_compiler(monkeypatch):
    """It goes back to the system before the first update, once for each shape of the batch."""
    events = []
    monkeypatch.setattr(distributed, "release_free_memory", lambda: events.append("released"))

    def update(state, batch, frozen):
        jax.debug.callback(lambda: events.append("ran"))
        return state + batch.sum(), frozen

    run = distributed._compiled_apart(jax.jit(update))
    state = jnp.zeros(())
    for pairs in (1, 1, 2, 1):
        state, _ = run(state, jnp.ones(pairs), None)
        jax.block_until_ready(state)
        jax.effects_barrier()
    assert state == 5
    assert events == ["released", "ran", "ran", "released", "ran", "ran"]
