"""Translates images with a trained model.

`python -m cyclegan_jax.translate --workdir W --input IMAGES --output FOLDER` takes an image or a
folder with all that is below it, and makes a tree of translations under the same names.
"""

import argparse
import sys
import time

from cyclegan_jax.inference.files import plan_jobs, translate_jobs
from cyclegan_jax.inference.translator import DIRECTIONS, Translator
from cyclegan_jax.utils import command
from cyclegan_jax.utils.formats import WRITABLE


class Progress:
    """A line on the terminal, where there is one, that says how far it is."""

    def __init__(self, total: int):
        """Begins to count."""
        self.done = 0
        self._total = total
        self._start = time.monotonic()
        self._last = 0.0
        self._show(f"0 of {total} images")

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._start

    def add(self) -> None:
        """Counts an image."""
        self.done += 1
        seconds = self.seconds
        if seconds > self._last + 0.2 or self.done == self._total:
            self._last = seconds
            left = round(seconds / self.done * (self._total - self.done))
            self._show(f"{self.done} of {self._total} images, {left} s left")

    def _show(self, line: str) -> None:
        if sys.stderr.isatty():
            end = "\n" if self.done == self._total else ""
            print(f"\r{line:<60}", end=end, file=sys.stderr, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.translate", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=command.path, required=True, help="of a run")
    add("--input", type=command.path, required=True, help="an image, or a folder of images")
    add("--output", type=command.path, required=True, help="folder for the translations")
    add("--direction", choices=DIRECTIONS, default="a_to_b")
    add("--checkpoint", default="latest", help="latest (default), best or a step")
    add("--format", choices=[s[1:] for s in WRITABLE], help="of all files; each keeps its own")
    add("--overwrite", action="store_true", help="replace files that are there")
    add("--round_trip", action="store_true", help="also save what is brought back: NAME_back")
    add("--side_by_side", action="store_true", help="also save strips: NAME_side_by_side.png")
    add("--batch_size", type=int, default=1, metavar="N", help="images of one size at a time")
    add(
        "--tile",
        type=int,
        metavar="N",
        help="compute images higher than N rows in bands of N rows, for less memory: about "
        "3 H W width bytes (8192x8192 at width 64: 12 GiB) and what a band takes, a few times "
        "4 N W width bytes; slower, and the same result",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """The command line; without arguments, that of the process.

    Raises:
        UserError: a mistake of the user's; nothing was made.
        SystemExit: some images could not be translated; they are named.
    """
    given = _parse(arguments)
    jobs = plan_jobs(
        given.input,
        given.output,
        suffix=given.format and f".{given.format}",
        overwrite=given.overwrite,
        round_trip=given.round_trip,
        side_by_side=given.side_by_side,
    )
    translator = Translator.load(
        given.workdir,
        given.direction,
        given.checkpoint,
        batch_size=given.batch_size,
        tile=given.tile,
    )
    progress = Progress(len(jobs))
    try:
        failures = translate_jobs(translator, jobs, progress.add)
    except KeyboardInterrupt:
        done = f"{progress.done} of {len(jobs)} images done"
        print(f"stopped: {done}; the files that are there are whole", file=sys.stderr)
        sys.exit(130)
    print(
        f"{given.output}: {len(jobs) - len(failures)} of {len(jobs)} images translated "
        f"{given.direction} by checkpoint {translator.step} in {progress.seconds:.1f} s"
    )
    for message in failures.values():
        print(f"error: {message}", file=sys.stderr)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    command.run(main, "an image does not fit into memory: lower --batch_size or give --tile")
