"""Every mistake of a user's gives one clear line and a non-zero exit, and loses nothing."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_jax import config as config_lib
from cyclegan_jax import devices
from cyclegan_jax.errors import UserError
from cyclegan_jax.train import claimed, train
from tests import tiny

ROOT = Path(__file__).parent.parent


def command_line(*arguments: str) -> subprocess.CompletedProcess:
    """Runs main.py and returns what it said and its exit code."""
    command = [sys.executable, "main.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.batch_siz=4"], "the nearest is config.batch_size"),
        (["--config.crop_size=4"], "the nearest is config.data.crop_size"),
        (["--config.batch_size=four"], "config.batch_size is 'four'; a whole number was expected"),
        (["--config.data.flip=maybe"], "config.data.flip is 'maybe'; true or false was expected"),
        (["--config.precision=float16"], "choose from float32, bfloat16, float64"),
        (["--workdri=x"], "Did you mean: workdir"),
        (["--batch_size=4"], "fields are set as --config.batch_size="),
        (["runs/x"], "'runs/x' is not a flag"),
        (["--config=configs/nothing.py"], "there are configs/celeba_glasses.py, "),
        (["--config=configs/tfds.py:map"], "did you mean maps?"),
    ],
)
def test_command_line(tmp_path, arguments, expected):
    """One line on standard error, exit code 1, and no work directory made."""
    first = ["--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}"]
    result = command_line(*first, *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr
    assert not (tmp_path / "run").exists()


def refusal(config, workdir: Path) -> str:
    """The one line with which `train` refuses."""
    with pytest.raises(UserError) as caught:
        train(config, workdir)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("batch_size", 0, "config.batch_size is 0; it must be at least 1"),
        ("optimizer.learning_rate", -1.0, "must be at least 0"),
        ("optimizer.beta1", 1.0, "must be below 1"),
        ("generator.variant", "resnet7", "choose from resnet3, resnet6, resnet9"),
        ("generator.variant", "unet128", "multiples of 128"),
        ("discriminator.layers", 5, "sides must be at least 96"),
        ("discriminator.scales", 4, "sides must be at least 48"),
        ("discriminator.variant", "patches", "choose from patch, patch_normed, patch_reflect"),
        ("generator.blocks", 0, "config.generator.blocks is 0; it must be at least 1"),
        ("data.channels_b", 1, "set it to 0"),
        ("data.source", "files", "choose from tfds, folder, shapes"),
        ("init_from", "/nowhere", "config.init_from is '/nowhere'"),
    ],
)
def test_configuration(config, tmp_path, field, value, expected):
    """Values out of range, unknown choices and sizes that do not fit."""
    *path, last = field.split(".")
    node = config
    for part in path:
        node = node[part]
    node[last] = value
    assert expected in refusal(config, tmp_path / "run")


@pytest.fixture
def folders(config, tmp_path):
    """Three small pictures in each of four folders, and a configuration for them."""
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / name).mkdir()
        for i in range(3):
            picture = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
            picture.save(tmp_path / name / f"{i}.jpg")
    config.data.source = "folder"
    config.data.dir = str(tmp_path)
    config.data.treatment = "crop"
    config.data.crop_size = 32
    return config, tmp_path


@pytest.mark.parametrize(
    ("metrics", "best", "expected"),
    [
        ("truth", "", "true translation is known"),
        ("fod", "", "metric 'fod'; choose from truth, cycle, identity"),
        ("segmentation", "", "needs palette_a or palette_b"),
        ("", "iou", "choose one of pixel_accuracy"),
        ("cycle", "fid", "but the figures are cycle_a/l1"),
    ],
)
def test_figures_that_there_are_not(folders, metrics, best, expected):
    """Metrics that do not exist or do not apply, and a best checkpoint by one of them."""
    config, root = folders
    config.evaluate_every_steps = 10
    config.evaluation.metrics = metrics
    config.evaluation.best = best
    assert expected in refusal(config, root / "run")


def test_figures_without_test_pictures(folders):
    """The domain is named, and what to give."""
    config, root = folders
    config.evaluate_every_steps = 10
    shutil.rmtree(root / "testB")
    assert "domain B has no test pictures" in refusal(config, root / "run")


def test_folder_that_is_not_there(folders):
    """The message names the folder."""
    config, root = folders
    config.data.dir = str(root / "nothing")
    assert str(root / "nothing") in refusal(config, root / "run")


@pytest.mark.parametrize("name", ["trainA", "trainB"])
def test_empty_folder(folders, name):
    """One of the two is enough."""
    config, root = folders
    for path in (root / name).iterdir():
        path.unlink()
    assert name in refusal(config, root / "run")


def test_text_named_jpg(folders):
    """The message names the file, whichever it is."""
    config, root = folders
    for path in (root / "trainA").iterdir():
        path.write_text("not a picture")
    assert "trainA" in refusal(config, root / "run")
    assert ".jpg" in refusal(config, root / "run2")


def test_truncated_jpeg(folders):
    """Half a picture is not taken for a whole one."""
    config, root = folders
    for path in (root / "trainB").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "trainB" in refusal(config, root / "run")


def test_crop_larger_than_the_picture(folders):
    """Both sizes and the fields are named."""
    config, root = folders
    config.data.crop_size = 64
    message = refusal(config, root / "run")
    assert "40x40" in message
    assert "data.crop_size=64" in message


def test_crop_that_the_generator_cannot_take(folders):
    """The unit that sides must be multiples of, and the fields that decide."""
    config, root = folders
    config.data.crop_size = 30
    message = refusal(config, root / "run")
    assert "multiples of 4" in message
    assert "data.crop_size" in message


def test_crop_larger_than_the_resized_picture(folders):
    """Before any picture is read."""
    config, root = folders
    config.data.treatment = "resize_and_crop"
    config.data.load_size = 28
    assert "at most data.load_size" in refusal(config, root / "run")


def test_pictures_of_different_sizes_without_a_crop(folders):
    """Two files and their sizes are named, and treatments that help."""
    config, root = folders
    config.data.treatment = "none"
    Image.new("RGB", (48, 40)).save(root / "trainA" / "wide.png")
    message = refusal(config, root / "run")
    assert "48x40" in message
    assert "resize_and_crop" in message


def test_work_directory_that_cannot_be_made(config, tmp_path):
    """A file stands in the way."""
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(config, tmp_path / "file" / "run")


def test_work_directory_in_use(config, tmp_path):
    """A second run keeps out while the first is at work."""
    with claimed(tmp_path / "run"):
        assert "in use by another run" in refusal(config, tmp_path / "run")


def test_foreign_work_directory(config, tmp_path):
    """A folder of something else is refused and stays as it is."""
    (tmp_path / "thesis.tex").write_text("precious")
    assert "no config.json of a run" in refusal(config, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 6 updates with checkpoints at 2, 4 and 6."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train(short_config(), workdir)
    return workdir


def short_config():
    """6 updates, a checkpoint after every second."""
    config = tiny.get_config()
    config.num_steps = 6
    config.checkpoint_every_steps = 2
    return config


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_networks_of_another_shape(run):
    """The fields that differ are named with both values, and the run is untouched."""
    config = short_config()
    config.generator.width = 8
    assert "generator.width 4 (now 8)" in refusal(config, run)
    (run / "config.json").unlink()
    shutil.copytree(run / "checkpoints", run.parent / "other" / "checkpoints")
    (run.parent / "other" / "config.json").write_text(config_lib.to_json(config))
    assert "generator.width 4 (now 8)" in refusal(config, run.parent / "other")
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"2", "4", "6"}


def test_pools_of_another_shape(run):
    """Another pool or picture size is named as such, and no checkpoint is taken for damaged."""
    config = short_config()
    config.pool_size = 5
    assert "pools.a.images is [4, 32, 32, 3]" in refusal(config, run)
    config.pool_size = 0
    assert "this configuration makes it none" in refusal(config, run)
    config = short_config()
    config.data.shapes_size = 36
    assert "makes it [4, 36, 36, 3]" in refusal(config, run)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"2", "4", "6"}
    config.init_from, config.num_steps = str(run), 1
    assert int(train(config, run.parent / "new").step) == 1


def data_files(checkpoint: Path) -> list[Path]:
    """Files that hold arrays, largest first."""
    files = [p for p in checkpoint.rglob("*") if p.is_file() and "/d/" in str(p)]
    return sorted(files, key=lambda p: -p.stat().st_size)


def damage(checkpoint: Path) -> None:
    """Cuts the files with the arrays in half, as a full disk or a crash may."""
    assert data_files(checkpoint)
    for path in data_files(checkpoint):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_truncated_checkpoint_is_passed_over(run, finished, caplog):
    """The run goes on from the one before, says so, keeps the bad one, and ends the same."""
    damage(run / "checkpoints" / "6")
    caplog.set_level(logging.INFO)
    state = train(short_config(), run)
    assert int(state.step) == 6
    assert "cannot be read" in caplog.text
    assert "moved to" in caplog.text
    assert "Going on from the checkpoint of step 4" in caplog.text
    assert (run / "damaged" / "6").is_dir()
    samples = "samples/00000006_a_to_b.png"
    assert (run / samples).read_bytes() == (finished / samples).read_bytes()


def test_no_checkpoint_that_can_be_read(run):
    """Where all are damaged the run does not silently begin again."""
    for step in ("2", "4", "6"):
        damage(run / "checkpoints" / step)
    assert "none of its checkpoints [2, 4, 6] can be read" in refusal(short_config(), run)


def test_half_written_checkpoint_is_cleared(run):
    """What a crash in the middle of saving leaves is not taken for a checkpoint."""
    shutil.rmtree(run / "checkpoints" / "6")
    leftover = run / "checkpoints" / "6.orbax-checkpoint-tmp"
    shutil.copytree(run / "checkpoints" / "4", leftover)
    assert int(train(short_config(), run).step) == 6
    assert not leftover.exists()


def test_damaged_configuration(run):
    """A work directory whose config.json is cut off says so."""
    (run / "config.json").write_text('{"seed":')
    assert "not a readable configuration" in refusal(short_config(), run)


def test_disk_full(tmp_path):
    """A checkpoint that cannot be written ends the run; a limit on files stands for the disk."""
    command = [sys.executable, "main.py", "--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}"]
    limited = ["bash", "-c", 'ulimit -f 64; exec "$@"', "bash", *command]
    result = subprocess.run(
        [*limited, "--config.sample_every_steps=0"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "could not be written" in result.stderr
    assert "Traceback" not in result.stderr


def test_loss_that_is_not_finite(config, tmp_path):
    """The run stops, names step and metric, and keeps the last good checkpoint alone."""
    config.checkpoint_every_steps = 1
    config.num_steps = 50
    config.optimizer.learning_rate = 1e25
    message = refusal(config, tmp_path / "run")
    assert "at step" in message
    step = int(message.split("at step ")[1].split(":")[0])
    kept = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept
    assert kept[-1] == step - 1


def test_batch_that_does_not_divide_among_devices(config, tmp_path, monkeypatch):
    """A batch that does not divide among the devices is refused with both numbers."""
    monkeypatch.setattr(devices.jax, "device_count", lambda: 3)
    assert "multiple of the 3 devices" in refusal(config, tmp_path / "run")
