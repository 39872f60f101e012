"""Images of one domain: unreadable ones, sizes, the cache, and the fixed images of samples."""

import logging

import numpy as np
import pytest

from cyclegan_jax.data import build_transform, images, open_split
from cyclegan_jax.data.images import Cache, SameSize, TrainImages
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import write_image
from tests.datasets.numbered import SIDE, NumberedSource, indices, make_config, make_dataset, take


def test_an_unreadable_image_is_an_error_that_names_it():
    """The source's message is raised by next(), when the image's turn comes."""
    config = make_config(batch_size=1, flip=False, pairing="serial")
    order = indices(take(config, NumberedSource(6), NumberedSource(6), stop=6), "a")
    damaged = NumberedSource(6, unreadable={order[4]})
    with make_dataset(config, damaged, NumberedSource(6)).batches(0, 9) as batches:
        for _ in range(4):
            next(batches)
        message = f"image-{order[4]}.png cannot be read: on purpose; data.skip_unreadable=True"
        with pytest.raises(UserError, match=message):
            next(batches)


def test_skipping_takes_the_next_readable_image(caplog):
    """Skipped images are replaced by their successors, logged once each, and counted."""
    config = make_config(batch_size=1, skip_unreadable=True, flip=False)
    order = indices(take(config, NumberedSource(6), NumberedSource(6), stop=18), "a")
    dataset = make_dataset(config, NumberedSource(6, unreadable={2, 3, 5}), NumberedSource(6))
    with caplog.at_level(logging.WARNING), dataset.batches(0, 18) as batches:
        shown = indices(list(batches), "a")
        assert dataset.skipped == 3
    replacement = {2: 4, 3: 4, 5: 0}
    assert shown == [replacement.get(index, index) for index in order]
    for index in (2, 3, 5):
        assert caplog.text.count(f"image-{index}.png") == 1


def test_skipping_every_image_is_an_error():
    """A domain without readable images is an error instead of an endless search."""
    config = make_config(skip_unreadable=True)
    dataset = make_dataset(config, NumberedSource(3), NumberedSource(4, range(4)))
    with (
        dataset.batches(0, 2) as batches,
        pytest.raises(UserError, match="image-0.png and all 4 of its set are unreadable"),
    ):
        next(batches)


def test_small_images_are_an_error_even_when_skipping():
    """An image smaller than the crop is a mistake in the configuration, not damage."""
    source = NumberedSource(1, sizes={0: (6, 30)})
    config = make_config(skip_unreadable=True)
    with pytest.raises(UserError, match="image-0.png: .*data.crop_size=8 .* got 30x6"):
        take(config, source, NumberedSource(1))


@pytest.mark.parametrize("transform", ["none", "scale_width"])
def test_differing_sizes_are_an_error_with_two_names(transform):
    """Without a crop, the first image of another size is an error with both names and sizes."""
    source = NumberedSource(4, sizes={2: (12, 16)})
    config = make_config(transform=transform, load_size=12, batch_size=1)
    with pytest.raises(UserError) as error:
        take(config, source, NumberedSource(4), stop=4)
    message = str(error.value)
    for part in ("image-2.png", "12x12", "data.transform", "resize_and_crop"):
        assert part in message
    assert "12x8" in message or "16x12" in message


@pytest.mark.parametrize("transform", ["none", "crop"])
def test_headers_are_checked_before_training(tmp_path, transform):
    """A file of a wrong size is an error when the dataset is built, without decoding."""
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        for i, width in enumerate((12, 12, 6)):
            write_image(tmp_path / name / f"{i}.png", np.zeros((12, width, 3), np.uint8))
    config = make_config(transform=transform, source="folder", dir=str(tmp_path))
    with pytest.raises(UserError, match=r"2\.png"):
        make_dataset(config, *open_split(config.data, "train"))


def test_unreadable_headers_do_not_stop_the_check(tmp_path):
    """A damaged file is skipped or reported when it is read, not when headers are checked."""
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "0.png", np.zeros((12, 12, 3), np.uint8))
        (tmp_path / name / "1.png").write_text("not an image")
    config = make_config(source="folder", dir=str(tmp_path), skip_unreadable=True)
    assert len(take(config, *open_split(config.data, "train"))) == 6
    config.data.skip_unreadable = False
    with pytest.raises(UserError, match=r"1\.png cannot be read"):
        take(config, *open_split(config.data, "train"))


def test_image_size_is_that_of_the_batches():
    """The size is known before training: that of the crop, or of the first images."""
    tall = dict.fromkeys(range(3), (16, 12))
    for transform, size in (("crop", (8, 8)), ("none", (16, 12)), ("scale_width", (24, 20))):
        config = make_config(transform=transform, load_size=20)
        dataset = make_dataset(config, *[NumberedSource(3, sizes=tall) for _ in range(2)])
        assert dataset.image_size == size
        with dataset.batches(0, 1) as batches:
            assert next(batches)["a"].shape[1:3] == size


def test_domains_need_the_same_size():
    """Without a crop, domains of different sizes are an error with both names."""
    config = make_config(transform="none")
    other = NumberedSource(2, sizes={0: (12, 16), 1: (12, 16)})
    dataset = make_dataset(config, NumberedSource(2), other)
    with pytest.raises(UserError, match=r"image-0\.png 12x12 and image-0\.png 16x12 pixels"):
        _ = dataset.image_size


def test_cache_keeps_within_its_budget():
    """Images are read once while the budget lasts, and each time when it is spent."""
    size = SIDE * SIDE * 3
    for budget, once in ((2, 2), (10, 4)):
        source = NumberedSource(4)
        transform = build_transform(make_config().data, "a")
        cached = TrainImages(source, transform, Cache(budget * size / 2**30), SameSize(), "a")
        for _ in range(3):
            for index in range(4):
                assert cached[index][0, 0, 2] == index
        assert sorted(source.reads.values()) == [1] * once + [3] * (4 - once)


def test_domains_share_the_cache_without_mixing():
    """The same index of A and B is two entries, and entries are read-only."""
    cache = Cache(1.0)
    for domain, value in (("a", 1), ("b", 2)):
        cache.put((domain, 0), np.full((2, 2, 3), value, np.uint8))
    assert cache.get(("a", 0)).max() == 1
    assert cache.get(("b", 0)).max() == 2
    with pytest.raises(ValueError, match="read-only"):
        cache.get(("a", 0))[0] = 9


def test_test_images_are_the_first():
    """The same images each time, in order; fewer if the source has fewer."""
    transform = build_transform(make_config().data, "a")
    fixed = images.test_images(NumberedSource(5), transform, 3)
    assert fixed.shape == (3, 8, 8, 3)
    assert fixed[:, 0, 0, 2].tolist() == [0, 1, 2]
    assert len(images.test_images(NumberedSource(2), transform, 3)) == 2


def test_unreadable_test_images(caplog):
    """As in training: an error that names the file, or the next image and a warning."""
    source = NumberedSource(4, unreadable={0, 2})
    transform = build_transform(make_config().data, "b")
    with pytest.raises(UserError, match="image-0.png"):
        images.test_images(source, transform, 2)
    fixed = images.test_images(source, transform, 2, skip_unreadable=True)
    assert fixed[:, 0, 0, 2].tolist() == [1, 3]
    for index in (0, 2):
        assert f"skipped: image image-{index}.png" in caplog.text
    with pytest.raises(UserError, match="image-0.png and all 2 of its set are unreadable"):
        images.test_images(NumberedSource(2, {0, 1}), transform, 2, skip_unreadable=True)


def test_test_images_need_one_size():
    """Samples of different sizes are an error with both names."""
    source = NumberedSource(2, sizes={1: (12, 16)})
    transform = build_transform(make_config(transform="none").data, "a")
    with pytest.raises(UserError, match=r"image-0\.png 12x12 and image-1\.png 16x12 pixels"):
        images.test_images(source, transform, 2)
