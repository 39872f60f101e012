"""Pictures per second of `cyclegan_jax.translate`, from file to file, beside the bare network's.

    python -m benchmarks.translate                             # ResNet-9 of width 64, 256x256
    python -m benchmarks.translate --width 8 --pictures 200 --format png
    python -m benchmarks.translate --large 4096x4096 --tile 128 --rounds 1

In one process, in turns: the compiled network is called on an array that is there already,
then the program reads, translates and writes as many JPEG pictures. The first round, in which
things are compiled, does not count. Medians over the others; the share, the program's speed in
parts of the bare network's, is that of each round.

`--large` times a single picture instead, in bands with `--tile` and else as a whole, and gives the
peak memory of the process. Compiling is in the first time, not in those after it.
"""

import argparse
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.data import make_pictures
from cyclegan_jax.errors import UserError
from cyclegan_jax.generators import build_generator
from cyclegan_jax.inference import Network, Translator, translate
from cyclegan_jax.jobs import plan_jobs, translate_jobs
from cyclegan_jax.layers import Style


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="resnet9", help="of the generators")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--pictures", type=int, default=20, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--format", help="of the files written (default: JPEG)")
    parser.add_argument("--large", metavar="HxW", help="one picture of this height and width")
    parser.add_argument("--tile", type=int, help="with --large: rows of a band")
    args = parser.parse_args(argv)
    try:
        measure_large(args) if args.large else measure(args)
    except UserError as error:
        sys.exit(f"error: {error}")


def make_translator(args: argparse.Namespace) -> Translator:
    """An untrained one; there and back are the same."""
    generator = build_generator(args.variant, channels=3, width=args.width, style=Style())
    small = jnp.zeros((1, generator.granularity * 2, generator.granularity * 2, 3))
    params = jax.jit(generator.init)(jax.random.key(0), small)["params"]
    network = Network(generator, params, 3)
    return Translator(network, network, 0, batch_size=args.batch_size, tile=args.tile)


def measure_large(args: argparse.Namespace) -> None:
    """Times one picture, and prints the times and the peak memory."""
    height, width = map(int, args.large.split("x"))
    translator = make_translator(args)
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    seconds = []
    for _ in range(args.rounds):
        start = time.perf_counter()
        translator(picture)
        seconds.append(f"{time.perf_counter() - start:.1f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    how = f"in bands of {args.tile} rows" if args.tile else "whole"
    print(
        f"{args.variant} of width {args.width}, {height}x{width} {how}: {', '.join(seconds)} s, "
        f"peak {peak:.2f} GiB"
    )


def measure(args: argparse.Namespace) -> None:
    """Times rounds of both and prints the table."""
    translator = make_translator(args)
    generator, params, _ = translator.there
    shape = (args.batch_size, args.size, args.size, 3)
    pictures = jax.random.uniform(jax.random.key(1), shape, minval=-1.0)
    calls = -(-args.pictures // args.batch_size)

    def bare() -> None:
        for _ in range(calls):
            jax.block_until_ready(translate(generator, params, pictures))

    speeds: dict[str, list[float]] = {"bare network": [], "files": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder, args.pictures, args.size)
        output = folder / "translated"

        def files() -> None:
            suffix = args.format and f".{args.format}"
            jobs = plan_jobs(folder / "trainA", output, suffix=suffix, overwrite=True)
            failures = translate_jobs(translator, jobs, lambda: None)
            assert not failures

        for _ in range(args.rounds + 1):
            for (_, measured), run in zip(speeds.items(), (bare, files), strict=True):
                start = time.perf_counter()
                run()
                measured.append(args.pictures / (time.perf_counter() - start))
    rounds = {name: measured[1:] for name, measured in speeds.items()}
    shares = [f / b for b, f in zip(*rounds.values(), strict=True)]
    print(f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(
        f"{args.variant} of width {args.width}, {args.size}x{args.size}, batch {args.batch_size}, "
        f"{args.rounds} rounds of {args.pictures}"
    )
    for name, measured in rounds.items():
        print(f"{name:<14}{_spread(measured, 2)} pictures/s")
    print(f"{'share':<14}{_spread(shares, 3)}")


def _spread(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{np.round(middle, digits):g} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
