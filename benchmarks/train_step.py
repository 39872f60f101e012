"""Time an update of all four networks, ours and PyTorch's, in alternating rounds.

    python -m benchmarks.train_step --size 256 --batch 1
    python -m benchmarks.train_step --device gpu --sizes 256 --batches 1,16 --json step.json
    python -m benchmarks.train_step --memory --size 256 --batch 4

Needs only jax, flax, optax, Pillow and torch. The PyTorch side is `torch_cyclegan`, the published
program, with cuDNN's fastest algorithms. All images are on the device already. A pair counts as one
image; TFLOP/s count the published convolutions. The peak is the best matrix product of the same
precision, measured in the same process. Memory is XLA's plan for ours, and PyTorch's peak
allocation. Cells without time are listed as such.

`--memory` instead runs each form for two updates in a separate process, and measures its peak.

Forms, separated by commas:
"""

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import forms as forms_lib
from benchmarks.forms import Form, parse_forms, parse_numbers
from benchmarks.grid import Cell, Report, Result, describe_failure, measure_cell, new_row, run_grid
from benchmarks.machine import (
    GIB,
    Columns,
    choose_device,
    describe_machine,
    table,
    warn_of_load,
    write_json,
)
from benchmarks.results import finish, leave, show_cell
from benchmarks.updates import Updates
from cyclegan_jax.utils.memory import use_huge_pages

# Forms that compile quickly first, then the most important; there may be no time for the rest.
ON_GPU = (
    "torch_bfloat16,torch_bfloat16+channels_last,torch_tf32,ours_bfloat16,torch_compile,"
    "ours_float32,torch_float32"
)
DEFAULTS = {
    "cpu": ([256], [1], "ours_float32,torch_float32,torch_float32+channels_last,torch_bfloat16"),
    "gpu": ([256, 128, 512], [1, 16, 4, 8], ON_GPU),
}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; `sizes`, `batches` and `forms` are lists."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__}{(forms_lib.__doc__ or '').partition(':')[2]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", "--size", type=parse_numbers, help="height and width of images")
    parser.add_argument("--batches", "--batch", type=parse_numbers, help="pairs per update")
    parser.add_argument("--forms", type=parse_forms, help="see above")
    parser.add_argument(
        "--steps-per-dispatch", type=int, default=1, help="ours also with as many updates at a time"
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each form")
    parser.add_argument("--minutes", type=float, default=7.0, help="nothing starts after these")
    parser.add_argument("--json", type=Path, help="file of results")
    parser.add_argument("--profile", type=Path, help="folder for traces of ours")
    parser.add_argument("--width", type=int, default=64, help="width of all four networks")
    parser.add_argument("--generator", default="resnet9", help="variant of the generators")
    parser.add_argument(
        "--layers", type=int, default=3, help="strided layers of the discriminators"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    args = parser.parse_args(argv)
    if args.forms and any(form.name == "files" for form in args.forms):
        parser.error("--forms: files is for benchmarks.translate only")
    if args.forms and args.device != "gpu" and any(form.triton for form in args.forms):
        parser.error(f"--forms: expected forms without +triton with --device {args.device}")
    sizes, batches, forms = DEFAULTS[args.device]
    args.sizes, args.batches = args.sizes or sizes, args.batches or batches
    if args.forms is None:
        args.forms = parse_forms(forms)
        if args.memory:
            args.forms = with_savings(args.forms)
    if args.steps_per_dispatch > 1:
        names = [f"{f.name}+steps{args.steps_per_dispatch}" for f in args.forms if f.is_ours]
        args.forms += parse_forms(",".join(names))
    return args


def with_savings(forms: list[Form]) -> list[Form]:
    """Add our forms with the options that save memory."""
    names = []
    for form in forms:
        savings = ("", "+remat", "+micro", "+micro+remat") if form.is_ours else ("",)
        names += [form.name + saving for saving in savings]
    return parse_forms(",".join(names))


def compare_times(args: argparse.Namespace, task: Updates) -> None:
    """Measure the grid, print its tables and ratios, and write the file."""
    cells = [Cell(size, batch) for size in args.sizes for batch in args.batches]
    warn_of_load()
    results = run_grid(
        partial(measure_cell, task, profile=args.profile),
        [(cell, args.forms) for cell in cells],
        time.time() + 60 * args.minutes,
        apart=len(cells) > 1 or args.device == "gpu",
        show=show_cell,
    )
    leave(finish(results, args.json))


MEMORY_COLUMNS: Columns = {
    "size": ("size", "d"),
    "batch": ("batch", "d"),
    "form": ("form", "s"),
    "process_gib": ("process GiB", ".2f"),
    "device_gib": ("device GiB", ".2f"),
    "plan_gib": ("XLA's plan GiB", ".2f"),
    "status": ("", "s"),
}


def measure_memory(
    task: Updates, cell: Cell, forms: Sequence[Form], deadline: float, report: Report
) -> Result:
    """Measure the peak memory of this process and of the device in two updates of one form."""
    import resource

    (form,) = forms
    row = new_row(form, cell)
    result: Result = cell._asdict() | {"machine": "", "rows": [row]}
    try:
        ready = task.prepare(form, cell, {})
        if form.is_ours:
            planned = ready.memory()
            row["plan_gib"] = None if planned is None else planned / GIB
            report(result)
        ready.run(2)
        row["status"] = "ok"
        if task.device == "gpu":
            row["device_gib"] = device_peak(form) / GIB
    except Exception as error:
        row["status"] = describe_failure(error)
    row["process_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    result["machine"] = describe_machine()
    return result


def device_peak(form: Form) -> int:
    """Return the peak bytes of the GPU in this process."""
    if form.is_ours:
        import jax

        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    import torch

    return torch.cuda.max_memory_allocated()


def compare_memory(args: argparse.Namespace, task: Updates) -> None:
    """Measure each form by itself, print a table and write the file."""
    units = [
        (Cell(size, batch), [form])
        for size in args.sizes
        for batch in args.batches
        for form in args.forms
        if batch > 1 or form.micro_batches is None  # a single pair cannot be split
    ]
    results = run_grid(
        partial(measure_memory, task),
        units,
        time.time() + 60 * args.minutes,
        apart=True,
        show=lambda result: print(
            *table(MEMORY_COLUMNS, result["rows"]).splitlines()[1:], flush=True
        ),
    )
    rows = [row for result in results for row in result["rows"]]
    machine = next((r["machine"] for r in results if r.get("machine")), "")
    print(f"\nmachine: {machine}\n{table(MEMORY_COLUMNS, rows)}")
    if args.json is not None:
        write_json(args.json, {"machine": machine, "rows": rows})
    leave(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times or memory."""
    args = parse_arguments(argv)
    choose_device(args.device)
    task = Updates(args.device, args.rounds, args.width, args.generator, args.layers)
    (compare_memory if args.memory else compare_times)(args, task)


if __name__ == "__main__":
    use_huge_pages()  # as in training; PyTorch's updates gain from it too
    main(sys.argv[1:])
