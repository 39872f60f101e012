"""Files that a run writes, and the ways in which it starts."""

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
from tests import tiny


def evaluated_config():
    """Return a configuration of 10 updates with evaluation."""
    config = tiny.get_config()
    config.num_steps = 10
    config.evaluate_every_steps = 5
    config.checkpoints_to_keep = 1
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory and the last state of such a run."""
    workdir = tmp_path_factory.mktemp("train") / "run"
    return workdir, train(evaluated_config(), workdir)


def assert_same(actual, expected):
    """Assert that two trees are equal to the last bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_tensorboard_reads_the_events(run):
    """Events hold losses, metrics of every evaluation, samples and the configuration."""
    workdir, _ = run
    events = EventAccumulator(str(workdir), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()["tensors"]

    def steps(tag):
        return [event.step for event in events.Tensors(tag)]

    assert steps("generators/cycle_a") == [5, 10]
    assert steps("learning_rate") == [5, 10]
    assert steps("steps_per_second") == [10]
    assert steps("a_to_b/object_iou") == [0, 5, 10]
    assert steps("samples/b_to_a") == [5, 10]
    assert "_hparams_/session_start_info" in tags


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


def test_evaluate_gives_the_metrics_of_training(run):
    """Evaluation of the checkpoint agrees to the last digit."""
    workdir, _ = run
    path = workdir / "evaluation" / "10.json"
    trained = json.loads(path.read_text())
    path.unlink()
    evaluate.main(["--workdir", str(workdir)])
    assert json.loads(path.read_text()) == trained


def test_samples_are_strips_of_four(run):
    """Strips hold the real image itself, its translation, reconstruction and identity."""
    workdir, _ = run
    test_a, _ = data.open_split(evaluated_config().data, "test")
    strip = image_io.read_image(workdir / "samples" / "00000010_a_to_b.png")
    assert strip.shape[1] >= 4 * 32
    assert strip.shape[0] < 2 * 32
    assert any(
        np.array_equal(strip[i : i + 32, j : j + 32], test_a[0]) for i in range(4) for j in range(4)
    )


def test_the_last_step_is_saved(run):
    """Only the newest checkpoint is kept, and it holds the last state."""
    workdir, state = run
    checkpoints = Checkpoints(workdir, read_only=True)
    assert checkpoints.steps == [10]
    shapes = jax.eval_shape(lambda: build_state(evaluated_config(), (32, 32)))
    restored = checkpoints.restore(shapes)
    assert_same(restored.params, state.params)
    assert_same(restored.pools, state.pools)
    assert restored.params["gen_ab"]["stem"]["kernel"].dtype == np.float32
    assert checkpoints.read_config(10).to_dict() == evaluated_config().to_dict()


def test_backups_are_kept(config, tmp_path):
    """Checkpoints of every third step are kept beside the newest, also where no other is due."""
    config.num_steps = 8
    config.checkpoints_to_keep = 1
    config.checkpoint_every_steps = 5
    config.backup_every_steps = 3
    train(config, tmp_path / "run")
    assert Checkpoints(tmp_path / "run", read_only=True).steps == [3, 6, 8]


def test_early_samples(config, tmp_path):
    """Early samples are written at the documented steps, with strips of the batch."""
    spaced = [*range(1, 101), *range(110, 1001, 10), *range(1100, 10_001, 100)]
    assert [step for step in range(1, 20_000) if is_early(step)] == spaced
    config.num_steps = 3
    config.sample_early = True
    config.sample_batch = True
    config.data.flip = False
    train(config, tmp_path / "run")
    for folder in ("samples", "samples/batch"):
        names = {path.name for path in (tmp_path / "run" / folder).glob("*.png")}
        assert names == {f"{s:08d}_{d}.png" for s in (1, 2, 3) for d in ("a_to_b", "b_to_a")}
    # The first strip of the batch starts with an image of the training set.
    train_a, _ = data.open_split(config.data, "train")
    strip = image_io.read_image(tmp_path / "run" / "samples" / "batch" / "00000001_a_to_b.png")
    assert any(np.array_equal(strip[:32, :32], train_a[i]) for i in range(len(train_a)))


def test_table_at_the_end(config, tmp_path, capsys):
    """The run prints a row for every metric, and the paths of the samples."""
    config.num_steps = 5
    config.evaluate_every_steps = 5
    train(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert printed.split()[:3] == ["start", "end", "identity"]
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("b_to_a/psnr")]
    stored = json.loads((tmp_path / "run" / "evaluation" / "5.json").read_text())
    assert float(row[2]) == pytest.approx(stored["b_to_a/psnr"], abs=6e-4)
    for line in printed.splitlines():
        if line.startswith("sample: "):
            assert Path(line.removeprefix("sample: ")).is_file()


def test_finished_runs_can_be_extended(config, tmp_path, caplog):
    """A finished run does nothing; with more updates it ends as if it had never stopped."""
    caplog.set_level(logging.INFO)
    config.num_steps = 5
    short = train(config, tmp_path / "run")
    again = train(config, tmp_path / "run")
    assert "Nothing to do: at step 5 of 5" in caplog.text
    assert_same(again.params, short.params)
    config.num_steps = 10
    longer = train(config, tmp_path / "run")
    assert "num_steps: was 5, is 10" in caplog.text
    straight = train(config, tmp_path / "straight")
    assert_same(longer.params, straight.params)
    assert_same(longer.optimizers, straight.optimizers)


def test_starts_from_another_run(run, config, tmp_path, caplog):
    """`init_from` sets the networks; optimisers, pools and step start anew."""
    caplog.set_level(logging.INFO)
    workdir, source = run
    config.init_from = str(workdir)
    config.num_steps = 2
    config.optimizer.learning_rate = 0.0
    config.precision = "float64"
    with jax.log_compiles():
        state = train(config, tmp_path / "run")
    assert caplog.text.count("Compiling jit(train_step)") == 1
    assert_same(state.params, source.params)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(state.params))
    assert int(state.pools["a"].count) == 2 * config.batch_size
    assert f"Starting at step 0 with the networks of {workdir}, step 10" in caplog.text


def test_profile(config, tmp_path):
    """The configured steps are recorded where TensorBoard looks for them."""
    config.num_steps = 5
    config.profile_at_step = 2
    config.profile_steps = 2
    train(config, tmp_path / "run")
    assert len(list((tmp_path / "run").rglob("*.xplane.pb"))) == 1
    config.num_steps = config.profile_at_step = 6  # the run ends before the profile does
    train(config, tmp_path / "run")
    assert len(list((tmp_path / "run").rglob("*.xplane.pb"))) == 2


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
    config.num_steps = 10
    config.data.source = "folder"
    config.data.dir = str(tmp_path)
    config.data.skip_unreadable = True
    config.generator.variant, config.generator.blocks = "resnet9_same_deep", 1
    train(config, tmp_path / "run")
    assert "has no test images" in caplog.text
    assert "1 images could not be read" in caplog.text
    assert (tmp_path / "run" / "samples" / "00000010_b_to_a.png").is_file()
    strip = image_io.read_image(tmp_path / "run" / "samples" / "00000010_a_to_b.png")
    assert strip.shape[1] >= 4 * 44
