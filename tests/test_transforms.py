"""What happens to images between file and network."""

import numpy as np
import pytest
from PIL import Image

from configs import default
from cyclegan_jax.data.transforms import TRANSFORMS, Transform, resize, to_bit_depth, to_channels
from cyclegan_jax.utils.errors import UserError


def transform(name="resize_and_crop", domain="a", **fields):
    data = default.get_config().data
    data.update({"transform": name, "load_size": 20, "crop_size": 16, **fields})
    return Transform.from_config(data, domain)


def random_image(height, width, channels=3, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)


def place_image(height, width):
    """An image whose two channels and alpha-like third tell where a pixel came from."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows * 0 + 9], -1).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(20, 20), (31, 47), (80, 10)])
def test_resize_is_antialiased_bicubic(size, channels, dtype):
    """Against PyTorch's antialiased bicubic in float64, to the rounding of each depth."""
    torch = pytest.importorskip("torch")
    top = np.iinfo(dtype).max
    # Pillow clips 8 bits between the two directions: kept clear of the ends here.
    image = random_image(40, 33, channels, dtype) // 3 + dtype(top // 3)
    planes = torch.from_numpy(np.moveaxis(image, -1, 0)[None].astype(np.float64))
    expected = torch.nn.functional.interpolate(planes, size, mode="bicubic", antialias=True)
    expected = np.moveaxis(expected[0].clamp(0, top).numpy(), 0, -1)
    out = resize(image, *size)
    assert out.dtype == dtype
    # 8 bits: Pillow rounds after each of the two directions. 16 bits: once, from float32.
    assert np.abs(out - expected).max() <= (1.5 if dtype == np.uint8 else 0.51)


def test_resize_of_colour_is_the_originals():
    """8-bit colour goes through Pillow as in the original, bit by bit."""
    image = random_image(64, 48)
    expected = Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize(image, 28, 28), np.asarray(expected))


def test_grey_is_pillows_luma():
    """All 8-bit channel values, against Pillow's mode L; alpha does not count."""
    image = random_image(300, 300, 4)
    expected = np.asarray(Image.fromarray(image[..., :3]).convert("L"))
    np.testing.assert_array_equal(to_channels(image, 1)[..., 0], expected)
    np.testing.assert_array_equal(to_channels(image[..., :3], 1)[..., 0], expected)


def test_16_bit_grey_has_the_weights_of_itu_r_601():
    """16-bit luma is 0.299 R + 0.587 G + 0.114 B to the nearest; white stays white."""
    image = random_image(50, 50, 3, np.uint16)
    exact = image @ np.array([0.299, 0.587, 0.114])
    grey = to_channels(image, 1)[..., 0]
    assert grey.dtype == np.uint16
    # The fixed-point weights differ from the decimal ones by up to 6e-6.
    assert np.abs(grey - exact).max() < 1.2
    assert to_channels(np.full((1, 1, 3), 65535, np.uint16), 1) == 65535


def test_other_channel_changes():
    """Grey is repeated, alpha dropped, the rest taken as it is or refused by name."""
    image = random_image(3, 4, 4)
    np.testing.assert_array_equal(to_channels(image, 3), image[..., :3])
    np.testing.assert_array_equal(to_channels(image[..., :2], 1), image[..., :1])
    np.testing.assert_array_equal(to_channels(image[..., :2], 3), image[..., [0, 0, 0]])
    np.testing.assert_array_equal(to_channels(image, 4), image)
    with pytest.raises(UserError, match="image cat.png has 3 channels and 4 are expected"):
        to_channels(image[..., :3], 4, "cat.png")


def test_bit_depths_span_the_full_range():
    """8 to 16 bits and back is exact; 16 to 8 is the nearest of 256 even levels."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    deep = to_bit_depth(levels, 16)
    assert (deep.dtype, deep.min(), deep.max()) == (np.uint16, 0, 65535)
    np.testing.assert_array_equal(to_bit_depth(deep, 8), levels)
    values = np.array([[[0], [128], [129], [65535], [65406]]], np.uint16)
    np.testing.assert_array_equal(to_bit_depth(values, 8).ravel(), [0, 0, 1, 255, 254])
    assert to_bit_depth(values, 16) is values


@pytest.mark.parametrize(
    ("name", "size", "prepared", "tested"),
    [  # (height, width); worked by hand for load_size 20 and crop_size 16
        ("resize_and_crop", (30, 50), (20, 20), (16, 16)),
        ("crop", (30, 50), (30, 50), (16, 16)),
        ("scale_width", (30, 50), (12, 20), (12, 20)),
        ("scale_width", (63, 40), (32, 20), (32, 20)),
        ("scale_width", (1, 400), (4, 20), (4, 20)),
        ("scale_width_and_crop", (30, 50), (16, 20), (16, 16)),
        ("scale_width_and_crop", (50, 30), (33, 20), (16, 16)),
        ("none", (30, 50), (32, 48), (32, 48)),
        ("none", (29, 51), (28, 52), (28, 52)),
        ("none", (1, 32), (4, 32), (4, 32)),
    ],
)
def test_sizes(name, size, prepared, tested):
    """Each transform's sizes for training and tests; training crops are crop_size."""
    ours = transform(name)
    image = random_image(*size)
    out = ours.prepare(image, "x")
    assert out.shape == (*prepared, 3)
    assert ours.prepared_size(*size, "x") == prepared
    assert ours.prepare_test(image, "x").shape == (*tested, 3)
    augmented = ours.augment(out, np.random.default_rng(0))
    assert augmented.shape[:2] == ((16, 16) if "crop" in name else prepared)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_fits_any_configuration(name, bits, channels):
    """Grey, alpha, colour, 8 and 16 bits all come out with the channels and depth asked for."""
    ours = transform(name, channels_b=channels, bit_depth=bits, domain="b")
    for have in (1, 2, 3, 4):
        for dtype in (np.uint8, np.uint16):
            out = ours.prepare(random_image(24, 28, have, dtype), "x")
            assert out.shape[-1] == channels
            assert out.dtype == (np.uint8 if bits == 8 else np.uint16)


def test_test_transform_takes_the_middle():
    """Crops of test images are the middle; resize_and_crop shows the whole image."""
    image = place_image(20, 30)
    out = transform("crop").prepare_test(image, "x")
    np.testing.assert_array_equal(out, image[2:18, 7:23])
    out = transform("resize_and_crop").prepare_test(image, "x")
    np.testing.assert_array_equal(out, resize(image, 16, 16))


def test_augment_draws_every_place_and_flip_alike():
    """Each crop is an exact piece, mirrored or not; all 50 outcomes come up equally often."""
    ours = transform("crop")
    prepared = place_image(20, 20)
    rng = np.random.default_rng(0)
    counts = {}
    draws = 5000
    for _ in range(draws):
        out = ours.augment(prepared, rng)
        flipped = bool(out[0, 0, 1] > out[0, -1, 1])
        upright = out[:, ::-1] if flipped else out
        top, left = upright[0, 0, :2].tolist()
        np.testing.assert_array_equal(upright, prepared[top : top + 16, left : left + 16])
        counts[top, left, flipped] = counts.get((top, left, flipped), 0) + 1
    assert set(counts) == {(t, x, f) for t in range(5) for x in range(5) for f in (True, False)}
    # Chi-square with 49 degrees of freedom: 99.99 % lie below 94.
    expected = draws / 50
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 94


@pytest.mark.parametrize("fields", [{"flip": False}, {"flip": True, "flip_alike": True}])
def test_without_a_flip_of_its_own_nothing_is_mirrored(fields):
    """Without data.flip left and right stay; with data.flip_alike the pair's flip is elsewhere."""
    ours = transform("none", **fields)
    prepared = place_image(16, 16)
    rng = np.random.default_rng(0)
    for _ in range(20):
        np.testing.assert_array_equal(ours.augment(prepared, rng), prepared)


@pytest.mark.parametrize("flip", [False, True])
def test_equal_sizes_resize_straight(flip):
    """With load_size = crop_size the whole image is shown, resized by Pillow, or its mirror."""
    ours = transform("resize_and_crop", load_size=16, crop_size=16, flip=flip)
    face = random_image(44, 36)  # the proportions of aligned faces, 218 to 178, are not kept
    whole = np.asarray(Image.fromarray(face).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(ours.prepare_test(face, "x"), whole)
    prepared, rng = ours.prepare(face, "x"), np.random.default_rng(0)
    shown = [ours.augment(prepared, rng) for _ in range(40)]
    mirrored = sum(np.array_equal(image, whole[:, ::-1]) for image in shown)
    assert mirrored + sum(np.array_equal(image, whole) for image in shown) == 40
    assert (6 < mirrored < 34) if flip else mirrored == 0


def test_augment_leaves_the_prepared_image_alone():
    """A kept image is never written to, also when it is mirrored."""
    ours = transform("resize_and_crop")
    prepared = place_image(20, 20)
    prepared.flags.writeable = False
    before = prepared.copy()
    for seed in range(8):
        ours.augment(prepared, np.random.default_rng(seed))
    np.testing.assert_array_equal(prepared, before)


@pytest.mark.parametrize("size", [(15, 30), (30, 15)])
def test_too_small_images_are_named(size):
    """A crop larger than the image names file, both sizes and what helps."""
    with pytest.raises(UserError) as error:
        transform("crop").prepare(random_image(*size), "pets/cat.png")
    line = str(error.value)
    for part in ("pets/cat.png", f"{size[1]}x{size[0]}", "data.crop_size=16", "data.transform"):
        assert part in line
    with pytest.raises(UserError, match="pets/cat.png"):
        transform("crop").prepare_test(random_image(*size), "pets/cat.png")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transform": "squash"}, "data.transform=squash: expected one of resize_and_crop, crop"),
        ({"channels_a": 5}, "data.channels_a=5: expected one of 1, 2, 3, 4"),
        ({"bit_depth": 12}, "data.bit_depth=12: expected one of 8, 16"),
        ({"load_size": 15}, "data.crop_size=16 is larger than data.load_size=15"),
    ],
)
def test_wrong_configurations_are_refused(fields, message):
    """Each names the field, its value and the choices."""
    data = default.get_config().data
    data.update({"load_size": 20, "crop_size": 16, **fields})
    with pytest.raises(UserError, match=message):
        Transform.from_config(data, "a")
