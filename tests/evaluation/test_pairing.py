"""Test images of A and B are paired by name."""

import logging

import pytest

from cyclegan_jax.data.folder import folder_source
from cyclegan_jax.evaluation.image_sets import ImageSet
from cyclegan_jax.evaluation.pairing import match_names
from cyclegan_jax.utils.errors import UserError
from tests import tiny


def image_set(*names):
    return ImageSet([], names, [f"/test/{name}.png" for name in names])


def pairs(a, b):
    """Return the pairs of names."""
    return [(a[i], b[j]) for i, j in match_names(image_set(*a), image_set(*b), "paired")]


def test_published_pairs():
    """1_A belongs to 1_B, in whichever domain they are, and to names without an ending."""
    a, b = ("2_A", "1_A", "3_A"), ("1_B", "2_B", "3_B")
    expected = [("2_A", "2_B"), ("1_A", "1_B"), ("3_A", "3_B")]
    assert pairs(a, b) == expected
    assert pairs(b, a) == [(y, x) for x, y in sorted(expected, key=lambda pair: pair[1])]
    assert pairs(("1_a",), ("1",)) == [("1_a", "1")]


def test_missing_image_affects_its_own_pair_only(caplog):
    """In folders that repeat names, the images after a missing one keep their partners."""
    a = ("x/1", "x/2", "y/1", "y/2")
    with caplog.at_level(logging.WARNING):
        assert pairs(a, ("x/2", "y/1", "y/2")) == [("x/2",) * 2, ("y/1",) * 2, ("y/2",) * 2]
    assert "3 pairs of equal names among 4 test images of A and 3 of B" in caplog.text


def test_endings_are_kept_where_names_are_equal():
    """1_a and 1_b are different images if both domains have them."""
    names = ("1_a", "1_b", "2_a")
    assert pairs(names, names) == [(name, name) for name in names]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (("1_A", "1_B"), ("1",), "/test/1_A.png and /test/1_B.png, which are both called 1"),
        (("1",), ("1_b", "2", "1_a"), "/test/1_b.png and /test/1_a.png, which are both called 1"),
        (("1", "2", "1"), ("1", "2"), "/test/1.png and /test/1.png, which are both called 1"),
        (("x/1",), ("1",), "expected test images of A and B with equal names, got .* x/1 and 1"),
    ],
)
def test_ambiguous_and_missing_pairs_are_refused(a, b, expected):
    """The error names both images of a collision, or examples of names that do not match."""
    with pytest.raises(UserError, match=expected):
        pairs(a, b)


def test_relative_names_of_folders_and_lists(tmp_path):
    """Names start in each folder, and for list files in the folder that their images share."""
    files = ("one/x/1.png", "one/2.png", "two/x/3.png")
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "all.txt").write_text("\n".join(f"../{file}" for file in files))
    (tmp_path / "lists" / "x.txt").write_text("../one/x/1.png")
    settings = tiny.get_config().data

    def names(*places):
        settings.test_a = ",".join(str(tmp_path / place) for place in places)
        source = folder_source(settings, "test", "a")
        return [source.relative_name(i) for i in range(len(source))]

    assert names("one", "two") == ["2.png", "x/1.png", "x/3.png"]
    assert names("lists/all.txt") == list(files)
    assert names("lists/x.txt", "two") == ["1.png", "x/3.png"]
