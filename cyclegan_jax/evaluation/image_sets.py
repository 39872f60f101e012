"""Test sets and their translations, from which metrics are computed."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from cyclegan_jax import data
from cyclegan_jax.data.folder import SUFFIXES, search
from cyclegan_jax.evaluation.stored_images import StoredImages
from cyclegan_jax.inference.batching import ahead, batches
from cyclegan_jax.inference.prepare import Prepared, finish
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import make_folder, read_image, write_image

# {kind of translations: kind of the images that they are translations of}
TRANSLATIONS = {
    "fake_b": "real_a",
    "fake_a": "real_b",
    "cycled_a": "fake_b",
    "cycled_b": "fake_a",
    "identity_a": "real_a",
    "identity_b": "real_b",
}
# A device computes at most `_IMAGES` images and `_PIXELS` pixels at a time, but at least one image.
_PIXELS, _IMAGES = 2**18, 16


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of a test set or their translations; sets are compared by identity.

    Attributes:
        images: Arrays [H, W, C] of uint8 or uint16; `StoredImages` where there may be many.
        names: Path of each image in its folder without suffix. It is shared by an image, its
            translations, their files, and the test image of the other domain that it is paired
            with.
        sources: Name of each image in messages; for translations that of the original.
    """

    images: Sequence[np.ndarray]
    names: Sequence[str]
    sources: Sequence[str]

    def with_images(self, images: Sequence[np.ndarray]) -> "ImageSet":
        """Return translations of these images, which keep the names."""
        return ImageSet(images, self.names, self.sources)

    def index(self, context: str, names: Sequence[str] | None = None) -> dict[str, int]:
        """Return {name: position}.

        Args:
            context: Beginning of the error message.
            names: Names to use instead of the set's.

        Raises:
            UserError: Two images have the same name.
        """
        positions: dict[str, int] = {}
        for i, name in enumerate(names or self.names):
            if (first := positions.setdefault(name, i)) != i:
                raise UserError(
                    f"{context}: expected different names of test images, got "
                    f"{self.sources[first]} and {self.sources[i]}, which are both called {name}"
                )
        return positions


# {kind: images}, the kinds being real_a, real_b and those of TRANSLATIONS.
ImageSets = dict[str, ImageSet]


def real_set(
    source: data.Source, transform: data.Transform, *, skip_unreadable: bool = False
) -> ImageSet:
    """Load the test images of one domain.

    Args:
        source: Source of the images. It may have a method `relative_name(index)` that returns the
            path of an image in its folder.
        transform: Transform of the domain.
        skip_unreadable: Skip unreadable images, with a warning.

    Raises:
        UserError: An image is unreadable, or all are skipped.
    """
    relative_name = getattr(source, "relative_name", lambda i: PurePath(source.name(i)).name)
    names = {source.name(i): _plain(relative_name(i)) for i in range(len(source))}
    sources: list[str] = []

    def loaded() -> Iterator[np.ndarray]:
        for name, image in data.transformed_images(
            source, transform, skip_unreadable=skip_unreadable
        ):
            sources.append(name)
            yield image

    images = StoredImages.of(loaded())
    if not images:
        raise UserError(f"image {source.name(0)} and all {len(source)} of its set are unreadable")
    return ImageSet(images, [names[name] for name in sources], sources)


def _plain(path: str | PurePath) -> str:
    """Return a relative path without the suffix of an image and with safe characters only."""
    path = PurePath(path)
    if path.suffix.lower() in SUFFIXES:
        path = path.with_suffix("")
    return "/".join(re.sub(r"[^\w.-]+|^[.]+$", "_", part) for part in path.parts)


def make_sets(translator: Translator, real: ImageSets, kinds: Collection[str]) -> ImageSets:
    """Translate the test sets, to the 8- or 16-bit images that would be saved.

    Args:
        translator: Translator from A to B.
        real: {real_a, real_b}.
        kinds: Kinds of `TRANSLATIONS` to compute.

    Returns:
        The real sets and the translations.
    """
    sets = dict(real)
    for source, target, one_way in (("a", "b", translator), ("b", "a", translator.reverse)):
        fake, cycled, identity = f"fake_{target}", f"cycled_{source}", f"identity_{target}"
        inputs, targets = real[f"real_{source}"], real[f"real_{target}"]
        if fake in kinds or cycled in kinds:
            outputs = _translate(one_way, inputs.images, round_trip=cycled in kinds)
            sets |= zip((fake, cycled), map(inputs.with_images, outputs), strict=False)
        if identity in kinds:
            (images,) = _translate(one_way, targets.images, round_trip=False)
            sets[identity] = targets.with_images(images)
    return sets


def _translate(
    translator: Translator, images: Sequence[np.ndarray], *, round_trip: bool
) -> list[StoredImages]:
    """Return the translations in the order of the images, and with `round_trip` the cycled ones."""
    results = [StoredImages(len(images)) for _ in range(1 + round_trip)]

    def computed() -> Iterator[tuple[list[int], list[Prepared], list[Any]]]:
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        for fill, indices in batches(translator, sizes, _images_at_a_time):
            prepared = [translator.prepare(images[i]) for i in indices]
            yield indices, prepared, translator.apply(prepared, fill=fill, round_trip=round_trip)

    for indices, prepared, outputs in ahead(computed(), 1):
        for result, output in zip(results, outputs, strict=True):
            for i, image in zip(indices, map(finish, prepared, np.asarray(output)), strict=True):
                result.put(i, image)
    return results


def _images_at_a_time(height: int, width: int) -> int:
    return max(1, min(_IMAGES, _PIXELS // (height * width)))


def check_names(real: ImageSets, context: str) -> None:
    """Raise UserError, which starts with `context`, if two images of a set share a name."""
    for images in real.values():
        images.index(context)


def save_sets(sets: ImageSets, folder: Path) -> None:
    """Write all images, real ones included, as FOLDER/KIND/NAME.png.

    Raises:
        UserError: Images of a set share a name, or a file cannot be written.
    """
    check_names(sets, f"{folder}")
    for kind, images in sets.items():
        for image, name in zip(images.images, images.names, strict=True):
            path = folder / kind / f"{name}.png"
            make_folder(path.parent)
            write_image(path, image)


def read_sets(folder: Path, real: ImageSets, kinds: Collection[str]) -> ImageSets:
    """Read translations from files, written by `save_sets` or by another program.

    Args:
        folder: Contains a folder per kind, in which files have the names of the test images,
            with any suffix.
        real: {real_a, real_b}.
        kinds: Kinds of `TRANSLATIONS` to read.

    Returns:
        The real sets and the translations.

    Raises:
        UserError: A folder or image is missing, two files share a name, or an image differs in
            size, channels or bit depth from what a translation would have.
    """
    check_names(real, f"{folder}")
    sets = dict(real)
    for kind in kinds:
        originals = real[_origin(kind)]
        channels = real[f"real_{kind[-1]}"].images[0].shape[2]
        files = _files_by_name(folder / kind)
        images = StoredImages(len(originals.names))
        for i, (name, original) in enumerate(zip(originals.names, originals.images, strict=True)):
            if name not in files:
                raise UserError(f"{folder / kind}: expected a translation called {name}, got none")
            image = read_image(files[name])
            shape = [*original.shape[:2], channels]
            if list(image.shape) != shape or image.dtype != original.dtype:
                raise UserError(
                    f"{files[name]}: expected {original.dtype} {shape} as of the test image, got "
                    f"{image.dtype} {list(image.shape)}"
                )
            images.put(i, image)
        sets[kind] = originals.with_images(images)
    return sets


def _files_by_name(folder: Path) -> Mapping[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of {folder.name} images, got none")
    files: dict[str, Path] = {}
    for path in search(folder, "--images"):
        name = _plain(path.relative_to(folder))
        if (first := files.setdefault(name, path)) is not path:
            raise UserError(
                f"{folder}: expected one image per name, got {first.relative_to(folder)} and "
                f"{path.relative_to(folder)}, which are both called {name}"
            )
    return files


def _origin(kind: str) -> str:
    """Return the kind of the test images that translations go back to."""
    while kind in TRANSLATIONS:
        kind = TRANSLATIONS[kind]
    return kind
