"""Make a self-contained HTML page of a run or of translated images.

`python -m cyclegan_jax.gallery --workdir W` shows a run: images of both domains, translated and
reconstructed, metrics and losses over the steps, and the configuration.
`python -m cyclegan_jax.gallery --input IMAGES --translated FOLDER` shows images beside the
translations that `cyclegan_jax.translate` wrote.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cyclegan_jax.data.folder import SUFFIXES, search
from cyclegan_jax.evaluation.results import read_results
from cyclegan_jax.gallery import page
from cyclegan_jax.gallery.curves import by_name, read_events, split_name
from cyclegan_jax.gallery.plots import plots
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils import command
from cyclegan_jax.utils.atomic import write_text
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.formats import WRITABLE
from cyclegan_jax.utils.image_io import read_image
from cyclegan_jax.utils.text import printable

_RUN_IMAGES, _TRANSLATION_IMAGES = 8, 100
_LABELS = ("input", "translated", "reconstructed")
_LOSSES = ("generators/", "discriminators/", "learning_rate")


class Translation(NamedTuple):
    """An image and the files that `translate` wrote for it; None for those that are missing."""

    source: Path
    translated: Path | None
    round_trip: Path | None


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.gallery", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=command.path, help="work directory of the run to show")
    add("--checkpoint", default="latest", help="latest (default), best, or a step")
    add("--input", type=command.path, help="the image or folder that was translated")
    add("--translated", type=command.path, help="folder with the translations")
    add(
        "--images",
        "--pictures",
        type=int,
        metavar="N",
        help=f"show the first N images (default: {_RUN_IMAGES} of each domain of a run, "
        f"{_TRANSLATION_IMAGES} translated images)",
    )
    add(
        "--page",
        type=command.path,
        metavar="FILE",
        help="default: gallery.html in --workdir or --translated",
    )
    add("--overwrite", action="store_true", help="replace an existing page")
    args = parser.parse_args(arguments)
    if (args.workdir is None) == (args.translated is None) or (
        (args.input is None) != (args.translated is None)
    ):
        parser.error("expected either --workdir, or --input and --translated")
    if args.images is not None and args.images < 1:
        parser.error(f"--images: expected at least 1, got {args.images}")
    return args


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `arguments` defaults to those of the process.

    Raises:
        UserError: A user's mistake; nothing was written.
    """
    args = _parse(arguments)
    folder = args.translated or args.workdir
    if not folder.is_dir():
        flag = "--translated" if args.workdir is None else "--workdir"
        raise UserError(f"{flag} {folder}: there is no such folder")
    path = args.page or folder / "gallery.html"
    if path.exists() and not args.overwrite:
        raise UserError(f"{path}: exists; --overwrite replaces it")
    if args.workdir is not None:
        html = run_page(args.workdir, args.checkpoint, args.images or _RUN_IMAGES)
    else:
        html = translation_page(args.input, args.translated, args.images or _TRANSLATION_IMAGES)
    _write(path, html)
    print(f"{printable(path)}: {path.stat().st_size / 2**20:.1f} MiB, open it in a browser")


def run_page(workdir: Path, checkpoint: str | int = "latest", count: int = _RUN_IMAGES) -> str:
    """Return the page of a run.

    Args:
        workdir: Work directory of the run.
        checkpoint: latest, best, or a step.
        count: Number of images per domain: the first test images, or training images where there
            are none.

    Raises:
        UserError: There is no such run or checkpoint, its images cannot be read, or a package is
            not installed.
    """
    from cyclegan_jax import config as config_lib

    a_to_b = Translator.load(workdir, "a_to_b", checkpoint)
    config = config_lib.read_json(workdir / "config.json")
    metrics = read_results(workdir)
    return page.render(
        "run.html",
        title=workdir.resolve().name,
        facts=f"Checkpoint of step {a_to_b.step:,} · {config.generator.variant}",
        directions=[
            _direction(config, "A", "B", a_to_b, count),
            _direction(config, "B", "A", a_to_b.reverse, count),
        ],
        metrics=_table(metrics),
        metric_plots=plots(by_name(metrics)) if len(metrics) > 1 else {},
        loss_plots=plots(read_events(workdir, _LOSSES)),
        config=_fields(config),
    )


def _direction(
    config: Any, source: str, target: str, translator: Translator, count: int
) -> dict[str, Any]:
    """Translate and reconstruct the first images of a domain."""
    images, split = _images(config, source.lower(), count)
    rows = []
    for number, image in enumerate(images, start=1):
        results = zip((image, *translator.round_trip(image)), _LABELS, strict=True)
        name = f"{source} to {target}, {number}"
        rows.append(page.Row([page.cell(x, label, f"{name}: {label}") for x, label in results]))
    note = f"The first {len(rows)} {split} images of {source}, {page.describe(images[0])}"
    return {"heading": f"{source} to {target}", "note": note, "rows": rows}


def _images(config: Any, domain: str, count: int) -> tuple[Any, str]:
    """Return the first images [N, H, W, C] of a domain and their split: "test" or "training"."""
    from cyclegan_jax import data

    index = "ab".index(domain)
    source, split = data.open_split(config.data, "test")[index], "test"
    if source is None:
        source, split = data.open_split(config.data, "train")[index], "training"
    transform, skip = data.build_transform(config.data, domain), config.data.skip_unreadable
    return data.test_images(source, transform, count, skip_unreadable=skip), split


def _table(metrics: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Arrange the last metrics in rows by quantity and columns by direction or domain."""
    if not metrics:
        return {}
    last = max(metrics)
    columns: dict[str, None] = {}
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics[last].items():
        title, series = split_name(name)
        columns[series] = None
        rows.setdefault(title, {})[series] = value
    return {"step": last, "columns": list(columns), "rows": rows}


def _fields(config: Any) -> list[dict[str, Any]]:
    """Return the configuration's fields, marked where they differ from the defaults."""
    from cyclegan_jax import config as config_lib
    from cyclegan_jax.default_config import get_config

    defaults = config_lib.flatten(get_config())
    fields = []
    # The page may be shown to others.
    shown = config_lib.flatten(config_lib.without_folders(config))
    for full_name, value in config_lib.flatten(config).items():
        group, _, name = full_name.rpartition(".")
        changed = full_name not in defaults or value != defaults[full_name]
        fields.append(
            {"group": group, "name": name, "value": str(shown[full_name]), "changed": changed}
        )
    return fields


def translation_page(source: Path, translated: Path, count: int = _TRANSLATION_IMAGES) -> str:
    """Return the page that shows images beside their translations.

    Args:
        source: The image or folder that was translated.
        translated: The folder with the translations.
        count: Number of images to show, from the first.

    Raises:
        UserError: There are no images, none has a translation, or a package is not installed.
    """
    translations = find_translations(source, translated)
    done = sum(t.translated is not None for t in translations)
    if not done:
        raise UserError(f"--translated {translated}: contains no translation of {source}")
    columns = 2 + any(t.round_trip is not None for t in translations)
    rows = []
    for translation in translations[:count]:
        path = translation.source
        name = path.name if source.is_file() else path.relative_to(source).as_posix()
        labelled = zip(translation[:columns], _LABELS, strict=False)
        cells, notes = zip(*(_cell(file, label, name) for file, label in labelled), strict=True)
        rows.append(page.Row(cells, name, next(filter(None, notes), "")))
    facts = f"{done} of {len(translations)} images translated"
    if len(rows) < len(translations):
        facts += f", the first {len(rows)} shown"
    title = f"Translations of {source.resolve().name}"
    return page.render("translation.html", title=title, facts=facts, rows=rows)


def _cell(file: Path | None, label: str, name: str) -> tuple[page.Cell, str]:
    """Return an image of a row and its description, "" if it cannot be shown."""
    if file is None:
        return page.Cell(label, missing="missing"), ""
    try:
        image = read_image(file)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.strerror:  # its message contains the path
            reason = f"cannot be read: {cause.strerror}"
        else:
            reason = str(error).removeprefix(f"image {file}").lstrip(": ")
        return page.Cell(label, missing=reason), ""
    return page.cell(image, label, f"{name}: {label}"), page.describe(image)


def find_translations(source: Path, translated: Path) -> list[Translation]:
    """Find images and the files that `translate` wrote for them.

    Args:
        source: An image, or a folder that is searched with its subfolders.
        translated: The folder with the translations; its images are not taken as sources.

    Raises:
        UserError: There are no images.
    """
    if source.is_file():
        names = {Path(source.name): source}
    elif source.is_dir():
        root, inner = source.resolve(), translated.resolve()
        paths = {path.relative_to(source): path for path in search(source, "--input")}
        names = {name: path for name, path in paths.items() if inner not in (root / name).parents}
    else:
        raise UserError(f"--input {source}: there is no such image or folder")
    if not names:
        raise UserError(f"--input {source}: contains no images ({' '.join(SUFFIXES)})")
    outputs = {name: _existing(translated / name) for name in names}
    translations = []
    for name, path in names.items():
        output = outputs[name]
        round_trip = output and output.with_stem(f"{output.stem}_back")
        # a_back.png may also be the translation of an input a_back.png.
        if round_trip in outputs.values() or not (round_trip and round_trip.is_file()):
            round_trip = None
        translations.append(Translation(path, output, round_trip))
    return translations


def _existing(path: Path) -> Path | None:
    """Return the file of this name, or with another suffix that `translate` writes."""
    for suffix in (path.suffix, *WRITABLE):
        if (candidate := path.with_suffix(suffix)).is_file():
            return candidate
    return None


def _write(path: Path, html: str) -> None:
    """Write the page atomically."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, html)
    except OSError as error:
        raise UserError(f"--page {path}: cannot be written: {error.strerror}") from error
