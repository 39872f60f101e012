"""Images of one's own: folders, nested or several per domain, and files that list them."""

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
    """Image files, decoded when asked for (the protocol of `sources.Source`)."""

    def __init__(self, files: Sequence[Path]):
        self.files = tuple(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.files[index])

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.files[index])

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width from the file's header; UserError where it cannot be read."""
        return read_size(self.files[index])


def folder_source(data: Any, split: str, domain: str) -> FolderSource | None:
    """The images of one split and domain.

    They come from the folders and list files that `data.train_a` (`train_b`, `test_a`, `test_b`)
    names, comma-separated, or else from the list file `trainA.txt` under `data.dir`, or else from
    the folder `trainA` there. Folders are searched with all that is below them, in the order of
    the names, whatever the file system's; hidden files and those without an image's suffix are
    passed over. A list file has one path per line, relative to the folder it lies in; blank lines
    and lines from # on are left out, and the order is kept.

    Args:
      data: the `data` part of the configuration.
      split: train or test.
      domain: a or b, as the folders are named.

    Returns:
      The source, its first `data.max_images` images where that is set; None for a test split
      of which `data.dir` holds nothing.

    Raises:
      UserError: a place that is named is missing, empty or not readable.
    """
    field = f"{split}_{domain}"
    given = [place.strip() for place in getattr(data, field).split(",") if place.strip()]
    if given:
        places = [Path(place).expanduser() for place in given]
    else:
        place = _under_root(data.dir, split, domain)
        if place is None:
            return None
        field, places = "dir", [place]
    files = [file for place in places for file in _files_of(place, f"data.{field}")]
    return FolderSource(files[: data.max_images or None])


def _under_root(root: str, split: str, domain: str) -> Path | None:
    """The list file or folder of a split under `data.dir`."""
    name = f"{split}{domain.upper()}"
    if not root:
        if split == "test":
            return None
        raise UserError(
            f"data.dir is empty: expected the folder that holds trainA and trainB, "
            f"or data.{split}_{domain} naming the folder itself"
        )
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.dir={root}: there is no such folder")
    for place in (folder / f"{name}.txt", folder / name):
        if place.exists():
            return place
    if split == "test":
        return None
    raise UserError(
        f"data.dir={root}: expected the folder {name} or the list file {name}.txt in it, "
        f"or data.{split}_{domain} naming another folder"
    )


def _files_of(place: Path, field: str) -> list[Path]:
    """The images of one folder or list file, in order; at least one."""
    if place.is_dir():
        files = search(place, field)
        looked_for = f"files ending in {' '.join(s[1:] for s in SUFFIXES)}, also in folders below"
    elif place.suffix.lower() in SUFFIXES:
        raise UserError(f"{field}: {place} is an image; expected a folder or a list file")
    elif place.is_file():
        files = _read_list(place, field)
        looked_for = "one path of an image per line"
    else:
        raise UserError(f"{field}: there is no folder or list file {place}")
    if not files:
        raise UserError(f"{field}: no images in {place} (looked for {looked_for})")
    return files


def search(folder: Path, field: str) -> list[Path]:
    """Image files in a folder and below, sorted by their path in it; links are followed.

    Images of formats that are not read are counted in a warning.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{field}: {error.filename} cannot be read: {error.strerror}") from error

    files, seen, unread = [], set(), Counter[str]()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(parent)
        if real in seen:  # a link back to a folder above would go round for ever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES:
                files.append(Path(parent, name))
            elif (mimetypes.guess_type(name)[0] or "").startswith("image/"):
                unread[suffix] += 1
    if unread:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
        read = " ".join(suffix[1:] for suffix in SUFFIXES)
        logging.warning("%s: passed over in %s: %s (%s are read)", field, folder, kinds, read)
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _read_list(path: Path, field: str) -> list[Path]:
    """The files that a list names, in its order."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{field}: the list file {path} cannot be read: {error}") from error
    files = []
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        file = path.parent / Path(entry).expanduser()
        if not file.is_file():
            raise UserError(f"{field}: {path} names in line {number} {file}, which is not there")
        files.append(file)
    return files
