"""Running averages of the generators."""

import functools

import jax
import numpy as np
import pytest

from cyclegan_jax.build import build_state
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.config import to_json
from cyclegan_jax.distributed import compile_step
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils.errors import UserError
from tests import tiny
from tests.states import start_state
from tests.test_step import PAIRS, SIZE, batches, same_bits

DECAY = 0.5


def averaging_config(decay=DECAY):
    """As small as it gets."""
    config = tiny.get_config()
    config.generator.blocks = 1
    config.generator.width = 2
    config.average_decay = decay
    return config


@pytest.fixture(scope="module")
def states():
    """Before the first of 12 updates and after each."""
    step = compile_step(averaging_config(), PAIRS)
    state = start_state(averaging_config(), SIZE)
    kept = [jax.tree.map(np.asarray, state.replace(key=None))]
    for batch in batches(12):
        state, _ = step(state, batch)
        kept.append(jax.tree.map(np.asarray, state.replace(key=None)))
    return kept


def test_average_is_that_of_a_plain_loop(states):
    """NumPy over the parameters after each update; the first ones count for more."""
    for name in ("gen_ab", "gen_ba"):
        leaves = [jax.tree.leaves(state.params[name]) for state in states]
        expected = list(leaves[0])
        for t in range(12):
            weight = max(1 - DECAY, 9 / (10 + t))
            expected = [a + weight * (p - a) for a, p in zip(expected, leaves[t + 1], strict=True)]
        found = jax.tree.leaves(states[-1].average[name])
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert not same_bits(states[-1].average["gen_ab"], states[-1].params["gen_ab"])
    assert set(states[-1].average) == {"gen_ab", "gen_ba"}


def test_training_does_not_see_the_average(states):
    """The parameters end in the same bits as without one."""
    step = compile_step(averaging_config(0.0), PAIRS)
    state = start_state(averaging_config(0.0), SIZE)
    assert state.average is None
    for batch in batches(12):
        state, _ = step(state, batch)
    assert same_bits(state.params, states[-1].params)


def saved(workdir, state, config):
    """A work directory with this state as its checkpoint."""
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state, config)
    checkpoints.wait()
    checkpoints.close()
    (workdir / "config.json").write_text(to_json(config))


def test_translations_use_it_and_runs_go_on_from_it(tmp_path, states):
    """A translator has the averages; a restored state has both; the raw ones stay at hand."""
    config = averaging_config()
    state = states[-1].replace(key=jax.random.key(0))
    saved(tmp_path, jax.tree.map(jax.numpy.asarray, state), config)
    translator = Translator.load(tmp_path)
    assert same_bits(translator.there.params, state.average["gen_ab"])
    assert same_bits(translator.back.params, state.average["gen_ba"])
    checkpoints = Checkpoints(tmp_path, read_only=True)
    template = jax.eval_shape(functools.partial(build_state, config, SIZE))
    assert same_bits(checkpoints.restore(template, config), state)
    assert same_bits(checkpoints.restore_params(config)[1], state.params)
    assert same_bits(state.inference_params["disc_a"], state.params["disc_a"])


@pytest.mark.parametrize("kept", [DECAY, 0.0])
def test_switching_it_in_a_run_is_refused(tmp_path, kept):
    """In one line, and the checkpoint stays where it is."""
    saved(tmp_path, start_state(averaging_config(kept), SIZE), averaging_config(kept))
    other = averaging_config(DECAY - kept)
    template = jax.eval_shape(functools.partial(build_state, other, SIZE))
    with pytest.raises(UserError, match="average_decay"):
        Checkpoints(tmp_path).restore(template, other)
    assert Checkpoints(tmp_path).steps == [0]
