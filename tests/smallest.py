"""Runs of very small networks in float64, for computations that must agree.

Adam's first steps are nearly the sign of the gradient, which rounding decides in float32; in
float64 two equivalent computations agree to 1e-9 for many steps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cyclegan_jax.build import build_model
from cyclegan_jax.distributed import compile_step, place
from cyclegan_jax.losses import ExtraLoss
from cyclegan_jax.models.generators import GENERATORS, ResNetGenerator
from tests import states, tiny

SIZE = (16, 16)
STEPS = 10
PAIRS = 4

# Compiles faster than any published variant.
GENERATORS["resnet1"] = functools.partial(ResNetGenerator, blocks=1, levels=1)


def get_config(dropout=0.0, **changes):
    """Return a configuration with batches of four and a small pool.

    `changes` are fields of the top level.
    """
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


def filtered_cycle():
    """Build a further loss with frozen parameters: the cycle loss of filtered images of A."""

    def loss(passes, frozen, networks):
        del networks
        return jnp.mean(jnp.abs((passes.cycled_a - passes.real_a) @ frozen["filter"]))

    return ExtraLoss(loss, {"filter": np.linspace(-1.0, 1.0, 6).reshape(3, 2)})


def start_state(config):
    """Build the state before the first update."""
    return states.start_state(config, SIZE)


def build_step(config, devices=None):
    """Compile the update of a configuration."""
    return compile_step(build_model(config, PAIRS, devices), devices)


def make_batches(config, steps=STEPS, process=0, processes=1):
    """Draw batches of noise images, and return the process's shard of each."""
    rng = np.random.default_rng(1)
    shape, size = (config.batch_size, *SIZE, 3), config.batch_size // processes
    shard = slice(process * size, (process + 1) * size)
    return [
        {d: rng.integers(0, 256, shape, np.uint8)[shard] for d in ("a", "b")} for _ in range(steps)
    ]


def train(step_fn, state, batches, devices=None, at_a_time=1):
    """Train on all batches; return the state and {name: [step]} of the metrics."""
    rows = []
    for i in range(0, len(batches), at_a_time):
        state, metrics = step_fn(state, place(batches[i : i + at_a_time], devices))
        columns = {name: np.atleast_1d(np.asarray(values)) for name, values in metrics.items()}
        rows += [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
    return state, {name: np.array([row[name] for row in rows]) for name in rows[0]}


def arrays(state, metrics=()):
    """Return {path: array} of parameters, pools and metrics."""
    trees = {"params": state.params, "pools": state.pools, "metrics": dict(metrics)}
    return {
        jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(trees)
    }


def assert_agree(actual, expected):
    """Assert that two results of `arrays` agree to 1e-9."""
    assert set(actual) == set(expected)
    for name, values in actual.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)
