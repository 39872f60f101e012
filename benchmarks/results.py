"""Rates, ratios, tables and files from the timings of benchmarks."""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import Columns, table, write_json
from benchmarks.trace import COLUMNS as KERNELS

Result = dict[str, Any]

COLUMNS: Columns = {
    "size": ("size", "d"),
    "batch": ("batch", "d"),
    "form": ("form", "s"),
    "milliseconds": ("ms", ".2f"),
    "low": ("from", ".2f"),
    "high": ("to", ".2f"),
    "cpu_milliseconds": ("CPU ms", ".2f"),
    "images_per_second": ("images/s", ".2f"),
    "tflops": ("TFLOP/s", ".4g"),
    "of_peak": ("of peak", ".0%"),
    "memory_gib": ("memory GiB", ".2f"),
    "built_seconds": ("built in s", ".1f"),
    "status": ("", "s"),
}


def statistics_of(seconds: Sequence[float], images: int, flops: int, peak: float) -> Result:
    """Compute the numbers that a table shows of a form.

    Args:
        seconds: Seconds per batch, in each round.
        images: Images per batch.
        flops: Floating-point operations per batch.
        peak: Operations per second of a matrix product.
    """
    median = statistics.median(seconds)
    return {
        "milliseconds": 1000 * median,
        "low": 1000 * min(seconds),
        "high": 1000 * max(seconds),
        "images_per_second": images / median,
        "tflops": flops / median / 1e12,
        "of_peak": flops / median / peak if peak else None,
    }


def complete_rows(results: Sequence[Result]) -> list[Result]:
    """Return all rows with their statistics; peaks are the best of all processes."""
    peaks = best_peaks(results)
    rows = []
    for result in results:
        for row in result["rows"]:
            full = dict(row)
            if row["status"] == "ok":
                peak = peaks.get(row["precision"], 0.0)
                full |= statistics_of(row["seconds"], result["images"], result["flops"], peak)
                if row.get("cpu_seconds"):
                    full["cpu_milliseconds"] = 1000 * statistics.median(row["cpu_seconds"])
            rows.append(full)
    return rows


def best_peaks(results: Sequence[Result]) -> dict[str, float]:
    """Return the operations per second of each precision."""
    peaks: dict[str, float] = {}
    for result in results:
        for precision, rate in result.get("peaks", {}).items():
            peaks[precision] = max(rate, peaks.get(precision, 0.0))
    return peaks


def compare(row: Result, against: Result) -> Result:
    """Compute the ratio of two forms' times, of the medians and in single rounds."""
    ratios = [x / y for x, y in zip(row["seconds"], against["seconds"], strict=False)]
    return {
        "size": row["size"],
        "batch": row["batch"],
        "form": row["form"],
        "against": against["form"],
        "ratio": statistics.median(row["seconds"]) / statistics.median(against["seconds"]),
        "low": min(ratios),
        "high": max(ratios),
        "cpu": _ratio_of_medians(row.get("cpu_seconds"), against.get("cpu_seconds")),
    }


def _ratio_of_medians(times: Sequence[float] | None, others: Sequence[float] | None) -> Any:
    return statistics.median(times) / statistics.median(others) if times and others else None


def ratios_to_torch(rows: Sequence[Result]) -> list[Result]:
    """Compare each of our forms with the fastest PyTorch form of its cell."""
    ratios = []
    good = [row for row in rows if row["status"] == "ok"]
    for cell in dict.fromkeys((row["size"], row["batch"]) for row in good):
        here = [row for row in good if (row["size"], row["batch"]) == cell]
        torch = [row for row in here if row["form"].startswith("torch")]
        if torch:
            fastest = min(torch, key=lambda row: statistics.median(row["seconds"]))
            ratios += [compare(row, fastest) for row in here if row["form"].startswith("ours")]
    return ratios


def ratio_line(ratio: Result) -> str:
    """Format a ratio."""
    cpu = "" if ratio["cpu"] is None else f"; {ratio['cpu']:.3f} of the CPU time"
    return (
        f"ratio {ratio['form']}/{ratio['against']} at {ratio['size']}x{ratio['size']}, batch "
        f"{ratio['batch']}: {ratio['ratio']:.3f} of the medians, "
        f"{ratio['low']:.3f} to {ratio['high']:.3f} in single rounds{cpu}"
    )


def show_cell(result: Result) -> None:
    """Print the result of one cell."""
    rows = complete_rows([result])
    if "flops" in result:
        print(f"\n{result['flops'] / 1e9:,.1f} GFLOP in the published convolutions")
    print(table(COLUMNS, rows), flush=True)
    for ratio in ratios_to_torch(rows):
        print(ratio_line(ratio), flush=True)
    for form, profile in result.get("profiles", {}).items():
        shown = [kernel | {"name": kernel["name"][:70]} for kernel in profile["kernels"]]
        print(
            f"{form}: {profile['milliseconds']:.2f} ms per call under the profiler, device busy "
            f"{profile['busy']:.0%}; longest kernels:\n{table(KERNELS, shown)}",
            flush=True,
        )


def finish(results: Sequence[Result], path: Path | None) -> list[Result]:
    """Print the whole table if there are several cells, and write the file.

    Returns:
        All rows.
    """
    rows = complete_rows(results)
    machine = next((r["machine"] for r in results if r.get("machine")), "")
    peaks = best_peaks(results)
    if len(results) > 1:
        print(f"\n{table(COLUMNS, rows)}")
    print(f"machine: {machine}")
    for precision, rate in peaks.items():
        print(f"peak: {rate / 1e12:,.3g} TFLOP/s in a {precision} matrix product")
    if path is not None:
        profiles = [
            {"size": r["size"], "batch": r["batch"], "form": form} | profile
            for r in results
            for form, profile in r.get("profiles", {}).items()
        ]
        write_json(
            path,
            {
                "machine": machine,
                "peak_tflops": {p: rate / 1e12 for p, rate in peaks.items()},
                "rows": rows,
                "ratios": ratios_to_torch(rows),
                "profiles": profiles,
            },
        )
    return rows


def leave(rows: Sequence[Result]) -> None:
    """Exit with 1 if a form failed for other reasons than memory or time."""
    if any(row["status"].startswith("failed") for row in rows):
        sys.exit(1)
