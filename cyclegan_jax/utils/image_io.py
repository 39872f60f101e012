"""Images: reading and writing files, the range of the networks, and sample strips.

An image is an array [H, W, C] of uint8 or uint16 with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or
4 (RGBA). The networks see float32 in [-1, 1].
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ExifTags, Image, ImageOps

from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.formats import FORMATS, check_writable, encode_png16, encode_tiff16

# The images are the user's own, and satellite and microscope images do pass Pillow's limit
# of 179 million pixels, which is there against uploads by strangers.
Image.MAX_IMAGE_PIXELS = None

_ORIENTATION = ExifTags.Base.Orientation

Array = TypeVar("Array", np.ndarray, jax.Array)

# How Pillow's other modes become images; "P" is decided by whether the palette has alpha.
_EXPANDED = {
    "1": "L",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
}
# Unpackers of 16-bit samples by byte order (L: little, B: big, N: this machine's), each with the
# one that takes the other byte.
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if struct.pack("=H", 1) == b"\1\0" else "L"}


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Reads one image as it is meant to be seen.

    EXIF orientation is applied, palettes are expanded, alpha is kept as the last channel, CMYK
    and other colour spaces become RGB. Samples of 16 bits stay: of any PNG, of TIFF in grey, RGB
    and RGBA (channels interleaved), of grey PGM. Of files with several pages the first is read.

    Args:
      path: a file in a format that Pillow reads; its name does not matter.

    Returns:
      [H, W, C], uint8 or uint16, C from 1 to 4.

    Raises:
      UserError: the file is missing, damaged, no image, or holds values that are neither 8-
        nor 16-bit (floating point, negative or 32-bit).
    """
    try:
        # Given a path, Pillow maps plain TIFF into memory and mistakes the sides of those that
        # are to be turned by 90 degrees; given an open file, it does not.
        with Path(path).open("rb") as stream:
            return decode_image(stream, str(path))
    except OSError as error:
        raise _unreadable(str(path), error) from error


def decode_image(stream: IO[bytes], name: str) -> np.ndarray:
    """`read_image` from a binary file that can seek; `name` is what to call it in messages."""
    try:
        with Image.open(stream) as pil:
            other_bytes = _other_bytes_wanted(pil)
            image = _as_array(pil, name)
        if other_bytes:
            stream.seek(0)
            with Image.open(stream) as pil:
                image = _join_bytes(image, pil, other_bytes)
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(name, error) from error
    return np.ascontiguousarray(image)


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width of the image that `read_image` would give, from the file's header alone.

    Raises:
      UserError: as `read_image`, as far as the header tells.
    """
    try:
        with Image.open(path) as pil:
            width, height = pil.size
            # Of TIFF, Pillow tells the size as it is after turning.
            turned = pil.format != "TIFF" and pil.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    except Exception as error:
        raise _unreadable(str(path), error) from error
    return (width, height) if turned else (height, width)


def _unreadable(name: str, error: Exception) -> UserError:
    """The error to raise for whatever Pillow raised, which is nearly anything on damaged files."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"image {name}: there is no such file")
    reason = " ".join(str(error).split()) or type(error).__name__
    if reason.startswith("cannot identify"):  # and then a Python object
        reason = "it is not an image of a known format"
    return UserError(f"image {name} cannot be read: {reason}")


def _as_array(pil: Image.Image, name: str) -> np.ndarray:
    """Loads an opened image as [H, W, C] uint8 or uint16."""
    pil.load()
    ImageOps.exif_transpose(pil, in_place=True)
    mode = pil.mode
    if mode == "F":
        raise UserError(
            f"image {name} holds floating-point values: expected 8 or 16 bits per channel"
        )
    if mode == "I" or mode.startswith("I;16"):
        values = np.asarray(pil)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise UserError(
                f"image {name} holds values from {values.min()} to {values.max()}: "
                "expected 8 or 16 bits per channel (0 to 65535)"
            )
        return values.astype(np.uint16)[..., None]
    if mode == "P":
        pil = pil.convert("RGBA" if "transparency" in pil.info else "RGB")
    elif mode in _EXPANDED:
        pil = pil.convert(_EXPANDED[mode])
    values = np.asarray(pil)
    return values[..., None] if values.ndim == 2 else values


def _rawmode(args: object) -> str:
    """The name of the unpacker in a tile's arguments ("" where there is none)."""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _other_bytes_wanted(pil: Image.Image) -> str:
    """The unpacker that gives what Pillow drops from 16-bit colour ("" when nothing is lost).

    Pillow keeps the high bytes of colour with 16 bits per channel. Its unpacker for the opposite
    byte order picks the low ones out of the same data. Grey with alpha has no such unpacker, but
    its four bytes per pixel can be taken as RGBA.
    """
    rawmodes = {_rawmode(tile.args) for tile in getattr(pil, "tile", [])}
    if len(rawmodes) != 1:
        return ""
    rawmode = rawmodes.pop()
    if rawmode == "LA;16B":
        return "RGBA"
    colour, _, order = rawmode.partition(";16")
    if colour in ("RGB", "RGBX", "RGBA") and order in _OTHER_BYTE:
        return f"{colour};16{_OTHER_BYTE[order]}"
    return ""


def _join_bytes(high: np.ndarray, pil: Any, rawmode: str) -> np.ndarray:
    """The 16-bit image from its high bytes and the file opened once more."""
    pil.tile = [
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:]))
        for tile in pil.tile
    ]
    pil.load()
    ImageOps.exif_transpose(pil, in_place=True)
    low = np.asarray(pil)
    if rawmode == "RGBA":
        return low.view(">u2").astype(np.uint16)
    return (high.astype(np.uint16) << 8) | low


def make_folder(path: Path) -> None:
    """Makes a folder, and those it lies in, where they are not there. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made: {error.strerror}") from error


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes an image, in the format that the suffix names; whole or not at all.

    PNG takes 1 to 4 channels of 8 or 16 bits, and so does TIFF but for 16-bit grey with alpha.
    WebP (without loss) takes 1 to 4 channels of 8 bits, JPEG (quality 95), BMP and PPM take 1 or
    3, and PGM one channel of 8 or 16 bits.

    Args:
      path: ends in one of `formats.WRITABLE`; a file there is replaced.
      image: [H, W, C] or [H, W], uint8 or uint16.

    Raises:
      UserError: unknown suffix, a format that cannot hold the image, or a failed write.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype not in (np.uint8, np.uint16) or image.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(f"not an image: {image.dtype} {image.shape}")
    channels, deep = image.shape[-1], image.dtype == np.uint16
    check_writable(path, channels, deep=deep)
    # The suffix stays at the end, for Pillow; the dot in front hides it from folder sources.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")
    try:
        try:
            if deep and channels > 1:
                encode = encode_png16 if suffix == ".png" else encode_tiff16
                temporary.write_bytes(encode(image))
            else:
                flat = image[..., 0] if channels == 1 else image
                pil = Image.fromarray(np.ascontiguousarray(flat))
                pil.save(temporary, **FORMATS[suffix].options)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: larger than the format allows
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"image {path} cannot be written: {reason}") from error


def to_float(x: Array, dtype: Any = np.float32) -> Array:
    """uint8 or uint16 to float32 (or dtype) in [-1, 1]: 0 becomes -1, 255 (65535) becomes 1."""
    if x.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected uint8 or uint16, got {x.dtype}")
    half = 127.5 if x.dtype == np.uint8 else 32767.5
    return x.astype(dtype) / np.asarray(half, dtype) - np.asarray(1, dtype)


def to_uint8(x: Array) -> Array:
    """[-1, 1] to uint8, to the nearest; what lies outside goes to the ends."""
    return _to_integer(x, 255, np.uint8)


def to_uint16(x: Array) -> Array:
    """[-1, 1] to uint16, to the nearest; what lies outside goes to the ends."""
    return _to_integer(x, 65535, np.uint16)


def _to_integer(x: Array, top: int, dtype: type) -> Array:
    xp = jnp if isinstance(x, jax.Array) else np
    scaled = (x.astype(xp.float32) + xp.float32(1)) * xp.float32(top / 2)
    return xp.clip(xp.rint(scaled), 0, top).astype(dtype)


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """uint16 to uint8 by scaling the full range, to the nearest; uint8 as it is."""
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def strip(rows: Sequence[Sequence[np.ndarray]], gap: int = 2) -> np.ndarray:
    """One RGB image with the given images in rows and columns, white between them.

    Args:
      rows: images [H, W, C], uint8 or uint16, C from 1 to 4 (alpha is left out). Sizes may
        differ, and so may the rows' lengths: a row is as high as its highest image, a column
        as wide as its widest.
      gap: pixels between neighbours.

    Returns:
      uint8 [H, W, 3].
    """
    if not rows or not any(len(row) for row in rows):
        raise ValueError("a strip needs at least one image")
    columns = max(len(row) for row in rows)
    heights = [max((cell.shape[0] for cell in row), default=0) for row in rows]
    widths = [max(row[k].shape[1] for row in rows if len(row) > k) for k in range(columns)]
    shape = (sum(heights) + gap * (len(rows) - 1), sum(widths) + gap * (columns - 1), 3)
    canvas = np.full(shape, 255, np.uint8)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for cell, width in zip(row, widths, strict=False):
            colours = 3 if cell.shape[-1] >= 3 else 1
            canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = to_8_bits(
                cell[..., :colours]
            )
            left += width + gap
        top += height + gap
    return canvas
