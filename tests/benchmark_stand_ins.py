"""Stand-ins for networks, to test the bookkeeping of the benchmarks."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from benchmarks.forms import Form, parse_forms
from benchmarks.grid import Cell, Prepared

OURS, TORCH, OURS16 = parse_forms("ours_float32,torch_float32,ours_bfloat16")


class Clock:
    """Time that passes only when a task spends it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Task:
    """Forms whose calls take given seconds, or fail with given errors."""

    device = "cpu"
    rounds = 3

    def __init__(
        self,
        clock: Clock,
        seconds: dict[str, float],
        errors: dict[str, Exception] | None = None,
        batches: dict[str, int] | None = None,
        building: float = 0.0,
    ) -> None:
        self.clock, self.seconds, self.building = clock, seconds, building
        self.errors, self.batches = errors or {}, batches or {}

    def images_in(self, cell: Cell) -> int:
        """Return two images per pair."""
        return 2 * cell.batch

    def flops(self, cell: Cell) -> int:
        """Return a number of operations."""
        return 1000 * cell.batch

    def prepare(self, form: Form, cell: Cell, seconds: dict[Form, float]) -> Prepared:
        """Spend the time to build a form."""
        self.clock.now += self.building

        def run(calls: int) -> None:
            if form.name in self.errors:
                raise self.errors[form.name]
            self.clock.now += calls * self.seconds[form.name]

        return Prepared(run, form.precision, self.batches.get(form.name, 1), lambda: 2**30)


def row(form: str, status: str) -> dict[str, Any]:
    return {"size": 8, "batch": 1, "form": form, "status": status, "seconds": [1.0]}


def ends_well(report: Callable[[Any], None]) -> Any:
    return {"rows": [row("ours_float32", "ok")]}


def _half(report: Callable[[Any], None]) -> None:
    report({"rows": [row("ours_float32", "ok"), row("torch_float32", "no time")]})


def runs_on(report: Callable[[Any], None]) -> Any:
    _half(report)
    time.sleep(60)


def is_killed(report: Callable[[Any], None]) -> Any:
    _half(report)
    os.kill(os.getpid(), signal.SIGKILL)


def crashes(report: Callable[[Any], None]) -> Any:
    _half(report)
    os._exit(3)
