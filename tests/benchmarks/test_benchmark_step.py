"""Benchmarks run with few packages installed, and count and report correctly."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from benchmarks import grid, results, trace  # noqa: E402
from benchmarks.floor import floor_of  # noqa: E402
from benchmarks.forms import parse_form, parse_forms, resolve  # noqa: E402
from benchmarks.grid import Cell  # noqa: E402
from benchmarks.train_step import parse_arguments  # noqa: E402
from benchmarks.translate import Translations  # noqa: E402
from benchmarks.updates import Updates  # noqa: E402
from benchmarks.work import Operation, count_operations  # noqa: E402
from configs.default import get_config  # noqa: E402
from tests.benchmark_stand_ins import OURS, TORCH  # noqa: E402

ROOT = Path(__file__).parents[2]
BLOCKED = ("tensorflow", "tensorflow_datasets", "clu", "grain", "ml_collections", "tensorboard")
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED}))\n"
TINY = ["--width=1", "--rounds=1"]


def run_blocked(program: str, *arguments: str) -> str:
    """Run a program that finds neither TensorFlow nor ml_collections; return its output."""
    command = [sys.executable, "-c", BLOCK + program, *arguments]
    # Threads that wait for each other are slow on shared cores.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout


def check_printed(printed: str, path: Path, forms: list[str]) -> None:
    """Assert that the file has the forms, and that table and ratio have the file's medians."""
    written = json.loads(path.read_text())
    assert [row["form"] for row in written["rows"]] == forms
    for row in written["rows"]:
        assert row["status"] == "ok"
        assert f" {row['milliseconds']:.2f} " in printed
    medians = {row["form"]: row["milliseconds"] for row in written["rows"]}
    (ratio,) = written["ratios"]
    expected = medians[forms[0]] / medians["torch_float32"]
    assert ratio["ratio"] == pytest.approx(expected)
    assert f"{expected:.3f} of the medians" in printed


def test_updates_run_where_only_jax_and_torch_are_installed(tmp_path):
    """The smallest networks are measured, ours with two updates at a time."""
    path = tmp_path / "results.json"
    arguments = [*TINY, "--size=16", "--layers=1", "--generator=resnet3", f"--json={path}"]
    program = "from benchmarks.train_step import main; main(sys.argv[1:])"
    forms = ["ours_float32+steps2", "torch_float32"]
    printed = run_blocked(program, *arguments, f"--forms={','.join(forms)}")
    check_printed(printed, path, forms)


def test_translations_run_where_only_jax_and_torch_are_installed(tmp_path):
    """The smallest networks are measured, also from file to file."""
    path = tmp_path / "results.json"
    arguments = [*TINY, "--size=16", "--variant=resnet3", "--images=3", f"--json={path}"]
    # The test above measures the machine's rate.
    program = """
from benchmarks import grid, translate
grid.matrix_rate = lambda device, precision: 1e9
translate.main(sys.argv[1:])
"""
    printed = run_blocked(program, *arguments)
    check_printed(printed, path, ["ours_float32", "files", "torch_float32"])
    assert "ratio files/ours_float32" in printed


def test_plain_config_is_the_default_configuration():
    """Without ml_collections all fields have the same names and values."""
    program = """
import json
from benchmarks.plain_config import default_config
print(json.dumps(default_config(), default=vars))
"""
    assert json.loads(run_blocked(program)) == json.loads(get_config().to_json())


def test_floor_by_hand():
    """One convolution is bound by its memory traffic, the other by its multiplications."""
    layer = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    image = torch.zeros(2, 3, 8, 8, requires_grad=True)
    forward, backward = count_operations(lambda: layer(image).sum().backward())
    places, numbers = 2 * 8 * 8, 2 * 3 * 64 + 4 * 3 * 9 + 2 * 4 * 64
    assert forward == (2 * places * 9 * 3 * 4, numbers)
    # It reads the image, the kernel and the output's gradient, and writes the other gradients.
    assert backward == (2 * forward.flops, 2 * numbers - 2 * 4 * 64)
    operations = [Operation(flops=1000, elements=1), Operation(flops=10, elements=100)]
    bound = floor_of(operations, parameters=5, bytes_each=2, rate=1000.0, bandwidth=100.0)
    assert bound["products"] == pytest.approx(1010)
    assert bound["bytes"] == pytest.approx(20 + 2000 + 1400)
    assert bound["milliseconds"] == pytest.approx(1000 + 2000 + 1400)


def test_flops_are_those_of_the_layers():
    """Counts equal a sum over layers, for resnet3 of width 4 and a one-layer PatchGAN."""
    size = 32
    # Multiply-adds forward: window x channels in x channels out x positions; a transposed
    # convolution has its window at every position of its input.
    full, half, quarter = size**2, (size // 2) ** 2, (size // 4) ** 2
    stem, head = 49 * 3 * 4 * full, 49 * 4 * 3 * full
    middle = (
        9 * 4 * 8 * half
        + 9 * 8 * 16 * quarter
        + 6 * 9 * 16 * 16 * quarter
        + 9 * 16 * 8 * quarter
        + 9 * 8 * 4 * half
    )
    first = 16 * 3 * 4 * (size // 2) ** 2
    rest = 16 * 4 * 8 * (size // 2 - 1) ** 2 + 16 * 8 * 1 * (size // 2 - 2) ** 2
    # A backward pass costs a forward pass for the weights and one for the inputs. Real images need
    # no gradient, and neither do discriminators' weights in the generators' update.
    generators = 6 * 3 * (stem + middle + head) - 4 * stem
    scores = 2 * 2 * (first + rest)
    discriminators = 4 * (3 * (first + rest) - first)
    updates = Updates(width=4, layers=1, generator="resnet3")
    expected = 2 * (generators + scores + discriminators)
    assert updates.flops(Cell(size, 1)) == expected
    assert updates.flops(Cell(size, 3)) == 3 * expected
    translations = Translations("cpu", 1, "resnet3", 4, 1, None, None)
    assert translations.flops(Cell(size, 2)) == 2 * 2 * (stem + middle + head)


def test_statistics_by_hand():
    """Eight images take 2 s for 6 TFLOP, on a machine with 12 TFLOP/s."""
    assert results.statistics_of([4.0, 2.0, 1.0], 8, 6 * 10**12, 12e12) == {
        "milliseconds": 2000.0,
        "low": 1000.0,
        "high": 4000.0,
        "images_per_second": 4.0,
        "tflops": 3.0,
        "of_peak": 0.25,
    }


def example_results() -> list[grid.Result]:
    """Return results of two processes, the second with a higher peak rate."""

    def row(form, batch, seconds):
        status = "ok" if seconds else "out of memory"
        values = {"size": 8, "batch": batch, "form": form, "precision": "float32"}
        return values | {"status": status, "seconds": seconds}

    first = [
        row("ours_float32", 1, [1.0, 2.0, 3.0]),
        row("torch_float32", 1, [4.0, 4.0, 4.0]),
        row("torch_tf32", 1, [2.0, 4.0, 2.0]),
    ]
    second = [row("ours_float32", 4, [8.0]), row("torch_float32", 4, [])]
    return [
        {"images": 2, "flops": 2 * 10**12, "peaks": {"float32": 1e12}, "rows": first},
        {"images": 8, "flops": 8 * 10**12, "peaks": {"float32": 2e12}, "rows": second},
    ]


def test_the_file_agrees_with_the_table(tmp_path, capsys):
    """All numbers of the file are in the table; peaks are the best of all processes."""
    path = tmp_path / "new" / "results.json"
    results.finish(example_results(), path)
    printed = capsys.readouterr().out
    written = json.loads(path.read_text())
    assert [row.get("of_peak") for row in written["rows"]] == [0.5, 0.25, 0.5, 0.5, None]
    lines = printed.strip().splitlines()[1:]
    for row, line in zip(written["rows"], lines, strict=False):
        for key, (_, style) in results.COLUMNS.items():
            assert row.get(key) is None or format(row[key], style) in line
    assert "2 TFLOP/s in a float32 matrix product" in printed
    assert written["peak_tflops"] == {"float32": 2.0}


def test_ratios_are_to_the_fastest_of_the_same_cell():
    """Medians give 2/2, rounds 1/2, 2/4 and 3/2; cells without a PyTorch time give none."""
    (ratio,) = results.ratios_to_torch(
        [row for result in example_results() for row in result["rows"]]
    )
    assert (ratio["form"], ratio["against"]) == ("ours_float32", "torch_tf32")
    assert (ratio["ratio"], ratio["low"], ratio["high"]) == (1.0, 0.5, 1.5)


def test_options_of_a_form_are_set_in_the_configuration():
    """Only ours have options; without a number there is a micro-batch per pair."""
    form = parse_form("ours_bfloat16+steps8+micro+remat")
    config = Updates().config(Cell(64, 4), form)
    assert (config.precision, config.batch_size, config.micro_batches) == ("bfloat16", 4, 4)
    assert config.generator.remat and config.steps_per_dispatch == 8
    assert config.kernels == "xla"
    assert Updates().config(Cell(64, 4), parse_form("ours_float32+triton")).kernels == "triton"
    config = Updates().config(Cell(64, 4), TORCH)
    assert (config.micro_batches, config.generator.remat) == (None, False)


def test_names_of_forms():
    """Names are parsed, "fastest" is resolved, and unknown names are refused."""
    form = parse_form("ours_bfloat16+steps8+micro+remat")
    assert (form.precision, form.steps, form.micro_batches, form.remat) == ("bfloat16", 8, 0, True)
    assert OURS.multiplied_in("gpu") == "tf32" and OURS.multiplied_in("cpu") == "float32"
    slow, fast, ours = parse_forms("torch_tf32,torch_bfloat16+channels_last,ours_bfloat16")
    compiled = parse_form("torch_compile")
    fastest = resolve(compiled, {slow: 2.0, fast: 1.0, ours: 0.5})
    assert (fastest.precision, fastest.channels_last, fastest.compiled) == ("bfloat16", True, True)
    assert resolve(compiled, {slow: 2.0, ours: 0.5}).precision == "tf32"
    assert resolve(fast, {slow: 1.0}) == fast
    for name in ("theirs", "torch_tf32+remat", "ours_float32+steps", "ours_float32+compile"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_form(name)


def test_the_command_line_adds_forms():
    """Forms with several steps per dispatch are added, and with --memory those that save it."""
    args = parse_arguments(["--steps-per-dispatch=4"])
    names = [form.name for form in args.forms]
    theirs = ["torch_float32", "torch_float32+channels_last", "torch_bfloat16"]
    assert names == ["ours_float32", *theirs, "ours_float32+steps4"]
    args = parse_arguments(["--memory", "--sizes=8,16"])
    assert args.sizes == [8, 16]
    assert [form.name for form in args.forms][1:4] == [
        "ours_float32+remat",
        "ours_float32+micro",
        "ours_float32+micro+remat",
    ]


def test_kernels_are_summed_by_name():
    """In two calls of 10 ms, streams overlap for 1 ms, and 3 ms are idle."""
    ms = 1e6
    events = [
        trace.Event("product", "conv.1", 0, 8 * ms),
        trace.Event("sum", "fusion", 7 * ms, 2 * ms),
        trace.Event("product", "conv.2", 12 * ms, 6 * ms),
        trace.Event("copy", "", 18 * ms, 2 * ms),
    ]
    summary = trace.summarise(events, calls=2, count=2)
    assert (summary["milliseconds"], summary["busy"]) == (10.0, 17 / 20)
    product, other = summary["kernels"]
    assert product["name"] == "product" and product["operation"] == "conv.1"
    assert (product["milliseconds"], product["calls"]) == (7.0, 1.0)
    assert product["fraction"] == pytest.approx(14 / 18)
    assert other["milliseconds"] == 1.0
    assert trace.summarise([], 1, 10)["kernels"] == []


def test_kernels_of_one_gpu_are_read_from_its_streams():
    """Host events, aggregates and other devices are ignored; a CPU has operations."""

    def event(name, **stats):
        return SimpleNamespace(name=name, stats=stats.items(), start_ns=0.0, duration_ns=1.0)

    def plane(name, **lines):
        lines = [SimpleNamespace(name=n, events=events) for n, events in lines.items()]
        return SimpleNamespace(name=name, lines=lines)

    host = plane("/host:CPU", tf_XLA=[event("dot", hlo_op="dot.1"), event("wait")])
    gpus = [
        plane(f"/device:GPU:{i}", Stream_13=[event(f"kernel{i}")], Steps=[event("0")])
        for i in (1, 0)
    ]

    def names(*planes):
        return [e.name for e in trace.read_events(SimpleNamespace(planes=planes))]

    assert names(host, *gpus) == ["kernel0"]
    assert names(host) == ["dot"]
