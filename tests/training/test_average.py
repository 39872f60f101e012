"""Running averages of the generators."""

import functools

import jax
import numpy as np
import pytest

from cyclegan_jax.build import build_model, build_state
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.config import to_json
from cyclegan_jax.distributed import compile_step
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils.errors import UserError
from tests import tiny
from tests.states import SIZE, noise_batches, same_bits, start_state

DECAY = 0.5


def averaging_config(decay=DECAY):
    """Return a configuration of narrow networks with averages."""
    config = tiny.get_config()
    config.generator.blocks = 1
    config.generator.width = 2
    config.average_decay = decay
    return config


@pytest.fixture(scope="module")
def states():
    """The states before the first of 12 updates and after each."""
    step = compile_step(build_model(averaging_config(), 12))
    state = start_state(averaging_config())
    states = [jax.tree.map(np.asarray, state.replace(key=None))]
    for batch in noise_batches(12):
        state, _ = step(state, batch)
        states.append(jax.tree.map(np.asarray, state.replace(key=None)))
    return states


def test_average_is_that_of_a_plain_loop(states):
    """NumPy averages the parameters after each update, with larger weights at first."""
    for name in ("gen_ab", "gen_ba"):
        leaves = [jax.tree.leaves(state.params[name]) for state in states]
        expected = list(leaves[0])
        for t in range(12):
            weight = max(1 - DECAY, 9 / (10 + t))
            expected = [a + weight * (p - a) for a, p in zip(expected, leaves[t + 1], strict=True)]
        actual = jax.tree.leaves(states[-1].average[name])
        for x, y in zip(actual, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
    assert not same_bits(states[-1].average["gen_ab"], states[-1].params["gen_ab"])
    assert set(states[-1].average) == {"gen_ab", "gen_ba"}


def test_training_does_not_depend_on_the_average(states):
    """The parameters end in the same bits as without an average."""
    config = averaging_config(0.0)
    step, state = compile_step(build_model(config, 12)), start_state(config)
    assert state.average is None
    for batch in noise_batches(12):
        state, _ = step(state, batch)
    assert same_bits(state.params, states[-1].params)


def save(workdir, state, config):
    """Write a work directory with this state as its checkpoint."""
    checkpoints = Checkpoints(workdir, config.to_dict())
    checkpoints.save(state)
    checkpoints.wait()
    checkpoints.close()
    (workdir / "config.json").write_text(to_json(config))


def test_translators_use_the_average_and_checkpoints_hold_both(tmp_path, states):
    """A translator has the averages; a restored state has them beside the parameters."""
    config = averaging_config()
    state = states[-1].replace(key=jax.random.key(0))
    save(tmp_path, jax.tree.map(jax.numpy.asarray, state), config)
    translator = Translator.load(tmp_path)
    assert same_bits(translator.network.params, state.average["gen_ab"])
    assert same_bits(translator.reverse_network.params, state.average["gen_ba"])
    checkpoints = Checkpoints(tmp_path, read_only=True)
    template = jax.eval_shape(functools.partial(build_state, config, SIZE))
    assert same_bits(checkpoints.restore(template), state)
    assert same_bits(checkpoints.restore_params()[1], state.params)
    assert same_bits(state.inference_params["disc_a"], state.params["disc_a"])


@pytest.mark.parametrize("decay", [DECAY, 0.0])
def test_runs_cannot_switch_averages_on_or_off(tmp_path, decay):
    """The field is named in one line, and the checkpoint stays."""
    save(tmp_path, start_state(averaging_config(decay)), averaging_config(decay))
    other = averaging_config(DECAY - decay)
    template = jax.eval_shape(functools.partial(build_state, other, SIZE))
    with pytest.raises(UserError, match="average_decay"):
        Checkpoints(tmp_path, other.to_dict()).restore(template)
    assert Checkpoints(tmp_path).steps == [0]
