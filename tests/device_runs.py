"""Runs on several devices, a process of its own: `python -m tests.device_runs FOLDER [I N PORT]`.

Devices are counted when JAX starts. Alone, the process runs on one, two and four of its devices;
with I N PORT it is number I of N processes. What they come to goes to FOLDER as .npz files.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cyclegan_jax.build import build_networks
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.distributed import join_processes
from cyclegan_jax.inference.translator import Network, Translator
from cyclegan_jax.models.layers import Dropout, Norm, Share, Style
from cyclegan_jax.step import DEVICE_AXIS, compile_step
from tests import smallest

HALF = smallest.STEPS // 2
FIELDS = {"update_first": "discriminators"}


def restored(folder: Path, name: str):
    """The state that a run kept after half of its updates."""
    config = smallest.get_config(**FIELDS)
    shapes = jax.eval_shape(lambda: smallest.start_state(config))
    return Checkpoints(folder / f"run_{name}", read_only=True).restore(shapes, config)


class Runs:
    """Runs that differ in what they are spread over, and what they leave in a folder."""

    def __init__(self, folder: Path, process: int = 0, processes: int = 1, **changes):
        self.folder = folder
        self.config = smallest.get_config(**FIELDS, **changes)
        batches = smallest.make_batches(self.config, process=process, processes=processes)
        self.first, self.second = batches[:HALF], batches[HALF:]

    def run(
        self, name: str, kept: str, devices: int | None = None, at_a_time: int = 1, resume: str = ""
    ) -> None:
        """Ten updates, with a checkpoint `kept` after five; five more from the one to `resume`."""
        step_fn = compile_step(self.config, smallest.PAIRS, devices)
        state = self._on(devices, smallest.start_state(self.config))
        state, _ = smallest.train(step_fn, state, self.first, devices, at_a_time)
        checkpoints = Checkpoints(self.folder / f"run_{kept}")
        checkpoints.save(state, self.config)
        checkpoints.wait()
        self._save(name, *smallest.train(step_fn, state, self.second, devices, at_a_time))
        if resume:
            state = self._on(devices, restored(self.folder, resume))
            self._save(
                f"{resume}_then_{name}", *smallest.train(step_fn, state, self.second, devices)
            )

    def _on(self, devices: int | None, state):
        """A restored state is on all devices, but for a run on one it must not be."""
        return jax.device_put(state, jax.devices()[0]) if devices == 1 else state

    def _save(self, name: str, state, metrics) -> None:
        found = smallest.arrays(state, metrics)
        # NumPy takes no name with a slash.
        np.savez(
            self.folder / f"{name}.npz", **{key.replace("/", "|"): found[key] for key in found}
        )


def layers(devices: int) -> dict[str, np.ndarray]:
    """Output and gradients of layers that look at the whole batch, which is split over devices."""
    rng = np.random.default_rng(0)
    x, weight = jnp.asarray(rng.normal(size=(2, 4, 5, 5, 3)))
    params = {"layers_0": {"scale": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.ones(3)}}

    def compute(x, weight, axis_name=None):
        style = Style("batch", dtype=jnp.float64, share=Share(axis_name))
        network = nn.Sequential([Norm(style), nn.tanh, Dropout(0.5, style)])
        rngs = {"dropout": jax.random.key(0)}
        y, pull = jax.vjp(lambda p, x: network.apply({"params": p}, x, rngs=rngs), params, x)
        return y, *pull(weight)

    if devices == 1:
        y, gradients, of_x = compute(x, weight)
    else:
        split = [v.reshape(devices, -1, *v.shape[1:]) for v in (x, weight)]
        parallel = jax.pmap(lambda *given: compute(*given, DEVICE_AXIS), DEVICE_AXIS)
        y, gradients, of_x = parallel(*split)
        gradients = jax.tree.map(lambda g: g.sum(0), gradients)
    return {"y": y.reshape(x.shape), "x": of_x.reshape(x.shape), **gradients["layers_0"]}


def images() -> dict[str, np.ndarray]:
    """Ten images translated and brought back, on all devices and one by one on the first."""
    networks = build_networks(smallest.get_config())
    rng = np.random.default_rng(0)
    there, back = (
        Network(g, g.init(jax.random.key(i), jnp.zeros((1, *smallest.SIZE, 3)))["params"], 3)
        for i, g in enumerate(networks[:2])
    )
    translator = Translator(there, back, 0)
    given = rng.integers(0, 256, (10, 14, 15, 3), np.uint8)
    singly = [np.stack(made) for made in zip(*map(translator.round_trip, given), strict=True)]
    return {"singly": np.stack(singly), "together": np.stack(translator.round_trip(given))}


def alone(folder: Path) -> None:
    """Two devices in micro-batches; one, which also goes on where they stopped; four, in scans."""
    Runs(folder, micro_batches=2).run("two", "two", 2)
    Runs(folder).run("one", "one", 1, resume="two")
    Runs(folder).run("four", "four", 4, at_a_time=HALF)
    for name, devices in (("one", 1), ("two", 2), ("four", 4)):
        np.savez(folder / f"layers_{name}.npz", **layers(devices))
    np.savez(folder / "images.npz", **images())


def among_others(folder: Path, process: int, processes: int) -> None:
    """This process's share of the same, and going on where two devices of one process stopped."""
    runs = Runs(folder, process, processes)
    runs.run(f"process_{process}", "processes", resume="two")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        process, processes, port = map(int, sys.argv[2:])
        join_processes(f"127.0.0.1:{port}", processes, process)
    jax.config.update("jax_enable_x64", True)
    if len(sys.argv) > 2:
        among_others(Path(sys.argv[1]), process, processes)
    else:
        alone(Path(sys.argv[1]))
