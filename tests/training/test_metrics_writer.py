"""Metrics of runs that do not log."""

import numpy as np
import pytest

from cyclegan_jax.metrics_writer import MetricsWriter
from cyclegan_jax.utils.errors import UserError


@pytest.fixture
def writer(tmp_path):
    """The writer of a run that does not sample or evaluate."""
    writer = MetricsWriter(tmp_path, num_steps=10_000, translator=None, images=None)
    yield writer
    writer.close()


def metrics(value, updates=()):
    """Return metrics of one update, or of several."""
    return {"generators/cycle_a": np.full(updates, value), "learning_rate": np.full(updates, 1.0)}


@pytest.mark.parametrize("updates", [(), (10,)])
def test_metrics_that_are_never_flushed(writer, updates):
    """A value that is not finite ends the run soon, and names its step; memory does not grow."""
    step, kept = 0, []
    with pytest.raises(UserError, match="generators/cycle_a at step 21: expected a finite value"):
        while step < 5000:
            step += updates[0] if updates else 1
            first_bad = step == (30 if updates else 21)
            kept.append(metrics(np.nan if first_bad else 0.5, updates))
            writer.add(step, kept[-1])
    assert step <= 1000


def test_the_last_updates_of_a_run(writer, capsys):
    """The run does not end well if its last updates were not finite."""
    writer.add(1, metrics(0.5))
    writer.add(2, metrics(np.inf))
    with pytest.raises(UserError, match="at step 2"):
        writer.end(None)


def test_means_are_those_of_all_updates(writer, monkeypatch):
    """Also where the metrics left the device in several parts."""
    written = []
    monkeypatch.setattr(writer._writer, "write_scalars", lambda *args: written.append(args))
    values = np.random.default_rng(0).normal(size=1500)
    for step, value in enumerate(values, start=1):
        writer.add(step, metrics(value))
    writer.flush()
    (step, means), *others = written
    assert not others
    assert step == 1500
    assert means["generators/cycle_a"] == pytest.approx(values.mean())
    writer.flush()
    assert len(written) == 1
