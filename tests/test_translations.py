"""Sets of translations, made and read, against the pictures they are of."""

import numpy as np
import pytest

from cyclegan_jax import images
from cyclegan_jax.errors import UserError
from cyclegan_jax.translations import Pictures, make_sets, read_sets
from tests.translators import scaled_translator


def test_pictures_of_any_name(tmp_path):
    """They are found under the test pictures' names; two that would be alike are refused."""
    picture = np.zeros((8, 8, 3), np.uint8)
    real = {kind: Pictures([picture], ["my_cat_1_"]) for kind in ("real_a", "real_b")}
    (tmp_path / "fake_b").mkdir()
    images.write_image(tmp_path / "fake_b" / "my cat (1).png", picture + 7)
    (found,) = read_sets(tmp_path, real, ["fake_b"])["fake_b"].pictures
    assert found.max() == 7
    images.write_image(tmp_path / "fake_b" / "my_cat_1_.jpg", picture)
    with pytest.raises(UserError, match="are both my_cat_1_"):
        read_sets(tmp_path, real, ["fake_b"])


def test_made_pictures_keep_their_order():
    """Of two sizes and in several batches, each is the translation of its own."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (8 + 4 * (i % 2), 8, 3), np.uint8) for i in range(37)]
    names = [str(i) for i in range(37)]
    real = {kind: Pictures(pictures, names) for kind in ("real_a", "real_b")}
    sets = make_sets(scaled_translator(), real, {"fake_b", "cycled_b"})
    assert set(sets) == {"real_a", "real_b", "fake_b", "fake_a", "cycled_b"}
    for original, made in zip(pictures, sets["fake_b"].pictures, strict=True):
        assert made.shape == original.shape
        assert np.abs(255 - np.rint(original.mean(-1)) - made[..., 0]).max() <= 1
