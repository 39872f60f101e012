"""Image folders, nested or several per domain, and list files of images."""

import mimetypes
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.image_io import read_image, read_size

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm")


class FolderSource:
    """Source of image files, in the given order.

    Args:
        files: Paths of the images.
        folders: Folder of each image, possibly several levels up; by default that of the file.
    """

    def __init__(self, files: Sequence[Path], folders: Sequence[Path] | None = None):
        self.files = tuple(files)
        self._folders = folders

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.files[index])

    def name(self, index: int) -> str:
        """Return the path of a file."""
        return str(self.files[index])

    def relative_name(self, index: int) -> str:
        """Return the path of a file in its folder; images of A and B are paired by it."""
        file = self.files[index]
        return os.path.relpath(file, self._folders[index]) if self._folders else file.name

    def image_size(self, index: int) -> tuple[int, int]:
        """Return (height, width) from a file's header; raise UserError if it is unreadable."""
        return read_size(self.files[index])


def folder_source(settings: Any, split: str, domain: str) -> FolderSource | None:
    """Open the folders and list files of one split and domain.

    `data.train_a` (`train_b`, `test_a`, `test_b`) names folders and list files, separated by
    commas. If it is empty, the source is the list file `trainA.txt` in `data.dir`, or else the
    folder `trainA` there. Folders are searched recursively, in the order of the paths, for image
    suffixes; hidden files are ignored. A list file has one path per line, relative to its own
    folder; blank lines and lines that start with # are ignored, and the order is kept.

    Args:
        settings: The `data` section of the configuration.
        split: "train" or "test".
        domain: "a" or "b", as in the names of the folders.

    Returns:
        The source; None for a test split that neither its field nor `data.dir` provides.

    Raises:
        UserError: A folder or list file is missing, has no images, or cannot be read.
    """
    field = f"{split}_{domain}"
    places = [
        Path(p.strip()).expanduser() for p in getattr(settings, field).split(",") if p.strip()
    ]
    if not places:
        place = _under_root(settings.dir, split, domain)
        if place is None:
            return None
        field, places = "dir", [place]
    files: list[Path] = []
    folders: list[Path] = []
    for place in places:
        images = _files_of(place, f"data.{field}", skip=settings.skip_unreadable)
        files += images
        folders += [place if place.is_dir() else _common_folder(images)] * len(images)
    return FolderSource(files, folders)


def _common_folder(files: Sequence[Path]) -> Path:
    """Return the deepest folder that contains all files."""
    return Path(os.path.commonpath({os.path.normpath(file.parent.absolute()) for file in files}))


def _under_root(root: str, split: str, domain: str) -> Path | None:
    """Return the list file or folder of a split in `data.dir`; None for a missing test split."""
    name = f"{split}{domain.upper()}"
    if not root:
        if split == "test":
            return None
        raise UserError(
            "data.dir: expected the folder that holds trainA and trainB, got an empty name; "
            f"or set data.{split}_{domain} to a folder"
        )
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.dir={root}: no such folder")
    for place in (folder / f"{name}.txt", folder / name):
        if place.exists():
            return place
    if split == "test":
        return None
    raise UserError(
        f"data.dir={root}: expected a folder {name} or a list file {name}.txt in it; "
        f"or set data.{split}_{domain} to another folder"
    )


def _files_of(place: Path, field: str, *, skip: bool) -> list[Path]:
    """Return the image files of a folder or list file, in order; at least one.

    With `skip`, entries of lists that are no files are left to be skipped when they are read.
    """
    if place.is_dir():
        files = search(place, field)
        expected = f"files ending in {' '.join(s[1:] for s in SUFFIXES)}, in it or below"
    elif place.suffix.lower() in SUFFIXES:
        raise UserError(f"{field}: expected a folder or a list file, got the image {place}")
    elif place.is_file():
        files = _read_list(place, field, skip=skip)
        expected = "one path of an image per line"
    else:
        raise UserError(f"{field}: no folder or list file {place}")
    if not files:
        raise UserError(f"{field}: no images in {place} (expected {expected})")
    return files


def search(folder: Path, field: str) -> list[Path]:
    """Return the image files in a folder and below it, sorted by path; links are followed.

    Images in formats that are not supported are counted in a warning.

    Args:
        folder: The folder.
        field: Name of the field or flag that holds the folder, for messages.

    Raises:
        UserError: A folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{field}: {error.filename} cannot be read: {error.strerror}") from error

    files, visited, unsupported = [], set(), Counter[str]()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(parent)
        if real in visited:  # a link to a folder above would recurse forever
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES:
                files.append(Path(parent, name))
            elif (mimetypes.guess_type(name)[0] or "").startswith("image/"):
                unsupported[suffix] += 1
    if unsupported:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unsupported.items()))
        supported = " ".join(suffix[1:] for suffix in SUFFIXES)
        logging.warning("%s: ignored in %s: %s (supported: %s)", field, folder, counts, supported)
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _read_list(path: Path, field: str, *, skip: bool) -> list[Path]:
    """Return the files of a list file, in its order; see `_files_of`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{field}: list file {path} cannot be read: {error}") from error
    files = []
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        file = path.parent / Path(entry).expanduser()
        if not (skip or os.path.isfile(file)):  # noqa: PTH113 - Path.is_file() may raise
            raise UserError(
                f"{field}: list file {path}, line {number}: no such file {file}; "
                "data.skip_unreadable=True skips such images"
            )
        files.append(file)
    return files
