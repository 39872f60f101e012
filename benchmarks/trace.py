"""Kernels that take the most time, read from traces of JAX's profiler."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import Columns, Run

COLUMNS: Columns = {
    "milliseconds": ("ms", ".3f"),
    "fraction": ("of all", ".1%"),
    "calls": ("calls", "g"),
    "name": ("kernel", "s"),
    "operation": ("in", "s"),
}


class Event(NamedTuple):
    """A run of a kernel, in nanoseconds; `operation` is XLA's name, if known."""

    name: str
    operation: str
    start: float
    duration: float


def busiest_kernels(run: Run, folder: Path, calls: int, count: int = 10) -> dict[str, Any]:
    """Trace a computation, and summarise its kernels.

    Args:
        run: The computation, already compiled.
        folder: Receives the trace, for TensorBoard or Perfetto.
        calls: Number of calls to trace.
        count: Number of kernels to return.

    Returns:
        {milliseconds, busy, kernels}, see `summarise`.
    """
    import jax

    folder.mkdir(parents=True, exist_ok=True)
    with jax.profiler.trace(str(folder)):
        run(calls)
    traces = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        return {"milliseconds": 0.0, "busy": 0.0, "kernels": []}
    profile = jax.profiler.ProfileData.from_file(str(traces[-1]))
    return summarise(list(read_events(profile)), calls, count)


def read_events(profile: Any) -> Iterator[Event]:
    """Yield kernels of the first GPU or, without a GPU, XLA's operations on the CPU."""
    planes = list(profile.planes)
    gpus = sorted((p for p in planes if "/device:GPU" in p.name), key=lambda plane: plane.name)
    for plane in gpus[:1] or planes:
        lines = list(plane.lines)
        # Other lines of a GPU are aggregates of these.
        streams = [line for line in lines if line.name.startswith("Stream")]
        for line in streams or lines:
            for event in line.events:
                operation = next((str(v) for name, v in event.stats if name == "hlo_op"), "")
                if gpus or operation:
                    yield Event(event.name, operation, event.start_ns, event.duration_ns)


def summarise(events: list[Event], calls: int, count: int) -> dict[str, Any]:
    """Summarise the kernels with the most time.

    Args:
        events: Events of all calls.
        calls: Number of calls.
        count: Number of kernels to return.

    Returns:
        {milliseconds, busy, kernels}: time per call from its first kernel to its last, fraction of
        it in which the device computed, and the longest kernels: their name, milliseconds and runs
        per call, fraction of the time of all kernels, and the operation with most of their time.
    """
    if not events:
        return {"milliseconds": 0.0, "busy": 0.0, "kernels": []}
    times: dict[str, float] = defaultdict(float)
    numbers: dict[str, int] = defaultdict(int)
    operations: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    busy, end = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event.start):
        times[event.name] += event.duration
        numbers[event.name] += 1
        operations[event.name][event.operation] += event.duration
        # Streams run concurrently; time in which several compute counts once.
        stop = event.start + event.duration
        busy += max(0.0, stop - max(end, event.start))
        end = max(end, stop)
    whole = end - min(event.start for event in events)
    total = sum(times.values())
    kernels = [
        {
            "name": name,
            "milliseconds": times[name] / calls / 1e6,
            "calls": numbers[name] / calls,
            "fraction": times[name] / total,
            "operation": max(operations[name], key=operations[name].__getitem__),
        }
        for name in sorted(times, key=times.__getitem__, reverse=True)[:count]
    ]
    return {"milliseconds": whole / calls / 1e6, "busy": busy / whole, "kernels": kernels}
