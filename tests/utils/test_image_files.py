"""Image files: read and written without loss, or refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageFile

from cyclegan_jax.utils import image_io
from cyclegan_jax.utils.errors import UserError


def random_image(channels, dtype=np.uint8, height=5, width=7):
    rng = np.random.default_rng(channels)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)


def pillow_image(image):
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def png16(image):
    """Encode 16-bit PNG after the specification: filter 0, one chunk."""
    height, width, channels = image.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff16(image, order, deflate):
    """Encode 16-bit colour TIFF after the specification: one strip, `order` < or >."""
    height, width, channels = image.shape
    data = image.astype(order + "u2").tobytes()
    data = zlib.compress(data) if deflate else data
    after = 8 + 2 + 12 * (10 if channels == 4 else 9) + 4
    entries = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 4, channels, after),  # an offset, for the values do not fit in
        (259, 3, 1, 8 if deflate else 1),
        (262, 3, 1, 2),
        (273, 4, 1, after + 2 * channels),
        (277, 3, 1, channels),
        (278, 3, 1, height),
        (279, 4, 1, len(data)),
    ] + [(338, 3, 1, 2)] * (channels == 4)
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    for tag, kind, count, value in entries:
        packed = struct.pack(order + ("HH" if kind == 3 else "I"), *([value, 0][: 5 - kind]))
        out += struct.pack(order + "HHI", tag, 3 if tag == 258 else kind, count) + packed
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    return out + struct.pack(order + "I", 0) + bits + data


@pytest.mark.parametrize(
    ("suffix", "channels"),
    [(s, c) for s in (".png", ".tif") for c in (1, 2, 3, 4)]
    + [(".bmp", 1), (".bmp", 3), (".ppm", 3), (".pgm", 1)],
)
def test_lossless_files_are_read_exactly(tmp_path, suffix, channels):
    """Every sample of an 8-bit file is read, alpha included."""
    image = random_image(channels)
    pillow_image(image).save(tmp_path / f"x{suffix}")
    read = image_io.read_image(tmp_path / f"x{suffix}")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_files_are_read_nearly(tmp_path, suffix):
    """A smooth image is read to within a few levels."""
    ramp = np.linspace(0, 200, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / f"x{suffix}", quality=95)
    read = image_io.read_image(tmp_path / f"x{suffix}")
    assert np.abs(read.astype(int) - ramp).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_grey_is_kept(tmp_path, suffix):
    """16-bit grey is read as uint16, value by value."""
    image = random_image(1, np.uint16)
    Image.fromarray(image[..., 0]).save(tmp_path / f"x{suffix}")
    read = image_io.read_image(tmp_path / f"x{suffix}")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_kept(channels):
    """16-bit PNG of every colour type is read exactly (Pillow keeps the high bytes)."""
    image = random_image(channels, np.uint16)
    read = image_io.decode_image(io.BytesIO(png16(image)), "x")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_tiff_is_kept(tmp_path, channels, order, deflate):
    """16-bit colour TIFF is read exactly, in both byte orders, compressed or not."""
    image = random_image(channels, np.uint16)
    (tmp_path / "x.tif").write_bytes(tiff16(image, order, deflate))
    read = image_io.read_image(tmp_path / "x.tif")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd"])
def test_16_bit_tiff_of_other_programs_is_kept(tmp_path, channels, planar, compression):
    """Planes, tiles, predictors, the usual compressions and BigTIFF are read exactly."""
    image = random_image(channels, np.uint16, 24, 40)
    path = tmp_path / "x.tif"
    planes = image if planar == "contig" else np.moveaxis(image, -1, 0)
    tifffile.imwrite(
        path,
        planes,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig=planar,
        extrasamples=["unassalpha"] if channels != 3 else None,
        compression=compression,
        predictor=compression in ("lzw", "zlib"),
        tile=(16, 16) if compression == "lzw" else None,
        bigtiff=compression == "zlib",
        byteorder="<",
    )
    if compression is None:
        assert planes.tobytes() in path.read_bytes()
    np.testing.assert_array_equal(image_io.read_image(path), image)
    assert image_io.read_size(path) == (24, 40)


@pytest.mark.parametrize(
    ("dtype", "channels", "compression", "named"),
    [
        (np.float32, 3, None, "3 channels of 32-bit float32"),
        (np.int16, 3, None, "3 channels of 16-bit int16"),
        (np.uint16, 5, None, "5 channels of 16-bit uint16"),
        (np.uint16, 3, "jpeg2000", "compression JPEG2000"),
    ],
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_channels_that_are_not_supported_are_named(
    tmp_path, dtype, channels, compression, named, planar
):
    """Neither a channel nor a bit is dropped silently."""
    image = random_image(channels, np.uint16, 32, 32).astype(dtype)
    tifffile.imwrite(
        tmp_path / "x.tif",
        image if planar == "contig" else np.moveaxis(image, -1, 0),
        photometric="rgb" if channels == 3 else "minisblack",
        planarconfig=planar,
        compression=compression,
    )
    with pytest.raises(UserError, match=rf"x\.tif cannot be read: .*{named}"):
        image_io.read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_of_several_pages_is_refused(tmp_path, dtype, channels):
    """No page is dropped silently; thumbnails and masks are no pages."""
    image = random_image(channels, dtype, 32, 32)
    values = image[..., 0] if channels == 1 else image
    photometric = "rgb" if channels == 3 else "minisblack"
    with tifffile.TiffWriter(tmp_path / "thumbnail.tif") as tiff:
        tiff.write(values, photometric=photometric, metadata=None)
        tiff.write(values[::4, ::4], photometric=photometric, subfiletype=1, metadata=None)
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "thumbnail.tif"), image)
    assert image_io.read_size(tmp_path / "thumbnail.tif") == (32, 32)
    tifffile.imwrite(tmp_path / "x.tif", np.stack([values, values]), photometric=photometric)
    for read in (image_io.read_image, image_io.read_size):
        with pytest.raises(
            UserError, match=r"x\.tif cannot be read: expected one page, got a stack"
        ):
            read(tmp_path / "x.tif")


# Primaries of Adobe RGB and of sRGB, as XYZ under D50: columns are red, green and blue.
ADOBE_RGB = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
ADOBE_GAMMA = 563 / 256


def icc(primaries, gamma):
    """Encode an RGB profile of ICC version 2 with one gamma."""
    tags = {b"wtpt": (0.9642, 1.0, 0.8249)}
    tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True))
    bodies = {
        name: b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))
        for name, values in tags.items()
    }
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    bodies |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    offset, table, data = 132 + 12 * len(bodies), b"", b""
    for name, body in bodies.items():
        table += name + struct.pack(">II", offset + len(data), len(body))
        data += body
    white = struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))
    header = struct.pack(">I4sI", offset + len(data), b"\0\0\0\0", 0x02100000) + b"mntrRGB XYZ "
    header = (header.ljust(36, b"\0") + b"acsp").ljust(68, b"\0") + white
    return header.ljust(128, b"\0") + struct.pack(">I", len(bodies)) + table + data


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_a_wide_profile_become_srgb(tmp_path, suffix, channels):
    """The colours are those of the standards' formulas, where sRGB has them; alpha is kept."""
    image = random_image(channels, height=40, width=40)
    image[..., :3] = 90 + image[..., :3] // 4  # nothing outside of sRGB
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    profile = icc(ADOBE_RGB, ADOBE_GAMMA)
    pillow_image(image).save(tmp_path / f"x{suffix}", icc_profile=profile, **options)
    linear = (image[..., :3] / 255) ** ADOBE_GAMMA @ (np.linalg.inv(SRGB) @ ADOBE_RGB).T
    expected = 255 * (1.055 * np.clip(linear, 0, 1) ** (1 / 2.4) - 0.055)
    read = image_io.read_image(tmp_path / f"x{suffix}")
    assert np.abs(read[..., :3] - expected).max() < 2
    assert np.abs(read[..., :3].astype(int) - image[..., :3]).max() > 8
    np.testing.assert_array_equal(read[..., 3:], image[..., 3:])


@pytest.mark.parametrize(
    "profile",
    [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"damaged"],
)
def test_profiles_without_effect(tmp_path, profile):
    """Of an image in sRGB no value changes; a damaged profile is ignored, as viewers do."""
    image = random_image(3, height=40, width=40)
    pillow_image(image).save(tmp_path / "x.png", icc_profile=profile)
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "x.png"), image)


# Operations that bring an image stored with each orientation upright, after the EXIF standard.
UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: np.swapaxes(x, 0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.swapaxes(np.rot90(x, 2), 0, 1),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    """Images are upright after reading, and the header gives their size."""
    blocks = np.array([[10, 240], [90, 170], [30, 200]], np.uint8)
    image = np.kron(blocks, np.ones((16, 16), np.uint8))[..., None]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x{suffix}"
    pillow_image(image).save(path, exif=exif)
    read = image_io.read_image(path)
    expected = UPRIGHT[orientation](image)
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).max() <= 3
    assert image_io.read_size(path) == expected.shape[:2]


def with_exif(png, orientation, offset):
    """Insert an eXIf chunk into a PNG file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:offset] + chunk + png[offset:]


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_orientation_is_applied_to_16_bit_colour(tmp_path, suffix, orientation):
    """All bits of a sample are rotated alike."""
    image = random_image(3, np.uint16)
    path = tmp_path / f"x{suffix}"
    if suffix == ".png":
        path.write_bytes(with_exif(png16(image), orientation, 33))
    else:
        tifffile.imwrite(
            path, image, photometric="rgb", extratags=[(0x0112, "H", 1, orientation, True)]
        )
    expected = UPRIGHT[orientation](image)
    np.testing.assert_array_equal(image_io.read_image(path), expected)
    assert image_io.read_size(path) == expected.shape[:2]


@pytest.mark.parametrize("offset", [33, -12])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_size_needs_no_pixels(tmp_path, monkeypatch, offset, channels):
    """EXIF data before or after the pixels are found without decoding them."""
    image = random_image(channels, np.uint16)
    (tmp_path / "x.png").write_bytes(with_exif(png16(image), 6, offset))
    (tmp_path / "plain.png").write_bytes(png16(image))
    expected = np.rot90(image, -1)
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "x.png"), expected)

    def load(self):
        raise AssertionError("pixels are decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert image_io.read_size(tmp_path / "x.png") == expected.shape[:2]
    assert image_io.read_size(tmp_path / "plain.png") == image.shape[:2]


def test_palettes_are_expanded(tmp_path):
    """Palette indices become colours, with alpha where the palette has it."""
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette([255, 0, 0, 0, 255, 0, 9, 8, 7])
    image.save(tmp_path / "x.png")
    colours = np.array([[255, 0, 0], [0, 255, 0], [9, 8, 7]])
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "x.png"), colours[indices])
    image.save(tmp_path / "y.png", transparency=1)
    read = image_io.read_image(tmp_path / "y.png")
    np.testing.assert_array_equal(read[..., :3], colours[indices])
    np.testing.assert_array_equal(read[..., 3], [[255, 0], [255, 0]])


def test_bilevel_and_cmyk_are_expanded(tmp_path):
    """One bit becomes black and white grey, CMYK becomes RGB."""
    bits = np.array([[True, False, True]])
    Image.fromarray(bits).save(tmp_path / "x.png")
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "x.png")[..., 0], [[255, 0, 255]])
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg")
    read = image_io.read_image(tmp_path / "x.jpg")
    assert read.shape == (16, 16, 3)
    assert np.abs(read.astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize(
    "values", [np.zeros((4, 4), np.float32), np.full((4, 4), -1, np.int32), np.array([[70000]])]
)
def test_samples_out_of_range_are_refused(tmp_path, values):
    """Floating-point, negative and 32-bit samples are refused rather than clipped."""
    Image.fromarray(values if values.dtype == np.float32 else values.astype(np.int32)).save(
        tmp_path / "x.tif"
    )
    with pytest.raises(UserError, match=r"x\.tif: expected 8 or 16 bits"):
        image_io.read_image(tmp_path / "x.tif")


@pytest.mark.parametrize(
    "kind",
    ["missing", "text", "empty", "folder", "short.jpg", "short.png", "short.tif", "deep.png"],
)
def test_unreadable_files_are_named_in_one_line(tmp_path, kind):
    """Damage of any kind is a UserError of one line with the file's name."""
    path = tmp_path / f"x{Path(kind).suffix or '.jpg'}"
    if kind == "text":
        path.write_text("this is not\nan image\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        deep = kind in ("deep.png", "short.tif")
        image_io.write_image(path, random_image(3, np.uint16 if deep else np.uint8, 64, 64))
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UserError) as error:
        image_io.read_image(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def ico(png):
    """Return an ICO file that contains a PNG file and states 16 x 16 pixels."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


@pytest.mark.parametrize("kind", ["GIF", "EPS", "ICO", "TGA"])
def test_other_formats_are_refused_whatever_the_name(tmp_path, monkeypatch, kind):
    """Pillow's further decoders, such as Ghostscript, do not even look at a file."""
    encoded = io.BytesIO()
    pillow_image(random_image(3)).save(encoded, "PNG" if kind == "ICO" else kind)
    path = tmp_path / "x.png"
    path.write_bytes(ico(encoded.getvalue()) if kind == "ICO" else encoded.getvalue())

    def accept(*_):
        raise AssertionError(f"opened as {kind}")

    Image.init()
    monkeypatch.setitem(Image.OPEN, kind, (accept, accept))
    for read in (image_io.read_image, image_io.read_size):
        with pytest.raises(
            UserError, match=r"x\.png cannot be read: it is not an image of a known"
        ):
            read(path)


# Channels of 8 and of 16 bits that each format can hold.
HELD = {
    ".png": ([1, 2, 3, 4], [1, 2, 3, 4]),
    ".tif": ([1, 2, 3, 4], [1, 2, 3, 4]),
    ".webp": ([1, 2, 3, 4], []),
    ".bmp": ([1, 3], []),
    ".ppm": ([1, 3], []),
    ".pgm": ([1], [1]),
}


@pytest.mark.parametrize("suffix", HELD)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_written_images_are_read_exactly(tmp_path, suffix, channels, dtype):
    """Writing and reading is exact, or refused with the fix."""
    image = random_image(channels, dtype)
    path = tmp_path / f"x{suffix}"
    if channels not in HELD[suffix][dtype == np.uint16]:
        with pytest.raises(UserError, match="use .png"):
            image_io.write_image(path, image)
        return
    image_io.write_image(path, image)
    read = image_io.read_image(path)
    assert read.dtype == dtype
    if suffix == ".webp" and channels < 3:  # WebP has no grey
        assert np.all(read[..., :3] == read[..., :1])
        read = read[..., [0, 3][:channels]]
    np.testing.assert_array_equal(read, image)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_pillow_reads_written_colour(tmp_path, suffix, channels, dtype):
    """Pillow finds size, colours and alpha (of 16 bits it keeps the high bytes)."""
    image = random_image(channels, dtype)
    image_io.write_image(tmp_path / f"x{suffix}", image)
    with Image.open(tmp_path / f"x{suffix}") as pil:
        assert pil.mode == {3: "RGB", 4: "RGBA"}[channels]
        np.testing.assert_array_equal(np.asarray(pil), image >> 8 * (dtype == np.uint16))


def test_names_that_differ_in_case(tmp_path, monkeypatch):
    """Files that two threads write at once are not mixed up."""
    dark, bright = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    replace = Path.replace

    def replace_later(self, target):
        if target.name == "a.png":
            image_io.write_image(target.with_name("a.PNG"), bright)
        replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_later)
    image_io.write_image(tmp_path / "a.png", dark)
    assert image_io.read_image(tmp_path / "a.png").max() == 0
    assert image_io.read_image(tmp_path / "a.PNG").min() == 255


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """A write that fails half-way keeps the old file and leaves no other."""
    path = tmp_path / "x.png"
    old, new = random_image(3), random_image(4)
    image_io.write_image(path, old)

    def save(self, file, **_):
        file.write_bytes(b"half an image")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(UserError, match="No space left on device"):
        image_io.write_image(path, new)
    np.testing.assert_array_equal(image_io.read_image(path), old)
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("name", ["x.gif", "missing/x.png", "x"])
def test_unwritable_names_are_refused(tmp_path, name):
    """An unknown suffix or a missing folder is a UserError."""
    with pytest.raises(UserError, match="x"):
        image_io.write_image(tmp_path / name, random_image(3))


@pytest.mark.parametrize("image", [random_image(4), random_image(1, np.uint16)])
def test_jpeg_refuses_what_it_cannot_hold(tmp_path, image):
    """JPEG drops neither alpha nor bits silently."""
    with pytest.raises(UserError, match="JPEG"):
        image_io.write_image(tmp_path / "x.jpg", image)


def test_size_that_the_file_cannot_hold(tmp_path, monkeypatch):
    """A small file that states 4,000 million pixels is refused before they are allocated."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # the app lowers it
    path = tmp_path / "image.bmp"
    Image.new("RGB", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[18:26] = struct.pack("<ii", 60_000, 70_000)  # width and height
    path.write_bytes(data)
    for read in (image_io.read_image, image_io.read_size):
        with pytest.raises(UserError, match="246 bytes cannot hold the 60000 x 70000 pixels"):
            read(path)


def test_tiff_with_several_widths(tmp_path, caplog):
    """A width that is a list of numbers is refused, and the decoder's log is not shown."""
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.zeros((8, 9), np.uint8))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["ImageWidth"].overwrite([9, 9, 9])
    with pytest.raises(UserError, match="expected one height and one width"):
        image_io.read_size(path)
    with pytest.raises(UserError):
        image_io.read_image(path)
    assert not caplog.records
