"""Folders and list files of images."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import default
from cyclegan_jax.data.sources import load_sources
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


def test_the_layout_is_found(tmp_path):
    """Each split and domain has its own folder; sizes come from headers."""
    data = data_config(four_folders(tmp_path))
    train_a, train_b = load_sources(data, "train")
    test_a, test_b = load_sources(data, "test")
    firsts = [source[0][0, 0, 0] for source in (train_a, train_b, test_a, test_b)]
    assert firsts == [0, 10, 20, 30]
    assert train_a[1].shape == (6, 8, 3)
    assert train_a.image_size(1) == (6, 8)


def test_direction_swaps_the_domains(tmp_path):
    """With b_to_a, domain A is what lies in trainB."""
    data = data_config(four_folders(tmp_path), direction="b_to_a")
    source_a, source_b = load_sources(data, "train")
    assert (source_a[0][0, 0, 0], source_b[0][0, 0, 0]) == (10, 0)


def test_max_images_takes_the_first(tmp_path):
    """The cap keeps the first of the order."""
    data = data_config(four_folders(tmp_path, 5), max_images=3)
    assert names(load_sources(data, "train")[0]) == ["0.png", "1.png", "2.png"]


def test_order_is_by_path_and_strangers_are_passed_over(tmp_path, monkeypatch):
    """Nested folders, any case; hidden and other files are ignored, the system's order too."""
    root = four_folders(tmp_path) / "trainA"
    save(root / "b" / "x.JPG")
    save(root / "a" / "deep" / "y.Tiff")
    save(root / ".hidden" / "z.png")
    save(root / "._0.png")
    (root / "notes.txt").write_text("no image")
    (root / "Thumbs.db").write_bytes(b"no image")
    expected = ["0.png", "1.png", "y.Tiff", "x.JPG"]
    assert names(load_sources(data_config(tmp_path), "train")[0]) == expected
    walk = os.walk

    def backwards(*args, **kwargs):
        for parent, folders, files in walk(*args, **kwargs):
            folders.reverse()
            yield parent, folders, files[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert names(load_sources(data_config(tmp_path), "train")[0]) == expected


def test_images_of_other_formats_are_counted(tmp_path, caplog):
    """Whoever gives them would wonder where they went; other files are nobody's loss."""
    root = four_folders(tmp_path) / "trainA"
    for name in ("a.gif", "b.GIF", "below/c.heic", "notes.txt", ".hidden.gif"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")
    with caplog.at_level("WARNING"):
        assert names(load_sources(data_config(tmp_path), "train")[0]) == ["0.png", "1.png"]
    (line,) = caplog.messages
    assert line.startswith(f"data.dir: passed over in {root}: 2 .gif, 1 .heic (jpg jpeg png ")


def test_links_are_followed_but_not_in_circles(tmp_path):
    """A linked folder counts; a link to a folder above does not loop."""
    root = four_folders(tmp_path)
    save(tmp_path / "elsewhere" / "w.png")
    (root / "trainA" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "trainA" / "up").symlink_to(root / "trainA")
    assert names(load_sources(data_config(root), "train")[0]) == ["0.png", "1.png", "w.png"]


def test_several_places_per_domain(tmp_path):
    """A domain may have folders and list files of its own, in the order given."""
    root = four_folders(tmp_path / "root")
    save(tmp_path / "more" / "m.png")
    (tmp_path / "more" / "list.txt").write_text("m.png\n")
    data = data_config(
        root, train_b=f"{tmp_path}/more , {root}/trainA,{tmp_path}/more/list.txt", test_b=""
    )
    source_a, source_b = load_sources(data, "train")
    assert names(source_b) == ["m.png", "0.png", "1.png", "m.png"]
    assert names(source_a) == ["0.png", "1.png"]


def test_list_files_keep_their_order(tmp_path):
    """CRLF, byte-order mark, blank lines and comments are read; paths start at the list."""
    four_folders(tmp_path)
    save(tmp_path / "with space" / "é.png", 77)
    text = "\ufefftrainA/1.png\r\n\r\n# a comment\r\nwith space/é.png\r\n  trainA/0.png  \r\n"
    (tmp_path / "trainA.txt").write_bytes(text.encode())
    source = load_sources(data_config(tmp_path), "train")[0]
    assert names(source) == ["1.png", "é.png", "0.png"]
    np.testing.assert_array_equal(source[1], 77)


def test_a_missing_test_set_is_none(tmp_path):
    """Without testA and testB the caller is told by None, for each domain on its own."""
    save(tmp_path / "trainA" / "x.png")
    save(tmp_path / "trainB" / "x.png")
    save(tmp_path / "testB" / "x.png")
    test_a, test_b = load_sources(data_config(tmp_path), "test")
    assert test_a is None
    assert len(test_b) == 1
    explicit = data_config("", train_a=str(tmp_path / "trainA"), train_b=str(tmp_path / "trainB"))
    assert load_sources(explicit, "test") == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dir": ""}, "data.dir is empty: expected the folder that holds trainA"),
        ({"dir": "{root}/no"}, "data.dir=.*/no: there is no such folder"),
        ({"dir": "{root}/trainA"}, "expected the folder trainA or the list file trainA.txt"),
        ({"train_a": "{root}/no"}, "data.train_a: there is no folder or list file .*/no"),
        ({"train_a": "{root}/trainA/0.png"}, "data.train_a: .*0.png is an image"),
        ({"train_a": "{root}/empty"}, r"data.train_a: no images in .*/empty \(looked for"),
        ({"train_a": "{root}/blank.txt"}, "data.train_a: no images in .*/blank.txt"),
        ({"train_a": "{root}/wrong.txt"}, "wrong.txt names in line 2 .*gone.png, which is not"),
        ({"train_a": "{root}/binary.txt"}, "data.train_a: the list file .* cannot be read"),
        ({"direction": "sideways"}, "data.direction=sideways: expected one of a_to_b, b_to_a"),
        ({"source": "web"}, "data.source=web: expected one of tfds, folder, shapes"),
    ],
)
def test_mistakes_say_what_was_looked_for(tmp_path, change, message):
    """Each mistake is one line with the field, the place and what was expected."""
    four_folders(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "wrong.txt").write_text("trainA/0.png\ngone.png\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xd8\xff\xe0")
    change = {name: value.format(root=tmp_path) for name, value in change.items()}
    with pytest.raises(UserError, match=message) as error:
        load_sources(data_config(tmp_path, **{"dir": str(tmp_path), **change}), "train")
    assert "\n" not in str(error.value)


def test_an_empty_test_folder_is_an_error(tmp_path):
    """A test folder that is there but holds nothing is a mistake, not a missing set."""
    four_folders(tmp_path)
    for file in (tmp_path / "testA").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="no images in .*testA"):
        load_sources(data_config(tmp_path), "test")
