"""Times one update on 1, 2 and 4 devices of this machine, with the same batch over all.

    python -m benchmarks.scaling --json scaling.json
    python -m benchmarks.scaling --device gpu --size 256 --batch 32 --width 64 --precision bfloat16

Needs jax, flax, optax and Pillow, nothing else. On a CPU the devices are made by dividing it, so
more of them cannot be faster: what is lost is what splitting a batch costs. Images are counted as
pairs, one of each domain. All timings are taken in turns, in one process.
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
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4], help="how many")
    parser.add_argument("--size", type=int, default=128, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=4, help="pairs per update, over all devices")
    parser.add_argument("--width", type=int, default=16, help="of all four networks")
    parser.add_argument("--generator", default="resnet9", help="a variant of the generators")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    for devices in args.devices:
        if devices < 1 or args.batch % devices:
            parser.error(f"--batch {args.batch} cannot be split over {devices} devices")
    return args


def make_config(args: argparse.Namespace) -> Any:
    """The published configuration with the sizes asked for."""
    config = default_config()
    config.precision, config.batch_size = args.precision, args.batch
    config.generator.variant = args.generator
    config.generator.width = config.discriminator.width = args.width
    return config


def make_run(args: argparse.Namespace, devices: int) -> Run:
    """Our update, compiled for so many devices."""
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
    """Medians for each number of devices, with the ratio of its speed to the first's."""
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
    """Does what the command line says."""
    args = parse_arguments()
    # Read when JAX is imported, which is why that happens inside the functions above.
    choose_device(args.device)
    if args.device == "cpu":
        count = f"--xla_force_host_platform_device_count={max(args.devices)}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    import jax

    there = jax.local_device_count()
    counts = [devices for devices in args.devices if devices <= there]
    for devices in args.devices:
        if devices > there:
            print(f"{devices} device(s): left out, there are {there}")
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
