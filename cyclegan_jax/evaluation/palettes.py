"""Which colours of a label map stand for which classes: known sets, and files that tell it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclegan_jax.utils.errors import UserError

Colour = Sequence[int]

# Of a palette file: the colours that are not evaluated.
IGNORED = "ignore"
# Labels are kept as bytes, with one to spare for what is not evaluated.
_MOST_CLASSES = 255


@dataclass(frozen=True)
class Palette:
    """The colours (RGB, 0 to 255) of label maps.

    Attributes:
        classes: the colours of each evaluated class by its name; a class may have several.
        ignored: colours of what is there but not evaluated.
    """

    classes: Mapping[str, Sequence[Colour]]
    ignored: Sequence[Colour] = ()


# The 19 classes that the benchmark evaluates, in the order of its training numbers; then the other
# colours of its label maps. What shares a colour with an evaluated class (number plates with cars,
# groups of poles with poles) cannot be told from it in an image.
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
        [0, 0, 0],  # unlabelled, the ego vehicle, static things
        [111, 74, 0],  # dynamic things
        [81, 0, 81],  # other ground
        [250, 170, 160],  # parking
        [230, 150, 140],  # rails
        [180, 165, 180],  # guard rail
        [150, 100, 100],  # bridge
        [150, 120, 90],  # tunnel
        [0, 0, 90],  # caravan
        [0, 0, 110],  # trailer
    ],
)

# The CMP Facade Database in the colours of its images, which pix2pix and CycleGAN train with.
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

PALETTES = {"cityscapes": CITYSCAPES, "facades": FACADES}


def find_palette(choice: str) -> Palette:
    """A palette of `PALETTES` by its name, or any from a file by its path.

    Raises:
        UserError: there is neither, or the file is not one.
    """
    if choice in PALETTES:
        return PALETTES[choice]
    path = Path(choice).expanduser()
    if not path.is_file():
        raise UserError(
            f"palette {choice}: expected one of {', '.join(PALETTES)} or a file with lines of "
            "a class's name and its colour (name red green blue)"
        )
    return read_palette(path)


def read_palette(path: Path) -> Palette:
    """A palette from a text file.

    Every line has a class's name and one colour of it, as `traffic light 250 170 30`; blanks in
    names become underscores. Classes are in the order of their first lines. Colours of `ignore`
    are not evaluated. Blank lines, and those that begin with #, are left out.

    Raises:
        UserError: a line is wrong, a colour is there twice, or there are too few or many classes.
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
                f"palette {path}, line {number}: {line.strip()!r}; expected a name and three "
                "whole numbers from 0 to 255 (name red green blue)"
            )
        colour = (int(red), int(green), int(blue))
        if colour in seen:
            raise UserError(
                f"palette {path}, line {number}: the colour {red} {green} {blue} is already in "
                f"line {seen[colour]}"
            )
        seen[colour] = number
        classes.setdefault(label, []).append(colour)
    ignored = classes.pop(IGNORED, [])
    if not 2 <= len(classes) <= _MOST_CLASSES:
        raise UserError(
            f"palette {path}: {len(classes)} classes; expected from 2 to {_MOST_CLASSES}"
        )
    return Palette(classes, ignored)
