"""Metrics of trained models: equal from a checkpoint, in training and from saved images."""

import json
import shutil

import numpy as np
import pytest
import scipy.linalg
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cyclegan_jax import config as config_lib
from cyclegan_jax import data, evaluate
from cyclegan_jax.evaluation import metrics, results
from cyclegan_jax.evaluation.build import build_evaluation
from cyclegan_jax.evaluation.image_sets import make_sets
from cyclegan_jax.evaluation.inception import FEATURES
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.atomic import TEMPORARY
from cyclegan_jax.utils.errors import UserError
from tests import tiny
from tests.translators import save_run, scaled_translator


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the work directory of an untrained run with checkpoints of steps 3 and 5."""
    workdir = tmp_path_factory.mktemp("evaluate") / "run"
    save_run(workdir, (3, 5))
    return workdir


def stored(workdir, step):
    return json.loads((workdir / "evaluation" / f"{step}.json").read_text())


@pytest.mark.smoke
def test_checkpoints_as_a_curve(run, tmp_path, capsys):
    """The table has a column per checkpoint; JSON and TensorBoard have the same values."""
    evaluate.main(
        ["--workdir", str(run), "--checkpoint", "all", "--json", str(tmp_path / "all.json")]
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["3", "5"]
    assert len(printed) == 12
    config = config_lib.read_json(run / "config.json")
    for step in (3, 5):
        expected = build_evaluation(config)(Translator.load(run, checkpoint=step))
        assert stored(run, step) == expected
    assert json.loads((tmp_path / "all.json").read_text()) == {
        "3": stored(run, 3),
        "5": stored(run, 5),
    }
    assert stored(run, 3) != stored(run, 5)
    events = EventAccumulator(str(run), size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("b_to_a/psnr")] == [3, 5]


def test_settings_of_training_do_not_matter(run, tmp_path):
    """A run can be evaluated where its settings would not allow training."""
    copied = shutil.copytree(run, tmp_path / "run")
    config = config_lib.read_json(run / "config.json")
    config.batch_size, config.micro_batches, config.steps_per_dispatch = 3, 2, 7
    config.init_from = "gone"
    (copied / "config.json").write_text(config_lib.to_json(config))
    evaluate.main(["--workdir", str(copied)])
    evaluate.main(["--workdir", str(run)])
    assert stored(copied, 5) == stored(run, 5)


def test_saved_images_have_the_same_metrics(run, tmp_path, capsys):
    """All metrics agree to the last digit, and files are the translations of single images."""
    metrics = ["--metrics", "truth,cycle,identity,paired,segmentation", "--palette_b", "shapes_b"]
    evaluate.main(["--workdir", str(run), *metrics, "--save", str(tmp_path / "saved")])
    saved = tmp_path / "saved" / "5"
    assert {path.name for path in saved.iterdir()} == {
        *("real_a", "real_b", "fake_a", "fake_b"),
        *("cycled_a", "cycled_b", "identity_a", "identity_b"),
    }
    from_json = tmp_path / "from_images.json"
    evaluate.main(
        ["--workdir", str(run), *metrics, "--images", str(saved), "--json", str(from_json)]
    )
    (from_images,) = json.loads(from_json.read_text()).values()
    assert from_images.items() <= stored(run, 5).items()
    assert len(from_images) > 30
    real = image_io.read_image(saved / "real_a" / "0001.png")
    fake = image_io.read_image(saved / "fake_b" / "0001.png")
    difference = np.abs(fake.astype(int) - Translator.load(run)(real))
    assert difference.max() <= 1  # batches may round differently


def test_nothing_computed_is_lost(run, tmp_path, capsys):
    """Where the work directory or a file cannot be written, the others still get the results."""
    copied = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copied / "evaluation", ignore_errors=True)
    (copied / "evaluation").write_text("in the way")
    written = tmp_path / "results.json"
    arguments = ["--workdir", str(copied), "--checkpoint", "all"]
    with pytest.raises(UserError, match="3.json: results cannot be written"):
        evaluate.main([*arguments, "--json", str(written)])
    table = capsys.readouterr().out
    assert table.split()[:2] == ["3", "5"]
    assert set(json.loads(written.read_text())) == {"3", "5"}
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="3.json: results cannot be written"):
        evaluate.main([*arguments, "--json", str(tmp_path / "folder")])
    assert capsys.readouterr().out == table


def test_saved_images_are_not_overwritten(run, tmp_path):
    """A step that was saved before is named before it is translated again."""
    save = ["--workdir", str(run), "--save", str(tmp_path / "saved")]
    evaluate.main(save)
    file = tmp_path / "saved" / "5" / "fake_b" / "0001.png"
    before = file.read_bytes()
    file.write_bytes(b"edited")
    with pytest.raises(UserError, match="saved/5: exists; --overwrite replaces"):
        evaluate.main(save)
    assert file.read_bytes() == b"edited"
    evaluate.main([*save, "--overwrite"])
    assert file.read_bytes() == before


def test_segmentation_agrees_with_the_truth(run):
    """On the built-in dataset the published scores are those of the known labels."""
    config = config_lib.read_json(run / "config.json")
    config.evaluation.metrics = "truth,segmentation"
    config.evaluation.palette_a, config.evaluation.palette_b = "shapes_a", "shapes_b"
    evaluation = build_evaluation(config)
    sets = make_sets(Translator.load(run), evaluation.real, evaluation.needs)
    truth, segmentation = (
        evaluation.metrics[name].compute(sets) for name in ("truth", "segmentation")
    )
    assert "a_to_b/class_accuracy" in segmentation
    for name in truth.keys() - {"b_to_a/psnr"}:
        assert segmentation[name] == truth[name], name


@pytest.fixture
def pairs(config, tmp_path):
    """Return a configuration of folders with pairs of two sizes, and one image of B alone."""
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


def test_default_metrics(run, pairs):
    """Known labels, or cycles, and identities of equal channels; equal names may mean nothing."""
    assert list(build_evaluation(config_lib.read_json(run / "config.json")).metrics) == ["truth"]
    assert list(build_evaluation(pairs).metrics) == ["cycle", "identity"]
    pairs.data.channels_b = 1
    assert list(build_evaluation(pairs).metrics) == ["cycle"]
    pairs.data.source, pairs.data.channels_b = "shapes", 3
    pairs.data.transform, pairs.data.crop_size = "resize_and_crop", 64
    assert list(build_evaluation(pairs).metrics) == ["cycle", "identity"]


def test_open_sources_are_used(run, monkeypatch):
    """Test sources that are passed are not opened again."""
    config = config_lib.read_json(run / "config.json")
    sources = data.open_split(config.data, "test")
    monkeypatch.setattr(data, "open_split", None)
    evaluation = build_evaluation(config, sources)
    np.testing.assert_array_equal(evaluation.real["real_b"].images[1], sources[1][1])


def test_pairs_cycles_and_identities_by_hand(pairs):
    """A model that negates, against NumPy: pairs are correct, and cycles perfect."""
    pairs.evaluation.metrics = "paired,cycle,identity"
    evaluation = build_evaluation(pairs)
    values = evaluation(scaled_translator())
    real = evaluation.real
    assert list(real["real_b"].names) == ["0_B", "1_B", "2_B", "3_B"]

    def negated(image):
        mean = image_io.to_float(image).mean(-1, keepdims=True)
        return np.rint((1 - np.repeat(mean, 3, -1)) * 127.5)

    def distance(one, other):
        return np.mean(np.abs(one - other.astype(float))) / 255

    real_a, real_b = real["real_a"].images, real["real_b"].images
    expected = np.mean([distance(negated(a), b) for a, b in zip(real_a, real_b, strict=False)])
    assert values["a_to_b/l1"] == pytest.approx(expected, abs=1e-5)
    expected = np.mean([distance(negated(a), a) for a in real_a])
    assert values["identity_a/l1"] == pytest.approx(expected, abs=1e-5)
    grey = [np.rint(a.mean(-1, keepdims=True)) for a in real_a]
    cycled = np.mean([distance(np.repeat(g, 3, -1), a) for g, a in zip(grey, real_a, strict=True)])
    assert values["cycle_a/l1"] == pytest.approx(cycled, abs=2e-3)
    assert {"cycle_b/psnr", "cycle_b/ssim", "b_to_a/psnr", "identity_b/ssim"} <= values.keys()


def test_missing_image_affects_its_own_pair_only(tmp_path, pairs):
    """In folders that repeat names, deleting one image leaves the other pairs as they are."""
    pairs.data.test_a, pairs.data.test_b = f"{tmp_path}/a", f"{tmp_path}/b"
    for i, folder in enumerate(("x", "y", "z")):
        for domain, value in (("a", 40 * i), ("b", 255 - 40 * i)):  # as the model translates
            (tmp_path / domain / folder).mkdir(parents=True)
            image = Image.new("RGB", (32, 32), (value,) * 3)
            image.save(tmp_path / domain / folder / "same.png")
    (tmp_path / "b" / "x" / "same.png").unlink()
    pairs.evaluation.metrics = "paired"
    assert build_evaluation(pairs)(scaled_translator())["a_to_b/l1"] < 0.01


def test_equal_names_are_told_before_translating(tmp_path, pairs, run, monkeypatch):
    """Two images of one name cannot be saved or paired; other metrics do not depend on names."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / folder / "same.png")
    pairs.data.test_a = f"{tmp_path}/one,{tmp_path}/two"
    both = f"{tmp_path}/one/same.png and {tmp_path}/two/same.png"
    assert len(build_evaluation(pairs).real["real_a"].names) == 2
    pairs.evaluation.metrics = "paired"
    with pytest.raises(UserError, match=both):
        build_evaluation(pairs)
    copied = shutil.copytree(run, tmp_path / "run")
    pairs.evaluation.metrics = ""
    (copied / "config.json").write_text(config_lib.to_json(pairs))
    monkeypatch.setattr(Translator, "load", None)
    with pytest.raises(UserError, match=f"--save: .*{both}"):
        evaluate.main(["--workdir", str(copied), "--save", str(tmp_path / "saved")])
    assert not (tmp_path / "saved").exists()


class _ColourExtractor:
    """Extractor of 5 features of an image's mean colour; the others are 0."""

    checksum = "colours"
    calls = 0

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, images):
        _ColourExtractor.calls += 1
        axes = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
        for image in images:
            features = np.zeros((1, FEATURES), np.float32)
            features[:, :5] = image.mean((0, 1)).astype(np.float32) / 255 @ axes
            yield features


def test_fid_and_kid_of_both_directions(run, monkeypatch, tmp_path):
    """FID equals SciPy's; each set's features are computed once, for real sets also on disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(metrics, "Extractor", _ColourExtractor)
    config = config_lib.read_json(run / "config.json")
    config.evaluation.metrics = "fid,kid"
    config.evaluation.inception = "weights.pth"
    monkeypatch.setattr(_ColourExtractor, "calls", 0)
    evaluation = build_evaluation(config)
    assert len(list(tmp_path.rglob("features-*.npy"))) == 2
    sets = make_sets(Translator.load(run), evaluation.real, evaluation.needs)
    values = evaluation.compute(sets)
    assert _ColourExtractor.calls == 4
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
        assert values[f"{direction}/fid"] == pytest.approx(expected, abs=1e-5)
        assert values[f"{direction}/kid_deviation"] >= 0


def test_value_of_a_result():
    """A name after the last slash stands for the mean of all results that end in it."""
    values = {"a_to_b/fid": 10.0, "b_to_a/fid": 30.0, "a_to_b/sky_iou": 0.5}
    assert results.value_of("fid", values) == 20.0
    assert results.value_of("b_to_a/fid", values) == 30.0
    with pytest.raises(UserError, match="expected one of a_to_b/fid, .*, got 'psnr'"):
        results.value_of("psnr", values)


def test_better_values(run):
    """Each metric says for all of its results which direction is better."""
    config = config_lib.read_json(run / "config.json")
    config.evaluation.metrics = "truth,cycle,segmentation"
    config.evaluation.palette_a = config.evaluation.palette_b = "shapes_b"
    evaluation = build_evaluation(config)
    values = evaluation(Translator.load(run))
    higher = {name: evaluation.higher_is_better(name) for name in values}
    assert {name for name in higher if not higher[name]} == {"cycle_a/l1", "cycle_b/l1"}
    assert evaluation.higher_is_better("sky_accuracy")
    for name in ("fid", "a_to_b/sky", "iou", ""):
        with pytest.raises(UserError, match="config.evaluation.best: expected one of pixel_acc"):
            evaluation.higher_is_better(name)


def test_metric_of_a_user(run, monkeypatch):
    """`package.module:function` is computed, and can choose the best checkpoint."""
    config = config_lib.read_json(run / "config.json")
    config.evaluation.metrics = "cycle, tests.evaluation.my_metrics:darkness"
    config.evaluation.best = "darkness"
    evaluation = build_evaluation(config)
    assert evaluation.needs == ["fake_b", "cycled_a", "cycled_b"]
    values = evaluation(Translator.load(run))
    assert 0 < values["darkness"] < 255 and "cycle_a/l1" in values
    assert not evaluation.higher_is_better("darkness")


@pytest.mark.parametrize(
    ("metrics", "best", "expected"),
    [
        ("tests.evaluation.my_metrics:brightness", "", "cannot be imported"),
        ("tests.evaluation.my_metrics:no_metric", "", "expected a function that returns a Metric"),
        ("tests.evaluation.my_metrics:unknown_needs", "", "whose needs are of fake_b, fake_a, "),
        (
            "tests.evaluation.my_metrics:inverted,cycle",
            "l1",
            "best: expected one of psnr, ssim, or",
        ),
    ],
)
def test_wrong_metrics_of_a_user(run, metrics, best, expected):
    """The error is one line that names the metric."""
    config = config_lib.read_json(run / "config.json")
    config.evaluation.metrics, config.evaluation.best = metrics, best
    with pytest.raises(UserError, match=expected) as caught:
        build_evaluation(config)
    assert metrics.split(",")[0] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--checkpoint", "4"], "--checkpoint 4: expected latest, best, all, or steps of 3, 5"),
        (["--checkpoint", "3,x"], "steps of 3, 5"),
        (["--metrics", "isc"], "config.evaluation.metrics: expected one of truth, cycle, "),
        (["--metrics", "segmentation", "--palette_b", "blue"], "palette blue: expected one of"),
        (["--metrics", "fid", "--inception", "nothing.pth"], "nothing.pth: cannot be read"),
        (["--images", "nowhere"], "nowhere/fake_b: expected a folder of fake_b images"),
        (["--images", "x", "--checkpoint", "3"], "expected neither --checkpoint nor --save"),
        (["--json", "nowhere/x.json"], "no such folder"),
        (["--test_a", "x"], "expected a run with data.source=folder, got shapes"),
    ],
)
def test_wrong_arguments(run, options, expected):
    """The error is one line, before an image is translated or a file is written."""
    before = sorted(run.rglob("*"))
    with pytest.raises(UserError) as caught:
        evaluate.main(["--workdir", str(run), *options])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(run.rglob("*")) == before


def test_saved_images_that_are_wrong_or_missing(run, tmp_path):
    """The error names the file and what is expected."""
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
        with pytest.raises(UserError, match=rf"0002.png: expected .* got uint8 \[{shape}\]"):
            evaluate.main(arguments)
    (tmp_path / "fake_b" / "0002.png").unlink()
    with pytest.raises(UserError, match="expected a translation called 0002"):
        evaluate.main(arguments)


def test_stored_results_and_their_table(tmp_path):
    """Results of a step are merged, and the table is blank where a column lacks one."""
    results.write_results(tmp_path, 5, {"x": 1.0, "y": 2.0})
    results.write_results(tmp_path, 5, {"y": 3.0})
    results.write_results(tmp_path, 10, {"z": 4.0})
    # Left by a process that was killed while it wrote.
    (tmp_path / "evaluation" / f"{TEMPORARY}0123.json").write_text("{")
    stored = results.read_results(tmp_path)
    assert stored == {5: {"x": 1.0, "y": 3.0}, 10: {"z": 4.0}}
    lines = results.table({str(k): v for k, v in stored.items()}).splitlines()
    assert [line.split() for line in lines] == [
        ["5", "10"],
        ["x", "1.000"],
        ["y", "3.000"],
        ["z", "4.000"],
    ]
    assert lines[3].index("4.000") > lines[1].index("1.000")
    (tmp_path / "evaluation" / "7.json").write_text("[1]")
    with pytest.raises(UserError, match=r"7.json: expected the results of a step"):
        results.read_results(tmp_path)
