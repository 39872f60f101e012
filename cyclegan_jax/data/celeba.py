"""CelebA (Liu et al. 2015): faces in one folder, parted into two domains by their attributes."""

import csv
import difflib
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cyclegan_jax.data.folder import FolderSource
from cyclegan_jax.utils.errors import UserError

_LOG = logging.getLogger(__name__)

FACES = "img_align_celeba"
TABLES = ("list_attr_celeba.csv", "list_attr_celeba.txt")
# An attribute is there, or it is not: -1 in the original's table, 0 in others.
_THERE = "1"
_VALUES = {_THERE, "-1", "0"}


def celeba_source(data: Any, split: str, domain: str) -> FolderSource | None:
    """The faces with one domain's attribute, in the order of the table; no file is moved.

    Domain A is the images with `data.attribute_a`, B those with `data.attribute_b`, without A's
    where both hold. A "-" before an attribute means its absence. Faces lie in `data.dir` itself, or
    in `img_align_celeba` there, or in a folder of that name inside it, as the set is unpacked. The
    table is `data.attributes`, or `list_attr_celeba.csv` or `.txt` in `data.dir` or up to two
    folders above. Faces that are in the table but not in the folder are passed over, and counted
    in a warning.

    Args:
      data: the `data` part of the configuration.
      split: train or test.
      domain: a or b, before `data.direction`.

    Returns:
      The source, its first `data.max_images` images where that is set; None for "test".

    Raises:
      UserError: folder, table or attribute is not there, the table is not one, or a domain has
        no image.
    """
    if split == "test":
        return None
    if not data.dir:
        raise UserError(
            f"data.dir is empty: expected the folder of CelebA, with {FACES} and {TABLES[0]} in it"
        )
    root = Path(data.dir).expanduser()
    if not root.is_dir():
        raise UserError(f"data.dir={data.dir}: there is no such folder")
    nested = (root / FACES / FACES, root / FACES)
    folder = next((place for place in nested if place.is_dir()), root)
    table = _find_table(data.attributes, root)
    domains = _domains(
        folder, table, data.attribute_a, data.attribute_b, (_version(folder), _version(table))
    )
    return FolderSource(domains[domain][: data.max_images or None])


def _find_table(given: str, root: Path) -> Path:
    """The table of attributes: the file that is given, or else one in or above `data.dir`."""
    if given:
        table = Path(given).expanduser()
        if not table.is_file():
            raise UserError(f"data.attributes={given}: there is no such file")
        return table
    root = root.resolve()
    places = (root, *root.parents[:2])
    for table in (place / name for place in places for name in TABLES):
        if table.is_file():
            return table
    raise UserError(
        f"data.dir={root}: found neither {' nor '.join(TABLES)} in {', '.join(map(str, places))}; "
        "data.attributes can name the table"
    )


def _version(path: Path) -> tuple[int, int]:
    """What changes with a file's contents, and with the names in a folder."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


# The table is long, and asked for by both domains, by training and by samples.
@functools.lru_cache(maxsize=1)
def _domains(
    folder: Path, table: Path, attribute_a: str, attribute_b: str, versions: object
) -> dict[str, tuple[Path, ...]]:
    """The files of both domains; `versions` differs when the folder or the table has changed."""
    chosen = _choose(table, attribute_a, attribute_b)
    try:
        with os.scandir(folder) as entries:
            there = {entry.name for entry in entries}
    except OSError as error:
        raise UserError(f"data.dir: {folder} cannot be read: {error.strerror}") from error
    domains = {}
    for domain, attribute in (("a", attribute_a), ("b", attribute_b)):
        images, field = chosen[domain], f"data.attribute_{domain}={attribute}"
        if not images:
            rest = " beside those of data.attribute_a" if domain == "b" else ""
            raise UserError(f"{field}: {table} has no image for it{rest}")
        domains[domain] = tuple(folder / name for name in images if name in there)
        if not domains[domain]:
            raise UserError(
                f"{field}: none of its {len(images):,} images in {table}, such as "
                f"{images[0]}, is in {folder}"
            )
    named, found = (sum(map(len, files.values())) for files in (chosen, domains))
    if found < named:
        _LOG.warning(
            "passed over: %s of the %s images that %s names for the two domains are not in %s",
            *(f"{named - found:,}", f"{named:,}", table, folder),
        )
    return domains


def _choose(table: Path, attribute_a: str, attribute_b: str) -> dict[str, list[str]]:
    """The names of each domain's images, in the order of the table."""
    rows = _read_table(table)
    names = next(rows)
    column_a, present_a = _column("attribute_a", attribute_a, names, table)
    column_b, present_b = _column("attribute_b", attribute_b, names, table)
    chosen: dict[str, list[str]] = {"a": [], "b": []}
    for image, *values in rows:
        if (values[column_a] == _THERE) == present_a:
            chosen["a"].append(image)
        elif (values[column_b] == _THERE) == present_b:
            chosen["b"].append(image)
    return chosen


def _column(field: str, attribute: str, names: Sequence[str], table: Path) -> tuple[int, bool]:
    """Where an attribute's values stand in a row, and whether it must be there or be absent."""
    name = attribute.removeprefix("-")
    if name not in names:
        near = difflib.get_close_matches(name, names)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise UserError(f"data.{field}={attribute}: {table} has no attribute {name!r}; {hint}")
    return names.index(name), name == attribute


def _read_table(table: Path) -> Iterator[list[str]]:
    """A table's attributes, then its rows: an image's name and a value for each attribute.

    Two formats are known. CSV: a line of names, of which the first is the images' column, then
    the rows. The original's text, parted by spaces: the number of rows (not relied on: the table
    may be cut), the attributes' names, then the rows. Blank lines are passed over.
    """
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
        rows: Iterator[list[str]]
        if lines and lines[0].strip().isdigit():
            header, rows = 2, (line.split() for line in lines[1:])
            names = next(rows, [])
        else:
            header, rows = 1, csv.reader(lines, skipinitialspace=True)
            names = next(rows, [])[1:]
        if not names:
            raise UserError(
                f"{table} is no table of attributes: expected CSV whose first line is image_id "
                "and the attributes, or the original's text, where these are the second line"
            )
        yield names
        for line, row in enumerate(rows, start=header + 1):
            if len(row) == len(names) + 1 and _VALUES.issuperset(row[1:]):
                yield row
            elif row:
                raise UserError(f"{table}, line {line}: {_what_is_wrong(row, names)}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the table of attributes {table} cannot be read: {error}") from error


def _what_is_wrong(row: Sequence[str], names: Sequence[str]) -> str:
    if len(row) != len(names) + 1:
        return f"expected an image and {len(names)} values, one per attribute, not {len(row) - 1}"
    name, value = next((n, v) for n, v in zip(names, row[1:], strict=True) if v not in _VALUES)
    return f"{name} is {value!r}; expected 1, -1 or 0"
