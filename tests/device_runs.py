"""A short run in a process of its own: `python -m tests.device_runs OUT [PROCESS PROCESSES PORT]`.

Devices and processes are counted when JAX starts, so each count needs a process. Ten updates in
float64; the parameters, pools and losses go to OUT as .npz.
"""

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

from cyclegan_jax.state import create_state  # noqa: E402
from cyclegan_jax.step import compile_step  # noqa: E402
from tests.conftest import tiny_config  # noqa: E402


def main() -> None:
    """Runs and writes."""
    config = tiny_config()
    config.precision = "float64"
    config.pool_size = 3
    config.generator.norm = "batch"  # statistics and masks that belong to the whole batch
    config.generator.dropout = 0.5
    config.loss.mode = "wgangp"  # and points between pictures that are drawn for all of it
    rng = np.random.default_rng(0)
    state, losses = create_state(config, (16, 16)), []
    step = compile_step(config, pairs_per_epoch=4)
    share = config.batch_size // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    for _ in range(10):
        batch = {d: rng.integers(0, 256, (2, 16, 16, 3), np.uint8)[mine] for d in ("a", "b")}
        state, metrics = step(state, batch)
        losses.append([float(metrics[name].addressable_data(0)) for name in sorted(metrics)])
    leaves = jax.tree.leaves((state.params, state.pools))
    arrays = [np.asarray(leaf.addressable_data(0)) for leaf in leaves]
    np.savez(sys.argv[1], *arrays, devices=jax.device_count(), losses=np.array(losses))


if __name__ == "__main__":
    main()
