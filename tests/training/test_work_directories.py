"""Damaged, foreign or unwritable work directories: one clear line, and nothing is lost."""

import errno
import logging
import os
import resource
import shutil
from pathlib import Path

import pytest

from cyclegan_jax import config as config_lib
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.training import lock, train
from cyclegan_jax.utils.errors import UserError
from tests import short
from tests.refused_runs import refusal


def test_work_directory_that_cannot_be_created(config, tmp_path):
    """A file in place of a parent folder is an error."""
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(config, tmp_path / "file" / "run")


def test_work_directory_in_use(config, tmp_path):
    """A second run is refused while the first one is running."""
    with lock(tmp_path / "run"):
        assert "in use by another run" in refusal(config, tmp_path / "run")


def test_names_that_are_not_utf8(config, tmp_path, caplog):
    """They are refused before anything is created, by programs that read a run as well."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff"))
    assert "run\ufffd: expected a name in UTF-8" in refusal(config, folder)
    assert not folder.exists()
    try:
        (folder / "checkpoints").mkdir(parents=True)
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    (folder / "config.json").write_text(config_lib.to_json(config))
    with pytest.raises(UserError, match="expected a name in UTF-8"):
        Translator.load(folder)
    assert not caplog.records


def test_foreign_work_directory(config, tmp_path):
    """A folder with other files is refused and not changed."""
    (tmp_path / "thesis.tex").write_text("precious")
    assert "expected a run, which has a config.json" in refusal(config, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The work directory of a run of 6 updates with checkpoints at 2, 4 and 6."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train(short_config(), workdir)
    return workdir


def short_config():
    """Return a configuration of 6 updates with a checkpoint after every second."""
    config = short.get_config()
    config.num_steps = 6
    config.checkpoint_every_steps = 2
    return config


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run_leaves_nothing_open(run, monkeypatch):
    """Where there is nothing to do the checkpoints are closed as after training."""
    closed = []
    monkeypatch.setattr(Checkpoints, "close", lambda self: closed.append(self))
    train(short_config(), run)
    assert len(closed) == 1


def test_networks_of_another_shape(run):
    """The fields that differ are named with both values, and the run is not changed."""
    config = short_config()
    config.generator.width = 8
    assert "generator.width 2 (now 8)" in refusal(config, run)
    (run / "config.json").unlink()
    shutil.copytree(run / "checkpoints", run.parent / "other" / "checkpoints")
    (run.parent / "other" / "config.json").write_text(config_lib.to_json(config))
    assert "generator.width 2 (now 8)" in refusal(config, run.parent / "other")
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"2", "4", "6"}


def test_pools_of_another_shape(run):
    """Another pool or image size is named, and no checkpoint is treated as damaged."""
    config = short_config()
    config.pool_size = 5
    message = refusal(config, run)
    assert "pools.a.images" in message
    assert "[4, 16, 16, 3]" in message
    config.pool_size = 0
    assert "pools.a.images" in refusal(config, run)
    config = short_config()
    config.data.shapes_size = 20
    assert "[4, 20, 20, 3]" in refusal(config, run)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"2", "4", "6"}


def data_files(checkpoint: Path) -> list[Path]:
    """Return the files that hold arrays, largest first."""
    files = [p for p in checkpoint.rglob("*") if p.is_file() and "/d/" in str(p)]
    return sorted(files, key=lambda p: -p.stat().st_size)


def damage(checkpoint: Path) -> None:
    """Truncate the files with arrays to half their size, as a full disk or a crash may."""
    assert data_files(checkpoint)
    for path in data_files(checkpoint):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_damaged_and_half_written_checkpoints_are_skipped(run, finished, caplog):
    """The run resumes from the one before, with a warning, and ends the same.

    The damaged checkpoint is kept; the remains of a crash while saving are deleted.
    """
    damage(run / "checkpoints" / "6")
    leftover = run / "checkpoints" / "8.orbax-checkpoint-tmp"
    shutil.copytree(run / "checkpoints" / "4", leftover)
    caplog.set_level(logging.INFO)
    state = train(short_config(), run)
    assert int(state.step) == 6
    assert "cannot be read" in caplog.text
    assert "moved to" in caplog.text
    assert "Resuming from the checkpoint of step 4" in caplog.text
    assert (run / "damaged" / "6").is_dir()
    assert not leftover.exists()
    samples = "samples/00000006_a_to_b.png"
    assert (run / samples).read_bytes() == (finished / samples).read_bytes()


def test_no_checkpoint_that_can_be_read(run):
    """All are kept, and the run is refused rather than started from scratch."""
    for step in ("2", "4", "6"):
        damage(run / "checkpoints" / step)
    for _ in range(2):
        assert "[2, 4, 6]" in refusal(short_config(), run)
    assert not (run / "damaged").exists()


def test_translators_skip_damaged_checkpoints(run, caplog):
    """A checkpoint without its metadata is skipped, with a warning, for the one before."""
    (run / "checkpoints" / "6" / "state" / "_METADATA").write_text("")
    assert Translator.load(run).step == 4
    assert "6 cannot be read" in caplog.text


def test_configuration_that_cannot_be_written(run, monkeypatch):
    """On a full disk the existing file is kept."""
    before = (run / "config.json").read_bytes()

    def full(path: Path, text: str, encoding: str) -> None:
        with path.open("w", encoding=encoding) as file:
            file.write(text[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    config = short_config()
    config.num_steps = 8
    assert "cannot be written: No space left on device" in refusal(config, run)
    assert (run / "config.json").read_bytes() == before


def test_damaged_configuration(run):
    """A truncated config.json is named."""
    (run / "config.json").write_text('{"seed":')
    assert "config.json: cannot be read as a configuration" in refusal(short_config(), run)


def test_disk_full(tmp_path):
    """A checkpoint that cannot be written stops the run; a limit on file sizes simulates it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, hard))
    try:
        message = refusal(short_config(), tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "could not be written" in message


def test_loss_that_is_not_finite(tmp_path):
    """The run stops, names step and metric, and its last checkpoint is the one before."""
    config = short.get_config()
    config.checkpoint_every_steps = 1
    config.num_steps = 50
    config.optimizer.learning_rate = 1e9
    message = refusal(config, tmp_path / "run")
    assert "at step" in message
    step = int(message.split("at step ")[1].split(":")[0])
    saved = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved
    assert saved[-1] == step - 1
