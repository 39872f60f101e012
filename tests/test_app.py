"""The app shows the model's images and explains what it refuses."""

import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from cyclegan_jax import app
from cyclegan_jax.app import Demo, main
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


def test_an_image_is_translated_and_reconstructed(tmp_path):
    """Both directions keep depth and alpha; for linear models the values are worked by hand."""
    image = write(tmp_path / "one.png", 9, 13, 2, np.uint16)
    demo = Demo(scaled_translator((1, 1), (-1.0, 0.5)))
    message, images = demo.translate(str(tmp_path / "one.png"), "a_to_b")
    assert message.startswith("one.png, A to B: 13 × 9, 16-bit, ")
    grey, alpha = image[..., :1].astype(float), image[..., 1:]
    middle = 65535 / 2
    for result, expected in zip(
        images, (grey, 65535 - grey, middle - (grey - middle) / 2), strict=True
    ):
        assert result.dtype == np.uint16
        assert np.abs(result[..., :1] - expected).max() <= 1
        assert np.array_equal(result[..., 1:], alpha)
    _, images = demo.translate(str(tmp_path / "one.png"), "b_to_a")
    assert np.abs(images[1][..., :1] - (middle + (grey - middle) / 2)).max() <= 1


def test_refusals_are_explained(tmp_path):
    """Too many pixels and damaged files give one escaped line without the server's folder."""
    demo = Demo(scaled_translator(), max_pixels=144)
    write(tmp_path / "large.png", 12, 13)
    (tmp_path / "broken<b>.png").write_bytes(b"no image")
    size = "expected at most 144 pixels, got 13 × 12 (padded to 16 × 12 = 192)"
    for name, expected in (
        ("large.png", size),
        ("broken<b>.png", "not an image of a known format"),
    ):
        path = str(tmp_path / name)
        with pytest.raises(UserError) as caught:
            demo.translate(path, "a_to_b")
        assert str(caught.value).startswith(f"image {name}")
        assert expected in str(caught.value)
        assert str(tmp_path) not in str(caught.value)
        [(status, *files)] = demo.update(path, "a_to_b")
        assert files == [None, None, None]
        assert 'class="status error"' in status
        assert "<b>" not in status
    write(tmp_path / "largest.png", 12, 12)
    assert len(demo.translate(str(tmp_path / "largest.png"), "a_to_b")[1]) == 3


def png_header(height, width):
    """Return a PNG file of 16-bit RGBA that ends in the first bytes of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize(
    ("height", "width", "padded"),
    [
        (11_000, 12_000, "12000 × 11000 = 132,000,000"),
        # Within the limit as it is, eight times too large once padded to 8 rows.
        (1, 2048 * 2048, "4194304 × 8 = 33,554,432"),
        (2048 * 2048, 1, "8 × 4194304 = 33,554,432"),
    ],
)
def test_the_header_decides_before_anything_is_decoded(
    tmp_path, monkeypatch, height, width, padded
):
    """An image that is too large, or becomes so by padding, is refused from its header."""

    def load(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(height, width))
    with pytest.raises(UserError) as caught:
        Demo(scaled_translator()).translate(str(path), "a_to_b")
    assert str(caught.value) == (
        f"image bomb.png: expected at most 4,194,304 pixels, got {width} × {height} "
        f"(padded to {padded}); the app's --max_pixels raises the limit"
    )


def test_the_decoded_size_counts_too(tmp_path, monkeypatch):
    """A file whose header states a smaller image than it contains is not translated."""
    write(tmp_path / "one.png", 40, 40)
    monkeypatch.setattr(app, "read_size", lambda path: (8, 8))
    with pytest.raises(UserError, match="got 40 × 40"):
        Demo(scaled_translator(), max_pixels=100).translate(str(tmp_path / "one.png"), "a_to_b")


def test_mistakes_are_reported_in_one_line(tmp_path, monkeypatch):
    """Wrong arguments are refused before the model is loaded."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # `main` sets it
    workdir = ["--workdir", str(tmp_path)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = [
            ([*workdir, "--port", str(port)], f"--port {port}: Address already in use"),
            ([*workdir, "--port", "0"], "--port: expected 1 to 65535, got 0"),
            ([*workdir, "--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
            ([*workdir, "--max_pixels", "0"], "--max_pixels: expected at least 1, got 0"),
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
    """Run the command and provide its HOST:PORT; it must leave no files and log no traceback."""
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
            rest = process.communicate(timeout=60)[0]
    assert process.returncode == 143
    assert b"Traceback" not in rest
    assert list(scratch.iterdir()) == []


def test_in_a_browser(tmp_path):
    """Uploads are translated, refusals explained, and no other server is contacted."""
    pytest.importorskip("gradio", reason="Gradio is not installed")
    workdir, scratch = tmp_path / "run", tmp_path / "scratch"
    save_run(workdir, (7,))
    scratch.mkdir()
    write(tmp_path / "deep.png", 30, 37, 4, np.uint16)
    write(tmp_path / "grey.tif", 30, 37, 1)
    write(tmp_path / "large.png", 60, 90)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (tmp_path / "heavy.png").write_bytes(bytes(2 * 2**20))

    with browser_page() as page, served(workdir, scratch, "--max_pixels", "5000") as address:
        page.goto(f"http://{address}/")
        status, outputs = page.locator(".status"), page.locator(".output img")

        def status_after(action):
            """Return the status once it has changed."""
            before = status.inner_text()
            action()
            script = "before => document.querySelector('.status').innerText !== before"
            page.wait_for_function(script, arg=before, timeout=60_000)
            return status.inner_text()

        def upload(name):
            if page.get_by_label("Clear").count():
                assert status_after(page.get_by_label("Clear").first.click) == ""
            return status_after(lambda: page.set_input_files("input[type=file]", tmp_path / name))

        def images():
            """Return the images shown, decoded."""
            outputs.nth(2).wait_for()
            script = (
                "() => [...document.querySelectorAll('.output img')].every(i => i.naturalWidth)"
            )
            page.wait_for_function(script)
            files = [page.request.get(one.get_attribute("src")).body() for one in outputs.all()]
            return [image_io.decode_image(io.BytesIO(file), "shown") for file in files]

        translator = Translator.load(workdir)

        def expected(name, direction):
            image = image_io.read_image(tmp_path / name)
            return [image, *direction.round_trip(image)]

        def assert_equal(results, truth):
            assert len(results) == len(truth) == 3
            for one, other in zip(results, truth, strict=True):
                assert one.dtype == other.dtype
                assert np.array_equal(one, other)

        page.get_by_label("B to A").wait_for()
        assert "Checkpoint of step 7" in page.locator("body").inner_text()

        assert upload("deep.png").startswith("deep.png, A to B: 37 × 30, 16-bit, ")
        assert_equal(images(), expected("deep.png", translator))
        message = status_after(page.get_by_label("B to A").check)
        assert message.startswith("deep.png, B to A: 37 × 30, 16-bit, ")
        assert_equal(images(), expected("deep.png", translator.reverse))

        assert "large.png: expected at most 5,000 pixels, got 90 × 60" in upload("large.png")
        assert outputs.count() == 0
        message = upload("broken.jpg")
        assert message.startswith("image broken.jpg")
        assert "cannot be read" in message
        assert "cannot be read: Image size (3600000000 pixels)" in upload("bomb.png")
        assert upload("grey.tif").startswith("grey.tif, B to A: 37 × 30, 8-bit, ")
        assert_equal(images(), expected("grey.tif", translator.reverse))

        assert page.get_by_label("Download").count() == 3
        assert page.get_by_label("Share").count() == 0

        page.get_by_label("Clear").first.click()
        page.set_input_files("input[type=file]", tmp_path / "heavy.png")
        page.get_by_text("exceed the maximum allowed size").wait_for()
        # The server enforces the limit too.
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


def test_client_that_leaves_during_an_upload(tmp_path):
    """The server logs no traceback, keeps no file of it, and goes on."""
    pytest.importorskip("gradio", reason="Gradio is not installed")
    workdir, scratch = tmp_path / "run", tmp_path / "scratch"
    save_run(workdir, (7,))
    scratch.mkdir()
    with served(workdir, scratch) as address:
        host, port = address.split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
        with urllib.request.urlopen(f"http://{address}/") as answer:
            assert answer.status == 200
