"""Makes one page, to open from disk, of a trained model or of what it has translated.

`python -m cyclegan_jax.gallery --workdir W` shows a run: images of both domains translated and
brought back, its figures and losses over the steps, its configuration.
`python -m cyclegan_jax.gallery --input IMAGES --translated FOLDER` shows what
`cyclegan_jax.translate` made of an image or a folder.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from cyclegan_jax.data.folder import SUFFIXES, search
from cyclegan_jax.evaluation.results import Figures, read_figures
from cyclegan_jax.gallery import page
from cyclegan_jax.gallery.curves import by_name, plots, read_events, split_name
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils import command
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.formats import WRITABLE
from cyclegan_jax.utils.image_io import read_image

_OF_A_RUN, _OF_A_TRANSLATION = 8, 100
_LABELS = ("input", "translated", "brought back")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.gallery", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=command.path, help="of a run to show")
    add("--checkpoint", default="latest", help="latest (default), best or a step")
    add("--input", type=command.path, help="an image or a folder that was translated")
    add("--translated", type=command.path, help="folder with the translations")
    add(
        "--images",
        "--pictures",
        type=int,
        metavar="N",
        help=f"how many to show, from the first; of a run "
        f"each way {_OF_A_RUN}, else {_OF_A_TRANSLATION}",
    )
    add(
        "--page",
        type=command.path,
        metavar="FILE",
        help="default: gallery.html in the folder shown",
    )
    add("--overwrite", action="store_true", help="replace a page that is there")
    given = parser.parse_args(arguments)
    if (given.workdir is None) == (given.translated is None) or (
        (given.input is None) != (given.translated is None)
    ):
        parser.error("give either --workdir, or --input and --translated")
    if given.images is not None and given.images < 1:
        parser.error(f"--images {given.images}: at least 1 was expected")
    return given


def main(arguments: list[str] | None = None) -> None:
    """The command line; without arguments, that of the process.

    Raises:
        UserError: a mistake of the user's; nothing was made.
    """
    given = _parse(arguments)
    folder = (given.translated or given.workdir).expanduser()
    if not folder.is_dir():
        flag = "--translated" if given.workdir is None else "--workdir"
        raise UserError(f"{flag} {folder}: there is no such folder")
    page = given.page or folder / "gallery.html"
    if page.exists() and not given.overwrite:
        raise UserError(f"{page} there already; --overwrite replaces it")
    if given.workdir is not None:
        text = run_page(given.workdir, given.checkpoint, given.images or _OF_A_RUN)
    else:
        count = given.images or _OF_A_TRANSLATION
        text = translation_page(given.input, given.translated, count)
    _write(page, text)
    print(f"{page}: {page.stat().st_size / 2**20:.1f} MiB, opens in a browser")


def run_page(workdir: Path, checkpoint: str | int = "latest", count: int = _OF_A_RUN) -> str:
    """HTML that shows a run.

    Args:
        workdir: of the run.
        checkpoint: latest, best or a step.
        count: of images of each domain: the first test images, or training images where
            there are none.

    Raises:
        UserError: there is no such run or checkpoint, its images cannot be found, or Matplotlib
            is needed and not installed.
    """
    from configs import default
    from cyclegan_jax import config as config_lib

    workdir = workdir.expanduser()
    a_to_b = Translator.load(workdir, "a_to_b", checkpoint)
    config = config_lib.read_json(workdir / "config.json")
    evaluations = read_figures(workdir)
    losses = read_events(workdir, ("generators/", "discriminators/", "learning_rate"))
    directions = []
    for domain, other, translator in (("A", "B", a_to_b), ("B", "A", a_to_b.reverse)):
        images, kind = _images(config, domain.lower(), count)
        rows = []
        for number, image in enumerate(images, start=1):
            made = (image, *translator.round_trip(image))
            named = zip(made, _LABELS, strict=True)
            rows.append(
                page.row(
                    page.figure(one, label, f"{domain} to {other}, {number}: {label}")
                    for one, label in named
                )
            )
        note = f"The first {len(rows)} {kind} images of {domain}, {page.about(images[0])}"
        directions.append(page.section(f"{domain} to {other}", page.rows(rows), note))
    body = page.beside(directions)
    if evaluations:
        last = max(evaluations)
        body += page.section(f"Figures at step {last:,}", _table(evaluations[last]))
    if len(evaluations) > 1:
        body += page.section("Figures over steps", page.charts(plots(by_name(evaluations))))
    if losses:
        body += page.section("Losses over steps", page.charts(plots(losses)))
    fields = config_lib.flatten(config)
    body += page.folded(
        "Configuration",
        page.settings(fields, config_lib.flatten(default.get_config())),
        "What differs from configs/default.py is bold",
    )
    name = workdir.resolve().name
    generator = fields["generator.variant"]
    return page.document(name, f"Checkpoint of step {a_to_b.step:,} · {generator}", body)


def _images(config: Any, domain: str, count: int) -> tuple[Any, str]:
    """Images [N, H, W, C] of a domain as in tests, and whether they are test or training ones."""
    from cyclegan_jax import data

    place = "ab".index(domain)
    source, kind = data.open_split(config.data, "test")[place], "test"
    if source is None:
        source, kind = data.open_split(config.data, "train")[place], "training"
    transform, skip = data.build_transform(config.data, domain), config.data.skip_unreadable
    return data.test_images(source, transform, count, skip_unreadable=skip), kind


def _table(figures: Figures) -> str:
    """HTML of figures: a line for each, a column for each direction or domain."""
    names = {name: split_name(name) for name in figures}
    columns = list(dict.fromkeys(name.series for name in names.values()))
    lines: dict[str, list[float | None]] = {}
    for name, (title, series) in names.items():
        line = lines.setdefault(title, [None] * len(columns))
        line[columns.index(series)] = figures[name]
    return page.figures_table(columns, lines)


def translation_page(source: Path, translated: Path, count: int = _OF_A_TRANSLATION) -> str:
    """HTML that shows images beside what `translate` made of them.

    Args:
        source: what was given to it: an image, or a folder.
        translated: the folder it wrote into.
        count: how many images to show, from the first.

    Raises:
        UserError: there are no images, or none of them has a translation.
    """
    found = find_translations(source, translated)
    made = sum(there is not None for _, there, _ in found)
    if not made:
        raise UserError(f"--translated {translated}: no translation of {source} in it")
    with_back = any(back is not None for _, _, back in found)
    rows = []
    for image, there, back in found[:count]:
        name = image.name if source.is_file() else image.relative_to(source).as_posix()
        files = [image, there, back][: 2 + with_back]
        cells, notes = zip(
            *(_cell(f, label, name) for f, label in zip(files, _LABELS, strict=False)), strict=True
        )
        rows.append(page.row(cells, name, next(filter(None, notes), "")))
    facts = f"{made} of {len(found)} images translated"
    if len(rows) < len(found):
        facts += f", the first {len(rows)} shown"
    return page.document(
        f"{source.resolve().name}, translated",
        facts,
        f"<section>{page.rows(rows)}</section>",
    )


def _cell(file: Path | None, label: str, name: str) -> tuple[str, str]:
    """HTML of an image, or of why there is none, and what there is to say about it."""
    if file is None:
        return page.missing(label, "not there"), ""
    try:
        image = read_image(file)
    except UserError as error:
        reason = str(error).removeprefix(f"image {file}").lstrip(": ")
        return page.missing(label, reason), ""
    return page.figure(image, label, f"{name}: {label}"), page.about(image)


def find_translations(
    source: Path, translated: Path
) -> list[tuple[Path, Path | None, Path | None]]:
    """Images, with their translations and round trips where `translate` has made them.

    Raises:
        UserError: there are no images.
    """
    if source.is_file():
        names = [Path(source.name)]
    elif source.is_dir():
        inner = translated.resolve()
        names = [
            path.relative_to(source)
            for path in search(source, "--input")
            if inner not in path.resolve().parents
        ]
    else:
        raise UserError(f"--input {source}: there is no such image or folder")
    if not names:
        raise UserError(f"--input {source}: no images in it ({' '.join(SUFFIXES)})")
    made = {name: _first(translated / name, name.suffix) for name in names}
    taken = set(made.values())
    found = []
    for name, path in made.items():
        back = path and path.with_stem(f"{path.stem}_back")
        # An image of that name may have been translated itself.
        is_back = back is not None and back.is_file() and back not in taken
        found.append(
            (source if source.is_file() else source / name, path, back if is_back else None)
        )
    return found


def _first(path: Path, suffix: str) -> Path | None:
    """The file of this name, with its suffix or else another that is written."""
    for ending in (suffix, *WRITABLE):
        if (candidate := path.with_suffix(ending)).is_file():
            return candidate
    return None


def _write(page: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    temporary = page.with_name(f".{page.name}.{os.getpid()}.tmp")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(page)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--page {page}: cannot be written: {error.strerror}") from error
