"""Two processes that train together, of which one is killed, stopped or loses its disk.

    python -m tests.campaigns.processes --trials 20

Needs a C compiler. At a random moment one of the two is killed, stopped (SIGSTOP), or no longer
able to write into the work directory. The other must end within a minute with a line that begins
with `error:`, or that of JAX about another task. Then both are started again, and the run must
complete in the bits of an undisturbed one.
"""

import argparse
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.campaigns import harness, runs, writes

FIELDS = {
    "num_steps": 200,
    "batch_size": 2,
    "checkpoint_every_steps": 5,
    "sample_every_steps": 50,
    "log_every_steps": 10,
}
SECONDS = 300
MINUTE = 60


def start_both(workdir: Path, environments: tuple[dict, dict]) -> list[subprocess.Popen]:
    """Start two processes, each with a log of its own beside the work directory."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return [
        runs.start(
            workdir,
            f"--coordinator=127.0.0.1:{port}",
            "--num_processes=2",
            f"--process_id={number}",
            fields=FIELDS,
            environment=environments[number],
        )
        for number in range(2)
    ]


def campaign(args: argparse.Namespace) -> Iterator[harness.Outcome]:
    """Disturb runs."""
    rng = np.random.default_rng(args.seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        library = writes.build_library(folder)
        expected = folder / "undisturbed"
        began = time.monotonic()
        for process in start_both(expected, ({}, {})):
            if process.wait(SECONDS) != 0:
                raise RuntimeError(runs.log_of(expected))
        longest = time.monotonic() - began
        for number in range(args.trials):
            workdir = folder / f"run_{number}"
            victim = int(rng.integers(2))
            way = ("killed", "stopped", "disk lost")[int(rng.integers(3))]
            wait = float(rng.uniform(0.3, 1.0)) * longest
            what = f"process {victim} {way} after {wait:.0f} s"
            began = time.monotonic()
            try:
                detail = disturbed(workdir, expected, victim, way, wait, library)
            except harness.WrongResultError as error:
                yield harness.Outcome("wrong result", f"{what}: {error}", time.monotonic() - began)
            else:
                yield harness.Outcome("completed", f"{what}: {detail}", time.monotonic() - began)


def disturbed(
    workdir: Path, expected: Path, victim: int, way: str, wait: float, library: Path
) -> str:
    """Disturb one of two processes, then complete the run; return how the other one ended."""
    environments: tuple[dict, dict] = ({}, {})
    if way == "disk lost":
        at = {"FAIL_AT": str(int(10 * wait)), "FAIL_ALWAYS": "1"}
        environments[victim].update(LD_PRELOAD=str(library), FAIL_BELOW=f"{workdir}/", **at)
    processes = start_both(workdir, environments)
    other = processes[1 - victim]
    if way != "disk lost":
        try:
            other.wait(wait)
        except subprocess.TimeoutExpired:
            processes[victim].send_signal(signal.SIGKILL if way == "killed" else signal.SIGSTOP)
    else:
        processes[victim].wait(SECONDS)
    began = time.monotonic()
    try:
        code = other.wait(MINUTE)
    except subprocess.TimeoutExpired:
        raise harness.WrongResultError(
            f"the other process has not ended after a minute: {runs.log_of(workdir)[-1500:]}"
        ) from None
    finally:
        for process in processes:
            process.kill()
            process.wait()
    seconds = time.monotonic() - began
    lines = runs.errors(workdir) + re.findall("Terminating process.*", runs.log_of(workdir))
    if code != 0 and not lines:
        raise harness.WrongResultError(f"no line: {runs.log_of(workdir)[-2500:]}")
    workdir.with_suffix(".log").unlink()
    for process in start_both(workdir, ({}, {})):
        if process.wait(SECONDS) != 0:
            raise harness.WrongResultError(f"cannot be resumed: {runs.log_of(workdir)[-2000:]}")
    runs.check_log(workdir)
    runs.compare(workdir, expected)
    return f"exit code {code} after {seconds:.0f} s: {' | '.join(sorted(set(lines)))[:300]}"


if __name__ == "__main__":
    harness.main(__doc__, campaign, trials=20)
