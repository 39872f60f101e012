"""Galleries: what is on the page is what the model makes and the run has logged; nothing else."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cyclegan_jax import data
from cyclegan_jax.evaluation.results import write_figures
from cyclegan_jax.gallery.curves import Curve, read_events
from cyclegan_jax.gallery.program import main
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from tests.browser import browser_page
from tests.gallery_images import decoded, noise
from tests.translators import save_run

ROOT = Path(__file__).parent.parent
NASTY = '<b>&"x.png'
FIGURES = {
    0: {"a_to_b/mean_iou": 0.25, "b_to_a/mean_iou": 0.5},
    5: {"a_to_b/mean_iou": 0.75, "b_to_a/mean_iou": 0.625, "b_to_a/psnr": 21.5},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run stopped after step 5 and resumed from step 3, with figures of two steps."""
    from clu import metric_writers

    workdir = tmp_path_factory.mktemp("gallery") / "<i>run"
    config, _ = save_run(workdir, (5,))
    for step, figures in FIGURES.items():
        write_figures(workdir, step, figures)
    for steps, value in ((range(1, 6), 1.0), (range(4, 9, 2), 2.0)):
        writer = metric_writers.create_default_writer(str(workdir), asynchronous=False)
        for step in steps:
            scalars = {"generators/cycle_a": value * step, "generators/cycle_b": value, "other": 1}
            writer.write_scalars(step, scalars)
            writer.write_images(step, {"generators/image": np.zeros((1, 8, 8, 3), np.uint8)})
        writer.close()
    return workdir, config


@pytest.fixture(scope="module")
def page_of_run(run, tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "run.html"
    main(["--workdir", str(run[0]), "--images", "2", "--page", str(page)])
    return page


@pytest.fixture(scope="module")
def translation(tmp_path_factory):
    """Images of many kinds beside their negatives, under the names that `translate` gives."""
    root = tmp_path_factory.mktemp("translation")
    source, output = root / "in", root / "out"
    (source / "below").mkdir(parents=True)
    (output / "below").mkdir(parents=True)
    images = {
        NASTY: noise(16, 24),
        "below/deep.tif": noise(20, 12, 1, np.uint16),
        "below/alpha.png": noise(9, 16, 4),
        "large.jpg": np.kron(noise(9, 12), np.ones((100, 100, 1), np.uint8)),
    }
    for name, image in images.items():
        image_io.write_image(source / name, image)
        image_io.write_image(output / name, np.iinfo(image.dtype).max - image)
    image_io.write_image(output / '<b>&"x_back.png', images[NASTY])
    (source / "broken.png").write_bytes(b"no image")
    return source, output, images


def test_a_resumed_run_has_one_curve(run):
    """Of overlapping files, as CLU writes them, the later counts from where it begins."""
    curves = read_events(run[0], ["generators/"])
    assert set(curves) == {"generators/cycle_a", "generators/cycle_b"}
    assert curves["generators/cycle_a"] == Curve([1, 2, 3, 4, 6, 8], [1, 2, 3, 8, 12, 16])
    assert curves["generators/cycle_b"].values == [1, 1, 1, 2, 2, 2]


def test_an_event_file_that_breaks_off_is_read_until_there(run, tmp_path):
    """Every prefix of the file is read without complaint, and yields a prefix of the curve."""
    whole = min(run[0].glob("events*"), key=lambda path: path.name).read_bytes()
    path = tmp_path / "events.out.tfevents.1.v2"
    counts = []
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        curve = read_events(tmp_path, ["generators/cycle_b"]).get("generators/cycle_b")
        counts.append(len(curve.steps) if curve else 0)
    assert counts == sorted(counts)
    assert set(counts) >= {0, 1, 4}
    path.write_bytes(whole[:-1] + bytes(range(256)))
    assert read_events(tmp_path, ["generators/cycle_b"])


def test_pages_name_no_address(page_of_run, translation, tmp_path):
    """Not one address of anything elsewhere stands in either kind of page."""
    main(
        [
            "--input",
            str(translation[0]),
            "--translated",
            str(translation[1]),
            "--page",
            str(tmp_path / "t.html"),
        ]
    )
    for page in (page_of_run, tmp_path / "t.html"):
        text = page.read_text()
        assert "://" not in text
        assert 'src="//' not in text


def test_page_of_a_run_in_a_browser(run, page_of_run):
    """All that is to be seen is seen, and is what the model makes; a click enlarges."""
    workdir, config = run
    with browser_page(color_scheme="dark", viewport={"width": 1280, "height": 800}) as page:
        page.goto(page_of_run.as_uri())
        assert page.title() == "<i>run"
        assert "step 5" in page.locator(".facts").inner_text()
        addresses = page.locator(".image img").evaluate_all(
            "all => all.map(one => one.naturalWidth > 0 && one.checkVisibility() && one.src)"
        )
        sources = data.open_split(config.data, "test")
        expected = []
        for domain, source in zip("ab", sources, strict=True):
            translator = Translator.load(workdir, "a_to_b" if domain == "a" else "b_to_a")
            for image in data.test_images(source, data.build_transform(config.data, domain), 2):
                expected += [image, *translator.round_trip(image)]
        assert len(addresses) == len(expected) == 12
        for address, image in zip(addresses, expected, strict=True):
            assert np.array_equal(decoded(address), image)
        assert all(page.locator(".image img").evaluate_all("all => all.map(one => one.alt)"))

        charts = page.locator(".chart")
        titles = charts.locator("figcaption").all_inner_texts()
        assert titles == ["mean iou", "psnr", "generators: cycle"]
        for chart in charts.all():
            assert chart.locator("svg").bounding_box()["height"] > 100
            colours = chart.locator("path").evaluate_all(
                "all => all.map(p => getComputedStyle(p).stroke)"
            )
            assert {"rgb(98, 173, 235)", "rgb(242, 146, 85)"} & set(colours)
        light_text = chart.locator("text").first.evaluate("one => getComputedStyle(one).fill")
        assert light_text == page.evaluate("getComputedStyle(document.body).color")
        table = page.locator(".figures").inner_text().split()
        assert table == [
            "A",
            "to",
            "B",
            "B",
            "to",
            "A",
            "mean",
            "iou",
            "0.75",
            "0.625",
            "psnr",
            "21.5",
        ]
        page.get_by_text("Configuration", exact=True).click()
        settings = page.locator(".groups")
        assert settings.locator("tr.changed", has_text="variant").first.inner_text().split() == [
            "variant",
            "resnet3",
        ]

        page.locator(".image").nth(1).click()
        large = page.locator("dialog[open] img")
        assert large.get_attribute("src") == addresses[1]
        assert large.bounding_box()["height"] > 700
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert large.get_attribute("src") == addresses[-1]
        page.keyboard.press("Escape")
        page.locator("dialog[open]").wait_for(state="detached")
        # The page moves the focus on the dialog's `close` event, which comes after the closing.
        page.wait_for_function(
            "address => document.activeElement.firstElementChild?.src === address",
            arg=addresses[-1],
        )
        assert page.complaints == []
        assert all(address.startswith("data:") for address in page.requests[1:])
        # Even what finds its way in could ask for nothing.
        with page.expect_console_message(lambda line: "Content Security Policy" in line.text):
            page.evaluate("new Image().src = 'http://127.0.0.1:9/x.png'")


def test_page_of_a_translation_in_a_browser(translation, tmp_path):
    """Names stand as they are; broken and missing images are told; a telephone shows it all."""
    source, output, images = translation
    main(["--input", str(source), "--translated", str(output), "--page", str(tmp_path / "t.html")])
    with browser_page(viewport={"width": 360, "height": 700}) as page:
        page.goto((tmp_path / "t.html").as_uri())
        assert page.locator(".facts").inner_text() == "4 of 5 images translated"
        heads = page.locator(".row h2").all_inner_texts()
        assert heads == [
            f"{NASTY} 24 × 16",
            "below/alpha.png 16 × 9",
            "below/deep.tif 12 × 20, 16 bits, shown with 8",
            "broken.png",
            "large.jpg 1200 × 900, shown reduced",
        ]
        assert page.locator("b").count() == 0
        row = page.locator(".row").first
        assert row.locator("img").count() == 3
        assert row.locator("img").nth(2).get_attribute("alt") == f"{NASTY}: brought back"
        shown = row.locator("img").evaluate_all("all => all.map(one => one.src)")
        image = images[NASTY]
        for address, expected in zip(shown, (image, 255 - image, image), strict=True):
            assert np.array_equal(decoded(address), expected)
        assert page.locator(".row").nth(3).locator(".missing").all_inner_texts() == [
            "cannot be read: it is not an image of a known format",
            "not there",
            "not there",
        ]
        assert all(page.locator("main img").evaluate_all("all => all.map(i => i.naturalWidth > 0)"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.complaints == []
        assert all(address.startswith("data:") for address in page.requests[1:])


def test_only_so_many_images_are_shown(translation, tmp_path):
    """And the page says so."""
    page = tmp_path / "page.html"
    paths = ["--input", str(translation[0]), "--translated", str(translation[1])]
    main([*paths, "--images", "2", "--page", str(page)])
    text = page.read_text()
    assert text.count('class="row"') == 2
    assert "4 of 5 images translated, the first 2 shown" in text


def test_mistakes_are_told_in_one_line(translation, tmp_path):
    """Each names what was wrong; nothing is made or replaced."""
    source, output, _ = translation
    page = tmp_path / "page.html"
    page.write_text("mine")
    images = ["--input", str(source), "--translated", str(output)]
    (tmp_path / "empty").mkdir()
    for arguments, expected in (
        ([*images, "--page", str(page)], "page.html there already; --overwrite replaces it"),
        ([], "give either --workdir, or --input and --translated"),
        (["--input", str(source)], "give either"),
        ([*images, "--workdir", "x"], "give either"),
        ([*images, "--images", "0"], "at least 1"),
        (["--workdir", str(tmp_path / "none")], "there is no such folder"),
        (["--workdir", str(tmp_path / "empty")], "no run in it"),
        (
            ["--input", str(tmp_path / "x"), "--translated", str(output)],
            "no such image or folder",
        ),
        (["--input", str(tmp_path / "empty"), "--translated", str(output)], "no images in it"),
        (["--input", str(source), "--translated", str(tmp_path)], "no translation of"),
        ([*images, "--page", str(page / "x")], "cannot be written"),
    ):
        with pytest.raises(UserError) as caught:
            main(arguments)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
    assert page.read_text() == "mine"
    assert not (output / "gallery.html").exists()
    main([*images, "--page", str(page), "--overwrite"])
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_the_command_prints_an_error_and_fails(tmp_path):
    """One line on standard error, exit code 1."""
    command = [sys.executable, "-m", "cyclegan_jax.gallery", "--workdir", str(tmp_path / "none")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: --workdir")
    assert result.stderr.count("\n") == 1
