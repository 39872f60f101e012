"""Wrong settings and images give one clear line and a non-zero exit code."""

import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cyclegan_jax import config as config_lib
from cyclegan_jax.utils.errors import UserError
from tests.refused_runs import refusal

ROOT = Path(__file__).parents[2]


COMMAND_LINES = {
    "--config.batch_siz=4": "the nearest is config.batch_size",
    "--config.crop_size=4": "the nearest is config.data.crop_size",
    "--config.batch_size=four": "config.batch_size: expected an integer such as 1, got 'four'",
    "--config.data.flip=maybe": "config.data.flip: expected true or false such as True",
    "--config.precision=float16": "expected one of float32, bfloat16, float64, got",
    "--config.loss.mode=hinge": "expected one of lsgan, vanilla, wgangp, or",
    "--workdri=x": "Did you mean: workdir",
    "--batch_size=4": "fields are set as --config.batch_size=",
    "runs/x": "expected flags (--name=value), got 'runs/x'",
    "--config=configs/nothing.py": "no such file; choose from configs/celeba_glasses.py, ",
    "--config=configs/tfds.py:map": "did you mean maps",
    "--config=configs/folder.py:maps": "configs/folder.py: expected no argument, which",
    "only --config=tests/tiny.py": "--workdir is missing: expected --config FILE and --workdir",
}

# Imports JAX once, which starts no threads before its first use, and runs main.py in forks.
FORKS = """
import os, runpy, sys
os.environ["GLIBC_TUNABLES"] = ""  # so that main.py does not start this program anew
import jax
from ml_collections import config_flags
from cyclegan_jax import config, distributed
folder, *last = sys.argv[1:]
for i, argument in enumerate(last):
    if os.fork() == 0:
        os.dup2(os.open(f"{folder}/stderr_{i}", os.O_CREAT | os.O_WRONLY), 2)
        defaults = ["--config=tests/tiny.py", f"--workdir={folder}/run"]
        only, argument = argument.startswith("only "), argument.removeprefix("only ")
        sys.argv = ["main.py", *([] if only else defaults), argument]
        runpy.run_path("main.py", run_name="__main__")
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status))
"""


def test_command_line(tmp_path):
    """There is one line on standard error, exit code 1, and no work directory."""
    command = [sys.executable, "-c", FORKS, str(tmp_path), *COMMAND_LINES]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    codes = map(int, result.stdout.split())
    for i, (code, (argument, expected)) in enumerate(
        zip(codes, COMMAND_LINES.items(), strict=True)
    ):
        stderr = (tmp_path / f"stderr_{i}").read_text()
        assert code == 1, argument
        assert stderr.startswith("error: ")
        assert stderr.count("\n") == 1
        assert expected in stderr
    assert not (tmp_path / "run").exists()


def test_files_to_choose_from_in_another_folder(tmp_path, monkeypatch):
    """The message lists files that can be named from there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file; choose from ") as caught:
        config_lib.parse_flags(["main.py", "--config", "configs/folder.py"])
    files = str(caught.value).split("choose from ")[1].split(", ")
    assert len(files) > 5
    assert all(Path(file).is_file() for file in files)


def test_help():
    """`-h` is `--help`."""
    command = [sys.executable, "main.py", "-h"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "--workdir" in result.stdout
    assert "error" not in result.stderr


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("batch_size", 0, "config.batch_size: expected at least 1, got 0"),
        (
            "optimizer.learning_rate",
            -1.0,
            "config.optimizer.learning_rate: expected at least 0, got -1.0",
        ),
        ("optimizer.beta1", 1.0, "config.optimizer.beta1: expected a number below 1, got 1.0"),
        ("kernels", "triton", "config.kernels: expected xla on a cpu, got triton, which needs an"),
        ("kernels", "cuda", "config.kernels: expected one of xla, triton, got"),
        ("generator.variant", "resnet7", "expected one of resnet3, resnet6, resnet9"),
        ("generator.variant", "unet128", "multiples of 128 and at least 128, got images of 32x32"),
        ("discriminator.layers", 5, "expected sides of at least 96, got images of 32x32"),
        ("discriminator.scales", 4, "expected sides of at least 48, got images of 32x32"),
        ("discriminator.variant", "patches", "expected one of patch, patch_normed, patch_reflect"),
        ("generator.blocks", 0, "config.generator.blocks: expected at least 1, got 0"),
        (
            "data.channels_b",
            1,
            "config.loss.identity: expected 0 for domains of different channels",
        ),
        ("data.source", "files", "expected one of tfds, folder, shapes"),
        (
            "data.interpolation",
            "cubic",
            "config.data.interpolation: expected one of bicubic, bilinear, nearest, lanczos, got",
        ),
        ("data.crop_width", 0, "config.data.crop_width: expected at least 1, got 0"),
        ("data.crop_width", 32, "data.crop_width: expected None, since data.transform=none does"),
        (
            "init_from",
            "/nowhere",
            "config.init_from: expected the work directory of a run with checkpoints",
        ),
    ],
)
def test_configuration(config, tmp_path, field, value, expected):
    """Values out of range, unknown choices and unsupported sizes are refused."""
    config.generator.blocks = None  # U-Nets have none
    *path, last = field.split(".")
    node = config
    for part in path:
        node = node[part]
    node[last] = value
    assert expected in refusal(config, tmp_path / "run")


def test_every_number_has_a_largest_value(config):
    """Numbers that would overflow, or take all memory, are refused as one line with the limit."""
    numbers = {
        name: value
        for name, value in config_lib.flatten(config).items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }
    assert len(numbers) > 50
    for name, value in numbers.items():
        for huge in [10**30] if value is None or isinstance(value, int) else [1e300, float("inf")]:
            changed = config.copy_and_resolve_references()
            changed.update_from_flattened_dict({name: huge})
            with pytest.raises(UserError) as caught:
                config_lib.check(changed)
            message = str(caught.value)
            assert message.startswith(f"config.{name}: expected "), message
            assert message.endswith(f", got {huge}")
    for name, most in config_lib.AT_MOST.items():
        assert most >= (numbers[name] or 0)


@pytest.fixture
def folders(config, tmp_path):
    """A configuration for three small images in each of four folders, and their parent."""
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
def test_unknown_metrics(folders, metrics, best, expected):
    """Metrics that do not exist or apply are refused, also to select the best checkpoint."""
    config, root = folders
    config.evaluate_every_steps = 10
    config.evaluation.metrics = metrics
    config.evaluation.best = best
    assert expected in refusal(config, root / "run")


@pytest.mark.parametrize(("direction", "domain"), [("a_to_b", "B"), ("b_to_a", "A")])
def test_metrics_without_test_images(folders, direction, domain):
    """The message names the domain, and the field and folder to add."""
    config, root = folders
    config.evaluate_every_steps = 10
    config.data.direction = direction
    shutil.rmtree(root / "testB")
    message = refusal(config, root / "run")
    assert f"domain {domain}: expected test images" in message
    assert "set data.test_b, or add testB to data.dir" in message


def test_missing_folder(folders):
    """The message names the folder."""
    config, root = folders
    config.data.dir = str(root / "nothing")
    assert str(root / "nothing") in refusal(config, root / "run")


@pytest.mark.parametrize("name", ["trainA", "trainB"])
def test_empty_folder(folders, name):
    """An empty folder of either domain is named."""
    config, root = folders
    for path in (root / name).iterdir():
        path.unlink()
    assert name in refusal(config, root / "run")


def test_damaged_test_image(folders):
    """The image of a sample is named, and the field that skips it; nothing of a run is left."""
    config, root = folders
    (root / "testA" / "0.jpg").write_text("not an image")
    message = refusal(config, root / "run")
    assert "testA/0.jpg" in message
    assert "data.skip_unreadable=True skips such images" in message
    assert not (root / "run" / "config.json").exists()


def test_text_named_jpg(folders):
    """The message names the file."""
    config, root = folders
    for path in (root / "trainA").iterdir():
        path.write_text("not an image")
    assert "trainA" in refusal(config, root / "run")
    assert ".jpg" in refusal(config, root / "run2")


def test_truncated_jpeg(folders):
    """A truncated image is named."""
    config, root = folders
    for path in (root / "trainB").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "trainB" in refusal(config, root / "run")


def test_crop_larger_than_the_image(folders):
    """The message names both sizes and the field."""
    config, root = folders
    config.data.crop_size = 64
    message = refusal(config, root / "run")
    assert "40x40" in message
    assert "data.crop_size=64" in message


def test_crop_that_the_generator_does_not_support(folders):
    """The message names the unit of sides, and the field."""
    config, root = folders
    config.data.crop_size = 30
    message = refusal(config, root / "run")
    assert "multiples of 4" in message
    assert "data.crop_size" in message


def test_crop_larger_than_the_resized_image(folders):
    """The fields are compared before any image is read."""
    config, root = folders
    config.data.transform = "resize_and_crop"
    config.data.load_size = 28
    assert "at most data.load_size" in refusal(config, root / "run")


def test_images_of_different_sizes_without_a_crop(folders):
    """The message names the sizes, and a transform that helps."""
    config, root = folders
    config.data.transform = "none"
    Image.new("RGB", (48, 40)).save(root / "trainA" / "wide.png")
    message = refusal(config, root / "run")
    assert "48x40" in message
    assert "resize_and_crop" in message


def test_batch_that_cannot_be_sharded(config, tmp_path, monkeypatch):
    """A batch size that is no multiple of the devices is refused with both numbers."""
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    assert "multiple of the 3 devices" in refusal(config, tmp_path / "run")
