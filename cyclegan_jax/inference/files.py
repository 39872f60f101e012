"""Translation of image files: which files to write for which images, and writing them."""

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cyclegan_jax.data.folder import SUFFIXES, search
from cyclegan_jax.inference.batching import ahead, batches
from cyclegan_jax.inference.prepare import Prepared, finish
from cyclegan_jax.inference.translator import Translator
from cyclegan_jax.utils.errors import UserError
from cyclegan_jax.utils.formats import WRITABLE, check_writable
from cyclegan_jax.utils.image_io import make_folder, read_image, read_size, strip, write_image

_THREADS = 4  # for reading, and as many for writing
_BATCHES_AHEAD = 2

Item = TypeVar("Item")
Failures = dict[Path, str]


class Plan(NamedTuple):
    """An image and the files to write for it; None for those that were not requested.

    Attributes:
        source: The image.
        translated: File for its translation.
        round_trip: File for the translation translated back.
        side_by_side: File for all of them in a row.
    """

    source: Path
    translated: Path
    round_trip: Path | None = None
    side_by_side: Path | None = None

    @property
    def targets(self) -> list[Path]:
        """All files to write."""
        return [path for path in self[1:] if path is not None]


class _Loaded(NamedTuple):
    plan: Plan
    image: np.ndarray
    prepared: Prepared


def plan_files(
    source: Path,
    output: Path,
    *,
    suffix: str | None = None,
    overwrite: bool = False,
    round_trip: bool = False,
    side_by_side: bool = False,
) -> list[Plan]:
    """Plan the files to write for an image or a folder without reading any image.

    Images of a folder that are inside `output` are left out.

    Args:
        source: An image, or a folder that is searched with its subfolders.
        output: Folder for the files.
        suffix: Suffix of all files, with its dot; by default each keeps its own.
        overwrite: Whether existing files may be replaced.
        round_trip: Whether to write NAME_back as well.
        side_by_side: Whether to write NAME_side_by_side.png as well.

    Raises:
        UserError: There are no images, a suffix cannot be written, two images would be written to
            the same file, or files exist.
    """
    if output.suffix.lower() in SUFFIXES and not output.is_dir():
        raise UserError(f"--output {output}: expected a folder, got the name of an image")
    plans = []
    for path, name in _find(source, output):
        ending = suffix or path.suffix
        if ending.lower() not in WRITABLE:
            kind = f"{ending} files" if ending else "files without a suffix"
            raise UserError(f"--input {path}: {kind} cannot be written; choose a --format")
        target = output / name.with_suffix(ending)
        plans.append(
            Plan(
                path,
                target,
                target.with_stem(f"{target.stem}_back") if round_trip else None,
                target.with_name(f"{target.stem}_side_by_side.png") if side_by_side else None,
            )
        )
    _check_targets(plans, output, overwrite=overwrite)
    return plans


def _find(source: Path, output: Path) -> list[tuple[Path, Path]]:
    """Return images and their paths relative to the folder that was searched."""
    if source.is_file():
        return [(source, Path(source.name))]
    if not source.is_dir():
        raise UserError(f"--input {source}: there is no such image or folder")
    root, inner = source.resolve(), output.resolve()
    if root == inner:
        raise UserError(f"--output {output}: expected another folder than --input")
    names = [path.relative_to(source) for path in search(source, "--input")]
    if root in inner.parents:
        names = [name for name in names if inner not in (root / name).parents]
    if not names:
        raise UserError(f"--input {source}: no images found ({' '.join(SUFFIXES)})")
    return [(source / name, name) for name in names]


def _check_targets(plans: Sequence[Plan], output: Path, *, overwrite: bool) -> None:
    """Raise UserError for files that two images share, that are images to read, or that exist."""
    origins: dict[str, Path] = {}
    for plan in plans:
        for target in plan.targets:
            # File systems of macOS do not distinguish a.png and A.png.
            key = str(target).casefold() if sys.platform == "darwin" else str(target)
            if key in origins:
                raise UserError(
                    f"{target}: {origins[key]} and {plan.source} would both be written to it"
                )
            origins[key] = plan.source
    sources = {plan.source.resolve() for plan in plans}
    existing = [target for plan in plans for target in plan.targets if target.exists()]
    for target in existing:
        if target.resolve() in sources:
            raise UserError(f"--output {output}: {target} is an image to translate")
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise UserError(f"{existing[0]}{more}: exists; --overwrite replaces it")


def translate_files(
    translator: Translator, plans: Sequence[Plan], on_done: Callable[[], None]
) -> Failures:
    """Translate images and write all planned files.

    Threads read and write while the device computes. Images are processed in the order of their
    padded sizes, each of which is compiled once.

    Args:
        translator: The model.
        plans: Images and files, all with or all without a round trip.
        on_done: Called after each image, whether translated or failed, from any thread.

    Returns:
        {image: error} for those that could not be read, translated or written.

    Raises:
        UserError: A file's format cannot hold the network's output.
    """
    for plan in plans:
        _check_formats(translator, plan)
    failures: Failures = {}

    def result(plan: Plan, future: "Future[Item]") -> Item | None:
        """Wait for a thread's result; a failure is recorded and gives None."""
        try:
            return future.result()
        except UserError as error:
            failures[plan.source] = str(error)
            on_done()
            return None

    def write(loaded: _Loaded, outputs: list[Any], index: int) -> None:
        _write(loaded, outputs, index)
        on_done()  # here, so that files written after ctrl-C count too

    with ThreadPoolExecutor(_THREADS) as writers, contextlib.ExitStack() as stack:
        readers = ThreadPoolExecutor(_THREADS)
        stack.callback(readers.shutdown, cancel_futures=True)  # ctrl-C does not wait for them
        reading_sizes = [(plan, readers.submit(read_size, plan.source)) for plan in plans]
        sizes = [(plan, size) for plan, future in reading_sizes if (size := result(plan, future))]
        readable = [plan for plan, _ in sizes]
        reading = (
            (fill, [(readable[i], readers.submit(_load, translator, readable[i])) for i in indices])
            for fill, indices in batches(translator, [size for _, size in sizes])
        )
        writing: deque[tuple[Plan, Future[None]]] = deque()
        for fill, futures in ahead(reading, _BATCHES_AHEAD):
            batch = [loaded for plan, future in futures if (loaded := result(plan, future))]
            if not batch:
                continue
            inputs = [loaded.prepared for loaded in batch]
            round_trip = plans[0].round_trip is not None
            outputs = translator.apply(inputs, fill=fill, round_trip=round_trip)
            for i, loaded in enumerate(batch):
                writing.append((loaded.plan, writers.submit(write, loaded, outputs, i)))
            while len(writing) > _BATCHES_AHEAD * fill:
                result(*writing.popleft())
        for plan, written in writing:
            result(plan, written)
    return failures


def _check_formats(
    translator: Translator, plan: Plan, *, alpha: bool = False, deep: bool = False
) -> None:
    """Raise UserError where a file's format cannot hold the network's output."""
    files = [(plan.translated, translator.reverse_network.channels)]
    if plan.round_trip is not None:
        files.append((plan.round_trip, translator.network.channels))
    for path, channels in files:
        check_writable(path, channels + (alpha and channels in (1, 3)), deep=deep)


def _load(translator: Translator, plan: Plan) -> _Loaded:
    image = read_image(plan.source)
    prepared = translator.prepare(image, str(plan.source))
    deep = image.dtype == np.uint16
    _check_formats(translator, plan, alpha=prepared.alpha is not None, deep=deep)
    return _Loaded(plan, image, prepared)


def _write(loaded: _Loaded, outputs: list[Any], index: int) -> None:
    """Write one image's files, after waiting for the device."""
    plan = loaded.plan
    images = [finish(loaded.prepared, np.asarray(output)[index]) for output in outputs]
    files = dict(zip((plan.translated, plan.round_trip), images, strict=False))
    if plan.side_by_side is not None:
        files[plan.side_by_side] = strip([[loaded.image, *images]])
    for path, image in files.items():
        assert path is not None
        make_folder(path.parent)
        write_image(path, image)
