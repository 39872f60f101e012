"""Training on several devices: `python -m tests.device_runs FOLDER [I N PORT]`.

The number of devices is fixed when JAX starts. Alone, the process trains on one and two of its
devices, and computes layers and images on all; with I N PORT it is process I of N. Results are
written to FOLDER as .npz files.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cyclegan_jax.build import build_networks
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.distributed import DEVICE_AXIS, join_processes, of_first_process
from cyclegan_jax.inference.translator import Network, Translator
from cyclegan_jax.models.layers import LayerConfig, dropout
from cyclegan_jax.ops import default_form
from cyclegan_jax.step import image_keys
from tests import smallest

HALF = smallest.STEPS // 2
FIELDS = {"update_first": "discriminators"}


def restored(folder: Path, name: str):
    """Restore the state that a run saved after half of its updates."""
    config = smallest.get_config(**FIELDS)
    shapes = jax.eval_shape(lambda: smallest.start_state(config))
    return Checkpoints(folder / f"run_{name}", read_only=True).restore(shapes)


class Runs:
    """Runs of one configuration on different devices, whose results go to a folder."""

    def __init__(self, folder: Path, process: int = 0, processes: int = 1, **changes):
        self.folder = folder
        # Dropout masks and frozen parameters are compared too.
        self.config = smallest.get_config(dropout=0.5, **FIELDS, **changes)
        self.config.loss.extra = "tests.smallest:filtered_cycle"
        batches = smallest.make_batches(self.config, process=process, processes=processes)
        self.first, self.second = batches[:HALF], batches[HALF:]

    def run(
        self,
        name: str,
        checkpoint: str,
        devices: int | None = None,
        at_a_time: int = 1,
        resume: str = "",
    ) -> None:
        """Train for ten updates, then for the last five again from another run's checkpoint.

        Args:
            name: Name of the results.
            checkpoint: Name of the checkpoint, which is saved after five updates.
            devices: Number of devices; None for all.
            at_a_time: Updates per dispatch.
            resume: The checkpoint to train the last five updates from once more; none if empty.
        """
        step_fn = smallest.build_step(self.config, devices)
        state = self._placed(devices, smallest.start_state(self.config))
        state, _ = smallest.train(step_fn, state, self.first, devices, at_a_time)
        checkpoints = Checkpoints(self.folder / f"run_{checkpoint}", self.config.to_dict())
        checkpoints.save(state)
        checkpoints.wait()
        self._save(name, *smallest.train(step_fn, state, self.second, devices, at_a_time))
        if resume:
            state = self._placed(devices, restored(self.folder, resume))
            self._save(
                f"{resume}_then_{name}", *smallest.train(step_fn, state, self.second, devices)
            )

    def _placed(self, devices: int | None, state):
        """Move a state, which is restored to all devices, to the only device of a run on one."""
        return jax.device_put(state, jax.devices()[0]) if devices == 1 else state

    def _save(self, name: str, state, metrics) -> None:
        results = smallest.arrays(state, metrics)
        # NumPy accepts no names with a slash.
        np.savez(
            self.folder / f"{name}.npz", **{key.replace("/", "|"): results[key] for key in results}
        )


def layers(devices: int) -> dict[str, np.ndarray]:
    """Compute batch norm and dropout, with gradients, on a batch that is sharded over devices."""
    rng = np.random.default_rng(0)
    x, weight = jnp.asarray(rng.normal(size=(2, 4, 5, 5, 3)))
    params = {"scale": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.ones(3)}

    def compute(x, weight, axis_name=None):
        norm = LayerConfig("batch", dtype=jnp.float64, axis_name=axis_name).build_norm()
        keys = image_keys(jax.random.key(0), len(x), axis_name)

        def apply(params, x):
            return dropout(jnp.tanh(norm.apply({"params": params}, x)), 0.5, keys)

        y, pull_back = jax.vjp(apply, params, x)
        return y, *pull_back(weight)

    if devices == 1:
        y, gradients, of_x = compute(x, weight)
    else:
        sharded = [v.reshape(devices, -1, *v.shape[1:]) for v in (x, weight)]
        parallel = jax.pmap(lambda *args: compute(*args, DEVICE_AXIS), DEVICE_AXIS)
        y, gradients, of_x = parallel(*sharded)
        gradients = jax.tree.map(lambda g: g.sum(0), gradients)
    return {"y": y.reshape(x.shape), "x": of_x.reshape(x.shape), **gradients}


def images() -> dict[str, np.ndarray]:
    """Translate ten images forth and back, on all devices and one by one on the first."""
    networks = build_networks(smallest.get_config())
    rng = np.random.default_rng(0)
    forward, backward = (
        Network(g, g.init(jax.random.key(i), jnp.zeros((1, *smallest.SIZE, 3)))["params"], 3)
        for i, g in enumerate(networks[:2])
    )
    translator = Translator(forward, backward, 0)
    batch = rng.integers(0, 256, (10, 14, 15, 3), np.uint8)
    singly = [np.stack(pair) for pair in zip(*map(translator.round_trip, batch), strict=True)]
    return {"singly": np.stack(singly), "together": np.stack(translator.round_trip(batch))}


def single_process(folder: Path) -> None:
    """Train on two devices, in micro-batches and dispatches of several, and resume that on one.

    Train on two also in the form of GPUs.
    """
    Runs(folder, micro_batches=2).run("two", "two", 2, at_a_time=HALF)
    Runs(folder).run("one", "one", 1, resume="two")
    with default_form("direct"):
        Runs(folder, micro_batches=1).run("direct", "direct", 2, at_a_time=HALF)
    for name, devices in (("one", 1), ("two", 2), ("four", 4)):
        np.savez(folder / f"layers_{name}.npz", **layers(devices))
    np.savez(folder / "images.npz", **images())


def one_of_several(folder: Path, process: int, processes: int) -> None:
    """Train this process's shard, then resume from the checkpoint of two devices of one process."""
    runs = Runs(folder, process, processes)
    runs.run(f"process_{process}", "processes", resume="two")
    own = smallest.start_state(smallest.get_config(seed=process))
    np.savez(folder / f"first_{process}.npz", **smallest.arrays(of_first_process(own)))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        process, processes, port = map(int, sys.argv[2:])
        join_processes(f"127.0.0.1:{port}", processes, process)
    jax.config.update("jax_enable_x64", True)
    if len(sys.argv) > 2:
        one_of_several(Path(sys.argv[1]), process, processes)
    else:
        single_process(Path(sys.argv[1]))
