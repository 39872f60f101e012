"""Times several forms of one computation at several sizes and batches, in turns.

All forms of a cell, a size with a batch, are timed in one process in alternating rounds, so that
whatever else the machine does meets all alike. Several cells have a process each: it gives its
memory back, and what goes wrong in it costs no other cell. A form that does not fit into memory
beside the others is tried once more alone.
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

# Seconds that a process may run past the time given, in a compiler most likely.
GRACE = 45.0
# Seconds that a cell is given, if they are there: compiling takes most of them.
LEAST_SHARE = 180.0
NO_MEMORY, NO_TIME = "out of memory", "no time"

Result = dict[str, Any]
Report = Callable[[Result], None]


class Cell(NamedTuple):
    """Pixels of a side, and pairs or images at a time."""

    size: int
    batch: int


@dataclass
class Prepared:
    """A form, ready to be timed.

    Attributes:
        run: what is timed.
        precision: in which it multiplies, as `matrix_rate` names it.
        batches: how many of the cell's batches one call of it does.
        memory: bytes of the device that it needs at its peak, if that is known; may run it.
    """

    run: Run
    precision: str
    batches: float = 1
    memory: Callable[[], int | None] = lambda: None


class Task(Protocol):
    """What is measured; it goes to other processes."""

    @property
    def device(self) -> str:
        """Where: cpu or gpu."""

    @property
    def rounds(self) -> int:
        """How often each form is timed."""

    def images_in(self, cell: Cell) -> int:
        """How many images a batch has."""

    def flops(self, cell: Cell) -> int:
        """Floating-point operations of a batch, as published."""

    def prepare(self, form: Form, cell: Cell, seconds: dict[Form, float]) -> Prepared:
        """Builds a form, given what a batch took those before it."""


def measure_cell(
    task: Task,
    cell: Cell,
    forms: Sequence[Form],
    deadline: float,
    report: Report = lambda result: None,
    profile: Path | None = None,
) -> Result:
    """Prepares all forms, then times them in rounds until all are done or time is up.

    Args:
        task: of which these are forms.
        cell: size and batch.
        forms: in the order in which they are prepared.
        deadline: by `time.time`; what has begun by then is finished, and the last quarter of the
            time is kept for the rounds.
        report: is given the result so far, now and then.
        profile: folder for traces of our forms, and so whether any are made.

    Returns:
        {size, batch, machine, images, flops, peaks, rows, profiles}: all plain values. A row has
        the form, its precision, status, and `seconds`, of one batch in every round.
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
        # The first few may still try out algorithms and record graphs.
        start, calls = time.perf_counter(), 1
        while calls < 3 and time.perf_counter() - start < 2:
            ready.run(1)
            calls += 1
        memory = ready.memory()
        row["memory_gib"] = None if memory is None else memory / GIB
        each = seconds_each(ready.run, 1)
        # Should time be up before the first round, this is better than nothing.
        seconds[form] = each / ready.batches
        row |= {"status": "ok", "seconds": [seconds[form]]}
        # Short ones are timed many in a row.
        prepared[form] = ready, max(1, min(100, round(1.0 / each)))

    def time_once(form: Form, number: int) -> None:
        ready, calls = prepared[form]
        # While others ran, the system may have taken back memory that this one had let go (a
        # virtual machine even gives it to its host). In training that does not happen.
        ready.run(1)
        measured = seconds_each(ready.run, calls) / ready.batches
        rows[form]["seconds"] = [*(rows[form]["seconds"] if number else []), measured]

    def measure_peaks() -> None:
        for precision in {ready.precision for ready, _ in prepared.values()}:
            rate = matrix_rate(task.device, precision)
            result["peaks"][precision] = max(rate, result["peaks"].get(precision, 0.0))

    begin = time.time()
    for form in forms:
        # A quarter is left for the rounds.
        if time.time() < begin + 0.75 * (deadline - begin):
            attempt(form, partial(prepare, form))
        if form in prepared and prepared[form][0].precision not in result["peaks"]:
            measure_peaks()
        if task.device == "gpu":
            # In turns, should a compiler take the time of the rounds; on a CPU none does.
            for ready in list(prepared):
                attempt(ready, partial(time_once, ready, 0))
        result["machine"] = describe_machine()
        report(result)
    for number in range(task.rounds):
        # Each form is as often among the first.
        for form in list(prepared) if number % 2 == 0 else reversed(list(prepared)):
            if time.time() < deadline:
                attempt(form, partial(time_once, form, number))
        # Anything beside us slows this down too, hence the best of all rounds.
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
                except Exception as error:  # its timings are good all the same
                    print(f"no profile of {form.name}: {describe_failure(error)}", flush=True)
                else:
                    result["profiles"][form.name] = traced
    report(result)
    return result


def new_row(form: Form, cell: Cell) -> Result:
    """A form that nothing is known about yet."""
    return cell._asdict() | {
        "form": form.name,
        "precision": form.precision,
        "status": NO_TIME,
        "seconds": [],
    }


def describe_failure(error: Exception) -> str:
    """What a row says of it; all of it goes to the standard error output."""
    if lacks_memory(error):
        return NO_MEMORY
    traceback.print_exception(error)
    lines = str(error).splitlines() or [""]
    return f"failed: {type(error).__name__}: {lines[0][:200]}"


def release_memory() -> None:
    """Lets go of what a form that failed had."""
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def in_own_process(
    measure: Callable[..., Result], deadline: float, blank: Result, grace: float = GRACE
) -> Result:
    """What `measure` gives in a process of its own, or had reported when that came to its end.

    Args:
        measure: takes `report`.
        deadline: by `time.time`; the process is killed that much later.
        blank: the result where nothing was reported.
        grace: seconds after the deadline.
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
        if process.exitcode == -9:  # how Linux answers where memory ends
            status = NO_MEMORY
        elif process.exitcode:
            status = f"failed: the process ended with {process.exitcode}"
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
    """Measures one after the other until time is up; the others' rows say that there was none.

    Args:
        measure: (cell, forms, deadline, report=...) -> a result, as `measure_cell` without its
            task.
        units: what to measure.
        deadline: by `time.time`.
        apart: in processes of their own.
        show: is given each result.
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
        # Time that a unit leaves is the others'; too little for anything is not handed out.
        share = max(LEAST_SHARE, (deadline - now) / (len(units) - number))
        until = min(deadline, now + share)
        result = one(cell, forms, until)
        if apart and len(forms) > 1:
            for i, form in enumerate(forms):
                if result["rows"][i]["status"] == NO_MEMORY and time.time() < until:
                    result["rows"][i] = one(cell, [form], until)["rows"][0] | {"alone": True}
        results.append(result)
        show(result)
    return results
