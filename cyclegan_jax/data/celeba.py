"""CelebA (Liu et al. 2015): faces in one folder, split into two domains by their attributes."""

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
# Values of an attribute. Absent is -1 in the original table, 0 in others.
_PRESENT = "1"
_VALUES = {_PRESENT, "-1", "0"}


def celeba_source(settings: Any, split: str, domain: str) -> FolderSource | None:
    """Open the faces with the attribute of one domain, in the order of the table.

    Domain A has the faces with `data.attribute_a`; domain B has those with `data.attribute_b` that
    are not in A. A "-" before an attribute selects its absence. Faces are in `data.dir`, in
    `img_align_celeba` there, or in a folder of the same name inside that one, as the archives
    unpack. The table is `data.attributes`, or `list_attr_celeba.csv` or `.txt` in `data.dir` or up
    to two folders above. Faces of the table that are not in the folder are skipped, with a warning.

    Args:
        settings: The `data` section of the configuration.
        split: "train" or "test".
        domain: "a" or "b".

    Returns:
        The source; None for "test", which the dataset does not have.

    Raises:
        UserError: The folder, the table or an attribute does not exist, the table is damaged, or a
            domain has no images.
    """
    if split == "test":
        return None
    if not settings.dir:
        raise UserError(
            f"data.dir: expected the folder of CelebA, with {FACES} and {TABLES[0]} in it, got an "
            "empty name"
        )
    root = Path(settings.dir).expanduser()
    if not root.is_dir():
        raise UserError(f"data.dir={settings.dir}: no such folder")
    nested = (root / FACES / FACES, root / FACES)
    folder = next((place for place in nested if place.is_dir()), root)
    table = _find_table(settings.attributes, root)
    domains = _domains(
        folder,
        table,
        settings.attribute_a,
        settings.attribute_b,
        (_version(folder), _version(table)),
    )
    return FolderSource(domains[domain])


def _find_table(name: str, root: Path) -> Path:
    """Return the table `data.attributes`, or else the one in or above `data.dir`."""
    if name:
        table = Path(name).expanduser()
        if not table.is_file():
            raise UserError(f"data.attributes={name}: no such file")
        return table
    root = root.resolve()
    places = (root, *root.parents[:2])
    for table in (place / name for place in places for name in TABLES):
        if table.is_file():
            return table
    raise UserError(
        f"data.dir={root}: expected {' or '.join(TABLES)} in {', '.join(map(str, places))}; or set "
        "data.attributes to the table"
    )


def _version(path: Path) -> tuple[int, int]:
    """Return a value that changes with the contents of a file or the names in a folder."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


# The table has 200,000 rows, and both domains need it.
@functools.lru_cache(maxsize=1)
def _domains(
    folder: Path, table: Path, attribute_a: str, attribute_b: str, versions: object
) -> dict[str, tuple[Path, ...]]:
    """Return the files of both domains; `versions` are of the folder and the table."""
    chosen = _choose(table, attribute_a, attribute_b)
    try:
        with os.scandir(folder) as entries:
            existing = {entry.name for entry in entries}
    except OSError as error:
        raise UserError(f"data.dir: {folder} cannot be read: {error.strerror}") from error
    domains = {}
    for domain, attribute in (("a", attribute_a), ("b", attribute_b)):
        images, field = chosen[domain], f"data.attribute_{domain}={attribute}"
        if not images:
            rest = " that are not in domain A" if domain == "b" else ""
            raise UserError(f"{field}: {table} has no such images{rest}")
        domains[domain] = tuple(folder / name for name in images if name in existing)
        if not domains[domain]:
            raise UserError(
                f"{field}: expected images in {folder}, got none of the {len(images):,} of "
                f"{table}, such as {images[0]}"
            )
    named, found = (sum(map(len, files.values())) for files in (chosen, domains))
    if found < named:
        _LOG.warning(
            "skipped: %s of the %s images of both domains in %s are not in %s",
            *(f"{named - found:,}", f"{named:,}", table, folder),
        )
    return domains


def _choose(table: Path, attribute_a: str, attribute_b: str) -> dict[str, list[str]]:
    """Return the names of each domain's images, in the order of the table."""
    rows = _read_table(table)
    names = next(rows)
    column_a, present_a = _column("attribute_a", attribute_a, names, table)
    column_b, present_b = _column("attribute_b", attribute_b, names, table)
    chosen: dict[str, list[str]] = {"a": [], "b": []}
    for image, *values in rows:
        if (values[column_a] == _PRESENT) == present_a:
            chosen["a"].append(image)
        elif (values[column_b] == _PRESENT) == present_b:
            chosen["b"].append(image)
    return chosen


def _column(field: str, attribute: str, names: Sequence[str], table: Path) -> tuple[int, bool]:
    """Return the column of an attribute, and whether it is to be present or absent."""
    name = attribute.removeprefix("-")
    if name not in names:
        nearest = difflib.get_close_matches(name, names)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"it has {', '.join(names)}"
        raise UserError(f"data.{field}={attribute}: {table} has no attribute {name!r}; {hint}")
    return names.index(name), name == attribute


def _read_table(table: Path) -> Iterator[list[str]]:
    """Yield the attributes of a table, then its rows: an image and a value per attribute.

    The format is CSV, whose first line is the name of the image column and the attributes; or the
    original text, separated by spaces: the number of rows (ignored, as the table may be an
    excerpt), the attributes, then the rows. Blank lines are skipped.
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
                f"table of attributes {table}: expected CSV whose first line is image_id and the "
                "attributes, or the original text, whose second line is the attributes"
            )
        yield names
        for line, row in enumerate(rows, start=header + 1):
            if len(row) == len(names) + 1 and _VALUES.issuperset(row[1:]):
                yield row
            elif row:
                raise UserError(f"{table}, line {line}: {_mistake(row, names)}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"table of attributes {table} cannot be read: {error}") from error


def _mistake(row: Sequence[str], names: Sequence[str]) -> str:
    if len(row) != len(names) + 1:
        return f"expected an image and {len(names)} values, got {len(row) - 1} values"
    name, value = next((n, v) for n, v in zip(names, row[1:], strict=True) if v not in _VALUES)
    return f"{name}: expected 1, -1 or 0, got {value!r}"
