"""Every mistake of a user's in settings and images gives one clear line and a non-zero exit."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_jax import distributed
from tests.refused_runs import refusal

ROOT = Path(__file__).parents[2]


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
        ("data.source", "files", "expected one of tfds, folder, shapes"),
        ("init_from", "/nowhere", "config.init_from is '/nowhere'"),
    ],
)
def test_configuration(config, tmp_path, field, value, expected):
    """Values out of range, unknown choices and sizes that do not fit."""
    config.generator.blocks = None  # U-Nets have none
    *path, last = field.split(".")
    node = config
    for part in path:
        node = node[part]
    node[last] = value
    assert expected in refusal(config, tmp_path / "run")


@pytest.fixture
def folders(config, tmp_path):
    """Three small images in each of four folders, and a configuration for them."""
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / name).mkdir()
        for i in range(3):
            image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
            image.save(tmp_path / name / f"{i}.jpg")
    config.data.source = "folder"
    config.data.dir = str(tmp_path)
    config.data.transform = "crop"
    config.data.crop_size = 32
    return config, tmp_path


@pytest.mark.parametrize(
    ("metrics", "best", "expected"),
    [
        ("truth", "", "metric truth: expected a dataset with known labels"),
        ("fod", "", "config.evaluation.metrics: expected one of truth, cycle, identity, "),
        ("segmentation", "", "metric segmentation: expected palette_a or palette_b"),
        ("", "iou", "config.evaluation.best: expected one of l1, psnr, ssim"),
        (
            "cycle",
            "fid",
            "expected one of l1, psnr, ssim, or one direction as a_to_b/NAME, got 'fid'",
        ),
    ],
)
def test_metrics(folders, metrics, best, expected):
    """Unknown and inapplicable metrics, and a best checkpoint by a metric that is not computed."""
    config, root = folders
    config.evaluate_every_steps = 10
    config.evaluation.metrics = metrics
    config.evaluation.best = best
    assert expected in refusal(config, root / "run")


@pytest.mark.parametrize(("direction", "domain"), [("a_to_b", "B"), ("b_to_a", "A")])
def test_metrics_without_test_images(folders, direction, domain):
    """The error names the domain, and the folder by its own letter."""
    config, root = folders
    config.evaluate_every_steps = 10
    config.data.direction = direction
    shutil.rmtree(root / "testB")
    message = refusal(config, root / "run")
    assert f"domain {domain}: expected test images" in message
    assert "set data.test_b, or add testB to data.dir" in message


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
        path.write_text("not an image")
    assert "trainA" in refusal(config, root / "run")
    assert ".jpg" in refusal(config, root / "run2")


def test_truncated_jpeg(folders):
    """Half an image is not taken for a whole one."""
    config, root = folders
    for path in (root / "trainB").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "trainB" in refusal(config, root / "run")


def test_crop_larger_than_the_image(folders):
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


def test_crop_larger_than_the_resized_image(folders):
    """Before any image is read."""
    config, root = folders
    config.data.transform = "resize_and_crop"
    config.data.load_size = 28
    assert "at most data.load_size" in refusal(config, root / "run")


def test_images_of_different_sizes_without_a_crop(folders):
    """Two files and their sizes are named, and transforms that help."""
    config, root = folders
    config.data.transform = "none"
    Image.new("RGB", (48, 40)).save(root / "trainA" / "wide.png")
    message = refusal(config, root / "run")
    assert "48x40" in message
    assert "resize_and_crop" in message


def test_batch_that_does_not_divide_among_devices(config, tmp_path, monkeypatch):
    """A batch that does not divide among the devices is refused with both numbers."""
    monkeypatch.setattr(distributed.jax, "device_count", lambda: 3)
    assert "multiple of the 3 devices" in refusal(config, tmp_path / "run")
