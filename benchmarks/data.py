"""Pairs per second of the input pipeline, cold (read, decode, resize) and warm (from the cache).

    python benchmarks/data.py                      # generated images, 286 -> 256
    python benchmarks/data.py --dir horse2zebra    # a folder with trainA and trainB

Cold is the first epoch; the files may be in the operating system's cache. Warm is the median of
several rounds after it. Each pair has its random crops and flips. TensorFlow is not needed.
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
from cyclegan_jax.data import build_train_dataset, open_sources  # noqa: E402
from cyclegan_jax.data.transforms import resize  # noqa: E402
from cyclegan_jax.utils.errors import UserError  # noqa: E402
from cyclegan_jax.utils.image_io import write_image  # noqa: E402


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", help="folder with trainA and trainB (default: generated images)")
    parser.add_argument("--images", type=int, default=300, help="generated images per domain")
    parser.add_argument(
        "--size", type=int, default=256, help="height and width of generated images"
    )
    parser.add_argument("--load-size", type=int, default=286)
    parser.add_argument("--crop-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=2000, help="pairs per warm round")
    parser.add_argument("--rounds", type=int, default=5, help="warm rounds")
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
    """Write JPEG files of about the size of photographs: coarse shapes and fine grain."""
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB"):
        (folder / name).mkdir()
        for i in range(count):
            shapes = resize(rng.integers(0, 256, (8, 8, 3), np.uint8), size, size).astype(int)
            grain = rng.integers(-12, 13, (size, size, 1))
            image = np.clip(shapes + grain, 0, 255).astype(np.uint8)
            write_image(folder / name / f"{i}.jpg", image)


def measure(args: argparse.Namespace, folder: str) -> None:
    """Time one run over the images in a folder, and print the table."""
    config = default.get_config()
    config.batch_size = args.batch_size
    config.data.source = "folder"
    config.data.dir = folder
    config.data.load_size = args.load_size
    config.data.crop_size = args.crop_size
    config.data.threads = args.threads
    # Serial pairs: the first epoch reads each image once.
    config.data.pairing = "serial"
    sources = open_sources(config.data)
    dataset = build_train_dataset(config.data, config.seed, config.batch_size, sources)
    epoch = -(-dataset.pairs_per_epoch // args.batch_size)
    updates = max(1, args.pairs // args.batch_size)
    with dataset.batches(0, epoch + args.rounds * updates) as batches:
        cold = args.batch_size / _seconds_per_batch(batches, epoch)
        warm = [args.batch_size / _seconds_per_batch(batches, updates) for _ in range(args.rounds)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = [
        ("machine", f"{_processor()}, {cores} cores"),
        (
            "software",
            f"Python {platform.python_version()}, NumPy {np.__version__}, Pillow {PIL.__version__}",
        ),
        ("images", f"{len(sources.train_a)} and {len(sources.train_b)}, {args.dir or 'generated'}"),
        ("transform", f"to {args.load_size}, crop {args.crop_size}, flip"),
        ("batch, threads", f"{args.batch_size}, {args.threads}"),
        ("cold", f"{cold:,.0f} pairs/s"),
        (
            "warm",
            f"{statistics.median(warm):,.0f} pairs/s "
            f"({min(warm):,.0f} to {max(warm):,.0f} in {args.rounds} rounds)",
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
    """Return the name of the processor, or the architecture if it is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
