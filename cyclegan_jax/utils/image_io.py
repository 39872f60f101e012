"""Images: reading and writing files, value ranges, and strips of images.

An image is an array [H, W, C] of uint8 or uint16 with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or
4 (RGBA). The networks see float32 in [-1, 1].
"""

import functools
import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from cyclegan_jax.utils.atomic import atomic_path
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.formats import (
    FORMATS,
    READABLE,
    check_writable,
    decode_deep_png,
    decode_deep_tiff,
    is_tiff,
    tiff_size,
)

# Satellite and microscope images exceed Pillow's limit of 179 million pixels, which protects
# servers from strangers' uploads; these images are the user's own.
Image.MAX_IMAGE_PIXELS = None

# Headers of damaged and hostile files state any size, and decoders allocate it. Deflate, the
# strongest compression in use, has at most 1,032 bytes in one.
_PIXELS_PER_BYTE = 1100
_SMALL_PIXELS = 2**27  # allowed in any case

Array = TypeVar("Array", np.ndarray, jax.Array)

# Conversions of Pillow's other modes; that of "P" depends on the palette.
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


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image as viewers show it.

    EXIF orientation is applied, palettes are expanded, alpha is kept as the last channel, CMYK
    and other colour spaces become RGB, and 8-bit RGB with another ICC profile becomes sRGB. Samples
    of 16 bits are kept in PNG, TIFF and PGM. Of an animation the first frame is read.

    Args:
        path: A JPEG, PNG, TIFF, WebP, BMP, PPM or PGM file; its name does not matter.

    Returns:
        [H, W, C], uint8 or uint16, C from 1 to 4.

    Raises:
        UserError: The file is missing, damaged, not an image, a TIFF stack of several pages, or
            holds values that are neither 8- nor 16-bit (floating point, negative or 32-bit).
    """
    try:
        # Pillow maps plain TIFF files into memory when given a path, and then confuses height and
        # width where they are rotated by 90 degrees. It does not when given an open file.
        with Path(path).open("rb") as stream:
            return decode_image(stream, str(path))
    except OSError as error:
        raise _unreadable(str(path), error) from error


def decode_image(stream: IO[bytes], name: str) -> np.ndarray:
    """Decode an image from a seekable binary file, as `read_image` does.

    Args:
        stream: The file.
        name: Its name in messages.
    """
    try:
        _read_header(stream)
        image = _decode_deep(stream)
        if image is None:
            stream.seek(0)
            with Image.open(stream, formats=READABLE) as pil:
                image = _as_array(pil, name)
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(name, error) from error
    return np.ascontiguousarray(image)


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return height and width of the image that `read_image` would return, without decoding it.

    Raises:
        UserError: As `read_image`, as far as the file's header shows.
    """
    try:
        with Path(path).open("rb") as stream:
            height, width, orientation = _read_header(stream)
    except Exception as error:
        raise _unreadable(str(path), error) from error
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _read_header(stream: IO[bytes]) -> tuple[int, int, int]:
    """Return height, width and EXIF orientation of an image.

    Raises:
        ValueError: The file is far too small for an image of that size.
    """
    if is_tiff(stream):
        height, width, orientation = tiff_size(stream)
    else:
        with Image.open(stream, formats=READABLE) as pil:
            width, height = pil.size
            orientation = _orientation(pil, stream)
    size = stream.seek(0, os.SEEK_END)
    if height * width > max(_SMALL_PIXELS, _PIXELS_PER_BYTE * size):
        raise ValueError(f"{size:,} bytes cannot hold the {width} x {height} pixels that it states")
    stream.seek(0)
    return height, width, orientation


def _unreadable(name: str, error: Exception) -> UserError:
    """Return the error for an exception of a decoder, of any type where a file is damaged."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"image {name}: there is no such file")
    reason = " ".join(str(error).split()) or type(error).__name__
    if reason.startswith("cannot identify"):  # continues with the repr of a Python object
        reason = "it is not an image of a known format (JPEG, PNG, TIFF, WebP, BMP, PPM, PGM)"
    return UserError(f"image {name} cannot be read: {reason}")


def _decode_deep(stream: IO[bytes]) -> np.ndarray | None:
    """Decode an image of which Pillow would drop bits, upright; None for others."""
    if is_tiff(stream):
        decoded = decode_deep_tiff(stream)
        return decoded and _upright(*decoded)
    image = decode_deep_png(stream)
    if image is None:
        return None
    stream.seek(0)
    with Image.open(stream, formats=READABLE) as pil:
        return _upright(image, _orientation(pil, stream))


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


def _orientation(pil: Image.Image, stream: IO[bytes]) -> int:
    """Return the EXIF orientation of an open image without decoding its pixels."""
    # PngImageFile.getexif would decode the pixels, in case that EXIF data follow them.
    exif = Image.Image.getexif(pil)
    if pil.format == "PNG" and not exif:
        exif = _png_exif(stream)
    return exif.get(ExifTags.Base.Orientation, 1)


def _png_exif(stream: IO[bytes]) -> Image.Exif:
    """Return the EXIF data of a PNG file, wherever they are stored in it."""
    exif = Image.Exif()
    stream.seek(8)
    while len(header := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"eXIf":
            exif.load(stream.read(length))
            break
        stream.seek(length + 4, os.SEEK_CUR)  # the data and their checksum
    return exif


@functools.lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion from an ICC profile to sRGB.

    None where the profile is that of sRGB, up to rounding, or cannot be used: most viewers ignore
    those.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, mode)
    except (ImageCms.PyCMSError, OSError, ImportError):
        return None
    levels = np.mgrid[0:256:51, 0:256:51, 0:256:51].reshape(3, 1, -1).T.astype(np.uint8)
    probe = Image.fromarray(levels).convert(mode)
    change = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe)
    return transform if np.abs(change).max() > 3 else None


def _as_array(pil: Image.Image, name: str) -> np.ndarray:
    """Load an open image as [H, W, C] uint8 or uint16."""
    pil.load()
    profile = pil.info.get("icc_profile")
    if profile and pil.mode in ("RGB", "RGBA") and (to_srgb := _to_srgb(profile, pil.mode)):
        to_srgb.apply_in_place(pil)
    ImageOps.exif_transpose(pil, in_place=True)
    mode = pil.mode
    if mode == "F":
        raise UserError(f"image {name}: expected 8 or 16 bits per channel, got floating point")
    if mode == "I" or mode.startswith("I;16"):
        values = np.asarray(pil)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise UserError(
                f"image {name}: expected 8 or 16 bits per channel (0 to 65535), got values from "
                f"{values.min()} to {values.max()}"
            )
        return values.astype(np.uint16)[..., None]
    if mode == "P":
        pil = pil.convert("RGBA" if "transparency" in pil.info else "RGB")
    elif mode in _EXPANDED:
        pil = pil.convert(_EXPANDED[mode])
    values = np.asarray(pil)
    return values[..., None] if values.ndim == 2 else values


def make_folder(path: Path) -> None:
    """Create a folder and its parents unless they exist. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be created: {error.strerror}") from error


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image atomically, in the format that the suffix names.

    PNG and TIFF hold 1 to 4 channels of 8 or 16 bits, lossless WebP 1 to 4 channels of 8 bits,
    JPEG (quality 95), BMP and PPM 1 or 3, and PGM one channel of 8 or 16 bits.

    Args:
        path: Ends in one of `formats.WRITABLE`; an existing file is replaced.
        image: [H, W, C] or [H, W], uint8 or uint16.

    Raises:
        UserError: The suffix is unknown, the format cannot hold the image, or writing fails.
    """
    path = Path(path)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype not in (np.uint8, np.uint16) or image.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(
            f"expected uint8 or uint16 [H, W, 1 to 4], got {image.dtype} {image.shape}"
        )
    check_writable(path, image.shape[-1], deep=image.dtype == np.uint16)
    try:
        with atomic_path(path) as temporary:
            FORMATS[path.suffix.lower()].encode(temporary, image)
    except (OSError, ValueError) as error:  # ValueError: larger than the format allows
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"image {path} cannot be written: {reason}") from error


def to_float(x: Array, dtype: Any = np.float32) -> Array:
    """Map uint8 or uint16 to float32 (or dtype) in [-1, 1]: 0 to -1, 255 (65535) to 1."""
    if x.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected uint8 or uint16, got {x.dtype}")
    half = 127.5 if x.dtype == np.uint8 else 32767.5
    return x.astype(dtype) / np.asarray(half, dtype) - np.asarray(1, dtype)


def to_uint8(x: Array) -> Array:
    """Map [-1, 1] to uint8, rounded to nearest and clipped."""
    return _to_integer(x, 255, np.uint8)


def to_uint16(x: Array) -> Array:
    """Map [-1, 1] to uint16, rounded to nearest and clipped."""
    return _to_integer(x, 65535, np.uint16)


def _to_integer(x: Array, top: int, dtype: type) -> Array:
    xp = jnp if isinstance(x, jax.Array) else np
    scaled = (x.astype(xp.float32) + xp.float32(1)) * xp.float32(top / 2)
    return xp.clip(xp.rint(scaled), 0, top).astype(dtype)


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """Scale uint16 to uint8, rounded to nearest; return uint8 unchanged."""
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def strip(rows: Sequence[Sequence[np.ndarray]], gap: int = 2) -> np.ndarray:
    """Arrange images in rows and columns of one RGB image, with white between them.

    Args:
        rows: Images [H, W, C], uint8 or uint16, C from 1 to 4 (alpha is dropped). Sizes and
            numbers of images per row may differ: a row is as high as its highest image, a column as
            wide as its widest.
        gap: Pixels between neighbours.

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
