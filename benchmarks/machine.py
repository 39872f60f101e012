"""Shared parts of the benchmarks: the machine's name and rates, tables and files of results.

This module imports neither JAX nor PyTorch, so that `choose_device` can be called before both.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cyclegan_jax.utils.atomic import write_text

GIB = 2**30

# Runs a computation n times and returns when all are done.
Run = Callable[[int], None]


def choose_device(device: str) -> None:
    """Select JAX's device and disable its preallocation of memory; call before importing JAX."""
    os.environ["JAX_PLATFORMS"] = "cuda" if device == "gpu" else "cpu"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def torch_device(device: str) -> str:
    """Return PyTorch's name of the device."""
    return "cuda" if device == "gpu" else "cpu"


def describe_machine() -> str:
    """Describe cores, processor, JAX's device, and versions."""
    import jax

    parts = [f"{cores()} cores of {processor_name()}"]
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        count = f"{len(devices)} x " if len(devices) > 1 else ""
        parts.append(count + devices[0].device_kind)
    versions = [f"jax {jax.__version__}"]
    with contextlib.suppress(PackageNotFoundError):
        versions.append(f"torch {version('torch')}")
    return "; ".join([*parts, ", ".join(versions)])


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """Return the system's name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def warn_of_load() -> None:
    """Print a warning if other programs use the processor."""
    load = os.getloadavg()[0]
    if load > 0.5:
        # PyTorch has been thirty times slower: its threads wait for each other without sleeping.
        print(f"warning: load {load:.1f}: other programs slow PyTorch down far more than JAX")


def seconds_each(run: Run, times: int) -> float:
    """Return the mean duration of `times` consecutive calls."""
    start = time.perf_counter()
    run(times)
    return (time.perf_counter() - start) / times


def matrix_rate(device: str, precision: str) -> float:
    """Measure the operations per second of a large matrix product, with JAX or PyTorch.

    Args:
        device: cpu or gpu.
        precision: float32, tf32 (float32 rounded for the tensor cores; float32 on a CPU) or
            bfloat16.

    Returns:
        The better of both rates.
    """
    import jax
    import jax.numpy as jnp
    import torch

    side = 8192 if device == "gpu" else 2048
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    # Random values: some chips multiply zeros and ones faster.
    ours = jax.random.normal(jax.random.key(0), (side, side), dtype)
    theirs = torch.randn((side, side), device=torch_device(device), dtype=getattr(torch, dtype))
    product = jax.jit(jnp.matmul, static_argnames="precision")

    def run_ours(products: int) -> None:
        for _ in range(products):
            result = product(ours, ours, precision="highest" if precision == "float32" else None)
        jax.block_until_ready(result)

    def run_theirs(products: int) -> None:
        allow_tf32(precision != "float32")
        for _ in range(products):
            theirs @ theirs
        if theirs.is_cuda:
            torch.cuda.synchronize()

    times = 20 if device == "gpu" else 3
    best = 0.0
    for run in (run_ours, run_theirs):
        run(2)
        seconds = min(seconds_each(run, times) for _ in range(3))
        best = max(best, 2 * side**3 / seconds)
    return best


def allow_tf32(allowed: bool) -> None:
    """Set whether PyTorch may round float32 for the tensor cores; no effect on a CPU."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def lacks_memory(error: BaseException) -> bool:
    """Return whether JAX, PyTorch or Python ran out of memory."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or "RESOURCE_EXHAUSTED" in text
        or "out of memory" in text.lower()
        or "can't allocate memory" in text
    )


# {key: (heading, format of values)}; rows may lack keys.
Columns = Mapping[str, tuple[str, str]]


def table(columns: Columns, rows: Sequence[Mapping[str, Any]]) -> str:
    """Format a table; columns without values are left out.

    Args:
        columns: {key of a row: (heading, format of its values)}.
        rows: Values by key; None counts as missing.
    """
    used = {key: c for key, c in columns.items() if any(row.get(key) is not None for row in rows)}
    lines = [[heading for heading, _ in used.values()]]
    for row in rows:
        lines.append(
            [
                "" if row.get(key) is None else format(row[key], style)
                for key, (_, style) in used.items()
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(used))]
    # Numbers are aligned to the right.
    sides = ["<" if style in ("", "s") else ">" for _, style in used.values()]
    return "\n".join(
        "  ".join(
            f"{word:{side}{width}}" for word, side, width in zip(line, sides, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write a file of results atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(results, indent=1) + "\n")
