"""Formats that images are written in: what each holds, and encoders for what Pillow lacks."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclegan_jax.utils.errors import UserError


class Format(NamedTuple):
    """What a format holds, and how Pillow is to write it."""

    name: str
    channels: tuple[int, ...]  # of 8 bits
    deep_channels: tuple[int, ...]  # of 16 bits
    options: dict[str, Any] = {}


_JPEG = Format("JPEG", (1, 3), (), {"quality": 95})
_TIFF = Format("TIFF", (1, 2, 3, 4), (1, 3, 4))
FORMATS = {
    ".png": Format("PNG", (1, 2, 3, 4), (1, 2, 3, 4)),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": Format("BMP", (1, 3), ()),
    # Grey comes back as colour. Colours stay where alpha hides them.
    ".webp": Format("WebP", (1, 2, 3, 4), (), {"lossless": True, "exact": True}),
    ".ppm": Format("PPM", (1, 3), ()),
    ".pgm": Format("PGM", (1,), (1,)),
}
WRITABLE = tuple(FORMATS)

_LARGEST_TIFF = 2**32 - 1


def check_writable(path: str | os.PathLike, channels: int, *, deep: bool = False) -> None:
    """Raises UserError unless `write_image` takes so many channels (of 16 bits: `deep`) there."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"image {path}: the name must end in one of {', '.join(WRITABLE)}")
    name, shallow, deeper, _ = FORMATS[suffix]
    if channels not in (deeper if deep else shallow):
        kind = {1: "grey", 2: "grey with alpha", 3: "colour", 4: "colour with alpha"}[channels]
        raise UserError(f"image {path}: {name} holds no {'16-bit ' * deep}{kind}; use .png")


def encode_png16(image: np.ndarray) -> bytes:
    """A PNG file of uint16 [H, W, 2 to 4] (PNG specification 3)."""
    height, width, channels = image.shape
    rows = image.astype(">u2").reshape(height, -1).view(np.uint8)
    # Filter 2 ("up") stores each row as the difference from the one above, modulo 256.
    differences = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    data = np.insert(differences, 0, 2, axis=1).tobytes()
    colour_type = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    encoded = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")):
        check = zlib.crc32(kind + body)
        encoded += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)
    return encoded


def encode_tiff16(image: np.ndarray) -> bytes:
    """A TIFF file of uint16 [H, W, 3 or 4]: uncompressed, one strip (TIFF 6.0, RGB images).

    Raises:
        OSError: it would pass TIFF's 4 GiB.
    """
    height, width, channels = image.shape
    short, long = 3, 4
    # Tag, type and values, in the order of the tags.
    entries = [
        (256, long, [width]),
        (257, long, [height]),
        (258, short, [16] * channels),  # bits
        (259, short, [1]),  # no compression
        (262, short, [2]),  # RGB
        (273, long, [0]),  # where the strip begins, filled in below
        (277, short, [channels]),
        (278, long, [height]),  # rows of the strip
        (279, long, [image.nbytes]),
        (284, short, [1]),  # channels interleaved
    ]
    if channels == 4:
        entries.append((338, short, [2]))  # alpha, by which colours are not multiplied
    # The file's header, the directory, the bits (which do not fit into it), the strip.
    after = 8 + 2 + 12 * len(entries) + 4
    start = after + 2 * channels
    if start + image.nbytes > _LARGEST_TIFF:
        raise OSError("TIFF holds at most 4 GiB; use .png")
    directory = struct.pack("<H", len(entries))
    for tag, kind, values in entries:
        place = {258: after, 273: start}.get(tag, values[0])
        # A short lies in the first half of its field, which is the same in this byte order.
        directory += struct.pack("<HHII", tag, kind, len(values), place)
    bits = struct.pack(f"<{channels}H", *[16] * channels)
    header = struct.pack("<2sHI", b"II", 42, 8) + directory + struct.pack("<I", 0) + bits
    return header + image.astype("<u2").tobytes()
