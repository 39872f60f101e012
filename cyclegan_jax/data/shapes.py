"""Built-in dataset: a small horse2zebra, drawn on the fly at any size.

A scene has sky, ground and one to three objects (ellipse, box, triangle). Domain A paints brown
objects on green ground, domain B black-and-white striped objects on sand, under the same sky. The
objects never cover most of the ground, so unpaired images determine which colour becomes which.
Stripes have fixed, mirror-symmetric positions in the image, so that an image of A determines that
of B, flipped or not.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cyclegan_jax.utils.errors import UserError

CLASSES = ("sky", "ground", "object")

# RGB; stripes are two colours of one class. Except for the sky, no colour of one domain is nearest
# to the colour of the same class in the other, so unchanged images score as wrong. The grey between
# the colours of the stripes is not either, so blurred stripes score as wrong as well.
_SKY = [130, 190, 235]
PALETTES: dict[str, dict[str, list[list[int]]]] = {
    "a": {"sky": [_SKY], "ground": [[40, 140, 50]], "object": [[170, 100, 45]]},
    "b": {"sky": [_SKY], "ground": [[225, 195, 130]], "object": [[20, 20, 20], [240, 240, 240]]},
}

# Maximum noise per channel. Colours are over 100 apart, so every pixel stays nearest to its class.
NOISE = 8

# Pairs of a black and a white stripe across the image: the period is 4 pixels in an image of 64.
_STRIPES = 16
_MIN_SIZE = 8


@dataclass(frozen=True)
class _Object:
    """Object with its centre and half sides in units of the image's side, x right, y down."""

    kind: str  # a key of _AREAS
    x: float
    y: float
    half_width: float
    half_height: float
    angle: float  # radians


@dataclass(frozen=True)
class _Scene:
    """Objects below a horizon, whose distance from the top is in units of the image's side."""

    horizon: float
    objects: tuple[_Object, ...]


# Area in units of half_width * half_height.
_AREAS = {"ellipse": np.pi, "box": 4.0, "triangle": 2.0}


def _draw_scene(rng: np.random.Generator) -> _Scene:
    horizon = rng.uniform(0.25, 0.45)
    number = int(rng.integers(1, 4))
    # Before overlaps and the image's edges hide some of it.
    area = rng.uniform(0.22, 0.38) / number
    objects = []
    for _ in range(number):
        kind = list(_AREAS)[rng.integers(3)]
        side = np.sqrt(area / _AREAS[kind])
        stretch = np.sqrt(rng.uniform(0.6, 1.6))
        objects.append(
            _Object(
                kind,
                x=rng.uniform(0.2, 0.8),
                y=rng.uniform(horizon + 0.1, 0.8),
                half_width=side * stretch,
                half_height=side / stretch,
                angle=rng.uniform(0.0, 2 * np.pi),
            )
        )
    return _Scene(horizon, tuple(objects))


def _mask(shape: _Object, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mask of an object, bool [H, W], for coordinates x [1, W] and y [H, 1]."""
    cos, sin = np.float32(np.cos(shape.angle)), np.float32(np.sin(shape.angle))
    dx, dy = x - np.float32(shape.x), y - np.float32(shape.y)
    # Coordinates of the object, in units of its half sides.
    u = (cos * dx + sin * dy) / np.float32(shape.half_width)
    v = (cos * dy - sin * dx) / np.float32(shape.half_height)
    if shape.kind == "ellipse":
        return u * u + v * v <= 1
    if shape.kind == "box":
        return np.maximum(np.abs(u), np.abs(v)) <= 1
    # The triangle is as wide as the box at v = 1, and a point at v = -1.
    return (v <= 1) & (2 * np.abs(u) <= v + 1)


class ShapesSource:
    """Source of drawn images, each a function of (split, domain, index) alone.

    An index shows the same scene at every size. The training scenes of the two domains are
    independent; their test scenes are the same, so the test image of the other domain is the true
    translation.

    Args:
        split: "train" or "test".
        domain: "a" or "b".
        size: Height and width in pixels, at least 8.
        count: Number of images, at least 1.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(self, split: str, domain: str, size: int, count: int) -> None:
        if split not in ("train", "test"):
            raise UserError(f"shapes: expected split train or test, got {split!r}")
        if domain not in PALETTES:
            raise UserError(f"shapes: expected domain a or b, got {domain!r}")
        if size < _MIN_SIZE:
            raise UserError(f"shapes: expected a size of at least {_MIN_SIZE} pixels, got {size}")
        if count < 1:
            raise UserError(f"shapes: expected at least 1 image, got {count}")
        self.split, self.domain, self.size, self.count = split, domain, size, count
        # Streams of scenes: one per training domain, one for both test domains.
        self._stream = {"train": {"a": 0, "b": 1}, "test": {"a": 2, "b": 2}}[split][domain]
        self.palette = PALETTES[domain]
        first = np.array([self.palette[name][0] for name in CLASSES], np.uint8)
        last = np.array([self.palette[name][-1] for name in CLASSES], np.uint8)
        x = (np.arange(size) + 0.5) / size
        self._x = x.astype(np.float32)[None, :]
        self._y = x.astype(np.float32)[:, None]
        # Centred on a period, hence mirror-symmetric; at least one pixel per colour.
        phase = x * min(_STRIPES, size // 2) % 1
        light = (phase < 0.25) | (phase >= 0.75)
        # Colour of each class in each column: [W, class, 3].
        self._paint = np.where(light[:, None, None], last, first)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        """Return an image, RGB uint8 [size, size, 3]; raise IndexError outside of [0, count)."""
        rng, labels = self._draw(index)
        image = self._paint[np.arange(self.size), labels]
        # Drawn from the scene's generator: both images of a test scene have the same noise.
        noise = rng.integers(-NOISE, NOISE + 1, image.shape, np.int8)
        # No colour is within the noise of 0 or 255, so that addition modulo 256 never wraps.
        return image + noise.view(np.uint8)

    def labels(self, index: int) -> np.ndarray:
        """Return the class of each pixel as an index into `CLASSES`, uint8 [size, size]."""
        return self._draw(index)[1]

    def name(self, index: int) -> str:
        """Return the name of an image for messages."""
        return f"shapes/{self.split}{self.domain.upper()}/{index:04d}"

    def _draw(self, index: int) -> tuple[np.random.Generator, np.ndarray]:
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name(index)}: expected an index below {self.count}")
        rng = np.random.default_rng([self._stream, index])
        scene = _draw_scene(rng)
        labels = np.zeros((self.size, self.size), np.uint8)
        labels[self._y[:, 0] >= scene.horizon] = 1
        for shape in scene.objects:
            labels[_mask(shape, self._x, self._y)] = 2
        return rng, labels


def shapes_source(settings: Any, split: str, domain: str) -> ShapesSource:
    """Open one split and domain of the built-in dataset.

    Args:
        settings: The `data` section of the configuration.
        split: "train" or "test".
        domain: "a" or "b".
    """
    count = settings.shapes_train if split == "train" else settings.shapes_test
    return ShapesSource(split, domain, settings.shapes_size, count)
