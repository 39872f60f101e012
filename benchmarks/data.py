"""Pairs per second of the input pipeline, cold (read, decode, resize) and warm (from memory).

    python benchmarks/data.py                      # made images, 286 -> 256
    python benchmarks/data.py --dir horse2zebra    # a folder with trainA and trainB

Cold is the first time through the set; the files themselves may be in the system's memory. Warm
is the median of several stretches after that. Each pair has its random crop and flips. Needs no
TensorFlow.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

if not __package__:  # run as a file: the project is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
import PIL  # noqa: E402

from configs import default  # noqa: E402
from cyclegan_jax.data import load_sources, pairs_per_epoch, train_batches  # noqa: E402
from cyclegan_jax.data.transforms import resize  # noqa: E402
from cyclegan_jax.utils.errors import UserError  # noqa: E402
from cyclegan_jax.utils.image_io import write_image  # noqa: E402


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", help="folder with trainA and trainB (default: made images)")
    parser.add_argument("--images", type=int, default=300, help="made images of each domain")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side of made images")
    parser.add_argument("--load-size", type=int, default=286)
    parser.add_argument("--crop-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=2000, help="pairs of a warm stretch")
    parser.add_argument("--stretches", type=int, default=5, help="warm stretches")
    args = parser.parse_args(argv)
    try:
        if args.dir:
            measure(args, args.dir)
        else:
            with tempfile.TemporaryDirectory() as folder:
                make_images(Path(folder), args.images, args.size)
                measure(args, folder)
    except UserError as error:
        sys.exit(f"error: {error}")


def make_images(folder: Path, count: int, size: int) -> None:
    """Writes JPEG files that weigh about what photographs do: coarse shapes and fine grain."""
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB"):
        (folder / name).mkdir()
        for i in range(count):
            shapes = resize(rng.integers(0, 256, (8, 8, 3), np.uint8), size, size).astype(int)
            grain = rng.integers(-12, 13, (size, size, 1))
            image = np.clip(shapes + grain, 0, 255).astype(np.uint8)
            write_image(folder / name / f"{i}.jpg", image)


def measure(args: argparse.Namespace, folder: str) -> None:
    """Times one run over the images in a folder and prints the table."""
    config = default.get_config()
    config.batch_size = args.batch_size
    config.data.source = "folder"
    config.data.dir = folder
    config.data.load_size = args.load_size
    config.data.crop_size = args.crop_size
    config.data.threads = args.threads
    # In step, so that the first epoch reads each image once.
    config.data.pairing = "serial"
    source_a, source_b = load_sources(config.data, "train")
    epoch = -(-pairs_per_epoch(config.data, len(source_a), len(source_b)) // args.batch_size)
    stretch = max(1, args.pairs // args.batch_size)
    steps = epoch + args.stretches * stretch
    with train_batches(config, source_a, source_b, start_step=0, num_steps=steps) as batches:
        cold = args.batch_size / _seconds_per_batch(batches, epoch)
        warm = [
            args.batch_size / _seconds_per_batch(batches, stretch) for _ in range(args.stretches)
        ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = [
        ("machine", f"{_processor()}, {cores} cores"),
        (
            "software",
            f"Python {platform.python_version()}, NumPy {np.__version__}, Pillow {PIL.__version__}",
        ),
        ("images", f"{len(source_a)} and {len(source_b)}, {args.dir or 'made'}"),
        ("transform", f"to {args.load_size}, crop {args.crop_size}, flip"),
        ("batch, threads", f"{args.batch_size}, {args.threads}"),
        ("cold", f"{cold:,.0f} pairs/s"),
        (
            "warm",
            f"{statistics.median(warm):,.0f} pairs/s "
            f"({min(warm):,.0f} to {max(warm):,.0f} in {args.stretches} stretches)",
        ),
    ]
    for name, value in rows:
        print(f"{name:<16}{value}")


def _seconds_per_batch(batches: Iterator[dict[str, np.ndarray]], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return (time.perf_counter() - start) / count


def _processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
