"""Images computed in bands are what the network makes of the whole image."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclegan_jax.inference.tiling import translate_in_bands
from cyclegan_jax.inference.translator import Network, Translator, translate
from cyclegan_jax.models.generators import GENERATORS, build_generator
from cyclegan_jax.models.layers import Style
from cyclegan_jax.utils.errors import UserError

RESNETS = [name for name in GENERATORS if name.startswith("resnet")]


def network(variant, *, norm="instance", dtype=jnp.float32, width=2, blocks=1, channels=2):
    """A generator from 3 channels with strong weights, biases, scales and offsets."""
    style = Style(norm, dtype=dtype)
    generator = build_generator(variant, channels=channels, width=width, style=style, blocks=blocks)
    shapes = jax.eval_shape(generator.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        around = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(around, 0.2, leaf.shape).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes["params"])
    return generator, params


def image(height, width, seed=0):
    """Noise that grows brighter downwards: statistics of its parts are not those of the whole."""
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (height, width, 3))
    return (noise + np.linspace(-0.5, 0.5, height)[:, None, None]).astype(np.float32)


def assert_same(generator, params, x, rows, tolerance=2e-5):
    """Bands against the generator itself."""
    whole = np.asarray(translate(generator, params, x[None])[0])
    banded = translate_in_bands(generator, params, x, rows)
    assert banded.dtype == whole.dtype
    assert np.std(whole) > 0.1
    np.testing.assert_allclose(banded, whole, atol=tolerance)


@pytest.mark.parametrize("variant", RESNETS)
def test_bands_equal_the_whole(variant):
    """Every ResNet: several bands on all levels, and a last one that is not full."""
    assert_same(*network(variant), image(112, 32), rows=16)


@pytest.mark.parametrize("norm", ["instance_affine", "batch", "none"])
@pytest.mark.parametrize("variant", ["resnet3", "resnet7_single"])
def test_all_norms(variant, norm):
    """Norms with scale and offset, and none."""
    assert_same(*network(variant, norm=norm), image(112, 32), rows=16)


@pytest.mark.parametrize(
    ("height", "width", "rows"), [(112, 8, 33), (52, 20, 51), (40, 8, 64), (8, 40, 16)]
)
def test_any_heights(height, width, rows):
    """Odd numbers of rows, odd heights in the trunk, and no more than one band."""
    assert_same(*network("resnet9", blocks=2), image(height, width), rows)


def test_two_blocks_share_their_room():
    """Blocks are computed in place, one after the other."""
    assert_same(*network("resnet9_same", blocks=3), image(112, 32), rows=16)


def test_half_precision():
    """Maps of bfloat16 are as coarse as the network's own."""
    generator, params = network("resnet3", dtype=jnp.bfloat16)
    assert_same(generator, params, image(112, 32), rows=16, tolerance=0.1)


def test_a_part_on_its_own_is_not_the_same():
    """What the comparisons above would miss if bands had statistics of their own."""
    generator, params = network("resnet9")
    x = image(112, 32)
    whole = np.asarray(translate(generator, params, x[None])[0])
    part = np.asarray(translate(generator, params, x[None, :64])[0])
    assert np.abs(part[:32] - whole[:32]).max() > 0.2


def test_translators_compute_high_images_in_bands():
    """Only images higher than the tile, of 8 and of 16 bits, there and back."""
    generator, params = network("resnet9", channels=3)
    one = Network(generator, params, 3)
    plain, tiled = Translator(one, one, 0), Translator(one, one, 0, tile=16, batch_size=2)
    for dtype, level in ((np.uint8, 1), (np.uint16, 4)):
        top = np.iinfo(dtype).max
        x = ((image(110, 31) + 1) / 2 * top).astype(dtype)
        for expected, made in zip(plain.round_trip(x), tiled.round_trip(x), strict=True):
            assert made.shape == expected.shape
            assert np.abs(made.astype(int) - expected).max() <= level
    small = np.stack([((image(16, 32, seed) + 1) * 127).astype(np.uint8) for seed in (0, 1)])
    assert np.abs(tiled(small).astype(int) - np.stack([plain(x) for x in small])).max() <= 1


def test_largest_maps_are_not_kept():
    """Host memory stays at 3/4 H W width numbers, the image, and bands."""
    generator, params = network("resnet9", width=16)
    height, width, rows = 512, 32, 16
    x = image(height, width)
    translate_in_bands(generator, params, x, rows)
    tracemalloc.start()
    translate_in_bands(generator, params, x, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    band = 4 * (rows + 8) * width * 16
    assert peak < 4 * height * width * (16 * 3 / 4 + 2) + 3 * band
    assert peak > 4 * height * width * 16 * 3 / 4


def test_what_cannot_be_tiled_is_refused():
    """U-Nets, and tiles of few rows."""
    for variant, rows, expected in (("unet128", 64, "need a ResNet"), ("resnet9", 15, "at least")):
        generator = build_generator(variant, channels=3, width=2, style=Style())
        with pytest.raises(UserError, match=expected):
            translate_in_bands(generator, {}, image(128, 128), rows)
