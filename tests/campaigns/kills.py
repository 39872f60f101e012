"""SIGKILL at random moments of one run, which must end in the bits of an uninterrupted one.

    python -m tests.campaigns.kills --trials 100

A run is started and killed again and again, from its first import to its last update; checkpoints
are written every second update, so that most kills find one being written. When a run completes
before all kills are done, the next one begins. Final states and all samples are compared.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.campaigns import harness, runs

FIELDS = {
    "num_steps": 400,
    "checkpoint_every_steps": 2,
    "sample_every_steps": 50,
    "evaluate_every_steps": 50,
    "evaluation.best": "mean_iou",
    "backup_every_steps": 100,
    "log_every_steps": 10,
}


def campaign(args: argparse.Namespace) -> Iterator[harness.Outcome]:
    """Kill runs until there were enough kills, then complete the last one."""
    rng = np.random.default_rng(args.seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        expected = folder / "uninterrupted"
        began = time.monotonic()
        if runs.start(expected, fields=FIELDS).wait() != 0:
            raise RuntimeError(runs.log_of(expected))
        longest = time.monotonic() - began
        kills, number, workdir = 0, 0, folder / "run_0"
        while True:
            last = kills == args.trials
            began = time.monotonic()
            process = runs.start(workdir, fields=FIELDS)
            # Half of the kills fall on the start, where little is compiled anew.
            wait = None if last else rng.uniform(0, 0.5 * longest)
            ended = wait_for(process, wait)
            if not ended:
                process.kill()
                process.wait()
                kills += 1
                yield outcome(workdir, None, "killed", began)
                continue
            yield outcome(workdir, expected, f"completed, exit code {process.returncode}", began)
            if last:
                return
            number += 1
            workdir = folder / f"run_{number}"


def wait_for(process, seconds: float | None) -> bool:
    """Return whether a process ended within some seconds."""
    try:
        process.wait(seconds)
    except runs.subprocess.TimeoutExpired:
        return False
    return True


def outcome(workdir: Path, expected: Path | None, detail: str, began: float) -> harness.Outcome:
    """Return the outcome of a start, after a comparison if the run is complete."""
    seconds = time.monotonic() - began
    try:
        runs.check_log(workdir)
        if expected is not None:
            if "exit code 0" not in detail:
                raise harness.WrongResultError(f"{detail}: {runs.log_of(workdir)[-2000:]}")
            runs.compare(workdir, expected)
    except harness.WrongResultError as error:
        return harness.Outcome("wrong result", str(error), seconds)
    return harness.Outcome("completed", detail, seconds)


if __name__ == "__main__":
    harness.main(__doc__, campaign, trials=100)
