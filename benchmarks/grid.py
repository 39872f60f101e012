"""Time several forms of one computation at several sizes and batches, in alternating rounds.

All forms of a cell, a size and a batch, are timed in one process in alternating rounds, so that
other load on the machine affects all alike. With several cells each has its own process, which
frees its memory and whose failures do not affect other cells. A form that does not fit into memory
beside the others is tried again by itself.
"""

import gc
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.forms import Form
from benchmarks.machine import (
    GIB,
    Run,
    describe_machine,
    lacks_memory,
    matrix_rate,
    seconds_each,
)

# Seconds that a process may exceed its deadline, most likely while compiling.
GRACE = 45.0
# Seconds of a cell, if available: compilation takes most of them.
MIN_CELL_SECONDS = 180.0
NO_MEMORY, NO_TIME = "out of memory", "no time"

Result = dict[str, Any]
Report = Callable[[Result], None]


class Cell(NamedTuple):
    """Height and width of images, and batch size."""

    size: int
    batch: int


@dataclass
class Prepared:
    """A form that is ready to be timed.

    Attributes:
        run: The computation to time.
        precision: Precision of its multiplications, as `matrix_rate` names it.
        batches: Number of the cell's batches that one call computes.
        memory: Returns its peak device memory in bytes, or None if unknown; may run it.
    """

    run: Run
    precision: str
    batches: float = 1
    memory: Callable[[], int | None] = lambda: None


class Task(Protocol):
    """A computation to measure; it is pickled for other processes."""

    @property
    def device(self) -> str:
        """The device, cpu or gpu."""

    @property
    def rounds(self) -> int:
        """Number of timings of each form."""

    def images_in(self, cell: Cell) -> int:
        """Return the number of images in a batch."""

    def flops(self, cell: Cell) -> int:
        """Return the floating-point operations of a batch in the published program."""

    def prepare(self, form: Form, cell: Cell, seconds: dict[Form, float]) -> Prepared:
        """Build a form, given the seconds per batch of the forms before it."""


def measure_cell(
    task: Task,
    cell: Cell,
    forms: Sequence[Form],
    deadline: float,
    report: Report = lambda result: None,
    profile: Path | None = None,
) -> Result:
    """Prepare all forms, then time them in rounds until all are done or the time is up.

    Args:
        task: The computation.
        cell: Size and batch.
        forms: Forms, in the order of preparation.
        deadline: End by `time.time`, after which nothing is started; the last quarter of the time
            is reserved for the rounds.
        report: Called with intermediate results.
        profile: Folder for traces of our forms; None for no traces.

    Returns:
        {size, batch, machine, images, flops, peaks, rows, profiles}, all plain values. A row has
        the form, its precision, its status, and per batch in every round `seconds` and
        `cpu_seconds` of all threads.
    """
    result: Result = cell._asdict() | {
        "machine": "",
        "images": task.images_in(cell),
        "flops": task.flops(cell),
        "peaks": {},
        "rows": [],
        "profiles": {},
    }
    rows = {form: new_row(form, cell) for form in forms}
    result["rows"] = list(rows.values())
    prepared: dict[Form, tuple[Prepared, int]] = {}
    seconds: dict[Form, float] = {}

    def attempt(form: Form, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:
            prepared.pop(form, None)
            rows[form]["status"] = describe_failure(error)
            release_memory()

    def prepare(form: Form) -> None:
        start, row = time.perf_counter(), rows[form]
        ready = task.prepare(form, cell, seconds)
        row["precision"] = ready.precision
        ready.run(1)
        row["built_seconds"] = time.perf_counter() - start
        # The first calls may still select algorithms and record graphs.
        start, calls = time.perf_counter(), 1
        while calls < 3 and time.perf_counter() - start < 2:
            ready.run(1)
            calls += 1
        memory = ready.memory()
        row["memory_gib"] = None if memory is None else memory / GIB
        each = seconds_each(ready.run, 1)
        # For the case that the time is up before the first round.
        seconds[form] = each / ready.batches
        row |= {"status": "ok", "seconds": [seconds[form]]}
        # Short computations are timed in groups.
        prepared[form] = ready, max(1, min(100, round(1.0 / each)))

    def time_once(form: Form, number: int) -> None:
        ready, calls = prepared[form]
        # While other forms ran, the system may have reclaimed freed memory (a virtual machine even
        # returns it to its host), which does not happen in training.
        ready.run(1)
        busy = time.process_time()
        measured = seconds_each(ready.run, calls) / ready.batches
        busy = (time.process_time() - busy) / (calls * ready.batches)
        for name, value in (("seconds", measured), ("cpu_seconds", busy)):
            rows[form][name] = [*(rows[form][name] if number else []), value]

    def measure_peaks() -> None:
        for precision in {ready.precision for ready, _ in prepared.values()}:
            rate = matrix_rate(task.device, precision)
            result["peaks"][precision] = max(rate, result["peaks"].get(precision, 0.0))

    begin = time.time()
    for form in forms:
        # A quarter of the time is reserved for the rounds.
        if time.time() < begin + 0.75 * (deadline - begin):
            attempt(form, partial(prepare, form))
        if form in prepared and prepared[form][0].precision not in result["peaks"]:
            measure_peaks()
        if task.device == "gpu":
            # In case compilation takes the time of the rounds, which does not happen on CPUs.
            for ready in list(prepared):
                attempt(ready, partial(time_once, ready, 0))
        result["machine"] = describe_machine()
        report(result)
    for number in range(task.rounds):
        # Alternate the order.
        for form in list(prepared) if number % 2 == 0 else reversed(list(prepared)):
            if time.time() < deadline:
                attempt(form, partial(time_once, form, number))
        # Other load slows this down too, hence the best of all rounds.
        if time.time() < deadline:
            measure_peaks()
        report(result)
    if profile is not None:
        from benchmarks.trace import busiest_kernels

        for form in [form for form in prepared if form.is_ours]:
            if time.time() < deadline:
                folder = profile / f"{cell.size}x{cell.batch}_{form.name}"
                try:
                    traced = busiest_kernels(prepared[form][0].run, folder, calls=3)
                except Exception as error:  # the timings are valid without it
                    print(f"no profile of {form.name}: {describe_failure(error)}", flush=True)
                else:
                    result["profiles"][form.name] = traced
    report(result)
    return result


def new_row(form: Form, cell: Cell) -> Result:
    """Build the row of a form that is not measured yet."""
    return cell._asdict() | {
        "form": form.name,
        "precision": form.precision,
        "status": NO_TIME,
        "seconds": [],
        "cpu_seconds": [],
    }


def describe_failure(error: Exception) -> str:
    """Return the status of a failed row, and print the traceback to standard error."""
    if lacks_memory(error):
        return NO_MEMORY
    traceback.print_exception(error)
    lines = str(error).splitlines() or [""]
    return f"failed: {type(error).__name__}: {lines[0][:200]}"


def release_memory() -> None:
    """Free the memory of a form that failed."""
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def in_own_process(
    measure: Callable[..., Result], deadline: float, blank: Result, grace: float = GRACE
) -> Result:
    """Measure in a separate process; return the result, or the last one reported if it ends early.

    Args:
        measure: Called with `report`.
        deadline: End by `time.time`.
        blank: The result if nothing was reported.
        grace: Seconds after the deadline at which the process is killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_results, args=(sender, measure))
    process.start()
    sender.close()
    result, status = blank, NO_TIME
    try:
        while receiver.poll(max(0.0, deadline + grace - time.time())):
            result = receiver.recv()
        process.kill()
        process.join()
    except EOFError:
        process.join()
        if process.exitcode == -9:  # Linux kills processes when memory runs out
            status = NO_MEMORY
        elif process.exitcode:
            status = f"failed: the process exited with {process.exitcode}"
    for row in result["rows"]:
        if row["status"] == NO_TIME:
            row["status"] = status
    return result


def _send_results(sender: Connection, measure: Callable[..., Result]) -> None:
    sender.send(measure(report=sender.send))


def run_grid(
    measure: Callable[..., Result],
    units: Sequence[tuple[Cell, Sequence[Form]]],
    deadline: float,
    *,
    apart: bool,
    show: Report,
) -> list[Result]:
    """Measure cells one after the other; rows of those without time say so.

    Args:
        measure: (cell, forms, deadline, report=...) -> result, `measure_cell` without its task.
        units: Cells and their forms.
        deadline: End by `time.time`.
        apart: Whether each cell gets a separate process.
        show: Called with each result.
    """

    def one(cell: Cell, forms: Sequence[Form], until: float) -> Result:
        blank = cell._asdict() | {"rows": [new_row(form, cell) for form in forms]}
        if time.time() >= until:
            return blank
        if not apart:
            return measure(cell, forms, until)
        return in_own_process(partial(measure, cell, forms, until), until, blank)

    results = []
    for number, (cell, forms) in enumerate(units):
        now = time.time()
        # The remaining time is divided equally, unless that is too little for any cell.
        seconds = max(MIN_CELL_SECONDS, (deadline - now) / (len(units) - number))
        until = min(deadline, now + seconds)
        result = one(cell, forms, until)
        if apart and len(forms) > 1:
            for i, form in enumerate(forms):
                if result["rows"][i]["status"] == NO_MEMORY and time.time() < until:
                    result["rows"][i] = one(cell, [form], until)["rows"][0] | {"alone": True}
        results.append(result)
        show(result)
    return results
