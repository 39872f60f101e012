"""Time an update on 1, 2 and 4 devices of this machine, with the same global batch.

    python -m benchmarks.scaling --json scaling.json
    python -m benchmarks.scaling --device gpu --size 256 --batch 32 --width 64 --precision bfloat16

Needs only jax, flax, optax and Pillow. On a CPU the devices share its cores, so more of them cannot
be faster: the loss is the cost of sharding a batch. Images are counted as pairs, one of each
domain. All timings alternate in one process.
"""

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.machine import (
    Run,
    choose_device,
    describe_machine,
    seconds_each,
    table,
    warn_of_load,
    write_json,
)
from benchmarks.plain_config import default_config

COLUMNS = {
    "devices": ("devices", "d"),
    "seconds": ("s/update", ".3f"),
    "fastest": ("fastest", ".3f"),
    "slowest": ("slowest", ".3f"),
    "images_per_second": ("images/s", ".2f"),
    "ratio": ("ratio", ".2f"),
}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--devices", type=int, nargs="+", default=[1, 2, 4], help="numbers of devices"
    )
    parser.add_argument("--size", type=int, default=128, help="height and width of images")
    parser.add_argument("--batch", type=int, default=4, help="pairs per update, over all devices")
    parser.add_argument("--width", type=int, default=16, help="width of all four networks")
    parser.add_argument("--generator", default="resnet9", help="variant of the generators")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each")
    parser.add_argument("--json", type=Path, help="file of results")
    args = parser.parse_args()
    for devices in args.devices:
        if devices < 1 or args.batch % devices:
            parser.error(f"--batch: expected a multiple of {devices} devices, got {args.batch}")
    return args


def make_config(args: argparse.Namespace) -> Any:
    """Return the published configuration with the sizes of the command line."""
    config = default_config()
    config.precision, config.batch_size = args.precision, args.batch
    config.generator.variant = args.generator
    config.generator.width = config.discriminator.width = args.width
    return config


def make_run(args: argparse.Namespace, devices: int) -> Run:
    """Compile our update for a number of devices."""
    import jax
    import numpy as np

    from cyclegan_jax.build import build_model, build_state
    from cyclegan_jax.distributed import compile_step, place

    config = make_config(args)
    step = compile_step(build_model(config, 1000, devices), devices)
    state = build_state(config, (args.size, args.size))
    random = np.random.default_rng(0)
    shape = (args.batch, args.size, args.size, 3)
    batch = {domain: random.integers(0, 256, shape, np.uint8) for domain in ("a", "b")}
    placed = place([batch], devices)

    def run(updates: int) -> None:
        nonlocal state
        for _ in range(updates):
            state, _ = step(state, placed)
        jax.block_until_ready(state)

    return run


def measure(args: argparse.Namespace, counts: list[int]) -> list[dict[str, Any]]:
    """Measure medians for each number of devices, and speeds relative to the first."""
    runs, updates = {}, {}
    for devices in counts:
        runs[devices] = make_run(args, devices)
        compiling = seconds_each(runs[devices], 1)
        updates[devices] = max(1, min(100, round(1.0 / seconds_each(runs[devices], 1))))
        print(f"{devices} device(s): first update {compiling:.1f} s", flush=True)
    times: dict[int, list[float]] = {devices: [] for devices in counts}
    for number in range(args.rounds):
        for devices in counts if number % 2 == 0 else reversed(counts):
            runs[devices](1)
            times[devices].append(seconds_each(runs[devices], updates[devices]))
    medians = {devices: statistics.median(times[devices]) for devices in counts}
    return [
        {
            "devices": devices,
            "seconds": medians[devices],
            "fastest": min(times[devices]),
            "slowest": max(times[devices]),
            "images_per_second": args.batch / medians[devices],
            "ratio": medians[counts[0]] / medians[devices],
        }
        for devices in counts
    ]


def main() -> None:
    """Measure, print a table and write the file."""
    args = parse_arguments()
    # JAX reads these when it is imported, hence the imports inside the functions above.
    choose_device(args.device)
    if args.device == "cpu":
        count = f"--xla_force_host_platform_device_count={max(args.devices)}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    import jax

    available = jax.local_device_count()
    counts = [devices for devices in args.devices if devices <= available]
    for devices in args.devices:
        if devices > available:
            print(f"{devices} device(s): skipped, {available} available")
    machine = describe_machine()
    print(f"machine: {machine}")
    warn_of_load()
    results = measure(args, counts)
    print(f"\n{args.size}x{args.size}, batch {args.batch}, width {args.width}, {args.precision}")
    print(table(COLUMNS, results))
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        write_json(args.json, {"machine": machine, **settings, "results": results})


if __name__ == "__main__":
    main()
