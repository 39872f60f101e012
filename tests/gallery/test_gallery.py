"""Gallery pages show the model's images and the run's logs, and nothing private."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cyclegan_jax import config as config_lib
from cyclegan_jax import data
from cyclegan_jax.evaluation.results import write_results
from cyclegan_jax.gallery.curves import read_events
from cyclegan_jax.gallery.program import main
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from tests.browser import browser_page
from tests.gallery.images import decoded, noise
from tests.translators import save_run

ROOT = Path(__file__).parents[2]
NASTY = '<b>&"x.png'
METRICS = {
    0: {"a_to_b/mean_iou": 0.25, "b_to_a/mean_iou": 0.5},
    5: {"a_to_b/mean_iou": 0.75, "b_to_a/mean_iou": 0.625, "b_to_a/psnr": 21.5},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that stopped after step 5 and resumed from step 3, with metrics of two steps."""
    from clu import metric_writers

    workdir = tmp_path_factory.mktemp("gallery") / "<i>run"
    config, _ = save_run(workdir, (5,))
    for step, metrics in METRICS.items():
        write_results(workdir, step, metrics)
    config.init_from = "/home/user/runs/base"
    config.data.dir = "~/private/images/"
    config.data.train_a = "/home/user/a1,../other/a2"
    config.evaluation.inception = "/home/user/weights.pth"
    (workdir / "config.json").write_text(config_lib.to_json(config))
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
    """Images of many kinds and their negatives, under the names that `translate` gives."""
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
    """Of overlapping files, as CLU writes them, the later one counts from its first step."""
    curves = read_events(run[0], ["generators/"])
    assert curves == {
        "generators/cycle_a": {1: 1, 2: 2, 3: 3, 4: 8, 6: 12, 8: 16},
        "generators/cycle_b": {1: 1, 2: 1, 3: 1, 4: 2, 6: 2, 8: 2},
    }


def test_truncated_event_files_are_read_up_to_the_last_complete_record(run, tmp_path):
    """The curve of a file cut at any byte has a point per complete record."""
    name = "generators/cycle_b"
    # Names within one second do not sort by time: they end in a number, 10 before 9.
    content = min(run[0].glob("events*"), key=lambda path: path.stat().st_mtime_ns).read_bytes()
    path = tmp_path / "events.out.tfevents.1.v2"
    end, points = 0, 0
    while end < len(content):
        start, length = end, int.from_bytes(content[end : end + 8], "little")
        end += 8 + 4 + length + 4
        for cut in (start, start + 1, start + 12, end - 1):
            path.write_bytes(content[:cut])
            assert len(read_events(tmp_path, [name]).get(name, {})) == points
        points += name.encode() in content[start:end]
    assert (end, points) == (len(content), 5)
    for damage in (bytes(range(256)), b"\xff" * 64):
        path.write_bytes(content + damage)
        assert read_events(tmp_path, [name]) == {name: dict.fromkeys(range(1, 6), 1)}


def test_pages_request_nothing(page_of_run, translation, tmp_path):
    """Neither kind of page contains a URL of anything outside it."""
    page = tmp_path / "page.html"
    source, output, _ = translation
    main(["--input", str(source), "--translated", str(output), "--page", str(page)])
    for text in (page_of_run.read_text(), page.read_text()):
        assert "://" not in text
        assert 'src="//' not in text


def test_pages_contain_no_local_folders(run, page_of_run, translation, tmp_path):
    """Paths of the configuration and of unreadable images are reduced to their last part."""
    html = page_of_run.read_text()
    for shown in ("base", "images", "a1,a2", "weights.pth"):
        assert f"<td>{shown}</td>" in html
    page = tmp_path / "page.html"
    source = tmp_path / "private" / "in"
    shutil.copytree(translation[0], source)
    (source / "large.jpg").unlink()
    (source / "large.jpg").symlink_to("large.jpg")
    main(["--input", str(source), "--translated", str(translation[1]), "--page", str(page)])
    for text in (html, page.read_text()):
        for folder in ("/home", "private", "other", str(tmp_path), str(run[0].parent)):
            assert folder not in text


def test_names_that_are_not_utf8(translation, tmp_path):
    """Pages, titles and the printed line show U+FFFD for bytes that UTF-8 cannot encode."""
    source, output = (
        Path(os.fsdecode(os.fsencode(tmp_path) + s)) for s in (b"/in\xff", b"/out\xff")
    )
    shutil.copytree(translation[0], source)
    shutil.copytree(translation[1], output)
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (source / NASTY).rename(source / name)
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    (output / NASTY).rename(output / name)
    (source / os.fsdecode(b"damaged\xff.png")).write_bytes(b"no image")
    command = [sys.executable, "-m", "cyclegan_jax.gallery"]
    arguments = ["--input", source, "--translated", output]
    result = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")
    assert "/out\ufffd/gallery.html" in result.stdout.decode()
    text = (output / "gallery.html").read_text(encoding="utf-8")
    assert "<h1>Translations of in\ufffd</h1>" in text
    assert "<h2>caf\ufffd.png <small>24 × 16</small></h2>" in text
    assert 'alt="caf\ufffd.png: translated"' in text
    assert "<h2>damaged\ufffd.png</h2>" in text
    result = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True)
    assert result.returncode == 1
    assert b"exists; --overwrite replaces it" in result.stderr


def test_page_of_a_run_in_a_browser(run, page_of_run):
    """Every image is visible and equal to the model's; charts, table, settings, enlarging work."""
    workdir, config = run
    with browser_page(color_scheme="dark", viewport={"width": 1280, "height": 800}) as page:
        page.goto(page_of_run.as_uri())
        assert page.title() == "<i>run"
        assert "step 5" in page.locator(".facts").inner_text()
        urls = page.locator(".image img").evaluate_all(
            "all => all.map(one => one.naturalWidth > 0 && one.checkVisibility() && one.src)"
        )
        sources = data.open_split(config.data, "test")
        expected = []
        for domain, source in zip("ab", sources, strict=True):
            translator = Translator.load(workdir, "a_to_b" if domain == "a" else "b_to_a")
            transform = data.build_transform(config.data, domain)
            for image in data.test_images(source, transform, 2):
                expected += [image, *translator.round_trip(image)]
        assert len(urls) == len(expected) == 12
        for url, image in zip(urls, expected, strict=True):
            assert np.array_equal(decoded(url), image)
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
        text_colour = chart.locator("text").first.evaluate("one => getComputedStyle(one).fill")
        assert text_colour == page.evaluate("getComputedStyle(document.body).color")
        table = page.locator(".metrics").inner_text().split("\n")
        assert [line.split() for line in table] == [
            ["A", "to", "B", "B", "to", "A"],
            ["mean", "iou", "0.75", "0.625"],
            ["psnr", "21.5"],
        ]
        page.get_by_text("Configuration", exact=True).click()
        settings = page.locator(".groups")
        assert settings.locator("tr.changed", has_text="variant").first.inner_text().split() == [
            "variant",
            "resnet3",
        ]

        page.locator(".image").nth(1).click()
        large = page.locator("dialog[open] img")
        assert large.get_attribute("src") == urls[1]
        assert large.bounding_box()["height"] > 700
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert large.get_attribute("src") == urls[-1]
        page.keyboard.press("Escape")
        page.locator("dialog[open]").wait_for(state="detached")
        # The focus moves on the `close` event, which follows the closing.
        page.wait_for_function(
            "url => document.activeElement.firstElementChild?.src === url",
            arg=urls[-1],
        )
        assert page.errors == []
        assert all(url.startswith("data:") for url in page.requests[1:])
        # The policy would block requests of injected code as well.
        with page.expect_console_message(lambda line: "Content Security Policy" in line.text):
            page.evaluate("new Image().src = 'http://127.0.0.1:9/x.png'")


def test_page_of_a_translation_in_a_browser(translation, tmp_path):
    """Names are escaped, broken and missing images have a reason, and all fits a phone's screen."""
    source, output, images = translation
    main(["--input", str(source), "--translated", str(output), "--page", str(tmp_path / "t.html")])
    with browser_page(viewport={"width": 360, "height": 700}) as page:
        page.goto((tmp_path / "t.html").as_uri())
        assert page.locator(".facts").inner_text() == "4 of 5 images translated"
        heads = page.locator(".row h2").all_inner_texts()
        assert heads == [
            f"{NASTY} 24 × 16",
            "below/alpha.png 16 × 9",
            "below/deep.tif 12 × 20, 16-bit, shown in 8-bit",
            "broken.png",
            "large.jpg 1200 × 900, downscaled",
        ]
        assert page.locator("b").count() == 0
        row = page.locator(".row").first
        assert row.locator("img").count() == 3
        assert row.locator("img").nth(2).get_attribute("alt") == f"{NASTY}: reconstructed"
        shown = row.locator("img").evaluate_all("all => all.map(one => one.src)")
        image = images[NASTY]
        for url, expected in zip(shown, (image, 255 - image, image), strict=True):
            assert np.array_equal(decoded(url), expected)
        reason, *others = page.locator(".row").nth(3).locator(".missing").all_inner_texts()
        assert reason.startswith("cannot be read: ")
        assert "not an image of a known format" in reason
        assert others == ["missing", "missing"]
        assert all(page.locator("main img").evaluate_all("all => all.map(i => i.naturalWidth > 0)"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.errors == []
        assert all(url.startswith("data:") for url in page.requests[1:])


def test_the_number_of_images_is_limited(translation, tmp_path):
    """--images (alias --pictures) shows the first ones, and the page says so."""
    page = tmp_path / "page.html"
    paths = ["--input", str(translation[0]), "--translated", str(translation[1])]
    for flag in ("--images", "--pictures"):
        main([*paths, flag, "2", "--page", str(page), "--overwrite"])
        text = page.read_text()
        assert text.count('class="row"') == 2
        assert "4 of 5 images translated, the first 2 shown" in text


def test_mistakes_are_reported_in_one_line(translation, tmp_path):
    """Each error names its cause; no file is written or replaced."""
    source, output, _ = translation
    page = tmp_path / "page.html"
    page.write_text("mine")
    images = ["--input", str(source), "--translated", str(output)]
    (tmp_path / "empty").mkdir()
    for arguments, expected in (
        ([*images, "--page", str(page)], "page.html: exists; --overwrite replaces it"),
        ([], "expected either --workdir, or --input and --translated"),
        (["--input", str(source)], "expected either"),
        ([*images, "--workdir", "x"], "expected either"),
        ([*images, "--images", "0"], "--images: expected at least 1, got 0"),
        (["--workdir", str(tmp_path / "none")], "there is no such folder"),
        (["--workdir", str(tmp_path / "empty")], "expected config.json and checkpoints of a run"),
        (
            ["--input", str(tmp_path / "x"), "--translated", str(output)],
            "no such image or folder",
        ),
        (["--input", str(tmp_path / "empty"), "--translated", str(output)], "contains no images"),
        (["--input", str(source), "--translated", str(tmp_path)], "contains no translation of"),
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


def test_the_command_prints_one_line_and_fails(tmp_path):
    """The error goes to standard error; the exit code is 1."""
    command = [sys.executable, "-m", "cyclegan_jax.gallery", "--workdir", str(tmp_path / "none")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: --workdir")
    assert result.stderr.count("\n") == 1
