"""The built-in set: a horse2zebra in miniature, drawn on the fly at any size.

A scene is a sky, a ground and one to three objects (ellipse, box, triangle) that stand on it.
Domain A paints the objects brown on green ground, domain B with black and white stripes on sand;
the sky is alike. The objects never cover most of the ground, so which colour becomes which can be
told from unpaired images. Stripes run through the image at fixed places, the same read from
the left and from the right, so that a painting in A determines the one in B, mirrored or not.
"""

from dataclasses import dataclass

import numpy as np

from cyclegan_jax.utils.errors import UserError

CLASSES = ("sky", "ground", "object")

# RGB; stripes are two colours of one class. No colour of one domain is nearest to the colour of
# its own class in the other, sky apart: images left as they are score as wrong. Neither is the
# grey between the stripes' two: stripes blurred away score as wrong as well.
_SKY = [130, 190, 235]
PALETTES: dict[str, dict[str, list[list[int]]]] = {
    "a": {"sky": [_SKY], "ground": [[40, 140, 50]], "object": [[170, 100, 45]]},
    "b": {"sky": [_SKY], "ground": [[225, 195, 130]], "object": [[20, 20, 20], [240, 240, 240]]},
}

# Greatest change of a channel by noise. Colours are over 100 apart, so that every pixel stays
# nearest to its own class.
NOISE = 8

# Pairs of a black and a white stripe over the image's width: at 64 pixels a period is 4.
_STRIPES = 16
_SMALLEST = 8


@dataclass(frozen=True)
class _Object:
    """A kind of `_AREAS`; centre and half sides in image sides, x to the right, y down."""

    kind: str
    x: float
    y: float
    half_width: float
    half_height: float
    turn: float  # radians


@dataclass(frozen=True)
class _Scene:
    """The height of the horizon from the top, in image sides, and what stands below it."""

    horizon: float
    objects: tuple[_Object, ...]


# Area of a shape in units of half_width * half_height.
_AREAS = {"ellipse": np.pi, "box": 4.0, "triangle": 2.0}


def _draw_scene(rng: np.random.Generator) -> _Scene:
    horizon = rng.uniform(0.25, 0.45)
    number = int(rng.integers(1, 4))
    # Overlaps and the image's edges take some of this away.
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
                turn=rng.uniform(0.0, 2 * np.pi),
            )
        )
    return _Scene(horizon, tuple(objects))


def _covers(thing: _Object, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which of the points [1, W], [H, 1] lie in the object: bool [H, W]."""
    cos, sin = np.float32(np.cos(thing.turn)), np.float32(np.sin(thing.turn))
    dx, dy = x - np.float32(thing.x), y - np.float32(thing.y)
    # The object's own coordinates, in its half sides.
    u = (cos * dx + sin * dy) / np.float32(thing.half_width)
    v = (cos * dy - sin * dx) / np.float32(thing.half_height)
    if thing.kind == "ellipse":
        return u * u + v * v <= 1
    if thing.kind == "box":
        return np.maximum(np.abs(u), np.abs(v)) <= 1
    # As wide as the box at v = 1, a point at v = -1.
    return (v <= 1) & (2 * np.abs(u) <= v + 1)


class ShapesSource:
    """Images of one domain and split, each a function of (split, domain, index) alone.

    The same index shows the same scene at every size. Training scenes of the two domains have
    nothing to do with each other; test scenes are the same in both, so the test image of the
    other domain is the true translation.
    """

    def __init__(self, split: str, domain: str, size: int, count: int) -> None:
        """Describes `count` images of `size` x `size` pixels; nothing is drawn yet.

        Raises:
            UserError: the split, the domain or a number is not one there is.
        """
        if split not in ("train", "test"):
            raise UserError(f"shapes: no split {split!r}; there are train and test")
        if domain not in PALETTES:
            raise UserError(f"shapes: no domain {domain!r}; there are a and b")
        if size < _SMALLEST:
            raise UserError(f"shapes: images of {size} pixels; at least {_SMALLEST} are needed")
        if count < 1:
            raise UserError(f"shapes: {count} images asked for; at least 1 is needed")
        self.split, self.domain, self.size, self.count = split, domain, size, count
        # One stream of scenes per training domain, one for both test domains.
        self._stream = {"train": {"a": 0, "b": 1}, "test": {"a": 2, "b": 2}}[split][domain]
        self.palette = PALETTES[domain]
        first = np.array([self.palette[name][0] for name in CLASSES], np.uint8)
        last = np.array([self.palette[name][-1] for name in CLASSES], np.uint8)
        x = (np.arange(size) + 0.5) / size
        self._x = x.astype(np.float32)[None, :]
        self._y = x.astype(np.float32)[:, None]
        # Centred on a period, hence mirror-symmetric; at least one pixel for each colour.
        phase = x * min(_STRIPES, size // 2) % 1
        light = (phase < 0.25) | (phase >= 0.75)
        # The colour of every class in every column: [W, class, 3].
        self._paint = np.where(light[:, None, None], last, first)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        """The image as uint8 [size, size, 3], RGB; IndexError outside of [0, count)."""
        rng, labels = self._draw(index)
        image = self._paint[np.arange(self.size), labels]
        # Part of the scene, not of the paint: the two paintings of a test scene share it.
        noise = rng.integers(-NOISE, NOISE + 1, image.shape, np.int8)
        # The palette keeps clear of 0 and 255, so adding modulo 256 is adding.
        return image + noise.view(np.uint8)

    def labels(self, index: int) -> np.ndarray:
        """The class of every pixel, uint8 [size, size]: positions in `CLASSES`."""
        return self._draw(index)[1]

    def name(self, index: int) -> str:
        """What to call the image in messages."""
        return f"shapes/{self.split}{self.domain.upper()}/{index:04d}"

    def _draw(self, index: int) -> tuple[np.random.Generator, np.ndarray]:
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name(index)}: there are {self.count}")
        rng = np.random.default_rng([self._stream, index])
        scene = _draw_scene(rng)
        labels = np.zeros((self.size, self.size), np.uint8)
        labels[self._y[:, 0] >= scene.horizon] = 1
        for thing in scene.objects:
            labels[_covers(thing, self._x, self._y)] = 2
        return rng, labels
