"""Serves a web page that translates images with a trained model.

`python -m cyclegan_jax.app --workdir W` prints a URL; images dropped into the page are translated
and reconstructed. Only this machine can reach the page unless --host allows others.
"""

import argparse
import html
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from cyclegan_jax.inference.translator import DIRECTIONS, Translator
from cyclegan_jax.utils import command
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import read_image, read_size, write_image
from cyclegan_jax.utils.text import printable

MAX_PIXELS = 2048 * 2048
_PILLOW_MAX_PIXELS = 89_478_485  # Pillow refuses twice as many
_LABELS = ("Input", "Translated", "Reconstructed")
_STYLE = """
.gradio-container { width: 100%; max-width: 76rem !important; margin: 0 auto !important; }
.output .image-frame { width: 100%; padding-top: 2.5rem; }
.output img { width: 100%; max-height: 75vh; object-fit: contain; }
.status { margin: 0; } .status.error { color: var(--error-text-color); font-weight: 600; }
"""


class Demo:
    """The page's behaviour, independent of its layout.

    Attributes:
        translators: A translator per direction, with the same networks.
        max_pixels: Largest number of pixels of an image, padded as the networks need it.
    """

    def __init__(self, translator: Translator, max_pixels: int = MAX_PIXELS):
        """Create a demo of a model.

        Args:
            translator: Translator from A to B.
            max_pixels: See the class.
        """
        both = (translator, translator.reverse)
        self.translators = dict(zip(DIRECTIONS, both, strict=True))
        self.max_pixels = max_pixels

    @property
    def max_bytes(self) -> int:
        """Largest size of a file: an uncompressed 16-bit RGBA image and its metadata."""
        return self.max_pixels * 8 + 2**20

    def translate(self, path: str, direction: str) -> tuple[str, list[np.ndarray]]:
        """Translate an image file and reconstruct it.

        Returns:
            A line about the result; the image, its translation and its reconstruction.

        Raises:
            UserError: The image cannot be read, is too large, or does not fit the networks.
        """
        name = Path(path).name
        translator = self.translators[direction]
        try:
            height, width = read_size(path)
            self._check_size(name, translator, height, width)
            image = read_image(path)
            # Some formats contain images of other sizes than their header states.
            self._check_size(name, translator, *image.shape[:2])
            start = time.monotonic()
            images = [image, *translator.round_trip(image)]
        except UserError as error:
            # The page need not show the server's folders.
            raise UserError(str(error).replace(path, name)) from error
        except jax.errors.JaxRuntimeError as error:
            if not command.lacks_memory(error):
                raise
            raise UserError(
                f"image {name}: {width} × {height} does not fit into memory; the app's --tile "
                "needs less"
            ) from error
        seconds = time.monotonic() - start
        bits = 8 * image.itemsize
        label = _direction_label(direction)
        return f"{name}, {label}: {width} × {height}, {bits}-bit, {seconds:.1f} s", images

    def _check_size(self, name: str, translator: Translator, height: int, width: int) -> None:
        """Raise UserError for an image whose padded size exceeds `max_pixels`."""
        padded_height, padded_width = translator.padded_size(height, width)
        pixels = padded_height * padded_width
        if pixels > self.max_pixels:
            raise UserError(
                f"image {name}: expected at most {self.max_pixels:,} pixels, got {width} × "
                f"{height} (padded to {padded_width} × {padded_height} = {pixels:,}); the app's "
                "--max_pixels raises the limit"
            )

    def update(self, path: str | None, direction: str) -> Iterator[list[str | None]]:
        """Yield the page's status as HTML and the files of its three images."""
        if path is None:
            yield [_status(""), None, None, None]
            return
        try:
            message, images = self.translate(path, direction)
        except UserError as error:
            yield [_status(str(error), error=True), None, None, None]
            return
        # Gradio copies the files before it resumes this generator.
        with tempfile.TemporaryDirectory() as folder:
            files: list[str | None] = []
            for image, suffix in zip(images, ("", "_translated", "_back"), strict=True):
                file = Path(folder) / f"{Path(path).stem}{suffix}.png"
                write_image(file, image)
                files.append(str(file))
            yield [_status(message), *files]


def _direction_label(direction: str) -> str:
    source, _, target = direction.split("_")
    return f"{source.upper()} to {target.upper()}"


def _status(text: str, *, error: bool = False) -> str:
    css_class = "status error" if error else "status"
    return f'<p class="{css_class}" role="status">{html.escape(printable(text))}</p>'


def build_page(demo: Demo, title: str) -> Any:
    """Build the page as Gradio blocks."""
    import gradio as gr

    choices = [(_direction_label(direction), direction) for direction in DIRECTIONS]
    limit = f"at most {demo.max_pixels / 1e6:.1f} megapixels"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        step = demo.translators[DIRECTIONS[0]].step
        gr.HTML(
            f"<h1>{html.escape(title)}</h1><p>Checkpoint of step {step:,}. "
            "The first image of each size takes longer.</p>"
        )
        with gr.Row(equal_height=True):
            # gr.Image would convert 16 bits to 8 and fail on files that it cannot read.
            file = gr.File(label=f"Drop an image here: {limit}", height=140, scale=2)
            direction = gr.Radio(choices, value=DIRECTIONS[0], label="Direction")
        status = gr.HTML(_status(""))
        with gr.Row():
            outputs = [
                gr.Image(
                    label=label,
                    interactive=False,
                    alt_text=label,
                    buttons=["download", "fullscreen"],  # the default adds "share"
                    elem_classes="output",
                )
                for label in _LABELS
            ]
        gr.on(
            [file.change, direction.change],
            demo.update,
            inputs=[file, direction],
            outputs=[status, *outputs],
            concurrency_limit=1,
            show_progress_on=outputs,
            api_visibility="private",
        )
    return page


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.app", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=command.path, required=True, help="work directory of a run")
    add("--checkpoint", default="latest", help="latest (default), best, or a step")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 admits other machines")
    add("--port", type=int, default=7860)
    add(
        "--max_pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse images that are larger when padded (default: 2048 x 2048)",
    )
    add("--tile", type=int, metavar="N", help="compute in bands of N rows, in less memory")
    args = parser.parse_args(arguments)
    if args.max_pixels < 1:
        parser.error(f"--max_pixels: expected at least 1, got {args.max_pixels}")
    if not 1 <= args.port <= 65535:
        parser.error(f"--port: expected 1 to 65535, got {args.port}")
    return args


def _is_no_disconnect(record: logging.LogRecord) -> bool:
    """Return whether a record of the server is not the traceback of a client that left."""
    error = record.exc_info and record.exc_info[1]
    return type(error).__name__ != "ClientDisconnect"


def _check_address(host: str, port: int) -> None:
    """Raise UserError unless this process can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror}; try another") from error


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until stopped; `arguments` defaults to those of the process.

    Raises:
        UserError: A user's mistake.
    """
    args = _parse(arguments)
    _check_address(args.host, args.port)
    # Restores Pillow's limit, which applies to whatever it decodes.
    Image.MAX_IMAGE_PIXELS = max(args.max_pixels, _PILLOW_MAX_PIXELS)
    with tempfile.TemporaryDirectory(prefix="cyclegan_jax_app_") as cache:
        # Gradio reads these when imported: no usage reports, no files left behind.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = cache
        try:
            import gradio as gr
        except ImportError as error:
            raise UserError("the app needs Gradio: pip install 'gradio>=6,<7'") from error
        logging.getLogger("uvicorn.error").addFilter(_is_no_disconnect)
        translator = Translator.load(args.workdir, "a_to_b", args.checkpoint, tile=args.tile)
        demo = Demo(translator, args.max_pixels)
        page = build_page(demo, printable(args.workdir.resolve().name))
        # Gradio's default fonts are requested from other servers.
        fonts: Any = {
            "font": ["system-ui", "sans-serif"],
            "font_mono": ["ui-monospace", "monospace"],
        }
        try:
            page.queue(max_size=16).launch(
                server_name=args.host,
                server_port=args.port,
                max_file_size=demo.max_bytes,
                theme=gr.themes.Default(**fonts),
                css=_STYLE,
                share=False,
                ssr_mode=False,
                mcp_server=False,
                run_history=False,
                footer_links=[],
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise UserError(f"--port {args.port}: cannot listen: {error}") from error
        print(
            f"{printable(args.workdir)}, step {translator.step}: {page.local_url} (stop: ctrl-C)",
            flush=True,
        )
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


if __name__ == "__main__":
    command.run(main, "the model does not fit into memory")
