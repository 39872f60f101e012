"""A trained generator on images of any size, depth and colour, and work directories read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.build import build_networks
from cyclegan_jax.inference.translator import Network, Translator, translate
from cyclegan_jax.models.generators import build_generator
from cyclegan_jax.models.layers import Style
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from tests.translators import save_run, scaled_translator

RNG = np.random.default_rng(0)


def image(height, width, channels=3, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A work directory with checkpoints of steps 3 and 5, and their parameters."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, *save_run(workdir, (3, 5))


def plain(config, params, name, x):
    """What the network makes of one 8-bit image, without anything around it."""
    output = getattr(build_networks(config), name).apply(
        {"params": params[name]}, x[None].astype(np.float32) / 127.5 - 1
    )
    return np.rint((np.asarray(output[0]) + 1) * 127.5)


@pytest.mark.parametrize(
    ("direction", "checkpoint", "name", "step"),
    [("a_to_b", "latest", "gen_ab", 5), ("b_to_a", "3", "gen_ba", 3), ("b_to_a", 5, "gen_ba", 5)],
)
def test_loaded_translator_is_the_plain_network(run, direction, checkpoint, name, step):
    """A size the network takes: the network's output rounded, for one and for several."""
    workdir, config, params = run
    translator = Translator.load(workdir, direction, checkpoint)
    assert translator.step == step
    several = np.stack([image(8, 12) for _ in range(2)])
    expected = [plain(config, params[step], name, x) for x in several]
    translated = translator(several)
    assert translated.dtype == np.uint8
    # A level where rounding falls between two.
    assert np.abs(translated - np.stack(expected)).max() <= 1
    assert np.std(expected) > 5
    np.testing.assert_array_equal(translator(several[1]), translated[1])


def test_the_best_checkpoint_is_the_one_that_the_run_named(run):
    """`best.json` in the work directory decides."""
    workdir, _, _ = run
    best = {"step": 3, "figure": "fid", "value": 9.0}
    (workdir / "best.json").write_text(json.dumps(best))
    try:
        assert Translator.load(workdir, checkpoint="best").step == 3
        (workdir / "best.json").write_text("[]")
        with pytest.raises(UserError, match="names no best"):
            Translator.load(workdir, checkpoint="best")
    finally:
        (workdir / "best.json").unlink()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"checkpoint": "best"}, "kept no best checkpoint"),
        ({"checkpoint": 4}, "no checkpoint of step 4; there are 3, 5"),
        ({"checkpoint": "newest"}, "choose latest, best or a step"),
        ({"direction": "ab"}, "choose from a_to_b, b_to_a"),
        ({"batch_size": 0}, "at least 1"),
        ({"tile": 8}, "at least 16"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(run, options, expected):
    """Checkpoints, directions and sizes."""
    with pytest.raises(UserError, match=expected) as caught:
        Translator.load(run[0], **options)
    assert "\n" not in str(caught.value)


def test_folders_without_a_run_are_said_in_one_line(tmp_path):
    """A folder that is missing, and one of something else."""
    with pytest.raises(UserError, match="there is no such folder"):
        Translator.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="no run in it"):
        Translator.load(tmp_path)


def mirrored(index, side):
    """The pixel seen at an index, between mirrors that stand on the outermost pixels."""
    step = 1
    position = 0
    for _ in range(index):
        if not 0 <= position + step < side:
            step = -step
        if side > 1:
            position += step
    return position


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (8, 3), (2, 3), (1, 1)])
def test_sizes_are_extended_by_reflection_and_cut_again(run, size):
    """Images that the network does not take, even where what is added outgrows them."""
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


def test_unets_take_any_size():
    """An image far smaller than the 128 pixels of the least that a U-Net takes."""
    generator = build_generator("unet128", channels=1, width=1, style=Style())
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
    with pytest.raises(UserError, match="tiles need a ResNet"):
        Translator(network, network, 0, tile=64)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_depth_is_kept(dtype):
    """A negative is exact at 8 and at 16 bits."""
    x = image(9, 10, 1, dtype)
    translated = scaled_translator((1, 1))(x)
    assert translated.dtype == dtype
    np.testing.assert_array_equal(translated, np.iinfo(dtype).max - x)


@pytest.mark.parametrize("given", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (1, 1), (3, 3)])
def test_colours_become_the_networks_and_alpha_stays(given, channels):
    """Grey or colour by the domain; alpha, which no network sees, comes out as it came in."""
    x = image(8, 8, given)
    x[..., : 3 if given > 2 else 1] = 51  # grey, also as a colour
    translated = scaled_translator(channels)(x)
    has_alpha = given in (2, 4)
    assert translated.shape == (8, 8, channels[1] + has_alpha)
    assert np.all(translated[..., : channels[1]] == 204)
    if has_alpha:
        np.testing.assert_array_equal(translated[..., -1], x[..., -1])


def test_networks_of_other_channels_take_no_other_image():
    """Two channels are neither grey nor colour; of as many, none is alpha."""
    translator = scaled_translator((2, 2))
    assert translator(image(8, 8, 2)).shape == (8, 8, 2)
    with pytest.raises(UserError, match="expected 2 channels, got 3"):
        translator(image(8, 8, 3))


def test_round_trips_are_not_rounded_in_between():
    """An image made a thousand times fainter and stronger again is the same."""
    x = image(9, 9, 1)
    translated, back = scaled_translator((1, 1), factors=(1e-3, 1e3)).round_trip(x)
    assert np.unique(translated).size <= 2
    np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize("batch_size", [2, 8])
def test_batches_change_nothing(batch_size):
    """Batches, with a last one that is not full, are as images one by one."""
    several = np.stack([image(6, 8) for _ in range(5)])
    expected = [scaled_translator()(x) for x in several]
    translated = scaled_translator(batch_size=batch_size)(several)
    np.testing.assert_array_equal(translated, np.stack(expected))


def test_batch_norm_shows_a_network_one_image_at_a_time():
    """Else its statistics would be those of images that happen to come along."""
    style = Style("batch")
    several = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 255)])
    translated = scaled_translator(style=style, batch_size=2)(several)
    np.testing.assert_array_equal(translated, 128)


def test_files_are_read(tmp_path):
    """A path stands for its image."""
    x = image(9, 10)
    image_io.write_image(tmp_path / "x.png", x)
    translator = scaled_translator()
    np.testing.assert_array_equal(translator(tmp_path / "x.png"), translator(x))
    with pytest.raises(UserError, match="no such file"):
        translator(str(tmp_path / "y.png"))


@pytest.mark.parametrize(
    "given", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_arrays_that_are_no_images_are_refused(given):
    """Floats, and arrays with too few axes or nothing in them."""
    with pytest.raises(UserError, match="images are arrays"):
        scaled_translator()(given)
