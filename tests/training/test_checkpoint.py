"""The best checkpoint: which one it is, how long it is kept, and where it is recorded."""

import json
import shutil

import jax
import jax.numpy as jnp
import pytest

from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.training import save_if_best
from cyclegan_jax.utils.errors import UserError
from tests import tiny
from tests.states import same_bits, start_state


@pytest.fixture(scope="module")
def states():
    """Return a function from a step to a small state of that step."""
    config = small_config()
    state = start_state(config, (8, 8))
    return lambda step: state.replace(step=jnp.int32(step))


def small_config():
    """Return a configuration of tiny networks."""
    config = tiny.get_config()
    config.generator.width = config.discriminator.width = 2
    return config


def opened(workdir, **options):
    """Open the checkpoints of a run that keeps the latest and the best one."""
    return Checkpoints(workdir, small_config().to_dict(), keep=1, **options)


def evaluate(checkpoints, state, name, value):
    """Save as a run does after an evaluation that is due together with a checkpoint."""
    save_if_best(checkpoints, state, name, {f"a_to_b/{name}": value}, name != "l1")
    checkpoints.save(state)


def test_first_of_the_best_values_stays(tmp_path, states):
    """Of values 3, 1, 2, 1 of a metric that is better when lower, the first 1 is kept."""
    checkpoints = opened(tmp_path)
    for step, value in enumerate((3.0, 1.0, 2.0, 1.0), 1):
        evaluate(checkpoints, states(step), "l1", value)
    checkpoints.wait()
    assert checkpoints.steps == [2, 4]
    assert checkpoints.best == (2, "l1", 1.0)
    assert opened(tmp_path, read_only=True).best == (2, "l1", 1.0)


def test_only_better_states_are_saved(tmp_path, states):
    """An evaluation saves nothing where the value is not better, not a number, or unknown."""
    checkpoints = opened(tmp_path)
    save_if_best(checkpoints, states(1), "ssim", {"ssim": float("nan")}, True)
    save_if_best(checkpoints, states(2), "ssim", None, True)
    assert checkpoints.steps == []
    assert checkpoints.best is None
    save_if_best(checkpoints, states(3), "ssim", {"ssim": 0.5}, True)
    save_if_best(checkpoints, states(4), "ssim", {"ssim": 0.4}, True)
    assert checkpoints.steps == [3]


def test_another_metric_starts_anew(tmp_path, states):
    """A resumed run may choose another metric, whose first checkpoint replaces the best."""
    checkpoints = opened(tmp_path)
    evaluate(checkpoints, states(1), "l1", 0.1)
    checkpoints.wait()
    checkpoints = opened(tmp_path)
    evaluate(checkpoints, states(2), "ssim", 0.5)
    evaluate(checkpoints, states(3), "ssim", 0.4)
    checkpoints.wait()
    assert checkpoints.steps == [2, 3]
    assert checkpoints.best == (2, "ssim", 0.5)


@pytest.mark.parametrize("earlier_version", [False, True])
def test_damaged_checkpoint_is_no_longer_the_best(tmp_path, states, earlier_version):
    """Once it is moved away, the next evaluated state is the best, however bad."""
    checkpoints = Checkpoints(tmp_path, small_config().to_dict())
    checkpoints.save(states(1))
    if earlier_version:
        checkpoints.save(states(2))
        write_best_json(tmp_path, 2, 0.1)
    else:
        evaluate(checkpoints, states(2), "l1", 0.1)
    checkpoints.wait()
    (tmp_path / "checkpoints" / "2" / "config" / "metadata").write_text("")
    assert opened(tmp_path, read_only=True).best == (2, "l1", 0.1)
    checkpoints = restart(tmp_path, states)
    assert checkpoints.best is None
    evaluate(checkpoints, states(2), "l1", 0.9)
    checkpoints.wait()
    assert checkpoints.best == (2, "l1", 0.9)


def test_unreadable_metadata_hides_one_checkpoint(tmp_path, states, caplog):
    """The best is then sought among the others, with a warning."""
    checkpoints = Checkpoints(tmp_path, small_config().to_dict())
    evaluate(checkpoints, states(1), "l1", 0.2)
    evaluate(checkpoints, states(2), "l1", 0.1)
    checkpoints.wait()
    (tmp_path / "checkpoints" / "2" / "state" / "_METADATA").write_text("")
    assert opened(tmp_path, read_only=True).best == (1, "l1", 0.2)
    assert "does not count as the best" in caplog.text


def write_best_json(workdir, step, value):
    """Write the record of earlier versions."""
    record = {"step": step, "figure": "l1", "value": value}
    (workdir / "best.json").write_text(json.dumps(record))


def restart(workdir, states):
    """Open the checkpoints again and restore the latest."""
    checkpoints = opened(workdir)
    assert checkpoints.restore(states(0)) is not None
    return checkpoints


def test_record_of_an_earlier_version(tmp_path, states):
    """The checkpoint that best.json names is kept and found until another is better."""
    checkpoints = opened(tmp_path)
    checkpoints.save(states(1))
    checkpoints.wait()
    write_best_json(tmp_path, 1, 0.5)
    checkpoints = restart(tmp_path, states)
    evaluate(checkpoints, states(2), "l1", 0.6)
    evaluate(checkpoints, states(3), "l1", 0.6)
    checkpoints.wait()
    assert checkpoints.steps == [1, 3]
    reader = opened(tmp_path, read_only=True)
    assert reader.best == (1, "l1", 0.5)
    assert reader.restore_params("best")[0] == 1
    evaluate(checkpoints, states(4), "l1", 0.4)
    evaluate(checkpoints, states(5), "l1", 0.6)
    checkpoints.wait()
    assert checkpoints.steps == [4, 5]
    assert opened(tmp_path, read_only=True).best == (4, "l1", 0.4)


def test_damaged_record_of_an_earlier_version(tmp_path, states):
    """An empty best.json is found when the run starts; reading the latest does not need it."""
    checkpoints = opened(tmp_path)
    checkpoints.save(states(1))
    checkpoints.wait()
    (tmp_path / "best.json").write_text("")
    with pytest.raises(UserError, match=r"best\.json: expected a step and its metric"):
        opened(tmp_path)
    reader = opened(tmp_path, read_only=True)
    assert reader.restore_params()[0] == 1
    with pytest.raises(UserError, match=r"best\.json"):
        reader.restore_params("best")


def test_plateau_is_restored(tmp_path):
    """It is part of the state: a resumed run continues with the reduced rate."""
    config = small_config()
    config.schedule.name = "plateau"
    state = start_state(config, (8, 8))
    state = state.replace(optimizers=jax.tree.map(lambda x: x + 3, state.optimizers))
    assert "plateau" in state.optimizers
    checkpoints = Checkpoints(tmp_path, config.to_dict())
    checkpoints.save(state)
    checkpoints.wait()
    restored = Checkpoints(tmp_path, config.to_dict(), read_only=True).restore(state)
    assert same_bits(restored, state)


@pytest.mark.parametrize("item", ["state", "config"])
def test_other_content_than_was_saved_is_not_restored(tmp_path, states, item):
    """A readable state or configuration that was exchanged is noticed, as damaged bytes are."""
    other = tmp_path / "other"
    changed = small_config()
    changed.optimizer.learning_rate *= 2
    for workdir, config, factor in ((tmp_path, small_config(), 1), (other, changed, 2)):
        checkpoints = Checkpoints(workdir, config.to_dict())
        for step in (1, 2):
            state = states(step)
            params = jax.tree.map(lambda x, by=factor: x * by, state.params)
            checkpoints.save(state.replace(params=params))
        checkpoints.wait()
        checkpoints.close()
    shutil.rmtree(tmp_path / "checkpoints" / "2" / item)
    shutil.copytree(other / "checkpoints" / "2" / item, tmp_path / "checkpoints" / "2" / item)
    checkpoints = Checkpoints(tmp_path, small_config().to_dict(), read_only=True)
    assert checkpoints.restore_params()[0] == 1
    assert int(checkpoints.restore(states(0)).step) == 1
    with pytest.raises(UserError, match=f"its {item} differs from what was saved"):
        checkpoints.restore_params(2)
