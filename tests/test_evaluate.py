"""Figures of trained models: the same from a checkpoint, in training and from saved images."""

import json
import shutil

import jax
import numpy as np
import pytest
import scipy.linalg
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cyclegan_jax import config as config_lib
from cyclegan_jax import evaluate
from cyclegan_jax.build import build_state
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.evaluation import metrics, results
from cyclegan_jax.evaluation.image_sets import make_sets
from cyclegan_jax.evaluation.inception import FEATURES
from cyclegan_jax.evaluation.metrics import Evaluation, best_figure, is_better
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.training import keep_if_best
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from tests import tiny
from tests.translators import save_run, scaled_translator


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Work directory of an untrained run on shapes, with checkpoints of steps 3 and 5."""
    workdir = tmp_path_factory.mktemp("evaluate") / "run"
    save_run(workdir, (3, 5))
    return workdir


def stored(workdir, step):
    return json.loads((workdir / "evaluation" / f"{step}.json").read_text())


def test_checkpoints_as_a_curve(run, tmp_path, capsys):
    """A column for each, JSON of each, TensorBoard's scalars; the truth figures of the networks."""
    evaluate.main(
        ["--workdir", str(run), "--checkpoint", "all", "--json", str(tmp_path / "all.json")]
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["3", "5"]
    assert len(printed) == 12
    config = config_lib.read_json(run / "config.json")
    for step in (3, 5):
        expected = Evaluation(config)(Translator.load(run, checkpoint=step))
        assert stored(run, step) == expected
    assert json.loads((tmp_path / "all.json").read_text()) == {
        "3": stored(run, 3),
        "5": stored(run, 5),
    }
    assert stored(run, 3) != stored(run, 5)
    events = EventAccumulator(str(run), size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("b_to_a/psnr")] == [3, 5]


def test_how_it_was_trained_does_not_matter(run, tmp_path):
    """Settings of a run that would stop a training here do not stop an evaluation."""
    copied = shutil.copytree(run, tmp_path / "run")
    config = config_lib.read_json(run / "config.json")
    config.batch_size, config.micro_batches, config.steps_per_dispatch = 3, 2, 7
    config.init_from = "gone"
    (copied / "config.json").write_text(config_lib.to_json(config))
    evaluate.main(["--workdir", str(copied)])
    evaluate.main(["--workdir", str(run)])
    assert stored(copied, 5) == stored(run, 5)


def test_saved_images_give_the_same_figures(run, tmp_path, capsys):
    """To the last digit, all metrics; and files are what the translator makes of each image."""
    metrics = ["--metrics", "truth,cycle,identity,paired,segmentation", "--palette_b", "shapes_b"]
    evaluate.main(["--workdir", str(run), *metrics, "--save", str(tmp_path / "made")])
    made = tmp_path / "made" / "5"
    assert {path.name for path in made.iterdir()} == {
        *("real_a", "real_b", "fake_a", "fake_b"),
        *("cycled_a", "cycled_b", "identity_a", "identity_b"),
    }
    from_json = tmp_path / "from_images.json"
    evaluate.main(
        ["--workdir", str(run), *metrics, "--images", str(made), "--json", str(from_json)]
    )
    (from_images,) = json.loads(from_json.read_text()).values()
    assert from_images.items() <= stored(run, 5).items()
    assert len(from_images) > 30
    real = image_io.read_image(made / "real_a" / "0001.png")
    fake = image_io.read_image(made / "fake_b" / "0001.png")
    difference = np.abs(fake.astype(int) - Translator.load(run)(real))
    assert difference.max() <= 1  # batches may round another way than single ones


def test_segmentation_agrees_with_the_truth(run):
    """On the built-in set the published scores are those of the known labels."""
    config = config_lib.read_json(run / "config.json")
    config.evaluation.metrics = "truth,segmentation"
    config.evaluation.palette_a, config.evaluation.palette_b = "shapes_a", "shapes_b"
    evaluation = Evaluation(config)
    sets = make_sets(Translator.load(run), evaluation.real, evaluation.needs)
    truth, segmentation = (
        evaluation._evaluators[name].score(sets) for name in ("truth", "segmentation")
    )
    assert "a_to_b/class_accuracy" in segmentation
    for name in truth.keys() - {"b_to_a/psnr"}:
        assert segmentation[name] == truth[name], name


@pytest.fixture
def pairs(config, tmp_path):
    """Folders whose test images share names, of two sizes; more of them in B."""
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / name).mkdir()
        for i in range(3 + (name == "testB")):
            side = 24 if i == 1 else 32
            image = rng.integers(0, 256, (side, 32, 3), np.uint8)
            ending = name[-1] if name.startswith("test") else "x"
            Image.fromarray(image).save(tmp_path / name / f"{i}_{ending}.png")
    config.data.source = "folder"
    config.data.dir = str(tmp_path)
    config_lib.check(config)
    return config


def test_pairs_are_not_assumed(pairs):
    """Images of one name may be of different things, and their distance would say nothing."""
    assert not Evaluation(pairs).needs & {"fake_a", "fake_b"}


def test_pairs_cycles_and_identities_by_hand(pairs):
    """A model that negates, against NumPy: paired with the right partner, cycles are perfect."""
    pairs.evaluation.metrics = "paired,cycle,identity"
    evaluation = Evaluation(pairs)
    found = evaluation(scaled_translator())
    real = evaluation.real
    assert list(real["real_b"].names) == ["0_B", "1_B", "2_B", "3_B"]

    def negated(image):
        mean = image_io.to_float(image).mean(-1, keepdims=True)
        return np.rint((1 - np.repeat(mean, 3, -1)) * 127.5)

    def distance(one, other):
        return np.mean(np.abs(one - other.astype(float))) / 255

    real_a, real_b = real["real_a"].images, real["real_b"].images
    expected = np.mean([distance(negated(a), b) for a, b in zip(real_a, real_b, strict=False)])
    assert found["a_to_b/l1"] == pytest.approx(expected, abs=1e-5)
    kept = np.mean([distance(negated(a), a) for a in real_a])
    assert found["identity_a/l1"] == pytest.approx(kept, abs=1e-5)
    grey = [np.rint(a.mean(-1, keepdims=True)) for a in real_a]
    cycled = np.mean([distance(np.repeat(g, 3, -1), a) for g, a in zip(grey, real_a, strict=True)])
    assert found["cycle_a/l1"] == pytest.approx(cycled, abs=2e-3)
    assert {"cycle_b/psnr", "cycle_b/ssim", "b_to_a/psnr", "identity_b/ssim"} <= found.keys()


def test_names_that_are_alike_are_numbered(tmp_path, pairs):
    """So that saved images do not overwrite one another."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / folder / "same.png")
    pairs.data.test_a = f"{tmp_path}/one,{tmp_path}/two"
    assert Evaluation(pairs).real["real_a"].names == ["same_00000", "same_00001"]


class _ColourExtractor:
    """In place of Inception: 5 features from an image's mean colour, the others are 0."""

    checksum = "colours"

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, images):
        axes = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
        for image in images:
            features = np.zeros((1, FEATURES), np.float32)
            features[:, :5] = image.mean((0, 1)).astype(np.float32) / 255 @ axes
            yield features


def test_fid_and_kid_of_both_directions(run, monkeypatch, tmp_path):
    """Fréchet distance as SciPy has it; the real sets' features are kept; KID has its spread."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(metrics, "Extractor", _ColourExtractor)
    config = config_lib.read_json(run / "config.json")
    config.evaluation.metrics = "fid,kid"
    config.evaluation.inception = "weights.pth"
    evaluation = Evaluation(config)
    assert len(list(tmp_path.rglob("features-*.npy"))) == 2
    sets = make_sets(Translator.load(run), evaluation.real, evaluation.needs)
    found = evaluation.score(sets)
    extractor = _ColourExtractor("")
    for direction, target in (("a_to_b", "b"), ("b_to_a", "a")):
        one, other = (
            np.concatenate(list(extractor(sets[f"{kind}_{target}"].images)))[:, :5].astype(float)
            for kind in ("fake", "real")
        )
        cov_1, cov_2 = np.cov(one.T), np.cov(other.T)
        root = scipy.linalg.sqrtm(cov_1 @ cov_2)
        expected = np.sum((one.mean(0) - other.mean(0)) ** 2)
        expected += np.trace(cov_1 + cov_2 - 2 * np.real(root))
        assert found[f"{direction}/fid"] == pytest.approx(expected, abs=1e-5)
        assert found[f"{direction}/kid_deviation"] >= 0


def test_best_checkpoint_stays(config, tmp_path):
    """Of values 3, 1, 2 and 1 the first 1 is kept, beside the newest; lower is better for l1."""
    config.evaluation.best = "l1"
    config.generator.width = 2
    options = {"xla_backend_optimization_level": 0}
    state = jax.jit(lambda: build_state(config, (32, 32)), compiler_options=options)()
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, value in enumerate((3.0, 1.0, 2.0, 1.0), 1):
        at_step = state.replace(step=jax.numpy.int32(step))
        keep_if_best(checkpoints, at_step, config, value)
        checkpoints.save(at_step, config)
    checkpoints.wait()
    assert checkpoints.steps == [2, 4]
    assert checkpoints.best == (2, "l1", 1.0)
    # Another figure begins anew.
    config.evaluation.best = "ssim"
    keep_if_best(checkpoints, state.replace(step=jax.numpy.int32(5)), config, 0.1)
    assert checkpoints.best == (5, "ssim", 0.1)


def test_which_figure_and_which_is_better():
    """A last name stands for the mean of both directions; distances are better when lower."""
    given = {"a_to_b/fid": 10.0, "b_to_a/fid": 30.0, "a_to_b/sky_iou": 0.5}
    assert best_figure("fid", given) == 20.0
    assert best_figure("b_to_a/fid", given) == 30.0
    assert is_better("fid", 1.0, 2.0)
    assert is_better("a_to_b/sky_iou", 0.6, 0.5)
    assert not is_better("a_to_b/psnr", 10.0, 20.0)
    with pytest.raises(UserError, match="the figures are a_to_b/fid, "):
        best_figure("psnr", given)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--checkpoint", "4"], "--checkpoint 4: choose latest, best, all or steps of 3, 5"),
        (["--checkpoint", "3,x"], "steps of 3, 5"),
        (["--metrics", "isc"], "metric 'isc'; choose from truth"),
        (["--metrics", "segmentation", "--palette_b", "blue"], "palette blue: expected one of"),
        (["--metrics", "fid", "--inception", "nothing.pth"], "nothing.pth: cannot be read"),
        (["--images", "nowhere"], "nowhere/fake_"),
        (["--images", "x", "--checkpoint", "3"], "no --checkpoint"),
        (["--json", "nowhere/x.json"], "there is no such folder"),
        (["--test_a", "x"], "this one is on shapes"),
    ],
)
def test_mistakes_are_told_in_one_line(run, options, expected):
    """Before an image is translated, and nothing is written."""
    before = sorted(run.rglob("*"))
    with pytest.raises(UserError) as caught:
        evaluate.main(["--workdir", str(run), *options])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(run.rglob("*")) == before


def test_images_of_another_shape_or_missing(run, tmp_path):
    """The file is named, and what was expected."""
    config = tiny.get_config()
    names = [f"{i:04d}" for i in range(config.data.shapes_test)]
    for kind in ("fake_a", "fake_b"):
        (tmp_path / kind).mkdir()
        for name in names:
            Image.new("RGB", (32, 32)).save(tmp_path / kind / f"{name}.png")
    arguments = ["--workdir", str(run), "--images", str(tmp_path)]
    evaluate.main(arguments)
    for mode, width, shape in (("RGB", 31, "32, 31, 3"), ("L", 32, "32, 32, 1")):
        Image.new(mode, (width, 32)).save(tmp_path / "fake_b" / "0002.png")
        with pytest.raises(UserError, match=rf"0002.png: uint8 \[{shape}\]; the test image"):
            evaluate.main(arguments)
    (tmp_path / "fake_b" / "0002.png").unlink()
    with pytest.raises(UserError, match="no image called 0002"):
        evaluate.main(arguments)


def test_table_has_blanks_and_figures_are_merged(tmp_path):
    """A figure that one column lacks is left blank; new figures do not lose the old ones."""
    results.write_figures(tmp_path, 5, {"x": 1.0, "y": 2.0})
    results.write_figures(tmp_path, 5, {"y": 3.0})
    results.write_figures(tmp_path, 10, {"z": 4.0})
    kept = results.read_figures(tmp_path)
    assert kept == {5: {"x": 1.0, "y": 3.0}, 10: {"z": 4.0}}
    lines = results.table({str(k): v for k, v in kept.items()}).splitlines()
    assert [line.split() for line in lines] == [
        ["5", "10"],
        ["x", "1.000"],
        ["y", "3.000"],
        ["z", "4.000"],
    ]
    assert lines[3].index("4.000") > lines[1].index("1.000")
    (tmp_path / "evaluation" / "7.json").write_text("[1]")
    with pytest.raises(UserError, match=r"7.json: no figures"):
        results.read_figures(tmp_path)
