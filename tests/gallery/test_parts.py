"""Parts of the gallery: names of metrics, embedded images, plots, translated files."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from cyclegan_jax.gallery import page
from cyclegan_jax.gallery.curves import split_name
from cyclegan_jax.gallery.plots import plot, plots
from cyclegan_jax.gallery.program import find_translations
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.text import printable
from tests.gallery.images import decoded, noise


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
    """The quantity is separated from its domain or direction."""
    assert split_name(name) == expected


def test_small_images_are_embedded_losslessly():
    """8-bit images keep their values, with 1 to 4 channels; 16-bit ones are scaled to 8 bits."""
    for channels in (1, 2, 3, 4):
        image = noise(11, 7, channels)
        url, size = page.embed(image)
        assert size == (11, 7)
        assert np.array_equal(decoded(url).reshape(image.shape), image)
        deep = noise(11, 7, channels, np.uint16)
        expected = np.rint(deep / 257).reshape(deep.shape)
        assert np.array_equal(decoded(page.embed(deep)[0]).reshape(deep.shape), expected)


def test_large_images_are_downscaled():
    """The longest side is at most 768, proportions and means of blocks stay, and a note says so."""
    blocks = noise(4, 8)
    image = np.kron(blocks, np.ones((384, 384, 1), np.uint8))
    url, size = page.embed(image)
    assert size == (384, 768)
    shown = decoded(url)
    assert shown.shape == (384, 768, 3)
    assert np.abs(shown[48::96, 48::96].astype(int) - blocks).max() <= 2
    assert page.describe(image) == "3072 × 1536, downscaled"
    assert len(page.embed(noise(600, 600))[0]) < 1_000_000  # as PNG: 1.44 MB


def test_plots_are_self_contained():
    """Plots of one page have no URLs and no ids in common; their curves pass through the points."""
    svgs = plots({"x/one_a": {0: 0.0, 10: 1.0}, "x/one_b": {0: 1.0, 10: 3.0}, "y": {1: 2.0}})
    assert list(svgs) == ["x: one", "y"]
    ids = [re.findall(r'id="([^"]+)"', svg) for svg in svgs.values()]
    assert len(set(sum(ids, []))) == len(sum(ids, []))
    for svg in svgs.values():
        assert "://" not in svg
        assert not re.search("#0[1-4]0", svg)
    assert 'aria-label="x: one over steps: A 1 at step 10, B 3 at step 10"' in svgs["x: one"]
    # SVG heights fall as values rise: A from 0 to 1, B from 1 to 3, on one scale.
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


def test_missing_packages_are_named(monkeypatch):
    """The error contains the command that installs them."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install 'matplotlib"):
        plot("x", {"": {1: 1.0}})
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match="pip install 'jinja2"):
        page.render("translation.html", title="", facts="", rows=[])


def test_printable_replaces_only_lone_surrogates():
    """Everything that UTF-8 can encode stays; each other byte becomes one U+FFFD."""
    name = os.fsdecode(b"caf\xe9 \xff") + "é馬🦓"
    assert printable(Path("in") / name) == "in/caf\ufffd \ufffdé馬🦓"
    assert printable("é馬🦓") == "é馬🦓"


def test_translations_are_found(tmp_path):
    """Files match by name, in any format, with NAME_back unless that is an input's translation."""
    source, output = tmp_path / "in", tmp_path / "in" / "out"
    output.mkdir(parents=True)
    for name in ("a.png", "a_back.png", "b.jpg", "c.png", "d.png"):
        image_io.write_image(source / name, noise(8, 8))
    for name in ("a.png", "a_back.png", "b.webp", "b_back.webp", "c.png", "c_side_by_side.png"):
        image_io.write_image(output / name, noise(8, 8))
    names = [
        tuple(path and path.name for path in translation)
        for translation in find_translations(source, output)
    ]
    assert names == [
        ("a.png", "a.png", None),
        ("a_back.png", "a_back.png", None),
        ("b.jpg", "b.webp", "b_back.webp"),
        ("c.png", "c.png", None),
        ("d.png", None, None),
    ]
    [translation] = find_translations(source / "c.png", output)
    assert translation.translated == output / "c.png"
