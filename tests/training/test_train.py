"""Files that a run writes, and the ways in which it starts."""

import contextlib
import io
import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cyclegan_jax import data, evaluate
from cyclegan_jax.build import build_networks, build_state
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.evaluation import truth
from cyclegan_jax.training import is_early, train
from cyclegan_jax.utils import image_io
from tests import short
from tests.smallest import SIZE

SIDE = SIZE[0]


def evaluated_config():
    """Return a configuration of 10 updates with evaluation, backups and a profile."""
    config = short.get_config()
    config.num_steps = 10
    config.evaluate_every_steps = 5
    config.checkpoints_to_keep = 1
    config.backup_every_steps = 4
    config.profile_at_step = 2
    config.profile_steps = 2
    config.data.flip = False
    return config


@pytest.fixture
def config():
    """Such a configuration that writes little more than samples, which the test may change."""
    config = evaluated_config()
    config.evaluate_every_steps = config.backup_every_steps = config.profile_at_step = 0
    return config


@pytest.fixture(scope="module")
def printing_run(tmp_path_factory):
    """The work directory and the last state of such a run, and what it printed."""
    workdir = tmp_path_factory.mktemp("train") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        state = train(evaluated_config(), workdir)
    return workdir, state, printed.getvalue()


@pytest.fixture(scope="module")
def run(printing_run):
    """The work directory and the last state of that run."""
    return printing_run[:2]


def assert_same(actual, expected):
    """Assert that two trees are equal to the last bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.smoke
def test_tensorboard_reads_the_events(run):
    """Events hold losses, metrics of every evaluation, samples and the configuration."""
    workdir, _ = run
    events = EventAccumulator(str(workdir), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()["tensors"]

    def steps(tag):
        return [event.step for event in events.Tensors(tag)]

    # They are written every 5 updates, and before a checkpoint.
    assert steps("generators/cycle_a") == [4, 5, 8, 10]
    assert steps("learning_rate") == [4, 5, 8, 10]
    assert steps("steps_per_second") == [5, 8, 10]
    assert steps("a_to_b/object_iou") == [0, 5, 10]
    assert steps("samples/b_to_a") == [5, 10]
    assert "_hparams_/session_start_info" in tags


@pytest.mark.smoke
def test_evaluation_is_that_of_the_saved_networks(run):
    """Metrics in the last JSON file are those of images translated one by one."""
    workdir, state = run
    config = evaluated_config()
    test_a, test_b = data.open_split(config.data, "test")
    networks = build_networks(config)

    def translate(name, source):
        images = []
        for i in range(len(source)):
            x = image_io.to_float(source[i][None])
            y = getattr(networks, name).apply({"params": state.params[name]}, x)
            images.append(image_io.to_uint8(np.asarray(y[0])))
        return np.stack(images)

    figures = truth.truth_results(
        translate("gen_ab", test_a), translate("gen_ba", test_b), test_a, test_b
    )
    stored = json.loads((workdir / "evaluation" / "10.json").read_text())
    # Batches may round differently than single images, which changes a pixel in a thousand.
    assert stored == pytest.approx(figures, abs=2e-3)
    assert set(stored) >= {"a_to_b/pixel_accuracy", "b_to_a/object_iou", "b_to_a/psnr"}


@pytest.mark.smoke
def test_evaluate_gives_the_metrics_of_training(run):
    """Evaluation of the checkpoint agrees to the last digit."""
    workdir, _ = run
    path = workdir / "evaluation" / "10.json"
    trained = json.loads(path.read_text())
    path.unlink()
    evaluate.main(["--workdir", str(workdir)])
    assert json.loads(path.read_text()) == trained


@pytest.mark.smoke
def test_samples_are_strips_of_four(run):
    """Strips hold the real image itself, its translation, reconstruction and identity."""
    workdir, _ = run
    test_a, _ = data.open_split(evaluated_config().data, "test")
    strip = image_io.read_image(workdir / "samples" / "00000010_a_to_b.png")
    assert strip.shape[1] >= 4 * SIDE
    assert strip.shape[0] < 2 * SIDE
    assert any(
        np.array_equal(strip[i : i + SIDE, j : j + SIDE], test_a[0])
        for i in range(4)
        for j in range(4)
    )


def test_the_last_step_is_saved(run):
    """The newest checkpoint holds the last state.

    Of those due every 5 updates only the newest is kept; those of every fourth update are kept
    beside it, also where no other is due.
    """
    workdir, state = run
    checkpoints = Checkpoints(workdir, read_only=True)
    assert checkpoints.steps == [4, 8, 10]
    shapes = jax.eval_shape(lambda: build_state(evaluated_config(), SIZE))
    restored = checkpoints.restore(shapes)
    assert_same(restored.params, state.params)
    assert_same(restored.pools, state.pools)
    assert restored.params["gen_ab"]["stem"]["kernel"].dtype == np.float32
    assert checkpoints.read_config(10).to_dict() == evaluated_config().to_dict()


def test_table_at_the_end(printing_run):
    """The run prints a row for every metric, and the paths of the samples."""
    workdir, _, printed = printing_run
    assert printed.split()[:3] == ["start", "end", "identity"]
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("b_to_a/psnr")]
    stored = json.loads((workdir / "evaluation" / "10.json").read_text())
    assert float(row[2]) == pytest.approx(stored["b_to_a/psnr"], abs=6e-4)
    samples = [line for line in printed.splitlines() if line.startswith("sample: ")]
    assert len(samples) == 2
    assert all(Path(line.removeprefix("sample: ")).is_file() for line in samples)


def test_early_samples_and_a_run_that_is_extended(run, config, tmp_path, caplog):
    """Early samples are written at the documented steps, with strips of the batch.

    A finished run does nothing; with more updates it ends as if it had never stopped.
    """
    spaced = [*range(1, 101), *range(110, 1001, 10), *range(1100, 10_001, 100)]
    assert [step for step in range(1, 20_000) if is_early(step)] == spaced
    caplog.set_level(logging.INFO)
    config.num_steps = 5
    config.sample_early = True
    config.sample_batch = True
    shorter = train(config, tmp_path / "run")
    assert "num_steps=5 ends the run before the schedule of 2400 updates" in caplog.text
    for folder in ("samples", "samples/batch"):
        names = {path.name for path in (tmp_path / "run" / folder).glob("*.png")}
        assert names == {f"{s:08d}_{d}.png" for s in range(1, 6) for d in ("a_to_b", "b_to_a")}
    # The first strip of the batch starts with an image of the training set.
    train_a, _ = data.open_split(config.data, "train")
    strip = image_io.read_image(tmp_path / "run" / "samples" / "batch" / "00000001_a_to_b.png")
    assert any(np.array_equal(strip[:SIDE, :SIDE], train_a[i]) for i in range(len(train_a)))
    again = train(config, tmp_path / "run")
    assert "Nothing to do: at step 5 of 5" in caplog.text
    assert_same(again.params, shorter.params)
    config.num_steps = 10
    config.profile_at_step, config.profile_steps = 10, 2  # the run ends before the profile does
    longer = train(config, tmp_path / "run")
    assert "num_steps: was 5, is 10" in caplog.text
    _, straight = run
    assert_same(longer.params, straight.params)
    assert_same(longer.optimizers, straight.optimizers)
    assert len(list((tmp_path / "run").rglob("*.xplane.pb"))) == 1


def test_starts_from_another_run(run, config, tmp_path, caplog):
    """`init_from` sets the networks; optimisers, pools and step start anew.

    Precision and image size may differ.
    """
    caplog.set_level(logging.INFO)
    workdir, source = run
    config.init_from = str(workdir)
    config.num_steps = 2
    config.optimizer.learning_rate = 0.0
    config.precision = "float64"
    config.data.shapes_size = 20
    with jax.log_compiles():
        state = train(config, tmp_path / "run")
    assert caplog.text.count("Compiling jit(train_step)") == 1
    assert_same(state.params, source.params)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(state.params))
    assert int(state.pools["a"].count) == 2 * config.batch_size
    assert f"Starting at step 0 with the networks of {workdir}, step 10" in caplog.text


def test_profile(run):
    """The configured steps are recorded where TensorBoard looks for them.

    The test above has a run that ends before its profile does.
    """
    workdir, _ = run
    assert len(list(workdir.rglob("*.xplane.pb"))) == 1


def test_folders_without_test_images_and_with_a_broken_image(config, tmp_path, caplog):
    """Samples then show training images; unreadable images are skipped and counted.

    The network takes multiples of 8, and the only test image has another size.
    """
    caplog.set_level(logging.INFO)
    rng = np.random.default_rng(0)
    for domain in ("A", "B"):
        (tmp_path / f"train{domain}").mkdir()
        for i in range(3):
            image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
            image.save(tmp_path / f"train{domain}" / f"{i}.png")
    (tmp_path / "trainB" / "3.png").write_text("broken")
    (tmp_path / "testA").mkdir()
    Image.new("RGB", (44, 32)).save(tmp_path / "testA" / "0.png")
    config.num_steps = 4  # all images of an epoch
    config.data.source = "folder"
    config.data.dir = str(tmp_path)
    config.data.skip_unreadable = True
    config.generator.variant, config.generator.blocks = "resnet9_same_deep", 1
    train(config, tmp_path / "run")
    assert "has no test images" in caplog.text
    assert "1 images could not be read" in caplog.text
    assert (tmp_path / "run" / "samples" / "00000004_b_to_a.png").is_file()
    strip = image_io.read_image(tmp_path / "run" / "samples" / "00000004_a_to_b.png")
    assert strip.shape[1] >= 4 * 44
