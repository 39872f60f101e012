"""Translate images with a trained model.

`python -m cyclegan_jax.translate --workdir W --input IMAGES --output FOLDER` translates an image or
a folder with its subfolders, and writes the translations under the same names.
"""

import argparse
import sys
import threading
import time

from cyclegan_jax.inference.files import plan_files, translate_files
from cyclegan_jax.inference.translator import DIRECTIONS, Translator
from cyclegan_jax.utils import command
from cyclegan_jax.utils.formats import WRITABLE


class Progress:
    """A progress line on standard error where that is a terminal.

    Attributes:
        done: Number of images done.
    """

    def __init__(self, total: int):
        """Start the clock for `total` images."""
        self.done = 0
        self._lock = threading.Lock()
        self._total = total
        self._start = time.monotonic()
        self._shown = 0.0
        self._show(f"0 of {total} images")

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def add(self) -> None:
        """Count an image; thread-safe."""
        with self._lock:
            self.done += 1
            seconds = self.seconds
            if seconds > self._shown + 0.2 or self.done == self._total:
                self._shown = seconds
                left = round(seconds / self.done * (self._total - self.done))
                self._show(f"{self.done} of {self._total} images, {left} s left")

    def _show(self, line: str) -> None:
        if sys.stderr.isatty():
            end = "\n" if self.done == self._total else ""
            print(f"\r{line:<60}", end=end, file=sys.stderr, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.Parser(prog="python -m cyclegan_jax.translate", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=command.path, required=True, help="work directory of a run")
    add("--input", type=command.path, required=True, help="an image, or a folder of images")
    add("--output", type=command.path, required=True, help="folder for the translations")
    add("--direction", choices=DIRECTIONS, default="a_to_b", help="default: a_to_b")
    add("--checkpoint", default="latest", help="latest (default), best, or a step")
    add("--format", choices=[s[1:] for s in WRITABLE], help="default: that of each input file")
    add("--overwrite", action="store_true", help="replace existing files")
    add("--round_trip", action="store_true", help="also translate back, to NAME_back")
    add("--side_by_side", action="store_true", help="also write strips, NAME_side_by_side.png")
    add("--batch_size", type=int, default=1, metavar="N", help="images per device and call")
    add(
        "--tile",
        type=int,
        metavar="N",
        help="compute images of more than N rows in bands of N rows. Same result in less memory "
        "and more time: 3 H W width bytes (12 GiB for 8192x8192 at width 64) and for each band a "
        "few times 4 N W width bytes",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `arguments` defaults to those of the process.

    Raises:
        UserError: A user's mistake; nothing was written.
        SystemExit: Some images could not be translated, which are named, or ctrl-C.
    """
    args = _parse(arguments)
    plans = plan_files(
        args.input,
        args.output,
        suffix=args.format and f".{args.format}",
        overwrite=args.overwrite,
        round_trip=args.round_trip,
        side_by_side=args.side_by_side,
    )
    translator = Translator.load(
        args.workdir,
        args.direction,
        args.checkpoint,
        batch_size=args.batch_size,
        tile=args.tile,
    )
    progress = Progress(len(plans))
    try:
        failures = translate_files(translator, plans, progress.add)
    except KeyboardInterrupt:
        print(
            f"stopped: {progress.done} of {len(plans)} images done; no file is incomplete",
            file=sys.stderr,
        )
        sys.exit(130)
    print(
        f"{args.output}: {len(plans) - len(failures)} of {len(plans)} images translated "
        f"{args.direction} with checkpoint {translator.step} in {progress.seconds:.1f} s"
    )
    for message in failures.values():
        print(f"error: {message}", file=sys.stderr)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    command.run(main, "out of memory: lower --batch_size or set --tile")
