"""Test sets and their translations: names, order, saving and reading."""

import numpy as np
import pytest

from cyclegan_jax.data.folder import FolderSource
from cyclegan_jax.data.shapes import ShapesSource
from cyclegan_jax.evaluation.image_sets import (
    ImageSet,
    make_sets,
    read_sets,
    real_set,
    save_sets,
)
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from tests.translators import scaled_translator

IMAGE = np.zeros((8, 8, 3), np.uint8)


def image_set(*names, images=None):
    return ImageSet(images or [IMAGE] * len(names), names, [f"/x/{name}" for name in names])


class Untransformed:
    """A test transform that changes nothing."""

    def prepare_test(self, image, name):
        """Return the image."""
        return image


def test_names_are_relative_paths_without_suffix(tmp_path):
    """Folders below that of the set are kept; other sources have the last part of their names."""
    files = [tmp_path / "x" / "1_A.png", tmp_path / "y" / "my cat (1).JPG", tmp_path / "v1.5.tiff"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        image_io.write_image(file.with_suffix(".png"), IMAGE)
        file.with_suffix(".png").rename(file)
    images = real_set(FolderSource(files, [tmp_path] * 3), Untransformed())
    assert images.names == ["x/1_A", "y/my_cat_1_", "v1.5"]
    assert images.sources == list(map(str, files))
    assert real_set(ShapesSource("test", "a", 32, 2), Untransformed()).names == ["0000", "0001"]


def test_names_stay_in_their_folder():
    """A source's names cannot lead to files outside of the folder of saved images."""

    class Source(ShapesSource):
        def relative_name(self, index):
            return ["../../x", "/etc/y.png"][index]

    assert real_set(Source("test", "a", 32, 2), Untransformed()).names == ["_/_/x", "_/etc/y"]


def test_skipped_images_keep_the_names_of_the_others(tmp_path):
    """With `skip_unreadable` names and images stay aligned; a set without images is refused."""
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for i, file in enumerate(files):
        image_io.write_image(file, IMAGE + i)
    files[1].write_text("not an image")
    images = real_set(FolderSource(files), Untransformed(), skip_unreadable=True)
    assert images.names == ["0", "2"]
    assert [image.max() for image in images.images] == [0, 2]
    with pytest.raises(UserError, match="all 1 of its set are unreadable"):
        real_set(FolderSource(files[1:2]), Untransformed(), skip_unreadable=True)


def test_saved_sets_are_read_again(tmp_path):
    """Pixels and names of all kinds, in nested folders."""
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (4, 8, 8, 3), np.uint8))
    real = {
        "real_a": image_set("x/1", "y/1", images=images[:2]),
        "real_b": image_set("1", images=images[2:3]),
    }
    fakes = real["real_a"].with_images(images[2:])
    save_sets(real | {"fake_b": fakes}, tmp_path)
    assert (tmp_path / "real_a" / "y" / "1.png").is_file()
    read = read_sets(tmp_path, real, ["fake_b"])["fake_b"]
    assert list(read.names) == ["x/1", "y/1"]
    np.testing.assert_array_equal(read.images, images[2:])


def test_files_of_other_programs(tmp_path):
    """Files are found by the names of test images, whatever their suffix; two of a name are not."""
    real = {kind: image_set("my_cat_1_") for kind in ("real_a", "real_b")}
    (tmp_path / "fake_b").mkdir()
    image_io.write_image(tmp_path / "fake_b" / "my cat (1).png", IMAGE + 7)
    (image,) = read_sets(tmp_path, real, ["fake_b"])["fake_b"].images
    assert image.max() == 7
    image_io.write_image(tmp_path / "fake_b" / "my_cat_1_.jpg", IMAGE)
    with pytest.raises(UserError, match=r"my cat \(1\).png and my_cat_1_.jpg, which are both"):
        read_sets(tmp_path, real, ["fake_b"])


def test_images_of_one_name_are_not_saved(tmp_path):
    """The error names both images, and nothing is written."""
    images = ImageSet([IMAGE, IMAGE], ["1", "1"], ["/x/1.png", "/x/1.jpg"])
    with pytest.raises(UserError, match="got /x/1.png and /x/1.jpg, which are both called 1"):
        save_sets({"real_a": image_set("1"), "real_b": images}, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="got /x/1.png and /x/1.jpg"):
        read_sets(tmp_path, {"real_a": images, "real_b": image_set("1")}, ["fake_b"])


def test_translations_keep_their_order():
    """Images of two sizes in several batches: each result is the translation of its image."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (8 + 4 * (i % 2), 8, 3), np.uint8) for i in range(37)]
    real = {k: image_set(*map(str, range(37)), images=images) for k in ("real_a", "real_b")}
    sets = make_sets(scaled_translator(), real, {"fake_b", "cycled_b"})
    assert set(sets) == {"real_a", "real_b", "fake_b", "fake_a", "cycled_b"}
    for original, fake in zip(images, sets["fake_b"].images, strict=True):
        assert fake.shape == original.shape
        assert np.abs(255 - np.rint(original.mean(-1)) - fake[..., 0]).max() <= 1
