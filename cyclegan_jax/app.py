"""Shows what a trained model makes of an image, in a page of this machine's own.

`python -m cyclegan_jax.app --workdir W`, then open the address it prints: drop an image, and see
it translated and brought back. Only this machine can reach it, unless --host says otherwise.
"""

import argparse
import html
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

from cyclegan_jax.inference.translator import DIRECTIONS, Translator
from cyclegan_jax.utils import command
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import read_image, read_size, write_image

MAX_PIXELS = 2048 * 2048
_LABELS = ("Input", "Translated", "Brought back")
_STYLE = """
.gradio-container { width: 100%; max-width: 76rem !important; margin: 0 auto !important; }
.shown .image-frame { width: 100%; padding-top: 2.5rem; }
.shown img { width: 100%; max-height: 75vh; object-fit: contain; }
.said { margin: 0; } .said.wrong { color: var(--error-text-color); font-weight: 600; }
"""


class Demonstration:
    """What the page does, apart from how it looks.

    Attributes:
        translators: by direction; they share their networks.
        max_pixels: images of more are refused.
    """

    def __init__(self, translator: Translator, max_pixels: int = MAX_PIXELS):
        """Takes a model's translator from A to B."""
        both = (translator, translator.reverse)
        self.translators = dict(zip(DIRECTIONS, both, strict=True))
        self.max_pixels = max_pixels

    @property
    def max_bytes(self) -> int:
        """Of a file: an image of the most pixels, uncompressed, with alpha, at 16 bits."""
        return self.max_pixels * 8 + 2**20

    def translate(self, path: str, direction: str) -> tuple[str, list[np.ndarray]]:
        """What to say of an image, and it, its translation, and what that is brought back to.

        Raises:
            UserError: the image cannot be read, is too large, or does not fit the networks.
        """
        name = Path(path).name
        try:
            height, width = read_size(path)
            if height * width > self.max_pixels:
                raise UserError(
                    f"image {name} is {width} × {height}, {height * width:,} pixels; at most "
                    f"{self.max_pixels:,} are taken (the app's --max_pixels)"
                )
            image = read_image(path)
            start = time.monotonic()
            made = [image, *self.translators[direction].round_trip(image)]
        except UserError as error:
            # A folder of the server's is of no use to the reader.
            raise UserError(str(error).replace(path, name)) from error
        except jax.errors.JaxRuntimeError as error:
            if not command.lacks_memory(error):
                raise
            raise UserError(
                f"image {name}, {width} × {height}, does not fit into memory; the app's --tile "
                "computes in bands"
            ) from error
        seconds = time.monotonic() - start
        bits = 8 * image.itemsize
        said = f"{name}, {_in_words(direction)}: {width} × {height}, {bits} bits, {seconds:.1f} s"
        return said, made

    def show(self, path: str | None, direction: str) -> Iterator[list[str | None]]:
        """Contents of the page's parts: what is said, as HTML, and files of the images."""
        if path is None:
            yield [_said(""), None, None, None]
            return
        try:
            said, made = self.translate(path, direction)
        except UserError as error:
            yield [_said(str(error), wrong=True), None, None, None]
            return
        # Gradio copies what is yielded before it asks for more, and then they may go.
        with tempfile.TemporaryDirectory() as folder:
            files: list[str | None] = []
            for image, suffix in zip(made, ("", "_translated", "_back"), strict=True):
                file = Path(folder) / f"{Path(path).stem}{suffix}.png"
                write_image(file, image)
                files.append(str(file))
            yield [_said(said), *files]


def _in_words(direction: str) -> str:
    source, _, target = direction.split("_")
    return f"{source.upper()} to {target.upper()}"


def _said(text: str, *, wrong: bool = False) -> str:
    kind = "said wrong" if wrong else "said"
    return f'<p class="{kind}" role="status">{html.escape(text)}</p>'


def build_page(demonstration: Demonstration, title: str) -> Any:
    """Gradio's description of the page."""
    import gradio as gr

    choices = [(_in_words(direction), direction) for direction in DIRECTIONS]
    limit = f"at most {demonstration.max_pixels / 1e6:.1f} megapixels"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        step = next(iter(demonstration.translators.values())).step
        gr.HTML(
            f"<h1>{html.escape(title)}</h1><p>Checkpoint of step {step:,}. "
            "The first image of a size takes longer.</p>"
        )
        with gr.Row(equal_height=True):
            # Not an Image, which would turn 16 bits into 8 and fail on what it cannot read.
            file = gr.File(label=f"Drop an image here: {limit}", height=140, scale=2)
            direction = gr.Radio(choices, value=DIRECTIONS[0], label="Direction")
        said = gr.HTML(_said(""))
        with gr.Row():
            shown = [
                gr.Image(
                    label=label,
                    interactive=False,
                    alt_text=label,
                    buttons=["download", "fullscreen"],  # and not one to share
                    elem_classes="shown",
                )
                for label in _LABELS
            ]
        gr.on(
            [file.change, direction.change],
            demonstration.show,
            inputs=[file, direction],
            outputs=[said, *shown],
            concurrency_limit=1,
            show_progress_on=shown,
            api_visibility="private",
        )
    return page


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.app", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=command.path, required=True, help="of a run")
    add("--checkpoint", default="latest", help="latest (default), best or a step")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets in the network")
    add("--port", type=int, default=7860)
    add("--max_pixels", type=int, default=MAX_PIXELS, metavar="N", help="larger ones are refused")
    add("--tile", type=int, metavar="N", help="compute in bands of N rows, for less memory")
    given = parser.parse_args(arguments)
    if given.max_pixels < 1:
        parser.error(f"--max_pixels {given.max_pixels}: at least 1 was expected")
    if not 1 <= given.port <= 65535:
        parser.error(f"--port {given.port}: a number from 1 to 65535 was expected")
    return given


def _check_address(host: str, port: int) -> None:
    """Raises UserError where nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: {error.strerror}; another port may be free"
        ) from error


def main(arguments: list[str] | None = None) -> None:
    """The command line; without arguments, that of the process. Serves until it is stopped.

    Raises:
        UserError: a mistake of the user's.
    """
    given = _parse(arguments)
    _check_address(given.host, given.port)
    with tempfile.TemporaryDirectory(prefix="cyclegan_jax_app_") as cache:
        # Read when Gradio is imported: it tells nobody, and leaves nothing behind.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = cache
        try:
            import gradio as gr
        except ImportError as error:
            raise UserError("the app needs Gradio: pip install 'gradio>=6,<7'") from error
        translator = Translator.load(given.workdir, "a_to_b", given.checkpoint, tile=given.tile)
        demonstration = Demonstration(translator, given.max_pixels)
        page = build_page(demonstration, given.workdir.expanduser().resolve().name)
        # By default some are fetched from elsewhere.
        fonts: Any = {
            "font": ["system-ui", "sans-serif"],
            "font_mono": ["ui-monospace", "monospace"],
        }
        try:
            page.queue(max_size=16).launch(
                server_name=given.host,
                server_port=given.port,
                max_file_size=demonstration.max_bytes,
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
            raise UserError(f"--port {given.port}: cannot be listened on: {error}") from error
        print(
            f"step {translator.step} of {given.workdir}: {page.local_url} (ctrl-C ends it)",
            flush=True,
        )
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


if __name__ == "__main__":
    command.run(main, "the model does not fit into memory")
