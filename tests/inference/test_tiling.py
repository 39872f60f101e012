"""Images translated in bands equal images translated whole."""

import functools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cyclegan_jax.inference.tiling import translate_in_bands
from cyclegan_jax.inference.translator import Network, Translator, translate
from cyclegan_jax.models.generators import GENERATORS
from cyclegan_jax.models.layers import Conv, LayerConfig, UpConv
from cyclegan_jax.models.protocol import ForwardGenerator
from cyclegan_jax.utils.errors import UserError

# The original's ResNets differ only in their number of blocks.
RESNETS = [name for name in GENERATORS if name.startswith("resnet7") or name.startswith("resnet9")]


def network(variant, *, norm="instance", dtype=jnp.float32, width=2, blocks=1, channels=2):
    """Build a generator for 3 channels, with large weights, biases and scales."""
    config = LayerConfig(norm, dtype=dtype)
    generator = GENERATORS[variant](channels=channels, width=width, config=config, blocks=blocks)
    shapes = jax.eval_shape(generator.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(mean, 0.2, leaf.shape).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes["params"])
    return generator, params


def image(height, width, seed=0):
    """Draw noise that gets brighter downwards, so that statistics of bands differ."""
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (height, width, 3))
    return (noise + np.linspace(-0.5, 0.5, height)[:, None, None]).astype(np.float32)


def assert_same(generator, params, x, rows, tolerance=2e-5):
    """Assert that bands give the result of the generator itself."""
    whole = np.asarray(translate(generator, params, x[None])[0])
    banded = translate_in_bands(generator, params, x, rows)
    assert banded.dtype == whole.dtype
    assert np.std(whole) > 0.1
    np.testing.assert_allclose(banded, whole, atol=tolerance)


@pytest.mark.parametrize("variant", RESNETS)
def test_bands_equal_the_whole(variant):
    """Every ResNet agrees with several bands on all levels, the last of which is not full."""
    assert_same(*network(variant), image(112, 32), rows=16)


@pytest.mark.parametrize(
    ("variant", "norm"),
    [
        ("resnet7_single", "instance_affine"),
        ("resnet9", "batch"),
        ("resnet9", "none"),
        ("resnet9_same", "instance_affine_std"),
    ],
)
def test_bands_equal_the_whole_with_all_norms(variant, norm):
    """Norms with a scale and bias agree, and none."""
    assert_same(*network(variant, norm=norm), image(112, 32), rows=16)


@pytest.mark.parametrize(
    ("height", "width", "rows"), [(112, 8, 33), (52, 20, 51), (40, 8, 64), (8, 40, 16)]
)
def test_any_heights(height, width, rows):
    """Odd numbers of rows, odd heights in the blocks, and single bands agree."""
    assert_same(*network("resnet9", blocks=2), image(height, width), rows)


def test_bfloat16():
    """Bands in bfloat16 agree up to the precision of the type."""
    generator, params = network("resnet3", dtype=jnp.bfloat16)
    assert_same(generator, params, image(112, 32), rows=16, tolerance=0.1)


def test_statistics_of_a_part_differ():
    """Bands with statistics of their own would fail the tests above."""
    generator, params = network("resnet9")
    x = image(112, 32)
    whole = np.asarray(translate(generator, params, x[None])[0])
    part = np.asarray(translate(generator, params, x[None, :64])[0])
    assert np.abs(part[:32] - whole[:32]).max() > 0.2


def test_translators_translate_high_images_in_bands():
    """Images higher than the tile agree with 8 and 16 bits, in both directions."""
    generator, params = network("resnet9", channels=3)
    net = Network(generator, params, 3)
    plain, tiled = Translator(net, net, 0), Translator(net, net, 0, tile=16, batch_size=2)
    for dtype, level in ((np.uint8, 1), (np.uint16, 4)):
        top = np.iinfo(dtype).max
        x = ((image(110, 31) + 1) / 2 * top).astype(dtype)
        for expected, actual in zip(plain.round_trip(x), tiled.round_trip(x), strict=True):
            assert actual.shape == expected.shape
            assert np.abs(actual.astype(int) - expected).max() <= level
    small = np.stack([((image(16, 32, seed) + 1) * 127).astype(np.uint8) for seed in (0, 1)])
    assert np.abs(tiled(small).astype(int) - np.stack([plain(x) for x in small])).max() <= 1


def test_largest_maps_are_not_kept():
    """The host holds at most 3/4 H W width numbers, the image, and bands."""
    generator, params = network("resnet9", width=16)
    height, width, rows = 512, 32, 16
    x = image(height, width)
    translate_in_bands(generator, params, x, rows)
    tracemalloc.start()
    translate_in_bands(generator, params, x, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    band = 4 * (rows + 8) * width * 16
    assert peak < 4 * height * width * (16 * 3 / 4 + 2) + 4 * band
    assert peak > 4 * height * width * 16 * 3 / 4


@pytest.mark.parametrize(
    ("variant", "rows", "expected"),
    [
        ("unet128", 64, "UNetGenerator does not support tiling"),
        ("resnet9", 15, "expected at least 16 rows, got 15"),
    ],
)
def test_unsupported_tiles_are_refused(variant, rows, expected):
    """U-Nets and tiles of few rows are refused by name."""
    generator = GENERATORS[variant](channels=3, width=2, config=LayerConfig())
    with pytest.raises(UserError, match=expected):
        translate_in_bands(generator, {}, image(128, 128), rows)


class Skips(ForwardGenerator):
    """A generator with skip connections of several kinds."""

    config: LayerConfig
    kind: str = "outside a block"
    supports_tiling = True
    granularity = 2

    def forward(self, ops, x):
        """Halve, add two maps, double."""
        conv = functools.partial(Conv, 4, size=3, config=self.config, padding=1, pad_mode="reflect")
        down = functools.partial(Conv, 4, size=3, stride=2, padding=1, config=self.config)
        x = ops.layer(x, down, "down", norm="down_norm", activation=nn.relu)
        y = ops.layer(x, conv, "c", norm=None if self.kind == "without norm" else "n")
        if self.kind == "on the skip":
            x = ops.layer(x, functools.partial(Conv, 4, 1, self.config), "s", norm="s_norm")
        x = ops.add(y, x) if self.kind == "reversed" else ops.add(x, y)
        x = ops.layer(x, functools.partial(UpConv, 4, 3, self.config), "up", norm="up_norm")
        head = functools.partial(Conv, 3, size=3, config=self.config, padding=1)
        return ops.output(ops.layer(x, head, "head"))


@pytest.mark.parametrize("kind", ["outside a block", "without norm", "reversed", "on the skip"])
def test_any_skip_connection(kind):
    """Sums outside of blocks, of either order, of maps before a norm, equal the whole image's."""
    generator = Skips(channels=3, config=LayerConfig(gain=0.3), kind=kind)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 52, 40, 3)).astype(np.float32)
    params = jax.jit(generator.init)(jax.random.key(0), image)["params"]
    expected = translate(generator, params, image)[0]
    in_bands = translate_in_bands(generator, params, image[0], 16)
    np.testing.assert_allclose(in_bands, expected, atol=1e-5)
