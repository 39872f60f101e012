"""Palettes: colours of the classes in label maps, built in or read from files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclegan_jax.data import shapes
from cyclegan_jax.utils.errors import UserError

Colour = Sequence[int]

# Name of colours in a palette file that are not evaluated.
IGNORED = "ignore"
# Labels are bytes, one of which stands for ignored pixels.
_MAX_CLASSES = 255


@dataclass(frozen=True)
class Palette:
    """Colours (RGB, 0 to 255) of label maps.

    Attributes:
        classes: One or more colours of each evaluated class by name.
        ignored: Colours that are not evaluated.
    """

    classes: Mapping[str, Sequence[Colour]]
    ignored: Sequence[Colour] = ()


# The 19 classes that the benchmark evaluates, in the order of its training labels; then the other
# colours of its label maps. Classes that share a colour with an evaluated one (licence plates with
# cars, groups of poles with poles) cannot be distinguished from it in an image.
CITYSCAPES = Palette(
    {
        "road": [[128, 64, 128]],
        "sidewalk": [[244, 35, 232]],
        "building": [[70, 70, 70]],
        "wall": [[102, 102, 156]],
        "fence": [[190, 153, 153]],
        "pole": [[153, 153, 153]],
        "traffic_light": [[250, 170, 30]],
        "traffic_sign": [[220, 220, 0]],
        "vegetation": [[107, 142, 35]],
        "terrain": [[152, 251, 152]],
        "sky": [[70, 130, 180]],
        "person": [[220, 20, 60]],
        "rider": [[255, 0, 0]],
        "car": [[0, 0, 142]],
        "truck": [[0, 0, 70]],
        "bus": [[0, 60, 100]],
        "train": [[0, 80, 100]],
        "motorcycle": [[0, 0, 230]],
        "bicycle": [[119, 11, 32]],
    },
    ignored=[
        [0, 0, 0],  # unlabelled, ego vehicle, static
        [111, 74, 0],  # dynamic
        [81, 0, 81],  # ground
        [250, 170, 160],  # parking
        [230, 150, 140],  # rail track
        [180, 165, 180],  # guard rail
        [150, 100, 100],  # bridge
        [150, 120, 90],  # tunnel
        [0, 0, 90],  # caravan
        [0, 0, 110],  # trailer
    ],
)

# The CMP Facade Database, in the colours of the images that pix2pix and CycleGAN train with.
FACADES = Palette(
    {
        "background": [[0, 0, 170]],
        "facade": [[0, 0, 255]],
        "window": [[0, 85, 255]],
        "door": [[0, 170, 255]],
        "cornice": [[0, 255, 255]],
        "sill": [[85, 255, 170]],
        "balcony": [[170, 255, 85]],
        "blind": [[255, 255, 0]],
        "deco": [[255, 170, 0]],
        "molding": [[255, 85, 0]],
        "pillar": [[255, 0, 0]],
        "shop": [[170, 0, 0]],
    }
)

PALETTES = {
    "cityscapes": CITYSCAPES,
    "facades": FACADES,
    **{f"shapes_{domain}": Palette(colours) for domain, colours in shapes.PALETTES.items()},
}


def find_palette(choice: str) -> Palette:
    """Return a palette of `PALETTES` by name, or read one from a file.

    Raises:
        UserError: There is neither, or the file is not a palette.
    """
    if choice in PALETTES:
        return PALETTES[choice]
    path = Path(choice).expanduser()
    if not path.is_file():
        raise UserError(
            f"palette {choice}: expected one of {', '.join(PALETTES)} or a file with lines "
            "NAME RED GREEN BLUE"
        )
    return read_palette(path)


def read_palette(path: Path) -> Palette:
    """Read a palette from a text file.

    Each line has the name of a class and one of its colours, such as `traffic light 250 170 30`;
    spaces in names become underscores. Classes keep the order of their first lines. Colours called
    `ignore` are not evaluated. Blank lines and lines that start with # are skipped.

    Raises:
        UserError: A line is wrong, a colour occurs twice, or there are too few or too many classes.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"palette {path}: cannot be read: {error}") from error
    classes: dict[str, list[Colour]] = {}
    seen: dict[Colour, int] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        *name, red, green, blue = ("", "", "", *words)
        label = "_".join(filter(None, name))
        values = (red, green, blue)
        if not label or not all(v.isascii() and v.isdigit() and int(v) < 256 for v in values):
            raise UserError(
                f"palette {path}, line {number}: expected NAME RED GREEN BLUE with integers from 0 "
                f"to 255, got {line.strip()!r}"
            )
        colour = (int(red), int(green), int(blue))
        if colour in seen:
            raise UserError(
                f"palette {path}, line {number}: expected a new colour, got {red} {green} {blue} "
                f"of line {seen[colour]}"
            )
        seen[colour] = number
        classes.setdefault(label, []).append(colour)
    ignored = classes.pop(IGNORED, [])
    if not 2 <= len(classes) <= _MAX_CLASSES:
        raise UserError(f"palette {path}: expected 2 to {_MAX_CLASSES} classes, got {len(classes)}")
    return Palette(classes, ignored)
