"""Damaged images, sizes, the cache, and the fixed images of samples."""

import logging

import numpy as np
import pytest

from cyclegan_jax import data as data_package
from cyclegan_jax.data import image_size, load_sources, train_batches
from cyclegan_jax.data.dataset import Cache, ImageDataset, SameSize
from cyclegan_jax.data.transforms import Transform
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import write_image
from tests.numbered import SIDE, NumberedSource, indices, make_config, take


def test_unreadable_image_is_an_error_that_names_it():
    """The source's own line comes out of next(), as UserError, when its turn has come."""
    config = make_config(batch_size=1, flip=False, pairing="serial")
    good = indices(take(config, NumberedSource(6), NumberedSource(6), stop=6), "a")
    with train_batches(
        config,
        NumberedSource(6, unreadable={good[4]}),
        NumberedSource(6),
        start_step=0,
        num_steps=9,
    ) as iterator:
        for _ in range(4):
            next(iterator)
        with pytest.raises(UserError, match=f"image-{good[4]}.png cannot be read: made so") as said:
            next(iterator)
        assert "data.skip_unreadable=True passes over such" in str(said.value)


def test_skipping_takes_the_next_readable_image(caplog):
    """Skipped images are replaced by their successor, told once each, and counted."""
    config = make_config(batch_size=1, skip_unreadable=True, flip=False)
    whole = indices(take(config, NumberedSource(6), NumberedSource(6), stop=18), "a")
    source = NumberedSource(6, unreadable={2, 3, 5})
    with (
        caplog.at_level(logging.WARNING),
        train_batches(config, source, NumberedSource(6), start_step=0, num_steps=18) as iterator,
    ):
        shown = indices(list(iterator), "a")
        assert iterator.skipped == 3
    stand_in = {2: 4, 3: 4, 5: 0}
    assert shown == [stand_in.get(index, index) for index in whole]
    for index in (2, 3, 5):
        assert caplog.text.count(f"image-{index}.png") == 1


def test_skipping_everything_is_an_error():
    """A set in which nothing can be read ends in one line instead of going round."""
    config = make_config(skip_unreadable=True)
    with (
        train_batches(
            config, NumberedSource(3), NumberedSource(4, range(4)), start_step=0, num_steps=2
        ) as iterator,
        pytest.raises(UserError, match="domain B: none of its 4 images can be read"),
    ):
        next(iterator)


def test_small_images_are_an_error_even_when_skipping():
    """An image too small for the crop is a mistake in the configuration, not damage."""
    source = NumberedSource(1, sizes={0: (6, 30)})
    config = make_config(skip_unreadable=True)
    with pytest.raises(UserError, match="image-0.png is 30x6 pixels, smaller than data.crop_"):
        take(config, source, NumberedSource(1))


@pytest.mark.parametrize("transform", ["none", "scale_width"])
def test_differing_sizes_are_an_error_with_two_names(transform):
    """Where no crop makes images alike, both files and sizes are named at first sight."""
    source = NumberedSource(4, sizes={2: (12, 16)})
    config = make_config(transform=transform, load_size=12, batch_size=1)
    with pytest.raises(UserError) as error:
        take(config, source, NumberedSource(4), stop=4)
    line = str(error.value)
    for part in ("image-2.png", "12x12", f"data.transform={transform}", "resize_and_crop"):
        assert part in line
    assert "12x8" in line or "16x12" in line


@pytest.mark.parametrize("transform", ["none", "crop"])
def test_headers_tell_before_training(tmp_path, transform):
    """Of files, a wrong size is found when the batches are set up, without decoding."""
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        for i, width in enumerate((12, 12, 6)):
            write_image(tmp_path / name / f"{i}.png", np.zeros((12, width, 3), np.uint8))
    config = make_config(transform=transform, source="folder", dir=str(tmp_path))
    sources = load_sources(config.data, "train")
    with pytest.raises(UserError, match=r"2\.png"):
        train_batches(config, *sources, start_step=0, num_steps=1)


def test_unread_headers_wait_for_their_turn(tmp_path):
    """A damaged file does not stop the check of headers, and is skipped when asked for."""
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "0.png", np.zeros((12, 12, 3), np.uint8))
        (tmp_path / name / "1.png").write_text("not an image")
    config = make_config(source="folder", dir=str(tmp_path), skip_unreadable=True)
    assert len(take(config, *load_sources(config.data, "train"))) == 6
    config.data.skip_unreadable = False
    with pytest.raises(UserError, match=r"1\.png cannot be read"):
        take(config, *load_sources(config.data, "train"))


def test_image_size_is_that_of_the_batches():
    """The size is known before training: of the crop, or of the first images."""
    tall = dict.fromkeys(range(3), (16, 12))
    for transform, size in (("crop", (8, 8)), ("none", (16, 12)), ("scale_width", (24, 20))):
        config = make_config(transform=transform, load_size=20)
        sources = NumberedSource(3, sizes=tall), NumberedSource(3, sizes=tall)
        assert image_size(config.data, *sources) == size
        assert take(config, *sources, stop=1)[0]["a"].shape[1:3] == size


def test_domains_need_the_same_size():
    """Where no crop makes them alike, domains of differing sizes are refused with both names."""
    data = make_config(transform="none").data
    other = NumberedSource(2, sizes={0: (12, 16), 1: (12, 16)})
    with pytest.raises(UserError, match=r"image-0\.png 12x12 and image-0\.png 16x12 pixels"):
        image_size(data, NumberedSource(2), other)


def test_cache_keeps_within_its_budget():
    """Images are read once while there is room, and each time when there is none."""
    size = SIDE * SIDE * 3
    for room, once in ((2, 2), (10, 4)):
        cache = Cache(room * size / 2**30)
        source = NumberedSource(4)
        transform = Transform.from_config(make_config().data, "a")
        images = ImageDataset(source, transform, cache, SameSize(transform), "a")
        for _ in range(3):
            for index in range(4):
                assert images[index][0, 0, 2] == index
        assert sorted(source.reads.values()) == [1] * once + [3] * (4 - once)


def test_domains_share_the_cache_without_mixing():
    """The same index of A and B are two images."""
    cache = Cache(1.0)
    kept = {}
    for domain, value in (("a", 1), ("b", 2)):
        kept[domain] = np.full((2, 2, 3), value, np.uint8)
        cache.put((domain, 0), kept[domain])
    assert cache.get(("a", 0)).max() == 1
    assert cache.get(("b", 0)).max() == 2
    with pytest.raises(ValueError, match="read-only"):
        cache.get(("a", 0))[0] = 9


def test_test_images_are_the_first():
    """The same images each time, in order; fewer where there are fewer."""
    config = make_config(transform="crop")
    fixed = data_package.test_images(config, NumberedSource(5), 3, domain="a")
    assert fixed.shape == (3, 8, 8, 3)
    assert fixed[:, 0, 0, 2].tolist() == [0, 1, 2]
    few = data_package.test_images(config, NumberedSource(2), 3, domain="a")
    assert len(few) == 2


def test_test_images_skip_or_name_damage(caplog):
    """As in training: an error that names the file, or the next image and a line in the log."""
    source = NumberedSource(4, unreadable={0, 2})
    config = make_config()
    with pytest.raises(UserError, match="image-0.png"):
        data_package.test_images(config, source, 2, domain="b")
    config.data.skip_unreadable = True
    fixed = data_package.test_images(config, source, 2, domain="b")
    assert fixed[:, 0, 0, 2].tolist() == [1, 3]
    for index in (0, 2):
        assert f"skipped: image image-{index}.png" in caplog.text
    with pytest.raises(UserError, match="domain B: none of its 2 images"):
        data_package.test_images(config, NumberedSource(2, {0, 1}), 2, domain="b")


def test_test_images_need_one_size():
    """Samples of differing sizes are refused with both names."""
    source = NumberedSource(2, sizes={1: (12, 16)})
    with pytest.raises(UserError, match=r"image-0\.png 12x12 and image-1\.png 16x12 pixels"):
        data_package.test_images(make_config(transform="none"), source, 2, domain="a")
