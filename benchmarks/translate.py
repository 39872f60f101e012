"""Pictures per second of `cyclegan_jax.translate`, from file to file, beside the bare network's.

    python -m benchmarks.translate                             # ResNet-9 of width 64, 256x256
    python -m benchmarks.translate --width 8 --pictures 200 --format png

Both in one process, in turns: the compiled network is called on an array that is there already,
then the program reads, translates and writes as many JPEG pictures. The first round, in which
things are compiled, does not count. Medians over the others; the share, the program's speed in
parts of the bare network's, is that of each round.
"""

import argparse
import platform
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
    args = parser.parse_args(argv)
    try:
        measure(args)
    except UserError as error:
        sys.exit(f"error: {error}")


def measure(args: argparse.Namespace) -> None:
    """Times rounds of both and prints the table."""
    shape = (args.batch_size, args.size, args.size, 3)
    generator = build_generator(args.variant, channels=3, width=args.width, style=Style())
    params = jax.jit(generator.init)(jax.random.key(0), jnp.zeros(shape))["params"]
    network = Network(generator, params, 3)
    translator = Translator(network, network, 0, batch_size=args.batch_size)
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
