"""Translators of work directories, on images of any size, bit depth and channels."""

import gc
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.build import build_networks
from cyclegan_jax.inference.translator import Network, Translator, translate
from cyclegan_jax.models.generators import GENERATORS
from cyclegan_jax.models.layers import LayerConfig
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from tests.translators import Scaled, save_run, scaled_translator

RNG = np.random.default_rng(0)


def image(height, width, channels=3, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A work directory with checkpoints of steps 3 and 5, and their parameters."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, *save_run(workdir, (3, 5))


def plain(config, params, name, x):
    """Apply a network to one 8-bit image by itself."""
    output = getattr(build_networks(config), name).apply(
        {"params": params[name]}, x[None].astype(np.float32) / 127.5 - 1
    )
    return np.rint((np.asarray(output[0]) + 1) * 127.5)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("direction", "checkpoint", "name", "step"),
    [("a_to_b", "latest", "gen_ab", 5), ("b_to_a", "3", "gen_ba", 3), ("b_to_a", 5, "gen_ba", 5)],
)
def test_loaded_translator_is_the_network(run, direction, checkpoint, name, step):
    """An image of an accepted size becomes the network's output, rounded; so do several."""
    workdir, config, params = run
    translator = Translator.load(workdir, direction, checkpoint)
    assert translator.step == step
    batch = np.stack([image(8, 12) for _ in range(2)])
    expected = [plain(config, params[step], name, x) for x in batch]
    translated = translator(batch)
    assert translated.dtype == np.uint8
    # Rounding may differ by a level.
    assert np.abs(translated - np.stack(expected)).max() <= 1
    assert np.std(expected) > 5
    np.testing.assert_array_equal(translator(batch[1]), translated[1])


def test_best_json_of_an_earlier_version(run):
    """`best` loads the step that `best.json` names, where no checkpoint has a record of its own."""
    workdir, _, _ = run
    best = {"step": 3, "figure": "fid", "value": 9.0}
    (workdir / "best.json").write_text(json.dumps(best))
    try:
        assert Translator.load(workdir, checkpoint="best").step == 3
        (workdir / "best.json").write_text("[]")
        with pytest.raises(UserError, match="expected a step and its metric"):
            Translator.load(workdir, checkpoint="best")
    finally:
        (workdir / "best.json").unlink()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"checkpoint": "best"}, "expected a best checkpoint, found none"),
        ({"checkpoint": 4}, "step 4.* 3, 5"),
        ({"checkpoint": "newest"}, "latest, best or a step"),
        ({"direction": "ab"}, "expected one of a_to_b, b_to_a, got 'ab'"),
        ({"batch_size": 0}, "expected at least 1, got 0"),
        ({"tile": 8}, "expected at least 16 rows, got 8"),
    ],
)
def test_wrong_arguments_are_refused(run, options, expected):
    """Unknown checkpoints and directions and wrong sizes are errors of one line."""
    with pytest.raises(UserError, match=expected) as caught:
        Translator.load(run[0], **options)
    assert "\n" not in str(caught.value)


def test_folders_without_a_run_are_refused(tmp_path):
    """A missing folder and an empty one are told apart."""
    with pytest.raises(UserError, match="no such folder"):
        Translator.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="expected config.json and checkpoints of a run"):
        Translator.load(tmp_path)


def mirrored(index, side):
    """Return the pixel seen at an index between mirrors on the outermost pixels."""
    step = 1
    position = 0
    for _ in range(index):
        if not 0 <= position + step < side:
            step = -step
        if side > 1:
            position += step
    return position


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (8, 3), (2, 3), (1, 1)])
def test_images_are_padded_by_reflection_and_cropped_again(run, size):
    """Images of other sizes are translated too, even with a padding larger than themselves."""
    workdir, config, params = run
    x = image(*size)
    padded = np.empty((8, 8, 3), np.uint8)
    for i in range(8):
        for j in range(8):
            padded[i, j] = x[mirrored(i, size[0]), mirrored(j, size[1])]
    translated = Translator.load(workdir)(x)
    assert translated.shape == x.shape
    expected = plain(config, params[5], "gen_ab", padded)[: size[0], : size[1]]
    assert np.abs(translated - expected).max() <= 1


def test_unets_translate_any_size():
    """A U-Net translates images smaller than its smallest size, but supports no tiles."""
    generator = GENERATORS["unet128"](channels=1, width=1, config=LayerConfig())
    shapes = jax.eval_shape(generator.init, jax.random.key(0), jnp.zeros((1, 128, 128, 1)))
    params = jax.tree.map(
        lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32), shapes["params"]
    )
    network = Network(generator, params, 1)
    translator = Translator(network, network, 0)
    assert translator.padded_size(40, 130) == (128, 256)
    x = image(40, 125, 1)
    padded = np.pad(x, ((0, 88), (0, 3), (0, 0)), mode="reflect")
    output = translate(generator, params, padded[None] / np.float32(127.5) - 1)
    expected = np.rint((np.asarray(output[0]) + 1) * 127.5)[:40, :125]
    assert np.std(expected) > 5
    assert np.abs(translator(x) - expected).max() <= 1
    with pytest.raises(UserError, match="UNetGenerator does not support tiling"):
        Translator(network, network, 0, tile=64)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bit_depth_is_preserved(dtype):
    """A negative is exact with 8 and with 16 bits."""
    x = image(9, 10, 1, dtype)
    translated = scaled_translator((1, 1))(x)
    assert translated.dtype == dtype
    np.testing.assert_array_equal(translated, np.iinfo(dtype).max - x)


@pytest.mark.parametrize("image_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (1, 1), (3, 3)])
def test_channels_are_converted_and_alpha_is_preserved(image_channels, channels):
    """Results are grey or colour as their domain, with the alpha of the input."""
    x = image(8, 8, image_channels)
    x[..., : 3 if image_channels > 2 else 1] = 51  # grey, also as a colour
    translated = scaled_translator(channels)(x)
    has_alpha = image_channels in (2, 4)
    assert translated.shape == (8, 8, channels[1] + has_alpha)
    assert np.all(translated[..., : channels[1]] == 204)
    if has_alpha:
        np.testing.assert_array_equal(translated[..., -1], x[..., -1])


def test_other_numbers_of_channels_must_match():
    """With two channels, which are neither grey nor colour, none is alpha."""
    translator = scaled_translator((2, 2))
    assert translator(image(8, 8, 2)).shape == (8, 8, 2)
    with pytest.raises(UserError, match="expected 2 channels, got 3"):
        translator(image(8, 8, 3))


def test_round_trips_are_not_rounded_in_between():
    """An image divided and multiplied by a thousand is reconstructed exactly."""
    x = image(9, 9, 1)
    translated, reconstructed = scaled_translator((1, 1), factors=(1e-3, 1e3)).round_trip(x)
    assert np.unique(translated).size <= 2
    np.testing.assert_array_equal(reconstructed, x)


@pytest.mark.parametrize("batch_size", [2, 8])
def test_batches_equal_single_images(batch_size):
    """Batches, the last of which is not full, give the results of single images."""
    images = np.stack([image(6, 8) for _ in range(5)])
    expected = [scaled_translator()(x) for x in images]
    translated = scaled_translator(batch_size=batch_size)(images)
    np.testing.assert_array_equal(translated, np.stack(expected))


def test_networks_that_mix_images_are_applied_to_single_ones():
    """An image's translation does not depend on which others are translated with it."""
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 255)])
    translated = scaled_translator(mixes_images=True, batch_size=2)(images)
    np.testing.assert_array_equal(translated, 128)


def test_files_are_read(tmp_path):
    """Translators accept paths of images."""
    x = image(9, 10)
    image_io.write_image(tmp_path / "x.png", x)
    translator = scaled_translator()
    np.testing.assert_array_equal(translator(tmp_path / "x.png"), translator(x))
    with pytest.raises(UserError, match="no such file"):
        translator(str(tmp_path / "y.png"))


@pytest.mark.parametrize(
    "array", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_arrays_that_are_no_images_are_refused(array):
    """Floats, too few axes and empty arrays are errors."""
    with pytest.raises(UserError, match="images: expected arrays"):
        scaled_translator()(array)


def test_programs_of_many_sizes_are_dropped():
    """Compiled programs do not accumulate with the number of sizes, and results are the same."""
    generator, client = Scaled(), jax.devices()[0].client
    sizes = [(8, width) for width in range(8, 8 + 4 * 50, 4)]
    gc.collect()
    before = len(client.live_executables())
    for height, width in [*sizes, sizes[0]]:
        x = np.full((1, height, width, 3), 0.5, np.float32)
        np.testing.assert_array_equal(translate(generator, {}, x), -x)
    gc.collect()
    assert len(client.live_executables()) - before < 40
