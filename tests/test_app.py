"""The app: what it shows is what the model makes, and what it cannot show it says."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from cyclegan_jax.app import Demonstration, main
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError
from tests.browser import browser_page
from tests.translators import save_run, scaled_translator

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)


def write(path, height, width, channels=3, dtype=np.uint8):
    image = RNG.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)
    image_io.write_image(path, image)
    return image


def test_a_image_is_translated_and_brought_back(tmp_path):
    """Either way, at its own depth and with its alpha: hand-worked for a model of factors."""
    image = write(tmp_path / "one.png", 9, 13, 2, np.uint16)
    demonstration = Demonstration(scaled_translator((1, 1), (-1.0, 0.5)))
    said, made = demonstration.translate(str(tmp_path / "one.png"), "a_to_b")
    assert said.startswith("one.png, A to B: 13 × 9, 16 bits, ")
    grey, alpha = image[..., :1].astype(float), image[..., 1:]
    middle = 65535 / 2
    for result, expected in zip(
        made, (grey, 65535 - grey, middle - (grey - middle) / 2), strict=True
    ):
        assert result.dtype == np.uint16
        assert np.abs(result[..., :1] - expected).max() <= 1
        assert np.array_equal(result[..., 1:], alpha)
    _, made = demonstration.translate(str(tmp_path / "one.png"), "b_to_a")
    assert np.abs(made[1][..., :1] - (middle + (grey - middle) / 2)).max() <= 1


def test_what_it_cannot_take_is_said(tmp_path):
    """Too many pixels, no image, channels that do not fit: one line, without the folder."""
    demonstration = Demonstration(scaled_translator(), max_pixels=100)
    write(tmp_path / "large.png", 10, 11)
    (tmp_path / "broken<b>.png").write_bytes(b"no image")
    for name, expected in (
        ("large.png", "large.png is 11 × 10, 110 pixels; at most 100"),
        ("broken<b>.png", "broken<b>.png cannot be read: it is not an image"),
    ):
        path = str(tmp_path / name)
        with pytest.raises(UserError) as caught:
            demonstration.translate(path, "a_to_b")
        assert expected in str(caught.value)
        assert str(tmp_path) not in str(caught.value)
        [(said, *files)] = demonstration.show(path, "a_to_b")
        assert files == [None, None, None]
        assert "wrong" in said
        assert "<b>" not in said
    write(tmp_path / "most.png", 10, 10)
    assert len(demonstration.translate(str(tmp_path / "most.png"), "a_to_b")[1]) == 3


def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch):
    """Before anything is loaded where that is possible."""
    workdir = ["--workdir", str(tmp_path)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = [
            ([*workdir, "--port", str(port)], f"--port {port}: Address already in use"),
            ([*workdir, "--port", "0"], "a number from 1 to 65535"),
            ([*workdir, "--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
            ([*workdir, "--max_pixels", "0"], "at least 1"),
            ([], "--workdir"),
        ]
        for arguments, expected in cases:
            with pytest.raises(UserError) as caught:
                main(arguments)
            assert expected in str(caught.value)
            assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="pip install 'gradio"):
        main([*workdir, "--port", str(free_port())])


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def served(workdir, scratch, *more):
    """Address of the app, run as a user would, on a model made for the test."""
    command = [sys.executable, "-m", "cyclegan_jax.app", "--workdir", str(workdir)]
    command += ["--port", str(free_port()), *more]
    environment = os.environ | {"TMPDIR": str(scratch)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            lines = []
            while process.poll() is None and b"http://" not in b"".join(lines):
                lines.append(process.stdout.readline())
            text = b"".join(lines).decode()
            assert "http://" in text, text + process.stdout.read().decode()
            yield text.split("http://")[1].split("/")[0]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert process.returncode == 143
    assert list(scratch.iterdir()) == []


def test_in_a_browser(tmp_path):
    """Uploads come back as the model makes them; what is refused is said; nobody else is asked."""
    pytest.importorskip("gradio", reason="Gradio is not installed")
    workdir, scratch = tmp_path / "run", tmp_path / "scratch"
    save_run(workdir, (7,))
    scratch.mkdir()
    write(tmp_path / "deep.png", 30, 37, 4, np.uint16)
    write(tmp_path / "grey.tif", 30, 37, 1)
    write(tmp_path / "large.png", 60, 90)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (tmp_path / "heavy.png").write_bytes(bytes(2 * 2**20))

    with browser_page() as page, served(workdir, scratch, "--max_pixels", "5000") as address:
        page.goto(f"http://{address}/")
        said, shown = page.locator(".said"), page.locator(".shown img")

        def said_after(action):
            """What is said when it is no longer what it was."""
            before = said.inner_text()
            action()
            script = "before => document.querySelector('.said').innerText !== before"
            page.wait_for_function(script, arg=before, timeout=60_000)
            return said.inner_text()

        def upload(name):
            if page.get_by_label("Clear").count():
                assert said_after(page.get_by_label("Clear").first.click) == ""
            return said_after(lambda: page.set_input_files("input[type=file]", tmp_path / name))

        def images():
            """What is shown, as files."""
            shown.nth(2).wait_for()
            script = "() => [...document.querySelectorAll('.shown img')].every(i => i.naturalWidth)"
            page.wait_for_function(script)
            files = [page.request.get(one.get_attribute("src")).body() for one in shown.all()]
            return [image_io.decode_image(io.BytesIO(file), "shown") for file in files]

        there = Translator.load(workdir)

        def expected(name, translator):
            image = image_io.read_image(tmp_path / name)
            return [image, *translator.round_trip(image)]

        def assert_alike(made, truth):
            assert len(made) == len(truth) == 3
            for one, other in zip(made, truth, strict=True):
                assert one.dtype == other.dtype
                assert np.array_equal(one, other)

        page.get_by_label("B to A").wait_for()
        assert "Checkpoint of step 7" in page.locator("body").inner_text()

        assert upload("deep.png").startswith("deep.png, A to B: 37 × 30, 16 bits, ")
        assert_alike(images(), expected("deep.png", there))
        news = said_after(page.get_by_label("B to A").check)
        assert news.startswith("deep.png, B to A: 37 × 30, 16 bits, ")
        assert_alike(images(), expected("deep.png", there.reverse))

        assert "large.png is 90 × 60, 5,400 pixels; at most 5,000 are taken" in upload("large.png")
        assert shown.count() == 0
        assert "broken.jpg cannot be read" in upload("broken.jpg")
        assert upload("grey.tif").startswith("grey.tif, B to A: 37 × 30, 8 bits, ")
        assert_alike(images(), expected("grey.tif", there.reverse))

        assert page.get_by_label("Download").count() == 3
        assert page.get_by_label("Share").count() == 0

        page.get_by_label("Clear").first.click()
        page.set_input_files("input[type=file]", tmp_path / "heavy.png")
        page.get_by_text("exceed the maximum allowed size").wait_for()
        # Nor does it help to go round the page.
        heavy = {"name": "heavy.png", "mimeType": "image/png", "buffer": bytes(2 * 2**20)}
        answer = page.request.post(
            f"http://{address}/gradio_api/upload", multipart={"files": heavy}
        )
        assert answer.status == 413

        assert {url.split("/")[2] for url in page.requests if "://" in url} == {address}
        with urllib.request.urlopen(f"http://{address}/gradio_api/info") as answer:
            assert json.load(answer)["named_endpoints"] == {}
        if sys.platform == "linux":  # where all of 127/8 is this machine
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.2", int(address.split(":")[1])), timeout=2)
