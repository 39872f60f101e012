"""A short run in a process of its own: `python -m tests.device_runs OUT [PROCESS PROCESSES PORT]`.

Devices and processes are counted when JAX starts, so each count needs a process. Updates in
float64; the parameters, pools and losses go to OUT as .npz.
"""

import functools
import sys

import jax
import numpy as np

if len(sys.argv) > 2:
    jax.distributed.initialize(
        coordinator_address=f"127.0.0.1:{sys.argv[4]}",
        num_processes=int(sys.argv[3]),
        process_id=int(sys.argv[2]),
    )
jax.config.update("jax_enable_x64", True)

from cyclegan_jax.generators import GENERATORS, ResNetGenerator  # noqa: E402
from cyclegan_jax.state import create_state  # noqa: E402
from cyclegan_jax.step import compile_step  # noqa: E402
from tests.tiny import get_config as tiny_config  # noqa: E402


def run(generator_norm: str, dropout: float, steps: int) -> list[np.ndarray]:
    """Parameters, pools and the losses of every update."""
    config = tiny_config()
    config.precision = "float64"
    # One block is enough, and less to compile.
    GENERATORS["resnet1"] = functools.partial(ResNetGenerator, blocks=1)
    config.generator.variant = "resnet1"
    config.pool_size = 3
    config.generator.norm = generator_norm
    config.generator.dropout = dropout
    config.discriminator.norm = generator_norm
    rng = np.random.default_rng(0)
    state, losses = create_state(config, (16, 16)), []
    step = compile_step(config, pairs_per_epoch=4)
    share = config.batch_size // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    for _ in range(steps):
        batch = {d: rng.integers(0, 256, (2, 16, 16, 3), np.uint8)[mine] for d in ("a", "b")}
        state, metrics = step(state, batch)
        losses.append([float(metrics[name].addressable_data(0)) for name in sorted(metrics)])
    leaves = jax.tree.leaves((state.params, state.pools))
    return [np.array(losses), *(np.asarray(leaf.addressable_data(0)) for leaf in leaves)]


if __name__ == "__main__":
    # The published networks, and what belongs to the whole batch: its statistics, dropout's masks.
    arrays = [*run("instance", 0.0, 10), *run("batch", 0.5, 3)]
    np.savez(sys.argv[1], *arrays, devices=jax.device_count())
