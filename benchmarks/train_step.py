"""Times one update of all four networks, ours against PyTorch's, alternating in one process.

    python -m benchmarks.train_step --size 256 --batch 1 --precision float32
    python -m benchmarks.train_step --size 256 --memory

Needs jax, flax, optax, Pillow and torch, nothing else. The PyTorch side is `torch_cyclegan`, the
published program; it picks cuDNN's fastest algorithms and multiplies float32 on a GPU in TF32, as
JAX does. Both sides get pictures that lie on the device already. `--memory` runs each side in a
process of its own instead and gives its peak.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.plain_config import default_config

SIDES = ("ours", "torch")
GIB = 2**30

# Runs that many updates and returns when they are done.
Run = Callable[[int], None]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=1, help="pairs per update")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each side")
    parser.add_argument("--width", type=int, default=64, help="of all four networks")
    parser.add_argument("--generator", default="resnet9", help="a variant of the generators")
    parser.add_argument("--layers", type=int, default=3, help="strided ones of the discriminators")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--only", choices=SIDES, help="with --memory: this side, in this process")
    return parser.parse_args()


def make_config(args: argparse.Namespace) -> Any:
    """The published configuration with the sizes asked for."""
    config = default_config()
    config.precision, config.batch_size = args.precision, args.batch
    config.generator.variant = args.generator
    config.generator.width = config.discriminator.width = args.width
    config.discriminator.layers = args.layers
    return config


def our_run(args: argparse.Namespace) -> Run:
    """Our update, compiled."""
    import jax
    import numpy as np

    from cyclegan_jax.state import create_state
    from cyclegan_jax.step import compile_step

    config = make_config(args)
    step = compile_step(config, pairs_per_epoch=1000)
    state = create_state(config, (args.size, args.size))
    random = np.random.default_rng(0)
    shape = (args.batch, args.size, args.size, 3)
    batch = {
        domain: jax.device_put(random.integers(0, 256, shape, np.uint8)) for domain in ("a", "b")
    }

    def run(updates: int) -> None:
        nonlocal state
        for _ in range(updates):
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    return run


def torch_run(args: argparse.Namespace) -> Run:
    """PyTorch's update."""
    import torch

    from benchmarks import torch_cyclegan

    # What the original sets, and what JAX does by default.
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    config = make_config(args)
    device = torch_device(args)
    autocast = torch.bfloat16 if args.precision == "bfloat16" else None
    trainer = torch_cyclegan.Trainer(config, device, autocast_dtype=autocast)
    shape = (args.batch, 3, args.size, args.size)
    real_a, real_b = (torch.rand(shape, device=device) * 2 - 1 for _ in range(2))
    random = torch.Generator().manual_seed(0)

    def run(updates: int) -> None:
        for _ in range(updates):
            draws = torch_cyclegan.draw(args.batch, config.pool_size, random)
            trainer.step(real_a, real_b, draws)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def torch_device(args: argparse.Namespace) -> str:
    """PyTorch's name of the device."""
    return "cuda" if args.device == "gpu" else "cpu"


def count_flops(args: argparse.Namespace) -> int:
    """Floating-point operations of one update of the published program, two per multiply-add.

    Counted over its convolutions, forward and backward, by PyTorch's counter on tensors without
    data. What our forms of the layers do beyond that, or save, is not in it.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks import torch_cyclegan

    trainer = torch_cyclegan.Trainer(make_config(args), "meta")
    real = torch.zeros((args.batch, 3, args.size, args.size), device="meta")
    random = torch.Generator()
    with FlopCounterMode(display=False) as counter:
        trainer.step(real, real, torch_cyclegan.draw(args.batch, 50, random))
    return counter.get_total_flops()


def peak_flops(args: argparse.Namespace) -> float:
    """Operations per second of a large matrix product, the better of JAX's and PyTorch's."""
    import jax
    import jax.numpy as jnp
    import torch

    side = 8192 if args.device == "gpu" else 2048
    ours = jnp.ones((side, side), args.precision)
    theirs = torch.ones(
        (side, side), device=torch_device(args), dtype=getattr(torch, args.precision)
    )
    product = jax.jit(jnp.matmul)

    def run_ours(products: int) -> None:
        for _ in range(products):
            result = product(ours, ours)
        jax.block_until_ready(result)

    def run_theirs(products: int) -> None:
        for _ in range(products):
            theirs @ theirs
        if theirs.is_cuda:
            torch.cuda.synchronize()

    best = 0.0
    for run in (run_ours, run_theirs):
        run(2)
        seconds = min(seconds_each(run, 3) for _ in range(3))
        best = max(best, 2 * side**3 / seconds)
    return best


def seconds_each(run: Run, times: int) -> float:
    """Mean duration of one of so many in a row."""
    start = time.perf_counter()
    run(times)
    return (time.perf_counter() - start) / times


def describe_machine(args: argparse.Namespace) -> str:
    """Cores, processor, device and versions."""
    import jax
    import torch

    parts = [f"{len(os.sched_getaffinity(0))} cores of {processor_name()}"]
    if args.device == "gpu":
        parts.append(torch.cuda.get_device_name())
    parts.append(f"jax {jax.__version__}, torch {torch.__version__}")
    return "; ".join(parts)


def processor_name() -> str:
    """As the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def compare_times(args: argparse.Namespace) -> None:
    """Prints medians, their ratio and what they are of the device's peak."""
    print(f"machine: {describe_machine(args)}")
    load = os.getloadavg()[0]
    if load > 0.5:
        # Seen: thirty times slower, as PyTorch's threads wait for one another without sleeping.
        print(f"warning: the load is {load:.1f}; other programs slow PyTorch down far more than us")
    peak = peak_flops(args)
    flops = count_flops(args)
    print(f"work: {flops / 1e9:,.1f} GFLOP an update, counted over the published convolutions")
    runs = {"ours": our_run(args), "torch": torch_run(args)}
    updates = {}
    for side, run in runs.items():
        compiling = seconds_each(run, 1)
        # Short updates are timed many in a row.
        updates[side] = max(1, min(100, round(1.0 / seconds_each(run, 1))))
        print(f"{side}: first update {compiling:.1f} s; {updates[side]} in a row are timed")
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(args.rounds):
        # Each side is as often the one that begins.
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            # While the other side ran, the system may have taken back memory that this one had let
            # go (a virtual machine even gives it to its host). In training that does not happen.
            runs[side](1)
            times[side].append(seconds_each(runs[side], updates[side]))
        # Anything beside us slows this down too, hence the best of all rounds.
        peak = max(peak, peak_flops(args))
    print(f"peak: {peak / 1e9:,.0f} GFLOP/s in a {args.precision} matrix product")
    medians = {side: statistics.median(times[side]) for side in SIDES}
    for side in SIDES:
        print(
            f"{side}: median {1000 * medians[side]:.2f} ms an update "
            f"({1000 * min(times[side]):.2f} to {1000 * max(times[side]):.2f}), "
            f"{flops / medians[side] / peak:.0%} of the peak"
        )
    ratios = [x / y for x, y in zip(times["ours"], times["torch"], strict=True)]
    print(
        f"ratio ours/torch: {medians['ours'] / medians['torch']:.3f} of the medians, "
        f"{min(ratios):.3f} to {max(ratios):.3f} in single rounds"
    )


def measure_memory(args: argparse.Namespace) -> None:
    """Prints the peak memory of this process after some updates of one side."""
    run = our_run(args) if args.only == "ours" else torch_run(args)
    run(3)
    line = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB:.2f} GiB"
    if args.device == "gpu" and args.only == "ours":
        import jax

        line += f", on the GPU {jax.devices()[0].memory_stats()['peak_bytes_in_use'] / GIB:.2f} GiB"
    elif args.device == "gpu":
        import torch

        line += f", on the GPU {torch.cuda.max_memory_allocated() / GIB:.2f} GiB"
    print(f"{args.only}: peak memory of the process {line}", flush=True)


def main() -> None:
    """Does what the command line says."""
    args = parse_arguments()
    # Read when JAX is imported, which is why that happens inside the functions above.
    os.environ["JAX_PLATFORMS"] = "cuda" if args.device == "gpu" else "cpu"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not args.memory:
        compare_times(args)
    elif args.only:
        measure_memory(args)
    else:
        for side in SIDES:
            command = [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--only", side]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
