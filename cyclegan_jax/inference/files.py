"""Files to be made of images by a translator: which, and making them."""

import contextlib
import sys
from collections import deque
from collections.abc import Callable
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

_THREADS = 4  # that read, and as many that write
_BATCHES_AHEAD = 2

Item = TypeVar("Item")
Failures = dict[Path, str]


class Job(NamedTuple):
    """An image, and the files that are made of it: the latter two where they are asked for."""

    source: Path
    translated: Path
    back: Path | None = None
    side_by_side: Path | None = None

    @property
    def targets(self) -> list[Path]:
        """All files that are made."""
        return [path for path in self[1:] if path is not None]


class _Loaded(NamedTuple):
    job: Job
    image: np.ndarray
    prepared: Prepared


def plan_jobs(
    source: Path,
    output: Path,
    *,
    suffix: str | None = None,
    overwrite: bool = False,
    round_trip: bool = False,
    side_by_side: bool = False,
) -> list[Job]:
    """What is to be made of an image or a folder; no image is read.

    Of a folder those images are left out that lie in `output`.

    Args:
        source: an image, or a folder.
        output: folder for what is made.
        suffix: of the files, with its dot; by default each one's own.
        overwrite: whether files that are there may be replaced.
        round_trip: whether to make NAME_back as well.
        side_by_side: whether to make NAME_side_by_side.png as well.

    Raises:
        UserError: there are no images, they cannot be written under their names, two would get
            the same name, or files are there already.
    """
    if output.suffix.lower() in SUFFIXES and not output.is_dir():
        raise UserError(f"--output {output}: the name of an image; that of a folder was expected")
    jobs = []
    for path, name in _find(source, output):
        ending = suffix or path.suffix
        if ending.lower() not in WRITABLE:
            kind = f"{ending} files are" if ending else "files without a suffix are"
            raise UserError(f"--input {path}: {kind} not written; choose a --format")
        target = output / name.with_suffix(ending)
        jobs.append(
            Job(
                path,
                target,
                target.with_stem(f"{target.stem}_back") if round_trip else None,
                target.with_name(f"{target.stem}_side_by_side.png") if side_by_side else None,
            )
        )
    origins: dict[str, Path] = {}
    for job in jobs:
        for target in job.targets:
            # Where the file system takes a.png and A.png for one.
            key = str(target).casefold() if sys.platform == "darwin" else str(target)
            if key in origins:
                raise UserError(f"{origins[key]} and {job.source} would both make {target}")
            origins[key] = job.source
    sources = {job.source.resolve() for job in jobs}
    there = [target for job in jobs for target in job.targets if target.exists()]
    for target in there:
        if target.resolve() in sources:
            raise UserError(f"--output {output}: {target} is an image to translate")
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(f"{there[0]}{more} there already; --overwrite replaces them")
    return jobs


def _find(source: Path, output: Path) -> list[tuple[Path, Path]]:
    """Images, and their paths from the folder they were found in."""
    if source.is_file():
        return [(source, Path(source.name))]
    if not source.is_dir():
        raise UserError(f"--input {source}: there is no such image or folder")
    root, inner = source.resolve(), output.resolve()
    if root == inner:
        raise UserError(f"--output {output}: the folder of the images; another was expected")
    names = [path.relative_to(source) for path in search(source, "--input")]
    if root in inner.parents:
        names = [name for name in names if inner not in (root / name).parents]
    if not names:
        raise UserError(f"--input {source}: no images in it ({' '.join(SUFFIXES)})")
    return [(source / name, name) for name in names]


def translate_jobs(translator: Translator, jobs: list[Job], count: Callable[[], None]) -> Failures:
    """Makes all files; threads read and write while the device computes.

    Images come in the order of their padded sizes, for each of which there is a compilation.

    Args:
        translator: the model.
        jobs: what is to be made.
        count: is called for every image that is done with.

    Returns:
        {image: what is wrong}, for those that could not be read, translated or written.

    Raises:
        UserError: the format of a file does not hold what the network makes.
    """
    for job in jobs:
        _check_formats(translator, job)
    failures: Failures = {}

    def settle(job: Job, future: "Future[Item]", *, last: bool = False) -> Item | None:
        """What a thread made of an image; None where it failed."""
        try:
            result = future.result()
        except UserError as error:
            failures[job.source] = str(error)
            count()
            return None
        if last:
            count()
        return result

    with ThreadPoolExecutor(_THREADS) as writers, contextlib.ExitStack() as stack:
        readers = ThreadPoolExecutor(_THREADS)
        stack.callback(readers.shutdown, cancel_futures=True)  # ctrl-C does not wait for them
        measured = [(job, readers.submit(read_size, job.source)) for job in jobs]
        sizes = [(job, size) for job, future in measured if (size := settle(job, future))]
        given = [job for job, _ in sizes]
        loading = (
            (fill, [(given[i], readers.submit(_load, translator, given[i])) for i in chosen])
            for fill, chosen in batches(translator, [size for _, size in sizes])
        )
        writing: deque[tuple[Job, Future[None]]] = deque()
        for fill, reading in ahead(loading, _BATCHES_AHEAD):
            loaded = [one for job, future in reading if (one := settle(job, future))]
            if not loaded:
                continue
            outputs = translator.apply(
                [one.prepared for one in loaded], fill=fill, round_trip=jobs[0].back is not None
            )
            for index, one in enumerate(loaded):
                writing.append((one.job, writers.submit(_save, one, outputs, index)))
            while len(writing) > _BATCHES_AHEAD * fill:
                settle(*writing.popleft(), last=True)
        for job, future in writing:
            settle(job, future, last=True)
    return failures


def _check_formats(
    translator: Translator, job: Job, *, alpha: bool = False, deep: bool = False
) -> None:
    """Raises UserError where a file's format does not hold what is made for it."""
    made = [(job.translated, translator.reverse_network.channels)]
    if job.back is not None:
        made.append((job.back, translator.network.channels))
    for path, channels in made:
        check_writable(path, channels + (alpha and channels in (1, 3)), deep=deep)


def _load(translator: Translator, job: Job) -> _Loaded:
    image = read_image(job.source)
    prepared = translator.prepare(image, str(job.source))
    deep = image.dtype == np.uint16
    _check_formats(translator, job, alpha=prepared.alpha is not None, deep=deep)
    return _Loaded(job, image, prepared)


def _save(loaded: _Loaded, outputs: list[Any], index: int) -> None:
    """Writes one image's files; waits for the device."""
    job = loaded.job
    made = [finish(loaded.prepared, np.asarray(output)[index]) for output in outputs]
    files = dict(zip((job.translated, job.back), made, strict=False))
    if job.side_by_side is not None:
        files[job.side_by_side] = strip([[loaded.image, *made]])
    for path, image in files.items():
        assert path is not None
        make_folder(path.parent)
        write_image(path, image)
