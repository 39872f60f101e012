"""Runs in float64 of very small networks, for ways of computing that must agree.

Adam's first steps are nearly the sign of the gradient, which in float32 rounding decides; in
float64 two ways of computing the same agree to 1e-9 for many steps.
"""

import functools

import jax
import numpy as np

from cyclegan_jax.distributed import place
from cyclegan_jax.models.generators import GENERATORS, ResNetGenerator
from tests import states, tiny

SIZE = (16, 16)
STEPS = 10
PAIRS = 4

# Less to compile than any that users can choose.
GENERATORS["resnet1"] = functools.partial(ResNetGenerator, blocks=1, levels=1)


def get_config(dropout=0.0, **changes):
    """Batches of four and a pool that is soon full; `changes` are fields of the top level."""
    config = tiny.get_config()
    config.precision = "float64"
    config.batch_size = 4
    config.pool_size = 6
    config.generator.variant = "resnet1"
    config.generator.width = 2
    config.generator.dropout = dropout
    config.discriminator.width = 2
    config.update(changes)
    return config


def start_state(config):
    """Before the first update."""
    return states.start_state(config, SIZE)


def make_batches(config, steps=STEPS, process=0, processes=1):
    """Noise for images, and of each batch the share of this process."""
    rng = np.random.default_rng(1)
    shape, share = (config.batch_size, *SIZE, 3), config.batch_size // processes
    mine = slice(process * share, (process + 1) * share)
    return [
        {d: rng.integers(0, 256, shape, np.uint8)[mine] for d in ("a", "b")} for _ in range(steps)
    ]


def train(step_fn, state, batches, devices=None, at_a_time=1):
    """The state after these batches, and {name: [step]} of the metrics."""
    rows = []
    for i in range(0, len(batches), at_a_time):
        state, metrics = step_fn(state, place(batches[i : i + at_a_time], devices))
        columns = {name: np.atleast_1d(np.asarray(values)) for name, values in metrics.items()}
        rows += [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
    return state, {name: np.array([row[name] for row in rows]) for name in rows[0]}


def arrays(state, metrics=()):
    """{path: array} of what two runs must agree in."""
    trees = {"params": state.params, "pools": state.pools, "metrics": dict(metrics)}
    return {
        jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(trees)
    }


def assert_agree(one, other):
    """All that is in both agrees to 1e-9."""
    assert set(one) == set(other)
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, rtol=1e-9, atol=1e-9, err_msg=name)
