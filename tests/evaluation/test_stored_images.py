"""Images of test sets are kept in a file: unchanged, and in little memory."""

import os
import tracemalloc

import numpy as np
import pytest

from cyclegan_jax import data
from cyclegan_jax.build import build_networks, build_state
from cyclegan_jax.evaluation import stored_images
from cyclegan_jax.evaluation.image_sets import make_sets, real_set
from cyclegan_jax.evaluation.stored_images import StoredImages
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils.errors import UserError
from tests import short
from tests.smallest import SIZE


def images_of_many_kinds():
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (5, 7, 3), np.uint8),
        rng.integers(0, 65536, (4, 4, 1), np.uint16),
        rng.integers(0, 256, (9, 8, 3), np.uint8)[::2, :, ::-1],
    ]


def test_images_come_back_as_they_were():
    """Also in another order, of other types and sizes, and from views of arrays."""
    images = images_of_many_kinds()
    stored = StoredImages(3)
    for i in (2, 0, 1):
        stored.put(i, images[i])
    for got in (list(stored), stored[:], list(StoredImages.of(images))):
        for image, expected in zip(got, images, strict=True):
            assert image.dtype == expected.dtype
            np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(stored[-1], images[-1])
    stored[0][:] = 0  # a copy
    np.testing.assert_array_equal(stored[0], images[0])
    with pytest.raises(LookupError):
        StoredImages(2)[1]


def test_a_full_disk_is_one_line(monkeypatch):
    """A disk that still takes a part of an image is full as well."""

    def nearly_full(file, pixels, offset):
        if offset >= 100:
            raise OSError(28, os.strerror(28))
        return os_pwrite(file, pixels[:40], offset)

    os_pwrite = os.pwrite
    monkeypatch.setattr(stored_images.os, "pwrite", nearly_full)
    small = np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
    np.testing.assert_array_equal(StoredImages.of([small])[0], small)
    with pytest.raises(UserError, match="No space left on device; set TMPDIR") as caught:
        StoredImages.of([small, small])
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_one_line(monkeypatch):
    monkeypatch.setattr(stored_images.tempfile, "tempdir", "/nowhere")
    with pytest.raises(UserError, match="^/nowhere: cannot store images of the test sets: No such"):
        StoredImages()


class Large:
    """A source of 40 images, 30 MiB in all."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return np.full((512, 512, 3), index, np.uint8)

    def name(self, index):
        """Return a file's name."""
        return f"{index}.png"


def test_memory_does_not_grow_with_the_set():
    """Loading a set of 30 MiB and reading all its images takes less than 6 MiB."""
    transform = data.build_transform(short.get_config().data, "a")
    tracemalloc.start()
    try:
        images = real_set(Large(), transform).images
        means = [image.mean() for image in images]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert means == list(range(40))
    assert peak < 6 * 2**20


def test_translations_are_in_the_order_of_their_images():
    """They are computed by size, and stored in their own places."""
    config = short.get_config()
    rng = np.random.default_rng(1)
    sizes = [SIZE, (SIZE[0] + 8, SIZE[1]), SIZE, (SIZE[0], SIZE[1] + 8)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]

    class Source(Large):
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            return images[index]

    real = real_set(Source(), data.build_transform(config.data, "a"))
    state = build_state(config, SIZE)
    translator = Translator.of(build_networks(config), state.inference_params, 0)
    sets = make_sets(translator, {"real_a": real, "real_b": real}, ["fake_b", "cycled_a"])
    for got, image in zip(sets["fake_b"].images, images, strict=True):
        np.testing.assert_array_equal(got, translator(image))
    assert [x.shape for x in sets["cycled_a"].images] == [x.shape for x in images]
