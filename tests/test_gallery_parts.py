"""What a gallery's page is put together from: names, embedded images, plots, files found."""

import re
import sys

import numpy as np
import pytest

from cyclegan_jax.gallery import curves, page
from cyclegan_jax.gallery.curves import Curve, plots, split_name
from cyclegan_jax.gallery.program import find_translations
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from tests.gallery_images import decoded, noise


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_to_b/mean_iou", ("mean iou", "A to B")),
        ("b_to_a/kid", ("kid", "B to A")),
        ("generators/adversarial_ba", ("generators: adversarial", "B to A")),
        ("generators/cycle_a", ("generators: cycle", "A")),
        ("discriminators/b", ("discriminators", "B")),
        ("cycle_b/psnr", ("cycle: psnr", "B")),
        ("learning_rate", ("learning rate", "")),
    ],
)
def test_names_are_split(name, expected):
    """What is measured, and of which domain or direction."""
    assert split_name(name) == expected


def test_small_images_are_embedded_as_they_are():
    """8 bits exactly, with any channels; 16 bits scaled to 8."""
    for channels in (1, 2, 3, 4):
        image = noise(11, 7, channels)
        address, size = page.embed(image)
        assert size == (11, 7)
        assert np.array_equal(decoded(address).reshape(image.shape), image)
        deep = noise(11, 7, channels, np.uint16)
        expected = np.rint(deep / 257).reshape(deep.shape)
        assert np.array_equal(decoded(page.embed(deep)[0]).reshape(deep.shape), expected)


def test_large_images_are_reduced():
    """To the longest side, in proportion; means of blocks stay; the size is told."""
    blocks = noise(4, 8)
    image = np.kron(blocks, np.ones((384, 384, 1), np.uint8))
    address, size = page.embed(image)
    assert size == (384, 768)
    shown = decoded(address)
    assert shown.shape == (384, 768, 3)
    assert np.abs(shown[48::96, 48::96].astype(int) - blocks).max() <= 2
    assert page.about(image) == "3072 × 1536, shown reduced"
    assert len(page.embed(noise(600, 600))[0]) < 1_000_000  # as PNG: 1.44 MB


def test_a_plot_holds_no_address_and_no_name_twice():
    """Two plots in one page have no ids in common; their curves go through the points."""
    svgs = plots(
        {"x/one_a": Curve([0, 10], [0, 1]), "x/one_b": Curve([0, 10], [1, 3]), "y": Curve([1], [2])}
    )
    assert list(svgs) == ["x: one", "y"]
    ids = [re.findall(r'id="([^"]+)"', svg) for svg in svgs.values()]
    assert len(set(sum(ids, []))) == len(sum(ids, []))
    for svg in svgs.values():
        assert "://" not in svg
        assert not re.search("#0[1-4]0", svg)
    assert 'aria-label="x: one over steps: A 1 at step 10, B 3 at step 10"' in svgs["x: one"]
    # Height falls as values rise: A from 0 to 1, B from 1 to 3, in one scale.
    lines = {
        colour: [float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)]
        for path, colour in re.findall(
            r'<path d="([^"]+)"[^>]*stroke: var\(--(first|second)\)', svgs["x: one"]
        )
        if path.count("L") == 1 and len(set(re.findall(r"[ML] \S+ (\S+)", path))) == 2
    }
    (a0, a1), (b0, b1) = lines["first"], lines["second"]
    assert b0 == pytest.approx(a1, abs=1e-4)
    assert (b0 - b1) / (a0 - a1) == pytest.approx(2, rel=1e-4)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    """One line with the command."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install 'matplotlib"):
        curves.plot("x", {"": Curve([1], [1])})


def test_translations_are_found(tmp_path):
    """By name, with another format, with what is brought back; of inputs named _back, not."""
    source, output = tmp_path / "in", tmp_path / "in" / "out"
    output.mkdir(parents=True)
    for name in ("a.png", "a_back.png", "b.jpg", "c.png", "d.png"):
        image_io.write_image(source / name, noise(8, 8))
    for name in ("a.png", "a_back.png", "b.webp", "b_back.webp", "c.png", "c_side_by_side.png"):
        image_io.write_image(output / name, noise(8, 8))
    found = [
        (image.name, made and made.name, back and back.name)
        for image, made, back in find_translations(source, output)
    ]
    assert found == [
        ("a.png", "a.png", None),
        ("a_back.png", "a_back.png", None),
        ("b.jpg", "b.webp", "b_back.webp"),
        ("c.png", "c.png", None),
        ("d.png", None, None),
    ]
    assert [made for _, made, _ in find_translations(source / "c.png", output)] == [
        output / "c.png"
    ]
