"""The translate program: files in, files out.

Most tests use a model whose translations are negatives, so that every file's content is known.
"""

import numpy as np
import pytest
from PIL import Image

from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils import image_io
from tests.translating import call, files, grey


@pytest.fixture
def folder(tmp_path):
    """Return a folder of images of many kinds and a damaged one, and the images by name."""
    source = tmp_path / "in"
    (source / "below" / "deeper").mkdir(parents=True)
    images = {
        "odd.png": grey(41, 63),
        "square.bmp": grey(16, 16),
        "below/wide.webp": grey(33, 50),
        "below/deep.tif": grey(9, 12, 1, np.uint16),
        "below/deeper/deep colour.png": grey(9, 12, 3, np.uint16),
        "alpha.png": grey(16, 16, 4),
    }
    for name, image in images.items():
        image_io.write_image(source / name, image)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.kron(np.array([[10, 240], [90, 170], [30, 200]], np.uint8), np.ones((16, 16)))
    Image.fromarray(stored.astype(np.uint8)).save(source / "turned.JPG", exif=exif)
    images["turned.JPG"] = np.rot90(stored, -1)[..., None].astype(np.uint8)
    (source / "broken.png").write_bytes((source / "odd.png").read_bytes()[:200])
    return source, images


@pytest.mark.smoke
def test_folders_are_translated_with_their_subfolders(folder, tmp_path, negatives, capsys):
    """Names, formats, sizes, depths, alpha and orientation are kept; damaged files are named."""
    source, images = folder
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        call(source, output)
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert f"{output}: 7 of 8 images translated a_to_b with checkpoint 7" in printed.out
    assert printed.err.count("\n") == 1
    assert str(source / "broken.png") in printed.err
    assert files(output) == sorted(images)
    for name, image in images.items():
        translated = image_io.read_image(output / name)
        colours = translated[..., :3]
        assert translated.dtype == image.dtype
        assert translated.shape == (*image.shape[:2], 4 if name == "alpha.png" else 3)
        negative = np.iinfo(image.dtype).max - image[..., :1].astype(int)
        tolerance = 3 if name.endswith("JPG") else 0
        assert np.abs(colours - negative).max() <= tolerance, name
    translated = image_io.read_image(output / "alpha.png")
    np.testing.assert_array_equal(translated[..., 3], images["alpha.png"][..., 3])


@pytest.mark.parametrize("batch_size", ["1", "2", "5"])
def test_batches_hold_images_of_one_size(tmp_path, negatives, monkeypatch, batch_size):
    """Images of several sizes, in any order, are written under their own names."""
    images = {f"{i}.png": grey(8 + i % 3, 12) for i in range(11)}
    for name, image in images.items():
        image_io.write_image(tmp_path / name, image)
    shapes = []
    apply = Translator.apply

    def recorded(self, batch, **options):
        outputs = apply(self, batch, **options)
        shapes.append(outputs[0].shape[:3])
        return outputs

    monkeypatch.setattr(Translator, "apply", recorded)
    call(tmp_path, tmp_path / "out", "--batch_size", batch_size)
    for name, image in images.items():
        np.testing.assert_array_equal(image_io.read_image(tmp_path / "out" / name), 255 - image)
    # 4 of 8 rows, 4 of 9 and 3 of 10, which are padded alike: a compilation for each size.
    assert len(set(shapes)) == 2
    assert len(shapes) == sum(-(-count // int(batch_size)) for count in (4, 7))


def test_one_image(tmp_path, negatives):
    """An image is written to the folder under its name, or with another format's suffix."""
    image = grey(9, 10)
    image_io.write_image(tmp_path / "one.png", image)
    call(tmp_path / "one.png", tmp_path / "out")
    call(tmp_path / "one.png", tmp_path, "--format", "tif", "--direction", "b_to_a")
    assert files(tmp_path / "out") == ["one.png"]
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "one.tif"), 255 - image)
    assert [arguments["direction"] for arguments in negatives] == ["a_to_b", "b_to_a"]


def test_round_trips_and_strips(tmp_path, negatives):
    """Each translation is translated back, and all are written in a row."""
    image = grey(9, 10)
    image_io.write_image(tmp_path / "one.bmp", image)
    call(tmp_path / "one.bmp", tmp_path / "out", "--round_trip", "--side_by_side")
    assert files(tmp_path / "out") == ["one.bmp", "one_back.bmp", "one_side_by_side.png"]
    round_trip, row = (
        image_io.read_image(tmp_path / "out" / f"one_{name}")
        for name in ("back.bmp", "side_by_side.png")
    )
    np.testing.assert_array_equal(round_trip, image)
    np.testing.assert_array_equal(row, image_io.strip([[image, 255 - image, image]]))
    call(tmp_path / "one.bmp", tmp_path / "two", "--side_by_side")
    row = image_io.read_image(tmp_path / "two" / "one_side_by_side.png")
    np.testing.assert_array_equal(row, image_io.strip([[image, 255 - image]]))
