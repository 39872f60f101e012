"""Sets of translations, made and read, against the images they are of."""

import numpy as np
import pytest

from cyclegan_jax.evaluation.image_sets import Images, make_sets, read_sets
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from tests.translators import scaled_translator


def test_images_of_any_name(tmp_path):
    """They are found under the test images' names; two that would be alike are refused."""
    image = np.zeros((8, 8, 3), np.uint8)
    real = {kind: Images([image], ["my_cat_1_"]) for kind in ("real_a", "real_b")}
    (tmp_path / "fake_b").mkdir()
    image_io.write_image(tmp_path / "fake_b" / "my cat (1).png", image + 7)
    (found,) = read_sets(tmp_path, real, ["fake_b"])["fake_b"].images
    assert found.max() == 7
    image_io.write_image(tmp_path / "fake_b" / "my_cat_1_.jpg", image)
    with pytest.raises(UserError, match="are both my_cat_1_"):
        read_sets(tmp_path, real, ["fake_b"])


def test_made_images_keep_their_order():
    """Of two sizes and in several batches, each is the translation of its own."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (8 + 4 * (i % 2), 8, 3), np.uint8) for i in range(37)]
    names = [str(i) for i in range(37)]
    real = {kind: Images(images, names) for kind in ("real_a", "real_b")}
    sets = make_sets(scaled_translator(), real, {"fake_b", "cycled_b"})
    assert set(sets) == {"real_a", "real_b", "fake_b", "fake_a", "cycled_b"}
    for original, made in zip(images, sets["fake_b"].images, strict=True):
        assert made.shape == original.shape
        assert np.abs(255 - np.rint(original.mean(-1)) - made[..., 0]).max() <= 1
