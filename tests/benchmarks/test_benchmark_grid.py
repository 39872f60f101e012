"""Grids of benchmarks keep their deadline, and isolate failures."""

import time
from functools import partial
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from benchmarks import grid, machine, results, trace  # noqa: E402
from benchmarks.grid import Cell  # noqa: E402
from tests import benchmark_stand_ins as stand_ins  # noqa: E402
from tests.benchmark_stand_ins import OURS, OURS16, TORCH  # noqa: E402


@pytest.fixture
def clock(monkeypatch):
    """Time for `grid` that only stand-ins spend, on a machine with 5 FLOP/s."""
    clock = stand_ins.Clock()
    monkeypatch.setattr(
        grid, "time", SimpleNamespace(time=clock, perf_counter=clock, process_time=clock)
    )
    monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(grid, "matrix_rate", lambda device, precision: 5.0)
    monkeypatch.setattr(grid, "describe_machine", lambda: "a machine")
    return clock


def test_times_are_of_one_batch(clock):
    """Times are per batch, for a form with four batches per call, and for one timed in groups."""
    task = stand_ins.Task(
        clock, {"ours_float32": 2.0, "torch_float32": 0.125}, batches={"ours_float32": 4}
    )
    result = grid.measure_cell(task, Cell(8, 2), [OURS, TORCH], deadline=1e9)
    assert [row["seconds"] for row in result["rows"]] == [[0.5] * 3, [0.125] * 3]
    assert [row["memory_gib"] for row in result["rows"]] == [1.0, 1.0]
    assert result["peaks"] == {"float32": 5.0}
    assert (result["images"], result["flops"]) == (4, 2000)


def test_nothing_starts_after_the_deadline(clock):
    """A form that is being built is timed at least once; later forms and cells are skipped."""
    task = stand_ins.Task(clock, {"ours_float32": 1.0, "torch_float32": 1.0}, building=100.0)
    measure = partial(grid.measure_cell, task)
    units = [(Cell(8, batch), [OURS, TORCH]) for batch in (1, 2)]
    found = grid.run_grid(measure, units, 100.0, apart=False, show=lambda result: None)
    statuses = [[row["status"] for row in result["rows"]] for result in found]
    assert statuses == [["ok", "no time"], ["no time", "no time"]]
    assert found[0]["rows"][0]["seconds"] == [1.0]
    rows = results.complete_rows(found)
    assert "images_per_second" in rows[0] and "images_per_second" not in rows[3]


def test_on_a_gpu_forms_are_timed_again_while_others_are_built(clock):
    """Timings stay comparable if compilation takes the time of the rounds."""

    class Slowing(stand_ins.Task):
        device = "gpu"
        rounds = 0

        def prepare(self, form, cell, seconds):
            if form is TORCH:
                self.seconds = {name: 2 * each for name, each in self.seconds.items()}
            return super().prepare(form, cell, seconds)

    task = Slowing(clock, {"ours_float32": 2.0, "torch_float32": 1.0})
    rows = grid.measure_cell(task, Cell(8, 1), [OURS, TORCH], deadline=1e9)["rows"]
    assert [row["seconds"] for row in rows] == [[4.0], [2.0]]


def test_timings_survive_a_profiler_that_fails(clock, monkeypatch, tmp_path):
    """Only the profile is missing."""

    def fail(*_, **__):
        raise RuntimeError("no counters")

    monkeypatch.setattr(trace, "busiest_kernels", fail)
    task = stand_ins.Task(clock, {"ours_float32": 2.0})
    found = grid.measure_cell(task, Cell(8, 1), [OURS], deadline=1e9, profile=tmp_path)
    assert found["profiles"] == {}
    assert [(row["status"], row["seconds"]) for row in found["rows"]] == [("ok", [2.0] * 3)]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_a_form_without_memory_does_not_affect_others(clock, error):
    """Python's error, JAX's and both of PyTorch's are recognised."""
    errors = {"ours_float32": error}
    task = stand_ins.Task(clock, {"torch_float32": 1.0}, errors)
    rows = grid.measure_cell(task, Cell(8, 1), [OURS, TORCH], deadline=1e9)["rows"]
    assert [row["status"] for row in rows] == ["out of memory", "ok"]


def test_other_errors_are_reported_and_exit_with_1(clock, capsys):
    """The row has the first line of the error, and standard error all of it."""
    errors = {"ours_float32": ValueError("wrong\nshape")}
    task = stand_ins.Task(clock, {"torch_float32": 1.0}, errors)
    rows = grid.measure_cell(task, Cell(8, 1), [OURS, TORCH], deadline=1e9)["rows"]
    assert [row["status"] for row in rows] == ["failed: ValueError: wrong", "ok"]
    assert "shape" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        results.leave(rows)


def test_a_form_without_memory_is_tried_again_alone(clock, monkeypatch):
    """It gets a separate process with all of the memory."""
    monkeypatch.setattr(grid, "in_own_process", lambda measure, deadline, blank: measure())

    def measure(cell, forms, deadline):
        crowded = len(forms) > 1
        rows = [
            stand_ins.row(f.name, "out of memory" if crowded and f.is_ours else "ok") for f in forms
        ]
        return {"rows": rows}

    def statuses(apart):
        units = [(Cell(8, 1), [OURS, TORCH])]
        (found,) = grid.run_grid(measure, units, 1e9, apart=apart, show=lambda result: None)
        return [(row["status"], row.get("alone", False)) for row in found["rows"]]

    assert statuses(apart=True) == [("ok", True), ("ok", False)]
    assert statuses(apart=False) == [("out of memory", False), ("ok", False)]


def test_processes_that_end_early_leave_their_last_report():
    """One succeeds, one exceeds the deadline, one is killed, and one crashes."""

    def statuses(work, seconds):
        blank = {"rows": [stand_ins.row("ours_float32", "no time")]}
        result = grid.in_own_process(work, time.time() + seconds, blank, grace=0.0)
        return [row["status"] for row in result["rows"]]

    assert statuses(stand_ins.ends_well, 60) == ["ok"]
    assert statuses(stand_ins.runs_on, 5) in (["ok", "no time"], ["no time"])
    assert statuses(stand_ins.is_killed, 60) == ["ok", "out of memory"]
    assert statuses(stand_ins.crashes, 60) == ["ok", "failed: the process exited with 3"]


def test_cells_divide_the_time_and_reserve_some_for_rounds(clock):
    """Of 700 s each of two cells gets 350, of which 262 suffice to build two forms, not three."""
    task = stand_ins.Task(clock, dict.fromkeys(("ours_float32", "torch_float32"), 1.0))
    task.building = 150.0
    units = [(Cell(8, batch), [OURS, TORCH, OURS16]) for batch in (1, 2)]
    measure = partial(grid.measure_cell, task)
    found = grid.run_grid(measure, units, 700.0, apart=False, show=lambda result: None)
    for result in found:
        assert [len(row["seconds"]) for row in result["rows"]] == [3, 3, 0]
        assert [row["status"] for row in result["rows"]] == ["ok", "ok", "no time"]
