"""Damaged checkpoints, of which none may be read as another state than was saved.

    python -m tests.campaigns.checkpoints --trials 500

Each trial copies the work directory of a short run with two checkpoints and damages one file of the
last one: a byte changed, bytes removed or zeroed, the file truncated, emptied or deleted. Resuming
must give the state of the last checkpoint or that of the one before it, bit by bit, or be refused;
so must loading the model to translate.
"""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cyclegan_jax.build import build_state
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.utils.errors import UserError
from tests import short
from tests.campaigns import harness
from tests.smallest import SIZE

STEPS = (5, 10)


@functools.cache
def saved() -> tuple[Path, dict[int, Any]]:
    """Return a work directory, and the states in its checkpoints by step."""
    workdir = Path(tempfile.mkdtemp()) / "run"
    config = short.get_config()
    checkpoints = Checkpoints(workdir, config.to_dict())
    states = {}
    for step in STEPS:
        state = build_state(config, SIZE)
        rng = np.random.default_rng(step)
        state = jax.tree.map(
            lambda x, rng=rng: (
                x if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else changed(x, rng)
            ),
            state,
        ).replace(step=np.int32(step))
        states[step] = plain(state)
        checkpoints.save(jax.tree.map(jax.numpy.asarray, state))
    checkpoints.wait()
    checkpoints.close()
    return workdir, states


def changed(x: Any, rng: np.random.Generator) -> np.ndarray:
    """Return random numbers of an array's shape and type."""
    return rng.normal(0, 10, x.shape).astype(x.dtype)


def plain(state: Any) -> Any:
    """Return a state as NumPy arrays."""
    return jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))


def damage(rng: np.random.Generator, folder: Path) -> str:
    """Damage one file in a folder; return which, and how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[int(rng.integers(len(files)))]
    data = bytearray(path.read_bytes())
    ways = ["byte", "byte", "byte", "bit", "truncated", "zeroed", "removed", "emptied", "deleted"]
    way = str(rng.choice(ways)) if data else "deleted"
    place = int(rng.integers(len(data))) if data else 0
    if way == "byte":
        data[place] ^= int(rng.integers(1, 256))
    elif way == "bit":
        data[place] ^= 1 << int(rng.integers(8))
    elif way == "truncated":
        del data[place:]
    elif way == "zeroed":
        data[place : place + 64] = bytes(len(data[place : place + 64]))
    elif way == "removed":
        del data[place : place + int(rng.integers(1, 64))]
    elif way == "emptied":
        data.clear()
    if way == "deleted":
        path.unlink()
    else:
        path.write_bytes(bytes(data))
    return f"{path.relative_to(folder)} {way} at {place}"


def trial(seed: int, folder: Path) -> str:
    """Damage the last checkpoint; resume, and load the model."""
    rng = np.random.default_rng(seed)
    source, states = saved()
    workdir = folder / "run"
    shutil.copytree(source, workdir)
    what = damage(rng, workdir / "checkpoints" / str(STEPS[-1]))
    config = short.get_config()
    try:
        reader = Checkpoints(workdir, config.to_dict(), read_only=True)
        step, params = reader.restore_params()
        compare(jax.tree.map(np.asarray, params), states[step].params, f"loaded, {what}")
    except UserError:
        step = 0
    checkpoints = Checkpoints(workdir, config.to_dict())
    try:
        shapes = jax.eval_shape(lambda: build_state(config, SIZE))
        restored = checkpoints.restore(shapes)
    finally:
        checkpoints.close()
    if restored is None:
        raise harness.WrongResultError(f"{what}: no checkpoint found, the run would start anew")
    compare(plain(restored), states[int(restored.step)], f"resumed, {what}")
    if not step:
        raise harness.WrongResultError(f"{what}: can be resumed, but not loaded")
    return f"{what}: loaded {step}, resumed {int(restored.step)}"


def compare(actual: Any, expected: Any, what: str) -> None:
    """Raise WrongResultError unless two states are equal bit by bit."""
    same = jax.tree.map(lambda x, y: x.tobytes() == y.tobytes(), actual, expected)
    if not all(jax.tree.leaves(same)):
        raise harness.WrongResultError(f"{what}: another state than was saved")


if __name__ == "__main__":
    run = harness.in_processes(trial, seconds=120, mib=6000, growth=2000)
    harness.main(__doc__, harness.separate_trials(run), trials=500)
