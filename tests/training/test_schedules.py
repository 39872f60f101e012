"""Learning rates at the start, the knee, the end and past it, worked by hand from the papers."""

import numpy as np
import pytest

from configs import default
from cyclegan_jax.build import build_schedule, run_length

PAIRS = 10


def factor_at(config, epoch, update=0):
    """Return the learning rate at an update of an epoch of ten pairs, divided by the first."""
    return float(build_schedule(config, PAIRS)(epoch * PAIRS + update)) / 2e-4


@pytest.mark.parametrize(
    ("epoch", "factor"),
    # Counted from 0 here, from 1 in the published 1 - max(0, epoch - 100) / 101.
    [(0, 1), (99, 1), (100, 100 / 101), (149, 51 / 101), (199, 1 / 101), (200, 0), (300, 0)],
)
def test_linear(epoch, factor):
    """The rate is constant for 100 epochs, then decays in 101 steps; it is never negative."""
    config = default.get_config()
    np.testing.assert_allclose(factor_at(config, epoch), factor, atol=1e-7)
    np.testing.assert_allclose(factor_at(config, epoch, PAIRS - 1), factor, atol=1e-7)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1), (49, 1), (50, 0.1), (100, 0.01)])
def test_step(epoch, factor):
    """The rate is divided by ten after every 50 epochs."""
    config = default.get_config()
    config.schedule.name = "step"
    np.testing.assert_allclose(factor_at(config, epoch), factor, rtol=1e-6)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1), (50, 0.853553), (100, 0.5), (200, 0)])
def test_cosine(epoch, factor):
    """The rate follows half a wave over all epochs: cos(pi/4) = 0.7071 after a quarter."""
    config = default.get_config()
    config.schedule.name = "cosine"
    np.testing.assert_allclose(factor_at(config, epoch), factor, atol=1e-6)


def test_constant():
    """The full rate is kept forever."""
    config = default.get_config()
    config.schedule.name = "constant"
    assert factor_at(config, 1000) == pytest.approx(1)


def test_epochs_count_pairs_not_updates():
    """With batches of 4 and 10 pairs, update 2 ends the first epoch: its pairs are 8 to 11."""
    config = default.get_config()
    config.batch_size = 4
    config.schedule.name = "step"
    config.schedule.step_epochs = 1
    factors = [factor_at(config, 0, step) for step in range(6)]
    # Updates start with pair 0, 4, 8, 12, 16, 20.
    np.testing.assert_allclose(factors, [1, 1, 1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_long_runs_do_not_overflow():
    """The number of pairs in 32 bits would overflow after 67 million updates of 32 pairs."""
    config = default.get_config()
    config.batch_size = 32
    config.schedule.constant_epochs = 10**9
    config.schedule.decay_epochs = 0
    assert factor_at(config, 0, 2 * 10**8) == pytest.approx(1)


@pytest.mark.parametrize(
    ("batch_size", "num_steps", "expected"), [(1, None, 2000), (3, None, 667), (1, 60, 60)]
)
def test_run_length(batch_size, num_steps, expected):
    """A run has 200 epochs of 10 pairs, rounded up to whole updates, unless num_steps is set."""
    config = default.get_config()
    config.batch_size = batch_size
    config.num_steps = num_steps
    assert run_length(config, PAIRS) == expected
