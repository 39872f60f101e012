"""Image folders and list files."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import default
from cyclegan_jax.data import open_split
from cyclegan_jax.utils.errors import UserError


def save(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (value, value, value)).save(path)
    return path


def data_config(root="", **fields):
    data = default.get_config().data
    data.source = "folder"
    data.dir = str(root)
    data.update(fields)
    return data


def names(source):
    return [Path(source.name(i)).name for i in range(len(source))]


def four_folders(root, count=2):
    for number, split in enumerate(("trainA", "trainB", "testA", "testB")):
        for i in range(count):
            save(root / split / f"{i}.png", 10 * number + i)
    return root


def test_the_folders_of_a_dataset(tmp_path):
    """Each split and domain has its own folder, and sizes are read from headers."""
    data = data_config(four_folders(tmp_path))
    train_a, train_b = open_split(data, "train")
    test_a, test_b = open_split(data, "test")
    firsts = [source[0][0, 0, 0] for source in (train_a, train_b, test_a, test_b)]
    assert firsts == [0, 10, 20, 30]
    assert train_a[1].shape == (6, 8, 3)
    assert train_a.image_size(1) == (6, 8)


def test_direction_swaps_the_domains(tmp_path):
    """With b_to_a, domain A is trainB."""
    data = data_config(four_folders(tmp_path), direction="b_to_a")
    source_a, source_b = open_split(data, "train")
    assert (source_a[0][0, 0, 0], source_b[0][0, 0, 0]) == (10, 0)


def test_max_images_takes_the_first(tmp_path):
    """The limit keeps the first images and their other methods."""
    data = data_config(four_folders(tmp_path, 5), max_images=3)
    source = open_split(data, "train")[0]
    assert names(source) == ["0.png", "1.png", "2.png"]
    assert source.image_size(2) == (6, 8)
    with pytest.raises(IndexError):
        source[3]


def test_order_is_by_path_and_other_files_are_ignored(tmp_path, monkeypatch):
    """Nested folders, suffixes in any case; not hidden files, nor the file system's order."""
    root = four_folders(tmp_path) / "trainA"
    save(root / "b" / "x.JPG")
    save(root / "a" / "deep" / "y.Tiff")
    save(root / ".hidden" / "z.png")
    save(root / "._0.png")
    (root / "notes.txt").write_text("no image")
    (root / "Thumbs.db").write_bytes(b"no image")
    expected = ["0.png", "1.png", "y.Tiff", "x.JPG"]
    assert names(open_split(data_config(tmp_path), "train")[0]) == expected
    walk = os.walk

    def backwards(*args, **kwargs):
        for parent, folders, files in walk(*args, **kwargs):
            folders.reverse()
            yield parent, folders, files[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert names(open_split(data_config(tmp_path), "train")[0]) == expected


def test_images_of_other_formats_are_counted(tmp_path, caplog):
    """Images in unsupported formats are counted in a warning; other files are not."""
    root = four_folders(tmp_path) / "trainA"
    for name in ("a.gif", "b.GIF", "below/c.heic", "notes.txt", ".hidden.gif"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")
    with caplog.at_level("WARNING"):
        assert names(open_split(data_config(tmp_path), "train")[0]) == ["0.png", "1.png"]
    (line,) = caplog.messages
    assert line.startswith(f"data.dir: ignored in {root}: 2 .gif, 1 .heic (supported: jpg ")


def test_links_are_followed_without_cycles(tmp_path):
    """Linked folders are searched; a link to a folder above does not recurse forever."""
    root = four_folders(tmp_path)
    save(tmp_path / "elsewhere" / "w.png")
    (root / "trainA" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "trainA" / "up").symlink_to(root / "trainA")
    assert names(open_split(data_config(root), "train")[0]) == ["0.png", "1.png", "w.png"]


def test_several_folders_per_domain(tmp_path):
    """A domain may have several folders and list files, in the given order."""
    root = four_folders(tmp_path / "root")
    save(tmp_path / "more" / "m.png")
    (tmp_path / "more" / "list.txt").write_text("m.png\n")
    data = data_config(
        root, train_b=f"{tmp_path}/more , {root}/trainA,{tmp_path}/more/list.txt", test_b=""
    )
    source_a, source_b = open_split(data, "train")
    assert names(source_b) == ["m.png", "0.png", "1.png", "m.png"]
    assert names(source_a) == ["0.png", "1.png"]


def test_list_files_keep_their_order(tmp_path):
    """CRLF, byte-order mark, blank lines and comments; paths are relative to the list."""
    four_folders(tmp_path)
    save(tmp_path / "with space" / "é.png", 77)
    text = "\ufefftrainA/1.png\r\n\r\n# a comment\r\nwith space/é.png\r\n  trainA/0.png  \r\n"
    (tmp_path / "trainA.txt").write_bytes(text.encode())
    source = open_split(data_config(tmp_path), "train")[0]
    assert names(source) == ["1.png", "é.png", "0.png"]
    np.testing.assert_array_equal(source[1], 77)


def test_missing_files_of_a_list_can_be_skipped(tmp_path):
    """Where unreadable images are skipped, a missing one is such an image."""
    four_folders(tmp_path)
    (tmp_path / "trainA.txt").write_text("trainA/gone.png\ntrainA/1.png\n")
    with pytest.raises(UserError, match="gone.png; data.skip_unreadable=True skips such images"):
        open_split(data_config(tmp_path), "train")
    source = open_split(data_config(tmp_path, skip_unreadable=True), "train")[0]
    assert names(source) == ["gone.png", "1.png"]
    with pytest.raises(UserError, match="gone.png: there is no such file"):
        source[0]


def test_a_missing_test_set_is_none(tmp_path):
    """A missing testA or testB is None, independently for each domain."""
    save(tmp_path / "trainA" / "x.png")
    save(tmp_path / "trainB" / "x.png")
    save(tmp_path / "testB" / "x.png")
    test_a, test_b = open_split(data_config(tmp_path), "test")
    assert test_a is None
    assert len(test_b) == 1
    explicit = data_config("", train_a=str(tmp_path / "trainA"), train_b=str(tmp_path / "trainB"))
    assert open_split(explicit, "test") == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dir": ""}, "data.dir: expected the folder that holds trainA and trainB, got an empty"),
        ({"dir": "{root}/no"}, "data.dir=.*/no: no such folder"),
        ({"dir": "{root}/trainA"}, "expected a folder trainA or a list file trainA.txt"),
        ({"train_a": "{root}/no"}, "data.train_a: no folder or list file .*/no"),
        (
            {"train_a": "{root}/trainA/0.png"},
            "data.train_a: expected a folder or a list file, got the image .*0.png",
        ),
        ({"train_a": "{root}/empty"}, r"data.train_a: no images in .*/empty \(expected"),
        ({"train_a": "{root}/blank.txt"}, "data.train_a: no images in .*/blank.txt"),
        ({"train_a": "{root}/wrong.txt"}, "list file .*wrong.txt, line 2: no such file .*gone.png"),
        ({"train_a": "{root}/binary.txt"}, "data.train_a: list file .* cannot be read"),
    ],
)
def test_mistakes_name_the_field_and_the_path(tmp_path, change, message):
    """Each mistake is one line with the field, the path and what was expected."""
    four_folders(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "wrong.txt").write_text("trainA/0.png\ngone.png\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xd8\xff\xe0")
    change = {name: value.format(root=tmp_path) for name, value in change.items()}
    with pytest.raises(UserError, match=message) as error:
        open_split(data_config(tmp_path, **{"dir": str(tmp_path), **change}), "train")
    assert "\n" not in str(error.value)


def test_an_empty_test_folder_is_an_error(tmp_path):
    """An empty test folder is a mistake, not a missing test set."""
    four_folders(tmp_path)
    for file in (tmp_path / "testA").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="no images in .*testA"):
        open_split(data_config(tmp_path), "test")
