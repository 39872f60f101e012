"""Damaged and odd images of all formats, in training, in `translate` and in the app.

    python -m tests.campaigns.images --trials 2000

Each trial writes one file: an image of a random size, mode and format (palettes, CMYK, floating
point, 1 to 32 bits, interlaced, animated, several pages, ICC profiles, EXIF orientations), mostly
damaged afterwards: bytes changed, removed, inserted or zeroed, the file truncated, absurd numbers
written into its header, or the name's suffix that of another format. It must be refused in one line
or give results of the size that its header states.
"""

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms

from cyclegan_jax.app import Demo
from cyclegan_jax.data import build_transform
from cyclegan_jax.data.folder import SUFFIXES
from cyclegan_jax.data.transforms import TRANSFORMS
from cyclegan_jax.default_config import get_config
from cyclegan_jax.inference.files import plan_files, translate_files
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import read_image, read_size
from tests.campaigns import harness
from tests.translators import scaled_translator

MAX_PIXELS = 2**16
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM", "GIF")
OTHERS = ("ICO", "EPS", "PDF", "TGA", "PCX", "ICNS", "SGI", "DDS", "JPEG2000")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F")
# Numbers that headers are overwritten with.
ABSURD = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 65535, 100_000, 1 << 24)


def random_image(rng: np.random.Generator) -> Image.Image:
    """Draw an image of a random mode, with an orientation and a colour profile at times."""
    height, width = (int(n) for n in rng.choice([1, 2, 7, 16, 33, 64, 129], 2))
    mode = str(rng.choice([*MODES, "I;16"]))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), np.uint16))
    if mode in ("I", "F"):
        values = rng.normal(0, 1000, (height, width))
        return Image.fromarray(values.astype(np.int32 if mode == "I" else np.float32))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    if mode in ("PA", "LAB", "RGBX", "HSV", "YCbCr", "CMYK"):
        try:
            return image.convert(mode)
        except ValueError:
            return image
    image = image.convert(mode)
    if mode == "P" and rng.random() < 0.5:
        image.info["transparency"] = int(rng.integers(256))
    return image


def encode(rng: np.random.Generator) -> tuple[bytes, str]:
    """Return the bytes of an image file, and its format."""
    if rng.random() < 0.15:
        return random_tiff(rng), "TIFF"
    image = random_image(rng)
    kind = str(rng.choice(FORMATS if rng.random() < 0.9 else OTHERS))
    options: dict[str, object] = {}
    if rng.random() < 0.2:
        exif = Image.Exif()
        exif[274] = int(rng.integers(0, 12))
        options["exif"] = exif
    if rng.random() < 0.2:
        options["icc_profile"] = icc_profile(rng)
    if kind in ("GIF", "PNG", "TIFF", "WEBP") and rng.random() < 0.2:
        frames = [random_image(rng) for _ in range(int(rng.integers(1, 4)))]
        options |= {"save_all": True, "append_images": frames}
    if kind == "JPEG":
        options["progressive"] = bool(rng.random() < 0.5)
    stream = io.BytesIO()
    for mode in (None, "RGB"):
        try:
            stream = io.BytesIO()
            (image if mode is None else image.convert(mode)).save(stream, kind, **options)
            break
        except (OSError, ValueError, TypeError, KeyError, SystemError, RuntimeError):
            options = {}  # the format holds no such image, or no such option
    return stream.getvalue(), kind


def icc_profile(rng: np.random.Generator) -> bytes:
    """Return a colour profile, at times one of random bytes."""
    if rng.random() < 0.3:
        return rng.bytes(int(rng.integers(1, 300)))
    name = str(rng.choice(["sRGB", "LAB", "XYZ"]))
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def random_tiff(rng: np.random.Generator) -> bytes:
    """Return a TIFF file of a type that Pillow may not know."""
    dtype = str(rng.choice(["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8", "c8"]))
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 4, 9, 32], int(rng.integers(2, 5))))
    options: dict[str, object] = {}
    if rng.random() < 0.5:
        options["compression"] = str(rng.choice(["zlib", "lzw", "zstd", "lzma", "packbits"]))
    if rng.random() < 0.3:
        options["bigtiff"] = True
    if rng.random() < 0.3:
        options["tile"] = (16, 16)
    if rng.random() < 0.3:
        options["planarconfig"] = str(rng.choice(["contig", "separate"]))
    array = rng.integers(0, 100, shape).astype(dtype)
    for tried in (options, {}):
        stream = io.BytesIO()
        try:
            tifffile.imwrite(stream, array, **tried)
        except Exception:
            continue
        return stream.getvalue()
    return b""


def damage(rng: np.random.Generator, data: bytes) -> bytes:
    """Return a damaged copy of a file."""
    if len(data) < 16:
        return data
    changed = bytearray(data)

    def position(until: int | None = None) -> int:
        return int(rng.integers(0, max(1, min(until or len(changed), len(changed)))))

    def bytes_changed() -> None:
        for _ in range(int(rng.integers(1, 20))):
            start = position()
            changed[start : start + 1] = rng.bytes(1)

    def header_changed() -> None:
        for _ in range(int(rng.integers(1, 6))):
            start = position(128)
            changed[start : start + 1] = rng.bytes(1)

    def absurd_number() -> None:
        value, order = int(rng.choice(ABSURD)), "big" if rng.random() < 0.5 else "little"
        size = int(rng.choice([2, 4]))
        start = position(128)
        number = (value % 256**size).to_bytes(size, order)  # type: ignore[arg-type]
        changed[start : start + size] = number

    def truncated() -> None:
        del changed[position() :]

    def removed() -> None:
        start = position()
        del changed[start : start + int(rng.integers(1, 64))]

    def inserted() -> None:
        start = position()
        changed[start:start] = rng.bytes(int(rng.integers(1, 64)))

    def zeroed() -> None:
        start = position()
        size = len(changed[start : start + 64])
        changed[start : start + size] = bytes(size)

    ways: list[Callable[[], None]] = [bytes_changed, header_changed, absurd_number, truncated]
    ways += [removed, inserted, zeroed]
    for _ in range(int(rng.integers(1, 4))):
        ways[int(rng.integers(len(ways)))]()
    return with_valid_checksums(bytes(changed)) if rng.random() < 0.5 else bytes(changed)


def with_valid_checksums(data: bytes) -> bytes:
    """Correct the checksums of a PNG file, so that its decoder goes on; return others unchanged."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    result, place = bytearray(data), 8
    while place + 12 <= len(result):
        length = int.from_bytes(result[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(result):
            break
        result[end : end + 4] = zlib.crc32(result[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(result)


def trial(seed: int, folder: Path) -> str:
    """Write a file and read it in every way that the program does."""
    rng = np.random.default_rng(seed)
    data, kind = encode(rng)
    if rng.random() < 0.85:
        data = damage(rng, data)
    suffix = str(rng.choice(SUFFIXES)) if rng.random() < 0.3 else suffix_of(kind)
    path = folder / f"image{suffix}"
    path.write_bytes(data)
    read = tried(lambda: check_reading(path))
    prepared = tried(lambda: check_transform(rng, path))
    translated = tried(lambda: check_translation(path, folder / "out"))
    shown = tried(lambda: check_app(path))
    results = {"read": read, "prepared": prepared, "translated": translated, "shown": shown}
    refused = {name: message for name, message in results.items() if message}
    if "read" in refused:
        if "translated" not in refused or "shown" not in refused:
            raise harness.WrongResultError(f"{kind}{suffix}: cannot be read, but used: {refused}")
        raise UserError(refused["read"])
    return f"{kind}{suffix}"


def suffix_of(kind: str) -> str:
    """Return the usual suffix of a format among those that are searched for, or .png."""
    suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")
    return suffix if suffix in SUFFIXES else ".png"


def tried(use: Callable[[], None]) -> str:
    """Call a function, and return the line with which it refuses, or an empty string."""
    try:
        use()
    except UserError as error:
        if "\n" in str(error):
            raise harness.WrongResultError(f"several lines: {error}") from error
        return str(error)
    return ""


def check_reading(path: Path) -> None:
    """Read a file, whose header must state the size that it has."""
    size = read_size(path)
    image = read_image(path)
    if image.dtype not in (np.uint8, np.uint16) or image.ndim != 3 or not 1 <= image.shape[2] <= 4:
        raise harness.WrongResultError(f"read as {image.dtype} {image.shape}")
    if image.shape[:2] != size:
        raise harness.WrongResultError(f"header {size}, image {image.shape}")


def check_transform(rng: np.random.Generator, path: Path) -> None:
    """Prepare a file for training with a random transform."""
    config = get_config().data
    config.transform = str(rng.choice(sorted(TRANSFORMS)))
    config.load_size, config.crop_size = 20, 16
    config.channels_a = int(rng.choice([1, 3]))
    config.bit_depth = int(rng.choice([8, 16]))
    transform = build_transform(config, "a")
    height, width = read_size(path)
    if height * width > MAX_PIXELS:
        return
    prepared = transform.augment(transform.prepare(read_image(path), str(path)), rng)
    expected = np.uint8 if config.bit_depth == 8 else np.uint16
    if prepared.dtype != expected or prepared.shape[2] != config.channels_a:
        raise harness.WrongResultError(f"prepared as {prepared.dtype} {prepared.shape}")


def check_translation(path: Path, output: Path) -> None:
    """Translate a file as `translate` does, unless it is valid and large."""
    height, width = read_size(path)
    if height * width > MAX_PIXELS:
        read_image(path)
        return
    translator = scaled_translator()
    plans = plan_files(path, output, suffix=".png", round_trip=True)
    failures = translate_files(translator, plans, lambda: None)
    if failures:
        raise UserError(*failures.values())
    for target in plans[0].targets:
        if read_image(target).shape[:2] != (height, width):
            raise harness.WrongResultError(f"{target.name} has another size than {height, width}")


def check_app(path: Path) -> None:
    """Show a file in the app."""
    demo = Demo(scaled_translator(), max_pixels=MAX_PIXELS)
    [(status, *files)] = [list(result) for result in demo.update(str(path), "a_to_b")]
    if 'class="status error"' in status:
        raise UserError(status)
    if None in files:
        raise harness.WrongResultError("the app shows no images, and no error")


if __name__ == "__main__":
    run = harness.in_processes(trial, seconds=20, mib=3000, growth=600)
    harness.main(__doc__, harness.separate_trials(run), trials=2000)
