"""A self-contained HTML page: images and plots are embedded, nothing is requested from elsewhere.

The templates are in `templates`; Jinja2 escapes all text that enters them.
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import to_8_bits
from cyclegan_jax.utils.text import printable

MAX_SIDE = 768  # pixels; larger images are downscaled
_MAX_PNG_BYTES = 128 * 1024  # larger images without alpha become JPEG
_TEMPLATES = Path(__file__).parent / "templates"


class Cell(NamedTuple):
    """An image of a row, or the reason for its absence.

    Attributes:
        label: Caption.
        alt: Description, which the enlarged image shows too.
        url: The image as a `data:` URL; "" without an image.
        height: Height in pixels of the embedded image.
        width: Width in pixels of the embedded image.
        missing: The reason for the absence.
    """

    label: str
    alt: str = ""
    url: str = ""
    height: int = 0
    width: int = 0
    missing: str = ""


class Row(NamedTuple):
    """Images side by side.

    Attributes:
        cells: The images.
        heading: Heading; "" for none.
        note: A remark beside the heading.
    """

    cells: Sequence[Cell]
    heading: str = ""
    note: str = ""


def cell(image: np.ndarray, label: str, alt: str) -> Cell:
    """Embed an image [H, W, C], uint8 or uint16 with 1 to 4 channels."""
    url, (height, width) = embed(image)
    return Cell(label, alt, url, height, width)


def embed(image: np.ndarray) -> tuple[str, tuple[int, int]]:
    """Encode an image as a `data:` URL.

    Args:
        image: [H, W, C], uint8 or uint16 with 1 to 4 channels.

    Returns:
        The URL of an 8-bit PNG or JPEG, and its (height, width).
    """
    pixels = to_8_bits(image)
    pil = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    # Pillow weights by alpha, so that hidden colours do not bleed into edges.
    pil.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    kind, data = "png", _encode(pil, format="PNG")
    if len(data) > _MAX_PNG_BYTES and pil.mode in ("L", "RGB"):
        kind, data = "jpeg", _encode(pil, format="JPEG", quality=90, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", (pil.height, pil.width)


def _encode(pil: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    pil.save(stream, **options)
    return stream.getvalue()


def describe(image: np.ndarray) -> str:
    """Describe an image's size and how the page's version differs from it."""
    height, width = image.shape[:2]
    parts = [f"{width} × {height}"]
    if max(height, width) > MAX_SIDE:
        parts.append("downscaled")
    if image.dtype == np.uint16:
        parts.append("16-bit, shown in 8-bit")
    return ", ".join(parts)


def render(template: str, **values: Any) -> str:
    """Render a template as the whole page.

    The page's security policy allows its own script and embedded images only.

    Args:
        template: File name in `templates`.
        **values: The template's variables.

    Raises:
        UserError: Jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UserError("the gallery needs Jinja2: pip install 'jinja2>=3.1,<4'") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "script.js").read_text(encoding="utf-8")
    html = environment.get_template(template).render(
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )
    return printable(html)
