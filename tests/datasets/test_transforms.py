"""Transforms: sizes, crops, flips, channels, bit depths, and transforms of a user's own."""

import numpy as np
import pytest
from PIL import Image

from configs import default
from cyclegan_jax.data import build_transform
from cyclegan_jax.data import images as images_of
from cyclegan_jax.data.transforms import (
    INTERPOLATIONS,
    TRANSFORMS,
    resize,
    to_bit_depth,
    to_channels,
)
from cyclegan_jax.utils.errors import UserError
from tests.datasets.numbered import NumberedSource, make_config, make_dataset


def transform(name="resize_and_crop", domain="a", **fields):
    data = default.get_config().data
    data.update({"transform": name, "load_size": 20, "crop_size": 16, **fields})
    return build_transform(data, domain)


def random_image(height, width, channels=3, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)


def position_image(height, width):
    """Return an image in which each pixel is (row, column, 9)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows * 0 + 9], -1).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(20, 20), (31, 47), (80, 10)])
def test_resize_is_antialiased_bicubic(size, channels, dtype):
    """Equal to PyTorch's antialiased bicubic in float64, up to the rounding of each depth."""
    torch = pytest.importorskip("torch")
    top = np.iinfo(dtype).max
    # Pillow clips 8 bits between the two directions, so the values stay away from the ends.
    image = random_image(40, 33, channels, dtype) // 3 + dtype(top // 3)
    planes = torch.from_numpy(np.moveaxis(image, -1, 0)[None].astype(np.float64))
    expected = torch.nn.functional.interpolate(planes, size, mode="bicubic", antialias=True)
    expected = np.moveaxis(expected[0].clamp(0, top).numpy(), 0, -1)
    out = resize(image, *size)
    assert out.dtype == dtype
    # 8 bits: Pillow rounds after each of the two directions. 16 bits: once, from float32.
    assert np.abs(out - expected).max() <= (1.5 if dtype == np.uint8 else 0.51)


def bilinear(image, height, width):
    """Enlarge in float64: the weighted mean of the two nearest rows, then columns."""

    def along(values, size):
        count = len(values)
        place = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
        first = np.floor(place).astype(int)
        after = np.minimum(first + 1, count - 1)
        weight = (place - first).reshape(-1, *[1] * (values.ndim - 1))
        return values[first] * (1 - weight) + values[after] * weight

    columns = np.swapaxes(along(image.astype(float), height), 0, 1)
    return np.swapaxes(along(columns, width), 0, 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.uint8, 1.0), (np.uint16, 0.51)])
@pytest.mark.parametrize("channels", [1, 3])
def test_bilinear_enlargement_is_that_of_other_libraries(channels, dtype, tolerance):
    """An enlarged face agrees with plain bilinear interpolation, up to rounding."""
    face = random_image(218, 178, channels, dtype)
    ours = transform(
        load_size=256,
        interpolation="bilinear",
        flip=False,
        bit_depth=face.itemsize * 8,
        channels_a=channels,
    ).prepare(face, "x")
    assert np.abs(ours - bilinear(face, 256, 256)).max() < tolerance


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_nearest_repeats_pixels(channels, dtype):
    """Twice the size repeats each pixel; half the size has the lower right of four."""
    image = random_image(10, 14, channels, dtype)
    twice = image.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(resize(image, 20, 28, "nearest"), twice)
    np.testing.assert_array_equal(resize(image, 5, 7, "nearest"), image[1::2, 1::2])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lanczos_halves_with_its_weights(dtype):
    """Halving one row has the weights of sinc(x) sinc(x/3), widened to twice the spacing."""
    row = random_image(1, 40, 1, dtype) // 3 + dtype(np.iinfo(dtype).max // 3)
    distance = (np.arange(40) - (2 * 10 + 0.5)) / 2  # of each pixel to pixel 10 of the result
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    expected = row[0, :, 0] @ weights / weights.sum()
    assert resize(row, 1, 20, "lanczos")[0, 10, 0] == pytest.approx(expected, abs=0.51)


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "crop"])
def test_every_transform_resizes_by_the_interpolation(name):
    """Two colours stay two colours with nearest, in training and tests, and not with others."""
    image = np.where(random_image(33, 45) < 128, np.uint8(9), np.uint8(200))
    for interpolation in INTERPOLATIONS:
        ours = transform(name, interpolation=interpolation)
        for out in (ours.prepare(image, "x"), ours.prepare_test(image, "x")):
            assert (set(np.unique(out)) == {9, 200}) == (interpolation == "nearest")


def test_resize_of_colour_is_that_of_the_original():
    """8-bit colour is resized by Pillow as in the original, bit by bit."""
    image = random_image(64, 48)
    expected = Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize(image, 28, 28), np.asarray(expected))


def test_grey_is_pillows_luma():
    """8-bit colour becomes Pillow's mode L; alpha has no effect."""
    image = random_image(300, 300, 4)
    expected = np.asarray(Image.fromarray(image[..., :3]).convert("L"))
    np.testing.assert_array_equal(to_channels(image, 1)[..., 0], expected)
    np.testing.assert_array_equal(to_channels(image[..., :3], 1)[..., 0], expected)


def test_16_bit_grey_has_the_weights_of_itu_r_601():
    """16-bit luma is 0.299 R + 0.587 G + 0.114 B, rounded; white stays white."""
    image = random_image(50, 50, 3, np.uint16)
    exact = image @ np.array([0.299, 0.587, 0.114])
    grey = to_channels(image, 1)[..., 0]
    assert grey.dtype == np.uint16
    # The fixed-point weights differ from the decimal ones by up to 6e-6.
    assert np.abs(grey - exact).max() < 1.2
    assert to_channels(np.full((1, 1, 3), 65535, np.uint16), 1) == 65535


def test_other_channel_changes():
    """Grey is repeated, alpha dropped, equal channels kept, and everything else refused by name."""
    image = random_image(3, 4, 4)
    np.testing.assert_array_equal(to_channels(image, 3), image[..., :3])
    np.testing.assert_array_equal(to_channels(image[..., :2], 1), image[..., :1])
    np.testing.assert_array_equal(to_channels(image[..., :2], 3), image[..., [0, 0, 0]])
    np.testing.assert_array_equal(to_channels(image, 4), image)
    with pytest.raises(UserError, match="image cat.png: expected 4 channels, got 3"):
        to_channels(image[..., :3], 4, "cat.png")


def test_bit_depths_span_the_full_range():
    """8 to 16 bits and back is exact; 16 to 8 bits rounds to 256 even levels."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    deep = to_bit_depth(levels, 16)
    assert (deep.dtype, deep.min(), deep.max()) == (np.uint16, 0, 65535)
    np.testing.assert_array_equal(to_bit_depth(deep, 8), levels)
    values = np.array([[[0], [128], [129], [65535], [65406]]], np.uint16)
    np.testing.assert_array_equal(to_bit_depth(values, 8).ravel(), [0, 0, 1, 255, 254])
    assert to_bit_depth(values, 16) is values


@pytest.mark.parametrize(
    ("name", "size", "prepared", "tested"),
    [  # (height, width), worked out by hand for load_size 20 and crop_size 16
        ("resize_and_crop", (30, 50), (20, 20), (16, 16)),
        ("crop", (30, 50), (30, 50), (16, 16)),
        ("scale_width", (30, 50), (12, 20), (12, 20)),
        ("scale_width", (63, 40), (32, 20), (32, 20)),
        ("scale_width", (1, 400), (4, 20), (4, 20)),
        ("scale_width_and_crop", (30, 50), (16, 20), (16, 16)),
        ("scale_width_and_crop", (50, 30), (33, 20), (16, 16)),
        ("scale_shorter_and_crop", (30, 50), (20, 33), (16, 16)),
        ("scale_shorter_and_crop", (50, 30), (33, 20), (16, 16)),
        ("scale_shorter_and_crop", (20, 41), (20, 41), (16, 16)),
        ("none", (30, 50), (32, 48), (32, 48)),
        ("none", (29, 51), (28, 52), (28, 52)),
        ("none", (1, 32), (4, 32), (4, 32)),
    ],
)
def test_sizes(name, size, prepared, tested):
    """Sizes of prepared, augmented and test images of each transform."""
    ours = transform(name)
    image = random_image(*size)
    out = ours.prepare(image, "x")
    assert out.shape == (*prepared, 3)
    if ours.prepared_size is not None:
        assert ours.prepared_size(*size, "x") == prepared
    assert ours.output_size == ((16, 16) if "crop" in name else None)
    assert ours.prepare_test(image, "x").shape == (*tested, 3)
    augmented = ours.augment(out, np.random.default_rng(0))
    assert augmented.shape[:2] == ((16, 16) if "crop" in name else prepared)


def test_scaling_of_the_shorter_side_is_that_of_torchvision():
    """Sizes are those of Resize(286) for many sizes, also where the longer side is rounded down."""
    ours = transform("scale_shorter_and_crop", load_size=286, crop_size=256)
    sizes = [(h, w) for h in (97, 178, 256, 286, 333) for w in range(90, 700, 7)]
    assert len(sizes) > 400
    try:
        from torchvision.transforms.functional import _compute_resized_output_size as resized
    except ImportError:  # the published rule

        def resized(size, target):
            longer = int(target[0] * max(size) / min(size))
            return (target[0], longer) if size[0] <= size[1] else (longer, target[0])

    for size in sizes:
        assert ours.prepared_size(*size, "x") == tuple(resized(size, [286]))


CROPS = [name for name in TRANSFORMS if name.endswith("crop")]


@pytest.mark.parametrize("name", CROPS)
def test_crops_of_any_shape(name):
    """With crop_width, training and test images of any shape have it as their width."""
    ours = transform(name, load_size=24, crop_size=12, crop_width=20)
    assert ours.output_size == (12, 20)
    for size in ((40, 30), (25, 60), (24, 24)):
        image = random_image(*size)
        prepared = ours.prepare(image, "x")
        shown = [ours.augment(prepared, np.random.default_rng(i)) for i in range(3)]
        assert {out.shape for out in (*shown, ours.prepare_test(image, "x"))} == {(12, 20, 3)}


def test_places_of_crops_of_any_shape():
    """Random crops reach every place and no other; the center crop is in the middle."""
    ours = transform("crop", crop_size=4, crop_width=9, flip=False)
    image = position_image(6, 10)
    rng = np.random.default_rng(0)
    shown = [ours.augment(image, rng) for _ in range(100)]
    assert {tuple(out[0, 0, :2]) for out in shown} == {(t, x) for t in range(3) for x in range(2)}
    assert all(tuple(out[-1, -1, :2] - out[0, 0, :2]) == (3, 8) for out in shown)
    np.testing.assert_array_equal(ours.prepare_test(image, "x"), image[1:5, 0:9])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"transform": "resize_and_crop", "crop_width": 21},
            "data.crop_width: expected at most data.load_size=20, got 21",
        ),
        (
            {"transform": "resize_and_crop", "crop_size": 30, "crop_width": 8},
            "data.crop_size: expected at most data.load_size=20, got 30",
        ),
        (
            {"transform": "scale_width_and_crop", "crop_size": 8, "crop_width": 30},
            "data.crop_width: expected at most data.load_size=20, got 30",
        ),
        (
            {"transform": "scale_shorter_and_crop", "crop_size": 40, "crop_width": 30},
            "data.crop_width: expected at most data.load_size=20, got 30",
        ),
        (
            {"transform": "none", "crop_width": 30},
            "data.crop_width: expected None, since data.transform=none does not support the option",
        ),
        (
            {"transform": f"{__name__}:Corner", "interpolation": "nearest"},
            "data.interpolation: expected 'bicubic', since data.transform=.*:Corner does not",
        ),
    ],
)
def test_impossible_crops_and_options_are_refused(fields, message):
    """The error has the field that is too large, or that the transform does not have."""
    with pytest.raises(UserError, match=message):
        transform(**{"name": fields.pop("transform"), **fields})


def test_scaled_images_that_the_crop_does_not_fit_into_are_named():
    """A square image has no room for a crop wider than load_size, but a wide one has."""
    ours = transform("scale_shorter_and_crop", crop_size=16, crop_width=32)
    assert ours.prepare(random_image(30, 60), "x").shape == (20, 40, 3)
    message = "cat.png, scaled: .*data.crop_width=32 by data.crop_size=16 .* got 20x20;.*load_size"
    with pytest.raises(UserError, match=message):
        ours.prepare(random_image(30, 30), "cat.png")


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_gets_the_channels_and_depth(name, bits, channels):
    """Grey, alpha, colour, 8 and 16 bits all get the configured channels and bit depth."""
    ours = transform(name, channels_b=channels, bit_depth=bits, domain="b")
    for have in (1, 2, 3, 4):
        for dtype in (np.uint8, np.uint16):
            out = ours.prepare(random_image(24, 28, have, dtype), "x")
            assert out.shape[-1] == channels
            assert out.dtype == (np.uint8 if bits == 8 else np.uint16)


def test_test_images_are_center_crops():
    """Test images are center crops; those of resize_and_crop show the whole image."""
    image = position_image(20, 30)
    out = transform("crop").prepare_test(image, "x")
    np.testing.assert_array_equal(out, image[2:18, 7:23])
    out = transform("resize_and_crop").prepare_test(image, "x")
    np.testing.assert_array_equal(out, resize(image, 16, 16))


def test_augment_is_uniform_over_crops_and_flips():
    """Each result is an exact crop, flipped or not; all 50 outcomes are equally frequent."""
    ours = transform("crop")
    prepared = position_image(20, 20)
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
def test_no_flip_in_the_transform(fields):
    """Nothing is flipped without data.flip; with data.flip_alike, the dataset flips pairs."""
    ours = transform("none", **fields)
    prepared = position_image(16, 16)
    rng = np.random.default_rng(0)
    for _ in range(20):
        np.testing.assert_array_equal(ours.augment(prepared, rng), prepared)


@pytest.mark.parametrize("flip", [False, True])
def test_equal_sizes_show_the_whole_image(flip):
    """With load_size = crop_size the result is the whole resized image, flipped or not."""
    ours = transform("resize_and_crop", load_size=16, crop_size=16, flip=flip)
    face = random_image(44, 36)
    whole = np.asarray(Image.fromarray(face).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(ours.prepare_test(face, "x"), whole)
    prepared, rng = ours.prepare(face, "x"), np.random.default_rng(0)
    shown = [ours.augment(prepared, rng) for _ in range(40)]
    flipped = sum(np.array_equal(image, whole[:, ::-1]) for image in shown)
    assert flipped + sum(np.array_equal(image, whole) for image in shown) == 40
    assert (6 < flipped < 34) if flip else flipped == 0


def test_augment_does_not_write_to_the_prepared_image():
    """A cached image is never written to, even when it is flipped."""
    ours = transform("resize_and_crop")
    prepared = position_image(20, 20)
    prepared.flags.writeable = False
    before = prepared.copy()
    for seed in range(8):
        ours.augment(prepared, np.random.default_rng(seed))
    np.testing.assert_array_equal(prepared, before)


@pytest.mark.parametrize("size", [(15, 30), (30, 15)])
def test_too_small_images_are_named(size):
    """A crop larger than the image is an error with the file, both sizes and the fields."""
    with pytest.raises(UserError) as error:
        transform("crop").prepare(random_image(*size), "pets/cat.png")
    message = str(error.value)
    for part in ("pets/cat.png", f"{size[1]}x{size[0]}", "data.crop_size=16", "data.transform"):
        assert part in message
    with pytest.raises(UserError, match="pets/cat.png"):
        transform("crop").prepare_test(random_image(*size), "pets/cat.png")


@pytest.mark.parametrize("name", [name for name in CROPS if name != "crop"])
def test_crops_larger_than_the_resized_image_are_refused(name):
    """The error has both fields and both sizes."""
    with pytest.raises(UserError, match="crop_size: expected at most data.load_size=15, got 16"):
        transform(name, load_size=15)


def test_unknown_transforms_list_the_names():
    """The error has the field, all names, and the form of a user's own."""
    names = ", ".join(TRANSFORMS)
    with pytest.raises(UserError, match=f"data.transform: expected one of {names}, or package"):
        transform("squash")


class Corner:
    """A transform of a user's own: random choice among the columns of the top left corner."""

    def __init__(self, load_size, crop_size):
        self.output_size = crop_size, crop_size

    def prepare(self, image, name):
        """Return the top left corner."""
        return image[: self.output_size[0], : self.output_size[1]]

    def augment(self, prepared, rng):
        """Roll the columns."""
        return np.roll(prepared, rng.integers(4), axis=1)

    def prepare_test(self, image, name):
        """Return the top left corner."""
        return self.prepare(image, name)


def test_a_transform_of_a_users_own():
    """`module:attribute` names it; channels, bit depth and flips are added, headers not needed."""
    config = make_config(transform=f"{__name__}:Corner", channels_a=1, bit_depth=16, seed=3)
    dataset = make_dataset(config, NumberedSource(4), NumberedSource(5))
    assert dataset.image_size == (8, 8)
    with dataset.batches(0, 60) as batches:
        images = [batch["b"][0] for batch in batches]
        shown = {tuple(image[0, :, 1] // 257) for image in images}
    assert images[0].dtype == np.uint16
    rolled = [np.roll(np.arange(8), k) for k in range(4)]
    assert shown == {tuple(row[::step]) for row in rolled for step in (1, -1)}
    test = images_of.test_images(NumberedSource(1), build_transform(config.data, "a"), 1)
    assert test.shape == (1, 8, 8, 1)
