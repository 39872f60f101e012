"""The examples of docs/extending.md, executed as they stand in the page, as a user's own files."""

import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cyclegan_jax import config as config_lib
from cyclegan_jax.build import build_model, build_networks, build_state
from cyclegan_jax.distributed import compile_step
from cyclegan_jax.inference.tiling import translate_in_bands
from cyclegan_jax.inference.translator import Network, Translator, translate
from cyclegan_jax.utils.errors import UserError
from tests import short

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
BLOCKS = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL)
COMMANDS = re.findall(r"--config\.([\w.]+=\w+:\w+)", PAGE.read_text())
SIZE = 16


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """Write every example to a folder of its own on Python's path."""
    folder = tmp_path_factory.mktemp("examples")
    for name, code in BLOCKS:
        (folder / name).write_text(code)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name, _ in BLOCKS:
        sys.modules.pop(name.removesuffix(".py"), None)


def changed(**fields):
    """Return the short configuration with fields set by path, as loss__mode."""
    config = short.get_config()
    config.num_steps = 20
    for path, value in fields.items():
        *parents, name = path.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[name] = value
    config_lib.check(config)
    return config


def update(config, steps=2):
    """Return state and metrics after some updates on noise."""
    step, state = compile_step(build_model(config, 4)), build_state(config, (SIZE, SIZE))
    rng = np.random.default_rng(0)
    for _ in range(steps):
        shape = (config.batch_size, SIZE, SIZE, 3)
        batch = {domain: rng.integers(0, 256, shape, np.uint8) for domain in "ab"}
        state, metrics = step(state, batch)
    return state, metrics


def test_page_has_an_example_and_a_command_for_every_task():
    """Each field that the page lists is set by one of its commands, and each file is used."""
    fields = {
        "loss.mode",
        "generator.variant",
        "discriminator.variant",
        "schedule.name",
        "data.source",
        "evaluation.metrics",
        "loss.extra",
    }
    assert fields <= {command.split("=")[0] for command in COMMANDS}
    used = {command.split("=")[1].split(":")[0] for command in COMMANDS}
    assert {name.removesuffix(".py") for name, _ in BLOCKS} - used <= {"sketch"}


def test_loss_schedule_networks_and_frozen_network_train_together():
    """Hinge loss, schedule, generator, discriminator and perceptual loss in one run."""
    config = changed(
        loss__mode="hinge:hinge",
        loss__extra="perceptual:perceptual",
        schedule__name="warmup:warmup_cosine",
        generator__variant="plain:PlainGenerator",
        generator__blocks=None,
        discriminator__variant="pooled:PooledDiscriminator",
    )
    state, metrics = update(config)
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["generators/perceptual"] > 0
    # The second update of 20 with two of warm-up: half of the rate.
    np.testing.assert_allclose(metrics["learning_rate"], config.optimizer.learning_rate / 2)
    assert set(state.params["gen_ab"]) == {"Conv_0", "Conv_1"}
    assert set(state.params["disc_a"]) == {"Conv_0", "Conv_1"}
    # The frozen network is no part of the state.
    assert "Features" not in str(jax.tree.structure(state))


def test_hinge_by_hand():
    """Scores 2 and -2: the generator's mean, and the hinge of each side."""
    from hinge import hinge  # type: ignore[import-not-found]

    loss, scores = hinge(), np.array([2.0, -2.0])
    assert float(loss.generator(scores)) == 0.0
    # real: max(0, 1 - 2) and max(0, 1 + 2); fake: max(0, 1 + 2) and max(0, 1 - 2).
    assert float(loss.discriminator(scores, scores)) == 3.0


def test_contrastive_loss_trains_without_cycle():
    """PatchNCE on the generators' own features replaces the cycle."""
    config = changed(loss__extra="contrastive:patch_nce", loss__cycle_a=0.0, loss__cycle_b=0.0)
    before = build_state(config, (SIZE, SIZE))
    state, metrics = update(config)
    assert metrics["generators/patch_nce"] > 0
    assert metrics["generators/cycle_a"] == 0
    kernel = before.params["gen_ab"]["stem"]["kernel"]
    assert not np.array_equal(kernel, state.params["gen_ab"]["stem"]["kernel"])


def test_forward_generator_is_tiled_and_exported():
    """The generator with `forward` gives the same image in bands and as ONNX."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from cyclegan_jax.export.onnx_graph import build_model as build_graph

    config = changed(generator__variant="sketch:SketchGenerator", generator__blocks=None)
    generator = build_networks(config).gen_ab
    image = np.random.default_rng(0).uniform(-1, 1, (1, 40, 24, 3)).astype(np.float32)
    params = generator.init(jax.random.key(0), image)["params"]
    expected = translate(generator, params, image)
    in_bands = translate_in_bands(generator, params, image[0], 16)
    np.testing.assert_allclose(in_bands, expected[0], atol=1e-5)
    graph = build_graph(Network(generator, params, 3), {}).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: image.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(output.transpose(0, 2, 3, 1), expected, atol=1e-5)


def test_what_an_entry_does_not_support_is_refused_by_name():
    """An option, tiling and ONNX of a generator that has none of them."""
    with pytest.raises(UserError, match=r"generator\.remat.*plain:PlainGenerator"):
        build_networks(
            changed(
                generator__variant="plain:PlainGenerator",
                generator__blocks=None,
                generator__remat=True,
            )
        )
    config = changed(generator__variant="plain:PlainGenerator", generator__blocks=None)
    generator = build_networks(config).gen_ab
    image = np.zeros((16, 16, 3), np.float32)
    with pytest.raises(UserError, match="PlainGenerator does not support tiling"):
        translate_in_bands(generator, {}, image, 16)
    onnx_graph = pytest.importorskip("cyclegan_jax.export.onnx_graph")
    with pytest.raises(UserError, match="PlainGenerator does not support it"):
        onnx_graph.build_model(Network(generator, {}, 3), {})


def test_source_metric_and_evaluation(files, tmp_path):
    """A run on arrays of a user's own, evaluated by a user's own metric."""
    from cyclegan_jax.training import train

    rng = np.random.default_rng(0)
    for name in ("train_a", "train_b", "test_a", "test_b"):
        shape = (3, SIZE, SIZE, 3)
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, shape, np.uint8))
    config = changed(
        data__source="arrays:arrays",
        data__dir=str(tmp_path),
        evaluation__metrics="colour:colour_shift,cycle",
        evaluation__best="colour_shift",
        evaluate_every_steps=2,
        num_steps=2,
    )
    workdir = tmp_path / "run"
    assert int(train(config, workdir).step) == 2
    results = json.loads((workdir / "evaluation" / "2.json").read_text())
    assert results["a_to_b/colour_shift"] > 0
    # The metric by hand: the mean colours of the saved translations and of the test images.
    translated = Translator.load(workdir)(np.load(tmp_path / "test_a.npy"))
    expected = np.abs(translated.mean((0, 1, 2)) - np.load(tmp_path / "test_b.npy").mean((0, 1, 2)))
    np.testing.assert_allclose(results["a_to_b/colour_shift"], expected.mean(), rtol=1e-6)


def test_names_that_cannot_be_imported(files):
    """Missing, broken and unsuitable modules are one line that names the field."""
    (files / "broken.py").write_text("def loss(:\n")
    (files / "failing.py").write_text("undefined_name\n")
    (files / "constant.py").write_text("loss = 1.0\n")
    for name in (
        "no_such_module:loss",
        "hinge:no_such_function",
        "broken:loss",
        "failing:loss",
        "constant:loss",
    ):
        with pytest.raises(UserError, match=rf"config\.loss\.mode={name}") as caught:
            changed(loss__mode=name)
        assert "\n" not in str(caught.value)
