"""Test sets and what a model makes of them: the images that figures are computed from."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclegan_jax import data
from cyclegan_jax.data.folder import search
from cyclegan_jax.inference.batching import ahead, batches
from cyclegan_jax.inference.prepare import Prepared, finish
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import make_folder, read_image, write_image

REAL = ("real_a", "real_b")
# {kind of made images: (what they are made from, the network that makes them)}
MADE = {
    "fake_b": ("real_a", "gen_ab"),
    "fake_a": ("real_b", "gen_ba"),
    "cycled_a": ("fake_b", "gen_ba"),
    "cycled_b": ("fake_a", "gen_ab"),
    "identity_a": ("real_a", "gen_ba"),
    "identity_b": ("real_b", "gen_ab"),
}
_PIXELS, _IMAGES = 2**18, 16  # that a device computes at a time; of larger images, one


class Images(NamedTuple):
    """Images [H, W, C] of uint8 or uint16 in a list, and what each is called.

    Names are those of files without folders and suffix, numbered where two would be alike.
    """

    images: Sequence[np.ndarray]
    names: Sequence[str]


Sets = dict[str, Images]


def real_sets(config: Any, tests: tuple[data.Source | None, data.Source | None]) -> Sets:
    """{real_a, real_b}: the test images as the networks are given them.

    Args:
        config: the configuration of the run.
        tests: Test sources of A and B.

    Raises:
        UserError: a domain has no test images, or one cannot be read.
    """
    sets = {}
    for domain, source in zip(("a", "b"), tests, strict=True):
        if source is None:
            raise UserError(
                f"domain {domain.upper()} has no test images to compute figures from"
                + _where_to_give_them(config.data, domain)
            )
        transform = data.build_transform(config.data, domain)
        skip = config.data.skip_unreadable
        named = list(data.transformed_images(source, transform, skip_unreadable=skip))
        if not named:
            raise UserError(f"domain {domain.upper()}: no test image that can be read")
        sets[f"real_{domain}"] = Images(
            [image for _, image in named], _short([name for name, _ in named])
        )
    return sets


def _where_to_give_them(settings: Any, domain: str) -> str:
    if settings.source != "folder":
        return f"; data.source={settings.source} has none"
    if settings.direction == "b_to_a":  # the folders keep their letters
        domain = "b" if domain == "a" else "a"
    return f"; give data.test_{domain}, or test{domain.upper()} beside train{domain.upper()}"


def _plain(name: str | Path) -> str:
    """A file's name without folder and suffix, and without what a name of a file may not have."""
    return re.sub(r"[^\w.-]+", "_", Path(name).stem)


def _short(names: Sequence[str]) -> list[str]:
    stems = [_plain(name) for name in names]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else f"{stem}_{i:05d}" for i, stem in enumerate(stems)]


def make_sets(translator: Translator, real: Sets, kinds: Collection[str]) -> Sets:
    """What a model makes of the test sets, as the 8- or 16-bit images that would be saved.

    Args:
        translator: from A to B.
        real: {real_a, real_b}.
        kinds: of `MADE`; those that are asked for are made, in as few passes as it takes.

    Returns:
        The real sets and those made.
    """
    sets = dict(real)
    for source, target, one_way in (("a", "b", translator), ("b", "a", translator.reverse)):
        fake, cycled, identity = f"fake_{target}", f"cycled_{source}", f"identity_{target}"
        reals, own = real[f"real_{source}"], real[f"real_{target}"]
        if fake in kinds or cycled in kinds:
            made = _translated(one_way, reals.images, round_trip=cycled in kinds)
            sets |= {
                kind: Images(images, reals.names)
                for kind, images in zip((fake, cycled), made, strict=False)
            }
        if identity in kinds:
            (images,) = _translated(one_way, own.images, round_trip=False)
            sets[identity] = Images(images, own.names)
    return sets


def _translated(
    translator: Translator, images: Sequence[np.ndarray], *, round_trip: bool
) -> list[list[np.ndarray]]:
    """Translations in the order of the images, and what they are brought back to."""
    made: list[dict[int, np.ndarray]] = [{} for _ in range(1 + round_trip)]

    def computed() -> Iterator[tuple[list[int], list[Prepared], list[Any]]]:
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        for fill, chosen in batches(translator, sizes, _most):
            prepared = [translator.prepare(images[i]) for i in chosen]
            yield chosen, prepared, translator.apply(prepared, fill=fill, round_trip=round_trip)

    for chosen, prepared, outputs in ahead(computed(), 1):
        for results, output in zip(made, outputs, strict=True):
            finished = map(finish, prepared, np.asarray(output))
            results.update(zip(chosen, finished, strict=True))
    return [[results[i] for i in range(len(images))] for results in made]


def _most(height: int, width: int) -> int:
    return max(1, min(_IMAGES, _PIXELS // (height * width)))


def save_sets(sets: Sets, folder: Path) -> None:
    """Writes FOLDER/KIND/NAME.png, real ones as well; UserError where they cannot be written."""
    for kind, (images, names) in sets.items():
        make_folder(folder / kind)
        for image, name in zip(images, names, strict=True):
            write_image(folder / kind / f"{name}.png", image)


def read_sets(folder: Path, real: Sets, kinds: Collection[str]) -> Sets:
    """Images that were made before, by this program or another, in place of `make_sets`.

    Args:
        folder: holds a folder for every kind, in which images have the names of the test
            images they were made from, with any suffix.
        real: {real_a, real_b}.
        kinds: those that are needed.

    Raises:
        UserError: a folder or an image is not there, or it has another size or other channels
            than the domain's.
    """
    sets = dict(real)
    for kind in kinds:
        source = kind if kind in REAL else f"real_{_origin(kind)}"
        channels = real[f"real_{kind[-1]}"].images[0].shape[2]
        place = folder / kind
        if not place.is_dir():
            raise UserError(f"{place}: no such folder; it should hold the {kind} images")
        found: dict[str, Path] = {}
        for path in search(place, "--images"):
            other = found.setdefault(_plain(path), path)
            if other is not path:
                raise UserError(f"{place}: {other.name} and {path.name} are both {_plain(path)}")
        images = []
        for name, original in zip(real[source].names, real[source].images, strict=True):
            if name not in found:
                raise UserError(f"{place}: no image called {name}, as one of {source} is")
            image = read_image(found[name])
            expected = [*original.shape[:2], channels]
            if list(image.shape) != expected or image.dtype != original.dtype:
                raise UserError(
                    f"{found[name]}: {image.dtype} {list(image.shape)}; the test image it "
                    f"was made from asks for {original.dtype} {expected}"
                )
            images.append(image)
        sets[kind] = Images(images, real[source].names)
    return sets


def _origin(kind: str) -> str:
    """The domain of the test images that a kind is made from in the end."""
    while kind in MADE:
        kind = MADE[kind][0]
    return kind[-1]
