"""Image formats: what each can hold, and decoders and encoders beside Pillow's.

Pillow keeps 8 of the 16 bits of colour samples, so imagecodecs reads and writes such PNG files, and
tifffile such TIFF files.
"""

import functools
import itertools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from cyclegan_jax.utils.errors import UserError


class Format(NamedTuple):
    """A format that images are written in.

    Attributes:
        name: Its name in messages.
        channels: Numbers of channels of 8 bits that it can hold.
        deep_channels: Numbers of channels of 16 bits.
        encode: Write an image [H, W, C] to a path.
    """

    name: str
    channels: tuple[int, ...]
    deep_channels: tuple[int, ...]
    encode: Callable[[Path, np.ndarray], None]


def _encode(path: Path, image: np.ndarray, **options: Any) -> None:
    Image.fromarray(_contiguous(image)).save(path, **options)


def _encode_png(path: Path, image: np.ndarray) -> None:
    if image.dtype == np.uint8:
        _encode(path, image)
    else:
        import imagecodecs

        path.write_bytes(imagecodecs.png_encode(_contiguous(image)))


def _encode_tiff(path: Path, image: np.ndarray) -> None:
    """Write uncompressed TIFF, or BigTIFF beyond 4 GiB."""
    import tifffile

    channels = image.shape[-1]
    tifffile.imwrite(
        path,
        _contiguous(image),
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        metadata=None,
    )


def _contiguous(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)


_JPEG = Format("JPEG", (1, 3), (), functools.partial(_encode, quality=95))
_TIFF = Format("TIFF", (1, 2, 3, 4), (1, 2, 3, 4), _encode_tiff)
# Grey WebP is read as colour. `exact` keeps the colours of transparent pixels.
_WEBP = Format("WebP", (1, 2, 3, 4), (), functools.partial(_encode, lossless=True, exact=True))
FORMATS = {
    ".png": Format("PNG", (1, 2, 3, 4), (1, 2, 3, 4), _encode_png),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": Format("BMP", (1, 3), (), _encode),
    ".webp": _WEBP,
    ".ppm": Format("PPM", (1, 3), (), _encode),
    ".pgm": Format("PGM", (1,), (1,), _encode),
}
WRITABLE = tuple(FORMATS)

# Pillow's names of the formats that are read. It knows many more: some start other programs, such
# as Ghostscript, or decode pixels before their number is known.
READABLE = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def check_writable(path: str | os.PathLike, channels: int, *, deep: bool = False) -> None:
    """Raise UserError unless the format that `path` names can hold such an image.

    Args:
        path: The file to write.
        channels: Number of channels, 1 to 4.
        deep: Whether samples have 16 bits rather than 8.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"image {path}: expected a suffix of {', '.join(WRITABLE)}")
    name, shallow, deeper, _ = FORMATS[suffix]
    if channels not in (deeper if deep else shallow):
        kind = {1: "grey", 2: "grey with alpha", 3: "colour", 4: "colour with alpha"}[channels]
        raise UserError(f"image {path}: {name} cannot hold {'16-bit ' * deep}{kind}; use .png")


# Describes each damaged file at length, beside what it raises.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
logging.getLogger("tifffile").propagate = False

_PNG_CHANNELS = {2: 3, 4: 2, 6: 4}  # by colour type; Pillow decodes grey and palettes
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Channels of an image by photometric interpretation (1 grey, 2 RGB) and extra samples (2 alpha,
# 0 unspecified, which is dropped).
_TIFF_CHANNELS = {(1, (2,)): 2, (2, ()): 3, (2, (0,)): 3, (2, (2,)): 4}
# None, LZW, deflate (two numbers), PackBits, LZMA, Zstandard. imagecodecs has many more, too little
# used to be trusted with any file.
_TIFF_COMPRESSIONS = (1, 5, 8, 32946, 32773, 34925, 50000)
_CMYK, _PREMULTIPLIED, _CONTIGUOUS = 5, (1,), 1
_ORIENTATION_TAG = 274


def is_tiff(stream: IO[bytes]) -> bool:
    """Return whether a file begins as TIFF does; leaves it at its start."""
    stream.seek(0)
    magic = stream.read(4)
    stream.seek(0)
    return magic in _TIFF_MAGIC


def tiff_size(stream: IO[bytes]) -> tuple[int, int, int]:
    """Return height, width and EXIF orientation of the image in a TIFF file.

    Raises:
        ValueError: There are several images, or it states no size.
    """
    import tifffile

    with tifffile.TiffFile(stream) as tiff:
        page = _only_page(tiff)
        height, width = page.imagelength, page.imagewidth
        if not (isinstance(height, int) and isinstance(width, int)):  # tags may hold several values
            raise ValueError("expected one height and one width")
        return height, width, page.tags.valueof(_ORIENTATION_TAG, 1)


def decode_deep_tiff(stream: IO[bytes]) -> tuple[np.ndarray, int] | None:
    """Decode the image of a TIFF file with several channels of more than 8 bits.

    Returns:
        uint16 [H, W, 2 to 4] as stored and the EXIF orientation, or None for what is left to
        Pillow: CMYK and colours multiplied by alpha, both reduced to 8 bits, and all other images.

    Raises:
        ValueError: There are several images, or the channels, their type or the compression are not
            supported.
    """
    import tifffile

    with tifffile.TiffFile(stream) as tiff:
        page = _only_page(tiff)
        extra = tuple(page.extrasamples)
        contiguous = page.planarconfig == _CONTIGUOUS
        reduced = contiguous and (page.photometric == _CMYK or extra == _PREMULTIPLIED)
        if page.samplesperpixel == 1 or page.bitspersample <= 8 or reduced:
            return None
        channels = _TIFF_CHANNELS.get((page.photometric, extra))
        supported = page.dtype == np.uint16 and page.bitspersample == 16
        if not (channels and supported):
            raise ValueError(
                "expected 8 or 16 bits per channel of grey or RGB, with or without alpha, got "
                f"{page.samplesperpixel} channels of {page.bitspersample}-bit {page.dtype}, "
                f"{page.photometric.name}"
            )
        if page.compression not in _TIFF_COMPRESSIONS:
            raise ValueError(f"compression {page.compression.name} is not supported")
        image = page.asarray(maxworkers=1)
        image = image if contiguous else np.moveaxis(image, 0, -1)
        return image[..., :channels], page.tags.valueof(_ORIENTATION_TAG, 1)


def _only_page(tiff: Any) -> Any:
    """Return the page of a TIFF file beside its thumbnails and masks."""
    for page in itertools.islice(tiff.pages, 1, None):
        if not (page.is_reduced or page.is_mask):
            raise ValueError("expected one page, got a stack; save each page as a file of its own")
    return tiff.pages.first


def decode_deep_png(stream: IO[bytes]) -> np.ndarray | None:
    """Decode a PNG file with several channels of 16 bits.

    Returns:
        uint16 [H, W, 2 to 4] as stored, or None for any other file.
    """
    stream.seek(0)
    header = stream.read(26)
    channels = _PNG_CHANNELS.get(header[25]) if len(header) == 26 else None
    if not header.startswith(b"\x89PNG\r\n\x1a\n") or header[24:25] != b"\x10" or not channels:
        return None
    import imagecodecs

    # Drops the alpha that a transparent colour (tRNS) is decoded to; Pillow ignores it as well.
    return imagecodecs.png_decode(header + stream.read())[..., :channels]
